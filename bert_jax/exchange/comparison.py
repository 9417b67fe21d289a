"""How far the logits of an exported model lie from ours.

Shape letters: B rows, T tokens.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from bert_jax.config import ModelConfig
from bert_jax.exchange.logits import all_logits
from bert_jax.exchange.signature import OUTPUTS
from bert_jax.exchange.tensors import Head, Params

# input_ids, attention_mask and token_type_ids, [B, T] each -> arrays by output name.
Run = Callable[[np.ndarray, np.ndarray, np.ndarray], Mapping[str, Any]]


class Probe(NamedTuple):
    """Ids to compare on, and our logits of them."""

    outputs: Mapping[str, np.ndarray]
    """Our logits by the names of `signature.OUTPUTS`."""
    input_ids: np.ndarray  # int32 [B, T]
    segment_ids: np.ndarray  # int32 [B, T]
    mask: np.ndarray  # int32 [B, T], 1 on real tokens


def make_probe(cfg: ModelConfig, params: Params, head: Head) -> Probe:
    """Random ids, rows of several lengths and both segments, with our logits."""
    rng = np.random.default_rng(0)
    rows, length = 4, min(cfg.max_positions, 128)
    shape = (rows, length)
    ids_BT = rng.integers(0, cfg.vocab_size, shape).astype(np.int32)
    ends_B = np.linspace(length // 4, length, rows).astype(int)
    mask_BT = (np.arange(length) < ends_B[:, None]).astype(np.int32)
    segments_BT = (np.arange(length) >= ends_B[:, None] // 2).astype(np.int32)
    segments_BT = segments_BT * mask_BT * (cfg.num_segments > 1)
    with jax.default_matmul_precision("highest"):
        logits = jax.jit(all_logits, static_argnums=(0, 2))
        outputs = logits(cfg, params, head, ids_BT, segments_BT, mask_BT)
    return Probe(jax.device_get(outputs), ids_BT, segments_BT, mask_BT)


def largest_difference(run: Run, head: Head, probe: Probe) -> float:
    """How far an exported model lies from our logits where tokens are real.

    It runs twice: on the batch, and on its shortest row alone, cut to its real tokens.
    Our logits of that row serve for both, because padding must not matter, so another
    batch size, another length and the padding are compared without a second forward
    pass of ours.

    Args:
        run: the exported model.
        head: decides what it returns.
        probe: ids and our logits of them. The real tokens of a row come before its
            padding.

    Returns:
        The largest absolute difference; NaN when either side has one.

    Raises:
        ValueError: names or shapes disagree, or a row has padding before real tokens.
    """
    ids, mask, segments = probe.input_ids, probe.mask, probe.segment_ids
    real = mask != 0
    lengths = real.sum(axis=1)
    if not np.array_equal(real, np.arange(ids.shape[1]) < lengths[:, None]):
        raise ValueError("mask has zeros before ones; put the padding behind the text.")
    if odd := sorted(probe.outputs.keys() ^ {output.name for output in OUTPUTS[head]}):
        raise ValueError(
            f"The outputs {odd} are only here or only in the export; are these outputs "
            f"of a {head} model?"
        )
    row = int(lengths.argmin())
    alone = (slice(row, row + 1), slice(0, int(lengths[row])))
    cuts = [(slice(None), slice(None)), alone]
    differences = []
    for rows, tokens in cuts if lengths[row] else cuts[:1]:
        found = run(*(x[rows, tokens] for x in (ids, mask, segments)))
        for name, shape in OUTPUTS[head]:
            theirs, ours = np.asarray(found[name]), probe.outputs[name][rows]
            if "length" in shape:
                ours = ours[:, tokens]
            if ours.shape != theirs.shape:
                raise ValueError(
                    f"{name} is {list(ours.shape)} here and {list(theirs.shape)} in "
                    "the export; are these outputs of the same model and ids?"
                )
            difference = np.abs(ours - theirs)
            if "length" in shape:
                difference = difference[real[rows, tokens]]
            differences.append(difference.max(initial=0.0))
    return float(np.max(differences))
