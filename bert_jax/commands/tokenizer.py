"""`bert-jax tokenizer`: trains a vocabulary on a source, or wraps a given one."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Annotated

import tyro

from bert_jax.commands.shared import Bar
from bert_jax.config import TokenizerOptions

if TYPE_CHECKING:
    from bert_jax.data.tokenizers.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """Trains a vocabulary with BERT's special tokens.

    For example: `bert-jax tokenizer train --source 'files:texts/*.txt' --output tokenizer
    --vocab-size 8000`.
    """

    source: Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
    """Where the text is: files:GLOB, tfds:NAME or docs: (docs/data.md). Several
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
    """Makes a tokenizer of a given one: BERT's vocab.txt, or a tokenizer.json.

    For example: `bert-jax tokenizer wrap vocab.txt --lowercase --output tokenizer`.
    """

    vocab: Annotated[pathlib.Path, tyro.conf.Positional]
    """A vocab.txt with one piece per line, or a tokenizer.json of Hugging Face, which is
    kept as it is."""
    output: pathlib.Path
    """Directory of the tokenizer. If it holds the result already, nothing is done."""
    lowercase: tyro.conf.FlagCreatePairsOff[bool] = False
    """A vocab.txt is uncased: text is put in lower case."""
    no_lowercase: tyro.conf.FlagCreatePairsOff[bool] = False
    """A vocab.txt is cased: text keeps its case."""
    strip_accents: bool | None = None
    """Remove accents and vowel signs. Default: as BERT does, yes for an uncased
    vocabulary, no for a cased one."""

    def run(self) -> None:
        from bert_jax.data.tokenizers.tokenizer_training import wrap

        print(*wrap(self._tokenizer(), self.output).describe(), sep="\n")

    def _tokenizer(self) -> "Tokenizer":
        from bert_jax.data.tokenizers.huggingface_tokenizer import HuggingFaceTokenizer
        from bert_jax.data.tokenizers.wordpiece_tokenizer import WordPieceTokenizer

        if not self.vocab.is_file():
            what = "a folder" if self.vocab.is_dir() else "no such file"
            raise ValueError(
                f"{self.vocab}: {what}; expected a vocab.txt, or a tokenizer.json of "
                "Hugging Face."
            )
        if self.vocab.suffix == ".json":
            if self.lowercase or self.no_lowercase or self.strip_accents is not None:
                raise ValueError(
                    f"{self.vocab} says itself what becomes of case and accents; leave "
                    "--lowercase, --no-lowercase and --strip-accents out."
                )
            return HuggingFaceTokenizer.read(self.vocab)
        if self.lowercase == self.no_lowercase:
            raise ValueError(
                f"{self.vocab} does not say whether it is cased; pass --lowercase for an "
                "uncased vocabulary or --no-lowercase for a cased one."
            )
        return WordPieceTokenizer.from_vocab(
            self.vocab, lowercase=self.lowercase, strip_accents=self.strip_accents
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MakeTokenizer:
    """Makes a tokenizer: train trains a vocabulary, wrap takes a given one.

    For example: `bert-jax tokenizer train --source 'files:texts/*.txt' --output tokenizer`.
    """

    how: Annotated[
        Annotated[Train, tyro.conf.subcommand("train", prefix_name=False)]
        | Annotated[Wrap, tyro.conf.subcommand("wrap", prefix_name=False)],
        tyro.conf.arg(name=""),
    ]

    def run(self) -> None:
        self.how.run()
