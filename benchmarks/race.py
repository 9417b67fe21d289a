"""Two recipes of pretraining for equal minutes: the held-out loss over wall time.

    python -m benchmarks.race --dataset DATASET [--minutes 4] [--seeds 3] [--tasks FOLDER]

BERT's recipe (MLM and NSP, norm after the blocks, AdamW) against one of today's options, with
the same text, vocabulary, width, layers, rows and number of parameters within 1 %. Seed by
seed, one run after the other, each in a process of its own; compiling and evaluating count.
Every evaluation masks 15 %. With tasks, every run is fine-tuned on them afterwards, in the
same way. Writes `race-MACHINE-DATE.md` and `.json`.
"""

import concurrent.futures
import dataclasses
import itertools
import multiprocessing
import os
import pathlib
import sys

import tyro

from benchmarks.machine import RESULTS, start_report
from benchmarks.recipes import MODERN_TINY, TASKS, TINY
from benchmarks.results import Table
from bert_jax.config import PretrainConfig
from bert_jax.runtime.start import HUGE_PAGES

_RECIPES = {"BERT's": TINY.pretrain, "today's": MODERN_TINY}
_TASKS = ("sst2", "cola", "mrpc", "stsb")
_EVALUATIONS = 200  # steps from one to the next


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Pretrains with each recipe for some minutes, and compares the held-out losses."""

    dataset: pathlib.Path
    """Directory that `bert-jax prepare` wrote."""
    minutes: float = 4.0
    """Length of each pretraining, compiling included."""
    seeds: int = 3
    """Runs of each recipe."""
    tasks: pathlib.Path | None = None
    """Folder with the folders sst2, cola, mrpc and stsb (train.tsv and dev.tsv in each).
    Default: nothing is fine-tuned."""
    folder: pathlib.Path = pathlib.Path("race")
    """Directory of the runs. Started again with it, finished runs are not made again."""
    output: pathlib.Path = RESULTS
    """Folder of the two result files."""


def _config(name: str, options: Options, vocab_size: int, seed: int) -> PretrainConfig:
    cfg = _RECIPES[name]
    return dataclasses.replace(
        cfg,
        model=dataclasses.replace(cfg.model, vocab_size=vocab_size),
        data=dataclasses.replace(cfg.data, dataset=options.dataset),
        loop=dataclasses.replace(cfg.loop, eval_every_steps=_EVALUATIONS),
        seed=seed,
    )


def _pretrain(cfg: PretrainConfig, minutes: float, run: pathlib.Path) -> None:
    from bert_jax.train.planned_steps import with_planned_steps
    from bert_jax.train.pretrain import pretrain

    pretrain(with_planned_steps(cfg, minutes, run), run)


def _tune(run: pathlib.Path, folder: pathlib.Path, name: str, seed: int) -> dict:
    """Scores of a fine-tuning of `run` on the task with files in `folder`."""
    from bert_jax.train.finetune import finetune

    task = TASKS[name]
    of_task = dataclasses.replace(
        task.config,
        train=folder / name / task.train,
        dev=folder / name / task.dev,
        max_train=TINY.max_train,
    )
    cfg = dataclasses.replace(TINY.finetune, checkpoint=run, task=of_task, seed=seed)
    scores: dict = finetune(cfg, run.with_name(f"{run.name}-{name}"))["eval"]
    return scores


def _course(run: pathlib.Path) -> list[tuple[float, float]]:
    """(minutes since the start of the run, held-out MLM loss) of each evaluation."""
    from bert_jax.train.monitoring.metrics import read_metrics

    course, minutes = [], 0.0
    for line in read_metrics(run):
        if line["kind"] == "train":
            minutes = line["elapsed_secs"] / 60.0
        elif line["kind"] == "eval":
            course.append((minutes, line["mlm_loss"]))
    return course


def _minutes_to(course: list[tuple[float, float]], loss: float) -> float:
    """When the loss was first at most `loss`, on a straight line between evaluations."""
    for (start, before), (end, after) in itertools.pairwise(course):
        if after <= loss:
            return start + (end - start) * (before - loss) / (before - after)
    return float("nan")


def add_results(
    courses: dict[str, list[list[tuple[float, float]]]], table: Table
) -> None:
    """The last losses, and when today's recipe passed the last loss of BERT's."""
    for name, runs in courses.items():
        table.add(name, "wall", "minutes", *(course[-1][0] for course in runs))
        table.add(name, "held-out MLM loss", "nats", *(c[-1][1] for c in runs))
    pairs = list(zip(*courses.values(), strict=False))
    reached = [_minutes_to(mine, its[-1][1]) for its, mine in pairs]
    table.add("today's", "passes BERT's last loss after", "minutes", *reached)
    shares = [t / its[-1][0] for t, (its, _) in zip(reached, pairs, strict=True)]
    table.add("today's", "that share of BERT's time", "", *shares)
    table.end()


def add_scores(scores: dict[str, list[dict[str, dict]]], table: Table) -> None:
    """The scores of each recipe's runs, by task."""
    for name, runs in scores.items():
        for task in _TASKS:
            for score in TASKS[task].scores:
                values = [100.0 * found[task][score] for found in runs]
                table.add(name, f"{TASKS[task].title}, {score}", "%", *values)
    table.end()


def run(options: Options) -> int:
    """The whole benchmark; returns the exit code."""
    from bert_jax.data.tokenizers.saved_tokenizer import load_tokenizer

    os.environ["GLIBC_TUNABLES"] = HUGE_PAGES  # of the processes that it starts
    settings = {"minutes": options.minutes, "seeds": options.seeds}
    with start_report("race", settings, options.output) as report:
        size = load_tokenizer(options.dataset / "tokenizer").vocab_size
        courses: dict[str, list[list[tuple[float, float]]]] = {}
        scores: dict[str, list[dict[str, dict]]] = {}
        spawn = multiprocessing.get_context("spawn")
        for seed in range(options.seeds):
            for number, name in enumerate(_RECIPES):
                folder = options.folder / f"{number}-{seed}"
                cfg = _config(name, options, size, seed)
                with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
                    pool.submit(_pretrain, cfg, options.minutes, folder).result()
                    if options.tasks is not None:
                        found = {
                            task: pool.submit(
                                _tune, folder, options.tasks, task, seed
                            ).result()
                            for task in _TASKS
                        }
                        scores.setdefault(name, []).append(found)
                courses.setdefault(name, []).append(_course(folder))
        about = "Medians and ranges over seeds; times and shares seed by seed."
        add_results(courses, report.table("Held-out loss over wall time", about))
        if scores:
            about = f"{TINY.max_train:,} examples of each at most; medians and ranges."
            add_scores(scores, report.table("Scores after fine-tuning", about))
        for name, runs in courses.items():
            points = "; ".join(f"{t:.2f} min {loss:.3f}" for t, loss in runs[0])
            report.remarks.append(f"{name} recipe, seed 0: {points}.")
    return report.exit_code


if __name__ == "__main__":
    sys.exit(run(tyro.cli(Options, description=__doc__)))
