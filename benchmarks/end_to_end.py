"""A real pretraining run, loader and log included, beside its step alone."""

import pathlib
import statistics
import time
from typing import Any

import jax

from benchmarks.data_steps import step_seconds
from benchmarks.measure import Findings
from benchmarks.run_command import bert_jax_lines
from benchmarks.run_settings import RunSettings
from bert_jax.config import DataConfig, LoopConfig, OptimizerConfig, PretrainConfig
from bert_jax.config_json import to_json
from bert_jax.family import model_config
from bert_jax.runtime.compile_cache import use_compile_cache
from bert_jax.train.mesh import make_mesh
from bert_jax.train.metrics import read_metrics
from bert_jax.train.program import pretrain_program

# Size of the model and rows of a batch, T=128, packed.
_MODELS = {"cpu": ("mini", 32), "gpu": ("base", 256), "tpu": ("base", 64)}
_LENGTH = 128
_ALONE_STEPS = 6
_LOG_EVERY_STEPS = 5
_MOST_STEPS = 100
_CONFIG_FILE = """from bert_jax.config import PretrainConfig
from bert_jax.config_json import from_json


def get_config() -> PretrainConfig:
    return from_json(PretrainConfig, r'''{json}''')
"""


def train_end_to_end(settings: RunSettings, findings: Findings) -> None:
    """Times the step alone on one batch, then the run that has it."""
    try:
        from benchmarks.run_dataset import small_dataset
        from bert_jax.data.batches.rows import open_rows
    except ImportError as error:
        findings.left_out("the loader", f"{error}; pip install -e .")
        return
    started = time.perf_counter()
    dataset = small_dataset(settings.workdir)
    findings.figure(
        "corpus, vocabulary and dataset, made", "s", time.perf_counter() - started
    )
    cache = settings.workdir / "compile-cache"
    # The run's step is the one that was timed alone: it need not be compiled again.
    if settings.platform != "cpu" or len(jax.devices()) == 1:
        use_compile_cache(cache, jax.devices())
    size, rows = _MODELS[settings.platform]
    dtype: Any = "float32" if settings.platform == "cpu" else "bfloat16"
    cfg = PretrainConfig(
        model=model_config(
            size, vocab_size=dataset.tokenizer.vocab_size, compute_dtype=dtype
        ),
        data=DataConfig(dataset=dataset.directory, sequence_length=_LENGTH),
        # Or the number of steps, which is not known yet, were a part of the program.
        optimizer=OptimizerConfig(warmup_steps=1, schedule="constant"),
        loop=LoopConfig(log_every_steps=_LOG_EVERY_STEPS, eval_every_steps=0),
        batch_size=rows,
        num_steps=_MOST_STEPS,
        eval_batches=1,
    )
    batch = open_rows(dataset, "train", cfg.data, seed=cfg.seed).batch(0, rows)
    alone = _step_alone(cfg, batch, dataset.tokenizer.mask_vocabulary)
    what = f"BERT-{size}, T={_LENGTH}, {rows} packed rows, {dtype}"
    findings.figure(f"step alone, {what}", "ms", *(1e3 * secs for secs in alone))

    run = settings.workdir / "end-to-end"
    _run_until_seen(settings, cfg, cache, run)
    windows = [line for line in read_metrics(run) if line["kind"] == "train"]
    seconds = step_seconds(windows)
    if not seconds:
        findings.left_out("the run", "time, two windows of its log were not seen")
        return
    findings.figure(f"step of the run, {what}", "ms", *(1e3 * secs for secs in seconds))
    for rate, unit in (
        ("sequences_per_sec", "sequences/s"),
        ("tokens_per_sec", "real tokens/s"),
    ):
        findings.figure("of the run", unit, *(line[rate] for line in windows[1:]))
    findings.figure(
        "of it waiting for input",
        "%",
        *(100.0 * line["input_wait_share"] for line in windows[1:]),
    )
    findings.figure(
        "step alone / step of the run",
        "%",
        100.0 * statistics.median(alone) / statistics.median(seconds),
        note="medians; what the loader, the log and the copies to the device cost",
    )


def _run_until_seen(
    settings: RunSettings, cfg: PretrainConfig, cache: pathlib.Path, run: pathlib.Path
) -> None:
    """Starts the command with these settings, and ends it after enough of its steps."""
    config = settings.workdir / "end_to_end_config.py"
    config.write_text(_CONFIG_FILE.format(json=to_json(cfg)))
    arguments = (
        *("pretrain", "--config", str(config), "--workdir", str(run)),
        *("--compile-cache", str(cache)),
    )
    windows = 0
    with bert_jax_lines(arguments, settings.seconds_left) as lines:
        for line in lines:
            windows += line.startswith("step")
            if windows * _LOG_EVERY_STEPS >= _MOST_STEPS:
                return


def _step_alone(cfg: PretrainConfig, batch: Any, vocabulary: Any) -> list[float]:
    """Seconds of each of some steps on one batch, compiled before."""
    program = pretrain_program(cfg, make_mesh(cfg.mesh), vocabulary)
    step = program.step.lower(program.state, program.batch).compile()
    state = program.make_state()
    placed = jax.tree.map(
        lambda x, like: jax.device_put(x, like.sharding), batch, program.batch
    )
    seconds = []
    for _ in range(_ALONE_STEPS + 1):
        started = time.perf_counter()
        state, _ = step(state, placed)
        jax.block_until_ready(state)
        seconds.append(time.perf_counter() - started)
    return seconds[1:]
