"""What is done with texts that do not fit into a row: cut, head and tail, or windows."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

Pieces = Sequence[int]  # token ids of a text
Row = list[Pieces]  # of one text, or of both texts of a pair


class LongTexts(NamedTuple):
    """A way to bring a text, or a pair, into one row or several."""

    lost: str
    """What becomes of a long text, in words."""
    rows: Callable[[Row, int, int | None], list[Row]]
    """rows(parts, room, stride): the tokens of each row, at most `room` in each."""


def cut(parts: Row, room: int, stride: int | None = None) -> list[Row]:
    """One row without the end of the text. Of a pair, the longer text loses its end."""
    sizes = _shares([len(part) for part in parts], room)
    return [[part[:size] for part, size in zip(parts, sizes, strict=True)]]


def head_and_tail(parts: Row, room: int, stride: int | None = None) -> list[Row]:
    """One row without the middle: a quarter of the place has the beginning, the rest the
    end.

    Source: Sun et al. 2019, "How to Fine-Tune BERT for Text Classification?", section
    5.3.1: 128 tokens of 510 are the head.
    """
    sizes = _shares([len(part) for part in parts], room)
    row: Row = []
    for part, size in zip(parts, sizes, strict=True):
        head = size // 4 if size < len(part) else size
        row.append([*part[:head], *part[len(part) - (size - head) :]])
    return [row]


def windows(parts: Row, room: int, stride: int | None = None) -> list[Row]:
    """Rows that overlap. Of a pair, the longer text moves on, and every row has the other
    one, of which half a row is the most. The last window ends with the text.

    Args:
        stride: tokens from one window to the next. Default: half of a window.

    Raises:
        ValueError: the stride is longer than a window, so that tokens would be lost.
    """
    if sum(map(len, parts)) <= room:
        return [parts]
    parts = list(parts)
    moving = max(range(len(parts)), key=lambda n: len(parts[n]))
    for other in range(len(parts)):
        if other != moving:
            parts[other] = parts[other][: room // 2]
            room -= len(parts[other])
    stride = max(1, room // 2) if stride is None else stride
    if stride > room:
        raise ValueError(
            f"FinetuneConfig.stride={stride} is longer than a window of {room} "
            "tokens, so that tokens between two windows would be lost; pass a smaller "
            "--stride or a larger --sequence-length."
        )
    whole = parts[moving]
    last = len(whole) - room
    starts = [*range(0, last, stride), max(last, 0)]
    rows = []
    for start in starts:
        row = list(parts)
        row[moving] = whole[start : start + room]
        rows.append(row)
    return rows


LONG_TEXTS: Mapping[str, LongTexts] = {
    "cut": LongTexts("lost their end", cut),
    "head-tail": LongTexts("lost their middle", head_and_tail),
    "windows": LongTexts("became several rows", windows),
}


def _shares(lengths: list[int], room: int) -> list[int]:
    """The tokens that each text keeps; of a pair, the longer one loses tokens first.

    Where both lose some and `room` is odd, the longer one keeps one token more, of two as
    long the second: as in the library `tokenizers`, so that what is exported cuts alike.
    BERT's own code keeps it for the first.
    """
    if len(lengths) == 1:
        return [min(lengths[0], room)]
    fewer = min(*lengths, room // 2)
    a, b = lengths
    return [min(a, room - fewer), fewer] if a > b else [fewer, min(b, room - fewer)]
