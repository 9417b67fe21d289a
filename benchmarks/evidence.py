"""What some minutes of this machine buy: a BERT, pretrained and judged on four tasks.

    python -m benchmarks.evidence [--model base|small|mini|tiny] [--minutes 20]

Prepares text, measures the speed of a step, pretrains for a fixed number of minutes, and
fine-tunes on SST-2, CoLA, MRPC and STS-B, each from these weights and from random ones with
the same settings and seeds. Writes `evidence-MACHINE-DATE.md` and `.json`. Stopped by Ctrl-C
or SIGTERM, it writes what there is, and the same command goes on.
"""

import dataclasses
import itertools
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import tyro

from benchmarks.data import default_source, default_vocab
from benchmarks.machine import measure_peaks, start_report
from benchmarks.recipes import (
    RECIPES,
    TASKS,
    Model,
    Recipe,
    Task,
    constant_score,
)
from benchmarks.results import Report, Table
from bert_jax.config import PrepareOptions, PretrainConfig, TokenizerOptions
from bert_jax.data.atomic_file import write_atomically
from bert_jax.runtime.start import HUGE_PAGES

_HERE = pathlib.Path(__file__).resolve().parent
# Thousands of pieces need no more text than this.
_MOST_VOCAB_BYTES = 16 << 20
_HELD_OUT = 0.02
_ARMS = ("random weights", "pretrained")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Pretrains for some minutes, fine-tunes on four tasks, records scores and cost."""

    model: Model | None = None
    """Size of the model. Default: base on a GPU or TPU, tiny on a CPU."""
    minutes: float | None = None
    """Length of the pretraining, compiling included; all else comes on top. Default: 20
    for base, 16 for the others."""
    source: str = default_source()
    """Text, as `bert-jax prepare` takes it."""
    tasks: pathlib.Path = _HERE.parents[1] / "shared" / "data"
    """Folder with the folders sst2, cola, mrpc and stsb, each with train.tsv and dev.tsv."""
    only: tuple[str, ...] = ()
    """Names of tasks to fine-tune on. Default: all four."""
    seeds: int = 1
    """Fine-tunings of each task from either kind of weights."""
    folder: pathlib.Path = pathlib.Path("evidence")
    """Directory of everything that is made. Started again with it, the run goes on."""
    output: pathlib.Path = _HERE / "results"
    """Folder of the two result files."""

    def chosen(self) -> dict[str, Task]:
        """The tasks to fine-tune on.

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
        chosen = {x: TASKS[x] for x in TASKS if not self.only or x in self.only}
        for name, task in chosen.items():
            task.located(self.tasks / name, None)
        return chosen


@dataclasses.dataclass
class Evidence:
    """One run of the benchmark, and what it has found so far."""

    options: Options
    recipe: Recipe
    tasks: dict[str, Task]
    platform: str
    peak_tflops: float
    plan: dict[str, float] = dataclasses.field(default_factory=dict)
    pretrained: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Results of the pretraining."""
    tuned: dict[tuple[str, str], list[dict[str, Any]]] = dataclasses.field(
        default_factory=dict
    )
    """Results of the fine-tunings of each task and arm."""

    def go_through(self) -> None:
        """Does all of it; what was finished before is not done again.

        Raises:
            ValueError: the time or the settings do not fit, or the folder holds others.
            InterruptedRunError: a signal came; a checkpoint was written.
        """
        from bert_jax.train.finetune import finetune
        from bert_jax.train.pretrain import pretrain

        folder = self.options.folder
        dataset, vocab_size = self._prepare()

        def config(num_steps: int) -> PretrainConfig:
            return self.recipe.pretraining(
                dataset,
                vocab_size=vocab_size,
                platform=self.platform,
                peak_tflops=self.peak_tflops,
                num_steps=num_steps,
                seed=0,
            )

        self.plan = self._planned(config(num_steps=100_000))
        cfg = config(int(self.plan["num_steps"]))
        self.pretrained = pretrain(cfg, folder / "pretrain")
        seeds = range(self.options.seeds)
        for name, seed, arm in itertools.product(self.tasks, seeds, _ARMS):
            print(f"{name}, {arm}, seed {seed}", flush=True)
            tuning = dataclasses.replace(
                self.recipe.finetune,
                checkpoint=folder / "pretrain",
                from_scratch=arm != "pretrained",
                task=self.tasks[name].located(
                    self.options.tasks / name, self.recipe.max_train
                ),
                compute=cfg.compute,
                seed=seed,
            )
            results = finetune(tuning, folder / f"{name}-{arm.split()[0]}-{seed}")
            self.tuned.setdefault((name, arm), []).append(results)

    def _prepare(self) -> tuple[pathlib.Path, int]:
        """(directory of the dataset, pieces of its tokenizer)."""
        from bert_jax.data.prepared.prepare import prepare
        from bert_jax.data.tokenizers.tokenizer_training import (
            train_tokenizer,
            wrap_vocab,
        )

        vocab = default_vocab() if self.recipe.vocab_size is None else None
        folder = self.options.folder
        tokenizer, dataset = folder / "tokenizer", folder / "dataset"
        if vocab is None:
            settings = TokenizerOptions(
                kind="wordpiece",
                vocab_size=self.recipe.vocab_size or TokenizerOptions().vocab_size,
                max_bytes=_MOST_VOCAB_BYTES,
            )
            made = train_tokenizer(self.options.source, tokenizer, settings)
        else:
            made = wrap_vocab(vocab, tokenizer, lowercase=True)
        held_out = PrepareOptions(validation_fraction=_HELD_OUT)
        prepare(self.options.source, tokenizer, dataset, held_out)
        return dataset, made.tokenizer.vocab_size

    def _planned(self, cfg: PretrainConfig) -> dict[str, float]:
        """The number of steps that fit, which a later call finds on disk."""
        from bert_jax.train.planned_steps import planned_steps

        path = self.options.folder / "plan.json"
        if not path.exists():
            plan = planned_steps(cfg, self.recipe.minutes)
            write_atomically(path, json.dumps(plan._asdict()))
        return json.loads(path.read_text())


def add_scores(evidence: Evidence, table: Table) -> None:
    """A row for each score of each task, its values over the seeds."""
    for name, task in evidence.tasks.items():
        arms = {arm: evidence.tuned.get((name, arm), []) for arm in _ARMS}
        first = next((x for results in arms.values() for x in results), None)
        if first is None:
            continue
        for measure, title in task.measures.items():
            of = f"{task.title}, {title}"
            table.add(of, "training examples", "", first["num_train"])
            constant = 100.0 * constant_score(measure, first)
            table.add(of, "one answer for all", "%", constant)
            values = {
                arm: [100.0 * one["eval"][measure] for one in results]
                for arm, results in arms.items()
            }
            for arm in filter(values.get, _ARMS):
                table.add(of, arm, "%", *values[arm])
            # Seed by seed, where both have ended.
            pairs = zip(*(values[arm] for arm in reversed(_ARMS)), strict=False)
            if gains := [mine - its for mine, its in pairs]:
                table.add(of, "gain", "points", *gains)
    table.end()


def add_curve(lines: Sequence[dict[str, Any]], table: Table) -> None:
    """A row for each evaluation of a pretraining."""
    minutes = 0.0
    for line in lines:
        if line["kind"] == "train":
            minutes = line["elapsed_secs"] / 60.0
        elif line["kind"] == "eval":
            of = f"step {line['step']:,}"
            table.add(of, "training", "minutes", minutes)
            table.add(of, "held-out MLM loss", "nats", line["mlm_loss"])
            for name, said in (("mlm", "MLM"), ("nsp", "NSP")):
                accuracy = 100.0 * line[f"{name}_accuracy"]
                table.add(of, f"{said} accuracy", "%", accuracy)
    table.end()


def add_cost(evidence: Evidence, lines: Sequence[dict[str, Any]], table: Table) -> None:
    """Seconds by kind, speed and MFU of the pretraining, and seconds of a fine-tuning."""
    for name, seconds in evidence.pretrained["goodput"].items():
        if name != "share":
            words = name.removesuffix("_secs").replace("_", " ")
            table.add("pretraining", words, "s", seconds)
    # The first window compiles.
    timed = [line for line in lines if line["kind"] == "train" and "mfu" in line][1:]
    if timed:
        rates = [line["tokens_per_sec"] for line in timed]
        table.add("pretraining", "real tokens", "/s", *rates)
        table.add("pretraining", "MFU", "%", *(100.0 * line["mfu"] for line in timed))
    tuned = [one for results in evidence.tuned.values() for one in results]
    if tuned:
        seconds = [one["goodput"]["wall_secs"] for one in tuned]
        table.add("a fine-tuning", "wall", "s", *seconds)
    table.end()


def report_on(evidence: Evidence, report: Report) -> None:
    """Adds the tables of what there is, once the pretraining has ended."""
    from bert_jax.train.metrics import read_metrics

    results, plan = evidence.pretrained, evidence.plan
    lines = read_metrics(evidence.options.folder / "pretrain")
    about = (
        "Medians and ranges over the seeds. Settings and seeds are the same for both kinds "
        "of weights, and none was chosen by a score."
    )
    add_scores(evidence, report.table("Scores on the dev sets", about))
    about = (
        f"{results['num_parameters']:,} parameters, {results['num_tokens'] / 1e6:,.1f} M "
        "tokens of text. A model that knows only how often each piece occurs has a loss of "
        f"{results['unigram_entropy']:.3f} nats."
    )
    add_curve(lines, report.table("Pretraining", about))
    about = (
        f"A measurement before the run found {plan['step_secs']:.3g} s a step and "
        f"{plan['overhead_secs']:.0f} s to compile and evaluate. MFU is the share of the measured "
        f"{evidence.peak_tflops:.3g} TFLOP/s of one device."
    )
    add_cost(evidence, lines, report.table("Cost", about))


def run(options: Options) -> int:
    """The whole benchmark; returns the exit code."""
    from bert_jax.train.stop_request import InterruptedRunError

    settings = {"source": options.source, "seeds": options.seeds}
    with start_report("evidence", settings, options.output) as report:
        tasks = options.chosen()
        platform = report.machine["accelerator"]["platform"]
        model = options.model or ("tiny" if platform == "cpu" else "base")
        recipe = RECIPES[model]
        recipe = recipe._replace(minutes=options.minutes or recipe.minutes)
        settings |= {"model": model, "minutes": recipe.minutes}
        peaks = measure_peaks(platform, Table("peak"))
        peak = peaks["float32" if platform == "cpu" else "bfloat16"] / 1e12
        evidence = Evidence(options, recipe, tasks, platform, peak)
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
