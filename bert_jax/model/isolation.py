"""Proves on the machine of a run that attention keeps packed sequences apart.

A kernel that lets one sequence of a row see another raises no error and trains a worse
model. Therefore the attention code that a config selects is tried on a small problem
before a run: with the same head size, type, row length and dropout, but few heads and
rows.

Shape suffixes: B rows, T tokens, N heads, H head width.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.config import ComputeConfig, DropoutConfig, ModelConfig
from bert_jax.config.compute import Products
from bert_jax.model import attention
from bert_jax.model.attention_blocks import SHORTEST_IN_BLOCKS, block_size
from bert_jax.model.attention_xla import is_banded, xla_attention
from bert_jax.model.dropout import Dropout
from bert_jax.model.random_bits import KEY_KIND
from bert_jax.model.rows import Rows

_NUM_ROWS = 5
_NUM_HEADS = 2
_LONG_FOR_XLA = 1_024  # tokens
_RESULTS = (
    "output",
    "gradient of the queries",
    "gradient of the keys",
    "gradient of the values",
)


class IsolationError(ArithmeticError):
    """Attention mixes the sequences of a row, or its results are wrong."""


class Proof(NamedTuple):
    """Which kernel was tried for whole sequences, and on which device."""

    kernel: str
    """The kernel that `ComputeConfig.attention` selects here, such as "xla"."""
    device: str
    """Kind of the device, such as "cpu" or "NVIDIA H100 80GB HBM3"."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Path:
    """The settings that decide which code attention runs."""

    kernel: Any
    num_tokens: int
    num_heads: int
    head_size: int
    dtype: str
    dropout_rate: float
    recompute: bool
    products: Products
    interpret: bool
    reach: int | None

    def __str__(self) -> str:
        window = "" if self.reach is None else f", window of {self.reach} on each side"
        return (
            f"rows of {self.num_tokens} tokens, heads {self.head_size} wide, "
            f"{self.dtype}, dropout {self.dropout_rate:g}{window}"
        )


def prove_isolation(
    cfg: ModelConfig,
    compute: ComputeConfig,
    dropout: DropoutConfig,
    *,
    num_tokens: int,
    splits_rows: bool = False,
    interpret: bool = False,
) -> Proof:
    """Tries the attention that these settings select, on this process's first device.

    Three things are checked, with dropout and without it:

    - Packed rows give the same outputs and gradients as each sequence alone.
    - New values in one sequence change no bit of another sequence's results.
    - A kernel other than XLA's agrees with XLA's, which drops the same weights.

    Layers with a window are tried apart from those without. A process makes each check
    only once for the same settings. No other process takes part.

    Args:
        cfg: architecture; its head size and window count here.
        compute: kernel and types.
        dropout: rates; the attention rate counts here.
        num_tokens: length of a row.
        splits_rows: whether the mesh of the run splits rows over devices.
        interpret: as for `attention.attend`.

    Raises:
        IsolationError: a check failed.
        ValueError: `compute.attention` cannot run here.
    """
    path = _Path(
        kernel=compute.attention,
        num_tokens=num_tokens,
        num_heads=min(_NUM_HEADS, cfg.num_heads),
        head_size=cfg.head_size,
        dtype=compute.dtype,
        dropout_rate=dropout.attention,
        recompute=compute.remat == "attention",
        products=compute.products,
        interpret=interpret,
        reach=None,
    )
    if cfg.local_reach is not None:
        local = dataclasses.replace(path, reach=cfg.local_reach)
        _prove(_shortened(local, splits_rows))
    return _prove(_shortened(path, splits_rows))


def prove_for_lengths(
    cfg: ModelConfig,
    compute: ComputeConfig,
    dropout: DropoutConfig,
    lengths: Collection[int],
    *,
    splits_rows: bool = False,
) -> None:
    """Tries the attention for rows of all these lengths, the longest first.

    XLA's kernel does the same operations for rows of any length, so one will do for it.
    (So does that for windows, but for short rows it is another; they cost little to try.
    Rows so long that they have blocks are another kernel too.)

    Args:
        lengths: of the rows, in tokens. The other arguments are those of `prove_isolation`.

    Raises:
        IsolationError, ValueError: as for `prove_isolation`.
    """
    for length in sorted(lengths, reverse=True):
        proof = prove_isolation(
            cfg, compute, dropout, num_tokens=length, splits_rows=splits_rows
        )
        is_whole = splits_rows or block_size(length) is None
        if proof.kernel == "xla" and is_whole and cfg.local_reach is None:
            return


def _shortened(path: _Path, splits_rows: bool) -> _Path:
    """Rows no longer than a proof needs.

    XLA's operations are the same for rows of any length, those for windows from a few
    windows on, and those with blocks from some length on, where no mesh splits the rows;
    the proof keeps all scores of its rows in memory.
    """
    if _chosen(path) != "xla":
        return path
    enough = max(_LONG_FOR_XLA, 8 * (path.reach or 0))
    if not is_banded(path.reach, path.num_tokens):
        if splits_rows:
            enough = min(enough, SHORTEST_IN_BLOCKS - 1)
        elif block_size(path.num_tokens):
            enough = max(enough, SHORTEST_IN_BLOCKS)
    return dataclasses.replace(path, num_tokens=min(path.num_tokens, enough))


@functools.cache
def _prove(path: _Path) -> Proof:
    device = jax.local_devices()[0]
    proof = Proof(_chosen(path), device.device_kind)
    with jax.default_device(device):
        _check(path, proof, None)
        if path.dropout_rate:
            words = np.random.default_rng(2).integers(2**32, size=(_NUM_ROWS, 2))
            _check(path, proof, words.astype(np.uint32))
    return proof


def _chosen(path: _Path) -> str:
    return attention.choose_kernel(
        path.kernel,
        attention.platform_of(path.kernel, path.interpret),
        num_keys=path.num_tokens,
        head_size=path.head_size,
        dtype=jnp.dtype(path.dtype),
        drops=path.dropout_rate > 0.0,
        reach=path.reach,
    )


def _check(path: _Path, proof: Proof, words_B2: np.ndarray | None) -> None:
    """Makes all three checks.

    Args:
        words_B2: uint32, two words of each row's random key, which decide the dropout.
            `None` drops nothing.
    """

    def path_attend(
        q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array, keys: jax.Array | None
    ) -> jax.Array:
        return attention.attend(
            q,
            k,
            v,
            Rows(ids, jnp.zeros_like(ids), path.reach),  # no positions are read
            kernel=path.kernel,
            dropout=Dropout(keys, DropoutConfig(attention=path.dropout_rate)),
            recompute=path.recompute,
            products=path.products,
            interpret=path.interpret,
        )

    run = _with_gradients(path_attend)
    ids_BT = _packed_ids(path.num_tokens)
    before, after = (_drawn(path, seed) for seed in (0, 1))
    packed = run(*before, ids_BT, words_B2)

    # A sequence alone moves to the start of its row. With dropout it stays in its place,
    # since the place decides which weights are dropped.
    rows = np.array([row for row, _ in _ALONE])
    at_BT, alone_BT = (np.zeros_like(ids_BT) for _ in range(2))
    for to, (row, number) in enumerate(_ALONE):
        places = np.flatnonzero(ids_BT[row] == number)
        new = places if words_B2 is not None else np.arange(places.size)
        at_BT[to, new], alone_BT[to, new] = places, 1
    own_BT11 = alone_BT[..., None, None] == 1
    place_BT11 = at_BT[..., None, None]
    moved = [
        np.where(own_BT11, np.take_along_axis(x[rows], place_BT11, axis=1), 0)
        for x in map(np.asarray, before)
    ]
    unpacked = run(*moved, alone_BT, None if words_B2 is None else words_B2[rows])
    expected = [np.take_along_axis(x[rows], place_BT11, axis=1) for x in packed]
    _compare(
        path,
        proof,
        "a packed row differs from the same sequences alone",
        [np.where(own_BT11, x, 0) for x in unpacked],
        [np.where(own_BT11, x, 0) for x in expected],
    )

    changed_BT11 = sum(
        (ids_BT == number) & (np.arange(len(ids_BT))[:, None] == row)
        for row, number in _CHANGED
    )[..., None, None].astype(bool)
    mixed = [np.where(changed_BT11, *pair) for pair in zip(after, before, strict=True)]
    found = run(*mixed, ids_BT, words_B2)
    _compare(
        path,
        proof,
        "new values in one sequence change another",
        [np.where(changed_BT11, 0, x) for x in found],
        [np.where(changed_BT11, 0, x) for x in packed],
        exact=True,
    )

    is_whole = block_size(path.num_tokens) is None and path.reach is None
    if proof.kernel != "xla" or not is_whole:
        plain = functools.partial(
            xla_attention, dropout_rate=path.dropout_rate, reach=path.reach
        )
        reference = _with_gradients(plain)(*before, ids_BT, words_B2)
        _compare(path, proof, "it differs from XLA's attention", packed, reference)


def _with_gradients(attend: Callable) -> Callable[..., list[np.ndarray]]:
    """run(q, k, v, d_out, ids, words) -> float32 `_RESULTS`."""

    @jax.jit
    def run(
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        d_out: jax.Array,
        ids: jax.Array,
        words: jax.Array | None,
    ) -> tuple[jax.Array, ...]:
        keys = None if words is None else jax.random.wrap_key_data(words, impl=KEY_KIND)
        out, vjp = jax.vjp(lambda q, k, v: attend(q, k, v, ids, keys), q, k, v)
        return out, *vjp(d_out)

    return lambda *args: [np.asarray(x, np.float32) for x in run(*args)]


def _packed_ids(num_tokens: int) -> np.ndarray:
    """Sequence ids, int32 [5, T].

    The five rows hold three sequences and padding, one sequence, two sequences, only
    padding, and many short sequences.
    """
    ids = np.zeros((_NUM_ROWS, num_tokens), np.int32)
    third = max(1, num_tokens // 3 - 1)
    for number in range(3):
        ids[0, number * third : (number + 1) * third] = number + 1
    ids[1] = 1
    ids[2] = 1 + (np.arange(num_tokens) >= num_tokens - 5)
    # Short sequences have few weights, so one that is wrongly dropped exceeds rounding.
    ids[4] = 1 + np.arange(num_tokens) // 5
    return ids


# (row, number) of the sequences that are tried alone, and of those that get new values.
_ALONE = ((0, 1), (0, 2), (0, 3), (2, 2), (4, 2))
_CHANGED = ((0, 2), (2, 1), (4, 2))


def _drawn(path: _Path, seed: int) -> list[np.ndarray]:
    """Queries, keys, values and gradients of the output, [B, T, N, H]."""
    shape = (4, _NUM_ROWS, path.num_tokens, path.num_heads, path.head_size)
    drawn = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return list(drawn.astype(jnp.dtype(path.dtype)))


def _compare(
    path: _Path,
    proof: Proof,
    what: str,
    found: list[np.ndarray],
    expected: list[np.ndarray],
    *,
    exact: bool = False,
) -> None:
    """Raises IsolationError if a result differs by more than rounding.

    With `exact`, any difference raises.
    """
    for name, x, y in zip(_RESULTS, found, expected, strict=True):
        difference = float(np.abs(x - y).max())
        allowed = 0.0 if exact else _tolerance(path) * float(abs(y).max())
        # Written so that NaN fails.
        if not difference <= allowed:
            instead = (
                "do not train with this version of JAX"
                if proof.kernel == "xla"
                else 'use another kernel, such as ComputeConfig.attention="xla" '
                "(--compute.attention xla)"
            )
            raise IsolationError(
                f'Attention kernel "{proof.kernel}" on {proof.device}: {what}. The '
                f"{name} is off by {difference:.2g}, and {allowed:.2g} is allowed "
                f"({path}). The kernel does not compute attention within each sequence; "
                f"{instead}."
            )


def _tolerance(path: _Path) -> float:
    """Largest difference that rounding may cause, as a fraction of the largest value.

    One part allows for rounding the factors of products, the other for rounding sums in
    float32. At most a quarter of the first part and a third of the second were seen (all
    kernels, 24 to 512 tokens, on CPU).
    """
    if path.dtype == "bfloat16":
        factors = 2.0**-8
    else:
        # By default TPUs multiply float32 as bfloat16 and GPUs as TF32 (docs.jax.dev,
        # jax.lax.Precision); CPUs do not round it.
        factors = {"tpu": 2.0**-8, "gpu": 2.0**-11}.get(jax.default_backend(), 0.0)
    return 8 * factors + 32 * 2.0**-24
