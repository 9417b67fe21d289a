"""Filled-in masks: pieces of a tokenizer as the text that people read."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from bert_jax.report import formats

_WORD_START = "▁"  # SentencePiece
_CONTINUES = "##"  # WordPiece
_UNSEEN = {"[PAD]", "[CLS]"}
_CLOSING = frozenset(".,;:!?%)]}'’”")
_OPENING = frozenset("([{'‘“")


class Guess(NamedTuple):
    """One guess for a hidden piece."""

    text: str
    percent: str
    right: bool


class Piece(NamedTuple):
    """One piece of an example, with the space before it."""

    space: str
    text: str
    special: bool
    guesses: Sequence[Guess] | None
    """From the likeliest down; `None` for a piece that was not hidden."""

    @property
    def verdict(self) -> str:
        """right, near (a later guess is right) or wrong."""
        right = [guess.right for guess in self.guesses or ()]
        return "wrong" if True not in right else "right" if right[0] else "near"


@dataclasses.dataclass(frozen=True)
class Examples:
    """A card of texts with hidden pieces."""

    kind: ClassVar = "examples"
    examples: Sequence[Sequence[Piece]]

    @property
    def caption(self) -> str:
        """How many of the hidden pieces were guessed right."""
        found = [x.verdict for row in self.examples for x in row if x.guesses]
        return (
            f"Of the {formats.plural(len(found), 'hidden piece')} below, the first "
            f"guess is right for {found.count('right')}, and a later one for "
            f"{found.count('near')} more."
        )


def mask_examples(stored: Sequence[dict[str, Any]]) -> Examples:
    """Examples ready to show.

    Args:
        stored: `mask_examples` of the results of a pretraining run.
    """
    rows = [example["tokens"] for example in stored]
    sentencepiece = any(x["text"].startswith(_WORD_START) for row in rows for x in row)
    return Examples([_pieces(row, sentencepiece) for row in rows])


def _pieces(tokens: Sequence[dict[str, Any]], sentencepiece: bool) -> list[Piece]:
    pieces: list[Piece] = []
    previous = "[CLS]"
    for token in tokens:
        text, guesses = token["text"], token["guesses"]
        if text in _UNSEEN and guesses is None:
            continue
        space = _space(text, previous, sentencepiece) if pieces else ""
        listed = guesses and [
            Guess(_guess(guess, sentencepiece), f"{share:.1%}", guess == text)
            for guess, share in guesses
        ]
        pieces.append(Piece(space, _bare(text), _is_special(text), listed))
        previous = text
    return pieces


def _is_special(text: str) -> bool:
    return text.startswith("[") and text.endswith("]") and text[1:-1].isupper()


def _space(text: str, previous: str, sentencepiece: bool) -> str:
    if _is_special(text) or _is_special(previous):
        return " "
    if sentencepiece:
        return " " if text.startswith(_WORD_START) else ""
    # WordPiece forgets the spaces around punctuation; this is how most text has them.
    if text.startswith(_CONTINUES) or text in _CLOSING or previous in _OPENING:
        return ""
    return " "


def _bare(text: str) -> str:
    return text.removeprefix(_CONTINUES).replace(_WORD_START, " ").strip() or "␣"


def _guess(text: str, sentencepiece: bool) -> str:
    """A piece on its own; an ellipsis tells "…ing" from a word."""
    mark = _WORD_START if sentencepiece else _CONTINUES
    inside = text.startswith(mark) != sentencepiece
    bare = _bare(text)
    return f"…{bare}" if inside and bare[0].isalnum() else bare
