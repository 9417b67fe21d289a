"""What a corpus is made of, counted while it is prepared, and what would spoil training.

Each shard counts for itself; the sums over shards go into the dataset's manifest.
"""

import collections
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from bert_jax.data.prepared.records import SPLITS, TokenizedDocument

# Lines are told apart by so many of their first characters.
_LINE_CHARACTERS = 200
# Different lines that are counted at once, and how many a shard hands on.
_LINES_COUNTED = 200_000
_LINES_KEPT = 1_000
_LINES_SHOWN = 10
_HISTOGRAM_BINS = 32


class ShardAudit:
    """Counts over the documents of one shard.

    Attributes:
        counts: int64 [splits, V], how often each token stands in each split.
        held_out: of each document read, in order, whether it is for validation.
    """

    def __init__(self, vocab_size: int) -> None:
        self.counts = np.zeros((len(SPLITS), vocab_size), np.int64)
        self.held_out: list[bool] = []
        self._splits = [
            dict.fromkeys(("documents", "sentences", "tokens", "bytes"), 0)
            for _ in SPLITS
        ]
        self._documents_by_length = np.zeros(_HISTOGRAM_BINS, np.int64)
        self._sentences_by_length = np.zeros(_HISTOGRAM_BINS, np.int64)
        self._content = [hashlib.sha256() for _ in SPLITS]
        self._lines: collections.Counter[str] = collections.Counter()
        self._num_lines = 0
        self._num_one_sentence = 0
        self._num_empty = 0

    def skip(self) -> None:
        """Counts a document without a token."""
        self._num_empty += 1

    def add(
        self, text: str, num_bytes: int, document: TokenizedDocument, split: int
    ) -> None:
        """Counts a document that goes into `SPLITS[split]`.

        Args:
            text: of the document, paragraphs a line each.
            num_bytes: of the text in UTF-8.
        """
        tokens, lengths = document.tokens, document.sentence_lengths
        vocab_size = self.counts.shape[1]
        self.counts[split] += np.bincount(tokens, minlength=vocab_size)
        total = self._splits[split]
        total["documents"] += 1
        total["sentences"] += lengths.size
        total["tokens"] += tokens.size
        total["bytes"] += num_bytes
        self._documents_by_length[int(tokens.size).bit_length() - 1] += 1
        powers = np.frexp(lengths.astype(np.float32))[1] - 1
        self._sentences_by_length += np.bincount(powers, minlength=_HISTOGRAM_BINS)
        self._content[split].update(tokens.tobytes())
        self._num_one_sentence += lengths.size == 1
        lines = [line[:_LINE_CHARACTERS] for line in text.split("\n") if line]
        self._num_lines += len(lines)
        self._lines.update(lines)
        if len(self._lines) > _LINES_COUNTED:
            self._forget_rare_lines()

    def _forget_rare_lines(self) -> None:
        # Manku and Motwani 2002: what is rare so far goes, at the cost of undercounting
        # by as much as was dropped.
        least = 2
        while len(self._lines) > _LINES_COUNTED // 2:
            kept = {line: n for line, n in self._lines.items() if n >= least}
            self._lines = collections.Counter(kept)
            least *= 2

    def result(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON can hold it."""
        repeated = [x for x in self._lines.items() if x[1] > 1]
        repeated.sort(key=lambda item: (-item[1], item[0]))
        return {
            "splits": dict(zip(SPLITS, self._splits, strict=True)),
            "documents_by_length": self._documents_by_length.tolist(),
            "sentences_by_length": self._sentences_by_length.tolist(),
            "content_sha256": [digest.hexdigest() for digest in self._content],
            "lines": self._num_lines,
            "repeated_lines": repeated[:_LINES_KEPT],
            "one_sentence_documents": self._num_one_sentence,
            "documents_without_tokens": self._num_empty,
        }


def merge(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sums over shards.

    Returns:
        `splits` (documents, sentences, tokens, bytes of each), histograms of document
        and sentence lengths in tokens as `{"1": n, "2": n, "4": n, ...}` (so many from
        that length up to twice it), the lines that repeat most with their counts (at
        least so many: rare ones were not followed), and pairs of shards with the same
        tokens.
    """
    splits = {
        split: {
            name: sum(result["splits"][split][name] for result in results)
            for name in results[0]["splits"][split]
        }
        for split in SPLITS
    }
    lines: collections.Counter[str] = collections.Counter()
    for result in results:
        for line, count in result["repeated_lines"]:
            lines[line] += count
    top = sorted(lines.items(), key=lambda item: (-item[1], item[0]))
    totals = {
        name: sum(result[name] for result in results)
        for name in ("lines", "one_sentence_documents", "documents_without_tokens")
    }
    return {
        "splits": splits,
        **totals,
        "documents_by_length": _histogram(results, "documents_by_length"),
        "sentences_by_length": _histogram(results, "sentences_by_length"),
        "most_repeated_lines": [list(item) for item in top[:_LINES_SHOWN]],
        "duplicate_shards": _duplicate_shards(results),
    }


def _histogram(results: Sequence[dict[str, Any]], name: str) -> dict[str, int]:
    counts = np.sum([result[name] for result in results], axis=0)
    used = np.flatnonzero(counts)
    bins = range(used[0], used[-1] + 1) if used.size else ()
    return {str(2**power): int(counts[power]) for power in bins}


def _duplicate_shards(results: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Pairs of shards, by number, whose split holds the same tokens; the first of each.

    Shards of a single document are left to the search for duplicate documents.
    """
    pairs = []
    for place, split in enumerate(SPLITS):
        first: dict[str, int] = {}
        for index, result in enumerate(results):
            if result["splits"][split]["documents"] < 2:
                continue
            earlier = first.setdefault(result["content_sha256"][place], index)
            if earlier != index:
                pairs.append([earlier, index])
    return pairs


def problems(manifest: dict[str, Any]) -> list[str]:
    """What in a manifest would spoil training, in words; empty for a sound corpus.

    The limits are far above what clean text shows (English Wikipedia: [UNK] 0.04 %,
    markup 0.013 % a character, no copies), so that each of them points at a mistake.
    """
    audit, read = manifest["audit"], manifest["read"]
    documents = max(sum(s["documents"] for s in manifest["splits"].values()), 1)
    found = []

    def check(value: float, limit: float, what: str, advice: str) -> None:
        if value > limit:
            found.append(f"{what}: {value:.2%}, more than {limit:.2%}. {advice}")

    check(
        audit["unk_share"],
        0.01,
        "[UNK] among the tokens",
        "The tokenizer does not know this text; train one on it.",
    )
    copies = audit["duplicates"]
    kept = "Drop them with --duplicates drop."
    if not copies["dropped"]:
        check(copies["exact"] / documents, 0.01, "copies of other documents", kept)
        check(copies["near"] / documents, 0.05, "near copies of other documents", kept)
        check(
            copies["leaked"] / max(manifest["splits"]["validation"]["documents"], 1),
            0.01,
            "held-out documents that also stand in the training split",
            kept,
        )
    if audit["duplicate_shards"]:
        found.append(
            f"shards with the same content: {audit['duplicate_shards'][:5]}. A file is "
            "in the source twice."
        )
    if top := audit["most_repeated_lines"]:
        line, count = top[0]
        check(
            count / max(audit["lines"], 1),
            0.02,
            f"one line, {line[:40]!r}, among all lines",
            "Remove such boilerplate from the text.",
        )
    check(
        audit["one_sentence_documents"] / documents,
        0.5,
        "documents of one sentence",
        "They have no next sentence; join them or set --data.pairs none.",
    )
    check(
        read["undecodable_bytes"] / max(read["text_bytes"], 1),
        1e-4,
        "bytes that are not UTF-8",
        "Convert the files to UTF-8.",
    )
    if manifest["options"]["read"]["markup"] == "keep":
        check(
            read["markup_elements"] / max(read["characters"], 1),
            0.001,
            "tags, entities and other markup a character",
            "Remove it with --read.markup strip.",
        )
    return found


def describe(manifest: dict[str, Any]) -> list[str]:
    """A manifest in a few lines."""
    audit, read = manifest["audit"], manifest["read"]
    lines = [
        f"{split}: {counts['documents']:,} documents, {counts['sentences']:,} "
        f"sentences, {counts['tokens']:,} tokens, unigram entropy "
        f"{counts['unigram_entropy']:.3f} nats"
        for split, counts in manifest["splits"].items()
    ]
    copies = audit["duplicates"]
    what = "dropped" if copies["dropped"] else "kept"
    near = f"{copies['near']:,} near copies"
    if not manifest["options"]["near_threshold"]:
        near = "near copies not looked for"
    lines.append(
        f"audit: [UNK] {audit['unk_share']:.3%} of the tokens; {copies['exact']:,} "
        f"copies of documents, {what}, {near}; {copies['leaked']:,} held-out documents "
        "also in training"
    )
    met = {
        "bytes not UTF-8": read["undecodable_bytes"],
        "control characters": read["control_characters"],
        "empty documents": read["empty_documents"] + audit["documents_without_tokens"],
        "giant documents cut": read["cut_documents"],
        "documents with markup": read["markup_documents"],
    }
    seen = [f"{count:,} {name}" for name, count in met.items() if count]
    return [*lines, f"read: {'; '.join(seen) or 'nothing unusual'}"]
