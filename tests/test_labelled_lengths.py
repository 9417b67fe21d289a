"""Batches of rows of similar length: what they hold, and that they depend on nothing else."""

import itertools

import numpy as np
import pytest
from small_tokenizers import wordpiece

from bert_jax.data.labelled.lengths import (
    compiled_lengths,
    epoch_batches,
    length_batches,
    padding_share,
    row_lengths,
)
from bert_jax.data.labelled.texts import encode_texts
from bert_jax.family import model_config
from bert_jax.train.logits import compile_price


@pytest.fixture
def num_tokens():
    """Tokens of 9,000 rows as in reviews: most are short."""
    rng = np.random.default_rng(0)
    return np.clip(rng.lognormal(2.5, 0.7, 9_000).astype(int) + 3, 3, 128)


def test_lengths_are_few_and_hold_every_row(num_tokens):
    for price, most in ((1e6, 1), (1e5, 2), (5e4, 3), (0.0, 6)):
        lengths = row_lengths(num_tokens, 128, price)
        assert len(lengths) == most
        assert (np.diff(lengths) > 0).all()
        assert (lengths % 8 == 0).all()
        assert num_tokens.max() <= lengths[-1] < num_tokens.max() + 8
    assert row_lengths(np.full(9, 5), 128, 0.0).tolist() == [8]
    assert row_lengths(np.array([5, 21]), 21, 0.0).tolist() == [8, 21]


@pytest.mark.parametrize("price", [1e6, 1e5, 5e4, 3e4])
def test_no_other_lengths_cost_less(num_tokens, price):
    def cost(lengths):
        places = np.asarray(lengths)[np.searchsorted(lengths, num_tokens)].sum()
        return places + price * len(lengths)

    found = row_lengths(num_tokens, 128, price)
    longest = int(found[-1])
    others = [
        [*some, longest]
        for number in range(4)
        for some in itertools.combinations(range(8, longest, 8), number)
    ]
    assert cost(found) == min(map(cost, others))


def test_compiling_for_a_length_pays_sooner_for_a_large_encoder():
    small, large = (compile_price(model_config(name)) for name in ("tiny", "base"))
    assert small == pytest.approx(3e11 / (6 * 2 * 12 * 128**2))
    assert large < small / 100


def test_compiled_lengths_are_few_and_near_each_other():
    assert compiled_lengths(40).tolist() == [8, 16, 24, 32, 40]
    found = compiled_lengths(512)
    assert found[:8].tolist() == [8, 16, 24, 32, 40, 48, 56, 64]
    assert found[8:14].tolist() == [80, 96, 112, 128, 160, 192]
    assert found[14:].tolist() == [224, 256, 320, 384, 448, 512]
    assert compiled_lengths(5).tolist() == [5]


def test_an_epoch_has_every_row_once_and_little_padding(num_tokens):
    lengths = row_lengths(num_tokens, 128, 0.0)
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
    lengths = row_lengths(num_tokens, 128, 3e4)

    def batches(seed, epoch):
        found = epoch_batches(num_tokens, lengths, 32, seed=seed, epoch=epoch)
        return [numbers.tolist() for numbers in found.numbers]

    assert batches(0, 0) == batches(0, 0)
    assert batches(0, 0) != batches(0, 1)
    assert batches(0, 0) != batches(1, 0)


def test_only_padding_is_cut():
    texts = [(" ".join(["w"] * count),) for count in (1, 20, 3, 9, 2)]
    rows = encode_texts(wordpiece("w"), texts, range(5), 32)
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
