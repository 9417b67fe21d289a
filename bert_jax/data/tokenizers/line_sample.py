"""A uniform sample of lines in bounded memory, for training a vocabulary."""

import heapq
import random
from collections.abc import Iterable, Iterator

from bert_jax.data.tokenizers.tokenizer import without_surrogates

# SentencePiece skips longer training lines and says so only in its log.
MAX_LINE_BYTES = 4_000


def sample_lines(
    sentences: Iterable[str], *, max_lines: int, max_bytes: int
) -> list[str]:
    """As many lines as both bounds allow, in the order of the text.

    Every line gets a random number, the same in every process, and those with the
    smallest ones stay; so which line is kept depends on its place alone. Empty sentences
    are left out, long ones cut into parts of `MAX_LINE_BYTES`, at spaces if possible.

    Args:
        sentences: text, read once.
        max_lines: to keep.
        max_bytes: to keep, of UTF-8; Python takes about twice that in memory.
    """
    draw = random.Random(0).random
    kept: list[tuple[float, int, str]] = []  # the largest number first
    bound, size = 1.0, 0
    for place, line in enumerate(_lines(sentences)):
        number = draw()
        if number >= bound:
            continue
        heapq.heappush(kept, (-number, place, line))
        size += num_bytes(line)
        while len(kept) > max_lines or size > max_bytes:
            negative, _, dropped = heapq.heappop(kept)
            # From here on, or later lines would get the room of earlier ones.
            bound = -negative
            size -= num_bytes(dropped)
    return [line for _, _, line in sorted(kept, key=lambda entry: entry[1])]


def num_bytes(text: str) -> int:
    """Of UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def _lines(sentences: Iterable[str]) -> Iterator[str]:
    for sentence in sentences:
        text = without_surrogates(sentence).strip()
        limit = MAX_LINE_BYTES // 4  # UTF-8 takes four bytes a character at most
        while len(text) > limit and num_bytes(text) > MAX_LINE_BYTES:
            cut = text.rfind(" ", 0, limit)
            cut = cut if cut > 0 else limit
            yield text[:cut]
            text = text[cut:].lstrip()
        if text:
            yield text
