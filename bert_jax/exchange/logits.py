"""What a model with one head computes, under the names that exports give its outputs."""

import jax
import jax.numpy as jnp

from bert_jax.batch import ClassifyBatch, PretrainBatch
from bert_jax.config import ComputeConfig, DropoutConfig, ModelConfig
from bert_jax.exchange.heads import MLM_PARTS
from bert_jax.exchange.portable import HIDDEN_STATES, OUTPUTS, VECTORS
from bert_jax.exchange.tensors import Head, Params
from bert_jax.model import pretraining
from bert_jax.model.dropout import Dropout
from bert_jax.model.encoder import encode_texts, init_encoder
from bert_jax.model.masking import MaskedBatch
from bert_jax.model.sentence_embedding import pooled
from bert_jax.model.text_heads import TEXT_HEADS
from bert_jax.train.tensors import named_leaves

# Float32 by operations that every platform has.
PLAIN = ComputeConfig(attention="xla", products="xla", scan_layers=True)


def forward(
    cfg: ModelConfig,
    params: Params,
    head: Head,
    hidden_states: bool,
    input_ids: jax.Array,
    segment_ids: jax.Array,
    mask: jax.Array,
) -> dict[str, jax.Array]:
    """Float32 outputs by the names of `PortableModel.outputs`, no vocabulary padding.

    Args:
        cfg: of `params`.
        params: of `head` and nothing else.
        head: what is on top of the encoder. The masked-word logits are those of every
            position.
        hidden_states: whether the encoder's last hidden states are among the outputs.
        input_ids, segment_ids, mask: int32 [B, T]; the mask is 1 on real tokens.
    """
    if head in ("pretraining", "mlm"):
        found = _pretraining(cfg, params, head, input_ids, segment_ids, mask)
    else:
        batch = ClassifyBatch(input_ids, segment_ids, mask, labels=None, weights=None)
        found = _text_task(cfg, params, head, batch)
    if not hidden_states:
        del found[HIDDEN_STATES.name]
    return found


def param_shapes(
    cfg: ModelConfig, head: Head, num_outputs: int
) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of a model with one head, by its path.

    Args:
        cfg: the architecture.
        head: what is on top of the encoder.
        num_outputs: logits of the head, where it may have any number of them.
    """
    key = jax.random.key(0)
    if head in ("pretraining", "mlm"):
        tree = jax.eval_shape(lambda: pretraining.init_params(cfg, key))
        if head == "mlm":
            tree = {part: tree[part] for part in MLM_PARTS if part in tree}
    elif head in VECTORS:
        tree = jax.eval_shape(lambda: init_encoder(cfg, key))
    else:
        init = TEXT_HEADS[head].init_params
        tree = jax.eval_shape(lambda: init(cfg, num_outputs, key))
    return {name: leaf.shape for name, leaf in named_leaves(tree).items()}


def _text_task(
    cfg: ModelConfig, params: Params, head: Head, batch: ClassifyBatch
) -> dict[str, jax.Array]:
    no_dropout = Dropout.of(DropoutConfig(), None, batch.input_ids.shape[0])
    hidden_BTD = encode_texts(cfg, params, batch, PLAIN, no_dropout)
    names = [output.name for output in OUTPUTS[head]]
    if head in VECTORS:
        vector_BD = pooled(hidden_BTD, batch.input_mask, VECTORS[head])
        return {names[0]: vector_BD, HIDDEN_STATES.name: hidden_BTD}
    logits = TEXT_HEADS[head].logits(cfg, params, hidden_BTD, batch.input_mask, PLAIN)
    # One output has all logits; several have one each.
    split = [logits] if len(names) == 1 else jnp.moveaxis(logits, -1, 0)
    return {**dict(zip(names, split, strict=True)), HIDDEN_STATES.name: hidden_BTD}


def _pretraining(
    cfg: ModelConfig,
    params: Params,
    head: Head,
    input_ids: jax.Array,
    segment_ids: jax.Array,
    mask: jax.Array,
) -> dict[str, jax.Array]:
    every_BT = jnp.broadcast_to(
        jnp.arange(input_ids.shape[1], dtype=jnp.int32)[None], input_ids.shape
    )
    batch = PretrainBatch(
        input_ids,
        segment_ids,
        mask,
        every_BT,
        cls_positions=jnp.zeros((input_ids.shape[0], 1), jnp.int32),
        nsp_labels=None,
        nsp_weights=None,
    )
    # Every position is a slot, so that all have logits.
    slots = MaskedBatch(input_ids, every_BT, input_ids, mask)
    if head == "mlm":
        # No masked-word logit depends on the parts that this head lacks.
        shapes = jax.eval_shape(lambda: pretraining.init_params(cfg, jax.random.key(0)))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        params = {**zeros, **params}
    out = pretraining.apply(cfg, params, batch, slots, compute=PLAIN)
    mlm_BTV = out.mlm_logits[..., : cfg.vocab_size]
    found = {HIDDEN_STATES.name: out.hidden}
    if head == "mlm":
        return found | {"logits": mlm_BTV}
    assert out.nsp_logits is not None
    pair_B2 = out.nsp_logits[:, 0]
    return found | {"prediction_logits": mlm_BTV, "seq_relationship_logits": pair_B2}
