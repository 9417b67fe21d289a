"""Ids of words that were met before, so that most of a text costs one look-up a word.

A word is what stands between two ASCII spaces. Where the ids of a text are those of its
words joined, and only there, a tokenizer may use this.
"""

import sys
from collections.abc import Callable, Sequence

import numpy as np

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
    """A bounded table from words to their ids.

    It holds two generations of half of `max_bytes` each. When the younger one is full,
    it becomes the older one, and that is forgotten; a word that is met again moves to
    the younger one. So common words stay, and what was forgotten is encoded again, to
    the same ids. Threads may share it.
    """

    def __init__(
        self,
        encode_word: Callable[[str], bytes],
        dtype: np.dtype[np.unsignedinteger],
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Begins empty.

        Args:
            encode_word: a word's ids as the bytes of an array of `dtype`, always the
                same for one word.
            dtype: of ids.
            max_bytes: of memory; the new words of one text may come on top.
        """
        self._encode_word = encode_word
        self._dtype = dtype
        self._max_generation_bytes = max_bytes // 2
        self._words = _Generation(encode_word, {})

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of texts, split at ASCII spaces and nowhere else.

        Returns:
            ids: `dtype` [tokens], one text behind the other, read-only.
            lengths: int64 [texts].
        """
        encoded = []
        words = self._words
        for text in texts:
            if words.num_bytes > self._max_generation_bytes:
                words.before = {}
                words = self._words = _Generation(self._encode_word, words)
            encoded.append(b"".join(map(words.__getitem__, text.split(" "))))
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        ids = np.frombuffer(b"".join(encoded), self._dtype)
        return ids, lengths // self._dtype.itemsize
