"""One table that names every tensor here, at Hugging Face and at Google.

Layouts differ too: a dense kernel is [inputs..., outputs...] here, [inputs, outputs] at
Google and [outputs, inputs] at Hugging Face; layers are stacked here and apart there;
the vocabulary is padded here only.

Shape letters: L layers, V padded vocabulary, P positions, S segments, D hidden,
N heads, H head size, F feed-forward, C classes, 2 as it stands.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from bert_jax.config import ModelConfig

Head = Literal["pretraining", "mlm", "classifier", "tokens", "spans"]
Dialect = Literal["huggingface", "google"]
Params = dict[str, Any]
Tensors = dict[str, np.ndarray]


class Row(NamedTuple):
    """One parameter: our path, its names elsewhere and how its layout differs."""

    ours: str
    huggingface: str
    google: str
    shape: str
    num_inputs: int = 0
    """Leading axes that a dense kernel sums over, its layer axis not counted."""
    google_transposed: bool = False
    """Google keeps the weights of its output layers as [outputs, inputs]."""


def _slashed(name: str) -> str:
    return name.replace("layer.{layer}", "layer_{layer}").replace(".", "/")


def _dense(
    ours: str, theirs: str, kernel: str, bias: str, num_inputs: int = 1
) -> Iterator[Row]:
    google = _slashed(theirs)
    yield Row(
        *(f"{ours}/kernel", f"{theirs}.weight", f"{google}/kernel"), kernel, num_inputs
    )
    yield Row(f"{ours}/bias", f"{theirs}.bias", f"{google}/bias", bias)


def _output(
    ours: str, huggingface: str, google: str, classes: str = "C"
) -> Iterator[Row]:
    weight = (f"{ours}/kernel", f"{huggingface}.weight", f"{google}output_weights")
    yield Row(*weight, f"D{classes}", 1, google_transposed=True)
    bias = (f"{ours}/bias", f"{huggingface}.bias", f"{google}output_bias")
    yield Row(*bias, classes)


def _norm(ours: str, theirs: str, shape: str) -> Iterator[Row]:
    google = _slashed(theirs)
    yield Row(f"{ours}/scale", f"{theirs}.weight", f"{google}/gamma", shape)
    yield Row(f"{ours}/bias", f"{theirs}.bias", f"{google}/beta", shape)


def _table(ours: str, theirs: str, shape: str) -> Row:
    return Row(f"{ours}/embedding", f"{theirs}.weight", _slashed(theirs), shape)


_EMBED = "bert.embeddings"
_LAYER = "bert.encoder.layer.{layer}"
_SELF = f"{_LAYER}.attention.self"
_OUT = f"{_LAYER}.attention.output"

ENCODER = (
    _table("embed/token", f"{_EMBED}.word_embeddings", "VD"),
    _table("embed/position", f"{_EMBED}.position_embeddings", "PD"),
    _table("embed/segment", f"{_EMBED}.token_type_embeddings", "SD"),
    *_norm("embed/norm", f"{_EMBED}.LayerNorm", "D"),
    *_dense("layers/attention/query", f"{_SELF}.query", "LDNH", "LNH"),
    *_dense("layers/attention/key", f"{_SELF}.key", "LDNH", "LNH"),
    *_dense("layers/attention/value", f"{_SELF}.value", "LDNH", "LNH"),
    *_dense("layers/attention/out", f"{_OUT}.dense", "LNHD", "LD", num_inputs=2),
    *_norm("layers/attention/norm", f"{_OUT}.LayerNorm", "LD"),
    *_dense("layers/mlp/up", f"{_LAYER}.intermediate.dense", "LDF", "LF"),
    *_dense("layers/mlp/down", f"{_LAYER}.output.dense", "LFD", "LD"),
    *_norm("layers/mlp/norm", f"{_LAYER}.output.LayerNorm", "LD"),
)
POOLER = tuple(_dense("pooler", "bert.pooler.dense", "DD", "D"))
MLM = (
    *_dense("mlm/transform", "cls.predictions.transform.dense", "DD", "D"),
    *_norm("mlm/norm", "cls.predictions.transform.LayerNorm", "D"),
    Row("mlm/output_bias", "cls.predictions.bias", "cls/predictions/output_bias", "V"),
)
NSP = tuple(_output("nsp", "cls.seq_relationship", "cls/seq_relationship/", "2"))
TABLES: dict[Head, tuple[Row, ...]] = {
    "pretraining": (*ENCODER, *POOLER, *MLM, *NSP),
    "mlm": (*ENCODER, *MLM),
    "classifier": (*ENCODER, *POOLER, *_output("classifier", "classifier", "")),
    "tokens": (*ENCODER, *_output("tokens", "classifier", "")),
    "spans": (*ENCODER, *_output("spans", "qa_outputs", "cls/squad/", "2")),
}


def to_tensors(
    cfg: ModelConfig, params: Params, head: Head, dialect: Dialect
) -> Tensors:
    """Tensors under their names and in their layout elsewhere; no vocabulary padding.

    Tied tensors appear once: the MLM decoder's weight is the token table.

    Raises:
        ValueError: a parameter is missing, left over, of another shape or not float32.
    """
    left = flatten(params)
    table = TABLES[head]
    sizes = _sizes(cfg, left.get(table[-1].ours))
    tensors: Tensors = {}
    for row in table:
        shape = tuple(sizes[letter] for letter in row.shape)
        array = left.pop(row.ours, None)
        if array is None or array.shape != shape or array.dtype != np.float32:
            found = "missing" if array is None else f"{array.dtype} {list(array.shape)}"
            raise ValueError(
                f"Parameter {row.ours!r} is {found}; a {head} model of this "
                f"ModelConfig has it as float32 {list(shape)}."
            )
        for name, part in _parts(row, array, dialect):
            assert name not in tensors, f"two rows of the table write {name!r}"
            tensors[name] = np.ascontiguousarray(_their_view(cfg, row, part, dialect))
    if left:
        raise ValueError(
            f"Parameters {sorted(left)} have no name in a {head} model; export the "
            "head that they belong to."
        )
    return tensors


class Read(NamedTuple):
    """What `from_tensors` made of foreign tensors."""

    params: Params
    """Parameters that were complete; rows of vocabulary padding are zeros."""
    used: tuple[str, ...]
    """Names of theirs that went into `params`."""
    missing: tuple[str, ...]
    """Names of theirs that were looked for and not there."""
    new: tuple[str, ...]
    """Our paths that have nothing: all or part of their tensors is missing."""


def from_tensors(
    cfg: ModelConfig, tensors: Mapping[str, np.ndarray], head: Head, dialect: Dialect
) -> Read:
    """The inverse of `to_tensors`, for as much of the head's table as there is.

    Raises:
        ValueError: a tensor is of another shape than `cfg` says.
    """
    table = TABLES[head]
    last = tensors.get(_their_name(table[-1], dialect))
    sizes = _sizes(cfg, last)
    flat: Tensors = {}
    used: list[str] = []
    missing: list[str] = []
    new: list[str] = []
    for row in table:
        array = np.zeros(tuple(sizes[letter] for letter in row.shape), np.float32)
        found = []
        for name, part in _parts(row, array, dialect):
            view = _their_view(cfg, row, part, dialect)
            theirs = tensors.get(name)
            if theirs is None:
                missing.append(name)
                continue
            if theirs.shape != view.shape:
                raise ValueError(
                    f"Tensor {name!r} is {list(theirs.shape)}; this ModelConfig has it "
                    f"as {list(view.shape)}. Is the config of another model?"
                )
            view[...] = theirs
            found.append(name)
        used += found
        if len(found) == len(_parts(row, array, dialect)):
            flat[row.ours] = array
        else:
            new.append(row.ours)
    return Read(unflatten(flat), tuple(used), tuple(missing), tuple(new))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Tensors:
    """Nested dicts of arrays as one dict of paths with slashes."""
    flat: Tensors = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}/")
        else:
            flat[prefix + name] = np.asarray(value)
    return flat


def unflatten(flat: Mapping[str, Any]) -> Params:
    """The inverse of `flatten`."""
    tree: Params = {}
    for path, value in flat.items():
        *parents, leaf = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[leaf] = value
    return tree


def _sizes(cfg: ModelConfig, class_bias: np.ndarray | None) -> dict[str, int]:
    return {
        "L": cfg.num_layers,
        "V": cfg.padded_vocab_size,
        "P": cfg.max_positions,
        "S": cfg.num_segments,
        "D": cfg.hidden_size,
        "N": cfg.num_heads,
        "H": cfg.head_size,
        "F": cfg.mlp_size,
        "C": 0 if class_bias is None else class_bias.shape[-1],
        "2": 2,
    }


def _their_name(row: Row, dialect: Dialect) -> str:
    return row.huggingface if dialect == "huggingface" else row.google


def _parts(
    row: Row, array: np.ndarray, dialect: Dialect
) -> list[tuple[str, np.ndarray]]:
    name = _their_name(row, dialect)
    if not row.shape.startswith("L"):
        return [(name, array)]
    return [(name.format(layer=i), part) for i, part in enumerate(array)]


def _their_view(
    cfg: ModelConfig, row: Row, part: np.ndarray, dialect: Dialect
) -> np.ndarray:
    """`part` as it is laid out there; a view, so that it serves both directions."""
    if row.num_inputs:
        matrix = part.reshape(math.prod(part.shape[: row.num_inputs]), -1)
        transposed = dialect == "huggingface" or row.google_transposed
        return matrix.T if transposed else matrix
    if row.shape.startswith("V"):
        return part[: cfg.vocab_size]
    return part.reshape(-1) if row.shape == "LNH" else part
