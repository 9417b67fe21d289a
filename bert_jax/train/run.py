"""Reads and writes the run directory, except its checkpoints.

A run directory holds config.json (the whole config), run.json (kind, architecture,
tokenizer, labels, where the encoder came from), tokenizer/, checkpoints/, best/ (the
weights of the best state of fine-tuning), metrics.jsonl, tensorboard/, goodput.json
(where the time went), results.json and held_out_logits.npz (of fine-tuning); on request
also profile/ (traces), wandb/ and wandb.json.
"""

import dataclasses
import json
import pathlib
import re
import time
import uuid
from typing import Any

from bert_jax import config_json
from bert_jax.config import FinetuneConfig, ModelConfig, PretrainConfig, TaskConfig
from bert_jax.data.atomic_file import write_atomically
from bert_jax.data.tokenizers.saved_tokenizer import load_tokenizer
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.runtime import process
from bert_jax.runtime.agreement import agree, on_first_host
from bert_jax.train.checkpoint import Identity

FORMAT_VERSION = 2
# Formats whose weights can be read. Version 1 has other settings and another optimizer
# state, so a run of version 1 cannot continue.
WEIGHTS_FORMATS = (1, FORMAT_VERSION)
# Settings that may change when a run continues: they do not change the numbers.
_FREE = (
    "loop",
    "data.num_threads",
    "data.num_workers",
    "data.plan_dir",
    "data.dataset",
    "checkpoint",
    # How examples are read; the hashes of the examples are compared separately.
    *(f"task.{x.name}" for x in dataclasses.fields(TaskConfig) if x.name != "pooling"),
)
# Settings that may change too, since a run must be able to continue on other machines:
# they change the numbers by rounding only. A change of these is printed.
_LAYOUT = (
    "mesh",
    "micro_batches",
    "next_phases.micro_batches",
    "compute",
)
# Settings that may even differ between the hosts of a job. The hashes of what the paths
# lead to are compared separately.
_OWN = ("data.num_threads", "data.num_workers", "data.plan_dir", "data.dataset", "task")
# How long a shared file system may hide a new file (NFS caches directories for 60 s).
_VISIBLE_SECS = 90.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What other commands must know to use a run's checkpoints."""

    kind: str
    """"pretrain" or "finetune"."""
    model: ModelConfig
    tokenizer_sha256: str
    data: dict[str, Any]
    """Hashes of the data. They must be the same when a run continues."""
    task: str | None = None
    """Name of the task in `train.tasks`; None for a pretraining run."""
    labels: tuple[str, ...] | None = None
    """Names of the task's logits, in their order; None for a pretraining run."""
    sequence_length: int = 0
    """Number of tokens in the longest rows of the run."""
    devices: str | None = None
    """Kind and number of the devices that the run began on; None for an imported run."""
    encoder: dict[str, Any] | None = None
    """Where the weights of step 0 came from. It is written when they are read."""
    format_version: int = FORMAT_VERSION

    @property
    def identity(self) -> Identity:
        """What every checkpoint of the run is checked against."""
        return Identity(self.model, self.tokenizer_sha256)


def agree_on_run(run: pathlib.Path, config: Any, **hashes: str) -> None:
    """Checks that all hosts of the job have the same settings for the run.

    Args:
        run: run directory.
        config: settings of this host.
        hashes: hashes of what the settings lead to, such as the dataset, by name.

    Raises, on all hosts:
        ValueError: hosts differ; the message says in which setting, and which hosts.
    """
    settings = _leaves(json.loads(config_json.to_json(config)))
    agree("the run", {"output": run, **settings, **hashes})


def start_run(
    run: pathlib.Path, config: Any, info: RunInfo, tokenizer: Tokenizer
) -> None:
    """Creates a run directory, or checks that it holds the run that continues.

    The first host does this. When the function returns, the other hosts see the files.

    Raises, on all hosts:
        ValueError: the directory holds another run or other files, or some hosts do not
            see it.
    """
    on_first_host(f"start of {run}", lambda: _start_run(run, config, info, tokenizer))
    if process.this().count > 1:
        _check_shared(run)


def _check_shared(run: pathlib.Path) -> None:
    """Raises ValueError on all hosts if some do not see the files of the first host."""

    def write() -> str:
        name = f".seen-by-all-{uuid.uuid4().hex}"
        (run / name).touch()
        return name

    marker = run / on_first_host(f"a file in {run}", write)
    deadline = time.monotonic() + _VISIBLE_SECS
    while not marker.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    agree(
        f"what they see in {run}",
        {"a file that process 0 wrote": "there" if marker.exists() else "not there"},
        remedy="Choose a --output on storage that all hosts share (NFS, a mounted "
        "bucket): process 0 writes the run, and all processes read it.",
    )
    on_first_host(f"removal of {marker}", marker.unlink)


def _start_run(
    run: pathlib.Path, config: Any, info: RunInfo, tokenizer: Tokenizer
) -> None:
    config = config_json.with_absolute_paths(config)
    text = config_json.to_json(config)
    if (run / "run.json").exists():
        begun = load_run(run)
        _refuse_another(run, begun, info)
        # A field that is younger than the run has its default, which means what was done
        # before there was the field.
        old = config_json.from_json(type(config), (run / "config.json").read_text())
        before = json.loads(config_json.to_json(old))
        differences = _differences(before, json.loads(text))
        changed = {name: line for name, line in differences if name not in _LAYOUT}
        if {"num_steps"} <= changed.keys() <= {"num_steps", "optimizer.warmup_steps"}:
            check_longer(run, old, config)
        elif changed:
            raise ValueError(
                f"{run} holds a run with other settings: {'; '.join(changed.values())}. Continue "
                "with those settings, or choose another --output."
            )
        layout = [line for name, line in differences if name in _LAYOUT]
        if begun.devices != info.devices:
            layout.append(
                f"devices are {begun.devices!r} there and {info.devices!r} here"
            )
        for line in layout:
            print(f"another layout, equal up to rounding: {line}", flush=True)
        write_atomically(run / "config.json", text)
        return
    if run.exists() and any(run.iterdir()):
        raise ValueError(
            f"{run} is not empty and holds no run; choose another --output."
        )
    run.mkdir(parents=True, exist_ok=True)
    tokenizer.save(run / "tokenizer")
    write_atomically(run / "config.json", text)
    write_atomically(run / "run.json", config_json.to_json(info))


def check_longer(run: pathlib.Path, old: PretrainConfig, new: PretrainConfig) -> None:
    """Checks that a run with another number of steps would have made the same updates.

    Raises:
        ValueError: the learning rates of the updates so far depend on the number of
            steps, or there would be fewer steps. The message says how to train on.
    """
    warmups = [cfg.optimizer.warmup_updates(cfg.num_steps) for cfg in (old, new)]
    if (
        old.optimizer.schedule == "constant"
        and old.masking.is_constant
        and not old.next_phases
        and warmups[0] == warmups[1]
        and new.num_steps > old.num_steps
    ):
        print(
            f"{run} goes on to step {new.num_steps:,} instead of {old.num_steps:,}",
            flush=True,
        )
        return
    raise ValueError(
        f"{run} holds a run of {old.num_steps:,} steps with {warmups[0]:,} of warm-up and "
        f"schedule {old.optimizer.schedule!r}; {new.num_steps:,} steps with {warmups[1]:,} "
        "of warm-up would have had other learning rates or masking rates from the start. "
        "Only a run of --optimizer.schedule constant with the same number of warm-up "
        "updates, and without --masking.end-rate, can be made longer. To train on from this "
        "one, start a new run with a schedule of its own: "
        f"--checkpoint {run} --moments keep --num-steps STEPS --output NEW_RUN."
    )


def is_new_run(run: pathlib.Path) -> bool:
    """Whether `run` holds no run yet. In a job, the first host looks."""
    return on_first_host(
        f"a look for a run in {run}", lambda: not (run / "run.json").exists()
    )


def save_origin(run: pathlib.Path, origin: dict[str, Any]) -> None:
    """Notes in run.json where the weights of step 0 came from."""

    def save() -> None:
        info = dataclasses.replace(load_run(run), encoder=origin)
        write_atomically(run / "run.json", config_json.to_json(info))

    on_first_host(f"the origin of the weights of {run}", save)


def load_run(
    run: pathlib.Path, kind: str | None = None, *, for_weights: bool = False
) -> RunInfo:
    """Reads run.json.

    Args:
        run: run directory.
        kind: kind that the run must have, "pretrain" or "finetune". Default: either.
        for_weights: whether only the weights are needed; then older formats will do.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: the run has another kind or format.
    """
    path = run / "run.json"
    if not path.exists():
        foreign = any(
            place.is_file()
            for place in (
                *(run / "config.json", run / "bert_config.json"),
                run.with_name(f"{run.name}.index"),
            )
        )
        way_out = (
            f" It looks like a model of Hugging Face or Google: `bert-jax import {run} "
            "--output RUN` makes a run directory of it."
            if foreign
            else ""
        )
        raise FileNotFoundError(
            f"{run} is not a run directory (run.json is missing); expected one written "
            f"by `bert-jax pretrain`, `finetune` or `import`.{way_out}"
        )
    raw = json.loads(path.read_text())
    version = raw.get("format_version")
    if version not in (WEIGHTS_FORMATS if for_weights else (FORMAT_VERSION,)):
        way_out = (
            f" Its weights can still be used: start a new run with --checkpoint {run}."
            if version in WEIGHTS_FORMATS
            else ""
        )
        raise ValueError(
            f"{run} has run format {version}; this version of bert_jax reads "
            f"{FORMAT_VERSION}.{way_out}"
        )
    fields = [field.name for field in dataclasses.fields(ModelConfig)]
    architecture = raw["model"]
    if version < FORMAT_VERSION:
        # Version 1 also kept settings of the computation here, and had a single task.
        architecture = {name: raw["model"][name] for name in fields}
        raw["task"] = None if raw["kind"] == "pretrain" else "classification"
    info = RunInfo(
        kind=raw["kind"],
        model=config_json.from_json(ModelConfig, json.dumps(architecture)),
        tokenizer_sha256=raw["tokenizer_sha256"],
        data=raw["data"],
        task=raw["task"],
        labels=None if raw["labels"] is None else tuple(raw["labels"]),
        sequence_length=raw["sequence_length"],
        devices=raw.get("devices"),
        encoder=raw["encoder"],
    )
    if kind is not None and info.kind != kind:
        raise ValueError(f"{run} is a {info.kind} run; expected a {kind} run.")
    return info


def load_run_config(run: pathlib.Path) -> PretrainConfig | FinetuneConfig:
    """The whole config with which a run was last started."""
    config: Any = PretrainConfig if load_run(run).kind == "pretrain" else FinetuneConfig
    return config_json.from_json(config, (run / "config.json").read_text())


def load_run_tokenizer(run: pathlib.Path) -> Tokenizer:
    """The run's own tokenizer, checked against run.json."""
    tokenizer = load_tokenizer(run / "tokenizer")
    expected = load_run(run, for_weights=True).tokenizer_sha256
    if tokenizer.sha256 != expected:
        raise ValueError(
            f"The tokenizer in {run} has hash {tokenizer.sha256[:12]}, but the run was "
            f"made with {expected[:12]}; restore the original files."
        )
    return tokenizer


def save_results(run: pathlib.Path, results: dict[str, Any]) -> None:
    """Writes results.json on the first host. The other hosts wait for it."""
    text = json.dumps(results, indent=2) + "\n"
    on_first_host(
        f"results of {run}", lambda: write_atomically(run / "results.json", text)
    )


def load_results(run: pathlib.Path) -> dict[str, Any] | None:
    """Reads results.json of a finished run, or returns `None` if there is none.

    In a job, the first host reads it for all.
    """

    def read() -> dict[str, Any] | None:
        path = run / "results.json"
        return json.loads(path.read_text()) if path.exists() else None

    return on_first_host(f"a look for results in {run}", read)


def _refuse_another(run: pathlib.Path, begun: RunInfo, info: RunInfo) -> None:
    """Refuses to go on with another task, or on other data, than a run was begun with."""
    for name in ("kind", "task", "tokenizer_sha256", "data", "labels"):
        before, now = getattr(begun, name), getattr(info, name)
        if before == now:
            continue
        if name == "data" and info.kind == "finetune":
            changed = " and ".join(key for key in now if before.get(key) != now[key])
            raise ValueError(
                f"{run} was begun with other examples: those of {changed} have changed "
                "since. Restore the files or the flags that choose the examples, or choose "
                "another --output."
            )
        raise ValueError(
            f"{run} was begun with another {name}: {before} then, {now} now. Choose "
            "another --output."
        )


def _leaves(value: Any, where: str = "") -> dict[str, Any]:
    """All settings by their dotted names, without those that may differ between hosts."""
    if where in _OWN:
        return {}
    if not isinstance(value, dict):
        return {where: value}
    return {
        name: leaf
        for key, part in value.items()
        for name, leaf in _leaves(part, f"{where}.{key}".lstrip(".")).items()
    }


def _differences(before: Any, now: Any, where: str = "") -> list[tuple[str, str]]:
    """The settings that differ, as pairs of the name (or the group's) and a description."""
    name = re.sub(r"\[\d+\]", "", where)
    if name in _FREE:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            (name if name in _LAYOUT else inner, line)
            for key in {**before, **now}
            for inner, line in _differences(
                before.get(key), now.get(key), f"{where}.{key}".lstrip(".")
            )
        ]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [
            found
            for number, pair in enumerate(zip(before, now, strict=True))
            for found in _differences(*pair, f"{where}[{number}]")
        ]
    if before == now:
        return []
    return [(name, f"{where} is {before!r} there and {now!r} here")]
