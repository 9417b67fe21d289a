"""Gradients that bert_jax writes itself: what the forward pass keeps for them, and in which type they are summed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bert_jax.config import ComputeConfig, DropoutConfig
from bert_jax.model.dropout import Dropout
from bert_jax.model.layer import MlpBlock
from bert_jax.model.layers import Keys
from bert_jax.model.logical import Placement, placed
from bert_jax.model.norms import Norm
from bert_jax.model.pretraining import apply
from bert_jax.train.losses import pretrain_loss

NORMS = {
    "layer norm": {},
    "layer norm without bias": {"norm_bias": False},
    "RMS norm": {"norm": "rms"},
}


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def one_device(platform: str):
    """Traces the model as for one device of that platform."""
    return placed(
        Placement(
            constrain=lambda x, axes: x,
            shard_mapped=lambda function, in_axes, out_axes: function,
            num_parts=lambda axis: 1,
            platform=platform,
            num_devices=1,
        )
    )


def num_kept(function, *args, size: int) -> int:
    """How many arrays of at least `size` numbers the backward pass of `function` gets."""
    _, vjp = jax.vjp(function, *args)
    return sum(leaf.size >= size for leaf in jax.tree.leaves(vjp))


def pure(module):
    """(function of parameters and arguments, parameters drawn at random)."""
    graph, state = nnx.split(module)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(1.0, 0.5, x.shape), x.dtype), state
    )
    return lambda params, *args: nnx.merge(graph, params)(*args), params


@pytest.mark.parametrize("changes", NORMS.values(), ids=NORMS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_norm_is_that_of_flax_and_keeps_its_input_alone(tiny, changes, dtype, rng):
    cfg = dataclasses.replace(tiny, **changes)
    norm, params = pure(Norm(cfg, keys=Keys(jax.random.key(0))))
    options = {"epsilon": cfg.layer_norm_eps, "dtype": jnp.float32, "rngs": nnx.Rngs(0)}
    plain, plain_params = pure(
        nnx.RMSNorm(32, **options)
        if cfg.norm == "rms"
        else nnx.LayerNorm(
            32, use_bias=cfg.norm_bias, use_fast_variance=False, **options
        )
    )
    x = jnp.asarray(rng.normal(3.0, 2.0, (3, 5, 32)), dtype)
    d_y = jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    y, vjp = jax.vjp(norm, params, x)
    expected, plain_vjp = jax.vjp(plain, plain_params, x)
    np.testing.assert_array_equal(y, expected)
    assert y.dtype == jnp.float32
    found, theirs = (jax.tree.leaves(back(d_y)) for back in (vjp, plain_vjp))
    assert [leaf.dtype for leaf in found] == [leaf.dtype for leaf in theirs]
    rounding = 2e-2 if dtype == "bfloat16" else 2e-5
    for one, other in zip(found, theirs, strict=True):
        one, other = (np.asarray(leaf, np.float32) for leaf in (one, other))
        np.testing.assert_allclose(one, other, rtol=rounding, atol=rounding)
    assert num_kept(norm, params, x, size=x.size) == 1


@pytest.mark.parametrize(("mlp", "kept"), [("gelu", 1), ("geglu", 2), ("swiglu", 2)])
def test_feed_forward_layers_keep_what_their_products_made(tiny, mlp, kept, rng):
    cfg = dataclasses.replace(tiny, mlp=mlp, mlp_size=4 * 48)
    block, params = pure(MlpBlock(cfg, ComputeConfig(), keys=Keys(jax.random.key(0))))
    x = jnp.asarray(rng.normal(size=(16, 8, 32)), jnp.float32)
    dropout = Dropout.of(DropoutConfig(hidden=0.0), None, 16)
    gradients = []
    for platform in ("tpu", "cpu"):
        with one_device(platform):

            def run(params, x):
                return block(params, x, dropout)

            if platform == "tpu":
                assert num_kept(run, params, x, size=x.size // 32 * 192) == kept
            gradients.append(
                jax.grad(lambda *args: run(*args).sum(), (0, 1))(params, x)
            )
    for one, other in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def steps_of(jaxpr):
    """All equations of a program, those of its parts too."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in jax.tree.leaves(list(eqn.params.values())):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from steps_of(inner)


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_bfloat16_is_multiplied_by_itself_and_summed_in_float32(
    tiny, platform, random_params, make_batch, make_masked
):
    """XLA for GPUs does as written: float32 factors at half the speed, sums of bfloat16."""
    batch = make_batch()
    masked = make_masked(batch)

    def loss(params):
        outputs = apply(
            tiny,
            params,
            batch,
            masked,
            compute=ComputeConfig(dtype="bfloat16", attention="xla"),
            dropout=DropoutConfig(),
            key=jax.random.key(0),
        )
        return pretrain_loss(outputs, batch, masked)[0]

    with one_device(platform):
        program = jax.make_jaxpr(jax.grad(loss))(random_params(tiny))
    factors, sums = set(), set()
    for eqn in steps_of(program.jaxpr):
        if eqn.primitive.name == "dot_general":
            factors |= {x.aval.dtype for x in eqn.invars}
        elif eqn.primitive.name in ("reduce_sum", "cumsum", "scatter-add"):
            sums |= {x.aval.dtype for x in eqn.outvars}
    assert factors == {jnp.dtype("bfloat16")}
    assert jnp.dtype("float32") in sums
    assert jnp.dtype("bfloat16") not in sums
