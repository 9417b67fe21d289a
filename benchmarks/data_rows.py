"""Plans of epochs: how fast they are made, how full rows are, what the pairs are like."""

import functools
import time

import numpy as np

from benchmarks.data_settings import DataSettings
from benchmarks.measure import Findings, interleaved, peak_memory
from bert_jax.config import DataConfig, MaskingConfig
from bert_jax.data.batches.epochs import plan_epoch, size_of
from bert_jax.data.batches.pairs import make_pairs
from bert_jax.data.batches.rows import PretrainRows, open_rows
from bert_jax.data.prepared.dataset import PreparedDataset, open_dataset

LENGTHS = (128, 512)
_SEED = 0
_PROMISED_DENSITY = {128: None, 512: 99.0}
_MASK_ROWS = 4_096
_MASK_BATCH = 256
_THEIRS = "google-research:"


def prepared_dataset(settings: DataSettings) -> PreparedDataset:
    """What `prepare-wordpiece` has written.

    Raises:
        ValueError: that section has not run, or failed.
    """
    try:
        return open_dataset(settings.prepared("wordpiece"))
    except FileNotFoundError:
        raise ValueError(
            "there is no prepared dataset; run the section `prepare-wordpiece` too"
        ) from None


def plan_epochs(settings: DataSettings, findings: Findings) -> None:
    """Speed of make_pairs and of a whole plan, and the density of its rows."""
    dataset = prepared_dataset(settings)
    started = time.perf_counter()
    store = dataset.load_split("train")
    num_sentences = store.sentence_starts.size - 1
    findings.figure(
        f"laying out {num_sentences:,} sentences once as arrays on disk",
        "s",
        time.perf_counter() - started,
    )

    def pairs(cfg: DataConfig, number: int) -> dict[str, float]:
        make_pairs(store, cfg, seed=_SEED, epoch=number)
        return {"sentences": num_sentences}

    def plan(cfg: DataConfig, number: int) -> dict[str, float]:
        size = size_of(plan_epoch(store, cfg, seed=_SEED, number=number), cfg)
        density = 100.0 * size.num_tokens / size.num_places
        return {"sentences": num_sentences, "density": density}

    for length in LENGTHS:
        cfg = DataConfig(sequence_length=length)
        pairs_only, whole = f"pairs, T={length}", f"pairs and packing, T={length}"
        timings = interleaved(
            {
                pairs_only: functools.partial(pairs, cfg),
                whole: functools.partial(plan, cfg),
            },
            settings.repetitions,
            findings,
        )
        for name, timing in timings.items():
            findings.figure(
                name,
                "M sentences/s",
                *timing.rates("sentences", 1e6),
                at_least=5.0 if name == whole else None,
            )
        if whole in timings:
            findings.figure(
                f"real tokens in packed rows, T={length}",
                "%",
                *(done["density"] for done in timings[whole].amounts),
                at_least=_PROMISED_DENSITY[length],
            )
    cfg = DataConfig(sequence_length=LENGTHS[-1])
    started = time.perf_counter()
    open_rows(dataset, "train", cfg, seed=_SEED).epoch(0)
    findings.figure(
        f"pairs and packing, T={LENGTHS[-1]}, written, hashed and mapped again",
        "M sentences/s",
        num_sentences / (time.perf_counter() - started) / 1e6,
    )
    findings.figure("peak memory", "GiB", peak_memory()[0])


def describe_pairs(settings: DataSettings, findings: Findings) -> None:
    """Labels, lengths and masks, beside what google-research's script makes of text."""
    dataset = prepared_dataset(settings)
    cfg = DataConfig(sequence_length=128, layout="padded")
    rows = open_rows(dataset, "train", cfg, seed=_SEED)
    epoch = rows.epoch(0)
    lengths = epoch.pairs.num_tokens()
    findings.figure(
        "next sentence is random",
        "%",
        100.0 * float(np.mean(epoch.pairs.label)),
        note=f"{_THEIRS} 53.9 % (50.5–59.4)",
    )
    findings.figure(
        "length, mean", "tokens", float(lengths.mean()), note=f"{_THEIRS} 115 (108–123)"
    )
    findings.figure(
        "rows exactly full",
        "%",
        100.0 * float(np.mean(lengths == 128)),
        note=f"{_THEIRS} 76.6 %",
    )
    findings.figure(
        "padding",
        "%",
        100.0 * (1.0 - float(lengths.mean()) / 128),
        note=f"{_THEIRS} 10 % (4–16)",
    )
    _describe_masks(dataset, rows, findings)


def _describe_masks(
    dataset: PreparedDataset, rows: PretrainRows, findings: Findings
) -> None:
    import jax

    from bert_jax.model.masking import mask_tokens

    masking = MaskingConfig(max_slots=20)
    vocabulary = dataset.tokenizer.mask_vocabulary
    mask = jax.jit(lambda batch, key: mask_tokens(masking, batch, vocabulary, key))
    counts, real, shown = [], [], np.zeros(3)
    for number in range(min(_MASK_ROWS, rows.size(0).num_rows) // _MASK_BATCH):
        batch = rows.batch(number * _MASK_BATCH, _MASK_BATCH)
        masked = jax.device_get(mask(batch, jax.random.key(number)))
        used = masked.weights > 0
        now = np.take_along_axis(masked.input_ids, masked.positions, axis=1)[used]
        before = masked.labels[used]
        hidden, kept = now == vocabulary.special.mask, now == before
        shown += hidden.sum(), (~hidden & ~kept).sum(), kept.sum()
        counts.append(used.sum(axis=1))
        real.append((batch.sequence_ids > 0).sum())
    if not counts:
        findings.left_out("masks", f"fewer than {_MASK_BATCH} rows")
        return
    per_row = np.concatenate(counts)
    findings.figure(
        "masks a row, mean", "", float(per_row.mean()), note=f"{_THEIRS} 17.1"
    )
    findings.figure("masks a row, most", "", int(per_row.max()), note=f"{_THEIRS} 19")
    findings.figure(
        "masks of real tokens",
        "%",
        100.0 * float(per_row.sum() / np.sum(real)),
        note=f"{_THEIRS} 14.87 %",
    )
    for name, share, its in zip(
        ("[MASK]", "random token", "kept"),
        shown / shown.sum(),
        (80, 10, 10),
        strict=True,
    ):
        findings.figure(
            f"of masks, {name}", "%", 100.0 * share, note=f"{_THEIRS} {its}.0 %"
        )
