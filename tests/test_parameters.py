"""Fresh parameters: shapes as documented, sizes as published, values as BERT drew them."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from bert_jax.config import ModelConfig
from bert_jax.model import classification, pretraining

init_pretraining = jax.jit(pretraining.init_params, static_argnums=0)
init_classifier = jax.jit(classification.init_params, static_argnums=(0, 1))


def test_parameter_trees_are_as_documented(tiny):
    key = jax.random.key(0)
    for expected, actual in (
        (reference.pretrain_shapes(tiny), init_pretraining(tiny, key)),
        (
            reference.classifier_shapes(tiny, 3),
            init_classifier(tiny, 3, key),
        ),
    ):
        actual = reference.flatten(actual)
        assert {x.dtype for x in actual.values()} == {jnp.dtype(jnp.float32)}
        shapes = {path: x.shape for path, x in actual.items()}
        assert shapes == reference.flatten(expected)


@pytest.mark.parametrize(
    ("cfg", "expected"),
    [
        (ModelConfig(), 110_106_428),
        # BERT-large: 335,141,888 of the encoder with its pooler, and the two heads.
        (
            ModelConfig(hidden_size=1_024, num_layers=24, num_heads=16, mlp_size=4_096),
            336_226_108,
        ),
    ],
    ids=["base", "large"],
)
def test_published_models_have_the_published_size(cfg, expected):
    init = functools.partial(pretraining.init_params, cfg)
    shapes = jax.eval_shape(init, jax.random.key(0))
    total = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
    padding = cfg.padded_vocab_size - cfg.vocab_size
    assert total - padding * (cfg.hidden_size + 1) == expected


def test_initial_distribution():
    cfg = ModelConfig(
        vocab_size=999,
        hidden_size=128,
        num_layers=2,
        num_heads=4,
        mlp_size=192,
        max_positions=64,
    )
    params = reference.flatten(init_pretraining(cfg, jax.random.key(0)))
    for path, x in params.items():
        if path.endswith("bias"):
            assert not x.any(), path
        elif path.endswith("scale"):
            assert (x == 1).all(), path
        else:
            # A normal cut at two deviations has 0.8796 of its deviation (closed form).
            # Five standard errors; the cut makes the fourth moment small, so sqrt(2n)
            # is on the safe side.
            std = 0.02 * 0.879626
            assert np.abs(x).max() <= 0.04 * (1 + 1e-6), path
            assert abs(x.std() / std - 1) < 5 / math.sqrt(2 * x.size), path
            assert abs(x.mean()) < 5 * std / math.sqrt(x.size), path


def test_every_tensor_and_layer_is_drawn_apart(tiny):
    params = reference.flatten(init_pretraining(tiny, jax.random.key(0)))
    again = reference.flatten(init_pretraining(tiny, jax.random.key(0)))
    other = reference.flatten(init_pretraining(tiny, jax.random.key(1)))
    seen = []
    for path, x in params.items():
        if path.endswith(("bias", "scale")):
            continue
        np.testing.assert_array_equal(x, again[path], path)
        assert (x != other[path]).any(), path
        seen += list(x) if path.startswith("layers/") else [x]
    starts = {tuple(np.ravel(x)[:8].tolist()) for x in seen}
    assert len(starts) == len(seen)
