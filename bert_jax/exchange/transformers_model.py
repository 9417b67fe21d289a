"""An exported directory as a PyTorch model of transformers.

No other file runs a model of transformers: the check of Hugging Face exports and the
ONNX exporter load theirs here, with the inputs and outputs of every other export.
"""

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bert_jax.exchange.comparison import Probe, differences
from bert_jax.exchange.families.registry import family_in
from bert_jax.exchange.libraries import library
from bert_jax.exchange.portable import HIDDEN_STATES, INPUTS, OUTPUTS, VECTORS, Output
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


def load_model(
    directory: pathlib.Path, head: Head, outputs: Iterable[Output], **options: Any
) -> Any:
    """The float32 model in a Hugging Face directory, ready to be evaluated.

    It takes `portable.INPUTS` by name and gives a dict of the outputs. Each row is
    computed by itself, for every head.

    Args:
        directory: with config.json and model.safetensors.
        head: decides which Auto class loads it.
        outputs: what the model gives, in this order.
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
    return _portable(model, head, [output.name for output in outputs]).eval()


def _portable(model: Any, head: Head, names: Sequence[str]) -> Any:
    """A module that gives the outputs of these names."""
    torch = library("torch", "export", "Models of transformers")
    is_choice, wants_hidden = head == "choice", HIDDEN_STATES.name in names

    class Portable(torch.nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        # PyTorch's exporter takes the inputs by the names of the arguments.
        def forward(
            self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None
        ) -> dict[str, Any]:
            given = (input_ids, attention_mask, token_type_ids)
            ids = {
                # All rows are the choices of one example.
                name: x[None] if is_choice else x
                for name, x in zip(INPUTS, given, strict=True)
                if x is not None
            }
            found = dict(self.model(**ids, output_hidden_states=wants_hidden))
            if is_choice:
                found["logits"] = found["logits"].T
            if head in VECTORS:
                hidden = found[HIDDEN_STATES.name]
                found[OUTPUTS[head][0].name] = _pooled(hidden, attention_mask, head)
            elif wants_hidden:
                found[HIDDEN_STATES.name] = found["hidden_states"][-1]
            return {name: found[name] for name in names}

    return Portable()


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
    model = load_model(directory, probe.head, probe.signature)
    return torch_differences(lambda inputs: model(**inputs), probe)


def torch_differences(
    call: Callable[[dict[str, Any]], Mapping[str, Any]], probe: Probe
) -> dict[str, float]:
    """Largest differences between our outputs and those of a model in PyTorch.

    See `comparison.differences`.

    Args:
        call: takes tensors by the names of the inputs; gives tensors by the names of the
            outputs, and maybe more.
    """
    torch = library("torch", "export", "Models of transformers")

    def run(*ids: np.ndarray) -> Tensors:
        inputs = {
            name: torch.tensor(np.asarray(x, np.int64))
            for name, x in zip(probe.inputs, ids, strict=False)
        }
        with torch.no_grad():
            found = call(inputs)
        return {output.name: found[output.name].numpy() for output in probe.signature}

    return differences(run, probe)
