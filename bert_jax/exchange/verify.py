"""An export loaded back by transformers and its logits held against ours.

The one place that runs another library's model: torch and transformers are needed here.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from bert_jax.exchange.huggingface import architecture
from bert_jax.exchange.names import Head, Tensors
from bert_jax.exchange.portable import INPUTS, OUTPUTS, largest_difference


def verify_huggingface(
    directory: pathlib.Path,
    head: Head,
    outputs: Sequence[Any],
    input_ids: np.ndarray,
    segment_ids: np.ndarray,
    mask: np.ndarray,
) -> float:
    """Largest difference between our logits and transformers' on the same ids.

    See `portable.largest_difference`.

    Raises:
        ValueError: transformers finds missing, unexpected or misshapen tensors, or
            shapes disagree.
    """
    import torch
    import transformers

    auto = architecture(head).replace("Bert", "AutoModel")
    # Misshapen tensors are reported beside the missing ones instead of raised at once.
    model, info = getattr(transformers, auto).from_pretrained(
        directory,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    if problems := {kind: names for kind, names in info.items() if names}:
        raise ValueError(
            f"{directory} does not load cleanly as {architecture(head)}: {problems}. "
            "Write it again; do not use it."
        )
    model.eval()

    def run(*ids: np.ndarray) -> Tensors:
        inputs = {
            name: torch.tensor(np.asarray(x, np.int64))
            for name, x in zip(INPUTS, ids, strict=True)
        }
        with torch.no_grad():
            found = model(**inputs)
        return {output.name: found[output.name].numpy() for output in OUTPUTS[head]}

    return largest_difference(run, head, outputs, input_ids, segment_ids, mask)
