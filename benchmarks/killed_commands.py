"""The small commands that `kills` kills, and the files that they read."""

import dataclasses
import json
import pathlib
import random
import subprocess
import sys
from collections.abc import Callable

from benchmarks.same_run import differences, differences_of_datasets

_WORDS = ("river", "stone", "window", "garden", "teacher", "letter", "village", "music")
_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *_WORDS, "##s", "##ed")
_DEVICE = ("--compute.dtype", "float32")
_LOOP = ("--loop.log-every-steps", "2", "--loop.checkpoint-every-steps", "3")


@dataclasses.dataclass(frozen=True)
class Way:
    """The processes and devices of one start."""

    processes: int = 1
    devices: int = 1
    flags: tuple[str, ...] = ()
    """Flags that say how the devices are used."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A command that is killed."""

    name: str
    command: Callable[[pathlib.Path], list[object]]
    """command(folder) is the command and its flags, but for --output; the folder is that of
    `make_inputs`."""
    ways: tuple[Way, ...] = (Way(),)
    """The first one is that of the untouched run. Resumes change to the others."""
    share: float = 1.0
    """Of the kills, relative to the other parts."""
    limit: float = 0.0
    """Largest relative difference from the untouched run."""
    differences: Callable[[pathlib.Path, pathlib.Path, float], list[str]] = differences


def pretrain(folder: pathlib.Path) -> list[object]:
    """Twelve steps with checkpoints, evaluations and lines of metrics at different steps."""
    return [
        *("pretrain", "--config", "bert_tiny", "--first-phase-only"),
        *("--data.dataset", folder / "dataset", "--data.sequence-length", "16"),
        *(
            "--model.hidden-size",
            "32",
            "--model.num-layers",
            "1",
            "--model.num-heads",
            "2",
        ),
        *("--model.mlp-size", "64", "--model.max-positions", "16", "--batch-size", "8"),
        *("--num-steps", "12", "--eval-batches", "2", "--loop.eval-every-steps", "4"),
        *_LOOP,
        *_DEVICE,
    ]


def finetune(folder: pathlib.Path) -> list[object]:
    """Two epochs of eight steps from a run of `pretrain`, with the best state kept."""
    return [
        *("finetune", folder / "pretrained", "--config", "finetune_classify"),
        *("--train", folder / "train.tsv", "--dev", folder / "dev.tsv"),
        *("--sequence-length", "16", "--batch-size", "8", "--num-epochs", "2"),
        *("--optimizer.learning-rate", "1e-3"),
        *_LOOP,
        *_DEVICE,
    ]


def prepare(folder: pathlib.Path) -> list[object]:
    return [
        *("prepare", "--source", f"files:{folder}/part-*.jsonl"),
        *("--tokenizer", folder / "tokenizer", "--num-shards", "4"),
        *("--validation-fraction", "0.2", "--duplicates", "drop"),
    ]


def _cached(command: Callable[[pathlib.Path], list[object]]):  # type: ignore[no-untyped-def]
    """The command with a cache of compiled programs; XLA has none for several CPU devices."""
    return lambda folder: [*command(folder), "--compile-cache", folder / "compiled"]


_FSDP = ("--mesh.fsdp", "2")
# Starts of several processes compile each time, which takes ten times as long.
_SMALL_SHARE = 0.1
PARTS = (
    Part(
        name="prepare",
        command=prepare,
        ways=(
            Way(flags=("--num-workers", "1")),
            Way(flags=("--num-workers", "2")),
        ),
        share=4.0,
        differences=lambda found, expected, _: differences_of_datasets(found, expected),
    ),
    Part(name="pretrain", command=_cached(pretrain), share=3.0),
    Part(name="finetune", command=_cached(finetune), share=3.0),
    Part(
        name="pretrain, two processes",
        command=pretrain,
        ways=(Way(2, 1),),
        share=_SMALL_SHARE,
    ),
    Part(
        name="finetune, two processes",
        command=finetune,
        ways=(Way(2, 1, _FSDP),),
        share=_SMALL_SHARE,
    ),
    Part(
        name="pretrain, other devices",
        command=pretrain,
        ways=(Way(), Way(2, 1), Way(2, 1, _FSDP)),
        limit=1e-4,
        share=_SMALL_SHARE,
    ),
)


def make_inputs(folder: pathlib.Path) -> None:
    """Writes text, labels, a tokenizer and a dataset, and pretrains the run to fine-tune."""
    draw = random.Random(0)

    def sentence() -> str:
        words = (
            draw.choice(_WORDS) + draw.choice(("", "s", "ed"))
            for _ in range(draw.randint(2, 6))
        )
        return " ".join(words) + "."

    for number in range(4):
        documents = [
            {
                "text": " ".join(sentence() for _ in range(draw.randint(1, 8))),
                "key": f"{n}",
            }
            for n in range(number * 30, number * 30 + 30)
        ]
        lines = (json.dumps(document) + "\n" for document in documents)
        (folder / f"part-{number}.jsonl").write_text("".join(lines))
    for name, count in (("train", 64), ("dev", 16)):
        rows = ["label\ttext"]
        for _ in range(count):
            text = sentence()
            rows.append(f"{'river' if 'river' in text else 'none'}\t{text}")
        (folder / f"{name}.tsv").write_text("\n".join(rows) + "\n")
    (folder / "vocab.txt").write_text("\n".join(_PIECES) + "\n")
    tokenizer, dataset = folder / "tokenizer", folder / "dataset"
    for command in (
        [
            "tokenizer",
            "wrap",
            folder / "vocab.txt",
            "--lowercase",
            "--output",
            tokenizer,
        ],
        [*prepare(folder), "--num-workers", "1", "--output", dataset],
        [*pretrain(folder), "--output", folder / "pretrained"],
    ):
        program = [sys.executable, "-m", "bert_jax", *map(str, command)]
        subprocess.run(program, check=True, stdout=subprocess.DEVNULL)
