"""The model against the float64 reference, and the properties it must keep exactly.

Each tolerance is about ten times the worst error over 20 draws of parameters and
batches, on a CPU in float32.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from bert_jax.batch import PretrainBatch
from bert_jax.config import ComputeConfig
from bert_jax.family import modernbert_config
from bert_jax.model import pretraining
from bert_jax.train.losses import pretrain_loss

DRAWS = range(3)
HIDDEN = 2.5e-5  # worst 2.6e-6, of values up to 5
POOLED = 1.5e-5  # worst 1.4e-6
NSP = 1e-5  # worst 9.5e-7, classifier logits 8.3e-7
MLM = 5e-5  # worst 4.8e-6
LOSS = 2.5e-6  # relative; worst 2.4e-7
GRADS = 4e-5  # of a tensor's largest entry; packed against unpacked 3.9e-6
# The true gradient of the key bias is 0: softmax does not see it. What is there is
# rounding, at worst 1.5e-7.
NOTHING = 1.5e-6

apply = jax.jit(pretraining.apply, static_argnums=0, static_argnames="compute")


@functools.partial(jax.jit, static_argnums=0, static_argnames="compute")
def loss_and_grads(cfg, params, batch, masked, key=None, compute=ComputeConfig()):
    def loss(params):
        outputs = pretraining.apply(
            cfg, params, batch, masked, compute=compute, key=key
        )
        return pretrain_loss(outputs, batch, masked)[0]

    return jax.value_and_grad(loss)(params)


@functools.partial(jax.jit, static_argnums=(0, 1))
def text_grads(cfg, head, params, batch, targets):
    """(logits, loss, gradients) of a model over single texts."""

    def loss(params):
        logits = head.apply(cfg, params, batch)
        return head.loss(logits, batch, targets)[0], logits

    (value, logits), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return logits, value, grads


def random_head(cfg, head, seed=0) -> dict:
    shapes = reference.text_shapes(cfg, head.name, head.num_labels)
    return reference.random_params(shapes, seed)


def assert_trees_close(actual: dict, expected: dict, rtol: float) -> None:
    """Each tensor's worst error, against that tensor's largest entry."""
    actual, expected = reference.flatten(actual), reference.flatten(expected)
    assert actual.keys() == expected.keys()
    for path, want in expected.items():
        error = np.abs(np.asarray(actual[path]) - want).max()
        assert error <= rtol * np.abs(want).max() + NOTHING, (path, error)


# Against the reference.


@pytest.mark.parametrize("gelu", ["tanh", "exact"])
@pytest.mark.parametrize("seed", DRAWS)
def test_outputs_match_the_reference(
    tiny, random_params, make_batch, make_masked, gelu, seed
):
    cfg = dataclasses.replace(tiny, gelu=gelu)
    params, batch = random_params(cfg, seed), make_batch(seed=seed)
    masked = make_masked(batch, seed=seed)

    actual = apply(cfg, params, batch, masked)
    expected = reference.pretrain(cfg, params, batch, masked)

    real = batch.sequence_ids > 0
    for name in actual._fields:
        assert getattr(actual, name).dtype == jnp.float32, name
    np.testing.assert_allclose(
        actual.hidden[real], expected.hidden[real], atol=HIDDEN, rtol=0
    )
    np.testing.assert_allclose(actual.pooled, expected.pooled, atol=POOLED, rtol=0)
    np.testing.assert_allclose(actual.nsp_logits, expected.nsp_logits, atol=NSP, rtol=0)
    np.testing.assert_allclose(
        actual.mlm_logits[..., : cfg.vocab_size], expected.mlm_logits, atol=MLM, rtol=0
    )


def test_the_two_gelus_differ(tiny, random_params, make_batch, make_masked):
    batch = make_batch()
    masked, params = make_masked(batch), random_params(tiny)
    tanh, exact = (
        apply(dataclasses.replace(tiny, gelu=kind), params, batch, masked).mlm_logits
        for kind in ("tanh", "exact")
    )
    # Or the test above could not tell them apart.
    assert np.abs(tanh - exact).max() > 10 * MLM


def test_vocabulary_padding_never_wins_and_never_learns(
    tiny, random_params, make_batch, make_masked
):
    batch = make_batch()
    masked, params = make_masked(batch), random_params(tiny)
    assert tiny.padded_vocab_size == 128
    logits = apply(tiny, params, batch, masked).mlm_logits
    assert logits.shape[-1] == 128
    assert (logits[..., tiny.vocab_size :] < -1e8).all()
    _, grads = loss_and_grads(tiny, params, batch, masked)
    assert not grads["mlm"]["output_bias"][tiny.vocab_size :].any()
    assert not grads["embed"]["token"]["embedding"][tiny.vocab_size :].any()


def test_gradients_match_slopes_of_the_reference(
    tiny, random_params, make_batch, make_masked
):
    params, batch = random_params(tiny), make_batch()
    masked = make_masked(batch)
    loss, grads = loss_and_grads(tiny, params, batch, masked)
    expected = reference.pretrain_loss(tiny, params, batch, masked)
    np.testing.assert_allclose(loss, expected, rtol=LOSS)
    rng = np.random.default_rng(0)

    def function(params):
        return reference.pretrain_loss(tiny, params, batch, masked)

    for path, grad in reference.flatten(grads).items():
        direction = rng.normal(size=grad.shape)
        slope = reference.slope(function, params, path, direction)
        error = abs(np.vdot(np.asarray(grad, np.float64), direction) - slope)
        # Worst error over 20 draws: 2.9e-6 of the gradient's norm, which is also the
        # size of a slope along a normal direction.
        assert error <= 3e-5 * np.linalg.norm(grad) + NOTHING, (path, error)


@pytest.mark.parametrize("seed", DRAWS)
def test_heads_over_texts_match_the_reference(
    tiny, make_classify_batch, text_head, seed
):
    cfg, head = tiny, text_head
    params, batch = random_head(cfg, head, seed), make_classify_batch(seed)
    logits, loss, _ = text_grads(cfg, head, params, batch, head.targets(batch))
    assert logits.dtype == jnp.float32
    expected = reference.text_logits(cfg, head.name, params, batch)
    real = ~np.isnan(expected)
    np.testing.assert_allclose(logits[real], expected[real], atol=NSP, rtol=0)
    expected_loss = reference.text_loss(head.name, expected, head.targets(batch))
    np.testing.assert_allclose(loss, expected_loss, rtol=LOSS)


def test_gradients_of_heads_over_texts_match_slopes_of_the_reference(
    tiny, make_classify_batch, text_head
):
    cfg, head = tiny, text_head
    params, batch = random_head(cfg, head), make_classify_batch()
    targets = head.targets(batch)
    *_, grads = text_grads(cfg, head, params, batch, targets)
    rng = np.random.default_rng(0)

    def function(params):
        logits = reference.text_logits(cfg, head.name, params, batch)
        return reference.text_loss(head.name, logits, targets)

    for path, grad in reference.flatten(grads).items():
        direction = rng.normal(size=grad.shape)
        slope = reference.slope(function, params, path, direction)
        error = abs(np.vdot(np.asarray(grad, np.float64), direction) - slope)
        assert error <= 3e-5 * np.linalg.norm(grad) + NOTHING, (path, error)


def test_bfloat16_stays_near_the_reference(
    tiny, random_params, make_batch, make_masked
):
    params, batch = random_params(tiny), make_batch()
    masked = make_masked(batch)
    bfloat16 = ComputeConfig(dtype="bfloat16")
    actual = apply(tiny, params, batch, masked, compute=bfloat16)
    expected = reference.pretrain(tiny, params, batch, masked)
    real = batch.sequence_ids > 0
    assert {x.dtype for x in actual} == {jnp.dtype(jnp.float32)}
    error = np.abs(actual.hidden[real] - expected.hidden[real])
    # Rounding to 8 bits in every product: mean error 8e-3 in the worst of 20 draws.
    assert 1e-4 < error.mean() < 2e-2


def test_the_pretraining_heads_do_not_drop(
    tiny, random_params, make_batch, make_masked
):
    params, batch = random_params(tiny), make_batch()
    masked = make_masked(batch)
    actual = apply(tiny, params, batch, masked, key=jax.random.key(0))
    expected = reference.heads(tiny, params, actual.hidden, batch, masked)
    np.testing.assert_allclose(actual.pooled, expected.pooled, atol=POOLED, rtol=0)
    np.testing.assert_allclose(actual.nsp_logits, expected.nsp_logits, atol=NSP, rtol=0)
    np.testing.assert_allclose(
        actual.mlm_logits[..., : tiny.vocab_size],
        expected.mlm_logits,
        atol=MLM,
        rtol=0,
    )


# Isolation: packed rows and padding.


def unpack(batch: PretrainBatch, masked) -> tuple:
    """The same sequences and masks, one sequence a row, each from position 0."""
    rows = []
    for b in range(len(batch.input_ids)):
        for p in range(int(batch.sequence_ids[b].max())):
            mine = batch.sequence_ids[b] == p + 1
            start = int(np.flatnonzero(mine)[0])
            slots = (masked.weights[b] > 0) & mine[masked.positions[b]]

            def shift(x, mine=mine):
                """This sequence's tokens to the front, then zeros."""
                return np.pad(x[mine], (0, x.size - mine.sum()))

            def first(x, p=p):
                return np.pad(x[[p]], (0, x.size - 1))

            tokens = (shift(x[b]) for x in batch[1:4])
            pairs = (first(x[b]) for x in batch[5:])
            ids = shift(masked.input_ids[b])
            rows.append(
                (
                    PretrainBatch(ids, *tokens, np.zeros_like(batch[4][b]), *pairs),
                    masked._replace(
                        input_ids=ids,
                        positions=np.where(slots, masked.positions[b] - start, 0),
                        labels=masked.labels[b],
                        weights=np.where(slots, masked.weights[b], 0),
                    ),
                )
            )
    return jax.tree.map(lambda *x: np.stack(x).astype(x[0].dtype), *rows)


def test_packed_rows_equal_unpacked_rows(tiny, random_params, make_batch, make_masked):
    params, batch = random_params(tiny), make_batch(rows=3, pairs=3)
    masked = make_masked(batch)
    alone_batch, alone_masked = unpack(batch, masked)
    assert len(alone_batch.input_ids) == 6
    assert alone_masked.weights.sum() == masked.weights.sum()

    packed = apply(tiny, params, batch, masked)
    alone = apply(tiny, params, alone_batch, alone_masked)

    np.testing.assert_allclose(
        packed.hidden[batch.sequence_ids > 0],
        alone.hidden[alone_batch.sequence_ids > 0],
        atol=HIDDEN,
        rtol=0,
    )
    used = batch.nsp_weights > 0
    np.testing.assert_allclose(
        packed.nsp_logits[used], alone.nsp_logits[:, 0], atol=NSP, rtol=0
    )
    np.testing.assert_allclose(
        packed.mlm_logits[masked.weights > 0],
        alone.mlm_logits[alone_masked.weights > 0],
        atol=MLM,
        rtol=0,
    )
    packed_loss, packed_grads = loss_and_grads(tiny, params, batch, masked)
    alone_loss, alone_grads = loss_and_grads(tiny, params, alone_batch, alone_masked)
    np.testing.assert_allclose(packed_loss, alone_loss, rtol=LOSS)
    assert_trees_close(packed_grads, alone_grads, rtol=GRADS)


def test_changing_one_sequence_changes_no_other(
    tiny, random_params, make_batch, make_masked
):
    params, batch = random_params(tiny), make_batch()
    masked = make_masked(batch)
    other = (batch.sequence_ids == 2) & (np.arange(3)[:, None] == 0)
    noise = np.where(other, (masked.input_ids + 7) % tiny.vocab_size, masked.input_ids)
    before = apply(tiny, params, batch, masked)
    after = apply(tiny, params, batch, masked._replace(input_ids=noise))

    changed = (before.hidden != after.hidden).any(-1)
    np.testing.assert_array_equal(changed, other)
    pairs = np.zeros((3, 3), bool)
    pairs[0, 1] = True
    np.testing.assert_array_equal((before.pooled != after.pooled).any(-1), pairs)
    np.testing.assert_array_equal(
        (before.nsp_logits != after.nsp_logits).any(-1), pairs
    )
    slots = np.take_along_axis(other, masked.positions, axis=1)
    np.testing.assert_array_equal(
        (before.mlm_logits != after.mlm_logits).any(-1), slots
    )


def test_padding_never_reaches_real_tokens(
    tiny, random_params, make_batch, make_masked
):
    params, batch = random_params(tiny), make_batch()
    masked = make_masked(batch)
    real = batch.sequence_ids > 0
    assert not real.all(), "the fixture has no padding to change"
    noisy_batch = batch._replace(
        segment_ids=np.where(real, batch.segment_ids, 1),
        position_ids=np.where(real, batch.position_ids, 9),
    )
    noisy_masked = masked._replace(input_ids=np.where(real, masked.input_ids, 7))

    before = apply(tiny, params, batch, masked)
    after = apply(tiny, params, noisy_batch, noisy_masked)

    np.testing.assert_array_equal(before.hidden[real], after.hidden[real])
    assert (before.hidden[~real] != after.hidden[~real]).any()
    for name in ("pooled", "nsp_logits", "mlm_logits"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
    loss, grads = loss_and_grads(tiny, params, batch, masked)
    noisy_loss, noisy_grads = loss_and_grads(tiny, params, noisy_batch, noisy_masked)
    assert loss == noisy_loss
    assert_trees_close(noisy_grads, grads, rtol=GRADS)


def test_heads_over_texts_ignore_padding(tiny, make_classify_batch, text_head):
    params, batch = random_head(tiny, text_head), make_classify_batch()
    real, targets = batch.input_mask == 1, text_head.targets(batch)
    noise = np.where(real, batch.input_ids, 7)
    assert (noise != batch.input_ids).any()
    changed = batch._replace(input_ids=noise)
    before, loss, grads = text_grads(tiny, text_head, params, batch, targets)
    after, noisy_loss, noisy = text_grads(tiny, text_head, params, changed, targets)
    whole = np.s_[:] if before.ndim == 2 else real
    np.testing.assert_array_equal(before[whole], after[whole])
    assert loss == noisy_loss
    assert_trees_close(noisy, grads, rtol=GRADS)


def test_rows_of_padding_only_change_nothing(
    tiny, random_params, make_batch, make_masked
):
    batch = make_batch()
    masked, params = make_masked(batch), random_params(tiny)
    loss, grads = loss_and_grads(tiny, params, batch, masked)

    def pad(x):
        return np.concatenate([x, np.zeros_like(x)])

    padded = jax.tree.map(pad, (batch, masked))
    padded_loss, padded_grads = loss_and_grads(tiny, params, *padded)
    np.testing.assert_allclose(padded_loss, loss, rtol=LOSS)
    assert_trees_close(padded_grads, grads, rtol=GRADS)


def test_the_angles_of_rotary_positions_are_worked_out_once(make_batch, make_masked):
    """XLA for CPU would put a cosine into every layer, head and backward pass."""
    cfg = modernbert_config("small", vocab_size=61, num_layers=4)
    batch = make_batch()
    masked = make_masked(batch)
    params = pretraining.init_params(cfg, jax.random.key(0))

    def loss(params):
        outputs = pretraining.apply(cfg, params, batch, masked)
        return pretrain_loss(outputs, batch, masked, has_labels=False)[0]

    program = jax.jit(jax.grad(loss)).lower(params).compile().as_text()
    num_kinds = len({cfg.reach(layer) for layer in range(cfg.num_layers)})
    assert program.count(" cosine(") == num_kinds
