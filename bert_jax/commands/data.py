"""Commands about text, tokenizers and prepared datasets."""

import dataclasses
import pathlib
from typing import Annotated, Literal

import tyro

from bert_jax.commands.shared import Bar, fields
from bert_jax.config import (
    DataConfig,
    MaskingConfig,
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
        from bert_jax.data import docs, library_task

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
class TrainTokenizer:
    """Trains a SentencePiece vocabulary with BERT's special tokens."""

    source: str
    """files:GLOB (.txt, .jsonl, WikiExtractor; .gz, .xz, .tar.xz) or docs:."""
    output: pathlib.Path
    vocab_size: int = 30_522
    """Pieces, the five special ones included."""
    lowercase: bool = True
    model_type: Literal["unigram", "bpe"] = "unigram"
    max_sentences: int = 1_000_000
    """Of more, a uniform sample is used."""
    language: str = "en"
    """Rules of the sentence splitter."""

    def run(self) -> None:
        from bert_jax.data.corpus import open_source, read_unit, sentences
        from bert_jax.data.saved_tokenizer import load_tokenizer
        from bert_jax.data.vocabulary import train_sentencepiece

        if (self.output / "bert_jax_tokenizer.json").exists():
            tokenizer = load_tokenizer(self.output)
            if tokenizer.vocab_size != self.vocab_size:
                raise ValueError(
                    f"{self.output} holds a tokenizer of {tokenizer.vocab_size} pieces, "
                    f"not {self.vocab_size}; choose another --output."
                )
            print(f"{self.output} is there already: {tokenizer.vocab_size:,} pieces")
            return
        source = open_source(self.source, num_workers=2)

        def lines():  # type: ignore[no-untyped-def]
            with Bar("reading") as bar:
                done = 0
                for unit in source.units:
                    for document in read_unit(unit):
                        yield from sentences(document.text, self.language)
                    done += unit.size_bytes
                    bar.update(done, source.size_bytes)
            print("training the vocabulary ...", flush=True)

        tokenizer = train_sentencepiece(
            lines(),
            vocab_size=self.vocab_size,
            lowercase=self.lowercase,
            model_type=self.model_type,
            num_threads=2,
            max_sentences=self.max_sentences,
        )
        tokenizer.save(self.output)
        print(f"{tokenizer.vocab_size:,} pieces, sha256 {tokenizer.sha256[:16]}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepare:
    """Tokenises a source into a TFDS dataset with a held-out split by document."""

    source: str
    """files:GLOB (.txt, .jsonl, WikiExtractor; .gz, .xz, .tar.xz) or docs:."""
    tokenizer: pathlib.Path
    """Directory written by `bert-jax tokenizer`."""
    output: pathlib.Path
    """Started again with the same settings, unfinished work is gone on with."""
    validation_fraction: float = 0.05
    """Share of documents held out."""
    language: str = "en"
    """Rules of the sentence splitter."""
    num_shards: int = 64
    """At most; one file of the source is never divided."""
    num_workers: int | None = None
    """Processes; all cores by default."""

    def run(self) -> None:
        from bert_jax.data.prepare import prepare

        with Bar("preparing") as bar:
            manifest = prepare(**fields(self), progress=bar.update)
        for split, counts in manifest["splits"].items():
            print(
                f"{split}: {counts['documents']:,} documents, "
                f"{counts['sentences']:,} sentences, {counts['tokens']:,} tokens, "
                f"unigram entropy {counts['unigram_entropy']:.3f} nats"
            )


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
        from bert_jax.data.dataset import open_dataset
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
