"""Batches of rows of similar length: what they hold, and that they depend on nothing else."""

import itertools

import numpy as np
import pytest

from bert_jax.data.labelled.lengths import (
    compiled_lengths,
    epoch_batches,
    length_batches,
    padding_share,
    row_lengths,
)
from bert_jax.data.labelled.texts import encode_texts
from bert_jax.data.tokenizers.wordpiece_tokenizer import WordPieceTokenizer


@pytest.fixture
def num_tokens():
    """Tokens of 9,000 rows as in reviews: most are short."""
    rng = np.random.default_rng(0)
    return np.clip(rng.lognormal(2.5, 0.7, 9_000).astype(int) + 3, 3, 128)


def test_lengths_are_few_and_hold_every_row(num_tokens):
    for num_batches, most in ((1, 2), (150, 2), (300, 3), (10_000, 6)):
        lengths = row_lengths(num_tokens, 128, num_batches)
        assert len(lengths) == most
        assert (np.diff(lengths) > 0).all()
        assert (lengths % 8 == 0).all()
        assert num_tokens.max() <= lengths[-1] < num_tokens.max() + 8
    assert row_lengths(np.full(9, 5), 128, 100).tolist() == [8]
    assert row_lengths(np.array([5, 21]), 21, 100).tolist() == [8, 21]


def test_no_other_lengths_have_less_padding(num_tokens):
    def places(lengths):
        return np.asarray(lengths)[np.searchsorted(lengths, num_tokens)].sum()

    found = row_lengths(num_tokens, 128, 300)
    longest = int(found[-1])
    others = itertools.combinations(range(8, longest, 8), 2)
    assert places(found) == min(places([*pair, longest]) for pair in others)


def test_compiled_lengths_are_few_and_near_each_other():
    assert compiled_lengths(40).tolist() == [8, 16, 24, 32, 40]
    found = compiled_lengths(512)
    assert found.tolist() == [8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512]
    assert compiled_lengths(5).tolist() == [5]


def test_an_epoch_has_every_row_once_and_little_padding(num_tokens):
    lengths = row_lengths(num_tokens, 128, 10_000)
    found = epoch_batches(num_tokens, lengths, 32, seed=1, epoch=0)
    assert len(found.numbers) == -(-9_000 // 32)
    assert sorted(np.concatenate(found.numbers).tolist()) == list(range(9_000))
    for numbers, length in zip(*found, strict=True):
        assert num_tokens[numbers].max() <= length
        assert length in lengths
    # 8 tokens a step on texts of 15 tokens make 20 % by themselves.
    assert padding_share(num_tokens, found) < 0.25
    one = epoch_batches(num_tokens, lengths[-1:], 32, seed=1, epoch=0)
    assert padding_share(num_tokens, one) > 0.8
    assert len(set(found.lengths.tolist())) == len(lengths)
    # Lengths come in any order, not the shortest first.
    assert not (np.diff(found.lengths) >= 0).all()


def test_batches_are_pure_in_seed_and_epoch(num_tokens):
    lengths = row_lengths(num_tokens, 128, 300)

    def batches(seed, epoch):
        found = epoch_batches(num_tokens, lengths, 32, seed=seed, epoch=epoch)
        return [numbers.tolist() for numbers in found.numbers]

    assert batches(0, 0) == batches(0, 0)
    assert batches(0, 0) != batches(0, 1)
    assert batches(0, 0) != batches(1, 0)


def test_only_padding_is_cut():
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "w"]
    tokenizer = WordPieceTokenizer("\n".join(pieces).encode(), lowercase=True)
    texts = [(" ".join(["w"] * count),) for count in (1, 20, 3, 9, 2)]
    rows = encode_texts(tokenizer, texts, range(5), 32)
    plan = length_batches(rows.num_tokens, np.array([8, 24]), np.arange(5), 2)
    assert [numbers.tolist() for numbers in plan.numbers] == [[0, 2], [4, 1], [3]]
    assert plan.lengths.tolist() == [8, 24, 24]
    for numbers, length in zip(*plan, strict=True):
        batch = rows.batch(numbers, 2, length)
        assert batch.input_ids.shape == (2, length)
        real = rows.num_tokens[numbers].sum()
        assert batch.input_mask[: numbers.size].sum() == real
    # The last one is filled with its own first row, which fits.
    assert batch.input_mask[0].tolist() == batch.input_mask[1].tolist()
    assert batch.weights.tolist() == [1.0, 0.0]
