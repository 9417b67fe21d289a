"""`bert-jax quickstart`: runs the commands that a user would run, on real text.

Every command line is printed before it runs. A command that finds its work done says so
and returns; therefore an interrupted quickstart continues when it is started again.
"""

import dataclasses
import json
import pathlib
import shlex
import time
from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

import tyro

# Fraction of the modules whose text neither pretraining nor fine-tuning sees.
HELD_OUT = "0.08"
SENTENCES = (
    "Return the eigenvalues of a symmetric matrix in ascending order.",
    "The optimizer updates the parameters with the gradient of the loss.",
    "Set the label of the x axis and the size of the legend.",
    "Raise an exception if the file descriptor is not open for reading.",
)


class Chapter(NamedTuple):
    title: str
    commands: tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """How much quickstart does. With the defaults it takes four to seven minutes on two cores."""

    num_steps: int | None = None
    """Number of updates of pretraining. Default: `num_steps` of configs/quickstart.py."""
    vocab_size: int = 4_096
    """Number of pieces in the vocabulary."""
    max_train: int = 4_000
    """Largest number of labelled sentences to fine-tune on."""
    packages: tuple[str, ...] = ()
    """Packages whose documentation is the corpus. Default: the fixed list of
    `bert-jax corpus`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quickstart:
    """Runs every step on real text: from nothing to a classifier in minutes.

    For example: `bert-jax quickstart --output quickstart`.
    """

    output: pathlib.Path = pathlib.Path("quickstart")
    """Directory for all results. The same command continues an unfinished quickstart."""
    size: Annotated[Size, tyro.conf.arg(name="")] = Size()

    def run(self) -> None:
        from bert_jax.cli import main

        quickstart(self.output, main, self.size)


def steps(output: pathlib.Path, size: Size) -> list[Chapter]:
    """The command lines that quickstart runs, each without the leading `bert-jax`."""

    def at(name: str) -> str:
        return shlex.quote(str(output / name))

    def chapter(title: str, *lines: str) -> Chapter:
        return Chapter(title, tuple(tuple(shlex.split(line)) for line in lines))

    packages = shlex.join(("--packages", *size.packages) if size.packages else ())
    num_steps = "" if size.num_steps is None else f"--num-steps {size.num_steps}"
    source = shlex.quote(f"files:{output / 'corpus'}/documents-*.jsonl")
    train, dev = (at(f"corpus/library/{x}.tsv") for x in ("train", "validation"))
    task = f"--train {train} --dev {dev}"
    tune = f"finetune --config quickstart_finetune {task} --checkpoint {at('pretrain')}"
    return [
        chapter(
            "Corpus: the documentation of the Python packages installed here",
            f"corpus --output {at('corpus')} {packages} --task "
            f"--validation-fraction {HELD_OUT} --max-train {size.max_train}",
        ),
        chapter(
            "Vocabulary: SentencePiece with BERT's special tokens",
            f"tokenizer train --source {source} --output {at('tokenizer')} "
            f"--vocab-size {size.vocab_size} --max-sentences 50000",
        ),
        chapter(
            "Prepare: a TFDS dataset of tokenised documents",
            f"prepare --source {source} --tokenizer {at('tokenizer')} "
            f"--validation-fraction {HELD_OUT} --output {at('dataset')}",
            f"inspect {at('dataset')} --rows 3 --data.sequence-length 64 "
            "--data.pairs none",
        ),
        chapter(
            "Pretrain: masked language model, with the parts of ModernBERT",
            f"pretrain --config quickstart --model.vocab-size {size.vocab_size} "
            f"{num_steps} --data.dataset {at('dataset')} --output {at('pretrain')}",
        ),
        chapter(
            "Fine-tune: which library does a sentence come from?",
            f"baselines {task} --output {at('baselines')}",
            f"{tune} --output {at('finetune')}",
            f"{tune} --from-scratch --output {at('finetune_from_scratch')}",
        ),
        chapter("Predict", f"predict {at('finetune')} {shlex.join(SENTENCES)}"),
        chapter(
            "Export to Hugging Face",
            f"export {at('finetune')} --output {at('huggingface')}",
        ),
        chapter(
            "Report",
            f"report --pretrain {at('pretrain')} --finetune {at('finetune')} "
            f"{at('finetune_from_scratch')} --baselines {at('baselines')} "
            f"--output {at('report')} --title 'bert_jax quickstart'",
        ),
    ]


def quickstart(
    output: pathlib.Path,
    run_command: Callable[[Sequence[str]], None],
    size: Size,
) -> None:
    """Runs all commands through `run_command` and prints a summary.

    Args:
        output: directory for all results. With the same directory, an unfinished
            quickstart continues.
        run_command: runs one command; it gets the arguments behind `bert-jax`.
        size: how much to do.
    """
    started = time.perf_counter()
    todo = steps(output, size)
    for number, step in enumerate(todo, 1):
        print(f"\n[{number}/{len(todo)}] {step.title}")
        for argv in step.commands:
            print(f"$ bert-jax {shlex.join(argv)}", flush=True)
            before = time.perf_counter()
            run_command(argv)
            print(f"({time.perf_counter() - before:.0f} s)", flush=True)
    print(f"\n{summary(output)}\n{time.perf_counter() - started:.0f} s in all")


def summary(output: pathlib.Path) -> str:
    """The scores of a finished quickstart as text, one per line."""
    pretrain, finetune, scratch, baselines = (
        json.loads((output / name / "results.json").read_text())
        for name in ("pretrain", "finetune", "finetune_from_scratch", "baselines")
    )
    judged = pretrain["eval"]
    rows = [
        ("majority class", baselines["baselines"]["majority"]),
        (
            "TF-IDF + logistic regression",
            baselines["baselines"]["tfidf_logistic_regression"],
        ),
        ("this model without pretraining", scratch["eval"]),
        ("this model, pretrained", finetune["eval"]),
    ]
    return "\n".join(
        [
            f"held-out MLM loss    {judged['mlm_loss']:.3f} nats   (unigram entropy "
            f"{pretrain['unigram_entropy']:.3f})",
            f"which library, {finetune['num_validation']:,} held-out sentences from "
            f"{len(finetune['labels'])} libraries:",
            *(
                f"  {name:<30} accuracy {s['accuracy']:6.1%}   macro-F1 "
                f"{s['macro_f1']:.3f}"
                for name, s in rows
            ),
            f"report: {output / 'report' / 'report.html'}",
        ]
    )
