"""Examples of several rows: batches, work, ids, dropout and devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_tokenizers import wordpiece

from bert_jax.batch import ClassifyBatch
from bert_jax.config import (
    ComputeConfig,
    DropoutConfig,
    FinetuneConfig,
    MeshConfig,
    TaskConfig,
)
from bert_jax.data.labelled.groups import encode_groups
from bert_jax.data.labelled.lengths import epoch_batches
from bert_jax.limits import check_ids
from bert_jax.model import sentence_embedding
from bert_jax.model.encoder import init_encoder
from bert_jax.model.groups import folded
from bert_jax.model.text_heads import CHOICE, CLASSIFIER
from bert_jax.train.accumulation import mean_gradients
from bert_jax.train.flops import Work, text_work
from bert_jax.train.logits import BatchedLogits
from bert_jax.train.mesh import make_mesh
from bert_jax.train.objectives import task_objective
from bert_jax.train.placement import global_batch
from bert_jax.train.sharding import on_mesh
from bert_jax.train.tasks import TASKS, task_of


@pytest.fixture(scope="module")
def words():
    return wordpiece(*(f"w{n}" for n in range(56)))


@pytest.fixture(scope="module")
def small(tiny):
    return dataclasses.replace(tiny, num_layers=1)


def jitted(apply, cfg, **options):
    return jax.jit(functools.partial(apply, cfg, **options))


def text(length, first=0):
    return " ".join(f"w{(first + n) % 56}" for n in range(length))


@pytest.fixture(scope="module")
def encoded(words):
    """Eight groups of three pairs, but the fifth has two; rows of 6 to 20 tokens."""
    groups = [
        [(text(2, n), text(1 + (5 * n + 3 * g) % 14, 7 * g)) for g in range(3)]
        for n in range(8)
    ]
    groups[4].pop()
    return encode_groups(words, groups, np.arange(8, dtype=np.int32) % 2, 20)


@pytest.fixture(scope="module")
def batch(encoded):
    return encoded.batch(np.arange(8), 8)


def test_groups_are_rows_with_an_axis_of_their_own(encoded, words):
    assert encoded.input_ids.shape == (8, 3, 20)
    assert encoded.input_ids[1, 2, :4].tolist() == [2, 6, 7, 3]
    assert not encoded.input_mask[4, 2].any()
    lengths = encoded.input_mask.sum(axis=2)
    assert encoded.num_tokens.tolist() == lengths.max(axis=1).tolist()


def test_a_batch_is_cut_to_the_longest_row_of_its_groups(encoded):
    lengths = np.array([17, 20])
    batches = epoch_batches(encoded.num_tokens, lengths, 2, seed=0, epoch=0)
    assert set(batches.lengths) == {17, 20}
    for numbers, length in zip(*batches, strict=True):
        batch = encoded.batch(numbers, 2, length)
        assert batch.input_ids.shape == (2, 3, length)
        assert batch.input_mask.sum() == encoded.input_mask[numbers].sum()
    filled = encoded.batch(np.array([3]), 4)
    assert filled.weights.tolist() == [1, 0, 0, 0]
    np.testing.assert_array_equal(filled.input_ids[2], encoded.input_ids[3])


def test_work_counts_rows_and_examples(batch):
    lengths = np.asarray(batch.input_mask).sum(axis=2)
    work = jax.jit(text_work)(batch._replace(weights=np.float32([1] * 7 + [0])))
    own = lengths[:7]
    assert work == Work(own.sum(), (own * own).sum(), 20.0, 0.0, examples=7.0)


def test_ids_of_groups_are_checked(tiny, batch):
    check_ids(tiny, batch)
    wrong = batch.input_ids.copy()
    wrong[5, 1, 3] = 61
    with pytest.raises(ValueError, match=r"input_ids\[5, 1, 3\]=61 is not in"):
        check_ids(tiny, batch._replace(input_ids=wrong))
    with pytest.raises(ValueError, match="rows of 25 tokens"):
        check_ids(tiny, ClassifyBatch(*[np.zeros((2, 3, 25), np.int32)] * 5))


def test_choices_score_as_each_row_alone(small, batch):
    init = jax.jit(functools.partial(CHOICE.init_params, small, 0))
    params = init(jax.random.key(0))
    assert params.keys() == {"embed", "layers", "pooler", "choice"}
    logits = jitted(CHOICE.apply, small)(params, batch)
    assert logits.shape == (8, 3)
    assert logits[4, 2] == -1e9
    alone = {**params, "classifier": params["choice"]}
    rows = ClassifyBatch(*(x[:, 1] for x in batch[:3]), None, None)
    expected = jitted(CLASSIFIER.apply, small)(alone, rows)[:, 0]
    np.testing.assert_allclose(logits[:, 1], expected, atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_are_those_of_each_text_alone(small, batch, pooling):
    params = encoder_params(small)
    apply = jitted(sentence_embedding.apply, small, pooling=pooling)
    found = apply(params, batch)
    assert found.shape == (8, 3, small.hidden_size)
    length = int(batch.input_mask[2, 1].sum())
    row = ClassifyBatch(*(x[2, 1][None, :length] for x in batch[:3]), None, None)
    alone = apply(params, row)
    assert alone.shape == (1, small.hidden_size)
    np.testing.assert_allclose(found[2, 1], alone[0], atol=1e-5)


def encoder_params(cfg):
    return jax.jit(functools.partial(init_encoder, cfg))(jax.random.key(1))


def test_every_row_has_a_dropout_of_its_own(batch):
    rows, keys = folded(batch, jax.random.key(3))
    assert rows.input_ids.shape == (24, 20)
    words = jax.random.key_data(keys).tolist()
    assert len({tuple(x) for x in words}) == 24
    # The keys of a group are those of the group alone, wherever it stands.
    half = jax.tree.map(lambda x: x[4:], batch)
    own = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    _, same = folded(half, own(jax.random.key(3), jnp.arange(4, 8)))
    assert jax.random.key_data(same).tolist() == words[12:]
    assert folded(batch, None)[1] is None


@pytest.mark.slow(ci=False)
@pytest.mark.parametrize("kind", ["choice", "embeddings"])
def test_four_devices_compute_what_one_does(small, batch, kind):
    """The loss over the batch and its gradients, dropout included."""
    task = task_of(FinetuneConfig(task=TaskConfig(kind=kind)))
    init = jax.jit(functools.partial(task.init_params, small, 2))
    params = init(jax.random.key(0))
    objective = task_objective(task, small, ComputeConfig(), DropoutConfig())

    def of(devices):
        mesh = make_mesh(MeshConfig(data=devices), jax.devices()[:devices])

        def run(params, batch):
            with on_mesh(mesh):
                rows = objective.prepare(batch, jax.random.key(5), 0)
                return mean_gradients(objective, params, rows)

        return jax.device_get(jax.jit(run)(params, global_batch(mesh, batch)))

    (one, gradients), (four, gradients_4) = of(1), of(4)
    assert one["loss"].sum > 0.0
    np.testing.assert_allclose(four["loss"].sum, one["loss"].sum, rtol=1e-5)
    for x, y in zip(*map(jax.tree.leaves, (gradients, gradients_4)), strict=True):
        np.testing.assert_allclose(y, x, atol=1e-5 * max(1e-3, abs(x).max()))


def test_logits_of_groups_come_back_in_order(small, encoded):
    task = TASKS["embeddings"]
    params = encoder_params(small)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    found = BatchedLogits(task, small, ComputeConfig(), mesh, 3)(params, encoded)
    expected = jitted(task.apply, small)(params, encoded.batch(np.arange(8), 8))
    np.testing.assert_allclose(found, expected, atol=1e-5)
