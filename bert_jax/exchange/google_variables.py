"""The variables of one Google checkpoint: weights, Adam's slots and the step.

They are read one by one and by name. TF2 checkpoints come out with the names and the
layout of TF1.
"""

import pathlib
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from bert_jax.config import ModelConfig
from bert_jax.exchange import google_tf2
from bert_jax.exchange.families.bert import BERT
from bert_jax.exchange.families.google_bert import google_rows
from bert_jax.exchange.google_files import CONFIG_FILE, tensorflow
from bert_jax.exchange.source import FLOATS, Slots, note_floats
from bert_jax.exchange.tensors import Head, Tensors

WORDS = "bert/embeddings/word_embeddings"

_SLOT = re.compile(r"(.+)/adam_([mv])")
_LAYER = re.compile(r"bert/encoder/layer_(\d+)/")


def load_variables(
    prefix: pathlib.Path, model: ModelConfig, notes: list[str]
) -> dict[str, Any]:
    """The variables by their TF1 names and in their layout, as they are stored."""
    reader = _open(prefix)
    kinds = reader.get_variable_to_dtype_map()
    names = {name: name for name in kinds}
    if is_tf2 := any(name.endswith(google_tf2.SUFFIX) for name in names):
        known = google_tf2.google_names(sorted(names), model.num_layers, notes)
        notes.append("The checkpoint is of the TF2 model garden.")
        names = {name: known.get(name, name) for name in names}
    variables: dict[str, Any] = {}
    for theirs, name in sorted(names.items()):
        if kinds[theirs].name == "string":  # the object graph of TF2
            continue
        array = _get(prefix, reader, theirs)
        if is_tf2:
            heads = google_tf2.num_heads(name, array.shape)
            if heads not in (None, model.num_heads):
                raise ValueError(
                    f"{prefix}: {theirs!r} has {heads} attention heads, "
                    f"{CONFIG_FILE} {model.num_heads}; one of them is of another model."
                )
            array = google_tf2.google_layout(name, array)
        variables[name] = array
    return variables


def _open(prefix: pathlib.Path) -> Any:
    tf = tensorflow()
    try:
        return tf.train.load_checkpoint(str(prefix))
    except (tf.errors.OpError, ValueError, IndexError) as error:
        raise ValueError(f"{prefix} is damaged ({error}); fetch it again.") from error


def _get(prefix: pathlib.Path, reader: Any, name: str) -> np.ndarray:
    # A checksum guards every variable; what is short or absent has other errors.
    try:
        return np.asarray(reader.get_tensor(name))
    except (tensorflow().errors.OpError, ValueError, IndexError) as error:
        raise ValueError(
            f"{prefix}: {name!r} cannot be read ({error}); fetch all files again."
        ) from error


def _known_names(model: ModelConfig, heads: Collection[Head]) -> set[str]:
    return {row.theirs for head in heads for row in google_rows(model, head)}


def sort_variables(
    prefix: pathlib.Path,
    variables: Mapping[str, np.ndarray],
    model: ModelConfig,
    notes: list[str],
) -> tuple[Tensors, Slots | None]:
    """Weights and Adam's slots; what an optimizer or a loss scale left is dropped."""
    known = _known_names(model, BERT.heads)
    tensors: Tensors = {}
    slots = Slots({}, {})
    dropped: list[str] = []
    kinds: list[str] = []
    for name, array in variables.items():
        if (layer := _LAYER.match(name)) and int(layer[1]) >= model.num_layers:
            raise ValueError(
                f"{prefix} has {name!r}, but {CONFIG_FILE} num_hidden_layers="
                f"{model.num_layers}; one of them is of another model."
            )
        slot = _SLOT.fullmatch(name)
        owner = name.rpartition("/")[0]
        if slot and slot[1] in known:
            side = slots.mu if slot[2] == "m" else slots.nu
            side[slot[1]] = np.array(array, np.float32)
        elif (
            owner in known
            or array.ndim == 0
            or array.dtype.kind in "iub"
            or "/.OPTIMIZER_SLOT/" in name
        ):
            dropped.append(name.removesuffix(google_tf2.SUFFIX))
        else:
            kinds.append(array.dtype.name)
            with np.errstate(over="ignore"):  # what becomes infinite is refused
                tensors[name] = np.array(array, np.float32)
    if not known & tensors.keys():
        raise ValueError(
            f"{prefix} has none of BERT's variables; its first are "
            f"{sorted(variables)[:6]}. Expected names such as {WORDS!r}."
        )
    if odd := set(kinds) - FLOATS.keys():
        raise ValueError(
            f"{prefix} has variables of {sorted(odd)}; expected {list(FLOATS)}."
        )
    note_floats(kinds, notes)
    if dropped:
        more = f" and {len(dropped) - 6} more" if len(dropped) > 6 else ""
        notes.append(f"Left out, no weights: {', '.join(dropped[:6])}{more}.")
    return tensors, slots if slots.mu or slots.nu else None


def complete_slots(
    slots: Slots, tensors: Tensors, head: Head, model: ModelConfig, notes: list[str]
) -> Slots | None:
    """The slots, if every weight of the head's model that is there has both."""
    needed = sorted(_known_names(model, [head]) & tensors.keys())
    lacking = [
        name
        for name in needed
        if any(
            name not in side or side[name].shape != tensors[name].shape
            for side in slots
        )
    ]
    if lacking:
        notes.append(
            f"Adam's moments are left out: {len(lacking)} of {len(needed)} tensors lack "
            f"one, first {lacking[0]}."
        )
        return None
    return Slots(*({name: side[name] for name in needed} for side in slots))
