"""The BERT encoder: embeddings and a stack of post-layer-norm layers.

Parameters of all layers are stacked on a first axis, whether the layers run as one
compiled loop or one after the other, so a checkpoint fits both.

Shape suffixes: B rows, T tokens, D hidden.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.batch import ClassifyBatch
from bert_jax.config import ModelConfig
from bert_jax.limits import check_range
from bert_jax.model.attention import SelfAttention
from bert_jax.model.layers import (
    Dense,
    dropout,
    embedding,
    gelu,
    graph_of,
    layer_norm,
    pure_params,
)
from bert_jax.model.logical import constrain, platform
from bert_jax.model.random_bits import key_sets, row_keys, split_rows

Params = dict


class Embeddings(nnx.Module):
    """Token + position + segment, normalised (Devlin et al. 2018, figure 2)."""

    def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
        # Nothing is learned in the padding: exports may cut it and lose nothing.
        padding = cfg.padded_vocab_size - cfg.vocab_size
        self.token = embedding(cfg, cfg.vocab_size, rngs, padding=padding)
        self.position = embedding(cfg, cfg.max_positions, rngs)
        self.segment = embedding(cfg, cfg.num_segments, rngs)
        self.norm = layer_norm(cfg, rngs)
        self.dropout_rate = cfg.dropout_rate

    def __call__(
        self,
        input_ids_BT: jax.Array,
        segment_ids_BT: jax.Array,
        position_ids_BT: jax.Array,
        keys_B: jax.Array | None,
    ) -> jax.Array:
        x_BTD = (
            self.token(input_ids_BT)
            + self.position(position_ids_BT)
            + self.segment(segment_ids_BT)
        )
        return dropout(self.norm(x_BTD), self.dropout_rate, keys_B)


class AttentionBlock(SelfAttention):
    """Self-attention with its residual and norm."""

    def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(cfg, rngs=rngs)
        self.norm = layer_norm(cfg, rngs)
        self.hidden_dropout_rate = cfg.dropout_rate

    def __call__(
        self, x_BTD: jax.Array, sequence_ids_BT: jax.Array, keys_B: jax.Array | None
    ) -> jax.Array:
        weights_keys, hidden_keys = split_rows(keys_B, 2)
        y_BTD = super().__call__(x_BTD, sequence_ids_BT, weights_keys)
        y_BTD = dropout(y_BTD, self.hidden_dropout_rate, hidden_keys)
        return self.norm(x_BTD + y_BTD)


class MlpBlock(nnx.Module):
    """Two dense layers with GELU between them, residual and norm."""

    def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
        self.cfg = cfg
        self.up = Dense(
            cfg, (cfg.hidden_size,), (cfg.mlp_size,), fp8=cfg.fp8, rngs=rngs
        )
        self.down = Dense(
            cfg, (cfg.mlp_size,), (cfg.hidden_size,), fp8=cfg.fp8, rngs=rngs
        )
        self.norm = layer_norm(cfg, rngs)

    def __call__(self, x_BTD: jax.Array, keys_B: jax.Array | None) -> jax.Array:
        h_BTF = constrain(gelu(self.cfg, self.up(x_BTD)), "batch", "length", "mlp")
        y_BTD = dropout(self.down(h_BTF), self.cfg.dropout_rate, keys_B)
        return self.norm(x_BTD + y_BTD)


class Layer(nnx.Module):
    """One encoder layer (Vaswani et al. 2017, section 3.1, with GELU)."""

    def __init__(self, cfg: ModelConfig, *, rngs: nnx.Rngs):
        self.attention = AttentionBlock(cfg, rngs=rngs)
        self.mlp = MlpBlock(cfg, rngs=rngs)

    def __call__(
        self, x_BTD: jax.Array, sequence_ids_BT: jax.Array, keys_B: jax.Array | None
    ) -> jax.Array:
        attention_keys, mlp_keys = split_rows(keys_B, 2)
        x_BTD = self.attention(x_BTD, sequence_ids_BT, attention_keys)
        x_BTD = self.mlp(x_BTD, mlp_keys)
        return constrain(x_BTD, "batch", "length", "act_embed")


# Of whole layers; remat="attention" is attention's own.
_REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def init_encoder(cfg: ModelConfig, key: jax.Array) -> Params:
    """Fresh `embed` and stacked `layers` parameters, float32."""
    embed_key, layers_key = jax.random.split(key)
    return {
        "embed": pure_params(Embeddings(cfg, rngs=nnx.Rngs(embed_key))),
        "layers": jax.vmap(lambda k: pure_params(Layer(cfg, rngs=nnx.Rngs(k))))(
            jax.random.split(layers_key, cfg.num_layers)
        ),
    }


def encode(
    cfg: ModelConfig,
    params: Params,
    *,
    input_ids: jax.Array,
    segment_ids: jax.Array,
    sequence_ids: jax.Array,
    position_ids: jax.Array,
    key: jax.Array | None,
) -> jax.Array:
    """Runs the encoder.

    Args:
        cfg: static; the config that produced `params`.
        params: holds at least `embed` and `layers`.
        input_ids: int32 [B, T], less than `cfg.vocab_size`.
        segment_ids: int32 [B, T], less than `cfg.num_segments`.
        sequence_ids: int32 [B, T]; tokens attend within their own id.
        position_ids: int32 [B, T], less than `cfg.max_positions`.
        key: of dropout, one or one a row [B]; `None` turns it off.

    Returns:
        Hidden states of the last layer, float32 [B, T, D].

    Raises:
        ValueError: T exceeds the position table, or an id that is known while tracing
            exceeds its own; under jit ids are not known, `limits.check_ids` sees them.

    Source: Devlin et al. 2018, section 3.
    """
    length = input_ids.shape[1]
    if length > cfg.max_positions:
        raise ValueError(
            f"Sequence length {length} exceeds ModelConfig.max_positions="
            f"{cfg.max_positions}; shorten the sequences or enlarge the table."
        )
    check_known("input_ids", input_ids, cfg.vocab_size, "ModelConfig.vocab_size")
    check_known(
        "segment_ids", segment_ids, cfg.num_segments, "ModelConfig.num_segments"
    )
    check_known(
        "position_ids", position_ids, cfg.max_positions, "ModelConfig.max_positions"
    )
    embed_keys, layers_keys = split_rows(row_keys(key, input_ids.shape[0]), 2)
    embed = nnx.merge(graph_of(Embeddings, cfg), params["embed"])
    x_BTD = embed(input_ids, segment_ids, position_ids, embed_keys)
    x_BTD = constrain(x_BTD, "batch", "length", "act_embed")

    def layer(x: jax.Array, inputs: tuple) -> tuple[jax.Array, None]:
        layer_params, layer_keys = inputs
        module = nnx.merge(graph_of(Layer, cfg), layer_params)
        return module(x, sequence_ids, layer_keys), None

    if cfg.remat in _REMAT_POLICIES:
        layer = jax.checkpoint(layer, policy=_REMAT_POLICIES[cfg.remat])
    keys = key_sets(layers_keys, cfg.num_layers)
    if cfg.scans_layers(platform()):
        x_BTD, _ = jax.lax.scan(layer, x_BTD, (params["layers"], keys))
    else:
        for n in range(cfg.num_layers):
            x_BTD, _ = layer(
                x_BTD, jax.tree.map(lambda leaf, n=n: leaf[n], (params["layers"], keys))
            )
    return x_BTD.astype(jnp.float32)


def encode_texts(
    cfg: ModelConfig, params: Params, batch: ClassifyBatch, key: jax.Array | None
) -> jax.Array:
    """Hidden states [B, T, D] of rows that hold one text, or pair of texts, each."""
    length = batch.input_ids.shape[1]
    return encode(
        cfg,
        params,
        input_ids=batch.input_ids,
        segment_ids=batch.segment_ids,
        sequence_ids=batch.input_mask,
        position_ids=jnp.broadcast_to(jnp.arange(length), batch.input_ids.shape),
        key=key,
    )


def with_dropout(cfg: ModelConfig, rate: float | None) -> ModelConfig:
    """`cfg` with one rate for hidden units and attention; `None` changes nothing."""
    if rate is None:
        return cfg
    return dataclasses.replace(cfg, dropout_rate=rate, attention_dropout_rate=rate)


def check_known(name: str, values: Any, limit: int, meaning: str) -> None:
    """`check_range` where the values are known: not traced, and on this host."""
    traced = isinstance(values, jax.core.Tracer)
    if not traced and getattr(values, "is_fully_addressable", True):
        check_range(name, values, limit, meaning)
