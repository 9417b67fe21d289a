"""An exported directory as a PyTorch model of transformers.

No other file runs a model of transformers: the check of Hugging Face exports and the
ONNX exporter load theirs here.
"""

import pathlib
from typing import Any

import numpy as np

from bert_jax.exchange.comparison import Probe, differences
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
    if head in VECTORS:
        options["add_pooling_layer"] = False  # of BERT's pooler, which is not there
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
    """A module that computes rows [B, T] alone, where the model does something else."""
    torch = library("torch", "export", "Models of transformers")

    class Choices(torch.nn.Module):  # type: ignore[name-defined]
        """Takes all rows as the choices of one example."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, **inputs: Any) -> Any:
            ids = {name: x[None] for name, x in inputs.items() if name in INPUTS}
            found = self.model(**{**inputs, **ids})
            found["logits"] = found["logits"].T
            return found

    class Vectors(torch.nn.Module):  # type: ignore[name-defined]
        """Pools the hidden states of each row."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, **inputs: Any) -> Any:
            found = self.model(**inputs)
            hidden = found["last_hidden_state"]
            real = inputs["attention_mask"][..., None].to(hidden.dtype)
            mean = (hidden * real).sum(dim=1) / real.sum(dim=1).clamp(min=1.0)
            found["last_hidden_state"] = (
                mean if VECTORS[head] == "mean" else hidden[:, 0]
            )
            return found

    if head == "choice":
        return Choices()
    return Vectors() if head in VECTORS else model


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
            for name, x in zip(INPUTS, ids, strict=True)
        }
        with torch.no_grad():
            found = model(**inputs)
        return {output.name: found[output.name].numpy() for output in probe.signature}

    return differences(run, probe)
