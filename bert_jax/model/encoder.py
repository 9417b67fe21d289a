"""The BERT encoder: embeddings and a stack of post-layer-norm layers.

The parameters of all layers are stacked on a first axis. This holds whether the layers
run as one compiled loop or one after the other, so a checkpoint fits both.

Shape suffixes: B rows, T tokens, D hidden.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.batch import ClassifyBatch
from bert_jax.config import ComputeConfig, ModelConfig
from bert_jax.limits import check_range
from bert_jax.model.attention import KEY_AXES, QUERY_AXES, attend
from bert_jax.model.dropout import Dropout
from bert_jax.model.layers import (
    Dense,
    embedding,
    gelu,
    graph_of,
    layer_norm,
    pure_params,
)
from bert_jax.model.logical import constrain, platform
from bert_jax.model.rows import Rows

Params = dict


class Embeddings(nnx.Module):
    """The normalised sum of three embeddings: token, position and segment.

    Source: Devlin et al. 2018, figure 2.
    """

    def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
        # The padding of the table never learns anything, so exports may cut it off.
        padding = cfg.padded_vocab_size - cfg.vocab_size
        self.token = embedding(cfg, cfg.vocab_size, rngs, padding=padding)
        self.position = embedding(cfg, cfg.max_positions, rngs)
        self.segment = embedding(cfg, cfg.num_segments, rngs)
        self.norm = layer_norm(cfg, rngs)

    def __call__(
        self,
        input_ids_BT: jax.Array,
        segment_ids_BT: jax.Array,
        rows: Rows,
        dropout: Dropout,
    ) -> jax.Array:
        x_BTD = (
            self.token(input_ids_BT)
            + self.position(rows.position_ids)
            + self.segment(segment_ids_BT)
        )
        return dropout.hidden(self.norm(x_BTD))


class AttentionBlock(nnx.Module):
    """Multi-head self-attention, its output projection, residual addition and norm."""

    def __init__(self, cfg: ModelConfig, compute: ComputeConfig, *, rngs: nnx.Rngs):
        def dense(inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Dense:
            return Dense(cfg, compute, inputs, outputs, fp8=compute.fp8, rngs=rngs)

        heads = (cfg.num_heads, cfg.head_size)
        width = (cfg.hidden_size,)
        self.query = dense(width, heads)
        self.key = dense(width, heads)
        self.value = dense(width, heads)
        self.out = dense(heads, width)
        self.norm = layer_norm(cfg, rngs)
        self.compute = compute

    def __call__(self, x_BTD: jax.Array, rows: Rows, dropout: Dropout) -> jax.Array:
        weights_dropout, hidden_dropout = dropout.split(2)
        y_BTNH = attend(
            constrain(self.query(x_BTD), *QUERY_AXES),
            constrain(self.key(x_BTD), *KEY_AXES),
            constrain(self.value(x_BTD), *KEY_AXES),
            rows,
            kernel=self.compute.attention,
            dropout=weights_dropout,
            recompute=self.compute.remat == "attention",
        )
        return self.norm(x_BTD + hidden_dropout.hidden(self.out(y_BTNH)))


class MlpBlock(nnx.Module):
    """Two dense layers with GELU between them, residual addition and norm."""

    def __init__(self, cfg: ModelConfig, compute: ComputeConfig, *, rngs: nnx.Rngs):
        width, inner = (cfg.hidden_size,), (cfg.mlp_size,)
        self.cfg = cfg
        self.up = Dense(cfg, compute, width, inner, fp8=compute.fp8, rngs=rngs)
        self.down = Dense(cfg, compute, inner, width, fp8=compute.fp8, rngs=rngs)
        self.norm = layer_norm(cfg, rngs)

    def __call__(self, x_BTD: jax.Array, dropout: Dropout) -> jax.Array:
        h_BTF = constrain(gelu(self.cfg, self.up(x_BTD)), "batch", "length", "mlp")
        return self.norm(x_BTD + dropout.hidden(self.down(h_BTF)))


class Layer(nnx.Module):
    """One encoder layer (Vaswani et al. 2017, section 3.1, with GELU)."""

    def __init__(self, cfg: ModelConfig, compute: ComputeConfig, *, rngs: nnx.Rngs):
        self.attention = AttentionBlock(cfg, compute, rngs=rngs)
        self.mlp = MlpBlock(cfg, compute, rngs=rngs)

    def __call__(self, x_BTD: jax.Array, rows: Rows, dropout: Dropout) -> jax.Array:
        attention_dropout, mlp_dropout = dropout.split(2)
        x_BTD = self.attention(x_BTD, rows, attention_dropout)
        x_BTD = self.mlp(x_BTD, mlp_dropout)
        return constrain(x_BTD, "batch", "length", "act_embed")


# Policies for whole layers. remat="attention" is handled inside `attend`.
_REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def init_encoder(cfg: ModelConfig, key: jax.Array) -> Params:
    """Fresh `embed` and stacked `layers` parameters, float32."""
    embed_key, layers_key = jax.random.split(key)

    def layer(key: jax.Array) -> Params:
        return pure_params(Layer(cfg, ComputeConfig(), rngs=nnx.Rngs(key)))

    return {
        "embed": pure_params(Embeddings(cfg, rngs=nnx.Rngs(embed_key))),
        "layers": jax.vmap(layer)(jax.random.split(layers_key, cfg.num_layers)),
    }


def encode(
    cfg: ModelConfig,
    params: Params,
    *,
    input_ids: jax.Array,
    segment_ids: jax.Array,
    rows: Rows,
    compute: ComputeConfig,
    dropout: Dropout,
) -> jax.Array:
    """Runs the encoder.

    Args:
        cfg: static; the config that produced `params`.
        params: tree that holds at least `embed` and `layers`.
        input_ids: int32 [B, T], less than `cfg.vocab_size`.
        segment_ids: int32 [B, T], less than `cfg.num_segments`.
        rows: sequence and position of each token; positions are less than
            `cfg.max_positions`.
        compute: static; types and kernels.
        dropout: which units are dropped, if any.

    Returns:
        Hidden states of the last layer, float32 [B, T, D].

    Raises:
        ValueError: T exceeds the position table, or an id is outside its table. Under
            jit ids are unknown and not checked here; `limits.check_ids` checks them.

    Source: Devlin et al. 2018, section 3.
    """
    length = input_ids.shape[1]
    if length > cfg.max_positions:
        raise ValueError(
            f"Sequence length {length} exceeds ModelConfig.max_positions="
            f"{cfg.max_positions}; shorten the sequences or enlarge the table."
        )
    for name, ids, field in (
        ("input_ids", input_ids, "vocab_size"),
        ("segment_ids", segment_ids, "num_segments"),
        ("position_ids", rows.position_ids, "max_positions"),
    ):
        check_known(name, ids, getattr(cfg, field), f"ModelConfig.{field}")
    embed_dropout, layers_dropout = dropout.split(2)
    embed = nnx.merge(graph_of(Embeddings, cfg), params["embed"])
    x_BTD = embed(input_ids, segment_ids, rows, embed_dropout)
    x_BTD = constrain(x_BTD, "batch", "length", "act_embed")

    def layer(x: jax.Array, inputs: tuple[Params, Dropout]) -> tuple[jax.Array, None]:
        layer_params, layer_dropout = inputs
        module = nnx.merge(graph_of(Layer, cfg, compute), layer_params)
        return module(x, rows, layer_dropout), None

    if compute.remat in _REMAT_POLICIES:
        layer = jax.checkpoint(layer, policy=_REMAT_POLICIES[compute.remat])
    stacked = (params["layers"], layers_dropout.stacked(cfg.num_layers))
    if compute.scans_layers(platform()):
        x_BTD, _ = jax.lax.scan(layer, x_BTD, stacked)
    else:
        for n in range(cfg.num_layers):
            x_BTD, _ = layer(x_BTD, jax.tree.map(lambda leaf, n=n: leaf[n], stacked))
    return x_BTD.astype(jnp.float32)


def encode_texts(
    cfg: ModelConfig,
    params: Params,
    batch: ClassifyBatch,
    compute: ComputeConfig,
    dropout: Dropout,
) -> jax.Array:
    """Hidden states [B, T, D] of rows that each hold one text or one pair of texts."""
    return encode(
        cfg,
        params,
        input_ids=batch.input_ids,
        segment_ids=batch.segment_ids,
        rows=Rows.of_texts(batch),
        compute=compute,
        dropout=dropout,
    )


def check_known(name: str, values: Any, limit: int, meaning: str) -> None:
    """`check_range`, unless the values are traced or lie partly on other hosts."""
    traced = isinstance(values, jax.core.Tracer)
    if not traced and getattr(values, "is_fully_addressable", True):
        check_range(name, values, limit, meaning)
