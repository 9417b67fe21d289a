"""The encoder with a score for where an answer starts and ends, as two pure functions.

Shape suffixes: B rows, T tokens, D hidden.
"""

import jax
from flax import nnx

from bert_jax.batch import ClassifyBatch
from bert_jax.config import ModelConfig
from bert_jax.model.encoder import Params, encode_texts, init_encoder, with_dropout
from bert_jax.model.heads import LinearHead, linear_head
from bert_jax.model.layers import pure_params

NUM_ENDS = 2  # of a span: 0 is its first token, 1 its last


def init_params(cfg: ModelConfig, key: jax.Array) -> Params:
    """Draws fresh float32 parameters: encoder and span head, no pooler."""
    encoder_key, head_key = jax.random.split(key)
    head = LinearHead(cfg, NUM_ENDS, rngs=nnx.Rngs(head_key))
    return {**init_encoder(cfg, encoder_key), "spans": pure_params(head)["dense"]}


def apply(
    cfg: ModelConfig,
    params: Params,
    batch: ClassifyBatch,
    *,
    key: jax.Array | None = None,
    dropout_rate: float | None = None,
) -> jax.Array:
    """Start and end logits of every token, float32 [B, T, 2]; the head does not drop.

    Args:
        cfg: static; must fit `params`.
        params: tree from `init_params` or a restored checkpoint.
        batch: question and passage a row, T at most `cfg.max_positions`; labels and
            weights are not read. Padding has logits too: `span_loss` leaves them out,
            and a choice among tokens must.
        key: of dropout; `None` turns it off.
        dropout_rate: in place of the rates in `cfg`, everywhere.

    Raises:
        ValueError: the sequences are longer than the position table, or an id is
            outside its table (where ids are known; under jit they are not).

    Source: Devlin et al. 2018, section 4.2 and figure 4 (c).
    """
    cfg = with_dropout(cfg, dropout_rate)
    hidden_BTD = encode_texts(cfg, params, batch, key)
    return linear_head(cfg, params["spans"])(hidden_BTD)
