"""A cache of the ids of words, so that most words of a text cost one look-up.

A word is what stands between two ASCII spaces. A tokenizer can use the cache only if
the ids of every text are the joined ids of its words.
"""

import sys
from collections.abc import Callable, Sequence

import numpy as np

# One half is for words in use, the other for words that were used before.
MAX_BYTES = 256 << 20
# Memory of an entry in a dict besides its two objects, when the table is emptiest.
_BYTES_PER_ENTRY = 60


class _Generation(dict[str, bytes]):
    """Words in use. A missing word is taken from the words before, or encoded."""

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
    """A table from words to their ids, of bounded size.

    It consists of two generations of at most `max_bytes` / 2. When the younger one is
    full, it replaces the older one, and a new one begins. A word of the older generation
    that is used again is copied to the younger one. So common words are kept. Forgotten
    words are encoded again, to the same ids. Threads can share a cache.
    """

    def __init__(
        self,
        encode_word: Callable[[str], bytes],
        dtype: np.dtype[np.unsignedinteger],
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Begins with an empty cache.

        Args:
            encode_word: returns the ids of a word as the bytes of an array of `dtype`;
                the same for equal words.
            dtype: type of ids.
            max_bytes: limit of memory; the words of one text can exceed it.
        """
        self._encode_word = encode_word
        self._dtype = dtype
        self._max_generation_bytes = max_bytes // 2
        self._words = _Generation(encode_word, {})

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of texts, which are split at ASCII spaces and nowhere else.

        Returns:
            ids: `dtype` [tokens], one text behind the other; read-only.
            lengths: int64 [texts], number of ids of each text.
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
