"""The rows that a phase of pretraining takes, behind those of earlier phases."""

import dataclasses
from typing import NamedTuple

from bert_jax.config import DataConfig, PretrainConfig
from bert_jax.data.batches.mixture import MixedRows
from bert_jax.data.batches.rows import PretrainRows, open_rows
from bert_jax.data.prepared.corpus import Corpus


class TrainRows(NamedTuple):
    """Where the batches of a phase come from."""

    rows: PretrainRows | MixedRows
    first_row: int
    """Number of the first row of the phase's first batch."""
    lines: tuple[str, ...]
    """What the phase takes of each dataset, in words: rows and epochs."""


def open_train_rows(corpus: Corpus, whole: PretrainConfig, number: int) -> TrainRows:
    """The rows of phase `number`; the first epoch of each dataset is planned.

    A phase whose rows are those of earlier phases begins behind the rows that they took,
    in each dataset, whatever its weights were.

    Raises:
        ValueError: a dataset has too few documents for pairs, or too small a weight.
    """
    cfg = whole.phases[number]
    sources = [
        open_rows(x, "train", cfg.data, seed=cfg.seed, batch_size=cfg.batch_size)
        for x in corpus.datasets
    ]
    if len(sources) == 1:
        taken = sum(
            phase.batch_size * phase.num_steps
            for phase in whole.phases[:number]
            if phase.data == cfg.data
        )
        return TrainRows(sources[0], taken, (_line(sources[0], cfg, 1.0),))
    shares = corpus.shares(cfg.data.weights)
    lines = tuple(
        f"{name}, {share:.1%} of the rows: {_line(rows, cfg, share)}"
        for name, rows, share in zip(corpus.names, sources, shares, strict=True)
        if share
    )
    taken_of_each = [0] * len(sources)
    for phase in whole.phases[:number]:
        if cfg.data.layout != "buckets" and _unweighted(phase) == _unweighted(cfg):
            before = MixedRows(
                sources, corpus.shares(phase.data.weights), taken_of_each
            )
            end = phase.batch_size * phase.num_steps
            taken_of_each = [before.place_of(n, end) for n in range(len(sources))]
    return TrainRows(MixedRows(sources, shares, taken_of_each), 0, lines)


def _unweighted(phase: PretrainConfig) -> DataConfig:
    return dataclasses.replace(phase.data, weights=())


def _line(rows: PretrainRows, cfg: PretrainConfig, share: float) -> str:
    """How large an epoch is, and how many of them the phase takes."""
    epoch, steps = rows.size(0), rows.steps_per_epoch(cfg.batch_size)
    return (
        f"{epoch.num_pairs:,} {'pairs' if cfg.data.has_labels else 'segments'} in "
        f"{epoch.num_rows:,} rows of {cfg.data.sequence_length} an epoch "
        f"({cfg.data.layout}, {epoch.num_tokens / epoch.num_places:.1%} full); "
        f"{share * cfg.num_steps / steps:.2f} epochs"
    )
