"""The parts on top of the encoder: pooler, masked-LM head and linear heads.

Shape suffixes: B rows, P pairs in a row, M masked slots, D hidden, V padded vocabulary,
C classes.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.config import ComputeConfig, ModelConfig
from bert_jax.model.layers import Dense, gelu, graph_of, layer_norm, pure_params
from bert_jax.model.linear_cross_entropy import linear_cross_entropy
from bert_jax.model.logical import constrain
from bert_jax.model.products import add_bias, product
from bert_jax.model.rows import MASKED_SCORE


class Pooler(nnx.Module):
    """A dense layer with tanh on the hidden state of [CLS]."""

    def __init__(self, cfg: ModelConfig, compute: ComputeConfig, *, rngs: nnx.Rngs):
        width = (cfg.hidden_size,)
        self.dense = Dense(cfg, compute, width, width, rngs=rngs)

    def __call__(self, x_BPD: jax.Array) -> jax.Array:
        return jnp.tanh(self.dense(x_BPD).astype(jnp.float32))


class MlmHead(nnx.Module):
    """Dense layer, GELU and norm, then a product with the token table, plus a bias."""

    def __init__(self, cfg: ModelConfig, compute: ComputeConfig, *, rngs: nnx.Rngs):
        self.cfg, self.compute = cfg, compute
        width = (cfg.hidden_size,)
        self.transform = Dense(cfg, compute, width, width, rngs=rngs)
        self.norm = layer_norm(cfg, rngs)
        self.output_bias = nnx.Param(jnp.zeros(cfg.padded_vocab_size, jnp.float32))

    def __call__(self, x_BMD: jax.Array, table_VD: jax.Array) -> jax.Array:
        """Float32 logits [B, M, V]. Padding rows of the table get logits of about -1e9."""
        x_BMD = self._transformed(x_BMD)
        dtype = jnp.dtype(self.compute.dtype)
        logits_RV = product(
            x_BMD.reshape(-1, x_BMD.shape[-1]).astype(dtype),  # as in `Dense`
            table_VD.astype(dtype),
            transposed=True,
            out_dtype=jnp.float32,
            products=self.compute.products,
        )
        logits_RV = add_bias(logits_RV, self._real_bias())
        logits_BMV = logits_RV.reshape(*x_BMD.shape[:2], -1)
        return constrain(logits_BMV, "batch", None, "vocab")

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
            table_VD,
            self._real_bias(),
            labels_BM,
            weights_BM,
            dtype=self.compute.dtype,
        )

    def _transformed(self, x_BMD: jax.Array) -> jax.Array:
        return self.norm(gelu(self.cfg, self.transform(x_BMD)))

    def _real_bias(self) -> jax.Array:
        real_V = jnp.arange(self.cfg.padded_vocab_size) < self.cfg.vocab_size
        return jnp.where(real_V, self.output_bias[...], MASKED_SCORE)


class LinearHead(nnx.Module):
    """One dense layer that gives `num_classes` float32 logits."""

    def __init__(
        self,
        cfg: ModelConfig,
        compute: ComputeConfig,
        num_classes: int,
        *,
        rngs: nnx.Rngs,
    ):
        width = (cfg.hidden_size,)
        self.dense = Dense(cfg, compute, width, (num_classes,), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., C]"""
        return self.dense(x).astype(jnp.float32)


def pooler(cfg: ModelConfig, compute: ComputeConfig, params: dict) -> Pooler:
    """The pooler that holds `params`."""
    return nnx.merge(graph_of(Pooler, cfg, compute), {"dense": params})


def linear_head(cfg: ModelConfig, compute: ComputeConfig, params: dict) -> LinearHead:
    """The head that holds `params`. Its number of classes is the length of the bias."""
    graph = graph_of(LinearHead, cfg, compute, params["bias"].shape[0])
    return nnx.merge(graph, {"dense": params})


def init_pooler(cfg: ModelConfig, key: jax.Array) -> dict:
    """Fresh parameters of a pooler, float32."""
    module = Pooler(cfg, ComputeConfig(), rngs=nnx.Rngs(key))
    return pure_params(module)["dense"]


def init_linear_head(cfg: ModelConfig, num_classes: int, key: jax.Array) -> dict:
    """Fresh parameters of a linear head, float32."""
    module = LinearHead(cfg, ComputeConfig(), num_classes, rngs=nnx.Rngs(key))
    return pure_params(module)["dense"]
