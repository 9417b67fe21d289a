"""All logits of a model with one head, under the names that exports give them."""

import jax
import jax.numpy as jnp

from bert_jax.batch import ClassifyBatch, PretrainBatch
from bert_jax.config import ComputeConfig, ModelConfig
from bert_jax.exchange.heads import MLM_PARTS
from bert_jax.exchange.signature import OUTPUTS
from bert_jax.exchange.tensors import Head, Params
from bert_jax.model import pretraining
from bert_jax.model.masking import MaskedBatch
from bert_jax.train.tasks import TASKS, Task

# Float32 by operations that every platform has.
PLAIN = ComputeConfig(attention="xla", products="xla", scan_layers=True)


def all_logits(
    cfg: ModelConfig,
    params: Params,
    head: Head,
    input_ids: jax.Array,
    segment_ids: jax.Array,
    mask: jax.Array,
) -> dict[str, jax.Array]:
    """Float32 logits by the names of `signature.OUTPUTS`, without vocabulary padding.

    Args:
        cfg: of `params`.
        params: of `head` and nothing else.
        head: what is on top of the encoder. The masked-word logits are those of every
            position.
        input_ids, segment_ids, mask: int32 [B, T]; the mask is 1 on real tokens.
    """
    if head in ("pretraining", "mlm"):
        return _pretraining(cfg, params, head, input_ids, segment_ids, mask)
    batch = ClassifyBatch(input_ids, segment_ids, mask, labels=None, weights=None)
    logits = _task_of_head(head).apply(cfg, params, batch, compute=PLAIN)
    names = [output.name for output in OUTPUTS[head]]
    if len(names) == 1:
        return {names[0]: logits}
    return {name: logits[..., index] for index, name in enumerate(names)}


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
            tree = {part: tree[part] for part in MLM_PARTS}
    else:
        task = _task_of_head(head)
        tree = jax.eval_shape(lambda: task.init_params(cfg, num_outputs, key))
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in leaves
    }


def _task_of_head(head: Head) -> Task:
    """Any task with this head: its logits depend on the head alone."""
    return next(task for task in TASKS.values() if task.head == head)


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
    if head == "mlm":
        return {"logits": mlm_BTV}
    pair_B2 = out.nsp_logits[:, 0]
    return {"prediction_logits": mlm_BTV, "seq_relationship_logits": pair_B2}
