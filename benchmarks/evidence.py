"""What some minutes of this machine buy: a BERT, pretrained and judged on seven tasks.

    python -m benchmarks.evidence --tasks DIR [--source SPEC] [--minutes 16]

Prepares text, measures the speed of a step, pretrains for a fixed number of minutes, and
fine-tunes on SST-2, CoLA, MRPC, STS-B, TREC, WNUT17 and SQuAD, each from these weights and
from random ones with the same settings and seeds. The model is BERT-tiny on a CPU,
BERT-base on a GPU or TPU. Writes `evidence-MACHINE-DATE.md` and `.json`. Stopped by Ctrl-C
or SIGTERM, it writes what there is, and the same command goes on.
"""

import dataclasses
import itertools
import os
import pathlib
import sys
from typing import Any

import tyro

from benchmarks.machine import RESULTS, measure_peaks, start_report
from benchmarks.recipes import BASE, TASKS, TINY, Recipe, Task
from benchmarks.results import Report, Table
from bert_jax.config import (
    PrepareOptions,
    PretrainConfig,
    TaskConfig,
    TokenizerOptions,
)
from bert_jax.runtime.start import HUGE_PAGES

# Thousands of pieces need no more text than this.
_MOST_VOCAB_BYTES = 16 << 20
_HELD_OUT = 0.02
_ARMS = ("random weights", "pretrained")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Pretrains for some minutes, fine-tunes on some tasks, records scores and cost."""

    tasks: pathlib.Path
    """Folder with the folders sst2, cola, mrpc and stsb (train.tsv and dev.tsv in each), trec
    (train.txt), wnut17 (train.conll and dev.conll) and squad (train.json and dev.json)."""
    only: tuple[str, ...] = ()
    """Names of tasks to fine-tune on. Default: all of them."""
    source: str = "docs:"
    """Text, as `bert-jax prepare` takes it. Default: installed documentation."""
    minutes: float | None = None
    """Length of the pretraining, compiling included; all else comes on top. Default: 16
    on a CPU, 20 elsewhere."""
    seeds: int = 1
    """Fine-tunings of each task from either kind of weights."""
    folder: pathlib.Path = pathlib.Path("evidence")
    """Directory of everything that is made. Started again with it, the run goes on."""
    output: pathlib.Path = RESULTS
    """Folder of the two result files."""

    def chosen(self) -> dict[str, Task]:
        """The tasks to fine-tune on, with their files.

        Raises:
            ValueError: there is no task of a name, no seed or no time.
            FileNotFoundError: a file of a task does not exist.
        """
        if self.seeds < 1:
            raise ValueError(f"--seeds {self.seeds}: expected 1 or more.")
        if self.minutes is not None and self.minutes <= 0.0:
            raise ValueError(f"--minutes {self.minutes}: expected more than 0.")
        if unknown := sorted(set(self.only) - set(TASKS)):
            raise ValueError(
                f"--only {' '.join(unknown)}: no such task; there are {', '.join(TASKS)}."
            )
        chosen = [name for name in TASKS if not self.only or name in self.only]
        return {name: self._located(name) for name in chosen}

    def _located(self, name: str) -> Task:
        """The task with its files."""
        folder, task = self.tasks.resolve() / name, TASKS[name]
        train, dev = folder / task.train, folder / task.dev
        is_share = isinstance(task.config.dev, float)
        for path in (train,) if is_share else (train, dev):
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path} does not exist; it should hold examples of {task.title}. "
                    "Give the folder of the tasks with --tasks, or choose among them with "
                    "--only."
                )
        config = dataclasses.replace(
            task.config, train=train, dev=task.config.dev if is_share else dev
        )
        return task._replace(config=config)


@dataclasses.dataclass
class Evidence:
    """One run of the benchmark, and what it has found so far."""

    options: Options
    recipe: Recipe
    tasks: dict[str, Task]
    peak_tflops: float
    pretrained: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Results of the pretraining."""
    tuned: dict[tuple[str, str], list[dict[str, Any]]] = dataclasses.field(
        default_factory=dict
    )
    """Results of the fine-tunings of each task and arm."""
    simple: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """Scores of the models without a neural network, for the tasks that have them."""

    def go_through(self) -> None:
        """Does all of it; what was finished before is not done again.

        Raises:
            ValueError: the time or the settings do not fit, or the folder holds others.
            InterruptedRunError: a signal came; a checkpoint was written.
        """
        from bert_jax.train.baselines import baselines
        from bert_jax.train.finetune import finetune
        from bert_jax.train.planned_steps import with_planned_steps
        from bert_jax.train.pretrain import pretrain

        folder = self.options.folder
        minutes = self.options.minutes or self.recipe.minutes
        cfg = with_planned_steps(self._prepare(), minutes, folder / "pretrain")
        self.pretrained = pretrain(cfg, folder / "pretrain")
        seeds = range(self.options.seeds)
        for name, task in self.tasks.items():
            of_questions = task.config.kind == "spans"
            cfg_of_task = dataclasses.replace(
                task.config,
                max_train=(
                    self.recipe.max_questions if of_questions else self.recipe.max_train
                ),
            )
            if name == "trec":
                train = write_trec(task.config.train, folder / "trec.tsv")
                cfg_of_task = dataclasses.replace(cfg_of_task, train=train)
            self.tasks[name] = task._replace(config=cfg_of_task)
            if has_baselines(cfg_of_task):
                found = baselines(cfg_of_task, folder / f"{name}-baselines")
                self.simple[name] = found["baselines"]
        for name, seed, arm in itertools.product(self.tasks, seeds, _ARMS):
            print(f"{name}, {arm}, seed {seed}", flush=True)
            tuning = dataclasses.replace(
                self.recipe.finetune,
                checkpoint=folder / "pretrain",
                from_scratch=arm != "pretrained",
                task=self.tasks[name].config,
                compute=cfg.compute,
                seed=seed,
            )
            results = finetune(tuning, folder / f"{name}-{arm.split()[0]}-{seed}")
            self.tuned.setdefault((name, arm), []).append(results)

    def _prepare(self) -> PretrainConfig:
        """Makes tokenizer and dataset; the recipe's settings with these."""
        from bert_jax.data.prepared.prepare import prepare
        from bert_jax.data.tokenizers.tokenizer_training import train_tokenizer

        folder, source = self.options.folder, self.options.source
        cfg = self.recipe.pretrain
        settings = TokenizerOptions(
            kind="wordpiece",
            vocab_size=cfg.model.vocab_size,
            max_bytes=_MOST_VOCAB_BYTES,
        )
        made = train_tokenizer(source, folder / "tokenizer", settings)
        held_out = PrepareOptions(validation_fraction=_HELD_OUT)
        prepare(source, folder / "tokenizer", folder / "dataset", held_out)
        size = made.tokenizer.vocab_size
        return dataclasses.replace(
            cfg,
            model=dataclasses.replace(cfg.model, vocab_size=size),
            data=dataclasses.replace(cfg.data, dataset=folder / "dataset"),
            loop=dataclasses.replace(cfg.loop, peak_tflops=self.peak_tflops),
        )


def has_baselines(cfg: TaskConfig) -> bool:
    """Whether the task has models without a neural network to compare with."""
    from bert_jax.train.tasks import task_named
    from bert_jax.train.tasks.task import Task as AnyTask

    return type(task_named(cfg.kind)).baselines is not AnyTask.baselines


def write_trec(source: pathlib.Path | None, path: pathlib.Path) -> pathlib.Path:
    """Writes the coarse classes and the questions of TREC as a table."""
    assert source is not None
    rows = ["label\ttext"]
    for line in source.read_text("latin-1").splitlines():
        label, _, rest = line.partition(":")
        rows.append(f"{label}\t{rest.partition(' ')[2]}")
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def add_scores(evidence: Evidence, table: Table) -> None:
    """A row for each score of each task, its values over the seeds."""
    for name, task in evidence.tasks.items():
        arms = {arm: evidence.tuned.get((name, arm), []) for arm in _ARMS}
        first = next((x for results in arms.values() for x in results), None)
        if first is None:
            continue
        for score in task.scores:
            of = f"{task.title}, {score}"
            table.add(of, "training examples", "", first["num_train"])
            if score in first["constant"]:
                constant = 100.0 * first["constant"][score]
                table.add(of, "one answer for all", "%", constant)
            tfidf = evidence.simple.get(name, {}).get("tfidf_logistic_regression", {})
            if score in tfidf:
                table.add(of, "TF-IDF + logistic regression", "%", 100.0 * tfidf[score])
            values = {
                arm: [100.0 * one["eval"][score] for one in results]
                for arm, results in arms.items()
            }
            for arm in filter(values.get, _ARMS):
                table.add(of, arm, "%", *values[arm])
            # Seed by seed, where both have ended.
            pairs = zip(*(values[arm] for arm in reversed(_ARMS)), strict=False)
            if gains := [mine - its for mine, its in pairs]:
                table.add(of, "gain", "points", *gains)
    table.end()


def add_pretraining(evidence: Evidence, table: Table) -> None:
    """Quality and cost of the pretraining; the run's own report shows its course."""
    from bert_jax.train.monitoring.metrics import read_metrics

    lines = read_metrics(evidence.options.folder / "pretrain")
    last = [line for line in lines if line["kind"] == "eval"][-1]
    wall = evidence.pretrained["goodput"]["wall_secs"]
    of = f"{last['step']:,} steps"
    table.add(of, "wall", "minutes", wall / 60.0)
    table.add(of, "held-out MLM loss", "nats", last["mlm_loss"])
    table.add(of, "MLM accuracy", "%", 100.0 * last["mlm_accuracy"])
    if "nsp_accuracy" in last:
        table.add(of, "NSP accuracy", "%", 100.0 * last["nsp_accuracy"])
    # The first window compiles.
    timed = [line for line in lines if line["kind"] == "train" and "mfu" in line][1:]
    if timed:
        rates = [line["tokens_per_sec"] for line in timed]
        table.add(of, "real tokens", "/s", *rates)
        table.add(of, "MFU", "%", *(100.0 * line["mfu"] for line in timed))
    table.end()


def report_on(evidence: Evidence, report: Report) -> None:
    """Adds the tables of what there is, once the pretraining has ended."""
    about = (
        "Medians and ranges over the seeds. Settings and seeds are the same for both kinds "
        "of weights, and none was chosen by a score."
    )
    add_scores(evidence, report.table("Scores on the dev sets", about))
    results = evidence.pretrained
    about = (
        f"{results['num_parameters']:,} parameters, {results['num_tokens'] / 1e6:,.1f} M "
        "tokens of text. A model that knows only how often each piece occurs has a loss of "
        f"{results['unigram_entropy']:.3f} nats. MFU is the share of the FLOP/s that "
        "a large matrix product had on one device when the pretraining began."
    )
    add_pretraining(evidence, report.table("Pretraining", about))


def run(options: Options) -> int:
    """The whole benchmark; returns the exit code."""
    from bert_jax.train.stop_request import InterruptedRunError

    settings = {"source": options.source, "seeds": options.seeds}
    with start_report("evidence", settings, options.output) as report:
        tasks = options.chosen()
        platform = report.machine["accelerator"]["platform"]
        recipe = TINY if platform == "cpu" else BASE
        settings["minutes"] = options.minutes or recipe.minutes
        peaks = measure_peaks(platform, Table("Peak of a large matrix product"))
        peak = peaks[recipe.pretrain.compute.dtype] / 1e12
        evidence = Evidence(options, recipe, tasks, peak)
        try:
            evidence.go_through()
        except InterruptedRunError as error:
            raise KeyboardInterrupt from error
        finally:
            if evidence.pretrained:
                report_on(evidence, report)
    return report.exit_code


def main() -> int:
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        # As the command `bert-jax` does: glibc reads this at the start of a process.
        os.environ["GLIBC_TUNABLES"] = HUGE_PAGES
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    return run(tyro.cli(Options, description=__doc__))


if __name__ == "__main__":
    sys.exit(main())
