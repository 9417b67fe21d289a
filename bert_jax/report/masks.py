"""Filled-in masks: pieces of a tokenizer as the text that people read."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from bert_jax.data.tokenizers.pieces import CONTINUES, SPACE, bare

_SPECIAL = re.compile(r"\[[A-Z]+\]")
_CLOSING = frozenset(".,;:!?%)]}'’”")
_OPENING = frozenset("([{'‘“")


class Piece(NamedTuple):
    """One piece of an example, with the space before it."""

    space: str
    text: str
    special: bool
    guesses: Sequence[tuple[str, str, bool]]
    """Text, share in percent, and whether it is right; the likeliest first. Empty for a
    piece that was not hidden."""

    @property
    def verdict(self) -> str:
        """right, near (a later guess is right) or wrong."""
        right = [hit for _, _, hit in self.guesses]
        return "wrong" if True not in right else "right" if right[0] else "near"


@dataclasses.dataclass(frozen=True)
class Examples:
    """A card of texts with hidden pieces."""

    kind: ClassVar = "examples"
    examples: Sequence[Sequence[Piece]]


def pieces(tokens: Sequence[dict[str, Any]]) -> list[Piece]:
    """A text ready to show.

    Args:
        tokens: `tokens` of one of the `mask_examples` in the results of a pretraining run.
    """
    sentencepiece = any(token["text"].startswith(SPACE) for token in tokens)
    shown = [x for x in tokens if x["guesses"] or x["text"] not in ("[PAD]", "[CLS]")]
    made: list[Piece] = []
    previous = ""
    for token in shown:
        text = token["text"]
        special = bool(_SPECIAL.fullmatch(text))
        apart = not _continues(text, sentencepiece)
        if not sentencepiece and (text in _CLOSING or previous in _OPENING):
            apart = False  # WordPiece forgets the spaces; most text has these
        apart = apart or special or bool(_SPECIAL.fullmatch(previous))
        guesses = [
            (_guess(guess, sentencepiece), f"{share:.1%}", guess == text)
            for guess, share in token["guesses"] or ()
        ]
        made.append(
            Piece(" " if apart and made else "", _shown(text), special, guesses)
        )
        previous = text
    return made


def _continues(text: str, sentencepiece: bool) -> bool:
    """Whether a piece goes on with the word of the one before it."""
    return text.startswith(SPACE if sentencepiece else CONTINUES) != sentencepiece


def _shown(text: str) -> str:
    return bare(text) or "␣"


def _guess(text: str, sentencepiece: bool) -> str:
    """A piece on its own; an ellipsis tells "…ing" from a word."""
    shown = _shown(text)
    goes_on = _continues(text, sentencepiece) and shown[0].isalnum()
    return f"…{shown}" if goes_on else shown
