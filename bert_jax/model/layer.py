"""One layer of the encoder: attention and feed-forward blocks, each with its norm.

Shape suffixes: B rows, T tokens, D hidden, N heads, H head width, F feed-forward.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.config import ComputeConfig, ModelConfig
from bert_jax.model.attention import KEY_AXES, QUERY_AXES, attend
from bert_jax.model.dropout import Dropout
from bert_jax.model.layers import Dense, Keys, activation
from bert_jax.model.logical import constrain, platform
from bert_jax.model.norms import Norm
from bert_jax.model.rotary import rotate
from bert_jax.model.rows import Rows


class AttentionBlock(nnx.Module):
    """Multi-head self-attention, its output projection, residual addition and norm."""

    def __init__(self, cfg: ModelConfig, compute: ComputeConfig, *, keys: Keys):
        heads, kv_heads = (
            (number, cfg.head_size) for number in (cfg.num_heads, cfg.kv_heads)
        )
        width = (cfg.hidden_size,)
        dense = functools.partial(_dense, cfg, compute, keys)
        self.query = dense(width, heads)
        self.key = dense(width, kv_heads)
        self.value = dense(width, kv_heads)
        self.out = dense(heads, width, is_output=True)
        self.norm = Norm(cfg, keys=keys)
        self.cfg, self.compute = cfg, compute

    def __call__(
        self,
        x_BTD: jax.Array,
        views: tuple[Rows, ...],
        dropout: Dropout,
        *,
        kind: jax.Array | None = None,
        is_normal: jax.Array | bool | None = None,
    ) -> jax.Array:
        """As `Layer`."""
        cfg, read_BTD = self.cfg, x_BTD
        if cfg.norm_position == "pre":
            read_BTD = self.norm(x_BTD)
            if is_normal is not None:
                read_BTD = jnp.where(is_normal, x_BTD, read_BTD)
        weights_dropout, hidden_dropout = dropout.split(2)
        projected = self.query(read_BTD), self.key(read_BTD), self.value(read_BTD)
        branches: list[Callable[..., jax.Array]] = [
            functools.partial(self._attend, rows, weights_dropout) for rows in views
        ]
        if kind is None:
            y_BTNH = branches[0](*projected)
        else:
            if self.compute.remat in ("none", "attention"):
                # What one branch keeps for the backward pass, the others fill with zeros.
                branches = [jax.checkpoint(branch) for branch in branches]
            y_BTNH = jax.lax.switch(kind, branches, *projected)
        x_BTD = x_BTD + hidden_dropout.hidden(self.out(y_BTNH))
        return self.norm(x_BTD) if cfg.norm_position == "post" else x_BTD

    def _attend(
        self,
        rows: Rows,
        dropout: Dropout,
        q_BTNH: jax.Array,
        k_BTNH: jax.Array,
        v_BTNH: jax.Array,
    ) -> jax.Array:
        """What the tokens of `rows` read from each other, [B, T, N, H]."""
        if rows.rotation is not None:
            q_BTNH, k_BTNH = (rotate(x, rows.rotation) for x in (q_BTNH, k_BTNH))
        if (shared := self.cfg.num_heads // self.cfg.kv_heads) > 1:
            k_BTNH, v_BTNH = (jnp.repeat(x, shared, axis=2) for x in (k_BTNH, v_BTNH))
        return attend(
            constrain(q_BTNH, *QUERY_AXES),
            constrain(k_BTNH, *KEY_AXES),
            constrain(v_BTNH, *KEY_AXES),
            rows,
            kernel=self.compute.attention,
            dropout=dropout,
            recompute=self.compute.remat == "attention",
            products=self.compute.products,
        )


class MlpBlock(nnx.Module):
    """Feed-forward layer, plain or gated, residual addition and norm.

    Source: Vaswani et al. 2017, section 3.3; Shazeer 2020 for the gate.
    """

    def __init__(self, cfg: ModelConfig, compute: ComputeConfig, *, keys: Keys):
        width, inner = (cfg.hidden_size,), (cfg.mlp_size,)

        dense = functools.partial(_dense, cfg, compute, keys)
        self.cfg, self.compute = cfg, compute
        self.up = dense(width, inner)
        if cfg.mlp != "gelu":
            self.gate = dense(width, inner)
        self.down = dense(inner, width, is_output=True)
        self.norm = Norm(cfg, keys=keys)

    def __call__(self, x_BTD: jax.Array, dropout: Dropout) -> jax.Array:
        cfg = self.cfg
        is_pre = cfg.norm_position == "pre"
        read_BTD = self.norm(x_BTD) if is_pre else x_BTD
        inner = [self.up(read_BTD)]
        if cfg.mlp != "gelu":
            inner.append(self.gate(read_BTD))
        projected = self._down
        if self.compute.remat in ("none", "attention") and platform() != "cpu":
            # Keeps what goes in, and neither the activation nor its product with the gate.
            # XLA for CPU would keep them nevertheless.
            projected = jax.checkpoint(projected)
        x_BTD = x_BTD + dropout.hidden(projected(*inner))
        return x_BTD if is_pre else self.norm(x_BTD)

    def _down(self, h_BTF: jax.Array, gate_BTF: jax.Array | None = None) -> jax.Array:
        """The activation, and the product that follows it."""
        if gate_BTF is None:
            h_BTF = activation(self.cfg, h_BTF)
        else:
            h_BTF = activation(self.cfg, gate_BTF) * h_BTF
        return self.down(constrain(h_BTF, "batch", "length", "mlp"))


class Layer(nnx.Module):
    """One encoder layer (Vaswani et al. 2017, section 3.1)."""

    def __init__(self, cfg: ModelConfig, compute: ComputeConfig, *, keys: Keys):
        self.attention = AttentionBlock(cfg, compute, keys=keys)
        self.mlp = MlpBlock(cfg, compute, keys=keys)

    def __call__(
        self,
        x_BTD: jax.Array,
        views: tuple[Rows, ...],
        dropout: Dropout,
        *,
        kind: jax.Array | None = None,
        is_normal: jax.Array | bool | None = None,
    ) -> jax.Array:
        """Hidden states [B, T, D] to hidden states.

        Args:
            views: the rows as each kind of layer sees them.
            kind: int32 scalar, which of the views is this layer's. None: there is one.
            is_normal: whether a pre-norm layer leaves the norm before its attention out.
                None: it does not.
        """
        attention_dropout, mlp_dropout = dropout.split(2)
        x_BTD = self.attention(
            x_BTD, views, attention_dropout, kind=kind, is_normal=is_normal
        )
        x_BTD = self.mlp(x_BTD, mlp_dropout)
        return constrain(x_BTD, "batch", "length", "act_embed")


def _dense(
    cfg: ModelConfig,
    compute: ComputeConfig,
    keys: Keys,
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    *,
    is_output: bool = False,
) -> Dense:
    """One product of a layer. Those that add to the residual may begin smaller."""
    smaller = is_output and cfg.init_by_depth
    return Dense(
        *(cfg, compute, inputs, outputs),
        bias=cfg.dense_bias,
        scale=(2 * cfg.num_layers) ** -0.5 if smaller else 1.0,
        fp8=compute.fp8,
        keys=keys,
    )
