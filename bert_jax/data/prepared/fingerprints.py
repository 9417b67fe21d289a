"""What tells a document from its copies: a hash of its text, and a MinHash signature.

Documents are equal when their hashes are. The share of equal entries in two signatures
estimates how many of their five-word sequences two documents share (Jaccard).
Sources: Broder 1997 (resemblance, shingles); Dietzfelbinger et al. 1997 (hashing by
multiplication and shift).
"""

import functools
import hashlib
import zlib

import numpy as np

SIGNATURE_SIZE = 128
SHINGLE_WORDS = 5
# Five-word sequences hashed at once: bounds the memory of a long document.
_BLOCK = 4_096


class Fingerprints:
    """Those of the documents of one shard, in reading order."""

    def __init__(self, *, near: bool) -> None:
        self.near = near
        self._hashes: list[bytes] = []
        self._signatures: list[np.ndarray] = []

    def add(self, text: bytes) -> None:
        """Takes the UTF-8 text of the next document."""
        self._hashes.append(hashlib.blake2b(text, digest_size=16).digest())
        if self.near:
            self._signatures.append(signature(text))

    def hashes(self) -> np.ndarray:
        """uint64 [documents, 2]."""
        return np.frombuffer(b"".join(self._hashes), "<u8").reshape(-1, 2)

    def signatures(self) -> np.ndarray:
        """uint32 [documents, SIGNATURE_SIZE]; no rows unless `near`."""
        found = np.array(self._signatures, np.uint32)
        return found.reshape(-1, SIGNATURE_SIZE)


def signature(text: bytes) -> np.ndarray:
    """MinHash of a document's five-word sequences, case and spacing aside.

    Args:
        text: UTF-8. With fewer words than five, all of them are the one sequence.

    Returns:
        uint32 [SIGNATURE_SIZE].
    """
    words = text.decode().lower().encode().split()
    hashes = np.fromiter(map(zlib.crc32, words), np.uint64, len(words))
    multipliers, offsets = _permutations()
    width = min(SHINGLE_WORDS, len(words))
    count = len(words) - width + 1
    shingles = np.zeros(count, np.uint64)
    for place in range(width):
        # An odd multiplier a place, so that order matters.
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
    """Multipliers (odd) and offsets, the same for ever: signatures are compared."""
    bits = hashlib.shake_128(b"bert_jax minhash").digest(16 * SIGNATURE_SIZE)
    drawn = np.frombuffer(bits, "<u8").reshape(2, SIGNATURE_SIZE)
    return drawn[0] | np.uint64(1), drawn[1]
