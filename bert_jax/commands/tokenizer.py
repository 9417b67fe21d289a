"""`bert-jax tokenizer`: trains a vocabulary on a source, or wraps a given one."""

import dataclasses
import pathlib
from typing import Annotated

import tyro

from bert_jax.commands.shared import Bar
from bert_jax.config import TokenizerOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """Trains a SentencePiece or WordPiece vocabulary with BERT's special tokens."""

    source: Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
    """Where the text is: files:GLOB, tfds:NAME or docs: (README, "Sources"). Several
    sources, each with its own --source, are read as one corpus."""
    output: pathlib.Path
    """Directory of the tokenizer. If it holds the result already, nothing is done."""
    options: Annotated[TokenizerOptions, tyro.conf.arg(name="")] = TokenizerOptions()

    def run(self) -> None:
        from bert_jax.data.tokenizers.tokenizer_training import train_tokenizer

        with Bar("reading") as bar:

            def update(done: int, total: int) -> None:
                bar.update(done, total)
                if done == total:
                    print("training the vocabulary ...", flush=True)

            made = train_tokenizer(
                self.source, self.output, self.options, progress=update
            )
        print(*made.describe(), sep="\n")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wrap:
    """Makes a tokenizer from a given WordPiece vocabulary, such as BERT's own."""

    vocab: Annotated[pathlib.Path, tyro.conf.Positional]
    """A vocab.txt with one piece per line."""
    output: pathlib.Path
    """Directory of the tokenizer. If it holds the result already, nothing is done."""
    lowercase: tyro.conf.FlagCreatePairsOff[bool] = False
    """The vocabulary is uncased: text is put in lower case."""
    no_lowercase: tyro.conf.FlagCreatePairsOff[bool] = False
    """The vocabulary is cased: text keeps its case."""
    strip_accents: bool | None = None
    """Remove accents and vowel signs. Default: as BERT does, yes for an uncased
    vocabulary, no for a cased one."""

    def run(self) -> None:
        from bert_jax.data.tokenizers.tokenizer_training import wrap_vocab

        if self.lowercase == self.no_lowercase:
            raise ValueError(
                f"{self.vocab} does not say whether it is cased; pass --lowercase for an "
                "uncased vocabulary or --no-lowercase for a cased one."
            )
        made = wrap_vocab(
            self.vocab,
            self.output,
            lowercase=self.lowercase,
            strip_accents=self.strip_accents,
        )
        print(*made.describe(), sep="\n")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MakeTokenizer:
    """Makes a tokenizer: train trains a vocabulary, wrap takes a given one."""

    how: Annotated[
        Annotated[Train, tyro.conf.subcommand("train", prefix_name=False)]
        | Annotated[Wrap, tyro.conf.subcommand("wrap", prefix_name=False)],
        tyro.conf.arg(name=""),
    ]

    def run(self) -> None:
        self.how.run()
