"""Ids of words that were met before, so that most of a text costs one look-up a word.

A word is what stands between two ASCII spaces. Where the ids of a text are those of its
words joined, and only there, a tokenizer may use this.
"""

import sys
from collections.abc import Callable, Sequence

# Half of it for words in use, half for those of the time before.
MAX_BYTES = 256 << 20
# A dict's share of one entry, besides the two objects, while its table is emptiest.
_BYTES_PER_ENTRY = 60


class _Generation(dict[str, bytes]):
    """Words in use; one that is missing comes from those before, or is encoded."""

    def __init__(
        self, encode_word: Callable[[str], bytes], before: dict[str, bytes]
    ) -> None:
        super().__init__()
        self.encode_word = encode_word
        self.before = before
        self.num_bytes = 0

    def __missing__(self, word: str) -> bytes:
        ids = self.before.get(word)
        if ids is None:
            ids = self.encode_word(word)
        self[word] = ids
        self.num_bytes += sys.getsizeof(word) + sys.getsizeof(ids) + _BYTES_PER_ENTRY
        return ids


class WordCache:
    """A bounded table from words to the bytes of their ids.

    It holds two generations of half of `max_bytes` each. When the younger one is full,
    it becomes the older one, and that is forgotten; a word that is met again moves to
    the younger one. So common words stay, and what was forgotten is encoded again, to
    the same ids. Threads may share it.
    """

    def __init__(
        self, encode_word: Callable[[str], bytes], max_bytes: int = MAX_BYTES
    ) -> None:
        """Begins empty.

        Args:
            encode_word: the bytes of a word's ids, always the same for one word.
            max_bytes: of memory; the new words of one text may come on top.
        """
        self._encode_word = encode_word
        self._max_generation_bytes = max_bytes // 2
        self._words = _Generation(encode_word, {})

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """The bytes of the ids of each text, split at ASCII spaces and nowhere else."""
        encoded = []
        words = self._words
        for text in texts:
            if words.num_bytes > self._max_generation_bytes:
                words.before = {}
                words = self._words = _Generation(self._encode_word, words)
            encoded.append(b"".join(map(words.__getitem__, text.split(" "))))
        return encoded
