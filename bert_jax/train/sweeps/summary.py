"""What came out of a sweep: every run, and mean ± standard deviation of each setting."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bert_jax.config import FinetuneConfig, SweepConfig
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.model.rows import MASKED_SCORE
from bert_jax.train.aligned import aligned
from bert_jax.train.held_out_logits import load_logits, save_logits
from bert_jax.train.runs.run import load_run_config
from bert_jax.train.sweeps.grid import Member, Setting, folds_of, whole_file
from bert_jax.train.tasks import Task, task_of
from bert_jax.train.tasks.task import Judged, Metric


class Outcome(NamedTuple):
    """A run of a sweep, and what came of it."""

    member: Member
    results: Mapping[str, Any] | None
    """results.json of the run; `None` if the run failed."""
    failure: str = ""

    @property
    def scores(self) -> dict[str, float]:
        return dict(self.results["eval"]) if self.results else {}

    def record(self, *, has_weights: bool) -> dict[str, Any]:
        """Its entry in results.json of the sweep."""
        about = {
            "run": str(self.member.path),
            **self.member.setting._asdict(),
            "seed": self.member.seed,
            "fold": self.member.fold,
        }
        if self.results is None:
            return {**about, "failure": self.failure}
        kept = ("step", "eval", "num_train", "num_validation", "elapsed_secs")
        return {
            **about,
            **{name: self.results[name] for name in kept},
            "weights": has_weights,
        }


class OutOfFold(NamedTuple):
    """Predictions of all folds, scored together."""

    scores: dict[Setting, dict[int, dict[str, float]]]
    """Of each setting and seed. Where a fold failed, or where scores compare examples with
    each other (`Task.scores_alone`), there are none."""
    sha256: str
    """Identity of the examples that the folds were cut from."""


def spread(scores: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    """Mean and standard deviation of every score that all have, divided by n - 1.

    The deviation of a single run is `None`.
    """
    found: dict[str, dict[str, float | None]] = {"mean": {}, "std": {}}
    for name in scores[0] if scores else ():
        if not all(name in x for x in scores):
            continue  # a fold may lack what the score is of
        values = np.array([x[name] for x in scores])
        found["mean"][name] = float(values.mean())
        found["std"][name] = float(values.std(ddof=1)) if values.size > 1 else None
    return found


def summary_of(
    outcomes: Sequence[Outcome],
    metric: Metric,
    pooled: OutOfFold | None,
) -> dict[str, Any]:
    """The settings with their means, and the setting with the best mean.

    Args:
        metric: the first metric of the task.
        pooled: the scores of all folds together, where there are folds.
    """
    settings = []
    for setting in dict.fromkeys(x.member.setting for x in outcomes):
        of_setting = [x for x in outcomes if x.member.setting == setting]
        scores = [x.scores for x in of_setting if x.results]
        entry = {
            **setting._asdict(),
            "num_runs": len(of_setting),
            "num_failed": len(of_setting) - len(scores),
            **spread(scores),
        }
        if pooled and setting in pooled.scores:
            by_seed = pooled.scores[setting]
            entry["out_of_fold"] = {
                "by_seed": {str(seed): dict(x) for seed, x in by_seed.items()},
                **spread(list(by_seed.values())),
            }
        settings.append(entry)
    # A setting whose runs did not all finish is not chosen: its mean is that of the lucky.
    whole = [x for x in settings if not x["num_failed"]]
    sign = 1 if metric.larger_is_better else -1
    best = max(whole, key=lambda x: sign * x["mean"][metric.name], default=None)
    chosen = best and {name: best[name] for name in Setting._fields}
    return {"metric": metric.name, "settings": settings, "chosen": chosen}


def score_out_of_fold(
    cfg: SweepConfig,
    base: FinetuneConfig,
    output: pathlib.Path,
    outcomes: Sequence[Outcome],
    tokenizer: Tokenizer,
) -> OutOfFold | None:
    """Scores the predictions of all folds together, if there are, and keeps their logits."""
    if cfg.folds is None:
        return None
    task = task_of(base)
    whole, outputs = whole_file(task, base.task)
    finished = [x.member.path for x in outcomes if x.results]
    if not finished:
        return OutOfFold({}, whole.sha256())
    of_run = load_run_config(output / finished[0])
    assert isinstance(of_run, FinetuneConfig)
    assert of_run.sequence_length is not None
    if not task.scores_alone(whole):
        return OutOfFold({}, whole.sha256())
    encoded = task.encode(tokenizer, whole, outputs, of_run.sequence_length)
    found: dict[Setting, dict[int, dict[str, float]]] = {}
    for setting in dict.fromkeys(x.member.setting for x in outcomes):
        for seed in cfg.seeds:
            folds = [x for x in outcomes if x.member[:2] == (setting, seed)]
            if not all(x.results for x in folds):
                continue
            fold_of = folds_of(task, whole, cfg.folds, seed)[encoded.example]
            parts = [load_logits(output / x.member.path) for x in folds]
            # The examples of a fold may have fewer choices than those of another.
            shape = np.max([part.shape[1:] for part in parts], axis=0)
            logits = np.full((len(encoded), *shape), MASKED_SCORE, np.float32)
            for outcome, part in zip(folds, parts, strict=True):
                rows = np.flatnonzero(fold_of == outcome.member.fold)
                logits[np.ix_(rows, *map(np.arange, part.shape[1:]))] = part
            place = output / out_of_fold_path(setting, seed)
            place.mkdir(parents=True, exist_ok=True)
            save_logits(place, logits)
            judged = Judged(logits, encoded, whole, outputs)
            scores = task.fitted_to(judged).scores(judged)
            found.setdefault(setting, {})[seed] = scores
    return OutOfFold(found, whole.sha256())


def out_of_fold_path(setting: Setting, seed: int) -> pathlib.Path:
    """Where a sweep keeps the logits of all folds together."""
    return pathlib.Path("out-of-fold", setting.name, f"seed-{seed}")


def table(task: Task, outcomes: Sequence[Outcome], results: Mapping[str, Any]) -> str:
    """All runs and all settings, as text."""
    with_folds = any(x.member.fold is not None for x in outcomes)
    shown = {name for x in outcomes for name in x.scores}
    metrics = [metric for metric in task.metrics if metric.name in shown]
    rows = [
        [
            "learning rate",
            "epochs",
            "seed",
            *(["fold"] if with_folds else []),
            *(metric.title for metric in metrics),
        ]
    ]
    empty = [""] if with_folds else []
    for entry in results["settings"]:
        setting = Setting(*(entry[name] for name in Setting._fields))
        first = [f"{setting.learning_rate:g}", str(setting.num_epochs)]
        for outcome in outcomes:
            if outcome.member.setting != setting:
                continue
            row = [*first, str(outcome.member.seed)]
            if with_folds:
                row.append(str(outcome.member.fold))
            scores = outcome.scores
            none = "" if scores else "failed"
            row += [
                m.form_of(scores[m.name]) if m.name in scores else none for m in metrics
            ]
            rows.append(row)
        runs = entry["num_runs"] - entry["num_failed"]
        rows.append([*first, f"mean of {runs}", *empty, *_said(metrics, entry)])
        if pooled := entry.get("out_of_fold"):
            name = f"all folds, {len(pooled['by_seed'])} seeds"
            rows.append([*first, name, *empty, *_said(metrics, pooled)])
    return "\n".join(aligned(rows))


def _said(metrics: Sequence[Metric], entry: Mapping[str, Any]) -> list[str]:
    said = []
    for metric in metrics:
        mean, std = (entry[name].get(metric.name) for name in ("mean", "std"))
        text = "" if mean is None else metric.form_of(mean)
        said.append(text if std is None else f"{text} ± {metric.form_of(std)}")
    return said


def conclusion(task: Task, results: Mapping[str, Any]) -> str:
    """What the table means, in words."""
    lines = ["mean ± standard deviation (n - 1) over the runs of a setting"]
    if results["folds"]:
        lines.append(
            "The folds share most of their training examples, so the deviation over folds "
            "is no standard error of the mean (Bengio & Grandvalet 2004)."
        )
    num_failed = sum(x["num_failed"] for x in results["settings"])
    if num_failed:
        lines.append(f"{num_failed} runs failed; their setting cannot be chosen.")
    metric = task.deciding([results["metric"]])
    chosen = results["chosen"]
    if chosen and len(results["settings"]) > 1:
        best = "largest" if metric.larger_is_better else "smallest"
        said, title = Setting(**chosen).say(), f"{best} mean {metric.title}"
        whole = [x for x in results["settings"] if not x["num_failed"]]
        means = [x["mean"][metric.name] for x in whole]
        extreme = max(means) if metric.larger_is_better else min(means)
        num_tied = sum(math.isclose(mean, extreme) for mean in means)
        num_settings = len(results["settings"])
        lines.append(
            f"{said} has the {title} of {num_settings} settings."
            if num_tied == 1
            else f"{num_tied} of {num_settings} settings tie with the {title}; {said} is "
            "taken."
        )
        lines[-1] += (
            " It was chosen on the examples that it is judged on, which flatters its score: "
            "to report a score, judge it on a test file that had no part in the choice."
        )
    return "\n".join(lines)
