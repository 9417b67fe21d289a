"""A linear layer and its cross-entropy as one function that never holds all logits.

The function takes the slots in chunks. The loss is a weighted sum, so a chunk's logits
determine its gradient up to one factor. The forward pass therefore computes the gradient
too, and no logits are computed twice. Liger Kernel does the same (Hsu et al. 2024,
"FusedLinearCrossEntropy"). Here the gradient of the table is summed in float32, and rows
and their logits stay on their device.

Shape suffixes: B rows, M masked slots, D hidden, V padded vocabulary; N chunks, G groups
of rows (one for each part of the batch), R slots of one group in one chunk.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bert_jax.model.logical import constrain, num_parts
from bert_jax.model.products import column_sums

# Most bytes of one chunk's float32 logits on one device; about 1,000 slots with BERT's
# vocabulary. Every chunk reads and writes the sum of the table's gradient once, which
# takes a TPU v5e as long as one product of 1,200 slots. So smaller chunks cost time.
CHUNK_BYTES = 128 * 2**20


class _Gradients(NamedTuple):
    """Gradients of the weighted sum of losses.

    The table and the bias serve all rows; their gradients are summed for each group.
    """

    x: jax.Array  # float32 [B, M, D]
    table: jax.Array  # float32 [G, V, D]
    bias: jax.Array  # float32 [G, V]


class _Chunk(NamedTuple):
    x: jax.Array  # compute dtype [G, R, D]
    labels: jax.Array  # int32 [G, R]
    weights: jax.Array  # float32 [G, R]


def linear_cross_entropy(
    x_BMD: jax.Array,
    table_VD: jax.Array,
    bias_V: jax.Array,
    labels_BM: jax.Array,
    weights_BM: jax.Array,
    *,
    dtype: jax.typing.DTypeLike,
) -> tuple[jax.Array, jax.Array]:
    """Weighted sums of loss and accuracy of the logits `x @ table.T + bias`.

    Both sums mean the same as in `train.losses.cross_entropy`: the loss is in nats, and
    a label among n equal maxima counts 1 / n. A chunk takes as many slots of every row
    as keep its logits under `CHUNK_BYTES` per device.

    Args:
        x_BMD: float32; a mesh may split the rows.
        table_VD: float32; a mesh may split its rows.
        bias_V: float32; far below any logit for rows of the table that must never win.
        labels_BM: int32, less than V.
        weights_BM: float32.
        dtype: type of the factors of matrix products, which are summed in float32.

    Returns:
        Float32 scalars: the sums of weight * loss and of weight * hit over all slots.
        The first has gradients for `x`, table, bias and weights.

    Raises:
        ValueError: the mesh does not divide the rows.
    """
    rows, groups = x_BMD.shape[0], num_parts("batch")
    if rows % groups:
        raise ValueError(
            f"linear_cross_entropy got {rows} rows, but the mesh splits them into "
            f"{groups} parts; make the rows a multiple of {groups}."
        )
    return _weighted_sums(
        jnp.dtype(dtype), x_BMD, table_VD, bias_V, labels_BM, weights_BM
    )


def num_chunks(rows: int, slots: int, vocab: int) -> int:
    """Number of chunks in which the logits [rows, slots, vocab] are computed."""
    parts = num_parts("batch") * num_parts("vocab")
    slot_bytes = 4 * rows * vocab // parts
    return -(-slots // max(1, CHUNK_BYTES // slot_bytes))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _weighted_sums(
    dtype: jnp.dtype,
    x_BMD: jax.Array,
    table_VD: jax.Array,
    bias_V: jax.Array,
    labels_BM: jax.Array,
    weights_BM: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    loss_BM, hits_BM, _ = _by_chunks(
        dtype, x_BMD, table_VD, bias_V, labels_BM, weights_BM, with_gradients=False
    )
    return (loss_BM * weights_BM).sum(), (hits_BM * weights_BM).sum()


def _forward(
    dtype: jnp.dtype,
    x_BMD: jax.Array,
    table_VD: jax.Array,
    bias_V: jax.Array,
    labels_BM: jax.Array,
    weights_BM: jax.Array,
) -> tuple[tuple[jax.Array, jax.Array], tuple]:
    loss_BM, hits_BM, gradients = _by_chunks(
        dtype, x_BMD, table_VD, bias_V, labels_BM, weights_BM, with_gradients=True
    )
    sums = (loss_BM * weights_BM).sum(), (hits_BM * weights_BM).sum()
    return sums, (loss_BM, hits_BM, gradients)


def _backward(
    dtype: jnp.dtype, residuals: tuple, cotangents: tuple[jax.Array, jax.Array]
) -> tuple:
    loss_BM, hits_BM, gradients = residuals
    of_loss, of_hits = cotangents
    return (
        of_loss * gradients.x,
        # Summed over groups here, where XLA can join it with the table's other gradient.
        (of_loss * gradients.table).sum(axis=0),
        (of_loss * gradients.bias).sum(axis=0),
        None,  # labels
        of_loss * loss_BM + of_hits * hits_BM,
    )


_weighted_sums.defvjp(_forward, _backward)


def _by_chunks(
    dtype: jnp.dtype,
    x_BMD: jax.Array,
    table_VD: jax.Array,
    bias_V: jax.Array,
    labels_BM: jax.Array,
    weights_BM: jax.Array,
    *,
    with_gradients: bool,
) -> tuple[jax.Array, jax.Array, _Gradients | None]:
    """Losses and hits [B, M], and if asked for the gradients of the sum of losses."""
    rows, slots = labels_BM.shape
    vocab, width = table_VD.shape
    groups, chunks = num_parts("batch"), num_chunks(rows, slots, vocab)
    size = -(-slots // chunks)

    def split(x: jax.Array) -> jax.Array:
        """[B, M, ...] -> [N, G, R, ...]; zeros fill the last chunk up."""
        rest = x.shape[2:]
        full = [(0, 0), (0, chunks * size - slots), *((0, 0) for _ in rest)]
        x = jnp.pad(x, full).reshape(groups, rows // groups, chunks, size, *rest)
        x = jnp.moveaxis(x, 2, 0).reshape(chunks, groups, -1, *rest)
        return constrain(x, None, "batch", None, *(None for _ in rest))

    def joined(x: jax.Array) -> jax.Array:
        """[N, G, R, ...] -> [B, M, ...]"""
        rest = x.shape[3:]
        x = x.reshape(chunks, groups, rows // groups, size, *rest)
        x = jnp.moveaxis(x, 0, 2).reshape(rows, chunks * size, *rest)[:, :slots]
        return constrain(x, "batch", None, *(None for _ in rest))

    # Before the loop: inside it, a split table would be gathered for every chunk.
    table_VD = constrain(table_VD.astype(dtype), "vocab", None)
    one_chunk = functools.partial(_one_chunk, table_VD, bias_V)
    xs = _Chunk(split(x_BMD.astype(dtype)), split(labels_BM), split(weights_BM))
    if not with_gradients:
        _, (loss, hits) = jax.lax.scan(lambda _, c: (None, one_chunk(c)[:2]), None, xs)
        return joined(loss), joined(hits), None

    def add(sums: tuple, chunk: _Chunk) -> tuple[tuple, tuple]:
        loss_GR, hits_GR, d_logits_GRV = one_chunk(chunk)
        of_bias_GV = jax.vmap(column_sums)(d_logits_GRV)
        d_logits_GRV = d_logits_GRV.astype(dtype)
        of_x_GRD = jnp.einsum(
            "GRV,VD->GRD", d_logits_GRV, table_VD, preferred_element_type=jnp.float32
        )
        of_table_GVD = jnp.einsum(
            "GRV,GRD->GVD", d_logits_GRV, chunk.x, preferred_element_type=jnp.float32
        )
        sums = placed(sums[0] + of_table_GVD, sums[1] + of_bias_GV)
        return sums, (loss_GR, hits_GR, of_x_GRD)

    def placed(table_GVD: jax.Array, bias_GV: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Each group has its own sum. A common one would travel between the devices with
        # every chunk.
        return (
            constrain(table_GVD, "batch", "vocab", None),
            constrain(bias_GV, "batch", "vocab"),
        )

    zeros = placed(jnp.zeros((groups, vocab, width)), jnp.zeros((groups, vocab)))
    sums, (loss, hits, of_x) = jax.lax.scan(add, zeros, xs)
    return joined(loss), joined(hits), _Gradients(joined(of_x), *sums)


def num_maxima(exps: jax.Array) -> jax.Array:
    """How many numbers of the last axis are its maximum, float32 [...].

    It is arithmetic on numbers that are in memory already. XLA for CPU puts neither
    comparisons nor other arithmetic with its sums so that they stay fast.

    Args:
        exps: exp(x - maximum), float32 [..., V]. The numbers x less than 5e-7 below the
            maximum are equal to it, and those less than 1e-6 below it in part.
    """
    above = (jax.lax.stop_gradient(exps) - (1.0 - 2.0**-20)) * 2.0**21
    return jnp.clip(above, 0.0, 1.0).sum(axis=-1)


def _one_chunk(
    table_VD: jax.Array, bias_V: jax.Array, chunk: _Chunk
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Losses and hits [G, R], and the weighted gradient of the logits [G, R, V]."""
    logits_GRV = constrain(
        bias_V[None, None]
        + jnp.einsum(
            "GRD,VD->GRV", chunk.x, table_VD, preferred_element_type=jnp.float32
        ),
        "batch",
        None,
        "vocab",
    )
    label_GRV = chunk.labels[..., None] == jnp.arange(len(bias_V))[None, None]
    label_GR = jnp.where(label_GRV, logits_GRV, 0.0).sum(axis=-1)
    top_GR = logits_GRV.max(axis=-1)
    exp_GRV = jnp.exp(logits_GRV - top_GR[..., None])
    sum_GR = exp_GRV.sum(axis=-1)
    loss_GR = jnp.log(sum_GR) + top_GR - label_GR
    hits_GR = (label_GR >= top_GR) / num_maxima(exp_GRV)
    d_logits_GRV = exp_GRV / sum_GR[..., None] - label_GRV
    return loss_GR, hits_GR, d_logits_GRV * chunk.weights[..., None]
