"""Whether a SentencePiece model gives a text the ids of its words, joined.

It does when nothing that it does reaches over a space: neither its normalisation, nor
a piece, nor the merging of neighbouring unknown characters.
"""

from typing import Any

import numpy as np

SPACE = "▁"  # U+2581, how pieces write a space

_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3  # of Piece.Type
_BPE = 2  # of TrainerSpec.ModelType


def splits_by_word(proto: Any) -> bool:
    """Whether the ids of every text are those of its words: its parts between spaces.

    True for every BPE model that `train_sentencepiece` makes, and for no unigram model:
    it chooses by sums of float32 over the whole text.

    Args:
        proto: from `parse_model`.
    """
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    kinds = {piece.type for piece in proto.pieces}
    ordinary = [piece.piece for piece in proto.pieces if piece.type == _NORMAL]
    return (
        trainer.model_type == _BPE
        and not trainer.treat_whitespace_as_suffix
        # Every word begins as the first one does, and nothing else is between them.
        and normalizer.add_dummy_prefix
        and normalizer.remove_extra_whitespaces
        and normalizer.escape_whitespaces
        # A user-defined symbol may hold spaces, and no rule changes it.
        and kinds <= {_NORMAL, _UNKNOWN, _CONTROL}
        and not any(SPACE in piece[1:] for piece in ordinary)
        # Or the space itself is unknown and joins the unknown characters around it.
        and SPACE in ordinary
        and _rules_keep_to_words(normalizer.precompiled_charsmap)
    )


def _rules_keep_to_words(charsmap: bytes) -> bool:
    """Whether no rule reads a space with something else, and `SPACE` becomes one.

    `charsmap` is the size of the next part (uint32), a double array over the bytes that
    rules read (uint32 units), and what they write, each ended by a zero (sentencepiece,
    src/normalizer.cc; the array is that of darts-clone).
    """
    size = int.from_bytes(charsmap[:4], "little")
    rules = _DoubleArray(np.frombuffer(charsmap[4 : 4 + size], "<u4"))
    written = charsmap[4 + size :]
    space = rules.value(SPACE.encode())
    return (
        space is not None
        and written[space:].startswith(b" \0")
        and SPACE.encode() not in written
        and rules.stands_alone(ord(" "))
    )


class _DoubleArray:
    """A trie over bytes; node n's child by byte b is unit n ^ b, if that bears b."""

    def __init__(self, units: np.ndarray) -> None:
        self._units = units.astype(np.int64)
        self._labels = self._units & 0x8000_00FF
        offsets = (self._units >> 10) << ((self._units & (1 << 9)) >> 6)
        self._nodes = np.arange(units.size) ^ offsets

    def value(self, key: bytes) -> int | None:
        """What is stored for `key`."""
        if self._units.size == 0:
            return None
        node, unit = int(self._nodes[0]), 0
        for byte in key:
            unit = node ^ byte
            if unit >= self._units.size or self._labels[unit] != byte:
                return None
            node = int(self._nodes[unit])
        has_value = bool(self._units[unit] >> 8 & 1)
        return int(self._units[node]) & 0x7FFF_FFFF if has_value else None

    def stands_alone(self, byte: int) -> bool:
        """Whether no key holds `byte` and another one.

        Units that no key uses are looked at too: they can only turn the answer to no.
        """
        units = self._children(self._nodes, np.array(byte))
        if units.size == 0:
            return True
        if units.tolist() != [int(self._nodes[0]) ^ byte]:
            return False
        return self._children(self._nodes[units], np.arange(1, 256)).size == 0

    def _children(self, nodes: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The units that these nodes reach by these bytes, each once."""
        nodes, labels = np.broadcast_arrays(nodes, labels)
        units = nodes ^ labels
        inside = units < self._units.size
        units, labels = units[inside], labels[inside]
        return np.unique(units[self._labels[units] == labels])
