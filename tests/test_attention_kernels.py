"""The kernels for TPU and GPU, interpreted on CPU: equal to XLA's, and isolated."""

import contextlib
import dataclasses
import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config import DropoutConfig, MeshConfig
from bert_jax.model import (
    attention,
    attention_blocks,
    attention_cudnn,
    attention_fused,
    attention_fused_kernels,
    attention_gpu,
    attention_gpu_kernels,
    attention_xla,
)
from bert_jax.model.attention import attend
from bert_jax.model.dropout import Dropout
from bert_jax.model.rows import Rows
from bert_jax.train.mesh import make_mesh
from bert_jax.train.sharding import on_mesh

RATE = 0.25
# cuDNN takes bfloat16 only.
DTYPES = {"cudnn": "bfloat16"}


@dataclasses.dataclass(frozen=True)
class Case:
    """Four rows: three sequences and padding; one; nothing but padding; two."""

    length: int = 40
    num_heads: int = 6  # of which four share a tile: on the mesh one is incomplete
    head_size: int = 32
    dtype: str = "float32"
    rate: float = 0.0
    reach: int | None = None
    mesh: MeshConfig | None = None

    def ids(self) -> np.ndarray:
        ids = np.zeros((4, self.length), np.int32)
        third = self.length // 3
        for p in range(3):
            ids[0, p * (third - 1) : (p + 1) * (third - 1)] = p + 1
        ids[1] = 1
        ids[3] = 1 + (np.arange(self.length) >= self.length - 5)
        return ids

    def arrays(self, seed: int = 0) -> tuple[np.ndarray, ...]:
        """Queries, keys, values and gradients of the result."""
        shape = (4, 4, self.length, self.num_heads, self.head_size)
        drawn = np.random.default_rng(seed).normal(size=shape)
        return tuple(np.asarray(x, self.dtype) for x in drawn.astype(np.float32))


@functools.cache
def program(kernel: str, case: Case):
    """run(q, k, v, d_out, ids) -> result and gradients of q, k, v, in NumPy."""
    keys_B = jax.random.split(jax.random.key(5), 4) if case.rate else None
    dropout = Dropout(keys_B, DropoutConfig(attention=case.rate))
    mesh = None if case.mesh is None else make_mesh(case.mesh)

    @jax.jit
    def run(q, k, v, d_out, ids):
        def attended(q, k, v):
            if kernel == "dense":
                keys = dropout.keys_B
                return attention_xla.xla_attention(
                    q, k, v, ids, keys, case.rate, case.reach
                )
            in_blocks = kernel == "blocks"
            size = 8 if in_blocks else None
            with mock.patch.object(attention, "block_size", return_value=size):
                return attend(
                    q,
                    k,
                    v,
                    Rows(ids, jnp.zeros_like(ids), case.reach),
                    kernel="xla" if in_blocks else kernel,
                    dropout=dropout,
                    interpret=not in_blocks and kernel != "xla",
                )

        with contextlib.nullcontext() if mesh is None else on_mesh(mesh):
            out, gradients = jax.vjp(attended, q, k, v)
            return out, *gradients(d_out)

    return lambda *args: jax.tree.map(np.asarray, run(*args))


def assert_close(found, expected, dtype="float32"):
    # Values and gradients reach 7 here; float32 sums in another order leave 2e-6 of
    # them, bfloat16 products one unit of 1/128 in each factor.
    atol = 1e-5 if dtype == "float32" else 6e-2
    for x, y in zip(found, expected, strict=True):
        assert np.isfinite(y).all()
        np.testing.assert_allclose(
            x.astype(np.float32), y.astype(np.float32), rtol=0, atol=atol
        )


@pytest.mark.parametrize(
    ("kernel", "case"),
    [
        ("fused", Case(rate=RATE)),
        ("fused", Case()),
        ("fused", Case(num_heads=2, head_size=64, dtype="bfloat16", rate=RATE)),
        ("triton", Case(rate=RATE)),
        ("triton", Case()),
        ("triton", Case(num_heads=2, head_size=64, dtype="bfloat16", rate=RATE)),
        ("splash", Case()),
        ("splash", Case(length=520, num_heads=1)),  # more than one block
        ("splash", Case(num_heads=2, head_size=64, dtype="bfloat16")),
        *((kernel, Case(reach=3)) for kernel in ("fused", "triton", "splash")),
        ("cudnn", Case(dtype="bfloat16")),
        ("cudnn", Case(length=101, num_heads=2, reach=3, dtype="bfloat16")),
        ("fused", Case(reach=8, length=136, num_heads=2, rate=RATE)),
        ("triton", Case(reach=8, length=136, num_heads=2, rate=RATE)),
        ("blocks", Case(rate=RATE)),
        ("blocks", Case(reach=20, length=45)),  # no whole number of blocks
        ("blocks", Case(num_heads=2, head_size=64, dtype="bfloat16", rate=RATE)),
        ("xla", Case(reach=3, num_heads=2)),  # whole rows
        ("xla", Case(reach=8, length=136, num_heads=2, rate=RATE)),  # in blocks
        ("xla", Case(reach=5, length=101, num_heads=2)),  # no whole number of blocks
    ],
    ids=str,
)
def test_kernels_agree_with_xla(kernel, case):
    args = *case.arrays(), case.ids()
    expected = program("dense", case)(*args)
    assert_close(program(kernel, case)(*args), expected, case.dtype)


def test_a_window_hides_what_is_further_away():
    """The reference itself, against a mask that is written out here."""
    case = Case(reach=3, num_heads=1, length=24)
    q, k, v, _ = arrays = case.arrays()
    ids = case.ids()
    found = program("dense", case)(*arrays, ids)[0]
    for b, t in np.ndindex(ids.shape):
        seen = [
            s for s in range(max(0, t - 3), min(24, t + 4)) if ids[b, s] == ids[b, t]
        ]
        scores = k[b, seen, 0] @ q[b, t, 0] / np.sqrt(case.head_size)
        weights = np.exp(scores - scores.max())
        expected = weights / weights.sum() @ v[b, seen, 0]
        np.testing.assert_allclose(found[b, t, 0], expected, atol=1e-5)


def test_blocks_of_queries_and_tiles_add_up(monkeypatch):
    # 136 queries in two blocks, two heads in two tiles of one step.
    monkeypatch.setattr(attention_fused, "_STEP_SCORES", 1 << 15)
    case = Case(length=136, num_heads=2, head_size=128, rate=RATE)
    args = *case.arrays(), case.ids()
    assert_close(program("fused", case)(*args), program("xla", case)(*args))


@pytest.mark.parametrize(
    ("kernel", "rate"),
    [
        ("fused", RATE),
        ("splash", 0.0),
        ("triton", RATE),
        ("cudnn", 0.0),
        ("blocks", RATE),
    ],
)
def test_the_mesh_changes_nothing(kernel, rate):
    # Rows over data, queries over sequence, heads over tensor.
    case = Case(rate=rate, dtype=DTYPES.get(kernel, "float32"))
    args = *case.arrays(), case.ids()
    mesh = MeshConfig(data=2, sequence=2, tensor=2)
    many = program(kernel, dataclasses.replace(case, mesh=mesh))(*args)
    one = program(kernel, case)(*args)
    # Alone, heads 0 to 3 share a tile; over two devices the second one begins with head
    # 3, so that heads from there on lie elsewhere in their tile and are summed otherwise.
    same = slice(0, 3) if kernel == "fused" else slice(None)
    np.testing.assert_array_equal(many[0][:, :, same], one[0][:, :, same])
    # Gradients of keys are sums over the parts of the row.
    assert_close(many, one, case.dtype)


@pytest.mark.parametrize(
    ("kernel", "rate"),
    [
        ("xla", RATE),
        ("blocks", RATE),
        ("fused", RATE),
        ("splash", 0.0),
        ("triton", RATE),
        ("cudnn", 0.0),
    ],
)
def test_changing_one_sequence_changes_no_bit_of_another(kernel, rate):
    case = Case(rate=rate, dtype=DTYPES.get(kernel, "float32"))
    ids, run = case.ids(), program(kernel, case)
    changed = (ids == 2) & (np.arange(4)[:, None] == 0)
    assert changed.any()
    before = case.arrays()
    after = [
        np.where(changed[..., None, None], new, old)
        for old, new in zip(before, case.arrays(seed=1), strict=True)
    ]
    for x, y in zip(run(*before, ids), run(*after, ids), strict=True):
        assert (x[changed] != y[changed]).any(-1).all()
        np.testing.assert_array_equal(x[~changed], y[~changed])


@pytest.mark.parametrize(
    "kernel", ["xla", "blocks", "fused", "splash", "triton", "cudnn"]
)
def test_packed_equals_unpacked(kernel):
    """The three sequences of the first row, each alone at the start of a row."""
    case = Case(dtype=DTYPES.get(kernel, "float32"))
    ids, arrays, run = case.ids(), case.arrays(), program(kernel, case)
    packed = run(*arrays, ids)
    alone_ids = np.zeros_like(ids)
    alone = tuple(np.zeros_like(x) for x in arrays)
    for p in range(3):
        mine = ids[0] == p + 1
        alone_ids[p, : mine.sum()] = 1
        for x, y in zip(alone, arrays, strict=True):
            x[p, : mine.sum()] = y[0, mine]
    unpacked = run(*alone, alone_ids)
    for p in range(3):
        mine = ids[0] == p + 1
        assert_close(
            [x[p, : mine.sum()] for x in unpacked],
            [x[0, mine] for x in packed],
            case.dtype,
        )


@pytest.mark.parametrize(
    ("kernel", "modules"),
    [
        ("xla", [attention_xla]),
        ("blocks", [attention_blocks]),
        ("fused", [attention_fused_kernels]),
        ("triton", [attention_gpu, attention_gpu_kernels]),
        ("cudnn", [attention_cudnn]),
    ],
)
def test_every_kernel_asks_who_may_see_whom(monkeypatch, kernel, modules):
    """By a rule that lets all real tokens of a row see each other, they are one sequence."""
    dtype = DTYPES.get(kernel, "float32")
    case = Case(length=24, num_heads=2, dtype=dtype)
    ids, arrays = case.ids(), case.arrays()
    usual = program(kernel, case)(*arrays, ids)
    expected = program(kernel, case)(*arrays, (ids > 0).astype(np.int32))
    for module in modules:
        monkeypatch.setattr(
            module, "may_see", lambda q, k, *_: (q == k) | ((q > 0) & (k > 0))
        )
    # A length of its own: nothing that was traced by the usual rule is taken again.
    found = program.__wrapped__(kernel, case)(*arrays, ids)
    assert_close(found, expected, dtype)
    for x, y in zip(found, usual, strict=True):
        assert np.abs(x - y).max() > 0.1
