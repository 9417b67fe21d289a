"""Commands about text and prepared datasets."""

import dataclasses
import pathlib
import shlex
import sys
from typing import Annotated, Any, Literal

import tyro

from bert_jax.commands.shared import Bar, fields
from bert_jax.config import (
    DataConfig,
    MaskingConfig,
    PrepareOptions,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """Writes the documentation of the installed Python packages as a text corpus."""

    output: pathlib.Path
    """Folder for documents-*.jsonl and, with --task, labelled sentences."""
    packages: tuple[str, ...] = ()
    """Top-level names, "python" for the standard library; empty takes a fixed list."""
    task: bool = False
    """Also write library/{train,validation}.tsv: which library is a sentence from?"""
    validation_fraction: float = 0.08
    """Of modules, for --task; give `prepare` the same."""
    max_train: int = 12_000
    max_validation: int = 3_000
    num_workers: int = 2

    def run(self) -> None:
        from bert_jax.data.text import docs, library_task

        with Bar("modules", unit_scale=False) as bar:
            made = docs.write_docs_corpus(
                self.output,
                packages=self.packages or None,
                num_workers=self.num_workers,
                progress=bar.update,
            )
        print(
            f"{made['documents']:,} documents, {made['characters'] / 1e6:.1f} M "
            f"characters from {len(made['libraries'])} libraries"
        )
        if self.task:
            task = library_task.write_library_task(
                self.output,
                self.output / "library",
                validation_fraction=self.validation_fraction,
                max_train=self.max_train,
                max_validation=self.max_validation,
                seed=0,
            )
            print(
                f"labelled sentences: {sum(task['train'].values()):,} to train on, "
                f"{sum(task['validation'].values()):,} held out, of "
                f"{len(task['labels'])} libraries"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepare:
    """Tokenises a source into a TFDS dataset with a held-out split by document."""

    source: str
    """files:GLOB, tfds:NAME or docs: (README, "Sources")."""
    tokenizer: pathlib.Path
    """Directory written by `bert-jax tokenizer`."""
    output: str
    """A directory, or with --beam gs://... or s3://...; started again with the same
    settings, unfinished work is gone on with."""
    options: Annotated[PrepareOptions, tyro.conf.arg(name="")] = PrepareOptions()
    strict: bool = False
    """Refuse a corpus in which the audit finds what would spoil training."""
    num_workers: int | None = None
    """Processes; all cores by default. A Beam runner has flags of its own."""
    beam: str | None = None
    """Flags of Apache Beam, in quotes: --beam="--runner=DataflowRunner ..." takes the
    machines of that runner instead of this one's processes."""

    def run(self) -> None:
        from bert_jax.data.prepared.summary import describe, problems

        manifest = self._prepare() if self.beam is None else self._prepare_with_beam()
        for line in describe(manifest):
            print(line)
        for problem in problems(manifest):
            print(f"warning: {problem}", file=sys.stderr)

    def _prepare(self) -> dict[str, Any]:
        from bert_jax.data.prepared.prepare import prepare
        from bert_jax.data.prepared.storage import is_in_store

        if is_in_store(self.output):
            raise ValueError(
                f"--output {self.output}: only --beam writes to an object store; give a "
                "directory, and copy it there."
            )
        settings = fields(self) | {"output": pathlib.Path(self.output)}
        del settings["beam"]
        with Bar("preparing") as bar:
            return prepare(**settings, progress=bar.update)

    def _prepare_with_beam(self) -> dict[str, Any]:
        if self.num_workers is not None:
            raise ValueError(
                f"--num-workers {self.num_workers} is for this machine's processes; "
                "with --beam, give the runner its own flag."
            )
        from bert_jax.data.prepared.beam import prepare_with_beam

        settings = fields(self)
        flags = shlex.split(settings.pop("beam"))
        del settings["num_workers"]
        return prepare_with_beam(**settings, beam_options=flags)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspect:
    """Shows decoded rows as the model will see them: masks and pair labels."""

    dataset: Annotated[pathlib.Path, tyro.conf.Positional]
    """Directory written by `bert-jax prepare`."""
    split: Literal["train", "validation"] = "train"
    rows: int = 3
    first_row: int = 0
    seed: int = 0
    data: DataConfig = DataConfig()
    masking: MaskingConfig = MaskingConfig()

    def run(self) -> None:
        from bert_jax.data.prepared.dataset import open_dataset
        from bert_jax.train.inspection import describe_rows

        for line in describe_rows(
            open_dataset(self.dataset),
            self.data,
            self.masking,
            split=self.split,
            first_row=self.first_row,
            num_rows=self.rows,
            seed=self.seed,
        ):
            print(line)
