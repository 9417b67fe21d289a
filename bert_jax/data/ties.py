"""Ties between segmentations of a unigram model, broken the same way everywhere.

"000" is 0 + 00 or 00 + 0, with equal scores. SentencePiece adds scores in float32, so
that the text in front decides by its rounding; other implementations decide otherwise.
Two pieces can change places in a text only when both are powers of one string (Lyndon
and Schuetzenberger 1962), so putting such neighbours in order, shortest first, makes ids
a function of the pieces, and an exported tokenizer can give the same.
"""

from collections.abc import Collection, Sequence


class Powers:
    """The pieces of a vocabulary that can change places with another."""

    def __init__(self, pieces: Sequence[str], special: Collection[int]) -> None:
        roots: dict[str, list[int]] = {}
        for index, piece in enumerate(pieces):
            if index not in special and piece:
                # The shortest string that `piece` repeats.
                period = (piece + piece).index(piece, 1)
                roots.setdefault(piece[:period], []).append(index)
        self._root = {
            index: root
            for root, group in roots.items()
            if len(group) > 1
            for index in group
        }
        self._length = {index: len(pieces[index]) for index in self._root}
        self._movable = frozenset(self._root)

    def sort_runs(self, ids: list[int]) -> None:
        """Sorts neighbours that are powers of one string, shortest first, in place."""
        if self._movable.isdisjoint(ids):
            return
        start = 0
        while start < len(ids):
            root = self._root.get(ids[start])
            end = start + 1
            if root is not None:
                while end < len(ids) and self._root.get(ids[end]) == root:
                    end += 1
                ids[start:end] = sorted(ids[start:end], key=self._length.__getitem__)
            start = end
