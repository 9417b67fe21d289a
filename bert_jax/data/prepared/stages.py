"""The stages of a preparation that are the same on one machine and on a Beam runner.

In their order: `make_plan`, `begin`, `make_shards`, then, where duplicates are dropped,
`choose_what_to_drop`, and after the shards have been written `finish`.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from bert_jax.config import PrepareOptions
from bert_jax.data.atomic_file import AnyPath, write_atomically
from bert_jax.data.prepared import audit
from bert_jax.data.prepared.arrays import load_array
from bert_jax.data.prepared.card import CARD, card
from bert_jax.data.prepared.duplicates import Duplicates, find_duplicates
from bert_jax.data.prepared.encoding_check import check_encoding, read_sample
from bert_jax.data.prepared.format import (
    FORMAT_VERSION,
    MANIFEST,
    SPLITS,
    TFDS_METADATA,
)
from bert_jax.data.prepared.manifest import write_manifest
from bert_jax.data.prepared.metadata import write_tfds_metadata
from bert_jax.data.prepared.normalization_audit import lost_in_normalization
from bert_jax.data.prepared.one_sided import refuse_one_sided
from bert_jax.data.prepared.shards import Shard, ShardFile, save_side_files
from bert_jax.data.prepared.summary import problems
from bert_jax.data.text.documents import ReadStats, refuse_broken, source_counts
from bert_jax.data.text.sections import Section, Source
from bert_jax.data.text.sentences import sentences
from bert_jax.data.text.sources import divide
from bert_jax.data.tokenizers.tokenizer import Tokenizer

PLAN = "plan.json"
# The plan's key for names and sizes of the source's files. Directories that were begun
# earlier have this key too, so it keeps its name.
_SOURCE_FILES = "units"
# A source with less text than this per shard gets fewer shards.
_MIN_SHARD_BYTES = 1 << 20


def make_plan(
    source: Source,
    tokenizer: Tokenizer,
    options: PrepareOptions,
    *,
    runner: Literal["local", "beam"] = "local",
) -> dict[str, Any]:
    """Everything that decides a dataset, as values that JSON can hold.

    Two runs with equal plans write the same dataset. The runner is part of the plan
    because it decides how a stopped run continues, not because the records depend on it.

    Raises:
        ValueError: the sentence splitter has no rules for the language.
    """
    sentences("", options.language)
    return {
        "format_version": FORMAT_VERSION,
        "runner": runner,
        "source": list(source.specs),
        _SOURCE_FILES: source.files(),
        "tokenizer_sha256": tokenizer.sha256,
        **dataclasses.asdict(options),
    }


def begin(
    output: AnyPath, plan: dict[str, Any], source: Source, options: PrepareOptions
) -> None:
    """Writes the plan to `output`, or checks that the plan there is the same.

    Args:
        output: folder of the dataset.
        plan: from `make_plan`.
        source: the source of the plan.
        options: the options of the plan.

    Raises:
        ValueError: `output` was begun with another plan, or holds something else; or
            one of the splits would be empty.
    """
    path = output / PLAN
    if path.exists():
        before = _read_plan(path)
        differs = sorted(
            _differing_files(plan[name], before.get(name, []))
            if name == _SOURCE_FILES
            else name
            for name in {*plan, *before}
            if plan.get(name) != before.get(name)
        )
        if differs:
            what = "a" if (output / MANIFEST).exists() else "an unfinished"
            raise ValueError(
                f"{output} holds {what} dataset of other settings ({', '.join(differs)} "
                "differ); delete it or choose another --output."
            )
        return
    if output.exists() and any(output.iterdir()):
        raise ValueError(
            f"{output} is not empty and holds no prepared dataset; choose another "
            "--output."
        )
    refuse_one_sided(source, options)
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(plan, indent=2) + "\n")


def _read_plan(path: AnyPath) -> dict[str, Any]:
    try:
        plan = json.loads(path.read_text())
        if isinstance(plan, dict):
            return plan
    except ValueError:
        pass
    raise ValueError(
        f"{path} is damaged, so it does not say of which settings the dataset is; delete "
        f"{path.parent} or choose another --output."
    )


def _differing_files(now: list[str], before: list[str]) -> str:
    """Says which files came, went or changed, from two results of `Source.files`."""
    names = sorted({line.rsplit(" ", 2)[0] for line in {*now} ^ {*before}})
    more = f", {len(names) - 3:,} more" if len(names) > 3 else ""
    return f"files {', '.join(names[:3])}{more}"


def make_shards(
    source: Source,
    tokenizer: Tokenizer,
    output: pathlib.Path,
    options: PrepareOptions,
    workspace: pathlib.Path,
) -> list[Shard]:
    """Divides a source into the shards of a dataset, in the order of the source.

    Args:
        source: from `open_source`.
        tokenizer: the tokenizer whose ids the shards will hold.
        output: folder for the shards and their side files.
        options: what decides the content.
        workspace: folder for compressed files that must be unpacked, see `divide`.
    """
    target = max(source.size_bytes // options.num_shards, _MIN_SHARD_BYTES)
    # Decompression releases Python's lock, so several files are unpacked at a time.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        sections = divide(source, target, workspace, map=pool.map)
    groups = _group(sections, options.num_shards)
    encoding = check_encoding(tokenizer, sections, options)
    return [
        Shard(
            output=output,
            tokenizer_sha256=tokenizer.sha256,
            sections=group,
            index=index,
            num_shards=len(groups),
            options=options,
            encoding=encoding,
        )
        for index, group in enumerate(groups)
    ]


def _group(sections: tuple[Section, ...], num_shards: int) -> list[tuple[Section, ...]]:
    """Neighbouring sections in at most `num_shards` groups of about equal bytes."""
    num_groups = min(num_shards, len(sections))
    ends = np.cumsum([max(section.size_bytes, 1) for section in sections])
    # The middle of a section decides its group. A large section can leave one empty.
    middle = ends - np.diff(ends, prepend=0) / 2
    group_of = (middle / ends[-1] * num_groups).astype(int)
    groups: list[list[Section]] = [[] for _ in range(num_groups)]
    for section, group in zip(sections, group_of, strict=True):
        groups[group].append(section)
    return [tuple(group) for group in groups if group]


def _find_copies(shards: list[Shard], options: PrepareOptions) -> Duplicates:
    """Looks for copies among the documents of all shards."""
    held_out = [load_array(shard.side_file("held_out.npy")) for shard in shards]
    return find_duplicates(
        [shard.side_file("hashes.npy") for shard in shards],
        np.concatenate(held_out),
        [shard.side_file("signatures.npy") for shard in shards],
        threshold=options.near_threshold,
    )


def choose_what_to_drop(shards: list[Shard], options: PrepareOptions) -> Duplicates:
    """Finds all copies, and writes for each shard which of its documents are copies."""
    copies = _find_copies(shards, options)
    first = 0
    for shard in shards:
        count = load_array(shard.side_file("held_out.npy")).size
        dropped = (copies.exact | copies.near)[first : first + count]
        # A file of a stopped run is replaced by the same content.
        save_side_files(shard, {"drop.npy": np.flatnonzero(dropped)})
        first += count
    return copies


def finish(
    output: AnyPath,
    shards: list[Shard],
    results: list[dict[str, Any]],
    files: Mapping[str, Sequence[ShardFile]],
    tokenizer: Tokenizer,
    options: PrepareOptions,
    source: Source,
    copies: Duplicates | None,
    *,
    strict: bool,
) -> None:
    """Checks finished shards, and writes the files that make them a dataset.

    Args:
        output: folder of the shard files.
        shards: their side files are on this machine.
        results: `ShardRecords.result()` of each shard.
        files: split -> its files in the order of the shards.
        tokenizer: the tokenizer of the shards.
        options: the options of the plan.
        source: from which the shards were made.
        copies: the result of `choose_what_to_drop`; copies are looked for when `None`.
        strict: raise an error if the audit finds what would spoil training.

    Raises:
        ValueError: a split is empty, or `strict` is set and the audit found a problem.
    """
    refuse_empty_splits(results, options, source)
    merged = audit.merge(results)
    splits = merged.pop("splits")
    counts = np.sum(
        [load_array(shard.side_file("counts.npy.gz")) for shard in shards], axis=0
    )
    for number, split in enumerate(SPLITS):
        splits[split]["unigram_entropy"] = unigram_entropy(counts[number])
    unk = tokenizer.special.unk
    unknown = 0 if unk is None else counts[:, unk].sum()
    if copies is None:
        copies = _find_copies(shards, options)
    sections = [section for shard in shards for section in shard.sections]
    sample = list(read_sample(sections, options))
    read = _read_of_sources(source, results)
    refuse_broken(source, read, options.read)
    manifest = {
        "format_version": FORMAT_VERSION,
        "source": source.spec,
        "sources": source_counts(source, read),
        "files_named_again": source.num_repeated,
        "options": dataclasses.asdict(options),
        "tokenizer": {
            "kind": tokenizer.kind,
            "lowercase": tokenizer.lowercase,
            "sha256": tokenizer.sha256,
            "vocab_size": tokenizer.vocab_size,
        },
        "encoding": shards[0].encoding._asdict(),
        "splits": splits,
        "read": dataclasses.asdict(sum(read, start=ReadStats())),
        "audit": {
            "unk_share": float(unknown / counts.sum()),
            **merged,
            "normalization": lost_in_normalization(tokenizer, sample),
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
    manifest["metadata_sha256"] = {
        name: hashlib.sha256((output / name).read_bytes()).hexdigest()
        for name in TFDS_METADATA
    }
    write_atomically(output / CARD, card(manifest))
    write_manifest(output, manifest)


def _read_of_sources(source: Source, results: list[dict[str, Any]]) -> list[ReadStats]:
    """What was read of each source in all shards."""
    stats = [ReadStats() for _ in source.specs]
    for result in results:
        for number, read in result["read"].items():
            stats[int(number)] += ReadStats(**read)
    return stats


def refuse_empty_splits(
    results: list[dict[str, Any]], options: PrepareOptions, source: Source
) -> None:
    """Raises a ValueError if the training or the validation split has no document."""
    for split in SPLITS:
        if not sum(result["splits"][split]["documents"] for result in results):
            raise ValueError(
                f"The {split} split is empty: {source.spec} has too few documents "
                f"for validation_fraction={options.validation_fraction}; add text or "
                "change the fraction."
            )


def refuse_problems(manifest: dict[str, Any], output: AnyPath) -> None:
    """Raises a ValueError that lists every problem that the audit finds, if any."""
    if found := problems(manifest):
        listed = "\n".join(f"  - {problem}" for problem in found)
        raise ValueError(
            f"--strict: the audit of {output} found what would spoil training:\n"
            f"{listed}\nRepair the source, or leave --strict out to use it as it is. "
            "Finished shards are kept."
        )


def unigram_entropy(counts: np.ndarray) -> float:
    """Entropy of the token frequencies, in nats: the loss of a model without context."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum()) + 0.0  # of one token alone it is -0.0
