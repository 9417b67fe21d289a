"""Loss, hits and gradients by chunks: those of whole logits, on one device and on many."""

import dataclasses
import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from bert_jax.config import (
    ComputeConfig,
    DropoutConfig,
    MaskingConfig,
    MeshConfig,
    OptimizerConfig,
)
from bert_jax.model import linear_cross_entropy as subject
from bert_jax.model import pretraining
from bert_jax.model.linear_cross_entropy import linear_cross_entropy, num_chunks
from bert_jax.model.logical import constrain
from bert_jax.model.rows import MASKED_SCORE
from bert_jax.topology.collectives import collectives_of
from bert_jax.topology.hlo import parse_hlo
from bert_jax.train import sharding
from bert_jax.train.losses import Mean, cross_entropy
from bert_jax.train.mesh import make_mesh
from bert_jax.train.objectives import pretrain_objective
from bert_jax.train.optimizer import make_optimizer
from bert_jax.train.placement import to_devices
from bert_jax.train.schedules import make_schedule
from bert_jax.train.step import abstract_state, compile_step, init_state

ROWS, SLOTS, WIDTH, VOCAB, REAL = 8, 7, 24, 128, 100
MESHES = (
    MeshConfig(data=2, fsdp=2, tensor=2),
    *(
        pytest.param(mesh, marks=pytest.mark.slow(ci=False))
        for mesh in (
            MeshConfig(data=8),
            MeshConfig(data=4, tensor=2),
            MeshConfig(data=1, fsdp=8),
        )
    ),
)


@pytest.fixture
def case():
    """(x, table, bias, labels, weights): ties, hits, a row and slots that weigh nothing."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, SLOTS, WIDTH))
    table = rng.normal(size=(VOCAB, WIDTH))
    bias = np.where(np.arange(VOCAB) < REAL, rng.normal(size=VOCAB), MASKED_SCORE)
    table[50:REAL], bias[50:REAL] = table[:50], bias[:50]  # each maximum is there twice
    weights = rng.integers(0, 3, (ROWS, SLOTS)) / 2.0
    weights[2] = 0.0
    best = (x @ table.T + bias).argmax(-1)
    labels = rng.integers(0, REAL, (ROWS, SLOTS))
    labels[:, ::2] = best[:, ::2]
    floats = (a.astype(np.float32) for a in (x, table, bias))
    return *floats, labels.astype(np.int32), weights.astype(np.float32)


@pytest.fixture
def in_chunks(monkeypatch):
    """in_chunks(n): from now on the logits of `case` are made in n chunks."""

    def set_bytes(chunks: int, parts: int = 1) -> None:
        slots = -(-SLOTS // chunks)
        monkeypatch.setattr(subject, "CHUNK_BYTES", 4 * slots * ROWS * VOCAB // parts)
        assert parts > 1 or num_chunks(ROWS, SLOTS, VOCAB) == chunks

    return set_bytes


def whole(dtype, x_BMD, table_VD, bias_V, labels_BM, weights_BM):
    logits_BMV = jnp.einsum(
        "BMD,VD->BMV",
        x_BMD.astype(dtype),
        table_VD.astype(dtype),
        preferred_element_type=jnp.float32,
    )
    logits_BMV = constrain(logits_BMV + bias_V[None, None], "batch", None, "vocab")
    loss, hits = cross_entropy(logits_BMV, labels_BM, weights_BM)
    return loss.sum, hits.sum


def chunked(dtype, *arguments):
    return linear_cross_entropy(*arguments, dtype=dtype)


def with_gradients(function, dtype):
    """jit of (case) -> ((loss, hits), gradients of x, table, bias and weights)."""
    return jax.jit(
        jax.value_and_grad(
            functools.partial(function, dtype), argnums=(0, 1, 2, 4), has_aux=True
        )
    )


@pytest.mark.parametrize("chunks", [1, 3, 7])
def test_loss_hits_and_gradients_are_those_of_whole_logits(case, in_chunks, chunks):
    in_chunks(chunks)
    expected, expected_grads = with_gradients(whole, "float32")(*case)
    found, grads = with_gradients(chunked, "float32")(*case)
    assert 0 < expected[1] < case[4].sum() / 2, "labels must be among ties, and not all"
    # Sums of 56 slots and of 100 exponentials in another order: 1e-7 each.
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    for ours, theirs in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6 * abs(theirs).max(), rtol=0)
    of_x, of_table, of_bias, _ = grads
    assert not of_x[case[4] == 0].any()
    assert not of_table[REAL:].any()
    assert not of_bias[REAL:].any()
    without = jax.jit(functools.partial(chunked, "float32"))(*case)
    np.testing.assert_array_equal(without, found)


@pytest.mark.parametrize("chunks", [1, 3])
def test_in_bfloat16_gradients_are_as_exact_as_those_of_whole_logits(
    case, in_chunks, chunks
):
    in_chunks(chunks)
    rounded = [np.asarray(jnp.bfloat16(a), np.float32) for a in case[:2]]
    exact, exact_grads = with_gradients(whole, "float32")(*rounded, *case[2:])
    expected, expected_grads = with_gradients(whole, "bfloat16")(*case)
    found, grads = with_gradients(chunked, "bfloat16")(*case)
    # The factors are rounded alike, so the logits are those of float32 products.
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(found, exact, rtol=1e-6)
    for ours, theirs, best in zip(grads, expected_grads, exact_grads, strict=True):
        # Whole: the gradient of a bfloat16 factor is one, rounded by up to 2**-9. Ours
        # rounds that of each logit so, and adds up in float32.
        scale = 2.0**-8 * abs(best).max()
        np.testing.assert_allclose(theirs, best, atol=scale, rtol=0)
        np.testing.assert_allclose(ours, best, atol=scale, rtol=0)


def test_equal_logits_score_chance_among_real_pieces(case, in_chunks):
    in_chunks(3)
    x, table, _, labels, weights = case
    flat = np.where(np.arange(VOCAB) < REAL, 0.0, MASKED_SCORE).astype(np.float32)
    loss, hits = linear_cross_entropy(
        0 * x, table, flat, labels, weights, dtype="float32"
    )
    # A sum of 56 terms.
    np.testing.assert_allclose(hits, weights.sum() / REAL, rtol=1e-6)
    np.testing.assert_allclose(loss, weights.sum() * np.log(REAL), rtol=1e-6)


def test_enormous_logits_stay_finite(case, in_chunks):
    in_chunks(3)
    x, *rest = case
    found = with_gradients(chunked, "float32")(x * 1e4, *rest)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_no_array_is_as_large_as_the_logits(case, in_chunks):
    def largest(function) -> int:
        traced = with_gradients(function, "float32").trace(*case)
        return max(_sizes(traced.jaxpr.jaxpr))

    assert largest(whole) == ROWS * SLOTS * VOCAB
    in_chunks(7)
    assert largest(chunked) == max(ROWS * VOCAB, VOCAB * WIDTH)


def _sizes(jaxpr):
    for equation in jaxpr.eqns:
        yield from (variable.aval.size for variable in equation.outvars)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from _sizes(inner)


def test_chunks_are_as_large_as_the_bytes_allow():
    # BERT's vocabulary: 122,368 bytes a slot and row, 128 MiB hold 1,096 of them.
    assert num_chunks(8, 77, 30_592) == 1
    assert num_chunks(32, 77, 30_592) == 3
    assert num_chunks(1_096, 20, 30_592) == 20
    assert num_chunks(100_000, 20, 30_592) == 20, "a slot of all rows is the least"
    mesh = make_mesh(MeshConfig(data=4, tensor=2))
    with sharding.on_mesh(mesh):
        assert num_chunks(8 * 32, 77, 30_592) == 3


def test_rows_that_the_mesh_does_not_divide_are_an_error(case):
    x, table, bias, labels, weights = case
    six = x[:6], table, bias, labels[:6], weights[:6]
    with (
        sharding.on_mesh(make_mesh(MeshConfig(data=-1, fsdp=2))),
        pytest.raises(ValueError, match=r"6 rows.*8 parts.*multiple of 8"),
    ):
        chunked("float32", *six)


@pytest.mark.parametrize("layout", MESHES, ids=str)
def test_nothing_travels_that_whole_logits_would_not_send(case, in_chunks, layout):
    mesh = make_mesh(layout)
    in_chunks(3, parts=8)
    axes = (("batch",), ("vocab_rows", None), ("vocab",), ("batch",), ("batch",))
    places = [NamedSharding(mesh, sharding.spec(*a)) for a in axes]

    def compiled(function):
        @functools.partial(jax.jit, in_shardings=places, out_shardings=(*places[:3],))
        def gradients(*arguments):
            with sharding.on_mesh(mesh):
                loss = lambda *a: function("float32", *a)[0] / a[4].sum()  # noqa: E731
                return jax.grad(loss, argnums=(0, 1, 2))(*arguments)

        program = gradients.lower(*case).compile()
        module = parse_hlo(program.as_text())
        assert not module.unknown_loops
        return program, collectives_of(module, mesh.shape)

    program, ours = compiled(chunked)
    program_whole, theirs = compiled(whole)

    def sent(collectives, kind, over_tensor):
        chosen = [
            c
            for c in collectives
            if c.kind == kind and (c.axes == ("tensor",)) == over_tensor
        ]
        return sum(c.moved_bytes for c in chosen), sum(c.count for c in chosen)

    for kind in {c.kind for c in (*ours, *theirs)}:
        moved, count = sent(ours, kind, over_tensor=False)
        most, times = sent(theirs, kind, over_tensor=False)
        assert moved <= most
        assert count <= times, "sums over rows must travel once, not once a chunk"
        # Parts of a slot's logits meet in every chunk; the last has two slots too many.
        moved, _ = sent(ours, kind, over_tensor=True)
        assert moved <= 9 / 7 * sent(theirs, kind, over_tensor=True)[0]
    for found, expected in zip(program(*case), program_whole(*case), strict=True):
        # As on one device.
        np.testing.assert_allclose(
            found, expected, atol=2e-6 * abs(expected).max(), rtol=0
        )


@pytest.fixture(scope="module")
def train(tiny, vocabulary, make_batch):
    """train(mlm_logits, layout, devices, micro_batches) -> (metrics by step, params)."""
    settings = OptimizerConfig(learning_rate=1e-2, warmup_steps=2)
    optimizer = make_optimizer(settings, make_schedule(settings, 20))

    def run(mlm_logits, layout, num_devices=8, micro_batches=1):
        cfg = dataclasses.replace(tiny, num_layers=1)
        objective = pretrain_objective(
            cfg,
            ComputeConfig(mlm_logits=mlm_logits),
            DropoutConfig(),
            MaskingConfig(),
            vocabulary,
        )
        mesh = make_mesh(layout, jax.devices()[:num_devices])

        def make_state():
            init = functools.partial(pretraining.init_params, cfg)
            return init_state(init, optimizer, 0)

        abstract = abstract_state(make_state, mesh)
        places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        state = jax.jit(make_state, out_shardings=places)()
        step = compile_step(
            objective, optimizer, mesh, abstract, micro_batches=micro_batches
        )
        lines = []
        for number in range(3):
            batch = make_batch(rows=16, seed=number)
            state, metrics = step(state, to_devices(mesh, batch))
            lines.append(
                {n: float(m.value()) for n, m in metrics.items() if isinstance(m, Mean)}
            )
        return lines, state.params

    return run


@pytest.mark.slow(ci=False)
def test_steps_are_those_of_whole_logits(train, monkeypatch):
    # Two slots of every row a chunk: a half-filled one is among them.
    monkeypatch.setattr(subject, "CHUNK_BYTES", 4 * 64 * 2)
    whole_run = train("whole", MeshConfig(), num_devices=1)
    layout = MeshConfig(data=2, fsdp=2, tensor=2)
    lines, params = train("chunked", layout, micro_batches=2)
    for line, expected in zip(lines, whole_run[0], strict=True):
        assert line.keys() == expected.keys()
        for name, value in expected.items():
            # As the layouts of `test_sharding`; a single hit would be far more.
            np.testing.assert_allclose(line[name], value, rtol=1e-5, err_msg=name)
    for ours, theirs in zip(
        jax.tree.leaves(params), jax.tree.leaves(whole_run[1]), strict=True
    ):
        # Adam divides by the root of tiny second moments, as in `test_sharding`.
        np.testing.assert_allclose(ours, theirs, atol=2e-4)
