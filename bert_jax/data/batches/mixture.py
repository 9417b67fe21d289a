"""The rows of several datasets as one endless sequence, each with its share of every batch.

A table of the next 10,000 places says which dataset each of them takes, and then it begins
anew. So a batch is still a function of (seed, step), each dataset goes through its own epochs
in its own order, and in any stretch of rows its part differs from its share by less than two
rows. With buckets a place is a whole batch, as in `rows`.
"""

import heapq
from collections.abc import Sequence

import numpy as np

from bert_jax.batch import PretrainBatch
from bert_jax.data.batches.rows import PretrainRows, joined, joined_parts

PERIOD = 10_000
"""Places after which the order of the datasets begins anew."""


class MixedRows:
    """Rows by number, as of `PretrainRows`, but for the epochs, which each dataset has."""

    def __init__(
        self,
        sources: Sequence[PretrainRows],
        shares: Sequence[float],
        taken: Sequence[int],
    ) -> None:
        """Plans nothing yet.

        Args:
            sources: the rows of each dataset, with the same settings.
            shares: share of each dataset in the rows; they add up to 1, and one may be 0.
            taken: places of each dataset that earlier phases took.

        Raises:
            ValueError: a share is too small to be one place of `PERIOD`.
        """
        self.sources, self._taken = tuple(sources), tuple(taken)
        self.cfg, self.batch_size = sources[0].cfg, sources[0].batch_size
        self._order = order_of(shares)
        counts = self._order == np.arange(len(sources))[:, None]
        self._before = np.zeros((len(sources), PERIOD + 1), np.int64)
        np.cumsum(counts, axis=1, out=self._before[:, 1:])

    def place_of(self, source: int, place: int) -> int:
        """The place in a dataset's own sequence of what it gives at `place` or next."""
        rounds, rest = divmod(place, PERIOD)
        each, before = int(self._before[source, -1]), int(self._before[source, rest])
        return self._taken[source] + rounds * each + before

    def places_of(self, source: int, first: int, end: int) -> tuple[int, int]:
        """The dataset's own places that stand in [first, end) of the mixture."""
        return self.place_of(source, first), self.place_of(source, end)

    def plan_ahead(self, place: int, end: int) -> None:
        """As `PretrainRows.plan_ahead`, for every dataset."""
        for number, rows in enumerate(self.sources):
            own, own_end = self.places_of(number, place, end)
            if own < own_end:
                rows.plan_ahead(own, own_end)

    def batch_of_step(
        self,
        step: int,
        *,
        batch_size: int,
        parts: tuple[int, ...] = (0,),
        num_parts: int = 1,
        first_row: int = 0,
    ) -> PretrainBatch:
        """As `PretrainRows.batch_of_step`; with buckets, the batch is of one dataset."""
        if self.batch_size is not None:
            source = int(self._order[step % PERIOD])
            return self.sources[source].batch_of_step(
                self.place_of(source, step),
                batch_size=batch_size,
                parts=parts,
                num_parts=num_parts,
            )
        start = first_row + step * batch_size
        return joined_parts(self._batch, start, batch_size // num_parts, parts)

    def _batch(self, first: int, num_rows: int) -> PretrainBatch:
        of_row = self._order[np.arange(first, first + num_rows) % PERIOD]
        found, rows_of = [], []
        for number, rows in enumerate(self.sources):
            own, own_end = self.places_of(number, first, first + num_rows)
            if own < own_end:
                found.append(rows.batch(own, own_end - own))
                rows_of.append(np.flatnonzero(of_row == number))
        place = np.argsort(np.concatenate(rows_of))
        return PretrainBatch(*(x[place] for x in joined(found)))


def order_of(shares: Sequence[float]) -> np.ndarray:
    """The dataset of each of `PERIOD` places, int16, spread as evenly as shares allow.

    The k-th of a dataset's n places, from 0, stands between k / n and (k + 1) / n of the
    period, so at every place each dataset is less than a row from its share.
    Of the datasets that may come next, the one that must come first is taken.

    Source: Baruah et al. 1996, "Proportionate progress" (one resource).

    Raises:
        ValueError: a share is too small to be one place.
    """
    exact = np.asarray(shares, np.float64) / np.sum(shares) * PERIOD
    counts = np.floor(exact).astype(np.int64)
    most = np.argsort(counts - exact, kind="stable")[: PERIOD - int(counts.sum())]
    counts[most] += 1
    for share, count in zip(shares, counts, strict=True):
        if share > 0 and not count:
            raise ValueError(
                f"a weight is {share / np.sum(shares):.2g} of the sum of all weights, which "
                f"is less than one row of {PERIOD:,}; give it a larger one, or 0."
            )
    windows = sorted(
        (k * PERIOD // n, -(-(k + 1) * PERIOD // n), source)
        for source, n in enumerate(counts.tolist())
        for k in range(n)
    )
    order, open_now, number = np.empty(PERIOD, np.int16), list[tuple[int, int]](), 0
    for place in range(PERIOD):
        while number < PERIOD and windows[number][0] <= place:
            heapq.heappush(open_now, windows[number][1:])
            number += 1
        order[place] = heapq.heappop(open_now)[1]
    return order
