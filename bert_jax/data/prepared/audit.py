"""Counts over a corpus, taken while it is prepared.

Every shard is counted by the process that writes it. The sums over all shards go into
the manifest; `summary.problems` judges them.
"""

import collections
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from bert_jax.data.prepared.format import SPLITS
from bert_jax.data.prepared.records import TokenizedDocument
from bert_jax.data.text.documents import Document

# Lines with the same first characters, this many of them, count as the same line.
_LINE_CHARACTERS = 200
# A shard counts at most so many different lines at once, and reports the most frequent.
_LINES_COUNTED = 200_000
_LINES_KEPT = 1_000
_LINES_SHOWN = 10
# Counting takes as long for few tokens as for a vocabulary of them.
_TOKENS_COUNTED_AT_ONCE = 1 << 18


class ShardAudit:
    """Counts over the documents of one shard.

    Attributes:
        held_out: for each document read, in order, whether it is for validation.
    """

    def __init__(self, vocab_size: int) -> None:
        self._counts = np.zeros((len(SPLITS), vocab_size), np.int64)
        self._uncounted: list[list[np.ndarray]] = [[] for _ in SPLITS]
        self._num_uncounted = 0
        self.held_out: list[bool] = []
        self._splits = [
            dict.fromkeys(("documents", "sentences", "tokens", "bytes"), 0)
            for _ in SPLITS
        ]
        self._content = [hashlib.sha256() for _ in SPLITS]
        self._lines: collections.Counter[str] = collections.Counter()
        self._num_lines = 0
        self._num_one_sentence = 0
        self._num_empty = 0

    def add(self, document: Document, record: TokenizedDocument, split: int) -> None:
        """Counts a document that goes into `SPLITS[split]` if it has a token.

        Args:
            document: the document.
            record: the same document as tokens.
            split: number of the split in `SPLITS`.
        """
        tokens, lengths = record.tokens, record.sentence_lengths
        if not tokens.size:
            self._num_empty += 1
            return
        self._uncounted[split].append(tokens)
        self._num_uncounted += tokens.size
        if self._num_uncounted > _TOKENS_COUNTED_AT_ONCE:
            self._count_tokens()
        total = self._splits[split]
        total["documents"] += 1
        total["sentences"] += lengths.size
        total["tokens"] += tokens.size
        total["bytes"] += len(document.utf8)
        self._content[split].update(tokens.tobytes())
        self._num_one_sentence += lengths.size == 1
        lines = document.text.split("\n")
        lines = [line[:_LINE_CHARACTERS] for line in lines if line]
        self._num_lines += len(lines)
        self._lines.update(lines)
        if len(self._lines) > _LINES_COUNTED:
            self._forget_rare_lines()

    @property
    def counts(self) -> np.ndarray:
        """int64 [splits, V], how often each token occurs in each split."""
        self._count_tokens()
        return self._counts

    def _count_tokens(self) -> None:
        for split, tokens in enumerate(self._uncounted):
            if tokens:
                found = np.bincount(
                    np.concatenate(tokens), minlength=self._counts.shape[1]
                )
                self._counts[split] += found
                tokens.clear()
        self._num_uncounted = 0

    def _forget_rare_lines(self) -> None:
        # Lossy counting (Manku and Motwani 2002): lines that are rare so far are
        # forgotten, so that a count can be too low by what was forgotten.
        least = 2
        while len(self._lines) > _LINES_COUNTED // 2:
            kept = {line: n for line, n in self._lines.items() if n >= least}
            self._lines = collections.Counter(kept)
            least *= 2

    def result(self) -> dict[str, Any]:
        """All counts but the arrays, as values that JSON can hold."""
        repeated = [x for x in self._lines.items() if x[1] > 1]
        repeated.sort(key=lambda item: (-item[1], item[0]))
        return {
            "splits": dict(zip(SPLITS, self._splits, strict=True)),
            "content_sha256": [digest.hexdigest() for digest in self._content],
            "lines": self._num_lines,
            "repeated_lines": repeated[:_LINES_KEPT],
            "one_sentence_documents": self._num_one_sentence,
            "documents_without_tokens": self._num_empty,
        }


def merge(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Adds up the results of all shards.

    Args:
        results: `ShardAudit.result()` of each shard, in order.

    Returns:
        `splits`: documents, sentences, tokens and bytes of each split.
        `lines`, `one_sentence_documents`, `documents_without_tokens`: sums.
        `most_repeated_lines`: [line, count] of the ten most frequent lines; a count can
        be too low, because rare lines are forgotten on the way.
        `duplicate_shards`: pairs of shard numbers with the same tokens.
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
        "most_repeated_lines": [list(item) for item in top[:_LINES_SHOWN]],
        "duplicate_shards": _duplicate_shards(results),
    }


def _duplicate_shards(results: Sequence[dict[str, Any]]) -> list[list[int]]:
    """[first shard, later shard] for each later shard whose tokens are those of another.

    Shards with a single document are left to the search for duplicate documents.
    """
    pairs = []
    for number, split in enumerate(SPLITS):
        first: dict[str, int] = {}
        for index, result in enumerate(results):
            if result["splits"][split]["documents"] < 2:
                continue
            earlier = first.setdefault(result["content_sha256"][number], index)
            if earlier != index:
                pairs.append([earlier, index])
    return pairs
