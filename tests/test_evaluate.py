"""Held-out losses: the same rows, the same masks, whatever they are judged in."""

import dataclasses

import jax
import numpy as np
import pytest
from store_rows import rows_of_store

from bert_jax.config import (
    DataConfig,
    MaskingConfig,
    MeshConfig,
    OptimizerConfig,
    PretrainConfig,
)
from bert_jax.model import pretraining
from bert_jax.train.held_out import PretrainEvaluator, fixed_masks
from bert_jax.train.mesh import make_mesh


@pytest.fixture(scope="module")
def judge(tiny, vocabulary, special, make_store):
    """judge(batch size, masking, devices) -> held-out means of one model."""
    rng = np.random.default_rng(0)
    documents = [[int(n) for n in rng.integers(2, 7, 6)] for _ in range(40)]
    store = make_store(documents)
    store = store._replace(tokens=store.tokens % (tiny.vocab_size - 5) + 5)
    data = DataConfig(sequence_length=24, layout="padded")
    rows = rows_of_store(store, data, special, seed=3)
    model = dataclasses.replace(tiny, num_layers=1)
    params = pretraining.init_params(model, jax.random.key(0))

    def run(batch_size, unit="token", devices=1):
        cfg = PretrainConfig(
            model=model,
            data=data,
            masking=MaskingConfig(unit=unit),
            optimizer=OptimizerConfig(warmup_steps=1),
            batch_size=batch_size,
            eval_batches=1_000,
            num_steps=2,
        )
        mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
        return PretrainEvaluator(cfg, {"text": rows}, vocabulary, mesh)(params)

    return run


@pytest.mark.slow(ci=False)
@pytest.mark.parametrize("unit", ["token", "span"])
def test_masks_do_not_depend_on_the_size_of_a_batch(judge, unit):
    small, large = judge(4, unit), judge(16, unit)
    assert small == pytest.approx(large, rel=1e-5)
    assert judge(16, unit, devices=8) == pytest.approx(large, rel=1e-5)


@pytest.mark.slow(ci=False)
def test_every_row_has_masks_of_its_own(make_batch, vocabulary):
    row = make_batch(rows=1)
    same = jax.tree.map(lambda x: np.repeat(x, 8, axis=0), row)
    masked = fixed_masks(MaskingConfig(rate=0.5), same, vocabulary, 0)
    assert len(np.unique(np.asarray(masked.positions), axis=0)) > 4
    later = fixed_masks(MaskingConfig(rate=0.5), row, vocabulary, 5)
    np.testing.assert_array_equal(later.positions[0], masked.positions[5])
