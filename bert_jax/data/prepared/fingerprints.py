"""How copies of a document are recognised: by a hash, and by a MinHash signature.

Two documents have the same text when their hashes are equal. The fraction of equal
entries in their signatures estimates the Jaccard similarity of their sets of five-word
sequences.
Sources: Broder 1997 (resemblance, shingles); Dietzfelbinger et al. 1997 (hashing by
multiplication and shift).
"""

import functools
import hashlib
import re
import zlib

import numpy as np

SIGNATURE_SIZE = 128
SHINGLE_WORDS = 5
# So many five-word sequences are hashed at once, which bounds the memory.
_BLOCK = 4_096
# Scripts without spaces: Thai, Lao, Tibetan, Burmese, Khmer, kana, ideographs.
_UNSPACED = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)


class Fingerprints:
    """The fingerprints of one shard's documents, in reading order."""

    def __init__(self, *, near: bool) -> None:
        self.near = near
        self._hashes: list[bytes] = []
        self._signatures: list[np.ndarray] = []

    def add(self, text: bytes) -> None:
        """Adds the next document, given as UTF-8 text."""
        self._hashes.append(hashlib.blake2b(text, digest_size=16).digest())
        if self.near:
            self._signatures.append(signature(text))

    def hashes(self) -> np.ndarray:
        """The 128-bit hashes, uint64 [documents, 2]."""
        return np.frombuffer(b"".join(self._hashes), "<u8").reshape(-1, 2)

    def signatures(self) -> np.ndarray:
        """The signatures, uint32 [documents, SIGNATURE_SIZE]; no rows unless `near`."""
        found = np.array(self._signatures, np.uint32)
        return found.reshape(-1, SIGNATURE_SIZE)


def signature(text: bytes) -> np.ndarray:
    """MinHash of a document's five-word sequences; case and spacing do not matter.

    Args:
        text: UTF-8 text. Fewer than five words count as one sequence. In scripts without
            spaces, every character is a word.

    Returns:
        uint32 [SIGNATURE_SIZE].
    """
    lowered = text.decode().lower()
    if not text.isascii():
        lowered = _UNSPACED.sub(r" \g<0> ", lowered)
    words = lowered.encode().split()
    hashes = np.fromiter(map(zlib.crc32, words), np.uint64, len(words))
    multipliers, offsets = _permutations()
    width = min(SHINGLE_WORDS, len(words))
    count = len(words) - width + 1
    shingles = np.zeros(count, np.uint64)
    for place in range(width):
        # Multiplying by an odd number at each word makes the order of words matter.
        shingles = shingles * np.uint64(0x9E3779B97F4A7C15)
        shingles += hashes[place : place + count] + np.uint64(1)
        shingles ^= shingles >> np.uint64(29)
    lowest = np.full(SIGNATURE_SIZE, 2**32 - 1, np.uint64)
    for start in range(0, count, _BLOCK):
        block = shingles[start : start + _BLOCK, None]
        mixed = (block * multipliers + offsets) >> np.uint64(32)
        lowest = np.minimum(lowest, mixed.min(axis=0))
    return lowest.astype(np.uint32)


@functools.cache
def _permutations() -> tuple[np.ndarray, np.ndarray]:
    """Odd multipliers and offsets, uint64 [SIGNATURE_SIZE]; they must never change."""
    bits = hashlib.shake_128(b"bert_jax minhash").digest(16 * SIGNATURE_SIZE)
    drawn = np.frombuffer(bits, "<u8").reshape(2, SIGNATURE_SIZE)
    return drawn[0] | np.uint64(1), drawn[1]
