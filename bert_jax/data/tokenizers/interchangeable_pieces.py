"""Puts neighbouring pieces in one order where a unigram model allows several.

"000" can be split into 0 + 00 or into 00 + 0, and both have the same score.
SentencePiece adds scores in float32, so the rounding of the text in front decides;
other implementations decide in other ways. Two neighbours can change places only if
both repeat one string (Lyndon and Schuetzenberger 1962). Here such neighbours are
sorted, the shortest first. So an exported tokenizer can give the same ids.
"""

from collections.abc import Collection, Sequence

import numpy as np


class InterchangeablePieces:
    """The pieces of a vocabulary that can change places with another one."""

    def __init__(self, pieces: Sequence[str], special: Collection[int]) -> None:
        roots: dict[str, list[int]] = {}
        for index, piece in enumerate(pieces):
            if index not in special and piece:
                # The shortest string that `piece` repeats.
                period = (piece + piece).index(piece, 1)
                roots.setdefault(piece[:period], []).append(index)
        groups = [group for group in roots.values() if len(group) > 1]
        # Pieces of one group can change places; a piece of group 0 cannot.
        self._group = np.zeros(len(pieces), np.int32)
        for number, group in enumerate(groups, start=1):
            self._group[group] = number
        self._length = np.array([len(piece) for piece in pieces], np.int32)

    def sort_runs(self, ids: np.ndarray, lengths: np.ndarray) -> None:
        """Sorts neighbours that can change places, shortest first, in place.

        Args:
            ids: integer [tokens], ids of some texts, one text behind the other.
            lengths: int64 [texts], ids of each text; neighbours are in the same text.
        """
        group, length = self._group[ids], self._length[ids]
        opens = np.ones(ids.size + 1, bool)  # True where a run begins.
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
