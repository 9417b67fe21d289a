"""An exported directory as a PyTorch model of transformers.

No other file runs a model of transformers: the check of Hugging Face exports and the
ONNX exporter load theirs here.
"""

import pathlib
from typing import Any

import numpy as np

from bert_jax.exchange.comparison import Probe, differences
from bert_jax.exchange.libraries import library
from bert_jax.exchange.portable import INPUTS
from bert_jax.exchange.tensors import Head, Tensors

# Classes of transformers that choose the model's own class by its config.json.
_AUTO_CLASSES: dict[Head, str] = {
    "pretraining": "AutoModelForPreTraining",
    "mlm": "AutoModelForMaskedLM",
    "classifier": "AutoModelForSequenceClassification",
    "tokens": "AutoModelForTokenClassification",
    "spans": "AutoModelForQuestionAnswering",
}


def load_model(directory: pathlib.Path, head: Head, **options: Any) -> Any:
    """The float32 model in a Hugging Face directory, ready to be evaluated.

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
    return model.eval()


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
