"""From text to a prepared dataset, all work included, and `datasets` beside it."""

import json
import pathlib
import shutil
import time
from typing import Any

from benchmarks import peers
from benchmarks.data_settings import DataSettings
from benchmarks.data_text import read_sample
from benchmarks.measure import (
    Findings,
    bytes_under,
    interleaved,
    peak_memory,
    report_ratios,
)
from bert_jax.data.prepared.prepare import prepare
from bert_jax.data.tokenizers.wordpiece_tokenizer import WordPieceTokenizer

BLOCK_LENGTH = 512
_SENTENCEPIECE_LINES = 200_000
# MB/s a core of google-research/bert's create_pretraining_data.py, by duplicates.
# Of another machine of this kind; the script is no part of this project.
_FOREIGN_RATES = {1: 0.45, 10: 0.12}
_FOREIGN_PROMISES = {1: 6.0, 10: 25.0}
# MB/s a core. WordPiece is held against the bare library, in `tokenize` and below.
_PROMISED_RATES = {"sentencepiece": 5.0}
_PROMISED_BYTES = 2.2  # a token


def train_vocabulary(settings: DataSettings, findings: Findings) -> None:
    """Trains the SentencePiece model that the other sections use."""
    from bert_jax.data.text.reading import read_section
    from bert_jax.data.text.sentences import sentences
    from bert_jax.data.text.sources import open_source
    from bert_jax.data.tokenizers.vocabulary import train_sentencepiece

    started = time.perf_counter()
    lines = (
        sentence
        for section in open_source(settings.corpus).sections
        for document in read_section(section)
        for sentence in sentences(document.text)
    )
    tokenizer = train_sentencepiece(
        lines,
        vocab_size=settings.vocab_size,
        lowercase=True,
        num_threads=settings.num_workers,
        max_sentences=_SENTENCEPIECE_LINES,
    )
    findings.figure(
        f"{tokenizer.vocab_size:,} pieces from the whole corpus",
        "s",
        time.perf_counter() - started,
        note=f"on a uniform sample of {_SENTENCEPIECE_LINES:,} sentences",
    )
    findings.figure("peak memory", "GiB", peak_memory()[0])
    tokenizer.save(settings.tokenizer("sentencepiece"))


def prepare_on_one_core(settings: DataSettings, findings: Findings, kind: str) -> None:
    """Prepares the whole corpus in one process; the dataset stays for other sections."""
    output = settings.prepared(kind)
    cpu_started = time.process_time()
    seconds, manifest = _prepare(settings, kind, output, num_workers=1)
    cpu_seconds = time.process_time() - cpu_started
    amounts = _amounts(manifest)
    rate = amounts["bytes"] / seconds / 1e6
    findings.figure("text", "MB", amounts["bytes"] / 1e6)
    findings.figure("speed a core", "MB/s", rate, at_least=_PROMISED_RATES.get(kind))
    findings.figure("speed a core", "M tokens/s", amounts["tokens"] / seconds / 1e6)
    for duplicates, foreign in _FOREIGN_RATES.items():
        findings.figure(
            f"speed / google-research's script at {duplicates} duplicate(s)",
            "x",
            rate / foreign,
            at_least=_FOREIGN_PROMISES[duplicates] if kind == "wordpiece" else None,
            note=f"{foreign} MB/s, not of this run",
        )
    findings.figure("time", "s", seconds)
    findings.figure(
        "of it on the CPU",
        "%",
        100.0 * cpu_seconds / seconds,
        note="what is missing went to other processes, or to waiting for the disk",
    )
    findings.figure("peak memory", "GiB", peak_memory()[0], at_most=1.0)
    shards = sum((output / name).stat().st_size for name in manifest["sha256"])
    everything = bytes_under(output, leaving_out="index")
    findings.figure(
        "stored, shards",
        "bytes a token",
        shards / amounts["tokens"],
        at_most=_PROMISED_BYTES,
    )
    findings.figure(
        "stored, all files",
        "bytes a token",
        everything / amounts["tokens"],
        at_most=_PROMISED_BYTES,
    )


def prepare_on_all_cores(settings: DataSettings, findings: Findings, kind: str) -> None:
    """The same with a worker a core, into a directory that is thrown away.

    Raises:
        ValueError: the shards are not those of one worker.
    """
    workers = settings.num_workers
    output = settings.workdir / "prepared-on-all-cores"
    try:
        seconds, manifest = _prepare(settings, kind, output, num_workers=workers)
    finally:
        shutil.rmtree(output, ignore_errors=True)
    amounts = _amounts(manifest)
    rate = amounts["bytes"] / seconds / 1e6
    findings.figure(f"speed, {workers} workers", "MB/s", rate)
    findings.figure("speed a worker", "MB/s", rate / workers)
    findings.figure("time", "s", seconds)
    itself, workers_peak = peak_memory()
    findings.figure("peak memory of a worker", "GiB", workers_peak, at_most=1.0)
    findings.figure("peak memory of the main process", "GiB", itself)
    before = settings.prepared(kind) / "manifest.json"
    if before.exists():
        expected = json.loads(before.read_text())["sha256"]
        if manifest["sha256"] != expected:
            raise ValueError("the shards differ from those that one worker wrote")
        findings.figure("shards equal to those of one worker", "files", len(expected))


def _prepare(
    settings: DataSettings, kind: str, output: pathlib.Path, *, num_workers: int
) -> tuple[float, dict[str, Any]]:
    """(seconds, manifest)."""
    tokenizer = settings.tokenizer(kind)
    if kind == "wordpiece":
        WordPieceTokenizer.from_vocab(settings.vocab, lowercase=True).save(tokenizer)
    started = time.perf_counter()
    manifest = prepare(settings.corpus, tokenizer, output, num_workers=num_workers)
    return time.perf_counter() - started, manifest


def _amounts(manifest: dict[str, Any]) -> dict[str, float]:
    return {
        name: sum(split[name] for split in manifest["splits"].values())
        for name in ("bytes", "tokens")
    }


def prepare_beside_peer(settings: DataSettings, findings: Findings) -> None:
    """A part of the sample prepared by both, in turns, into a fresh folder each time."""
    # Not timed here, as the imports of the peer are not.
    import tensorflow_datasets  # noqa: F401

    scratch = settings.workdir / "beside-peer"
    scratch.mkdir()
    documents = scratch / "documents.jsonl"
    num_bytes = write_documents(documents, settings)
    tokenizer = scratch / "tokenizer"
    WordPieceTokenizer.from_vocab(settings.vocab, lowercase=True).save(tokenizer)
    ours, theirs = "ours, one worker", "datasets (map with grouping, one process)"
    bare = "bare tokenizer (whole documents, nothing read or written)"
    stored: dict[str, list[float]] = {ours: [], theirs: []}
    texts, fast = (
        read_sample(settings, settings.peer_bytes),
        peers.bare_wordpiece(settings.vocab),
    )

    def prepare_ours(number: int) -> dict[str, float]:
        output = scratch / f"ours-{number}"
        manifest = prepare(f"files:{documents}", tokenizer, output, num_workers=1)
        stored[ours].append(bytes_under(output) / _amounts(manifest)["tokens"])
        return {"bytes": num_bytes}

    def prepare_theirs(number: int) -> dict[str, float]:
        cache = scratch / f"datasets-{number}"
        made = peers.prepare_with_datasets(
            documents, settings.vocab, cache, BLOCK_LENGTH
        )
        stored[theirs].append(peers.stored_bytes(made) / (len(made) * BLOCK_LENGTH))
        return {"bytes": num_bytes}

    def tokenize_only(number: int) -> dict[str, float]:
        encodings = fast.encode_batch_fast(texts, add_special_tokens=False)
        assert all(encoding.ids for encoding in encodings)
        return {"bytes": num_bytes}

    candidates = {ours: prepare_ours, bare: tokenize_only}
    try:
        peers.require("datasets", "transformers")
        candidates[theirs] = prepare_theirs
    except peers.MissingPeerError as missing:
        findings.left_out(theirs, missing)
    timings = interleaved(candidates, settings.repetitions, findings)
    shutil.rmtree(scratch)
    for name, timing in timings.items():
        findings.figure(name, "MB/s", *timing.rates("bytes", 1e6))
        if name in stored:
            findings.figure(f"{name}, stored", "bytes a token", *stored[name])
    report_ratios(timings, ours, "bytes", findings, {bare: 1.0})


def write_documents(path: pathlib.Path, settings: DataSettings) -> int:
    """Writes the peers' share of the sample as JSONL; returns the bytes of its text."""
    texts = read_sample(settings, settings.peer_bytes)
    with path.open("w", encoding="utf-8") as file:
        for text in texts:
            file.write(json.dumps({"text": text}) + "\n")
    return sum(len(text.encode()) for text in texts)
