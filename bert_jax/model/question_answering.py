"""The encoder with a head that scores where an answer starts and ends: two functions.

Shape suffixes: B rows, T tokens, D hidden.
"""

import jax

from bert_jax.batch import ClassifyBatch
from bert_jax.config import ComputeConfig, DropoutConfig, ModelConfig
from bert_jax.model import token_classification
from bert_jax.model.dropout import Dropout
from bert_jax.model.encoder import Params, encode_texts
from bert_jax.model.heads import linear_head, token_vectors

NUM_ENDS = 2  # the ends of a span: 0 is its first token, 1 its last token


def init_params(cfg: ModelConfig, key: jax.Array) -> Params:
    """Draws fresh float32 parameters: encoder and span head."""
    params = token_classification.init_params(cfg, NUM_ENDS, key)
    head = params.pop("tokens")
    return {**params, "spans": head}


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
