"""Configs survive JSON, refuse what cannot work, and say what was wrong."""

import ast
import dataclasses
import json
import math
import pathlib
import re
import runpy
import typing

import numpy as np
import pytest
from varied_configs import varied

from bert_jax import config
from bert_jax.config import (
    ComputeConfig,
    DataConfig,
    DropoutConfig,
    FileConfig,
    FinetuneConfig,
    LoopConfig,
    LoraConfig,
    MaskingConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    PhaseConfig,
    PrepareOptions,
    PretrainConfig,
    SweepConfig,
    TaskConfig,
)
from bert_jax.config_json import checked, from_json, to_json

CONFIGS = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.py"))

CLASSES = [
    x
    for x in vars(config).values()
    if isinstance(x, type) and dataclasses.is_dataclass(x)
]


def assert_exact(settings) -> None:
    again = from_json(type(settings), to_json(settings))
    assert again == settings
    # Equality takes 1 for 1.0 and True for 1; the text does not.
    assert repr(again) == repr(settings)
    assert to_json(again) == to_json(settings)


@pytest.mark.parametrize(
    ("owner", "name"),
    [(owner, field.name) for owner in CLASSES for field in dataclasses.fields(owner)],
    ids=lambda x: x if isinstance(x, str) else x.__name__,
)
def test_json_keeps_every_field(owner, name):
    """With other values than its default, so that a field that is lost is missed."""
    default = owner()
    changed = varied(default, name)
    for made in changed:
        assert getattr(made, name) != getattr(default, name)
        assert_exact(made)
    kind = typing.get_type_hints(owner)[name]
    if typing.get_origin(kind) is typing.Literal:
        assert len(changed) == len(typing.get_args(kind)) - 1
    assert changed


@pytest.mark.parametrize("number", [2.0**-126, 1e-30, 0.1 + 0.2, 1e22, 3.4e38])
def test_json_keeps_every_bit_of_a_number(number):
    assert_exact(OptimizerConfig(learning_rate=number, weight_decay=number))


def test_numbers_of_numpy_are_those_of_python():
    made = PretrainConfig(
        seed=np.int64(3), optimizer=OptimizerConfig(b1=np.float32(0.5))
    )
    assert repr(checked(made, PretrainConfig, "cfg")) == repr(
        PretrainConfig(seed=3, optimizer=OptimizerConfig(b1=0.5))
    )


@pytest.mark.parametrize("text", [" a b ", 'q"\\', "\n\t", "é\u2028😀", "1.5", "null"])
def test_json_keeps_every_character(text):
    task = TaskConfig(train=pathlib.Path(text), text=(text, "b"))
    assert_exact(FinetuneConfig(task=task))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_files_only_build_a_config(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    imports = [x for x in ast.walk(tree) if isinstance(x, ast.Import | ast.ImportFrom)]
    modules = {getattr(node, "module", node.names[0].name) for node in imports}
    assert {"bert_jax.config"} <= modules <= {"bert_jax.config", "bert_jax.family"}
    made = runpy.run_path(str(path))["get_config"]()
    assert isinstance(made, PretrainConfig | FinetuneConfig)
    assert_exact(made)


def test_there_are_config_files():
    assert len(CONFIGS) >= 5


def test_ints_are_floats_where_floats_are_meant():
    optimizer = from_json(
        OptimizerConfig, '{"clip_norm": 2, "warmup_steps": 3, "freeze_layers": 3}'
    )
    assert repr(optimizer.clip_norm) == "2.0"
    assert repr(optimizer.freeze_layers) == "3"
    assert repr(optimizer.warmup_steps) == "3.0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"modle": {}}, "PretrainConfig has no field 'modle'. Did you mean 'model'?"),
        (
            {"model": {"num_layer": 2}},
            "PretrainConfig.model has no field 'num_layer'. Did you mean 'num_layers'?",
        ),
        ({"xyzzy": 1}, "PretrainConfig has no field 'xyzzy'."),
        ({"model": 3}, "PretrainConfig.model: expected an object of fields, got 3."),
        ([], "PretrainConfig: expected an object of fields, got []."),
        ({"seed": "1"}, "PretrainConfig.seed='1' is a str; expected int."),
        ({"seed": True}, "PretrainConfig.seed=True is a bool; expected int."),
        ({"seed": 1.0}, "PretrainConfig.seed=1.0 is a float; expected int."),
        ({"seed": None}, "PretrainConfig.seed=None is a NoneType; expected int."),
        (
            {"optimizer": {"b1": True}},
            "PretrainConfig.optimizer.b1=True is a bool; expected float.",
        ),
        (
            {"compute": {"remat": "none", "scan_layers": 1}},
            "PretrainConfig.compute.scan_layers=1 is a int; expected bool.",
        ),
        (
            {"data": {"bucket_lengths": [8.5]}},
            "PretrainConfig.data.bucket_lengths[0]=8.5 is a float; expected int.",
        ),
        (
            {"model": {"remat": "none"}},
            "PretrainConfig.model has no field 'remat'.",
        ),
        (
            {"model": {"gelu": "erf"}},
            "PretrainConfig.model.gelu='erf' is not one of ('tanh', 'exact').",
        ),
        (
            {"model": {"num_layers": 0}},
            "ModelConfig.num_layers=0 must be greater than 0.",
        ),
    ],
    ids=str,
)
def test_json_that_does_not_fit_is_refused(text, message):
    with pytest.raises(ValueError, match=re.escape(message) + "$"):
        from_json(PretrainConfig, json.dumps(text))


def bad(owner, message: str, **fields):
    return pytest.param(owner, fields, message, id=f"{owner.__name__}-{fields}")


def no_number_below(owner, *names: str):
    """Each must be greater than 0."""
    return [bad(owner, f"{owner.__name__}.{n}=0 must be", **{n: 0}) for n in names]


def no_rate(owner, *names: str):
    return [
        bad(owner, f"{owner.__name__}.{name}={value} {problem}", **{name: value})
        for name in names
        for value, problem in (
            (1.0, "is not in [0, 1)"),
            (-0.25, "is not in [0, 1)"),
            (math.nan, "must be a finite number"),
        )
    ]


REFUSED = [
    *no_number_below(
        ModelConfig,
        "vocab_size",
        "hidden_size",
        "num_layers",
        "num_heads",
        "mlp_size",
        "max_positions",
        "layer_norm_eps",
        "init_std",
        "rope_theta",
        "local_rope_theta",
        "global_every",
        "num_kv_heads",
        "local_window",
        "embed_size",
    ),
    bad(ModelConfig, "num_segments=-1 is negative", num_segments=-1),
    bad(ModelConfig, "local_window=128 and global_every=1 do not", local_window=128),
    bad(ModelConfig, "local_window=None and global_every=3 do not", global_every=3),
    bad(ModelConfig, "rope_theta=1.0 would be ignored: it needs", rope_theta=1.0),
    bad(ModelConfig, "heads 3 wide", hidden_size=36, positions="rotary"),
    bad(ModelConfig, "num_heads=12 must divide evenly by num_kv", num_kv_heads=5),
    bad(ModelConfig, "position_offset=2 would", position_offset=2, positions="rotary"),
    bad(ModelConfig, "pooler='relu' goes with next_sentence=False", pooler="relu"),
    bad(
        ModelConfig,
        "pooler='mlm_transform' needs mlm_transform=True",
        pooler="mlm_transform",
        mlm_transform=False,
        next_sentence=False,
    ),
    bad(
        PretrainConfig,
        "DataConfig.pairs='next_sentence' has labels that nothing here learns",
        model=ModelConfig(next_sentence=False),
    ),
    *no_rate(DropoutConfig, "hidden", "attention"),
    bad(ComputeConfig, 'ComputeConfig.fp8 needs dtype="bfloat16"', fp8=True),
    bad(
        ModelConfig,
        "ModelConfig.hidden_size=770 must divide evenly by num_heads=12; the "
        "remainder is 2.",
        hidden_size=770,
    ),
    bad(MaskingConfig, "MaskingConfig.rate=0.0 is not in (0, 1)", rate=0.0),
    bad(MaskingConfig, "MaskingConfig.rate=1.0 is not in (0, 1)", rate=1.0),
    bad(MaskingConfig, "MaskingConfig.end_rate=0 is not in (0, 1)", end_rate=0),
    bad(MaskingConfig, "MaskingConfig.eval_rate=1 is not in (0, 1)", eval_rate=1),
    bad(MaskingConfig, "MaskingConfig.mask_share=1.5 is", mask_share=1.5),
    bad(PhaseConfig, "learning_rate=0 must be greater", learning_rate=0),
    bad(
        PhaseConfig,
        "PhaseConfig.warmup_steps=5 would be ignored: with learning_rate=None",
        learning_rate=None,
        warmup_steps=5,
    ),
    bad(MaskingConfig, "MaskingConfig.random_share=-1 is", random_share=-1),
    bad(
        MaskingConfig,
        "MaskingConfig.mask_share=0.8 and random_share=0.3 add up to more than 1.",
        random_share=0.3,
    ),
    *no_number_below(MaskingConfig, "max_slots", "max_span_words"),
    bad(MaskingConfig, "MaskingConfig.span_p=0.0 is not in (0, 1]", span_p=0.0),
    bad(MaskingConfig, "span_p=1.5 is not in", unit="span", span_p=1.5),
    bad(
        MaskingConfig,
        "MaskingConfig.span_p=0.3 would be ignored: unit='token' has no spans.",
        span_p=0.3,
    ),
    bad(
        MaskingConfig,
        "MaskingConfig.max_span_words=5 would be ignored: unit='word' has no spans.",
        unit="word",
        max_span_words=5,
    ),
    *no_number_below(DataConfig, "max_pairs_per_row", "num_threads"),
    *no_rate(DataConfig, "short_pair_rate"),
    bad(DataConfig, "sequence_length=7 is not in [8, 65536)", sequence_length=7),
    bad(DataConfig, "sequence_length=65536 is not in", sequence_length=65_536),
    bad(DataConfig, "DataConfig.num_workers=-1 is negative", num_workers=-1),
    bad(
        DataConfig,
        "DataConfig.bucket_lengths=(64, 128) would be ignored: layout='packed' has no "
        "buckets.",
        bucket_lengths=(64, 128),
    ),
    *(
        bad(
            DataConfig,
            f"DataConfig.bucket_lengths={lengths} must ascend from at least 8 and end "
            "with sequence_length=128.",
            layout="buckets",
            bucket_lengths=lengths,
        )
        for lengths in ((64,), (128, 64), (64, 64, 128), (7, 128), (64, 128, 256))
    ),
    bad(
        MeshConfig, "MeshConfig data=0, fsdp=1, sequence=1, tensor=1: each must", data=0
    ),
    bad(
        MeshConfig,
        "MeshConfig data=-1, fsdp=-1, sequence=1, tensor=1: each must",
        fsdp=-1,
    ),
    bad(
        MeshConfig,
        "MeshConfig data=-1, fsdp=1, sequence=1, tensor=-2: each must",
        tensor=-2,
    ),
    *no_number_below(
        OptimizerConfig, "learning_rate", "eps", "clip_norm", "decay_power"
    ),
    *no_rate(OptimizerConfig, "b1", "b2"),
    bad(OptimizerConfig, "learning_rate=inf must be a finite", learning_rate=math.inf),
    bad(
        OptimizerConfig, "OptimizerConfig.warmup_steps=-1 is negative", warmup_steps=-1
    ),
    bad(OptimizerConfig, "warmup_steps=1.5 is neither", warmup_steps=1.5),
    bad(
        OptimizerConfig,
        "OptimizerConfig.weight_decay=-0.1 is negative",
        weight_decay=-0.1,
    ),
    bad(OptimizerConfig, "OptimizerConfig.end_rate=-0.1 is negative", end_rate=-0.1),
    bad(
        OptimizerConfig,
        "OptimizerConfig.freeze_layers=-1 is negative",
        freeze_layers=-1,
    ),
    bad(OptimizerConfig, "decay_power=2.0 would be ignored", decay_power=2.0),
    bad(OptimizerConfig, "ignored", schedule="constant", end_rate=1e-5),
    bad(OptimizerConfig, "end_rate=0.001 exceeds learning_rate=0.0001", end_rate=1e-3),
    bad(OptimizerConfig, "names a part twice", freeze=("embed", "nsp", "embed")),
    bad(OptimizerConfig, "would be ignored", freeze=("layers",), freeze_layers=2),
    *no_number_below(
        LoopConfig, "log_every_steps", "checkpoint_every_steps", "keep_checkpoints"
    ),
    bad(LoopConfig, "LoopConfig.eval_every_steps=-1 is", eval_every_steps=-1),
    bad(LoopConfig, "LoopConfig.profile_at_step=-1 is", profile_at_step=-1),
    bad(LoopConfig, "LoopConfig.profiler_port=65536 is no port", profiler_port=2**16),
    bad(LoopConfig, "LoopConfig.peak_tflops=0.0 must", peak_tflops=0.0),
    bad(LoopConfig, "LoopConfig.wandb_project is empty", wandb_project=""),
    *no_number_below(PretrainConfig, "batch_size", "num_steps", "eval_batches"),
    bad(PretrainConfig, "num_steps='5' is a str; expected int", num_steps="5"),
    bad(OptimizerConfig, "b1=None is a NoneType; expected float", b1=None),
    bad(PretrainConfig, "moments='keep' needs a checkpoint", moments="keep"),
    bad(FileConfig, "delimiter='::' is not one character", delimiter="::"),
    bad(FileConfig, "encoding='utf-9' is no encoding", encoding="utf-9"),
    bad(FileConfig, "encoding='undefined' is no", encoding="undefined"),
    bad(TaskConfig, "a row has no score", pairs="matching", score_range=(0.0, 1.0)),
    bad(TaskConfig, "a row has no score", pairs="matching", label="score"),
    bad(TaskConfig, "a row has two texts", pairs="scored", negative="negative"),
    bad(TaskConfig, "text=None is a NoneType; expected tuple", text=None),
    bad(FileConfig, "encoding=None is a NoneType; expected", encoding=None),
    bad(FileConfig, "delimiter=5 is a int; expected str", delimiter=5),
    bad(
        FinetuneConfig,
        "no weights are taken",
        from_scratch=True,
        checkpoint=pathlib.Path("run"),
        checkpoint_step=3,
    ),
    bad(FileConfig, "name one column twice", text=("a",), label="a"),
    bad(
        TaskConfig,
        "TaskConfig.text=('a', 'b', 'c') must",
        text=("a", "b", "c"),
    ),
    *no_number_below(FinetuneConfig, "batch_size", "num_epochs"),
    bad(FinetuneConfig, "patience=0 must be greater than 0", patience=0),
    bad(
        FinetuneConfig,
        "patience=2 would be ignored: with LoopConfig.eval_every_steps=0",
        patience=2,
        loop=LoopConfig(eval_every_steps=0),
    ),
    bad(
        FinetuneConfig,
        "head_only and LoraConfig.rank=8 exclude each other",
        head_only=True,
        lora=LoraConfig(rank=8),
    ),
    bad(
        FinetuneConfig,
        "freeze_layers=2 would be ignored: --head-only and --lora-rank",
        lora=LoraConfig(rank=8),
        optimizer=OptimizerConfig(freeze_layers=2),
    ),
    bad(
        FinetuneConfig,
        "layer_decay=0.9 would be ignored: with --head-only no layer",
        head_only=True,
        optimizer=OptimizerConfig(layer_decay=0.9),
    ),
    bad(LoraConfig, "LoraConfig.rank=-1 is negative", rank=-1),
    bad(OptimizerConfig, "eps=1e-50 does not fit a float32, which takes", eps=1e-50),
    bad(OptimizerConfig, "clip_norm=1e+39 does not fit a float32", clip_norm=1e39),
    bad(LoraConfig, "alpha=inf must be a finite number", rank=8, alpha=math.inf),
    bad(SweepConfig, "learning_rates=inf must be a finite", learning_rates=(math.inf,)),
    bad(PretrainConfig, "batch_size=9223372036854775808 is too", batch_size=2**63),
    bad(ModelConfig, f"num_layers={10**30} is too large", num_layers=10**30),
    bad(DataConfig, "num_workers=1025 is more than 1,024", num_workers=1_025),
    bad(FinetuneConfig, "num_epochs=100001 is too large", num_epochs=100_001),
    bad(PrepareOptions, f"num_shards={2**31} is too large", num_shards=2**31),
    bad(LoraConfig, "LoraConfig.alpha=0.0 must be greater", rank=8, alpha=0.0),
    bad(LoraConfig, "must name at least one kind", rank=8, targets=()),
    bad(LoraConfig, "alpha=16.0 would be ignored: there is no LoRA", alpha=16.0),
    bad(OptimizerConfig, "layer_decay=1.1 is not in", layer_decay=1.1),
    bad(
        OptimizerConfig,
        "layer_decay=0.9 would be ignored: freeze names 'layers'",
        freeze=("layers",),
        layer_decay=0.9,
    ),
    bad(
        PretrainConfig,
        "eval_every_steps=None means once an epoch",
        loop=LoopConfig(eval_every_steps=None),
    ),
    bad(FinetuneConfig, "sequence_length=7 is too short", sequence_length=7),
]


@pytest.mark.parametrize(("owner", "fields", "message"), REFUSED)
def test_settings_that_cannot_work_are_refused(owner, fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        owner(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"data": DataConfig(sequence_length=600)},
            "DataConfig.sequence_length=600 exceeds ModelConfig.max_positions=512",
        ),
        (
            {"num_steps": 300, "optimizer": OptimizerConfig(warmup_steps=300)},
            "OptimizerConfig.warmup_steps=300 is not less than the 300 steps",
        ),
        (
            {"next_phases": (PhaseConfig(sequence_length=600),)},
            "next_phases[0]: DataConfig.sequence_length=600 exceeds",
        ),
        (
            {"next_phases": (PhaseConfig(), PhaseConfig(micro_batches=3))},
            "next_phases[1]: PretrainConfig.batch_size=256 is not a multiple of",
        ),
        (
            {"next_phases": (PhaseConfig(num_steps=9, warmup_steps=9),)},
            "next_phases[0]: OptimizerConfig.warmup_steps=9 is not less than the 9 steps",
        ),
        (
            {
                "masking": MaskingConfig(end_rate=0.1),
                "next_phases": (PhaseConfig(), PhaseConfig(masking_rate=0.2)),
            },
            "next_phases[1]: PhaseConfig.masking_rate=0.2 and MaskingConfig.end_rate=0.1 "
            "both say",
        ),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(fields, message):
    """File, checkpoint and flags set the parts, so only the whole is checked."""
    cfg = PretrainConfig(**fields)
    with pytest.raises(ValueError, match=re.escape(message)):
        cfg.check()


def _fields_of_words():
    kinds = (getattr(config, name) for name in config.__all__)
    for kind in filter(dataclasses.is_dataclass, kinds):
        if not isinstance(kind, type):
            continue
        for name, hint in typing.get_type_hints(kind).items():
            if any(
                typing.get_origin(x) is typing.Literal
                for x in (hint, *typing.get_args(hint))
            ) and not str(hint).startswith("tuple"):
                yield kind, name


@pytest.mark.parametrize(("kind", "name"), [*_fields_of_words()])
def test_a_misspelled_choice_is_refused(kind, name):
    """From Python, nothing else looks at it, and it would mean one of the others."""
    message = f"{kind.__name__}.{name}='linaer' is not one of '"
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(**{name: "linaer"})


def test_warmup_is_a_number_of_updates_or_a_share_of_them():
    def updates(warmup: float, num_steps: int) -> int:
        return OptimizerConfig(warmup_steps=warmup).warmup_updates(num_steps)

    assert [updates(w, 300) for w in (0, 0.01, 0.1, 0.999, 1, 250)] == [
        *(0, 3, 30, 299, 1, 250)
    ]
    # Shares that configs write as quotients give back their whole numbers.
    for steps, total in ((10_000, 900_000), (2_000, 7_038), (200, 1_563), (7, 300)):
        assert updates(steps / total, total) == steps


def test_derived_numbers():
    model = ModelConfig(vocab_size=30_522, hidden_size=768, num_heads=12)
    assert (model.head_size, model.padded_vocab_size) == (64, 30_592)
    assert ModelConfig(vocab_size=256).padded_vocab_size == 256
    masking = MaskingConfig()
    assert [masking.num_slots(n) for n in (1, 128, 512)] == [1, 19, 77]
    # google-research/bert, create_pretraining_data.py, for its two phases.
    for length, most in ((128, 20), (512, 76)):
        masking = MaskingConfig(max_slots=most)
        for n in range(1, length + 1):
            assert masking.num_slots(n) == min(most, max(1, round(n * 0.15)))
    falling = MaskingConfig(rate=0.3, end_rate=0.15)
    assert [falling.num_slots(n) for n in (1, 128, 512)] == [1, 38, 154]
    assert MaskingConfig(rate=0.15, end_rate=0.3).num_slots(128) == 38
    by_phase = PretrainConfig(
        masking=MaskingConfig(rate=0.3),
        next_phases=tuple(PhaseConfig(masking_rate=x) for x in (0.15, None, 0.05)),
    )
    rates = [phase.masking.rate for phase in by_phase.phases]
    assert rates == [0.3, 0.15, 0.15, 0.05]
    assert DataConfig().pairs_per_row == 8
    for layout in ("padded", "buckets"):
        assert DataConfig(layout=layout).pairs_per_row == 1
    for length, buckets in ((512, (128, 256, 512)), (20, (10, 20)), (8, (8,))):
        assert DataConfig(sequence_length=length, layout="buckets").buckets == buckets
    thirds = DataConfig(layout="buckets", bucket_lengths=(43, 86, 128))
    assert thirds.buckets == (43, 86, 128)
    assert thirds.without_buckets == DataConfig(layout="padded")
    assert DataConfig().without_buckets == DataConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"task": {"text": "ab"}}', "text: expected a list, got 'ab'"),
        ('{"task": {"text": [1]}}', r"text\[0\]=1 is a int"),
        ('{"task": {"train": 3}}', "train=3 is a int"),
        ('{"seed": -1}', "seed=-1 is not in"),
        ('{"sequence_length": 1}', "sequence_length=1 is too short"),
    ],
)
def test_values_of_another_form_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        from_json(FinetuneConfig, text)
