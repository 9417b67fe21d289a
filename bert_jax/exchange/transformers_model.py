"""An exported directory as a PyTorch model of transformers.

No other file runs a model of transformers: the check of Hugging Face exports and the
ONNX exporter load theirs here.
"""

import pathlib
from typing import Any

import numpy as np

from bert_jax.exchange.comparison import Probe, differences
from bert_jax.exchange.families.registry import family_in
from bert_jax.exchange.libraries import library
from bert_jax.exchange.portable import INPUTS, VECTORS
from bert_jax.exchange.tensors import Head, Tensors

# Classes of transformers that choose the model's own class by its config.json.
_AUTO_CLASSES: dict[Head, str] = {
    "pretraining": "AutoModelForPreTraining",
    "mlm": "AutoModelForMaskedLM",
    "classifier": "AutoModelForSequenceClassification",
    "tokens": "AutoModelForTokenClassification",
    "spans": "AutoModelForQuestionAnswering",
    "choice": "AutoModelForMultipleChoice",
    "mean_vector": "AutoModel",
    "cls_vector": "AutoModel",
}


def load_model(directory: pathlib.Path, head: Head, **options: Any) -> Any:
    """The float32 model in a Hugging Face directory, ready to be evaluated.

    It gives the outputs that `portable.OUTPUTS` names, each row by itself.

    Args:
        directory: with config.json and model.safetensors.
        head: decides which Auto class loads it.
        options: more arguments for `from_pretrained`.

    Raises:
        ValueError: PyTorch or transformers is not installed, or transformers finds
            missing, unexpected or misshapen tensors.
    """
    torch = library("torch", "export", "Models of transformers")
    transformers = library("transformers", "export", "Models of transformers")
    if head in VECTORS and family_in(directory).base_pools:
        options["add_pooling_layer"] = False
    # Misshapen tensors are reported beside the missing ones instead of raised at once.
    model, info = getattr(transformers, _AUTO_CLASSES[head]).from_pretrained(
        directory,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **options,
    )
    if problems := {kind: names for kind, names in info.items() if names}:
        raise ValueError(
            f"{directory} does not load cleanly as {type(model).__name__}: {problems}. "
            "Write it again; do not use it."
        )
    return _by_rows(model, head).eval()


def _by_rows(model: Any, head: Head) -> Any:
    """A module that computes each row of [B, T] by itself, as the others do."""
    if head != "choice" and head not in VECTORS:
        return model
    torch = library("torch", "export", "Models of transformers")

    class ByRows(torch.nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        # PyTorch's exporter takes the inputs by the names of the arguments.
        def forward(
            self,
            input_ids: Any,
            attention_mask: Any,
            token_type_ids: Any = None,
            output_hidden_states: bool = False,
        ) -> Any:
            given = (input_ids, attention_mask, token_type_ids)
            ids = {
                # All rows are the choices of one example.
                name: x[None] if head == "choice" else x
                for name, x in zip(INPUTS, given, strict=True)
                if x is not None
            }
            found = self.model(**ids, output_hidden_states=output_hidden_states)
            if head == "choice":
                found["logits"] = found["logits"].T
            else:
                hidden = found["last_hidden_state"]
                found["last_hidden_state"] = _pooled(hidden, attention_mask, head)
            return found

    return ByRows()


def _pooled(hidden: Any, mask: Any, head: Head) -> Any:
    """The vector of each row, [B, D]."""
    if VECTORS[head] == "cls":
        return hidden[:, 0]
    real = mask[..., None].to(hidden.dtype)
    return (hidden * real).sum(dim=1) / real.sum(dim=1).clamp(min=1.0)


def verify_huggingface(directory: pathlib.Path, probe: Probe) -> dict[str, float]:
    """Largest differences between our logits and transformers' on the same ids.

    See `comparison.differences`.

    Raises:
        ValueError: `load_model` refuses the directory, or shapes disagree.
    """
    model = load_model(directory, probe.head)
    torch = library("torch", "export", "Models of transformers")

    def run(*ids: np.ndarray) -> Tensors:
        inputs = {
            name: torch.tensor(np.asarray(x, np.int64))
            for name, x in zip(probe.inputs, ids, strict=False)
        }
        with torch.no_grad():
            found = model(**inputs)
        return {output.name: found[output.name].numpy() for output in probe.signature}

    return differences(run, probe)
