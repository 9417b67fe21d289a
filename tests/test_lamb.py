"""LAMB has one trust ratio per layer, in a scan or in a row."""

import dataclasses

import jax
import numpy as np
import pytest
import reference_optimizers as reference

from bert_jax.config import (
    ComputeConfig,
    DataConfig,
    MeshConfig,
    OptimizerConfig,
    PretrainConfig,
)
from bert_jax.train.mesh import make_mesh
from bert_jax.train.optimizer import trust_ratio
from bert_jax.train.placement import to_devices
from bert_jax.train.program import pretrain_program

CFG = OptimizerConfig(name="lamb", learning_rate=0.02, warmup_steps=1)


def test_a_stacked_layer_has_the_ratio_of_its_own():
    rng = np.random.default_rng(0)
    # Norms that differ by layer: one ratio for all would be far off.
    scale = np.array([1.0, 3.0, 0.1, 7.0], np.float32).reshape(4, 1, 1, 1)
    weights = scale * rng.normal(size=(4, 6, 2, 3)).astype(np.float32)
    direction = rng.normal(size=weights.shape).astype(np.float32)
    weights[2] = 0.0
    direction[3] = 0.0
    ratios = trust_ratio(weights, direction, stacked=True)
    assert ratios.shape == (4, 1, 1, 1)
    for n in range(4):
        alone = trust_ratio(weights[n], direction[n], stacked=False)
        assert alone.shape == ()
        # Sums in another order: some units in the last place.
        np.testing.assert_allclose(ratios[n, 0, 0, 0], alone, rtol=1e-6)
    assert ratios[2:].ravel().tolist() == [1.0, 1.0]
    for n in range(2):
        expected = np.linalg.norm(weights[n]) / np.linalg.norm(direction[n])
        np.testing.assert_allclose(ratios[n, 0, 0, 0], expected, rtol=1e-6)


@pytest.mark.slow(ci=False)  # compiles two whole steps
def test_scanned_and_unrolled_layers_train_to_the_same_parameters(
    tiny, vocabulary, make_batch
):
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    ended = {}
    for scan in (True, False):
        cfg = PretrainConfig(
            model=dataclasses.replace(tiny, num_layers=2),
            compute=ComputeConfig(scan_layers=scan),
            data=DataConfig(sequence_length=24),
            optimizer=CFG,
            batch_size=4,
            num_steps=10,
        )
        program = pretrain_program(cfg, mesh, vocabulary)
        state = program.make_state()
        first = reference.by_layer(jax.device_get(state.params))
        for number in range(4):
            batch = make_batch(rows=4, seed=number)
            state, _ = program.step(state, to_devices(mesh, batch))
        ended[scan] = reference.by_layer(jax.device_get(state.params))
    for name, scanned in ended[True].items():
        # The same operations in the same order: not a bit differs.
        np.testing.assert_array_equal(scanned, ended[False][name], err_msg=name)
        if name.endswith("kernel"):
            assert np.abs(scanned - first[name]).max() > 5e-4, name
