"""`bert-jax tokenizer`: a vocabulary trained on a source, or a given one."""

import dataclasses
import pathlib
from typing import Annotated

import tyro

from bert_jax.commands.shared import Bar
from bert_jax.config import TokenizerOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """Trains a SentencePiece or WordPiece vocabulary with BERT's special tokens."""

    source: str
    """files:GLOB, tfds:NAME or docs: (README, "Sources")."""
    output: pathlib.Path
    """Directory of the tokenizer; started again, finished work is left as it is."""
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
        print(made.describe())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wrap:
    """Takes a given WordPiece vocabulary, such as BERT's published ones."""

    vocab: Annotated[pathlib.Path, tyro.conf.Positional]
    """A vocab.txt: one piece a line."""
    output: pathlib.Path
    """Directory of the tokenizer; started again, finished work is left as it is."""
    lowercase: tyro.conf.FlagCreatePairsOff[bool] = False
    """The vocabulary is uncased: case is folded."""
    no_lowercase: tyro.conf.FlagCreatePairsOff[bool] = False
    """The vocabulary is cased."""
    strip_accents: bool | None = None
    """Follows the casing by default, as in BERT."""

    def run(self) -> None:
        from bert_jax.data.tokenizers.tokenizer_training import wrap_vocab

        if self.lowercase == self.no_lowercase:
            raise ValueError(
                f"No file says whether {self.vocab} is cased; pass --lowercase (an "
                "uncased vocabulary) or --no-lowercase (a cased one)."
            )
        made = wrap_vocab(
            self.vocab,
            self.output,
            lowercase=self.lowercase,
            strip_accents=self.strip_accents,
        )
        print(made.describe())


@dataclasses.dataclass(frozen=True, kw_only=True)
class MakeTokenizer:
    """Trains a vocabulary on a source (train), or takes a given one (wrap)."""

    how: Annotated[
        Annotated[Train, tyro.conf.subcommand("train", prefix_name=False)]
        | Annotated[Wrap, tyro.conf.subcommand("wrap", prefix_name=False)],
        tyro.conf.arg(name=""),
    ]

    def run(self) -> None:
        self.how.run()
