"""From a text source to a prepared dataset: `bert-jax prepare`.

The dataset is a standard TFDS one (ArrayRecord shards, readable with
`tfds.builder_from_directory`), one record a document. `manifest.json` is written last
and names every file with its hash; without it the directory is unfinished work that
the same command goes on with.
"""

import concurrent.futures
import json
import multiprocessing
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from bert_jax.data.corpus import Unit, open_source
from bert_jax.data.shards import (
    DATASET_NAME,
    SPLITS,
    ShardJob,
    features,
    write_shard,
    write_text_atomically,
)
from bert_jax.data.tokenizer import load_tokenizer

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer"
PLAN = "plan.json"

Progress = Callable[[int, int], None]


def prepare(
    source: str,
    tokenizer: pathlib.Path,
    output: pathlib.Path,
    *,
    validation_fraction: float = 0.05,
    language: str = "en",
    num_shards: int = 64,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Tokenises a source and writes it with a held-out split by document.

    Args:
        source: as `open_source` takes it.
        tokenizer: directory of a saved tokenizer.
        output: directory of the dataset; unfinished work there is gone on with.
        validation_fraction: share of document groups held out, in (0, 1).
        language: of the sentence splitter, an ISO 639-1 code.
        num_shards: at most; a unit of the source is never divided.
        num_workers: processes; all cores when `None`.
        progress: called with (bytes of source done, bytes in all).

    Returns:
        The manifest.

    Raises:
        ValueError: the directory holds a dataset of other settings, or a split came
            out empty.
    """
    if not 0.0 < validation_fraction < 1.0:
        raise ValueError(
            f"validation_fraction={validation_fraction} is not in (0, 1); without "
            "held-out documents the run could not be judged."
        )
    opened = open_source(source)
    loaded = load_tokenizer(tokenizer)
    groups = _divide(opened.units, num_shards)
    plan = {
        "format_version": FORMAT_VERSION,
        "source": source,
        "units": [f"{unit.name} {unit.size_bytes}" for unit in opened.units],
        "tokenizer_sha256": loaded.sha256,
        "validation_fraction": validation_fraction,
        "language": language,
        "num_shards": len(groups),
    }
    _begin(output, plan)
    if (output / MANIFEST).exists():
        return json.loads((output / MANIFEST).read_text())
    loaded.save(output / TOKENIZER)
    jobs = [
        ShardJob(
            output=output,
            tokenizer=output / TOKENIZER,
            units=units,
            index=index,
            num_shards=len(groups),
            validation_fraction=validation_fraction,
            language=language,
        )
        for index, units in enumerate(groups)
    ]
    stats = _write_shards(jobs, num_workers, progress)
    manifest = _manifest(plan, jobs, stats, loaded.kind, loaded.vocab_size)
    _write_tfds_metadata(output, jobs, stats, loaded.vocab_size)
    write_text_atomically(output / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    return manifest


def _divide(units: tuple[Unit, ...], num_shards: int) -> list[tuple[Unit, ...]]:
    """Neighbouring units in at most `num_shards` groups of about equal bytes."""
    num_groups = min(num_shards, len(units))
    sizes = np.cumsum([max(unit.size_bytes, 1) for unit in units])
    # The middle of each unit decides; a big one may leave a group empty.
    middle = sizes - np.diff(sizes, prepend=0) / 2
    group_of = (middle / sizes[-1] * num_groups).astype(int)
    groups: list[list[Unit]] = [[] for _ in range(num_groups)]
    for unit, group in zip(units, group_of, strict=True):
        groups[group].append(unit)
    return [tuple(group) for group in groups if group]


def _begin(output: pathlib.Path, plan: dict[str, Any]) -> None:
    """Records the plan, or checks that the directory was begun with the same one."""
    path = output / PLAN
    if path.exists():
        before = json.loads(path.read_text())
        differs = sorted(k for k in {*plan, *before} if plan.get(k) != before.get(k))
        if differs:
            raise ValueError(
                f"{output} holds a dataset of other settings ({', '.join(differs)} "
                "differ); delete it or choose another --output."
            )
        return
    if output.exists() and any(output.iterdir()):
        raise ValueError(
            f"{output} is not empty and holds no prepared dataset; choose another "
            "--output."
        )
    output.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, json.dumps(plan, indent=2) + "\n")


def _write_shards(
    jobs: list[ShardJob], num_workers: int | None, progress: Progress | None
) -> list[dict[str, Any]]:
    size_of = [sum(unit.size_bytes for unit in job.units) for job in jobs]
    total = sum(size_of)
    report = progress or (lambda done, total: None)
    report(0, total)
    done = 0
    stats: list[dict[str, Any]] = [{} for _ in jobs]
    with concurrent.futures.ProcessPoolExecutor(
        max_workers=num_workers or os.cpu_count(),
        # Threads of the parent (JAX, TensorStore) make a fork unsafe.
        mp_context=multiprocessing.get_context("spawn"),
    ) as pool:
        futures = {pool.submit(write_shard, job): job.index for job in jobs}
        try:
            for future in concurrent.futures.as_completed(futures):
                index = futures[future]
                stats[index] = future.result()
                done += size_of[index]
                report(done, total)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return stats


def _manifest(
    plan: dict[str, Any],
    jobs: list[ShardJob],
    stats: list[dict[str, Any]],
    tokenizer_kind: str,
    vocab_size: int,
) -> dict[str, Any]:
    counts = sum(np.load(job.counts_path, allow_pickle=False) for job in jobs)
    splits: dict[str, dict[str, Any]] = {}
    for number, split in enumerate(SPLITS):
        names = ("documents", "sentences", "tokens", "bytes")
        total = {name: sum(s["splits"][split][name] for s in stats) for name in names}
        if not total["documents"]:
            raise ValueError(
                f"The {split} split is empty: {plan['source']} has too few documents "
                f"for validation_fraction={plan['validation_fraction']}; add text or "
                "change the fraction."
            )
        splits[split] = {**total, "unigram_entropy": unigram_entropy(counts[number])}
    read: dict[str, int] = {}
    for name in stats[0]["read"]:
        read[name] = sum(s["read"][name] for s in stats)
    return {
        "format_version": FORMAT_VERSION,
        "source": plan["source"],
        "language": plan["language"],
        "validation_fraction": plan["validation_fraction"],
        "tokenizer": {
            "kind": tokenizer_kind,
            "sha256": plan["tokenizer_sha256"],
            "vocab_size": vocab_size,
        },
        "splits": splits,
        "read": read,
        "empty_documents": sum(s["empty_documents"] for s in stats),
        "sha256": {name: h for s in stats for name, h in s["sha256"].items()},
    }


def unigram_entropy(counts: np.ndarray) -> float:
    """Entropy of the token frequencies in nats: what is known without any context."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def _write_tfds_metadata(
    output: pathlib.Path,
    jobs: list[ShardJob],
    stats: list[dict[str, Any]],
    vocab_size: int,
) -> None:
    import tensorflow_datasets as tfds

    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[s["splits"][split]["documents"] for s in stats],
            num_bytes=sum(job.path(split).stat().st_size for job in jobs),
            filename_template=tfds.core.ShardedFileTemplate(
                template=template,
                dataset_name=DATASET_NAME,
                data_dir=str(output),
                filetype_suffix="array_record",
                split=split,
            ),
        )
        for split in SPLITS
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=str(output),
        features=features(vocab_size),
        split_infos=infos,
        filename_template=template,
        check_data=False,
        description="Tokenised documents with the bounds of their sentences.",
    )
