"""Paths of the TF2 model garden's checkpoints as names of google-research/bert.

An object-based checkpoint calls a variable by the shortest chain of attributes that
leads to it, so one model has several spellings. Known are:

- an encoder of the functional API, `layer_with_weights-N`: 0 words, 1 positions,
  2 segments, 3 layer norm, from 4 on the layers, and the pooler after the last;
- an encoder that is a layer: `_transformer_layers/N`, `_embedding_layer`,
  `_position_embedding_layer`, `_type_embedding_layer`, `_embedding_norm_layer`,
  `_pooler_layer`;
- either under any prefix: `model/`, `encoder/`, `bert/`, none ...;
- in a layer, `_attention_layer/_output_dense` or, in 2020, `_attention_output_dense`;
- heads of BertPretrainerV2: `masked_lm/`, `next_sentence..pooler_dense/` and
  `classification_heads/0/`, with or without `model/` before them;
- heads of BertPretrainer in 2020, which stand beside an encoder that is
  `layer_with_weights-0`: `layer_with_weights-1` (MLM) and `-2` (NSP);
- Adam's slots, `<variable>/.OPTIMIZER_SLOT/<optimizer>/m` and `v`.

Source: tensorflow/models, official/nlp/modeling, from 2020 on. Its GELU is the tanh
approximation there too (official/modeling/activations/gelu.py).
"""

import re
from collections.abc import Collection, Iterator, Sequence

import numpy as np

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"

_SLOT = re.compile(r"(.+)/\.OPTIMIZER_SLOT/[^/]+/([mv])")
_ANCHOR = re.compile(
    r"(.*/|)(layer_with_weights-4|_transformer_layers/0)"
    r"/_attention_layer/_query_dense/kernel"
)
_EMBED = "bert/embeddings"
_LAYER_PARTS = {
    "_attention_layer/_query_dense": "attention/self/query",
    "_attention_layer/_key_dense": "attention/self/key",
    "_attention_layer/_value_dense": "attention/self/value",
    "_attention_layer/_output_dense": "attention/output/dense",
    "_attention_output_dense": "attention/output/dense",
    "_attention_layer_norm": "attention/output/LayerNorm",
    "_intermediate_dense": "intermediate/dense",
    "_output_dense": "output/dense",
    "_output_layer_norm": "output/LayerNorm",
}
_POOLER = "bert/pooler/dense"
_MLM, _NSP = "cls/predictions", "cls/seq_relationship"
_STEPS = ("global_step", "optimizer/iter", "optimizer/iterations")


def google_names(
    paths: Sequence[str], num_layers: int, notes: list[str]
) -> dict[str, str]:
    """Path -> name of google-research/bert, Adam's slots and the step included.

    Variables outside the encoder that mean nothing here are not in the result.

    Raises:
        ValueError: no encoder, two encoders, or variables in it that are unknown.
    """
    full = {path.removesuffix(SUFFIX): path for path in paths}
    root = _find_root(full)
    names: dict[str, str] = {}
    taken: dict[str, str] = {}
    # Heads first: the next-sentence head's pooler is the one that was trained.
    for theirs, google in [*_heads(root, full), *_encoder(root, num_layers)]:
        if theirs not in full:
            continue
        if google not in taken:
            names[theirs] = google
            taken[google] = theirs
        elif google.startswith(_POOLER):
            names[theirs] = ""
            notes.append(f"{theirs} is left out: {taken[google]} is the pooler in use.")
        else:
            raise ValueError(
                f"The TF2 checkpoint has {google!r} twice, as {taken[google]!r} and "
                f"{theirs!r}; save one model by itself."
            )
    inside = re.compile(re.escape(root) + r"(layer_with_weights-\d+|_[a-z_]+)/.+")
    unknown = []
    for path in sorted(full):
        if slot := _SLOT.fullmatch(path):
            if google := names.get(slot[1], ""):
                names[path] = f"{google}/adam_{slot[2]}"
        elif inside.fullmatch(path) and path not in names:
            unknown.append(path)
    if unknown:
        raise ValueError(
            f"The TF2 encoder of num_hidden_layers={num_layers} has {len(unknown)} "
            f"variables of an unknown layout, first {unknown[:6]}; is the config of "
            f"another model? {_KNOWN}"
        )
    if steps := [step for step in _STEPS if step in full]:
        names[steps[0]] = "global_step"
    return {full[path]: google for path, google in names.items() if google}


def google_layout(google: str, array: np.ndarray) -> np.ndarray:
    """A TF2 variable, or a slot of it, as google-research/bert lays it out."""
    name = re.sub(r"/adam_[mv]$", "", google)
    if "/attention/self/" in name:
        num_inputs = 1 if name.endswith("kernel") else 0
        return array.reshape(*array.shape[:num_inputs], -1)
    if name.endswith("/attention/output/dense/kernel"):
        return array.reshape(-1, array.shape[-1])
    return array.T if name == f"{_NSP}/output_weights" else array


def num_heads(google: str, shape: Sequence[int]) -> int | None:
    """Attention heads, where this variable's shape shows them."""
    if google.endswith("/attention/self/query/kernel") and len(shape) == 3:
        return shape[1]
    return None


_KNOWN = (
    "Expected an encoder of the TF2 model garden (bert_jax/exchange/google_tf2.py "
    "lists its layouts), or a checkpoint with TF1 names."
)


def _find_root(paths: Collection[str]) -> str:
    """What stands before the encoder's variables."""
    roots = sorted({match[1] for match in map(_ANCHOR.fullmatch, paths) if match})
    if len(roots) != 1:
        found = f"encoders under {roots}" if roots else "no encoder of a known layout"
        first = sorted(path for path in paths if "/" in path)[:6]
        raise ValueError(
            f"The TF2 checkpoint has {found} among its {len(paths)} variables, the "
            f"first of which are {first}. {_KNOWN}"
        )
    return roots[0]


def _encoder(root: str, num_layers: int) -> Iterator[tuple[str, str]]:
    graph = f"{root}layer_with_weights-"
    tables = ("word_embeddings", "position_embeddings", "token_type_embeddings")
    layers = ("_embedding_layer", "_position_embedding_layer", "_type_embedding_layer")
    for index, (table, layer) in enumerate(zip(tables, layers, strict=True)):
        yield f"{graph}{index}/embeddings", f"{_EMBED}/{table}"
        yield f"{root}{layer}/embeddings", f"{_EMBED}/{table}"
    yield from _both(f"{graph}3", f"{_EMBED}/LayerNorm")
    yield from _both(f"{root}_embedding_norm_layer", f"{_EMBED}/LayerNorm")
    for index in range(num_layers):
        for part, google in _LAYER_PARTS.items():
            google = f"bert/encoder/layer_{index}/{google}"
            yield from _both(f"{graph}{index + 4}/{part}", google)
            yield from _both(f"{root}_transformer_layers/{index}/{part}", google)
    yield from _both(f"{graph}{num_layers + 4}", _POOLER)
    yield from _both(f"{root}_pooler_layer", _POOLER)


def _heads(root: str, shapes: Collection[str]) -> Iterator[tuple[str, str]]:
    for model in ("", "model/"):
        mlm, nsp = f"{model}masked_lm", f"{model}classification_heads/0"
        yield f"{mlm}/embedding_table", f"{_EMBED}/word_embeddings"
        yield from _both(f"{mlm}/dense", f"{_MLM}/transform/dense")
        yield from _both(f"{mlm}/layer_norm", f"{_MLM}/transform/LayerNorm")
        for bias in ("output_bias.Sbias", "bias"):
            yield f"{mlm}/{bias}", f"{_MLM}/output_bias"
        yield from _both(f"{nsp}/dense", _POOLER)
        yield from _output(f"{nsp}/out_proj")
    yield from _both("next_sentence..pooler_dense", _POOLER)
    if root.endswith("layer_with_weights-0/"):
        graph = root.removesuffix("0/")
        mlm = f"{graph}1/layer_with_weights-"
        # A classifier's head stands there too, but has no layer norm.
        if f"{mlm}1/gamma" in shapes:
            yield from _both(f"{mlm}0", f"{_MLM}/transform/dense")
            yield from _both(f"{mlm}1", f"{_MLM}/transform/LayerNorm")
            yield f"{mlm}2/bias", f"{_MLM}/output_bias"
            yield from _output(f"{graph}2/layer_with_weights-0")


def _both(theirs: str, google: str) -> Iterator[tuple[str, str]]:
    weight, bias = ("gamma", "beta") if "norm" in google.lower() else ("kernel", "bias")
    yield f"{theirs}/{weight}", f"{google}/{weight}"
    yield f"{theirs}/{bias}", f"{google}/{bias}"


def _output(theirs: str) -> Iterator[tuple[str, str]]:
    yield f"{theirs}/kernel", f"{_NSP}/output_weights"
    yield f"{theirs}/bias", f"{_NSP}/output_bias"
