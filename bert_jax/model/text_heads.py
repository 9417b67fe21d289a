"""The encoder with a linear head over each text, or over each of its tokens.

Shape suffixes: B rows or examples, G choices of an example, T tokens, D hidden, C logits.
"""

import dataclasses

import jax
import jax.numpy as jnp

from bert_jax.batch import ClassifyBatch
from bert_jax.config import ComputeConfig, DropoutConfig, ModelConfig
from bert_jax.model.dropout import Dropout
from bert_jax.model.encoder import Params, encode_texts, init_encoder
from bert_jax.model.groups import folded
from bert_jax.model.heads import (
    init_linear,
    init_pooler,
    linear,
    pools_tokens,
    text_vectors,
    token_vectors,
)
from bert_jax.model.rows import MASKED_SCORE


@dataclasses.dataclass(frozen=True)
class TextHead:
    """A linear head on the encoder, with pure functions of the whole model."""

    name: str
    """Of the head's parameters."""
    pooled: bool
    """True: the head reads one vector for each text. False: it reads every token."""
    num_logits: int | None = None
    """Logits of a vector. `None`: as many as there are labels."""
    drops: bool = True
    """Whether units of the vectors are dropped, too."""
    of_choices: bool = False
    """Whether a batch has groups of rows, [B, G, T], with one logit for each row."""

    def init_params(self, cfg: ModelConfig, num_labels: int, key: jax.Array) -> Params:
        """Draws fresh float32 parameters: encoder, pooler if the head reads it, head."""
        if self.pooled:
            encoder_key, pooler_key, head_key = jax.random.split(key, 3)
        else:
            encoder_key, head_key = jax.random.split(key)
            pooler_key = jax.random.fold_in(key, 1)
        params = init_encoder(cfg, encoder_key)
        if self.pooled or pools_tokens(cfg):
            params["pooler"] = init_pooler(cfg, pooler_key)
        num_logits = self.num_logits or num_labels
        return {**params, self.name: init_linear(cfg, num_logits, head_key)}

    def apply(
        self,
        cfg: ModelConfig,
        params: Params,
        batch: ClassifyBatch,
        *,
        compute: ComputeConfig = ComputeConfig(),
        dropout: DropoutConfig = DropoutConfig(),
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Logits of each text, float32 [B, C], of every token, [B, T, C], or of choices.

        Padding gets logits too, which mean nothing. Choices have one logit each, [B, G];
        it is -1e9 for a row without tokens.

        Args:
            cfg: static; must fit `params`.
            params: tree from `init_params` or a restored checkpoint.
            batch: tokens [B, T], or [B, G, T] for choices. T must not exceed
                `cfg.max_positions`. Labels and weights are not read.
            compute: static; types and kernels.
            dropout: static; rates of dropout.
            key: random key of dropout, or one key per row or example [B]. `None` turns
                dropout off.

        Raises:
            ValueError: the sequences are longer than the position table, or an id is
                outside its table (not checked under jit, where ids are unknown).

        Source: Devlin et al. 2018, sections 3.2, 4.1 to 4.4 and 5.3.
        """
        rows, keys = folded(batch, key) if self.of_choices else (batch, key)
        drops = Dropout.of(dropout, keys, rows.input_ids.shape[0])
        head_drops = None
        if self.drops:
            drops, head_drops = drops.split(2)
        hidden_BTD = encode_texts(cfg, params, rows, compute, drops)
        logits = self.logits(
            cfg, params, hidden_BTD, rows.input_mask, compute, head_drops
        )
        if not self.of_choices:
            return logits
        there_BG = jnp.asarray(batch.input_mask).any(axis=-1)
        return jnp.where(there_BG, logits.reshape(there_BG.shape), MASKED_SCORE)

    def logits(
        self,
        cfg: ModelConfig,
        params: Params,
        hidden_BTD: jax.Array,
        mask_BT: jax.Array,
        compute: ComputeConfig,
        dropout: Dropout | None = None,
    ) -> jax.Array:
        """The head alone, on the encoder's last hidden states: a logit vector for each
        text, float32 [B, C], or for every token, [B, T, C]."""
        if self.pooled:
            pooler = params["pooler"]
            read = text_vectors(cfg, compute, pooler, hidden_BTD, mask_BT)
        else:
            read = token_vectors(cfg, compute, params, hidden_BTD)
        if dropout is not None:
            read = dropout.hidden(read)
        return linear(cfg, compute, params[self.name], read)


CLASSIFIER = TextHead("classifier", pooled=True)
TOKENS = TextHead("tokens", pooled=False)
# The two logits are those of the first and the last token of a span.
SPANS = TextHead("spans", pooled=False, num_logits=2, drops=False)
CHOICE = TextHead("choice", pooled=True, num_logits=1, of_choices=True)
TEXT_HEADS = {head.name: head for head in (CLASSIFIER, TOKENS, SPANS, CHOICE)}
