"""A run as the report shows it: finished, still running, or stopped on the way."""

import csv
import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bert_jax import config_json
from bert_jax.config import FinetuneConfig, PretrainConfig
from bert_jax.train import initial
from bert_jax.train.monitoring.metrics import read_metrics
from bert_jax.train.runs.results_file import load_results
from bert_jax.train.runs.run import RunInfo, load_run, load_run_config
from bert_jax.train.tasks.task import Metric


class Series(NamedTuple):
    """One curve: values by ascending step."""

    steps: list[int]
    values: list[float]


class Band(NamedTuple):
    """Between which values the same settings end with other seeds, by ascending step."""

    steps: list[int]
    low: list[float]
    high: list[float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Log:
    """What a run has logged, wherever that is."""

    path: Path
    lines: list[dict[str, Any]]
    """Of metrics.jsonl, as far as the run has come."""

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

    def band(self, metric: str) -> Band:
        """The range over seeds of a held-out metric; empty where the log has none.

        It stands in the columns `METRIC_low` and `METRIC_high` of a .csv.
        """
        low, high = (self.series("eval", f"{metric}_{end}") for end in ("low", "high"))
        if low.steps != high.steps:
            raise ValueError(
                f"{self.path} has {metric}_low at the steps {low.steps} and {metric}_high at "
                f"{high.steps}; expected both at the same steps."
            )
        return Band(low.steps, low.values, high.values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(Log):
    """What a run directory holds, its checkpoints aside."""

    info: RunInfo
    cfg: PretrainConfig | FinetuneConfig
    results: dict[str, Any]
    """results.json; empty where the run has not finished."""

    @property
    def config(self) -> dict[str, Any]:
        """All settings as plain JSON values."""
        return config_json.to_values(self.cfg)

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
    reference: Log | None = None
    """Of a run of which only the curves are shown."""

    @property
    def log(self) -> Log | None:
        """Whose curves are drawn."""
        return self.run or self.reference

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
        ValueError: the run is of another kind or format, or a file is damaged.
    """
    return Run(
        path=path,
        info=load_run(path, kind),
        cfg=load_run_config(path),
        lines=read_metrics(path),
        results=load_results(path) or {},
    )


def read_reference(path: Path) -> Log:
    """The curves of another run of pretraining, to draw beside those of a run.

    Args:
        path: run directory, or a .csv with the columns kind and step and one for each
            figure of metrics.jsonl; an empty field stands for no figure.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is none of the two.
    """
    if path.suffix != ".csv":
        return read_run(path, "pretrain")
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        try:
            names = rows.fieldnames or ()
            lines = [_line(row) for row in rows if {"kind", "step"} <= set(names)]
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{path}, line {rows.line_num}: {error}") from None
    if not {"kind", "step"} <= set(names):
        raise ValueError(
            f"{path} has the columns {', '.join(names)}; expected kind, step and names of "
            "figures, such as mlm_loss."
        )
    return Log(path=path, lines=lines)


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    # So `DictReader` shows fields beyond the columns, and those that a row lacks.
    if None in row or None in (row["kind"], row["step"]):
        raise ValueError(
            "expected a kind, a step, and no more fields than the first line names."
        )
    figures = {
        name: float(x) for name, x in row.items() if x and name not in ("kind", "step")
    }
    return {"kind": row["kind"], "step": int(row["step"]), **figures}
