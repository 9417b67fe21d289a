"""`bert-jax corpus`, `prepare` and `inspect`: commands about text and datasets."""

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
from bert_jax.config.checks import require, require_seed
from bert_jax.data.plural import plural

_TASK_ONLY = ("validation_fraction", "max_train", "max_validation")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """Writes the documentation of installed Python packages as a text corpus.

    For example: `bert-jax corpus --output corpus --task`.
    """

    output: pathlib.Path
    """Folder for documents-*.jsonl and, with --task, for labelled sentences."""
    packages: tuple[str, ...] = ()
    """Names of top-level packages; "python" is the standard library. Default: the
    packages of a fixed list, as far as they are installed."""
    task: bool = False
    """Also write library/train.tsv and library/validation.tsv. Each line is a sentence
    with the library that it comes from as its label."""
    validation_fraction: float = 0.08
    """Expected fraction of modules that --task holds out. Give `prepare` the same."""
    max_train: int = 12_000
    """Largest number of sentences in library/train.tsv."""
    max_validation: int = 3_000
    """Largest number of sentences in library/validation.tsv."""
    num_workers: int = 2
    """Number of processes that read source files."""

    def _refuse_ignored(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not self.task and field.name in _TASK_ONLY and value != field.default:
                raise ValueError(
                    f"--{field.name.replace('_', '-')} {value} would be ignored: it is for "
                    "the labelled sentences of --task. Pass --task too, or leave it out."
                )

    def run(self) -> None:
        from bert_jax.data.text import docs, library_task

        self._refuse_ignored()
        with Bar("modules", unit_scale=False) as bar:
            made = docs.write_docs_corpus(
                self.output,
                packages=self.packages or None,
                num_workers=self.num_workers,
                progress=bar.update,
            )
        print(
            f"{plural(made['documents'], 'document')}, {made['characters'] / 1e6:.1f} M "
            f"characters from {plural(len(made['libraries']), 'library', 'libraries')}"
        )
        if self.task:
            task = library_task.write_library_task(
                self.output,
                self.output / "library",
                validation_fraction=self.validation_fraction,
                max_train=self.max_train,
                max_validation=self.max_validation,
            )
            print(
                f"labelled sentences: {sum(task['train'].values()):,} to train on, "
                f"{sum(task['validation'].values()):,} held out, from "
                f"{len(task['labels'])} libraries"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepare:
    """Tokenises a source and writes a TFDS dataset with a validation split.

    For example: `bert-jax prepare --source 'files:texts/*.txt' --tokenizer tokenizer --output dataset`.
    """

    source: Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
    """Where the text is: files:GLOB, tfds:NAME or docs: (docs/data.md). Several
    sources, each with its own --source, are read as one corpus."""
    tokenizer: pathlib.Path
    """Directory written by `bert-jax tokenizer`, a run directory, or a tokenizer.json of
    Hugging Face."""
    output: str
    """Directory of the dataset, or its address in an object store (gs://..., s3://...).
    The same command continues unfinished work."""
    num_workers: int | None = None
    """Number of processes on this machine. Default: one per core. Not for --beam."""
    strict: bool = False
    """Stop with an error if the audit finds what would spoil training. Without this,
    problems are printed as warnings."""
    beam: str | None = None
    """Prepare on the machines of an Apache Beam runner. The value holds Beam's flags in
    quotes, for example --beam="--runner=DataflowRunner ..."."""
    options: Annotated[PrepareOptions, tyro.conf.arg(name="")] = PrepareOptions()

    def run(self) -> None:
        from bert_jax.data.prepared.summary import describe, problems

        manifest = self._prepare() if self.beam is None else self._prepare_with_beam()
        for line in describe(manifest):
            print(line)
        for problem in problems(manifest):
            print(f"warning: {problem}", file=sys.stderr)

    def _prepare(self) -> dict[str, Any]:
        from bert_jax.data.object_store import prepared_here
        from bert_jax.data.prepared.prepare import prepare

        with prepared_here(self.output) as output, Bar("preparing") as bar:
            settings = fields(self) | {"output": output}
            del settings["beam"]
            return prepare(**settings, progress=bar.update)

    def _prepare_with_beam(self) -> dict[str, Any]:
        if self.num_workers is not None:
            raise ValueError(
                f"--num-workers {self.num_workers} sets the processes of this machine, "
                "which --beam does not use; give the runner its own flag in --beam."
            )
        from bert_jax.data.prepared.beam import prepare_with_beam

        settings = fields(self)
        flags = shlex.split(settings.pop("beam"))
        del settings["num_workers"]
        return prepare_with_beam(**settings, beam_options=flags)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspect:
    """Prints rows as the model will see them, with masks and pair labels.

    For example: `bert-jax inspect dataset --rows 3`.
    """

    dataset: Annotated[pathlib.Path, tyro.conf.Positional]
    """Directory written by `bert-jax prepare`."""
    rows: int = 3
    """Number of rows to print."""
    split: Literal["train", "validation"] = "train"
    """Split of the rows. train: what pretraining reads. validation: what is held out."""
    first_row: int = 0
    """Number of the first row to print, from 0."""
    seed: int = 0
    """Seed of pairs, rows and masks. A run with the same seed sees the same rows."""
    data: DataConfig = DataConfig()
    masking: MaskingConfig = MaskingConfig()

    def run(self) -> None:
        from bert_jax.data.prepared.dataset import open_dataset
        from bert_jax.train.inspection import describe_rows

        require(self.rows > 0, f"--rows {self.rows} must be greater than 0.")
        require(self.first_row >= 0, f"--first-row {self.first_row} is negative.")
        require_seed(self)
        if self.data.datasets:
            flag = "mixture" if self.data.mixture else "dataset"
            raise ValueError(
                f"--data.{flag} {' '.join(map(str, self.data.datasets))} would be ignored: "
                f"inspect shows {self.dataset}, its first argument. Leave the flag out."
            )
        default = MaskingConfig()
        for name in ("end_rate", "eval_rate"):
            value = getattr(self.masking, name)
            if value != getattr(default, name):
                raise ValueError(
                    f"--masking.{name.replace('_', '-')} {value} would be ignored: inspect "
                    "shows rows at one rate, --masking.rate. Leave the flag out."
                )
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
