"""The parts on top of the encoder: pooler, masked-LM head and linear heads.

Shape suffixes: B rows, P pairs in a row, M masked slots, D hidden, V padded vocabulary,
C classes.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.config import ComputeConfig, ModelConfig
from bert_jax.model.layers import (
    Dense,
    Keys,
    activation,
    embedding,
    graph_of,
    pure_params,
)
from bert_jax.model.linear_cross_entropy import linear_cross_entropy
from bert_jax.model.logical import constrain
from bert_jax.model.norms import Norm
from bert_jax.model.products import add_bias, product
from bert_jax.model.rows import MASKED_SCORE


class _WithTransform(nnx.Module):
    """Dense layer, activation and norm, down to the width of the token table."""

    def __init__(self, cfg: ModelConfig, compute: ComputeConfig, *, keys: Keys):
        widths = (cfg.hidden_size,), (cfg.token_width,)
        self.cfg = cfg
        self.transform = Dense(cfg, compute, *widths, bias=cfg.head_bias, keys=keys)
        self.norm = Norm(cfg, cfg.token_width, keys=keys)

    def transformed(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., E], float32"""
        return self.norm(activation(self.cfg, self.transform(x)))


class Transform(_WithTransform):
    """The masked-LM head's transform as a pooler."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.transformed(x)


class MlmHead(_WithTransform):
    """The transform if there is one, a product with the token table, and a bias if any."""

    def __init__(self, cfg: ModelConfig, compute: ComputeConfig, *, keys: Keys):
        self.cfg, self.compute = cfg, compute
        if cfg.mlm_transform:
            super().__init__(cfg, compute, keys=keys)
        if not cfg.tied_decoder:
            padding = cfg.padded_vocab_size - cfg.vocab_size
            self.decoder = embedding(
                *(cfg, cfg.vocab_size, keys), padding=padding, width=self._width
            )
        if cfg.mlm_bias:
            self.output_bias = nnx.Param(jnp.zeros(cfg.padded_vocab_size, jnp.float32))

    @property
    def _width(self) -> int:
        cfg = self.cfg
        return cfg.token_width if cfg.mlm_transform else cfg.hidden_size

    def __call__(self, x_BMD: jax.Array, table_VD: jax.Array) -> jax.Array:
        """Float32 logits [B, M, V]. Padding rows of the table get logits of about -1e9."""
        x_BMD, table_VD = self._transformed(x_BMD), self._table(table_VD)
        dtype = jnp.dtype(self.compute.dtype)
        logits_RV = product(
            x_BMD.reshape(-1, x_BMD.shape[-1]).astype(dtype),  # as in `Dense`
            table_VD.astype(dtype),
            transposed=True,
            out_dtype=jnp.float32,
            products=self.compute.products,
        )
        logits_RV = constrain(add_bias(logits_RV, self._real_bias()), "batch", "vocab")
        return logits_RV.reshape(*x_BMD.shape[:2], -1)

    def loss_sums(
        self,
        x_BMD: jax.Array,
        table_VD: jax.Array,
        labels_BM: jax.Array,
        weights_BM: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        """`linear_cross_entropy` of the same logits, which are never all in memory."""
        return linear_cross_entropy(
            self._transformed(x_BMD),
            self._table(table_VD),
            self._real_bias(),
            labels_BM,
            weights_BM,
            dtype=self.compute.dtype,
        )

    def _transformed(self, x_BMD: jax.Array) -> jax.Array:
        return self.transformed(x_BMD) if self.cfg.mlm_transform else x_BMD

    def _table(self, tokens_VD: jax.Array) -> jax.Array:
        return tokens_VD if self.cfg.tied_decoder else self.decoder.embedding[...]

    def _real_bias(self) -> jax.Array:
        real_V = jnp.arange(self.cfg.padded_vocab_size) < self.cfg.vocab_size
        bias_V = self.output_bias[...] if self.cfg.mlm_bias else 0.0
        return jnp.where(real_V, bias_V, MASKED_SCORE)


def pool(
    cfg: ModelConfig, compute: ComputeConfig, params: dict, x: jax.Array
) -> jax.Array:
    """The pooler: a dense layer with an activation, [..., D] -> [..., D], float32."""
    if cfg.pooler == "mlm_transform":
        return nnx.merge(graph_of(Transform, cfg, compute), params)(x)
    y = linear(cfg, compute, params, x)
    if cfg.pooler == "gelu":
        return jax.nn.gelu(y, approximate=False)
    return jax.nn.relu(y) if cfg.pooler == "relu" else jnp.tanh(y)


def linear(
    cfg: ModelConfig, compute: ComputeConfig, params: dict, x: jax.Array
) -> jax.Array:
    """A dense layer, [..., D] -> [..., C], float32. C is the length of the bias."""
    widths = (cfg.hidden_size,), params["bias"].shape
    dense = nnx.merge(graph_of(Dense, cfg, compute, *widths), params)
    return dense(x).astype(jnp.float32)


def text_vectors(
    cfg: ModelConfig,
    compute: ComputeConfig,
    params: dict,
    hidden_BTD: jax.Array,
    mask_BT: jax.Array,
) -> jax.Array:
    """What a classifier reads of each text, float32 [B, D].

    Args:
        cfg, compute: static.
        params: of the pooler.
        hidden_BTD: last hidden states.
        mask_BT: int32, 1 on real tokens; a text has at least one.
    """
    if cfg.pooling == "late":
        return mean_of_tokens(pool(cfg, compute, params, hidden_BTD), mask_BT)
    mean = cfg.pooling == "mean"
    x_BD = mean_of_tokens(hidden_BTD, mask_BT) if mean else hidden_BTD[:, 0]
    return pool(cfg, compute, params, x_BD)


def token_vectors(
    cfg: ModelConfig, compute: ComputeConfig, params: dict, hidden_BTD: jax.Array
) -> jax.Array:
    """What a head over every token reads, float32 [B, T, D].

    Args:
        cfg, compute: static.
        params: with a `pooler` if `pools_tokens(cfg)`.
        hidden_BTD: last hidden states.
    """
    if not pools_tokens(cfg):
        return hidden_BTD
    return pool(cfg, compute, params["pooler"], hidden_BTD)


def pools_tokens(cfg: ModelConfig) -> bool:
    """Whether heads over tokens read the pooler's vectors, as those over texts do."""
    return cfg.pooler == "mlm_transform"


def mean_of_tokens(hidden_BTD: jax.Array, mask_BT: jax.Array) -> jax.Array:
    """The mean over the real tokens of each row, [B, D]; of a row without any, 0."""
    real_BT1 = (jnp.asarray(mask_BT) > 0)[..., None]
    sum_BD = jnp.where(real_BT1, hidden_BTD, 0.0).sum(axis=1)
    return sum_BD / jnp.maximum(real_BT1.sum(axis=1), 1)


def init_pooler(cfg: ModelConfig, key: jax.Array) -> dict:
    """Fresh parameters of a pooler, float32."""
    if cfg.pooler == "mlm_transform":
        return pure_params(Transform(cfg, ComputeConfig(), keys=Keys(key)))
    return init_linear(cfg, cfg.hidden_size, key)


def init_linear(cfg: ModelConfig, num_outputs: int, key: jax.Array) -> dict:
    """Fresh parameters of `linear`, float32."""
    widths = (cfg.hidden_size,), (num_outputs,)
    return pure_params(Dense(cfg, ComputeConfig(), *widths, keys=Keys(key)))
