"""Fresh parameters: shapes as documented, sizes as published, values as BERT drew them."""

import dataclasses
import functools
import math
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx

from bert_jax import family
from bert_jax.config import ModelConfig
from bert_jax.family import model_config
from bert_jax.model import pretraining
from bert_jax.model.layers import Keys
from bert_jax.train import sharding

init_pretraining = jax.jit(pretraining.init_params, static_argnums=0)


def assert_as_documented(params: dict, expected: dict) -> None:
    flat = reference.flatten(params)
    assert {x.dtype for x in flat.values()} == {jnp.dtype(jnp.float32)}
    shapes = {path: x.shape for path, x in flat.items()}
    assert shapes == reference.flatten(expected)


def test_the_pretraining_tree_is_as_documented(tiny):
    params = init_pretraining(tiny, jax.random.key(0))
    assert_as_documented(params, reference.pretrain_shapes(tiny))


def test_keys_are_those_of_flax():
    ours, theirs = Keys(jax.random.key(3)), nnx.Rngs(jax.random.key(3))
    assert [ours.params() for _ in range(3)] == [theirs.params() for _ in range(3)]


def test_trees_of_heads_over_texts_are_as_documented(tiny, text_head):
    params = jax.eval_shape(lambda key: text_head.init(tiny, key), jax.random.key(0))
    shapes = reference.text_shapes(tiny, text_head.name, text_head.num_labels)
    assert_as_documented(params, shapes)
    sharding.param_specs(params)  # every one has a row in the table
    head = text_head.init(dataclasses.replace(tiny, num_layers=1), jax.random.key(1))
    assert np.asarray(head[text_head.name]["kernel"]).std() > 0


# (encoder with its pooler, and with both pretraining heads), uncased vocabulary. The
# first are published as 4.4, 11.2 (11.17), 28.8, 41.4, 110 (109.5) and 340 (335.1)
# million; transformers counts the same in test_parity_torch.py.
SIZES = {
    "tiny": (4_385_920, 4_433_468),
    "mini": (11_170_560, 11_267_900),
    "small": (28_763_648, 29_058_876),
    "medium": (41_373_184, 41_668_412),
    "base": (109_482_240, 110_106_428),
    "large": (335_141_888, 336_226_108),
}


@pytest.mark.parametrize("size", SIZES)
def test_published_models_have_the_published_size(size):
    cfg = model_config(size)
    init = functools.partial(pretraining.init_params, cfg)
    shapes = jax.eval_shape(init, jax.random.key(0))
    padding = cfg.padded_vocab_size - cfg.vocab_size
    shares = {
        name: sum(math.prod(x.shape) for x in jax.tree.leaves(part))
        for name, part in shapes.items()
    }
    shares["embed"] -= padding * cfg.hidden_size
    shares["mlm"] -= padding
    encoder = shares["embed"] + shares["layers"] + shares["pooler"]
    assert (encoder, encoder + shares["mlm"] + shares["nsp"]) == SIZES[size]


def test_the_family_is_complete():
    assert set(family.SIZES) == set(SIZES)
    assert model_config("base") == ModelConfig()
    for name in SIZES:
        cfg = model_config(name)
        assert cfg.mlp_size == 4 * cfg.hidden_size
        assert cfg.head_size == 64
        assert cfg.vocab_size == 30_522
    assert model_config("tiny", vocabulary="cased").vocab_size == 28_996
    multilingual = model_config("base", vocabulary="multilingual-cased")
    assert multilingual.vocab_size == 119_547


def test_sizes_can_be_changed():
    cfg = model_config("mini", vocab_size=999, hidden_size=512, gelu="exact")
    assert (cfg.vocab_size, cfg.hidden_size, cfg.mlp_size) == (999, 512, 2_048)
    assert (cfg.num_layers, cfg.num_heads, cfg.gelu) == (4, 4, "exact")
    assert model_config("mini", mlp_size=64).mlp_size == 64


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("smal", {}, r"no BERT size 'smal'.*tiny, mini.*mean 'small'"),
        ("tiny", {"vocabulary": "casd"}, r"no vocabulary 'casd'.*mean 'cased'"),
        ("tiny", {"num_layer": 3}, r"no ModelConfig field 'num_layer'.*'num_layers'"),
        ("tiny", {"num_heads": 3}, r"hidden_size=128.*num_heads=3"),
    ],
)
def test_sizes_that_do_not_exist_are_refused(name, changes, message):
    with pytest.raises(ValueError, match=message):
        model_config(name, **changes)


@pytest.mark.parametrize("size", SIZES)
def test_every_size_has_its_config_file(size):
    folder = pathlib.Path(__file__).parents[1] / "configs"
    config = runpy.run_path(str(folder / f"bert_{size}.py"))["get_config"]()
    expected = model_config(size)
    for field in ("hidden_size", "num_layers", "num_heads", "mlp_size", "vocab_size"):
        assert getattr(config.model, field) == getattr(expected, field)
    text = (folder / f"bert_{size}.py").read_text()
    assert f"--config bert_{size} " in text


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
            if path == "embed/token/embedding":
                assert not x[cfg.vocab_size :].any()
                x = x[: cfg.vocab_size]
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
