"""Ties between segmentations of a unigram model, broken the same way everywhere.

"000" is 0 + 00 or 00 + 0, with equal scores. SentencePiece adds scores in float32, so
that the text in front decides by its rounding; other implementations decide otherwise.
Two pieces can change places in a text only when both are powers of one string (Lyndon
and Schuetzenberger 1962), so putting such neighbours in order, shortest first, makes ids
a function of the pieces, and an exported tokenizer can give the same.
"""

from collections.abc import Collection, Sequence

import numpy as np


class Powers:
    """The pieces of a vocabulary that can change places with another."""

    def __init__(self, pieces: Sequence[str], special: Collection[int]) -> None:
        roots: dict[str, list[int]] = {}
        for index, piece in enumerate(pieces):
            if index not in special and piece:
                # The shortest string that `piece` repeats.
                period = (piece + piece).index(piece, 1)
                roots.setdefault(piece[:period], []).append(index)
        groups = [group for group in roots.values() if len(group) > 1]
        # Pieces of one group can change places; 0 is no group.
        self._group = np.zeros(len(pieces), np.int32)
        for number, group in enumerate(groups, start=1):
            self._group[group] = number
        self._length = np.array([len(piece) for piece in pieces], np.int32)

    def sort_runs(self, ids: np.ndarray, lengths: np.ndarray) -> None:
        """Sorts neighbours that are powers of one string, shortest first, in place.

        Args:
            ids: integer [tokens], of texts one behind the other.
            lengths: int64 [texts]; ids of two texts are no neighbours.
        """
        group, length = self._group[ids], self._length[ids]
        opens = np.ones(ids.size + 1, bool)  # true where a run begins
        opens[1:-1] = (group[1:] != group[:-1]) | (group[1:] == 0)
        opens[np.cumsum(lengths)] = True
        unsorted = ~opens[1:-1] & (length[1:] < length[:-1])
        if not unsorted.any():
            return
        starts = np.flatnonzero(opens)
        runs = np.searchsorted(starts, np.flatnonzero(unsorted), side="right")
        for run in np.unique(runs).tolist():
            part = slice(starts[run - 1], starts[run])
            ids[part] = ids[part][np.argsort(length[part], kind="stable")]
