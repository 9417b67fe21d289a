"""The encoder: embeddings and a stack of layers.

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
from bert_jax.model.dropout import Dropout
from bert_jax.model.layer import Layer
from bert_jax.model.layers import Dense, Keys, embedding, graph_of, pure_params
from bert_jax.model.logical import constrain, platform
from bert_jax.model.norms import Norm
from bert_jax.model.rotary import Rotation, rotation
from bert_jax.model.rows import Rows

Params = dict


class Embeddings(nnx.Module):
    """The sum of up to three embeddings, token, position and segment, normalised.

    Source: Devlin et al. 2018, figure 2; Lan et al. 2020 for the matrix `widen`.
    """

    def __init__(self, cfg: ModelConfig, *, keys: Keys):
        # The padding of the table never learns anything, so exports may cut it off.
        padding = cfg.padded_vocab_size - cfg.vocab_size
        self.cfg = cfg
        self.token = embedding(cfg, cfg.vocab_size, keys, padding=padding)
        if cfg.positions == "learned":
            num_rows = cfg.max_positions + cfg.position_offset
            self.position = embedding(cfg, num_rows, keys)
        if cfg.num_segments:
            self.segment = embedding(cfg, cfg.num_segments, keys)
        if cfg.embed_norm:
            self.norm = Norm(cfg, cfg.token_width, keys=keys)
        if cfg.embed_size is not None:
            widths = (cfg.embed_size,), (cfg.hidden_size,)
            self.widen = Dense(cfg, ComputeConfig(), *widths, keys=keys)

    def __call__(
        self,
        input_ids_BT: jax.Array,
        segment_ids_BT: jax.Array,
        rows: Rows,
        dropout: Dropout,
    ) -> jax.Array:
        cfg, x_BTE = self.cfg, self.token(input_ids_BT)
        if cfg.positions == "learned":
            x_BTE = x_BTE + self.position(rows.position_ids + cfg.position_offset)
        if cfg.num_segments:
            only_one = cfg.num_segments == 1
            segments = jnp.zeros_like(segment_ids_BT) if only_one else segment_ids_BT
            x_BTE = x_BTE + self.segment(segments)
        if cfg.embed_norm:
            x_BTE = self.norm(x_BTE)
        x_BTE = dropout.hidden(x_BTE)
        return x_BTE if cfg.embed_size is None else self.widen(x_BTE)


# Policies for whole layers. remat="attention" is handled inside `attend`.
_REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def init_encoder(cfg: ModelConfig, key: jax.Array) -> Params:
    """Fresh `embed` and stacked `layers` parameters, float32; of pre-norm also `final`."""
    embed_key, layers_key = jax.random.split(key)

    def layer(key: jax.Array) -> Params:
        return pure_params(Layer(cfg, ComputeConfig(), keys=Keys(key)))

    params = {
        "embed": pure_params(Embeddings(cfg, keys=Keys(embed_key))),
        "layers": jax.vmap(layer)(jax.random.split(layers_key, cfg.num_layers)),
    }
    if cfg.norm_position == "pre":
        params["final"] = {"norm": pure_params(Norm(cfg, keys=Keys(jax.random.key(0))))}
    return params


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
    check_known("input_ids", input_ids, cfg.vocab_size, "ModelConfig.vocab_size")
    if cfg.num_segments > 1:
        limit, field = cfg.num_segments, "ModelConfig.num_segments"
        check_known("segment_ids", segment_ids, limit, field)
    limit, field = cfg.max_positions, "ModelConfig.max_positions"
    check_known("position_ids", rows.position_ids, limit, field)
    embed_dropout, layers_dropout = dropout.split(2)
    embed = nnx.merge(graph_of(Embeddings, cfg), params["embed"])
    x_BTD = embed(input_ids, segment_ids, rows, embed_dropout)
    x_BTD = constrain(x_BTD, "batch", "length", "act_embed")
    x_BTD = _run_layers(cfg, compute, params["layers"], rows, layers_dropout, x_BTD)
    if cfg.norm_position == "pre":
        norm = nnx.merge(graph_of(Norm, cfg), params["final"]["norm"])
        x_BTD = norm(x_BTD)
    return x_BTD.astype(jnp.float32)


def _run_layers(
    cfg: ModelConfig,
    compute: ComputeConfig,
    params: Params,
    rows: Rows,
    dropout: Dropout,
    x_BTD: jax.Array,
) -> jax.Array:
    """All layers, as one compiled loop or in a row.

    Layers of two kinds, with a window and without, differ only in their attention, so the
    loop holds one layer and both attentions: large products are what costs compile time.
    """
    reaches = list(dict.fromkeys(cfg.reach(number) for number in range(cfg.num_layers)))
    views = tuple(
        rows.of_layer(reach, _rotation(cfg, rows, reach)) for reach in reaches
    )
    kinds = [reaches.index(cfg.reach(number)) for number in range(cfg.num_layers)]
    # Behind normalised embeddings, the first layer needs no norm before its attention.
    skips = cfg.norm_position == "pre" and cfg.embed_norm

    def layer(x: jax.Array, inputs: Any, views: tuple[Rows, ...]) -> jax.Array:
        layer_params, layer_dropout, kind, is_normal = inputs
        module = nnx.merge(graph_of(Layer, cfg, compute), layer_params)
        return module(x, views, layer_dropout, kind=kind, is_normal=is_normal)

    if compute.remat in _REMAT_POLICIES:
        layer = jax.checkpoint(layer, policy=_REMAT_POLICIES[compute.remat])
    stacked = (params, dropout.stacked(cfg.num_layers))
    if compute.scans_layers(platform()):
        kinds_L = jnp.asarray(kinds, jnp.int32) if len(views) > 1 else None
        is_first_L = jnp.arange(cfg.num_layers) == 0 if skips else None
        x_BTD, _ = jax.lax.scan(
            lambda x, inputs: (layer(x, inputs, views), None),
            x_BTD,
            (*stacked, kinds_L, is_first_L),
        )
        return x_BTD
    for number, kind in enumerate(kinds):
        own = jax.tree.map(lambda leaf, number=number: leaf[number], stacked)
        is_first = True if skips and number == 0 else None
        x_BTD = layer(x_BTD, (*own, None, is_first), views[kind : kind + 1])
    return x_BTD


def _rotation(cfg: ModelConfig, rows: Rows, reach: int | None) -> Rotation | None:
    if cfg.positions != "rotary":
        return None
    theta = cfg.rope_theta if reach is None else cfg.local_rope_theta
    return rotation(rows.position_ids, theta, cfg.head_size)


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
