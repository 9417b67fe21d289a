import dataclasses
import functools
import itertools
import math
import types

import jax
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from bert_jax.config import ComputeConfig, LoopConfig, OptimizerConfig
from bert_jax.model import pretraining
from bert_jax.model.attention_xla import block_of
from bert_jax.model.pretraining import init_params
from bert_jax.train.flops import (
    Work,
    counted_flops,
    pairs_in_window,
    peak_flops,
    pretrain_work,
    speeds,
    text_work,
    train_flops,
)
from bert_jax.train.losses import pretrain_loss
from bert_jax.train.tasks import TASKS


def full_rows(make_batch, make_masked, cfg, rows, length):
    """Rows of one sequence without padding, and every masked slot in use."""
    batch = make_batch(rows=rows, length=length, pairs=1, vocab_size=cfg.vocab_size)
    whole = np.ones_like(batch.sequence_ids)
    masked = make_masked(batch)
    return (
        batch._replace(sequence_ids=whole),
        masked._replace(weights=np.ones_like(masked.weights)),
    )


def pretrain_grad(cfg, scan_layers):
    compute = ComputeConfig(scan_layers=scan_layers)

    def loss(params, batch, masked):
        return pretrain_loss(
            pretraining.apply(cfg, params, batch, masked, compute=compute),
            batch,
            masked,
            has_labels=cfg.next_sentence,
        )[0]

    return jax.grad(loss)


def product_flops(jaxpr) -> int:
    """FLOPs of every matrix product in a program, loops run to their end."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            left = eqn.invars[0].aval.shape
            depth = math.prod(left[axis] for axis in contracted)
            total += 2 * depth * eqn.outvars[0].aval.size
        times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        total += times * sum(map(product_flops, jaxprs_in_params(eqn.params)))
    return total


def traced_products(fn, *args) -> int:
    return product_flops(jax.make_jaxpr(fn)(*args).jaxpr)


# Of other families: gates, fewer heads of keys, no biases, other heads.
_OTHER = {
    "mlp": "geglu",
    "norm_position": "pre",
    "positions": "rotary",
    "num_segments": 0,
    "num_kv_heads": 2,
    "dense_bias": False,
    "next_sentence": False,
}


@pytest.mark.parametrize(
    ("scan_layers", "changes"),
    [(True, {}), (False, {}), (True, _OTHER), (True, {**_OTHER, "embed_size": 16})],
)
def test_they_are_the_matrix_products_of_the_traced_step(
    tiny, make_batch, make_masked, scan_layers, changes
):
    """To the last FLOP, on rows that are full: nothing computed there is useless.

    The vocabulary fills its table, whose padding would be computed and not counted.
    """
    cfg = dataclasses.replace(tiny, vocab_size=128, **changes)
    batch, masked = full_rows(make_batch, make_masked, cfg, rows=3, length=24)
    work = jax.jit(pretrain_work)(batch, masked.weights)
    params = jax.eval_shape(lambda: init_params(cfg, jax.random.key(0)))
    found = traced_products(pretrain_grad(cfg, scan_layers), params, batch, masked)
    assert found == train_flops(cfg, work)


def test_pairs_of_a_window_are_those_of_its_mask():
    for length, reach in itertools.product(range(1, 30), range(1, 12)):
        places = np.arange(length)
        visible = np.abs(places[:, None] - places) <= reach
        assert pairs_in_window(length, min(reach, length)) == visible.sum()


def test_blocks_compute_little_more_than_a_window_needs():
    """ModernBERT's window of 128, in rows of 8,192: within 1.3 times."""
    size, sides = block_of(64)
    needed = pairs_in_window(8_192, 64) / 8_192
    assert 1.0 < (2 * sides + 1) * size / needed < 1.3


@pytest.mark.parametrize("kind", ["classification", "tokens"])
def test_labelled_texts_have_a_formula_too(tiny, make_classify_batch, kind):
    task = TASKS[kind]
    batch = make_classify_batch()
    batch = batch._replace(input_mask=np.ones_like(batch.input_mask))
    if kind == "tokens":
        batch = batch._replace(labels=np.zeros_like(batch.input_mask))
    init = functools.partial(task.init_params, tiny, 3)
    params = jax.eval_shape(init, jax.random.key(0))

    def loss(params):
        return task.loss(task.apply(tiny, params, batch), batch)["loss"].value()

    products = traced_products(jax.grad(loss), params)
    work = jax.jit(text_work)(batch)
    assert products == train_flops(tiny, work, num_classes=3, pooled=task.pooled)


def test_the_compiler_counts_little_more(random_params, tiny, make_batch, make_masked):
    """XLA adds what is no product: norms, softmax, GELU, 1.3 % at this width.

    Such work grows with D where products grow with D^2, so it shrinks as models grow;
    fewer FLOPs than ours would mean that we count what nobody computes.
    """
    cfg = dataclasses.replace(tiny, vocab_size=1_024, hidden_size=256, mlp_size=1_024)
    batch, masked = full_rows(make_batch, make_masked, cfg, rows=4, length=24)
    shapes = jax.eval_shape(functools.partial(random_params, cfg))
    lowered = jax.jit(pretrain_grad(cfg, scan_layers=False)).lower(
        shapes, batch, masked
    )
    counted = lowered.cost_analysis()["flops"]
    ours = train_flops(cfg, jax.jit(pretrain_work)(batch, masked.weights))
    assert 1.0 < counted / ours < 1.03


def test_packed_rows_count_each_sequence_by_its_own_length(make_batch, make_masked):
    batch = make_batch(rows=5, length=60, pairs=4)
    masked = make_masked(batch, slots=3)
    work = jax.jit(pretrain_work)(batch, masked.weights)
    lengths = [
        (row == number).sum() for row in batch.sequence_ids for number in range(1, 5)
    ]
    assert work.tokens == sum(lengths) == (batch.sequence_ids > 0).sum()
    assert work.tokens < batch.sequence_ids.size
    assert work.attention_pairs == sum(n * n for n in lengths)
    assert work.sequences == np.count_nonzero(lengths) < 5 * 4
    assert work.masked_slots == masked.weights.sum() < masked.weights.size


def test_rows_that_fill_a_batch_up_are_no_work(make_classify_batch):
    batch = make_classify_batch()
    weights = np.array([1.0, 0.0, 1.0], np.float32)
    work = jax.jit(text_work)(batch._replace(weights=weights))
    # Of lengths 20, 13 and 5.
    assert work == Work(25.0, 425.0, 2.0, 0.0, examples=2.0)


def test_flops_of_many_steps_add_up(tiny):
    one = Work(100.0, 2_000.0, 3.0, 15.0)
    many = Work(*(7.0 * count for count in one))
    assert train_flops(tiny, many) == pytest.approx(7 * train_flops(tiny, one))


def test_frozen_parameters_save_work_that_nobody_counts(tiny):
    work = Work(100.0, 2_000.0, 3.0, 15.0)
    free = counted_flops(tiny, OptimizerConfig())
    assert free(work) == train_flops(tiny, work)
    assert counted_flops(tiny, OptimizerConfig(freeze=("embed",))) is None
    assert counted_flops(tiny, OptimizerConfig(freeze_layers=1)) is None


def devices_of(*kinds):
    devices = np.array([types.SimpleNamespace(device_kind=kind) for kind in kinds])
    return types.SimpleNamespace(devices=devices.reshape(-1, 1))


def test_the_peak_is_that_of_all_devices():
    two = devices_of("TPU v5 lite", "TPU v5 lite")
    assert peak_flops(two, LoopConfig()) == 2 * 197e12
    # Two devices share a chip.
    assert peak_flops(devices_of("TPU7x", "TPU7x"), LoopConfig()) == 2_307e12
    assert peak_flops(two, LoopConfig(peak_tflops=3.5)) == 7e12


def test_there_is_no_peak_with_a_device_that_is_not_known():
    assert peak_flops(devices_of("TPU v4", "cpu"), LoopConfig()) is None
    assert peak_flops(devices_of("cpu"), LoopConfig(peak_tflops=0.1)) == 1e11


def test_speeds_divide_by_the_time_and_the_peak():
    work = Work(100.0, 2_000.0, 3.0, 15.0)
    rates = {"tokens_per_sec": "tokens", "examples_per_sec": "sequences"}

    def flops(work):
        return 40 * work.tokens

    assert speeds(work, 4.0, rates, flops, 2_000.0) == {
        "tokens_per_sec": 25.0,
        "examples_per_sec": 0.75,
        "mfu": 0.5,
    }
    assert "mfu" not in speeds(work, 4.0, rates, None, 2_000.0)
    assert "mfu" not in speeds(work, 4.0, rates, flops, None)
    assert speeds(None, 4.0, rates, flops, 2_000.0) == {}
