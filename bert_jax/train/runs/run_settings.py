"""Which settings of a run may differ between its sessions and between its hosts."""

import dataclasses
import pathlib
import re
from typing import Any

from bert_jax import config_json
from bert_jax.config import FinetuneConfig, PretrainConfig, TaskConfig
from bert_jax.runtime.agreement import agree
from bert_jax.train.runs.checkpoint_files import read_manifest
from bert_jax.train.runs.checkpoint_in_store import CHECKPOINTS
from bert_jax.train.runs.history import load_history
from bert_jax.train.runs.resumed_with import with_settings

# How examples are read; the hashes of the examples are compared separately.
_READING = tuple(
    f"task.{x.name}" for x in dataclasses.fields(TaskConfig) if x.name != "pooling"
)
# Settings that may change when a run continues: they do not change the numbers.
_FREE = (
    "loop",
    "data.num_threads",
    "data.num_workers",
    "data.plan_dir",
    "data.dataset",
    "data.mixture",  # `check_order` compares the order
    "checkpoint",  # `check_start` compares what it leads to
    *_READING,
)
# Settings that may change too, since a run must be able to continue on other machines:
# they change the numbers by rounding only. A change of these is printed.
LAYOUT = (
    "mesh",
    "micro_batches",
    "next_phases.micro_batches",
    "compute",
)
# Settings that may even differ between the hosts of a job. The hashes of what the paths
# lead to are compared separately.
_OWN = (
    *("data.num_threads", "data.num_workers", "data.plan_dir"),
    *("data.dataset", "data.mixture"),
    *_READING,
)


def agree_on_run(run: pathlib.Path, config: Any, **hashes: str) -> None:
    """Checks that all hosts of the job have the same settings for the run.

    Args:
        run: run directory.
        config: settings of this host.
        hashes: hashes of what the settings lead to, such as the dataset, by name.

    Raises, on all hosts:
        ValueError: hosts differ; the message says in which setting, and which hosts.
    """
    settings = comparable(config_json.to_values(config))
    agree("the run", {"output": run, **settings, **hashes})


def _is_longer(old: PretrainConfig, new: PretrainConfig) -> bool:
    """Whether more steps leave the updates of the first ones as they were."""
    warmups = {cfg.optimizer.warmup_updates(cfg.num_steps) for cfg in (old, new)}
    return (
        old.optimizer.schedule == "constant"
        and old.masking.is_constant
        and not old.next_phases
        and len(warmups) == 1
        and new.num_steps > old.num_steps
    )


def check_longer(run: pathlib.Path, old: PretrainConfig, new: PretrainConfig) -> None:
    """Checks that a run with another number of steps would have made the same updates.

    What `--resume-with` has changed counts too.

    Raises:
        ValueError: the learning rates of the updates so far depend on the number of
            steps, or there would be fewer steps. The message says how to train on.
    """
    settings = load_history(run).settings
    pairs = (old, new), (with_settings(old, settings), with_settings(new, settings))
    unlike = next((pair for pair in pairs if not _is_longer(*pair)), None)
    if unlike is None:
        print(
            f"{run} goes on to step {new.num_steps:,} instead of {old.num_steps:,}",
            flush=True,
        )
        return
    warmups = [cfg.optimizer.warmup_updates(cfg.num_steps) for cfg in unlike]
    raise ValueError(
        f"{run} holds a run of {old.num_steps:,} steps with {warmups[0]:,} of warm-up and "
        f"schedule {unlike[0].optimizer.schedule!r}; {new.num_steps:,} steps with {warmups[1]:,} "
        "of warm-up would have had other learning rates or masking rates from the start. "
        "Only a run of --optimizer.schedule constant with the same number of warm-up "
        f"updates (--optimizer.warmup-steps {warmups[0]}), and without --masking.end-rate, "
        "can be made longer. To train on from this one, start a new run with a schedule of its own: "
        f"--checkpoint {run} --moments keep --num-steps STEPS --output NEW_RUN."
    )


def check_order(run: pathlib.Path, old: PretrainConfig, new: PretrainConfig) -> None:
    """Checks that the same datasets of a mixture are in the order that the run began with.

    Weights are given in this order, and batches are filled in it.

    Raises:
        ValueError: the order is another one.
    """
    before, now = ([x.name for x in cfg.data.mixture] for cfg in (old, new))
    if sorted(before) == sorted(now) and before != now:
        raise ValueError(
            f"{run} was begun with --data.mixture in another order: {' '.join(before)} "
            f"then, {' '.join(now)} now. Weights and rows follow this order, so give the "
            "datasets as they were given then."
        )


def check_start(
    run: pathlib.Path,
    origin: dict[str, Any] | None,
    old: PretrainConfig | FinetuneConfig,
    new: PretrainConfig | FinetuneConfig,
    way_out: str,
) -> None:
    """Checks that a run is not asked to start from other weights than it began from.

    It has read them once, so others would be ignored. They may have been moved or copied.

    Args:
        run: run directory.
        origin: where its weights came from, as in run.json; None: it has read none yet.
        old: settings that it began with.
        new: settings that it is to go on with.
        way_out: what else can be done than to give the same weights.

    Raises:
        ValueError: `new` names other weights.
    """
    before, now = old.checkpoint, new.checkpoint
    if now is None or now == before or (before is not None and origin is None):
        return
    if origin is None:
        raise ValueError(
            f"{run} began with random weights, so that --checkpoint {now} would be "
            f"ignored. Leave it out, or {way_out}."
        )
    place, step = pathlib.Path(origin["run"]), origin["step"]
    if now.resolve() == place or _is_copy(now, place, step):
        return
    if (place / "run.json").exists():
        raise ValueError(
            f"{run} began from the weights of {place} at step {step:,}, so that those of "
            f"{now} would be ignored. Give --checkpoint {place}, or {way_out}."
        )
    print(
        f"note: {run} began from the weights of {place} at step {step:,}, which are gone; "
        f"{now} is taken for their new place, and its weights are not read",
        flush=True,
    )


def _is_copy(run: pathlib.Path, other: pathlib.Path, step: int) -> bool:
    """Whether two run directories have the same checkpoint of a step, by its hashes."""
    places = (place / CHECKPOINTS / str(step) for place in (run, other))
    try:
        one, two = map(read_manifest, places)
    except (OSError, ValueError):
        return False
    return one == two


def comparable(value: Any, where: str = "") -> dict[str, Any]:
    """All settings by their dotted names, without those that may differ between hosts."""
    if where in _OWN:
        return {}
    if not isinstance(value, dict):
        return {where: value}
    return {
        name: leaf
        for key, part in value.items()
        for name, leaf in comparable(part, f"{where}.{key}".lstrip(".")).items()
    }


def differences(before: Any, now: Any, where: str = "") -> list[tuple[str, str]]:
    """The settings that differ, as pairs of the name (or the group's) and a description."""
    name = re.sub(r"\[\d+\]", "", where)
    if name in _FREE:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            (name if name in LAYOUT else inner, line)
            for key in {**before, **now}
            for inner, line in differences(
                before.get(key), now.get(key), f"{where}.{key}".lstrip(".")
            )
        ]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [
            found
            for number, pair in enumerate(zip(before, now, strict=True))
            for found in differences(*pair, f"{where}[{number}]")
        ]
    if before == now:
        return []
    return [(name, f"{where} is {before!r} there and {now!r} here")]
