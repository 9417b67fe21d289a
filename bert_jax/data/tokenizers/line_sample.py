"""Draws a uniform sample of lines in bounded memory, for training a vocabulary."""

import heapq
import random
from collections.abc import Iterable, Iterator

from bert_jax.config.tokenizer import MAX_LINE_BYTES
from bert_jax.data.tokenizers.fast_normalization import without_surrogates


def sample_lines(
    sentences: Iterable[str], *, max_lines: int, max_bytes: int
) -> list[str]:
    """Keeps as many lines as both limits allow, in the order of the text.

    Every line gets a random number, the same in every process, and the lines with the
    smallest numbers are kept. So it depends on the place of a line whether it is kept.
    Empty sentences are left out. Long ones are cut into several lines of at most
    `MAX_LINE_BYTES`, at spaces if possible.

    Args:
        sentences: the text; read once.
        max_lines: most lines to keep.
        max_bytes: most bytes of UTF-8 to keep; they take about twice that in memory.
    """
    draw = random.Random(0).random
    kept: list[tuple[float, int, str]] = []  # a heap with the largest number on top
    bound, size = 1.0, 0
    for place, line in enumerate(_lines(sentences)):
        number = draw()
        if number >= bound:
            continue
        heapq.heappush(kept, (-number, place, line))
        size += num_bytes(line)
        while len(kept) > max_lines or size > max_bytes:
            negative, _, dropped = heapq.heappop(kept)
            # From here on no larger number is taken: later lines must not get the
            # room that earlier ones did not have.
            bound = -negative
            size -= num_bytes(dropped)
    return [line for _, _, line in sorted(kept, key=lambda entry: entry[1])]


def num_bytes(text: str) -> int:
    """Size of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def _lines(sentences: Iterable[str]) -> Iterator[str]:
    for sentence in sentences:
        text = without_surrogates(sentence).strip()
        limit = MAX_LINE_BYTES // 4  # A character takes at most four bytes in UTF-8.
        while len(text) > limit and num_bytes(text) > MAX_LINE_BYTES:
            cut = text.rfind(" ", 0, limit)
            cut = cut if cut > 0 else limit
            yield text[:cut]
            text = text[cut:].lstrip()
        if text:
            yield text
