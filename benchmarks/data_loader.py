"""Batches ready for the device: our loader, and `datasets` with a masking collator."""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import peers
from benchmarks.data_prepare import BLOCK_LENGTH, write_documents
from benchmarks.data_rows import prepared_dataset
from benchmarks.data_settings import DataSettings
from benchmarks.measure import Findings, Timings, interleaved, report_ratios
from bert_jax.batch import PretrainBatch
from bert_jax.config import DataConfig
from bert_jax.data.batches.loader import train_batches
from bert_jax.data.batches.rows import open_rows

# After so many the buffers that filled while nobody was reading are used up.
_WARM_UP_BATCHES = 24
_PROMISED_RATE = 3.0  # M tokens/s a core
_PROMISED_RATIO = 5.0
_WHOLE_WORD_BATCHES = 10  # a second's work
_OURS = "ours"
_DEFAULT_PEER = "datasets + collator (PyTorch, its default)"


def load_beside_peers(settings: DataSettings, findings: Findings) -> None:
    """Tokens/s on one core, in turns with the peers; then of a worker process."""
    num_steps = _num_steps(settings)

    def ours(number: int) -> dict[str, float]:
        batches = _batches(settings, num_workers=0)
        for _ in range(_WARM_UP_BATCHES):
            next(batches)
        return _consume(batches, num_steps)

    _batches(settings, num_workers=0)  # plans the epoch
    candidates: dict[str, Callable[[int], dict[str, float]]] = {_OURS: ours}
    try:
        peers.require("datasets", "transformers", "torch")
        candidates |= _peer_candidates(settings, findings)
    except Exception as error:
        findings.left_out("datasets + collator", error)
    timings = interleaved(candidates, settings.repetitions, findings)
    for name, timing in timings.items():
        findings.figure(
            name,
            "M tokens/s",
            *timing.rates("tokens", 1e6),
            at_least=_PROMISED_RATE if name == _OURS else None,
        )
    promised = {_DEFAULT_PEER: _PROMISED_RATIO}
    report_ratios(timings, _OURS, "tokens", findings, promised)
    _measure_workers(settings, findings, 1)


def load_on_all_cores(settings: DataSettings, findings: Findings) -> None:
    """Tokens/s of as many worker processes as there are cores."""
    _measure_workers(settings, findings, settings.num_workers)


def _measure_workers(settings: DataSettings, findings: Findings, count: int) -> None:
    """One set of processes for all repetitions: starting them takes seconds."""
    batches, timing = _batches(settings, num_workers=count), Timings()
    for _ in range(settings.repetitions):
        for _ in range(_WARM_UP_BATCHES):
            next(batches)
        done = _consume(batches, _num_steps(settings))
        timing.seconds.append(done["seconds"])
        timing.amounts.append(done)
    batches.close()
    findings.figure(
        f"{_OURS}, {count} worker process{'es' * (count > 1)}",
        "M tokens/s",
        *timing.rates("tokens", 1e6),
    )


def _num_steps(settings: DataSettings) -> int:
    return max(1, settings.loader_tokens // (settings.batch_size * BLOCK_LENGTH))


def _batches(settings: DataSettings, *, num_workers: int) -> Any:
    """Endless batches from step 0 on, the plan of the epoch being ready."""
    cfg = DataConfig(sequence_length=BLOCK_LENGTH, num_workers=num_workers)
    rows = open_rows(prepared_dataset(settings), "train", cfg, seed=0)
    rows.epoch(0)
    return train_batches(
        rows, batch_size=settings.batch_size, first_step=0, num_steps=10**6
    )


def _consume(batches: Iterator[PretrainBatch], count: int) -> dict[str, float]:
    started, tokens = time.perf_counter(), 0
    for _ in range(count):
        tokens += int((next(batches).sequence_ids > 0).sum())
    return {"tokens": tokens, "seconds": time.perf_counter() - started}


def _peer_candidates(
    settings: DataSettings, findings: Findings
) -> dict[str, Callable[[int], dict[str, float]]]:
    """An epoch of each collator over the same blocks."""
    documents = settings.workdir / "loader-documents.jsonl"
    write_documents(documents, settings)

    def candidate(
        *, limit: int | None = None, whole_words: bool = False, tensors: str
    ) -> Callable[[int], dict[str, float]]:
        blocks = peers.prepare_with_datasets(
            documents,
            settings.vocab,
            settings.workdir / "loader-datasets",
            BLOCK_LENGTH,
            offsets=whole_words,
        )

        def run(number: int) -> dict[str, float]:
            batches = peers.collated_batches(
                blocks,
                settings.vocab,
                settings.batch_size,
                tensors=tensors,
                whole_words=whole_words,
            )
            started = time.perf_counter()
            some = itertools.islice(batches, limit)
            tokens = sum(map(peers.num_real_tokens, some))
            return {"tokens": tokens, "seconds": time.perf_counter() - started}

        return run

    return {
        _DEFAULT_PEER: candidate(tensors="pt"),
        "datasets + collator (NumPy)": candidate(tensors="np"),
        "datasets + collator (PyTorch, whole words)": candidate(
            tensors="pt", whole_words=True, limit=_WHOLE_WORD_BATCHES
        ),
    }
