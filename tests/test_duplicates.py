"""Copies are found whatever the shard, near copies by their share of wording."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_jax.data.prepared import duplicates
from bert_jax.data.prepared.arrays import save_array
from bert_jax.data.prepared.duplicates import find_duplicates, num_bands
from bert_jax.data.prepared.fingerprints import Fingerprints, signature


@pytest.fixture
def find(tmp_path):
    """find([[text, ...] of each shard], held_out=…, threshold=…) -> Duplicates."""

    def run(shards, held_out=None, threshold=0.0):
        hashes, signatures = [], []
        for index, texts in enumerate(shards):
            prints = Fingerprints(near=threshold > 0.0)
            for text in texts:
                prints.add(text.encode())
            hashes.append(tmp_path / f"{index}.hashes")
            signatures.append(tmp_path / f"{index}.signatures")
            save_array(hashes[-1], prints.hashes())
            save_array(signatures[-1], prints.signatures())
        count = sum(map(len, shards))
        out = np.zeros(count, bool) if held_out is None else np.array(held_out)
        return find_duplicates(hashes, out, signatures, threshold=threshold)

    return run


def words(rng, count: int) -> list[str]:
    return [f"w{n}" for n in rng.integers(0, 5_000, count)]


def jaccard(one: str, other: str) -> float:
    """By its definition, over sets of five-word sequences."""
    sets = []
    for text in (one, other):
        found = text.lower().split()
        sets.append({tuple(found[n : n + 5]) for n in range(len(found) - 4)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@pytest.mark.parametrize("at_once", [3, 10**6], ids=["in parts", "whole"])
def test_later_copies_are_found_in_any_shard(find, monkeypatch, at_once):
    monkeypatch.setattr(duplicates, "_AT_ONCE", at_once)
    found = find([["a", "b", "a"], [], ["c", "b", "a"], ["d"]])
    assert found.exact.tolist() == [False, False, True, False, True, True, False]
    assert not found.near.any()


@settings(max_examples=60)
@given(texts=st.lists(st.sampled_from("abcdefgh"), max_size=40), cut=st.integers(0, 40))
def test_exactly_the_repeats_are_found(tmp_path_factory, texts, cut):
    folder = tmp_path_factory.mktemp("hashes")
    paths = []
    for index, part in enumerate((texts[:cut], texts[cut:])):
        prints = Fingerprints(near=False)
        for text in part:
            prints.add(text.encode())
        paths.append(folder / str(index))
        save_array(paths[-1], prints.hashes())
    found = find_duplicates(paths, np.zeros(len(texts), bool))
    assert found.exact.tolist() == [x in texts[:n] for n, x in enumerate(texts)]


def test_held_out_documents_that_training_knows_are_counted(find):
    shards = [["a", "b", "c"], ["a", "c", "c", "d", "d"]]
    out = [False, False, True, True, True, False, True, True]
    # a and two of c stand on both sides; d twice, but only held out.
    assert find(shards, out).num_leaked == 3


def test_no_documents_have_no_copies(find):
    found = find([[], []], threshold=0.8)
    assert found.exact.size == found.near.size == found.num_leaked == 0


def test_signatures_estimate_the_share_in_common():
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(60):
        text = words(rng, 300)
        change = rng.random(300) < rng.choice([0.0, 0.01, 0.05, 0.2])
        other = [
            f"{word}x" if c else word for word, c in zip(text, change, strict=True)
        ]
        one, two = " ".join(text), " ".join(other)
        estimate = (signature(one.encode()) == signature(two.encode())).mean()
        errors.append(estimate - jaccard(one, two))
    # Each of 128 entries agrees with probability J: deviation at most 0.044.
    assert np.abs(np.mean(errors)) < 4 * 0.044 / np.sqrt(60)
    assert np.sqrt(np.mean(np.square(errors))) < 0.05


def test_case_and_spacing_do_not_matter_but_order_does():
    plain = signature(b"one two three four five six seven")
    np.testing.assert_array_equal(
        plain, signature(b"ONE  two\nthree four five six\tSeven")
    )
    swapped = signature(b"two one three four five six seven")
    assert (plain == swapped).mean() < 0.6
    assert (signature(b"a b") == signature(b"b a")).mean() < 0.1
    assert (signature(b"") == signature(b" \n")).all()


@pytest.mark.parametrize("first", [0x4E00, 0x30A1, 0x0E01], ids=["Han", "kana", "Thai"])
def test_copies_without_spaces_are_told_by_their_characters(find, first):
    rng = np.random.default_rng(3)
    text, other = (
        "".join(map(chr, rng.integers(first, first + 40, 300))) for _ in "12"
    )
    edited = text[:150] + "。" + text[150:]
    found = find([[text, other, edited]], threshold=0.8)
    assert found.near.tolist() == [False, False, True]


def test_blocks_do_not_change_a_signature(monkeypatch):
    text = " ".join(words(np.random.default_rng(1), 500)).encode()
    whole = signature(text)
    monkeypatch.setattr("bert_jax.data.prepared.fingerprints._BLOCK", 7)
    np.testing.assert_array_equal(signature(text), whole)


def test_near_copies_are_found_and_others_are_not(find):
    rng = np.random.default_rng(2)
    shards, expected, likeness = [[], [], []], [], []
    originals = [" ".join(words(rng, 400)) for _ in range(60)]
    shards[0] = originals
    for text in originals[:30]:
        split = text.split()
        split[rng.integers(400)] = "changed"
        shards[1].append(" ".join(split))  # five sequences of 396 differ
        likeness.append(jaccard(text, shards[1][-1]))
    for text in originals[30:]:
        split = np.array(text.split(), dtype="<U8")
        split[rng.integers(0, 400, 60)] = "changed"
        shards[2].append(" ".join(split))
        likeness.append(jaccard(text, shards[2][-1]))
    assert min(likeness[:30]) > 0.97
    assert max(likeness[30:]) < 0.6
    expected = [False] * 60 + [True] * 30 + [False] * 30
    assert find(shards, threshold=0.8).near.tolist() == expected


def test_an_exact_copy_is_no_near_copy_and_the_first_one_stays(find):
    text = " ".join(words(np.random.default_rng(3), 100))
    other = text.replace(text.split()[50], "changed")
    found = find([[text, other], [text, other, "something else"]], threshold=0.5)
    assert found.exact.tolist() == [False, False, True, True, False]
    assert found.near.tolist() == [False, True, False, False, False]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 0.95])
def test_bands_suit_the_threshold(threshold):
    bands = num_bands(threshold)
    rows = 128 // bands
    missed = (1 - threshold**rows) ** bands
    assert missed < 0.4, "at the threshold itself; far less above it"
    assert (1 - min(threshold + 0.1, 0.99) ** rows) ** bands < 0.1
