"""What the exports that run without bert_jax share: signature, metadata, comparison.

Inputs and outputs carry the names that transformers gives them. Shape letters: B rows,
T tokens, C classes, V vocabulary without its padding.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import bert_jax
from bert_jax.config import ModelConfig
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.exchange.names import Head, Params


class Output(NamedTuple):
    """One array that an exported model returns."""

    name: str
    shape: tuple[str, ...]


INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS: dict[Head, tuple[Output, ...]] = {
    "pretraining": (
        Output("prediction_logits", ("batch", "length", "vocabulary")),
        # Class 0: the second text follows the first; class 1: it is a random one.
        Output("seq_relationship_logits", ("batch", "pair_classes")),
    ),
    "mlm": (Output("logits", ("batch", "length", "vocabulary")),),
    "classifier": (Output("logits", ("batch", "labels")),),
    "tokens": (Output("logits", ("batch", "length", "labels")),),
    "spans": (
        Output("start_logits", ("batch", "length")),
        Output("end_logits", ("batch", "length")),
    ),
}
LABELLED = ("classifier", "tokens")
# input_ids, attention_mask and token_type_ids, [B, T] each -> arrays by output name.
Run = Callable[[np.ndarray, np.ndarray, np.ndarray], Mapping[str, Any]]


def check_pieces(cfg: ModelConfig, tokenizer: Tokenizer) -> None:
    """Raises ValueError unless there is a piece for every row of the token table."""
    if tokenizer.vocab_size != cfg.vocab_size:
        raise ValueError(
            f"The tokenizer has {tokenizer.vocab_size} pieces, ModelConfig.vocab_size="
            f"{cfg.vocab_size}; export with the tokenizer of the training run."
        )


def check_parts(
    cfg: ModelConfig,
    params: Params,
    head: Head,
    tokenizer: Tokenizer,
    labels: Sequence[str] | None,
) -> None:
    """Whether tokenizer and labels belong to this model.

    Raises:
        ValueError: they do not; the message says which and why.
    """
    check_pieces(cfg, tokenizer)
    if head not in LABELLED:
        if labels is not None:
            raise ValueError(
                f"labels={list(labels)} would be ignored: a {head} model has none."
            )
        return
    num_classes = np.shape(params.get(head, {}).get("bias", ()))
    names = list(labels or ())
    if num_classes != (len(names),) or len(set(names)) != len(names):
        raise ValueError(
            f"labels={names} do not fit a {head} bias of shape {list(num_classes)}; "
            "give every class one name of its own."
        )


def metadata(
    cfg: ModelConfig, head: Head, tokenizer: Tokenizer, labels: Sequence[str] | None
) -> dict[str, Any]:
    """What a program needs to know about an exported model, ready for JSON."""
    fields = (
        *("vocab_size", "hidden_size", "num_layers", "num_heads", "mlp_size"),
        *("max_positions", "num_segments", "gelu", "layer_norm_eps"),
    )
    return {
        "bert_jax": bert_jax.__version__,
        "head": head,
        "labels": None if labels is None else list(labels),
        "pad_id": tokenizer.special.pad,
        **{name: getattr(cfg, name) for name in fields},
    }


def largest_difference(
    run: Run,
    head: Head,
    outputs: Sequence[Any],
    input_ids: np.ndarray,
    segment_ids: np.ndarray,
    mask: np.ndarray,
) -> float:
    """How far `run` lies from our logits where tokens are real.

    It runs twice: on the batch, and on its shortest row alone, cut to its real tokens.
    Our logits of that row serve for both, because padding must not matter, so another
    batch size, another length and the padding are compared without a second forward
    pass of ours.

    Args:
        run: the exported model.
        head: decides what it returns.
        outputs: of our `apply`: MLM logits of every position, [B, T, V] with or
            without vocabulary padding, and NSP logits [B, 2]; or class logits [B, C],
            tag logits [B, T, C] or span logits [B, T, 2] alone.
        input_ids, segment_ids, mask: [B, T]; mask is 1 on real tokens, which come
            before the padding.

    Returns:
        The largest absolute difference; NaN when either side has one.

    Raises:
        ValueError: shapes disagree, or a row has padding before real tokens.
    """
    ids, mask, segments = map(np.asarray, (input_ids, mask, segment_ids))
    real = mask != 0
    lengths = real.sum(axis=1)
    if not np.array_equal(real, np.arange(ids.shape[1]) < lengths[:, None]):
        raise ValueError("mask has zeros before ones; put the padding behind the text.")
    expected = _by_name(head, outputs)
    row = int(lengths.argmin())
    alone = (slice(row, row + 1), slice(0, int(lengths[row])))
    cuts = [(slice(None), slice(None)), alone]
    differences = []
    for rows, tokens in cuts if lengths[row] else cuts[:1]:
        found = run(*(x[rows, tokens] for x in (ids, mask, segments)))
        for name, shape in OUTPUTS[head]:
            theirs, ours = np.asarray(found[name]), expected[name][rows]
            if "length" in shape:
                ours = ours[:, tokens]
            if "vocabulary" in shape:
                ours = ours[..., : theirs.shape[-1]]
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


def _by_name(head: Head, outputs: Sequence[Any]) -> dict[str, np.ndarray]:
    arrays = [np.asarray(array) for array in outputs]
    if head == "spans" and len(arrays) == 1:
        arrays = list(np.moveaxis(arrays[0], -1, 0))
    named = [output.name for output in OUTPUTS[head]]
    if len(arrays) != len(named):
        raise ValueError(
            f"{len(arrays)} outputs are given; a {head} model has {len(named)}: "
            f"{', '.join(named)}."
        )
    return dict(zip(named, arrays, strict=True))
