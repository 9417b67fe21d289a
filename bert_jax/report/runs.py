"""A run as the report shows it: finished, still running, or stopped on the way."""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bert_jax import config_json
from bert_jax.config import FinetuneConfig, PretrainConfig
from bert_jax.train import initial
from bert_jax.train.metrics import read_metrics
from bert_jax.train.run import RunInfo, load_results, load_run, load_run_config
from bert_jax.train.tasks.task import Metric


class Series(NamedTuple):
    """One curve: values by ascending step."""

    steps: list[int]
    values: list[float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What a run directory holds, its checkpoints aside."""

    path: Path
    info: RunInfo
    cfg: PretrainConfig | FinetuneConfig
    lines: list[dict[str, Any]]
    """Of metrics.jsonl, as far as the run has come."""
    results: dict[str, Any]
    """results.json; empty where the run has not finished."""

    @property
    def config(self) -> dict[str, Any]:
        """All settings as plain JSON values."""
        settings: dict[str, Any] = json.loads(config_json.to_json(self.cfg))
        return settings

    @property
    def step(self) -> int:
        """The last step that anything is known of."""
        last = max((line["step"] for line in self.lines), default=0)
        return int(self.results.get("step", last))

    @property
    def scores(self) -> dict[str, float]:
        """Those of the state that others take: of a fine-tuned run the best one. Of an
        unfinished run they are of the newest evaluation, if there is any."""
        if self.results:
            return dict(self.results["eval"])
        evals = [line for line in self.lines if line["kind"] == "eval"]
        return evals[-1] if evals else {}

    @property
    def elapsed_secs(self) -> float | None:
        """Seconds of training so far; None where nothing was logged."""
        logged = [x["elapsed_secs"] for x in self.lines if "elapsed_secs" in x]
        return self.results.get("elapsed_secs", max(logged, default=None))

    def encoder_hashes(self, step: int) -> dict[int, str]:
        """Hashes of the encoder at a step, by number of tensors; empty if it is gone."""
        return _encoder_hashes(self.path.resolve(), step)

    def series(self, kind: str, metric: str) -> Series:
        """The finite values of a metric.

        Args:
            kind: of the lines, "train" or "eval".
            metric: its name in metrics.jsonl.
        """
        found = {
            line["step"]: line[metric]
            for line in self.lines
            if line["kind"] == kind and math.isfinite(line.get(metric, math.nan))
        }
        return Series(list(found), list(found.values()))


class Score(NamedTuple):
    """What a run, a baseline or a constant answer achieves on held-out data."""

    name: str
    group: str
    """What it shares with others that began alike: "with pretraining"."""
    color: str
    """A role of `charts.PALETTE`."""
    values: Mapping[str, float]
    num_examples: int | None = None
    """Of the held-out data."""
    run: Run | None = None

    def interval(self, metric: Metric) -> tuple[float, float] | None:
        """95% of the value of a metric, where that can be had."""
        value = self.values.get(metric.name)
        if value is None or metric.interval is None or not self.num_examples:
            return None
        return metric.interval(value, self.num_examples)


# They are asked for several times, and to read a checkpoint takes a while.
_encoder_hashes = functools.cache(initial.encoder_hashes)


def read_run(path: Path, kind: str) -> Run:
    """Reads a run directory.

    Args:
        path: the directory.
        kind: "pretrain" or "finetune".

    Raises:
        FileNotFoundError: no run is there.
        ValueError: the run is of another kind or format.
    """
    info = load_run(path, kind)
    try:
        return Run(
            path=path,
            info=info,
            cfg=load_run_config(path),
            lines=read_metrics(path),
            results=load_results(path) or {},
        )
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}: config.json, metrics.jsonl or results.json is damaged ({error}). "
            "Restore the file from a copy, or start the run's command again."
        ) from None
