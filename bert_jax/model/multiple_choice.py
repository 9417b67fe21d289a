"""The encoder with a head that scores the choices of a question: two functions.

Shape suffixes: B examples, G choices, T tokens.
"""

import jax
import jax.numpy as jnp

from bert_jax.batch import ClassifyBatch
from bert_jax.config import ComputeConfig, DropoutConfig, ModelConfig
from bert_jax.model import classification
from bert_jax.model.encoder import Params
from bert_jax.model.groups import folded
from bert_jax.model.rows import MASKED_SCORE

_SCORES = 1  # numbers that the head gives for a row


def init_params(cfg: ModelConfig, key: jax.Array) -> Params:
    """Draws fresh float32 parameters: encoder, pooler and the head of one logit."""
    params = classification.init_params(cfg, _SCORES, key)
    head = params.pop("classifier")
    return {**params, "choice": head}


def apply(
    cfg: ModelConfig,
    params: Params,
    batch: ClassifyBatch,
    *,
    compute: ComputeConfig = ComputeConfig(),
    dropout: DropoutConfig = DropoutConfig(),
    key: jax.Array | None = None,
) -> jax.Array:
    """The logit of each choice, float32 [B, G]; -1e9 for a row without tokens.

    Args:
        cfg: static; must fit `params`.
        params: tree from `init_params` or a restored checkpoint.
        batch: tokens [B, G, T]: a row for each choice. T must not exceed
            `cfg.max_positions`.
        compute: static; types and kernels.
        dropout: static; rates of dropout.
        key: random key of dropout, or one key per example [B]. `None` turns it off.

    Raises:
        ValueError: the sequences are longer than the position table, or an id is
            outside its table (not checked under jit, where ids are unknown).

    Source: Devlin et al. 2018, section 4.4.
    """
    rows, keys = folded(batch, key)
    params = {**params, "classifier": params["choice"]}
    logits_R1 = classification.apply(
        cfg, params, rows, compute=compute, dropout=dropout, key=keys
    )
    there_BG = jnp.asarray(batch.input_mask).any(axis=-1)
    return jnp.where(there_BG, logits_R1.reshape(there_BG.shape), MASKED_SCORE)
