"""Filled-in masks: pieces of a tokenizer as the text that people read."""

import dataclasses
from typing import Any

from bert_jax.report import formats
from bert_jax.report.inputs import ROUNDING, Run

_WORD_START = "▁"  # SentencePiece
_CONTINUES = "##"  # WordPiece
_UNSEEN = {"[PAD]", "[CLS]"}
_CLOSING = frozenset(".,;:!?%)]}'’”")
_OPENING = frozenset("([{'‘“")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guess:
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
    verdict: str = ""
    """right, near (among the guesses) or wrong; empty where nothing was guessed."""
    guesses: tuple[Guess, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One text with hidden pieces."""

    pieces: tuple[Piece, ...]

    @property
    def hidden(self) -> list[Piece]:
        return [piece for piece in self.pieces if piece.number]


def mask_examples(run: Run) -> list[Example]:
    """The examples that a pretraining run stored, ready to show.

    Raises:
        ValueError: an example has another shape than described in the run's format.
    """
    stored = run.results.items("mask_examples") or []
    checked = [_tokens(example, run.results.source) for example in stored]
    sentencepiece = any(
        text.startswith(_WORD_START) for tokens in checked for text, _ in tokens
    )
    return [_example(tokens, sentencepiece) for tokens in checked]


def caption(examples: list[Example]) -> str:
    """How many of the hidden pieces shown were guessed right."""
    hidden = [piece for example in examples for piece in example.hidden]
    right = sum(piece.verdict == "right" for piece in hidden)
    near = sum(piece.verdict == "near" for piece in hidden)
    return (
        f"Of the {formats.plural(len(hidden), 'hidden piece')} below, the first guess "
        f"is right for {right}, and a later one for {near} more."
    )


def _example(tokens: list[tuple[str, Any]], sentencepiece: bool) -> Example:
    pieces: list[Piece] = []
    previous = ""
    for text, guesses in tokens:
        if text in _UNSEEN and guesses is None:
            continue
        special = text.startswith("[") and text.endswith("]") and text[1:-1].isupper()
        space = _space(text, previous, sentencepiece, special) if pieces else ""
        shown = _bare(text)
        if guesses is None:
            pieces.append(Piece(space=space, text=shown, special=special))
        else:
            number = 1 + sum(piece.number > 0 for piece in pieces)
            listed = tuple(
                Guess(
                    text=_guess(guess, sentencepiece),
                    share=min(share, 1.0),
                    percent=_percent(share),
                    right=guess == text,
                )
                for guess, share in guesses
            )
            verdict = "wrong" if listed else ""
            if any(guess.right for guess in listed):
                verdict = "right" if listed[0].right else "near"
            pieces.append(
                Piece(
                    space=space,
                    text=shown,
                    number=number,
                    verdict=verdict,
                    guesses=listed,
                )
            )
        previous = text
    return Example(pieces=tuple(pieces))


def _space(text: str, previous: str, sentencepiece: bool, special: bool) -> str:
    if special or (previous.startswith("[") and previous[1:-1].isupper()):
        return " "
    if sentencepiece:
        return " " if text.startswith(_WORD_START) else ""
    # WordPiece forgets the spaces around punctuation; this is how most text has them.
    if text.startswith(_CONTINUES) or text in _CLOSING or previous in _OPENING:
        return ""
    return " "


def _percent(share: float) -> str:
    if 0.0 < share < 0.001:
        return f"< 0.1{formats.SPACE}%"
    return formats.percent(share, 0 if share >= 0.01 else 1)


def _bare(text: str) -> str:
    bare = text.removeprefix(_CONTINUES).replace(_WORD_START, " ").strip()
    return bare or "␣"


def _guess(text: str, sentencepiece: bool) -> str:
    """A piece on its own; an ellipsis tells "…ing" from a word."""
    inside = (
        not text.startswith(_WORD_START)
        if sentencepiece
        else text.startswith(_CONTINUES)
    )
    bare = _bare(text)
    return f"…{bare}" if inside and bare[0].isalnum() else bare


def _tokens(example: Any, source: str) -> list[tuple[str, Any]]:
    tokens = example.get("tokens") if isinstance(example, dict) else None
    if not isinstance(tokens, list):
        raise ValueError(
            f"{source}: a mask example is {example!r}, expected an object with a list "
            "of tokens. Evaluate the run again with this version."
        )
    checked = []
    for token in tokens:
        text = token.get("text") if isinstance(token, dict) else None
        guesses = token.get("guesses") if isinstance(token, dict) else None
        if not isinstance(text, str) or not _are_guesses(guesses):
            raise ValueError(
                f"{source}: a token of a mask example is {token!r}, expected a text "
                "and guesses that are null or pairs of a piece and a share in [0, 1]. "
                "Evaluate the run again with this version."
            )
        checked.append((text, guesses))
    return checked


def _are_guesses(guesses: Any) -> bool:
    return guesses is None or (
        isinstance(guesses, list)
        and all(
            isinstance(pair, list)
            and len(pair) == 2
            and isinstance(pair[0], str)
            and isinstance(pair[1], int | float)
            and 0.0 <= pair[1] <= 1.0 + ROUNDING
            for pair in guesses
        )
    )
