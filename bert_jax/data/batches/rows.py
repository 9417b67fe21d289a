"""All rows of a split, epoch after epoch, and which of them a step takes.

The plans of all epochs, one behind the other, form an endless sequence of places. With
buckets a place is a whole batch, and step s takes place s. Otherwise a place is a row,
and step s takes the places [s * B, (s + 1) * B). So a batch is a function of (seed, s),
whatever the number of hosts. Hosts divide a batch into equal parts.
"""

import bisect
import contextlib
import pathlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from bert_jax.batch import PretrainBatch, SpecialIds
from bert_jax.config import DataConfig
from bert_jax.data.batches.epoch_plans import EpochPlans
from bert_jax.data.batches.epochs import Epoch, EpochSize, plan_epoch, size_of
from bert_jax.data.batches.packing import assemble
from bert_jax.data.hashes import json_sha256
from bert_jax.data.prepared.store import TokenStore
from bert_jax.data.tokenizers.tokenizer import PairLayout

if TYPE_CHECKING:  # Worker processes need only the rows.
    from bert_jax.data.prepared.dataset import PreparedDataset

_OPEN_EPOCHS = 2


class PretrainRows:
    """The rows of a split by number. When pickled, only settings and paths travel."""

    def __init__(
        self,
        store: TokenStore,
        cfg: DataConfig,
        special: SpecialIds,
        *,
        seed: int,
        plan_dir: pathlib.Path,
        identity: str,
        batch_size: int | None = None,
    ) -> None:
        """Plans nothing yet.

        Args:
            store: the tokens of the split; memory-mapped if worker processes read it.
            cfg: what pairs and rows are like.
            special: ids of the special tokens.
            seed: seed of pairs, packing and order.
            plan_dir: folder in which plans are kept for other processes and later runs.
            identity: a text that identifies the store's sentence bounds, such as a hash
                of its files.
            batch_size: rows of the global batch; needed for `layout="buckets"` only.

        Raises:
            ValueError: buckets without a batch size.
        """
        if cfg.layout == "buckets" and batch_size is None:
            raise ValueError(
                "DataConfig.layout='buckets' plans whole batches: PretrainRows needs "
                "batch_size."
            )
        self.store, self.cfg, self.special, self.seed = store, cfg, special, seed
        self.batch_size = batch_size if cfg.layout == "buckets" else None
        self._plans = EpochPlans(plan_dir, self._decided_by(identity))
        self._first_places = [0]  # of each epoch seen so far, and of the next one
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._epochs: dict[int, Epoch] = {}
        self._planned_ahead = 0

    def _decided_by(self, identity: str) -> dict[str, Any]:
        cfg = self.cfg
        layout: dict[str, Any] = {"name": cfg.layout}
        if cfg.layout == "packed":
            layout |= {"max_pairs_per_row": cfg.max_pairs_per_row}
        elif cfg.layout == "buckets":
            layout |= {"lengths": cfg.buckets, "batch_size": self.batch_size}
        return {
            "store": identity,
            "seed": self.seed,
            "sequence_length": cfg.sequence_length,
            "pairs": cfg.pairs,
            "short_pair_rate": cfg.short_pair_rate,
            "layout": layout,
        }

    def __getstate__(self) -> dict[str, Any]:
        own = ("_lock", "_epochs", "_planned_ahead")
        return {name: x for name, x in vars(self).items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()

    def epoch(self, number: int) -> Epoch:
        """The plan of an epoch; the last two that were asked for stay open.

        Raises:
            ValueError: the split has too few documents for pairs, or the plan cannot be
                written.
        """
        with self._lock:
            return self._epoch(number)

    def size(self, number: int) -> EpochSize:
        """The size of an epoch, which is planned if it was not planned before."""
        known = self._plans.size(number)
        return known or size_of(self.epoch(number), self.cfg)

    def steps_per_epoch(self, batch_size: int) -> float:
        """Steps of epoch 0; other epochs have nearly as many."""
        size = self.size(0)
        return float(size.num_batches or size.num_rows / batch_size)

    def locate(self, place: int) -> tuple[int, int]:
        """The epoch of a place in the endless sequence, and the place's number in it.

        Earlier epochs that were not planned before are planned, to know their size.
        """
        with self._lock:
            self._count_epochs(place)
            number = bisect.bisect_right(self._first_places, place) - 1
            return number, place - self._first_places[number]

    def batch(self, first_row: int, num_rows: int) -> PretrainBatch:
        """Assembles rows [first_row, first_row + num_rows) of the endless sequence.

        Raises:
            ValueError: with buckets, rows have no such number.
        """
        if self.cfg.layout == "buckets":
            raise ValueError(
                "DataConfig.layout='buckets' has batches by step, not rows by number; "
                "use layout='padded' to look at single rows."
            )
        found = []
        while num_rows:
            number, start = self.locate(first_row)
            epoch = self.epoch(number)
            count = min(num_rows, epoch.num_rows - start)
            found.append(self.assemble(epoch, start, start + count))
            first_row += count
            num_rows -= count
        return joined(found)

    def batch_of_step(
        self,
        step: int,
        *,
        batch_size: int,
        parts: tuple[int, ...] = (0,),
        num_parts: int = 1,
        first_row: int = 0,
    ) -> PretrainBatch:
        """Some parts of the batch of a step, one after the other.

        Args:
            step: number of the step.
            batch_size: rows of the global batch.
            parts: numbers of the parts, ascending.
            num_parts: number of equal parts of a batch.
            first_row: number of the first row of step 0; buckets ignore it.
        """
        if self.cfg.layout != "buckets":
            start = first_row + step * batch_size
            return joined_parts(self.batch, start, batch_size // num_parts, parts)
        number, place = self.locate(step)
        epoch = self.epoch(number)
        start, end = epoch.batch_starts[place : place + 2].tolist()
        size = (end - start) // num_parts
        length = int(epoch.batch_lengths[place])
        return joined(
            [
                self.assemble(
                    epoch,
                    start + first * size,
                    start + (first + count) * size,
                    length=length,
                )
                for first, count in runs(parts)
            ]
        )

    def assemble(
        self,
        epoch: Epoch,
        first: int,
        end: int,
        *,
        length: int | None = None,
        num_rows: int | None = None,
    ) -> PretrainBatch:
        """Builds rows [first, end) of an epoch, followed by padding rows.

        Args:
            epoch: the plan.
            first: first row.
            end: first row that is not taken.
            length: tokens of a row; `cfg.sequence_length` when `None`.
            num_rows: rows of the result; `None` adds no padding rows.
        """
        pairs, sizes = epoch.rows(first, end)
        filler = 0 if num_rows is None else num_rows - sizes.size
        return assemble(
            self.store,
            pairs,
            np.append(sizes, np.zeros(filler, sizes.dtype)),
            length or self.cfg.sequence_length,
            self.cfg.pairs_per_row,
            self.special,
        )

    def plan_ahead(self, place: int, end: int) -> None:
        """Starts to plan the next epoch in a thread once half of this one is used.

        Args:
            place: the place of the endless sequence that is in use.
            end: the first place that will not be used; no epoch from there is planned.
        """
        number, place_in_epoch = self.locate(place)
        with self._lock:
            next_first = self._first_places[number + 1]
            half = (next_first - self._first_places[number]) // 2
            if (
                place_in_epoch < half
                or end <= next_first
                or number < self._planned_ahead
            ):
                return
            self._planned_ahead = number + 1
        threading.Thread(
            target=self._plan_quietly, args=(number + 1,), daemon=True
        ).start()

    def _plan_quietly(self, number: int) -> None:
        # `epoch` will try again when the epoch is needed, and raise the error.
        with contextlib.suppress(ValueError):
            self._plan(number)

    def _plan(self, number: int) -> Epoch:
        def make() -> tuple[Epoch, EpochSize]:
            epoch = plan_epoch(
                self.store,
                self.cfg,
                seed=self.seed,
                number=number,
                batch_size=self.batch_size,
            )
            return epoch, size_of(epoch, self.cfg)

        return self._plans.open(number, make)

    def _epoch(self, number: int) -> Epoch:
        if number not in self._epochs:
            found = self._plan(number)
            for old in [n for n in self._epochs if abs(n - number) >= _OPEN_EPOCHS]:
                del self._epochs[old]
            self._epochs[number] = found
        return self._epochs[number]

    def _count_epochs(self, place: int) -> None:
        """Extends `_first_places` beyond `place`."""
        while place >= self._first_places[-1]:
            number = len(self._first_places) - 1
            size = self._plans.size(number)
            if size is None:
                size = size_of(self._epoch(number), self.cfg)
            self._first_places.append(
                self._first_places[-1] + (size.num_batches or size.num_rows)
            )


def runs(parts: tuple[int, ...]) -> list[tuple[int, int]]:
    """Joins consecutive parts to runs: (first part, number of parts) of each run."""
    found: list[tuple[int, int]] = []
    for part in parts:
        if found and sum(found[-1]) == part:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((part, 1))
    return found


def joined_parts(
    batch: Callable[[int, int], PretrainBatch],
    start: int,
    size: int,
    parts: tuple[int, ...],
) -> PretrainBatch:
    """Some parts of a batch of rows, one after the other.

    Args:
        batch: batch(first row, number of rows).
        start: number of the batch's first row.
        size: rows of a part.
        parts: numbers of the parts, ascending.
    """
    return joined(
        [batch(start + first * size, count * size) for first, count in runs(parts)]
    )


def joined(batches: list[PretrainBatch]) -> PretrainBatch:
    """The rows of some batches, whose rows have one length, as one batch."""
    if len(batches) == 1:
        return batches[0]
    return PretrainBatch(*(np.concatenate(c) for c in zip(*batches, strict=True)))


def open_rows(
    dataset: "PreparedDataset",
    split: str,
    cfg: DataConfig,
    *,
    seed: int,
    batch_size: int | None = None,
) -> PretrainRows:
    """The rows of a split of a prepared dataset.

    Plans are kept in `cfg.plan_dir`, or beside the arrays of the dataset.

    Raises:
        ValueError: as for `check_pairs`.
    """
    check_pairs(dataset.tokenizer.pair, cfg)
    return PretrainRows(
        dataset.load_split(split),
        cfg,
        dataset.tokenizer.special,
        seed=seed,
        plan_dir=cfg.plan_dir or dataset.index_home / "plans",
        identity=json_sha256([split, dataset.manifest["sha256"]]),
        batch_size=batch_size,
    )


def check_pairs(pair: PairLayout, cfg: DataConfig) -> None:
    """Refuses pairs where the tokenizer lays them out in another way than BERT.

    Args:
        pair: of the dataset's tokenizer.

    Raises:
        ValueError: it does, and pairs are asked for.
    """
    if cfg.pairs != "none" and pair != PairLayout():
        raise ValueError(
            f"DataConfig.pairs={cfg.pairs!r}: pretraining lays pairs out as [CLS] A [SEP] "
            "B [SEP] in the segments 0 and 1. The tokenizer of this dataset has "
            f"{pair.separators} [SEP] between the texts, and B in the segment "
            f"{pair.second_segment}. Pass --data.pairs none; such models are pretrained on "
            "single segments."
        )
