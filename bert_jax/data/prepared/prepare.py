"""From a text source to a prepared dataset: `bert-jax prepare`.

The dataset is a standard TFDS one (ArrayRecord shards, readable with
`tfds.builder_from_directory`), one record a document. `manifest.json` is written last
and names every file with its hash; without it the directory is unfinished work that
the same command goes on with.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from bert_jax.config import DEFAULT_OPTIONS, PrepareOptions
from bert_jax.data.prepared import audit
from bert_jax.data.prepared.arrays import load_array, save_array
from bert_jax.data.prepared.duplicates import Duplicates, find_duplicates
from bert_jax.data.prepared.locking import locked
from bert_jax.data.prepared.metadata import write_tfds_metadata
from bert_jax.data.prepared.pool import run_jobs
from bert_jax.data.prepared.records import SPLITS
from bert_jax.data.prepared.shards import (
    ShardFile,
    ShardJob,
    write_fingerprints,
    write_shard,
)
from bert_jax.data.prepared.storage import Folder, write_text_atomically
from bert_jax.data.text.sentences import sentences
from bert_jax.data.text.sources import Source, Unit, divide, open_source
from bert_jax.data.tokenizers.saved_tokenizer import load_tokenizer
from bert_jax.data.tokenizers.tokenizer import Tokenizer

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer"
PLAN = "plan.json"
# A source smaller than this a shard gets fewer shards.
_MIN_SHARD_BYTES = 1 << 20

Progress = Callable[[int, int], None]


def prepare(
    source: str,
    tokenizer: pathlib.Path,
    output: pathlib.Path,
    options: PrepareOptions = DEFAULT_OPTIONS,
    *,
    strict: bool = False,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Tokenises a source and writes it with a held-out split by document.

    Args:
        source: as `open_source` takes it.
        tokenizer: directory of a saved tokenizer.
        output: directory of the dataset; unfinished work there is gone on with.
        options: what decides the content.
        strict: refuse a corpus in which the audit finds what would spoil training.
        num_workers: processes; all cores when `None`. The result does not depend on it.
        progress: called with (bytes of source done, bytes in all); twice over when
            duplicates are dropped, for they are looked for first.

    Returns:
        The manifest.

    Raises:
        ValueError: the directory holds a dataset of other settings, a split came out
            empty, or `strict` and the audit found something.
    """
    opened = open_source(source)
    loaded = load_tokenizer(tokenizer)
    plan = make_plan(opened, loaded, options)
    begin(output, plan)
    if not (output / MANIFEST).exists():
        with locked(output):
            _write(opened, loaded, output, options, plan, strict, num_workers, progress)
    _tidy(output)
    manifest = json.loads((output / MANIFEST).read_text())
    if strict:
        refuse_problems(manifest, output)
    return manifest


def _tidy(output: pathlib.Path) -> None:
    """Removes what runs left that were killed, even right behind their manifest."""
    for leftover in ("unpacked", "unfinished"):
        shutil.rmtree(output / leftover, ignore_errors=True)
    for folder in (output, output / "shards"):
        for partial in folder.glob("*.partial-*"):
            with contextlib.suppress(OSError):
                partial.unlink()


def _write(
    opened: Source,
    loaded: Tokenizer,
    output: pathlib.Path,
    options: PrepareOptions,
    plan: dict[str, Any],
    strict: bool,
    num_workers: int | None,
    progress: Progress | None,
) -> None:
    """All of the work between a plan and a manifest."""
    if (output / MANIFEST).exists():
        return  # Another process had the lock, and finished.
    loaded.save(output / TOKENIZER)
    shutil.rmtree(output / "unfinished", ignore_errors=True)
    jobs = make_jobs(opened, loaded, output, options, output / "unpacked")
    drop = options.duplicates == "drop"
    total = sum(job.size_bytes for job in jobs) * (1 + drop)
    tell = progress or (lambda done, total: None)
    tell(0, total)
    copies = None
    if drop:
        run_jobs(
            write_fingerprints,
            jobs,
            num_workers=num_workers,
            report=lambda done: tell(done, total),
        )
        copies = choose_what_to_drop(jobs, options)
    read_before = total - sum(job.size_bytes for job in jobs)
    results = run_jobs(
        write_shard,
        jobs,
        num_workers=num_workers,
        report=lambda done: tell(read_before + done, total),
    )
    files = {
        split: [ShardFile(**result["files"][split]) for result in results]
        for split in SPLITS
    }
    finish(output, jobs, results, files, loaded, options, plan, copies, strict=strict)


def make_plan(
    source: Source,
    tokenizer: Tokenizer,
    options: PrepareOptions,
    *,
    runner: Literal["local", "beam"] = "local",
) -> dict[str, Any]:
    """All that decides a dataset, as JSON; two runs with equal plans write one thing.

    The runner does not decide records nor their order, but how a stopped run goes on.

    Raises:
        ValueError: the sentence splitter has no rules for the language.
    """
    sentences("", options.language)
    return {
        "format_version": FORMAT_VERSION,
        "runner": runner,
        "source": source.spec,
        "units": [f"{unit.name} {unit.size_bytes}" for unit in source.units],
        "tokenizer_sha256": tokenizer.sha256,
        **dataclasses.asdict(options),
    }


def begin(output: Folder, plan: dict[str, Any]) -> None:
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


def make_jobs(
    source: Source,
    tokenizer: Tokenizer,
    output: pathlib.Path,
    options: PrepareOptions,
    workspace: pathlib.Path,
) -> list[ShardJob]:
    """One a shard, in the order of the source.

    Args:
        source: from `open_source`.
        tokenizer: whose ids the shards will hold.
        output: where they and their parts will lie.
        options: what decides the content.
        workspace: for what must be unpacked, see `divide`.
    """
    target = max(source.size_bytes // options.num_shards, _MIN_SHARD_BYTES)
    # Decompression leaves Python alone, so threads do it side by side.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        units = divide(source, target, workspace, map=pool.map)
    groups = _group(units, options.num_shards)
    return [
        ShardJob(
            output=output,
            tokenizer_sha256=tokenizer.sha256,
            units=group,
            index=index,
            num_shards=len(groups),
            validation_fraction=options.validation_fraction,
            language=options.language,
            read=options.read,
            near=options.near_threshold > 0.0,
            drop=options.duplicates == "drop",
        )
        for index, group in enumerate(groups)
    ]


def _group(units: tuple[Unit, ...], num_shards: int) -> list[tuple[Unit, ...]]:
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


def compare(jobs: list[ShardJob], options: PrepareOptions) -> Duplicates:
    """Looks for copies among the documents of all shards."""
    return find_duplicates(
        [job.part("hashes.npy") for job in jobs],
        np.concatenate([load_array(job.part("held_out.npy")) for job in jobs]),
        [job.part("signatures.npy") for job in jobs],
        threshold=options.near_threshold,
    )


def choose_what_to_drop(jobs: list[ShardJob], options: PrepareOptions) -> Duplicates:
    """Writes each shard's drop file from the fingerprints of all; returns the copies."""
    copies = compare(jobs, options)
    first = 0
    for job in jobs:
        count = load_array(job.part("held_out.npy")).size
        mine = (copies.exact | copies.near)[first : first + count]
        # Written anew each time: it follows from the fingerprints.
        job.scratch.mkdir(parents=True, exist_ok=True)
        save_array(job.scratch / "drop.npy", np.flatnonzero(mine))
        (job.scratch / "drop.npy").replace(job.part("drop.npy"))
        first += count
    return copies


def finish(
    output: Folder,
    jobs: list[ShardJob],
    results: list[dict[str, Any]],
    files: Mapping[str, Sequence[ShardFile]],
    tokenizer: Tokenizer,
    options: PrepareOptions,
    plan: dict[str, Any],
    copies: Duplicates | None,
    *,
    strict: bool,
) -> None:
    """Judges finished shards, and writes what makes them a dataset.

    Args:
        output: where the shards lie.
        jobs: which name the parts that were left beside the shards.
        results: `ShardWork.result()` of each job.
        files: of each split.
        tokenizer: the one of the jobs.
        options: of the plan.
        plan: what `begin` recorded.
        copies: what `choose_what_to_drop` found; looked for here when `None`.
        strict: refuse a corpus in which the audit finds what would spoil training.

    Raises:
        ValueError: a split is empty, or `strict` and the audit found something.
    """
    refuse_empty_splits(results, options, plan)
    merged = audit.merge(results)
    splits = merged.pop("splits")
    counts = np.sum([load_array(job.part("counts.npy.gz")) for job in jobs], axis=0)
    for number, split in enumerate(SPLITS):
        splits[split]["unigram_entropy"] = unigram_entropy(counts[number])
    if copies is None:
        copies = compare(jobs, options)
    manifest = {
        "format_version": FORMAT_VERSION,
        "source": plan["source"],
        "options": dataclasses.asdict(options),
        "tokenizer": {
            "kind": tokenizer.kind,
            "lowercase": tokenizer.lowercase,
            "sha256": tokenizer.sha256,
            "vocab_size": tokenizer.vocab_size,
        },
        "splits": splits,
        "read": {
            name: sum(result["read"][name] for result in results)
            for name in results[0]["read"]
        },
        "audit": {
            "unk_share": float(counts[:, tokenizer.special.unk].sum() / counts.sum()),
            **merged,
            "duplicates": {
                "exact": int(copies.exact.sum()),
                "near": int(copies.near.sum()),
                "leaked": copies.num_leaked,
                "dropped": options.duplicates == "drop",
            },
        },
        "sha256": {file.name: file.sha256 for split in SPLITS for file in files[split]},
    }
    if strict:
        refuse_problems(manifest, output)
    write_tfds_metadata(output, tokenizer.vocab_size, files)
    write_text_atomically(output / MANIFEST, json.dumps(manifest, indent=2) + "\n")


def refuse_empty_splits(
    results: list[dict[str, Any]], options: PrepareOptions, plan: dict[str, Any]
) -> None:
    """Raises ValueError unless there is something to train on and to judge by."""
    for split in SPLITS:
        if not sum(result["splits"][split]["documents"] for result in results):
            raise ValueError(
                f"The {split} split is empty: {plan['source']} has too few documents "
                f"for validation_fraction={options.validation_fraction}; add text or "
                "change the fraction."
            )


def refuse_problems(manifest: dict[str, Any], output: Folder) -> None:
    """Raises ValueError with everything that the audit finds wrong."""
    if found := audit.problems(manifest):
        listed = "\n".join(f"  - {problem}" for problem in found)
        raise ValueError(
            f"--strict: the audit of {output} found what would spoil training:\n"
            f"{listed}\nMend the source, or leave --strict out to take it as it is; "
            "finished shards are kept."
        )


def unigram_entropy(counts: np.ndarray) -> float:
    """Entropy of the token frequencies in nats: what is known without any context."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())
