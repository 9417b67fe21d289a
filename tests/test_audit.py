"""The audit counts what is there, over any division into shards, and names mistakes."""

import json

import numpy as np
import pytest

from bert_jax.data.prepared import audit
from bert_jax.data.prepared.audit import ShardAudit, merge
from bert_jax.data.prepared.records import TokenizedDocument
from bert_jax.data.text.documents import Document

VOCAB = 50


def document(text) -> Document:
    return Document.of(text, "key", "group")


def record(lengths, start=0) -> TokenizedDocument:
    """Sentences of so many tokens; ids count up from `start`."""
    tokens = (np.arange(sum(lengths)) + start) % VOCAB
    return TokenizedDocument(
        "key", tokens.astype(np.uint16), np.array(lengths, np.uint16)
    )


def audited(documents) -> dict:
    """Of (text, lengths, split) each."""
    shard = ShardAudit(VOCAB)
    for text, lengths, split in documents:
        shard.add(document(text), record(lengths), split)
    return json.loads(json.dumps(shard.result()))


DOCUMENTS = [
    ("one\ntwo\none", [3, 4, 5], 0),
    ("three\n\none", [1], 0),
    ("drei\nöne", [8, 8], 1),
    ("two", [2, 70], 0),
]


def test_counts():
    merged = merge([audited(DOCUMENTS)])
    assert merged["splits"] == {
        "train": {"documents": 3, "sentences": 6, "tokens": 85, "bytes": 24},
        "validation": {"documents": 1, "sentences": 2, "tokens": 16, "bytes": 9},
    }
    assert merged["lines"] == 8
    assert merged["most_repeated_lines"] == [["one", 3], ["two", 2]]
    assert merged["one_sentence_documents"] == 1


@pytest.mark.parametrize("cut", range(5))
def test_shards_add_up(cut):
    whole = merge([audited(DOCUMENTS)])
    parts = merge([audited(DOCUMENTS[:cut]), audited(DOCUMENTS[cut:])])
    for name in ("splits", "lines"):
        assert parts[name] == whole[name]


def test_lines_that_repeat_within_shards_add_up():
    lines = [(f"{line}\n" * count, [5], 0) for line, count in (("a", 3), ("b", 5))]
    merged = merge([audited(lines), audited(lines), audited([("b\nb\nb", [1], 0)])])
    assert merged["most_repeated_lines"] == [["b", 13], ["a", 6]]


def test_frequent_lines_survive_a_flood_of_different_ones(monkeypatch):
    monkeypatch.setattr(audit, "_LINES_COUNTED", 100)
    shard = ShardAudit(VOCAB)
    for n in range(2_000):
        text = f"line {n}\nalways the same\nother {n}"
        shard.add(document(text), record([4]), 0)
        assert len(shard._lines) <= 102
    (first, count) = shard.result()["repeated_lines"][0]
    assert first == "always the same"
    assert count == 2_000
    assert shard.result()["lines"] == 6_000


def test_a_shard_that_stands_there_twice_is_found():
    other = [("x", [7, 7], 0), ("y", [9], 0)]
    results = [audited(DOCUMENTS), audited(other), audited(DOCUMENTS), audited([])]
    # The single held-out document is left to the search for duplicate documents.
    assert merge([*results, audited([])])["duplicate_shards"] == [[0, 2]]


def test_counts_by_token():
    shard = ShardAudit(VOCAB)
    shard.add(document("a"), record([60]), 0)
    shard.add(document("a"), record([3], start=7), 1)
    assert shard.counts.sum(axis=1).tolist() == [60, 3]
    assert shard.counts[0].tolist() == [2] * 10 + [1] * 40
    assert np.flatnonzero(shard.counts[1]).tolist() == [7, 8, 9]
