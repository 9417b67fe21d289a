"""Ids outside their tables are refused: on the host, in direct calls, in the loops."""

import dataclasses
import functools
import time
import types

import jax
import numpy as np
import optax
import pytest
import reference

from bert_jax.batch import ClassifyBatch
from bert_jax.config import (
    ComputeConfig,
    DataConfig,
    LoopConfig,
    MeshConfig,
    OptimizerConfig,
    PretrainConfig,
)
from bert_jax.data.labelled.examples import EncodedExamples
from bert_jax.limits import check_ids, check_range
from bert_jax.model import pretraining
from bert_jax.model.text_heads import CLASSIFIER
from bert_jax.train import held_out
from bert_jax.train.logits import BatchedLogits
from bert_jax.train.loop import Stage, run_loop
from bert_jax.train.losses import pretrain_loss
from bert_jax.train.mesh import make_mesh
from bert_jax.train.optimizer import make_optimizer
from bert_jax.train.runs.checkpoint import Identity
from bert_jax.train.schedules import make_schedule
from bert_jax.train.tasks import TASKS

PRETRAIN = [
    ("input_ids", 61, r"PretrainBatch\.input_ids\[1, 3\]=61 .*\[0, 61\).*vocab_size"),
    ("input_ids", -1, r"input_ids\[1, 3\]=-1 "),
    ("segment_ids", 2, r"segment_ids\[1, 3\]=2 .*\[0, 2\).*num_segments"),
    ("segment_ids", -1, r"segment_ids\[1, 3\]=-1 "),
    ("position_ids", 24, r"position_ids\[1, 3\]=24 .*\[0, 24\).*max_positions"),
    ("position_ids", -2, r"position_ids\[1, 3\]=-2 "),
    ("cls_positions", 24, r"cls_positions\[1, 2\]=24 .*\[0, 24\)"),
    ("nsp_labels", 2, r"nsp_labels\[1, 2\]=2 .*\[0, 2\)"),
    ("nsp_labels", -100, r"nsp_labels\[1, 2\]=-100 "),
]
CLASSIFY = [
    ("input_ids", 61, r"ClassifyBatch\.input_ids\[1, 3\]=61 "),
    ("segment_ids", 2, r"ClassifyBatch\.segment_ids\[1, 3\]=2 "),
]


def spoilt(batch, field: str, value: int):
    """One entry of row 1 changed: column 3, or the last where there are fewer."""
    array = getattr(batch, field).copy()
    place = (1, min(3, array.shape[1] - 1)) if array.ndim == 2 else 1
    assert array[place] != value
    array[place] = value
    return batch._replace(**{field: array})


def head_params(cfg, head) -> dict:
    shapes = reference.text_shapes(cfg, head.name, head.num_labels)
    return reference.random_params(shapes)


@pytest.mark.parametrize(("field", "value", "message"), PRETRAIN)
def test_pretraining_batches_are_checked(tiny, make_batch, field, value, message):
    batch = make_batch()
    check_ids(tiny, batch)
    with pytest.raises(ValueError, match=message):
        check_ids(tiny, spoilt(batch, field, value))


@pytest.mark.parametrize(("field", "value", "message"), CLASSIFY)
def test_labelled_batches_are_checked(tiny, make_classify_batch, field, value, message):
    batch = make_classify_batch()
    check_ids(tiny, batch)
    with pytest.raises(ValueError, match=message):
        check_ids(tiny, spoilt(batch, field, value))


def test_the_ends_of_every_range_are_allowed(tiny, make_batch):
    batch = make_batch()
    for field, last in (("input_ids", 60), ("segment_ids", 1), ("position_ids", 23)):
        x = getattr(batch, field).copy()
        x[0, :2] = 0, last
        check_ids(tiny, batch._replace(**{field: x}))


def test_other_things_are_refused(tiny, make_batch):
    with pytest.raises(TypeError, match="dict is neither"):
        check_ids(tiny, {"input_ids": make_batch().input_ids})
    with pytest.raises(ValueError, match=r"30 tokens.*max_positions=24"):
        check_ids(tiny, make_batch(length=30))


def test_one_value_may_be_allowed_beside_the_range():
    check_range("labels", np.zeros((0, 4), np.int32), 3, "classes")


# Lengths are known while tracing.

LONG = r"30\b.*max_positions=24"


def test_rows_longer_than_the_position_table_are_refused(
    tiny, random_params, make_batch, make_masked
):
    batch = make_batch(length=30)
    with pytest.raises(ValueError, match=LONG):
        pretraining.apply(tiny, random_params(tiny), batch, make_masked(batch))


def test_texts_longer_than_the_position_table_are_refused(
    tiny, make_classify_batch, text_head
):
    short = make_classify_batch()
    wide = (np.pad(x, ((0, 0), (0, 10))) for x in short[:3])
    with pytest.raises(ValueError, match=LONG):
        text_head.apply(
            tiny, head_params(tiny, text_head), ClassifyBatch(*wide, *short[3:])
        )


# Direct calls: values are seen where they are known.

IDS = [row for row in PRETRAIN if row[0] != "nsp_labels"]


@pytest.mark.parametrize("place", [np.asarray, jax.numpy.asarray], ids=["np", "jax"])
@pytest.mark.parametrize(("field", "value", "message"), IDS)
def test_direct_calls_are_checked(
    tiny, random_params, make_batch, make_masked, field, value, message, place
):
    batch = spoilt(make_batch(), field, value)
    masked = make_masked(make_batch())
    if field == "input_ids":
        masked = masked._replace(input_ids=batch.input_ids)
    batch, masked = jax.tree.map(place, (batch, masked))
    with pytest.raises(ValueError, match=message.replace(r"PretrainBatch\.", "")):
        pretraining.apply(tiny, random_params(tiny), batch, masked)


def test_masked_positions_are_checked(tiny, random_params, make_batch, make_masked):
    batch = make_batch()
    masked = spoilt(make_masked(batch), "positions", 24)
    with pytest.raises(ValueError, match=r"positions\[1, 3\]=24 .*\[0, 24\)"):
        pretraining.apply(tiny, random_params(tiny), batch, masked)


def test_texts_are_checked(tiny, make_classify_batch, text_head):
    params = head_params(tiny, text_head)
    batch = spoilt(make_classify_batch(), "input_ids", 61)
    with pytest.raises(ValueError, match=r"input_ids\[1, 3\]=61 "):
        text_head.apply(tiny, params, batch)
    # Closed over, the ids are known while the function is traced.
    with pytest.raises(ValueError, match=r"input_ids\[1, 3\]=61 "):
        jax.jit(lambda p: text_head.apply(tiny, p, batch))(params)


@pytest.mark.slow(ci=False)
def test_traced_ids_are_let_through(tiny, make_classify_batch):
    params = reference.random_params(reference.classifier_shapes(tiny, 3))
    batch = make_classify_batch()

    def apply(batch):
        return CLASSIFIER.apply(tiny, params, batch)

    expected = apply(batch)
    assert jax.eval_shape(apply, batch).shape == expected.shape
    one_by_one = jax.tree.map(lambda x: x[:, None], batch)
    scanned = jax.lax.map(apply, one_by_one)[:, 0]
    mapped = jax.vmap(apply)(one_by_one)[:, 0]
    for found in (jax.jit(apply)(batch), scanned, mapped):
        np.testing.assert_allclose(found, expected, atol=1e-5)


# The loops.


def test_held_out_batches_are_checked(tiny, make_batch, vocabulary, monkeypatch):
    bad = spoilt(make_batch(), "input_ids", 61)
    monkeypatch.setattr(held_out, "evaluation_batches", lambda *a, **k: iter([bad]))
    cfg = PretrainConfig(model=tiny, data=DataConfig(sequence_length=24))
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    judge = held_out.PretrainEvaluator(cfg, {"text": None}, vocabulary, mesh)
    with pytest.raises(ValueError, match=r"input_ids\[1, 3\]=61 "):
        judge({})
    with pytest.raises(ValueError, match=r"input_ids\[1, 3\]=61 "):
        held_out.mask_examples(cfg, {}, None, None)


def test_training_batches_are_checked(tiny, make_batch, tmp_path):
    bad = spoilt(make_batch(), "input_ids", 61)

    def never(*args):
        raise AssertionError("the batch went on to the step")

    stage = Stage(
        num_steps=1,
        step=never,
        batches=lambda first: iter([bad]),
        evaluate=never,
        rates={},
        flops=None,
        check=functools.partial(check_ids, tiny),
    )
    with pytest.raises(ValueError, match=r"input_ids\[1, 3\]=61 "):
        run_loop(
            run=tmp_path,
            identity=Identity(tiny, "0"),
            cfg=LoopConfig(),
            mesh=make_mesh(MeshConfig(), jax.devices()[:1]),
            stages=[stage],
            make_state=lambda: types.SimpleNamespace(step=0),
            abstract=None,
            show=str,
            learning_rate=never,
            began=time.time(),
        )


def test_labelled_rows_are_checked(tiny, make_classify_batch):
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    batch = spoilt(make_classify_batch(), "input_ids", 61)
    rows = EncodedExamples(*batch[:4], example=np.arange(3))
    forward = BatchedLogits(TASKS["classification"], tiny, ComputeConfig(), mesh, 3)
    with pytest.raises(ValueError, match=r"input_ids\[\d, 3\]=61 "):
        forward({}, rows)


# Rows of the token table that no id may name.


@pytest.mark.slow(ci=False)
def test_vocabulary_padding_is_zero_and_stays_zero(tiny, make_batch, make_masked):
    tiny = dataclasses.replace(tiny, num_layers=1)
    params = pretraining.init_params(tiny, jax.random.key(0))
    settings = OptimizerConfig(learning_rate=1e-2, warmup_steps=0)
    optimizer = make_optimizer(settings, make_schedule(settings, 10))

    @jax.jit
    def step(params, state, batch, masked, key):
        def loss(params):
            outputs = pretraining.apply(tiny, params, batch, masked, key=key)
            return pretrain_loss(outputs, batch, masked)[0]

        grads = jax.grad(loss)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def table(params):
        return np.asarray(params["embed"]["token"]["embedding"])

    first, state = table(params), optimizer.init(params)
    for n in range(4):
        assert table(params).shape[0] == 128
        assert not table(params)[tiny.vocab_size :].any()
        assert not np.asarray(params["mlm"]["output_bias"])[tiny.vocab_size :].any()
        batch = make_batch(seed=n)
        masked = make_masked(batch, seed=n)
        params, state = step(params, state, batch, masked, jax.random.key(n))
    assert not table(params)[tiny.vocab_size :].any()
    assert (table(params) != first)[: tiny.vocab_size].any(axis=1).all()
    moments = [x for x in jax.tree.leaves(state) if x.shape == first.shape]
    assert len(moments) == 2
    assert not any(np.asarray(x)[tiny.vocab_size :].any() for x in moments)
