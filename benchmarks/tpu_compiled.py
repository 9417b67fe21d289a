"""What the compiler says of BERT-large on TPUs, where none is: memory, links, its time."""

import importlib.util

from benchmarks.measure import Findings
from benchmarks.run_settings import RunSettings
from bert_jax.config import DataConfig, OptimizerConfig, PretrainConfig
from bert_jax.family import model_config
from bert_jax.topology.apart import compile_apart

_TOPOLOGY = "v5e:2x2"
_NUM_CHIPS = 4
_ROWS_A_CHIP = 4  # fits with either kernel
_LENGTH = 512
_COMPILE_SECS = 60.0
_FACTOR = 1.5
_OURS, _NAIVE = "ours", "XLA's attention, all logits at once"


def compile_for_tpu(settings: RunSettings, findings: Findings) -> None:
    """Compiles the step as it ships, and as it would be without its kernels."""
    del settings
    if importlib.util.find_spec("libtpu") is None:
        findings.left_out(
            "all of it", "libtpu is not installed; pip install -e '.[aot]'"
        )
        return
    where = f"{_TOPOLOGY}, {_ROWS_A_CHIP} packed rows of {_LENGTH} a chip"
    temporaries = {}
    for name, changes in (
        (_OURS, {"mlm_logits": "chunked"}),
        (_NAIVE, {"attention": "xla"}),
    ):
        cfg = PretrainConfig(
            model=model_config("large", compute_dtype="bfloat16", **changes),
            data=DataConfig(sequence_length=_LENGTH),
            optimizer=OptimizerConfig(warmup_steps=100),
            batch_size=_NUM_CHIPS * _ROWS_A_CHIP,
            num_steps=1_000,
        )
        result = compile_apart(cfg, _TOPOLOGY)
        findings.figure(
            f"compile time, {name}, {where}",
            "s",
            result["compile_secs"],
            at_most=_COMPILE_SECS if name == _OURS else None,
        )
        gathers = sum(
            one["count"] for one in result["collectives"] if one["kind"] == "all-gather"
        )
        findings.figure(
            f"all-gathers in a step, {name}",
            "",
            gathers,
            at_most=0 if name == _OURS else None,
            note="every chip holds the whole state: the layout asks for none",
        )
        size = result["memory"]["temporaries"]
        if size is None:
            findings.left_out(f"temporaries, {name}", "the step does not fit")
            continue
        temporaries[name] = size / _ROWS_A_CHIP / 2**20
        findings.figure(
            f"temporaries a row, {name}",
            "MiB",
            temporaries[name],
            note="activations, and a share of the gradients; a packed row holds two "
            "sequences in the mean",
        )
    if len(temporaries) == 2:
        findings.figure(
            f"temporaries, {_NAIVE} / {_OURS}",
            "x",
            temporaries[_NAIVE] / temporaries[_OURS],
            at_least=_FACTOR,
        )
