"""Fine-tuning from start to end, beside a plain loop of transformers and PyTorch.

    python -m benchmarks.finetune RUN --train train.tsv --dev dev.tsv [--text COLUMN] [--label COLUMN]

Both train a classifier from the same encoder on the same examples, with the same epochs,
batch and rates, in float32, and judge it once at the end. The peer pads each batch to its
longest text, attends by PyTorch's scaled dot-product attention and updates by fused AdamW.
Seed after seed, one behind the other, each in a process of its own whose whole time counts:
imports, reading and compiling too. Writes `finetune-MACHINE-DATE.md` and `.json`.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Annotated, Any

import tyro

from benchmarks.machine import RESULTS, start_report
from benchmarks.results import Table

_NAMES = ("bert_jax", "transformers")
_RATIO = "transformers / bert_jax"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Fine-tunes with both, and records time and score."""

    run: Annotated[pathlib.Path, tyro.conf.Positional]
    """Run directory of `pretrain` or `import`: the encoder."""
    train: pathlib.Path
    """File to train on, as `bert-jax finetune` takes it."""
    dev: pathlib.Path
    """File to judge on."""
    text: tuple[str, ...] = ()
    """The text column, or both of a pair. Default: found by its usual name."""
    label: str | None = None
    """The label column. Default: found by its usual name."""
    max_train: int = 4_000
    """Most examples to train on."""
    num_epochs: int = 3
    """Epochs of each."""
    batch_size: int = 32
    """Rows of a batch."""
    learning_rate: float = 1e-4
    """Highest rate, after a warm-up of a tenth of the steps; then linear to 0."""
    sequence_length: int = 128
    """Longer texts are cut."""
    seeds: int = 3
    """Fine-tunings of each."""
    output: pathlib.Path = RESULTS
    """Folder of the two result files."""


@dataclasses.dataclass(frozen=True)
class Rival:
    """How one of the two is started, and where its score is found."""

    command: list[str]
    score: Any
    """Called without arguments when the process has ended."""


def bert_jax(options: Options, seed: int, folder: pathlib.Path) -> Rival:
    """Our command line."""
    output = folder / f"ours-{seed}"
    flags: dict[str, Any] = {
        "train": options.train,
        "dev": options.dev,
        "label": options.label,
        "max-train": options.max_train,
        "num-epochs": options.num_epochs,
        "batch-size": options.batch_size,
        "sequence-length": options.sequence_length,
        "optimizer.learning-rate": options.learning_rate,
        "optimizer.warmup-steps": 0.1,
        "seed": seed,
        "output": output,
    }
    command = [sys.executable, "-m", "bert_jax", "finetune", str(options.run)]
    for name, value in flags.items():
        command += [] if value is None else [f"--{name}", str(value)]
    if options.text:
        command += ["--text", *options.text]

    def score() -> float:
        results = json.loads((output / "results.json").read_text())
        return float(results["eval"]["accuracy"])

    return Rival(command, score)


def transformers(options: Options, seed: int, folder: pathlib.Path) -> Rival:
    """The peer's loop, `finetune_torch.py`, on the export and the examples in `folder`."""
    output = folder / f"peer-{seed}.json"
    settings = {
        "model": str(folder / "export"),
        "examples": str(folder / "examples.json"),
        "output": str(output),
        "num_epochs": options.num_epochs,
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "sequence_length": options.sequence_length,
        "seed": seed,
    }
    command = [sys.executable, "-m", "benchmarks.finetune_torch", json.dumps(settings)]
    return Rival(command, lambda: json.loads(output.read_text())["accuracy"])


def prepare(options: Options, folder: pathlib.Path) -> dict[str, int]:
    """Writes the encoder and the examples for the peer; returns how many there are."""
    from bert_jax.config import TaskConfig
    from bert_jax.exchange.export import export_run
    from bert_jax.train.tasks import task_named

    cfg = TaskConfig(text=options.text, label=options.label)
    task = task_named("classification")
    whole = task.read(options.train, cfg, "train")
    names = task.outputs(whole)
    splits = {
        "train": whole.sample(options.max_train, task.classes(whole)),
        "dev": task.read(options.dev, cfg, "validation"),
    }
    examples = {
        split: [[*text, names.index(label)] for *text, label in part.records()]
        for split, part in splits.items()
    }
    written = {"labels": names, **examples}
    (folder / "examples.json").write_text(json.dumps(written))
    print(export_run(options.run, folder / "export", "huggingface"), flush=True)
    return {split: len(part) for split, part in splits.items()}


def seconds_of(rival: Rival) -> float:
    """Runs a process to its end.

    Raises:
        RuntimeError: it failed; its last lines are in the message.
    """
    began = time.perf_counter()
    done = subprocess.run(
        rival.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        last = "\n".join(done.stdout.splitlines()[-15:])
        raise ValueError(f"{' '.join(rival.command[:4])} failed:\n{last}")
    return seconds


def measure(options: Options, folder: pathlib.Path, table: Table) -> None:
    """Trains with both in turns, and fills the table with what has ended."""
    seconds: dict[str, list[float]] = {name: [] for name in _NAMES}
    scores: dict[str, list[float]] = {name: [] for name in _NAMES}
    makers = dict(zip(_NAMES, (bert_jax, transformers), strict=True))
    try:
        for seed in range(options.seeds):
            for name in _NAMES if seed % 2 == 0 else reversed(_NAMES):
                rival = makers[name](options, seed, folder)
                seconds[name].append(seconds_of(rival))
                scores[name].append(100.0 * rival.score())
                print(
                    f"{name}, seed {seed}: {seconds[name][-1]:.1f} s, accuracy "
                    f"{scores[name][-1]:.2f} %",
                    flush=True,
                )
    finally:
        for name in filter(seconds.get, _NAMES):
            table.add(name, "from start to end", "s", *seconds[name])
            table.add(name, "accuracy", "%", *scores[name])
        ours, theirs = (seconds[name] for name in _NAMES)
        if pairs := [b / a for a, b in zip(ours, theirs, strict=False)]:
            table.add(_RATIO, "from start to end", "s", *pairs)
        table.end()


def run(options: Options) -> int:
    """The whole benchmark; returns the exit code."""
    settings = json.loads(json.dumps(dataclasses.asdict(options), default=str))
    with (
        start_report("finetune", settings, options.output) as report,
        tempfile.TemporaryDirectory() as name,
    ):
        counts = prepare(options, pathlib.Path(name))
        about = (
            f"{counts['train']:,} examples of {options.train.name}, {options.num_epochs} "
            f"epochs in batches of {options.batch_size}, judged on {counts['dev']:,}. "
            "Medians and ranges over seeds; a ratio is taken seed by seed."
        )
        measure(options, pathlib.Path(name), report.table("Fine-tuning", about))
    return report.exit_code


if __name__ == "__main__":
    # The peer's tokenizer warns where a process forks; it never does here.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    sys.exit(run(tyro.cli(Options, description=__doc__)))
