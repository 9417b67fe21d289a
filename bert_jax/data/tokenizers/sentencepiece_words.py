"""Tests whether the ids of a text are the joined ids of its words, for SentencePiece.

They are if nothing reaches over a space: neither the normalisation, nor a piece, nor
the joining of neighbouring unknown characters.
"""

from typing import Any

import numpy as np

from bert_jax.data.tokenizers.pieces import SPACE

_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3  # values of Piece.Type
_BPE = 2  # value of TrainerSpec.ModelType


def splits_by_word(proto: Any) -> bool:
    """Whether the ids of every text are those of its words, joined.

    A word is what stands between two spaces. The answer is yes for every BPE model that
    `train_sentencepiece` makes. It is no for every unigram model, because such a model
    compares sums in float32 over the whole text.

    Args:
        proto: the model, from `parse_model`.
    """
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    kinds = {piece.type for piece in proto.pieces}
    ordinary = [piece.piece for piece in proto.pieces if piece.type == _NORMAL]
    return (
        trainer.model_type == _BPE
        and not trainer.treat_whitespace_as_suffix
        # Every word begins like the first one, and nothing else is between words.
        and normalizer.add_dummy_prefix
        and normalizer.remove_extra_whitespaces
        and normalizer.escape_whitespaces
        # There is no user-defined symbol, which could hold a space.
        and kinds <= {_NORMAL, _UNKNOWN, _CONTROL}
        and not any(SPACE in piece[1:] for piece in ordinary)
        # Otherwise the space would be unknown and join unknown characters around it.
        and SPACE in ordinary
        and _rules_keep_to_words(normalizer.precompiled_charsmap)
    )


def _rules_keep_to_words(charsmap: bytes) -> bool:
    """Whether no rule reads a space together with something else.

    Also, `SPACE` in a text must become a plain space.

    Args:
        charsmap: three things one behind the other: the size in bytes of the second
            (uint32); a double array over the bytes that rules read (uint32 entries);
            and the texts that rules write, each ended by a zero. Source: sentencepiece,
            src/normalizer.cc; the array is that of darts-clone.
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
    """A trie over bytes: the child of node n by byte b is entry n ^ b, if labelled b."""

    def __init__(self, entries: np.ndarray) -> None:
        self._entries = entries.astype(np.int64)
        self._labels = self._entries & 0x8000_00FF
        offsets = (self._entries >> 10) << ((self._entries & (1 << 9)) >> 6)
        self._nodes = np.arange(entries.size) ^ offsets

    def value(self, key: bytes) -> int | None:
        """The value of `key`, or `None`."""
        if self._entries.size == 0:
            return None
        node, entry = int(self._nodes[0]), 0
        for byte in key:
            entry = node ^ byte
            if entry >= self._entries.size or self._labels[entry] != byte:
                return None
            node = int(self._nodes[entry])
        has_value = bool(self._entries[entry] >> 8 & 1)
        return int(self._entries[node]) & 0x7FFF_FFFF if has_value else None

    def stands_alone(self, byte: int) -> bool:
        """Whether no key consists of `byte` and other bytes.

        Entries that no key uses are looked at too; they can only make the answer no.
        """
        entries = self._children(self._nodes, np.array(byte))
        if entries.size == 0:
            return True
        if entries.tolist() != [int(self._nodes[0]) ^ byte]:
            return False
        return self._children(self._nodes[entries], np.arange(1, 256)).size == 0

    def _children(self, nodes: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The entries that these nodes reach by these bytes, each once."""
        nodes, labels = np.broadcast_arrays(nodes, labels)
        entries = nodes ^ labels
        inside = entries < self._entries.size
        entries, labels = entries[inside], labels[inside]
        return np.unique(entries[self._labels[entries] == labels])
