"""Dropout's bits: uniform, independent along every axis, and the same in every part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bert_jax.model.dropout import drop_units
from bert_jax.model.random_bits import (
    drop_threshold,
    hash_bits,
    kept_scale,
    key_sets,
    random_bits,
    row_keys,
)

SHAPE = (16, 12, 64, 64)


@pytest.fixture(scope="module")
def bits() -> np.ndarray:
    return np.asarray(random_bits(row_keys(jax.random.key(0), SHAPE[0]), SHAPE))


def test_every_bit_is_one_half_of_the_time(bits):
    ones = np.unpackbits(bits.view(np.uint8)).reshape(-1, 32).mean(axis=0)
    # Five deviations of a mean of 786,432 fair draws: 0.0028.
    assert np.abs(ones - 0.5).max() < 5 * 0.5 / np.sqrt(bits.size)


def test_values_fill_all_bins_evenly(bits):
    counts = np.bincount(bits.ravel() >> 24, minlength=256)
    expected = bits.size / 256
    chi2 = ((counts - expected) ** 2 / expected).sum()
    # 255 degrees of freedom: mean 255, deviation 22.6.
    assert abs(chi2 - 255) < 5 * 22.6


@pytest.mark.parametrize("axis", range(4))
@pytest.mark.parametrize("distance", [1, 2, 8])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_neighbours_know_nothing_of_each_other(bits, axis, distance, rate):
    dropped = bits < drop_threshold(rate)
    first = np.take(dropped, range(SHAPE[axis] - distance), axis)
    second = np.take(dropped, range(distance, SHAPE[axis]), axis)
    both = (first & second).mean()
    deviation = np.sqrt(rate**2 * (1 - rate**2) / first.size)
    assert abs(both - rate**2) < 5 * deviation


def test_keys_of_sites_layers_and_rows_give_other_bits():
    keys_B = row_keys(jax.random.key(3), 4)
    streams = [random_bits(k, (4, 512)) for k in key_sets(keys_B, 5)]
    rows = np.concatenate([np.asarray(s) for s in streams])
    dropped = (rows < drop_threshold(0.3)).astype(np.float64)
    correlation = np.corrcoef(dropped) - np.eye(20)
    assert np.abs(correlation).max() < 5 / np.sqrt(512)


def test_a_part_of_the_rows_draws_what_the_whole_drew():
    shape = (8, 3, 20)
    keys_B = row_keys(jax.random.key(1), 8)
    whole = np.asarray(random_bits(keys_B, shape))
    np.testing.assert_array_equal(random_bits(keys_B[2:5], (3, 3, 20)), whole[2:5])


def test_bits_are_the_hash_of_the_place_in_the_row():
    keys_B = row_keys(jax.random.key(1), 2)
    whole = np.asarray(random_bits(keys_B, (2, 3, 5)))
    words = np.asarray(jax.random.key_data(keys_B))
    index = jnp.arange(15, dtype=jnp.uint32)
    expected = hash_bits(index, jnp.uint32(words[1, 0]), jnp.uint32(words[1, 1]))
    np.testing.assert_array_equal(whole[1].ravel(), expected)


def test_the_hash_repeats_no_value():
    index = jnp.arange(1 << 20, dtype=jnp.uint32)
    bits = hash_bits(index, jnp.uint32(0x9E3779B9), jnp.uint32(12345))
    assert np.unique(bits).size == index.size


@pytest.mark.parametrize("spec", [("a", "b"), (None, "b"), ("b", None, "a")])
def test_sharding_changes_no_bit_and_moves_none(spec):
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    shape = (8, 4, 16)

    def draw(keys_B):
        out = drop_units(jnp.ones(shape), 0.2, keys_B)
        return jax.lax.with_sharding_constraint(
            out, NamedSharding(mesh, PartitionSpec(*spec))
        )

    keys_B = row_keys(jax.random.key(5), 8)
    compiled = jax.jit(draw).lower(keys_B).compile()
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert collective not in compiled.as_text()
    np.testing.assert_array_equal(
        compiled(keys_B), drop_units(jnp.ones(shape), 0.2, keys_B)
    )


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_what_is_kept_is_scaled_to_the_same_mean(rate):
    share = drop_threshold(rate) / 2**32
    assert (1 - share) * kept_scale(rate) == pytest.approx(1.0, rel=1e-15)
    assert share == pytest.approx(rate, abs=2**-33)


def test_a_key_for_another_number_of_rows_is_an_error():
    keys_B = row_keys(jax.random.key(0), 3)
    with pytest.raises(
        ValueError, match=r"shape \[3\]; expected one key, or .* 4 rows"
    ):
        row_keys(keys_B, 4)


def test_rows_whose_bits_would_repeat_are_an_error():
    keys = jax.eval_shape(lambda: row_keys(jax.random.key(0), 1))
    with pytest.raises(ValueError, match=r"2\*\*32 entries"):
        jax.eval_shape(lambda k: random_bits(k, (1, 1 << 16, 1 << 16)), keys)
