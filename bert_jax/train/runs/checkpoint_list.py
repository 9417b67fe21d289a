"""What a run's checkpoints are: where they lie, whether they are whole, how they scored."""

import dataclasses
import datetime
import pathlib
import sys
from typing import Any

from bert_jax.config import FinetuneConfig, PretrainConfig
from bert_jax.config.address import address_of
from bert_jax.train.aligned import aligned
from bert_jax.train.monitoring.metrics import read_metrics
from bert_jax.train.runs.checkpoint import BEST, NEWEST
from bert_jax.train.runs.checkpoint_files import damage_of
from bert_jax.train.runs.checkpoint_mirror import steps_in
from bert_jax.train.runs.checkpoint_recovery import DAMAGED
from bert_jax.train.runs.run import load_run, load_run_config
from bert_jax.train.tasks import task_of
from bert_jax.train.tasks.task import Metric


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredCheckpoint:
    """One checkpoint of a run, or a copy of it."""

    place: str
    """Directory that holds it, such as "checkpoints" or "best"."""
    step: int
    bytes: int
    saved: str
    """When it was completed, in local time."""
    damage: str | None
    """What is wrong with its files; None: they are as they were saved."""
    metric: str | None
    """Name of the metric that decides which one is better; None: it was not judged."""
    value: float | None
    """The metric on held-out data, at this step."""
    is_best: bool
    """Whether no checkpoint of this list is better. Of a run of several phases none is
    the best: they are judged on rows of different phases."""


def list_checkpoints(run: pathlib.Path) -> list[StoredCheckpoint]:
    """All checkpoints of a run, of best/, and of its mirror. Every file is read.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: run.json or config.json is damaged.
    """
    load_run(run)
    cfg = load_run_config(run)
    lines = {x["step"]: x for x in read_metrics(run) if x["kind"] == "eval"}
    metric = _deciding(cfg, lines)
    places = {name: run / name for name in (NEWEST, BEST, DAMAGED)}
    home = cfg.loop.mirror
    if home is not None and address_of(home):
        print(
            f"note: `bert-jax checkpoints {home}` lists the copies there",
            file=sys.stderr,
        )
    elif home is not None:
        places[f"{home}/{NEWEST}"] = pathlib.Path(home) / NEWEST
    values = {
        step: float(line[metric.name])
        for step, line in lines.items()
        if metric is not None and metric.name in line
    }
    there = {step for place in places.values() for step in steps_in(place)}
    judged = [values[step] for step in there if step in values]
    if isinstance(cfg, PretrainConfig) and cfg.next_phases:
        judged = []
    is_larger = metric is not None and metric.larger_is_better
    best = (max if is_larger else min)(judged, default=None)
    return [
        StoredCheckpoint(
            place=name,
            step=step,
            **_facts(place / str(step)),
            metric=metric.name if metric is not None and step in values else None,
            value=values.get(step),
            is_best=best is not None and values.get(step) == best,
        )
        for name, place in places.items()
        for step in sorted(steps_in(place))
    ]


def table(found: list[StoredCheckpoint]) -> str:
    """The checkpoints as aligned text, one a line."""
    if not found:
        return "no checkpoint"
    rows = [("place", "step", "MB", "saved", "held out", "state")]
    for x in found:
        score = "" if x.value is None else f"{x.metric} {x.value:.4g}"
        rows.append(
            (
                *(x.place, f"{x.step:,}", f"{x.bytes / 1e6:,.1f}", x.saved),
                f"{score}{' (best)' if x.is_best else ''}",
                "whole" if x.damage is None else f"DAMAGED: {x.damage}",
            )
        )
    return "\n".join(aligned(rows))


def _facts(checkpoint: pathlib.Path) -> dict[str, Any]:
    stats = [path.stat() for path in checkpoint.rglob("*") if path.is_file()]
    newest = max((stat.st_mtime for stat in stats), default=0)
    saved = datetime.datetime.fromtimestamp(newest).astimezone()
    return {
        "bytes": sum(stat.st_size for stat in stats),
        "saved": saved.isoformat(" ", "seconds"),
        "damage": damage_of(checkpoint),
    }


def _deciding(
    cfg: PretrainConfig | FinetuneConfig, lines: dict[int, dict[str, Any]]
) -> Metric | None:
    """The metric that decides which state of a run is the best."""
    if isinstance(cfg, PretrainConfig):
        return Metric("mlm_loss", "masked-token loss", ".3f", larger_is_better=False)
    scored = {name for line in lines.values() for name in line} - {"kind", "step"}
    return task_of(cfg).deciding(scored) if scored else None
