"""Compares two encoders by what they answered to the same labelled examples."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bert_jax.config import FinetuneConfig
from bert_jax.data.labelled.examples import EncodedExamples
from bert_jax.train.aligned import aligned
from bert_jax.train.held_out_logits import load_logits
from bert_jax.train.runs.results_file import load_results
from bert_jax.train.runs.run import load_run, load_run_config, load_run_tokenizer
from bert_jax.train.sweeps.grid import Setting, whole_file
from bert_jax.train.sweeps.significance import differences
from bert_jax.train.sweeps.summary import out_of_fold_path
from bert_jax.train.task_files import check_unchanged, read_held_out
from bert_jax.train.tasks import Task, task_named, task_of
from bert_jax.train.tasks.task import Judged


class Side(NamedTuple):
    """One of the two encoders."""

    task: Task
    runs: Sequence[Judged]
    sha256: str
    """Identity of the examples, their order included."""
    what: str
    """Which runs count, in words."""
    chosen: bool
    """Whether their setting was chosen by the same examples."""


def compare(
    a: pathlib.Path,
    b: pathlib.Path,
    *,
    resamples: int = 10_000,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """The difference of every metric between two encoders, with its interval and p-value.

    Args:
        a, b: directories of finished runs of `finetune`, or of finished sweeps.
        resamples: number of resamples of the bootstrap.
        seed: seed of the resamples.
        progress: called with the numbers of resamples done and of all.

    Raises:
        FileNotFoundError: there is no finished run or sweep.
        ValueError: the tasks or the held-out examples differ, or a held-out file has
            changed since a run was judged on it.
    """
    sides = {path: _side(path) for path in (a, b)}
    first, second = sides[a], sides[b]
    if first.task.name != second.task.name:
        raise ValueError(
            f"{a} has the task {first.task.name!r} and {b} {second.task.name!r}; two "
            "encoders can be compared on one task."
        )
    if first.sha256 != second.sha256:
        raise ValueError(
            f"{a} and {b} were judged on different examples (SHA-256 {first.sha256[:12]} "
            f"and {second.sha256[:12]}). Fine-tune both with the same held-out file."
        )
    found = differences(
        first.task,
        first.runs,
        second.runs,
        resamples=resamples,
        seed=seed,
        progress=progress,
    )
    return {
        "kind": "comparison",
        "task": first.task.name,
        "a": {"path": str(a), "runs": len(first.runs), "what": first.what},
        "b": {"path": str(b), "runs": len(second.runs), "what": second.what},
        "chosen": first.chosen or second.chosen,
        "num_examples": len(first.runs[0].examples),
        "sha256": first.sha256,
        "resamples": resamples,
        "seed": seed,
        "metrics": {
            name: {**x._asdict(), "difference": x.difference}
            for name, x in found.items()
        },
    }


def describe(found: dict[str, Any]) -> str:
    """A comparison as a table, and what it means in words."""
    titles = {m.name: m for m in task_named(found["task"]).metrics}
    rows = [["", "A", "B", "A - B", "95% interval", "p"]]
    for name, x in found["metrics"].items():
        form = titles[name].form
        signed = f"+{form}"
        rows.append(
            [
                titles[name].title,
                f"{x['a']:{form}}",
                f"{x['b']:{form}}",
                f"{x['difference']:{signed}}",
                f"{x['low']:{signed}} to {x['high']:{signed}}",
                f"{x['p_value']:.4f}",
            ]
        )
    lines = [f"{side.upper()}: {found[side]['what']}" for side in ("a", "b")]
    lines += aligned(rows)
    runs = [found[side]["runs"] for side in ("a", "b")]
    both = "examples" if max(runs) == 1 else "examples and runs"
    lines.append(
        f"Paired bootstrap over the {both}: {found['num_examples']:,} examples, "
        f"{found['resamples']:,} resamples, two-sided p."
    )
    if min(runs) == 1:
        lines.append(
            "A side with a single run does not show how much its seed matters: another "
            "seed may give another sign. `bert-jax sweep` makes several."
        )
    elif min(runs) < 5:
        lines.append(
            f"{min(runs)} seeds say little about how much seeds matter: the interval is "
            "somewhat too narrow."
        )
    if found["chosen"]:
        lines.append(
            "The setting of a sweep was chosen by these examples, which flatters it."
        )
    return "\n".join(lines)


def _side(path: pathlib.Path) -> Side:
    found = load_results(path)
    if found is None:
        raise FileNotFoundError(
            f"{path} holds no results.json; expected a finished run of `bert-jax "
            "finetune`, or a finished `bert-jax sweep`."
        )
    if found.get("kind") == "sweep":
        return _side_of_sweep(path, found)
    return _side_of_runs([path], path, f"{path}, one run", chosen=False)


def _side_of_sweep(path: pathlib.Path, found: dict[str, Any]) -> Side:
    if found["chosen"] is None:
        raise ValueError(
            f"{path} has no setting whose runs all finished; see its results.json."
        )
    setting = Setting(**found["chosen"])
    of_setting = [
        entry
        for entry in found["runs"]
        if Setting(*(entry[name] for name in Setting._fields)) == setting
    ]
    what = f"{path}, {setting.say()}, {len(found['seeds'])} seeds"
    chosen = len(found["settings"]) > 1
    if found["folds"] is None:
        runs = [path / entry["run"] for entry in of_setting]
        return _side_of_runs(runs, path, what, chosen=chosen)
    places = [path / out_of_fold_path(setting, seed) for seed in found["seeds"]]
    what += f", all {found['folds']} folds together"
    cfg, task = _settings(path / of_setting[0]["run"])
    examples, outputs = whole_file(task, cfg.task)
    check_unchanged(examples, found["folds_sha256"])
    if not task.scores_alone(examples):
        raise ValueError(
            f"{path} is a sweep of matching pairs with --folds {found['folds']}: the "
            "vectors of each fold are of another encoder, so all folds cannot be judged "
            "together. Compare sweeps with one held-out file (--dev)."
        )
    first = path / of_setting[0]["run"]  # the rows of all folds are as long as its rows
    judged = _judged([(first, place) for place in places], task, examples, outputs)
    return Side(task, judged, found["folds_sha256"], what, chosen)


def _side_of_runs(
    runs: Sequence[pathlib.Path], path: pathlib.Path, what: str, *, chosen: bool
) -> Side:
    hashes = {load_run(run, "finetune").data["validation"] for run in runs}
    if len(hashes) > 1:
        raise ValueError(
            f"The runs of {path} were judged on different examples, so they cannot be "
            "compared with other runs; sweep with one held-out file."
        )
    (sha256,) = hashes
    cfg, task = _settings(runs[0])
    examples = read_held_out(task, cfg.task, sha256)
    outputs = load_run(runs[0]).labels or ()
    judged = _judged([(run, run) for run in runs], task, examples, outputs)
    return Side(task, judged, sha256, what, chosen)


def _settings(run: pathlib.Path) -> tuple[FinetuneConfig, Task]:
    cfg = load_run_config(run)
    assert isinstance(cfg, FinetuneConfig)
    return cfg, task_of(cfg)


def _judged(
    answers: Sequence[tuple[pathlib.Path, pathlib.Path]],
    task: Task,
    examples: Any,
    outputs: Sequence[str],
) -> list[Judged]:
    """Logits of runs with one tokenizer, from pairs of a run and the place they are in."""
    tokenizer = load_run_tokenizer(answers[0][0])
    rows: dict[int, EncodedExamples] = {}
    judged = []
    for run, place in answers:
        length = _settings(run)[0].sequence_length
        assert length is not None
        if length not in rows:
            rows[length] = task.encode(tokenizer, examples, outputs, length)
        judged.append(Judged(load_logits(place), rows[length], examples, outputs))
    return judged
