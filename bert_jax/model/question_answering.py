"""The encoder with a head that scores where an answer starts and ends: two functions.

Shape suffixes: B rows, T tokens, D hidden.
"""

import jax

from bert_jax.batch import ClassifyBatch
from bert_jax.config import ComputeConfig, DropoutConfig, ModelConfig
from bert_jax.model.dropout import Dropout
from bert_jax.model.encoder import Params, encode_texts, init_encoder
from bert_jax.model.heads import (
    init_linear_head,
    init_pooler,
    linear_head,
    pools_tokens,
    token_vectors,
)

NUM_ENDS = 2  # the ends of a span: 0 is its first token, 1 its last token


def init_params(cfg: ModelConfig, key: jax.Array) -> Params:
    """Draws fresh float32 parameters: encoder and span head."""
    encoder_key, head_key = jax.random.split(key)
    params = init_encoder(cfg, encoder_key)
    if pools_tokens(cfg):
        params["pooler"] = init_pooler(cfg, jax.random.fold_in(key, 1))
    return {**params, "spans": init_linear_head(cfg, NUM_ENDS, head_key)}


def apply(
    cfg: ModelConfig,
    params: Params,
    batch: ClassifyBatch,
    *,
    compute: ComputeConfig = ComputeConfig(),
    dropout: DropoutConfig = DropoutConfig(),
    key: jax.Array | None = None,
) -> jax.Array:
    """Start and end logits of every token, float32 [B, T, 2].

    The head itself has no dropout. Padding gets logits too: the loss leaves them out,
    and code that chooses a span must do so as well.

    Args:
        cfg: static; must fit `params`.
        params: tree from `init_params` or a restored checkpoint.
        batch: rows that hold a question and a passage. T must not exceed
            `cfg.max_positions`. Labels and weights are not read.
        compute: static; types and kernels.
        dropout: static; rates of dropout.
        key: random key of dropout, or one key per row [B]. `None` turns dropout off.

    Raises:
        ValueError: the sequences are longer than the position table, or an id is
            outside its table (not checked under jit, where ids are unknown).

    Source: Devlin et al. 2018, section 4.2 and figure 4 (c).
    """
    drops = Dropout.of(dropout, key, batch.input_ids.shape[0])
    hidden_BTD = encode_texts(cfg, params, batch, compute, drops)
    read_BTD = token_vectors(cfg, compute, params, hidden_BTD)
    return linear_head(cfg, compute, params["spans"])(read_BTD)
