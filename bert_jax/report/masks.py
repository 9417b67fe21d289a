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
    share: float
    percent: str
    right: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """One piece of an example, with the space before it."""

    space: str
    text: str
    special: bool = False
    number: int = 0
    """Counts the hidden pieces of an example from 1; 0 is a piece that was seen."""
    guesses: tuple[Guess, ...] = ()

    @property
    def verdict(self) -> str:
        """right, near (a later guess is right) or wrong."""
        right = [guess.right for guess in self.guesses]
        return "wrong" if True not in right else "right" if right[0] else "near"


class Example(NamedTuple):
    """One text with hidden pieces."""

    pieces: list[Piece]

    @property
    def hidden(self) -> list[Piece]:
        return [piece for piece in self.pieces if piece.number]


@dataclasses.dataclass(frozen=True)
class Examples:
    """A card of examples."""

    kind: ClassVar = "examples"
    examples: Sequence[Example]


def mask_examples(stored: Sequence[dict[str, Any]]) -> list[Example]:
    """Examples ready to show.

    Args:
        stored: `mask_examples` of the results of a pretraining run.
    """
    tokens = [example["tokens"] for example in stored]
    sentencepiece = any(
        token["text"].startswith(_WORD_START) for row in tokens for token in row
    )
    return [_example(row, sentencepiece) for row in tokens]


def caption(examples: Sequence[Example]) -> str:
    """How many of the hidden pieces shown were guessed right."""
    verdicts = [piece.verdict for example in examples for piece in example.hidden]
    return (
        f"Of the {formats.plural(len(verdicts), 'hidden piece')} below, the first "
        f"guess is right for {verdicts.count('right')}, and a later one for "
        f"{verdicts.count('near')} more."
    )


def _example(tokens: Sequence[dict[str, Any]], sentencepiece: bool) -> Example:
    example, previous = Example([]), ""
    for token in tokens:
        text, guesses = token["text"], token["guesses"]
        if text in _UNSEEN and guesses is None:
            continue
        space = _space(text, previous, sentencepiece) if example.pieces else ""
        previous = text
        if guesses is None:
            special = _is_special(text)
            piece = Piece(space=space, text=_bare(text), special=special)
        else:
            piece = Piece(
                space=space,
                text=_bare(text),
                number=1 + len(example.hidden),
                guesses=tuple(
                    # A share summed in float32 can end slightly above 1.
                    Guess(
                        _guess(guess, sentencepiece),
                        min(share, 1.0),
                        _percent(share),
                        guess == text,
                    )
                    for guess, share in guesses
                ),
            )
        example.pieces.append(piece)
    return example


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


def _percent(share: float) -> str:
    if 0.0 < share < 0.001:
        return f"<{formats.SPACE}0.1%"
    return formats.number(share, ".0%" if share >= 0.01 else ".1%")


def _bare(text: str) -> str:
    return text.removeprefix(_CONTINUES).replace(_WORD_START, " ").strip() or "␣"


def _guess(text: str, sentencepiece: bool) -> str:
    """A piece on its own; an ellipsis tells "…ing" from a word."""
    mark = _WORD_START if sentencepiece else _CONTINUES
    inside = text.startswith(mark) != sentencepiece
    bare = _bare(text)
    return f"…{bare}" if inside and bare[0].isalnum() else bare
