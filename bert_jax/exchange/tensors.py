"""Our parameters as the tensors of another library, and back, by a table of rows.

The rows of a family stand in `exchange/families/`. Each says what one of our parameters,
or one layer of a stacked one, is called there and how its layout differs: a dense kernel
is [inputs..., outputs...] here and [outputs, inputs] in PyTorch, layers are stacked here
and apart there, and the vocabulary is padded here only.

Shape letters: V padded vocabulary, P rows of the position table, S segments, D hidden,
E embeddings, N heads, K heads of keys and values, H head size, F feed-forward, C classes, 2 as it
stands.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from bert_jax.config import ModelConfig
from bert_jax.train.tensors import named_leaves

Head = Literal[
    "pretraining",
    "mlm",
    "classifier",
    "tokens",
    "spans",
    "choice",
    "mean_vector",
    "cls_vector",
]
Params = dict[str, Any]
Tensors = dict[str, np.ndarray]


class Row(NamedTuple):
    """One parameter, or one layer of it: our path, its name there, and both layouts."""

    ours: str
    """Path of our parameter, such as `layers/mlp/up/kernel`."""
    theirs: str
    """Name of the tensor there; "" if they have none, since nothing reads ours: it is a
    norm's, and all ones."""
    shape: str
    """One letter for each axis of our parameter, its axis of layers not counted."""
    layer: int | None = None
    """Which layer of a stacked parameter this row is about."""
    num_inputs: int = 0
    """Leading axes that a dense kernel sums over; 0 for everything else."""
    transposed: bool = True
    """Whether a kernel is [outputs, inputs] there, as in PyTorch, or [inputs, outputs]."""
    part: int = 0
    """Which of `num_parts` equal parts of the tensor's first axis this parameter is."""
    num_parts: int = 1
    """More than 1 where several of our parameters are one tensor there (a fused QKV)."""


def dense(
    ours: str, theirs: str, kernel: str, bias: str, num_inputs: int = 1
) -> Iterator[Row]:
    """A dense layer with PyTorch's names; `bias` is "" where there is none."""
    yield Row(f"{ours}/kernel", f"{theirs}.weight", kernel, num_inputs=num_inputs)
    if bias:
        yield Row(f"{ours}/bias", f"{theirs}.bias", bias)


def fused(theirs: str, *parts: tuple[str, str, str], with_bias: bool) -> Iterator[Row]:
    """Dense layers that are one there: (ours, kernel, bias) in the order of their outputs."""
    for part, (ours, kernel, bias) in enumerate(parts):
        for row in dense(ours, theirs, kernel, bias if with_bias else ""):
            yield row._replace(part=part, num_parts=len(parts))


def norm(
    ours: str, theirs: str, *, with_bias: bool = True, width: str = "D"
) -> Iterator[Row]:
    """A norm over the hidden axis or another, with PyTorch's names."""
    yield Row(f"{ours}/scale", f"{theirs}.weight", width)
    if with_bias:
        yield Row(f"{ours}/bias", f"{theirs}.bias", width)


def embedding(ours: str, theirs: str, shape: str) -> Row:
    """A table of embeddings, with PyTorch's names."""
    return Row(f"{ours}/embedding", f"{theirs}.weight", shape)


def stacked(rows: Sequence[Row], num_layers: int) -> Iterator[Row]:
    """`rows` for each layer; its number takes the place of `{layer}` in their names."""
    for layer in range(num_layers):
        for row in rows:
            yield row._replace(theirs=row.theirs.format(layer=layer), layer=layer)


def to_tensors(cfg: ModelConfig, params: Params, rows: Sequence[Row]) -> Tensors:
    """Tensors under their names and in their layout there; no vocabulary padding.

    Tied tensors appear once: the MLM decoder's weight is the token table.

    Args:
        cfg: of `params`.
        params: float32, as many as `rows` names and no more.
        rows: of the family and head; the last one is the head's bias, which has the
            number of classes.

    Raises:
        ValueError: a parameter is missing, left over, of another shape or not float32.
    """
    flat = flatten(params)
    sizes = _sizes(cfg, flat.get(rows[-1].ours))
    check_shapes(flat, _shapes(cfg, rows, sizes))
    parts: dict[str, dict[int, np.ndarray]] = {}
    rows = [row for row in rows if row.theirs]
    for row in rows:
        same = parts.setdefault(row.theirs, {})
        assert row.part not in same, f"two rows of the table write {row.theirs!r}"
        same[row.part] = _their_view(cfg, row, flat[row.ours])
    for row in rows:
        assert len(parts[row.theirs]) == row.num_parts, f"{row.theirs!r} lacks parts"
    return {
        name: np.ascontiguousarray(
            np.concatenate([same[i] for i in range(len(same))])
            if len(same) > 1
            else same[0]
        )
        for name, same in parts.items()
    }


def check_shapes(flat: Tensors, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Whether parameters are those of a model with one head, and no others.

    Args:
        flat: by their paths.
        shapes: of that model's parameters, by their paths.

    Raises:
        ValueError: a parameter is missing, left over, of another shape or not float32.
    """
    for ours, shape in shapes.items():
        array = flat.get(ours)
        if array is None or array.shape != shape or array.dtype != np.float32:
            found = "missing" if array is None else f"{array.dtype} {list(array.shape)}"
            raise ValueError(
                f"Parameter {ours!r} is {found}; a model of this ModelConfig and head "
                f"has it as float32 {list(shape)}."
            )
    if left := sorted(flat.keys() - shapes.keys()):
        raise ValueError(
            f"Parameters {left} have no name in a model with this head; export the head "
            "that they belong to."
        )


def check_bits(where: object, expected: Tensors, found: Tensors) -> None:
    """Whether what was written holds every parameter bit by bit, and nothing else.

    Raises:
        ValueError: it does not; the message names the first parameter that differs.
    """
    odd = sorted(expected.keys() ^ found.keys())
    odd += [
        path
        for path in sorted(expected.keys() & found.keys())
        if not same_bits(expected[path], found[path])
    ]
    if odd:
        raise ValueError(
            f"{where} does not hold the weights that it should: {odd[0]!r} differs or "
            f"is missing ({len(odd)} parameters in all). Please report this."
        )


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays are equal in shape, type and every bit, NaN included."""
    return (a.shape, a.dtype) == (b.shape, b.dtype) and a.tobytes() == b.tobytes()


class Read(NamedTuple):
    """What `from_tensors` made of foreign tensors."""

    params: Params
    """Parameters that were complete; rows of vocabulary padding are zeros."""
    used: tuple[str, ...]
    """Names of theirs that went into `params`."""
    new: tuple[str, ...]
    """Our paths that have nothing: all or part of their tensors is missing."""


def from_tensors(
    cfg: ModelConfig, tensors: Mapping[str, np.ndarray], rows: Sequence[Row]
) -> Read:
    """The inverse of `to_tensors`, for as many of the rows as there are tensors.

    Raises:
        ValueError: a tensor is of another shape than `cfg` says.
    """
    sizes = _sizes(cfg, tensors.get(rows[-1].theirs))
    flat: Tensors = {
        ours: np.zeros(shape, np.float32)
        for ours, shape in _shapes(cfg, rows, sizes).items()
    }
    # Dicts for their order: each name counts once, at its first row.
    used: dict[str, None] = {}
    new: dict[str, None] = {}
    for row in rows:
        view = _their_view(cfg, row, flat[row.ours])
        if not row.theirs:
            view[...] = 1.0
            continue
        theirs = tensors.get(row.theirs)
        if theirs is None:
            new[row.ours] = None
            continue
        shape = (view.shape[0] * row.num_parts, *view.shape[1:])
        if theirs.shape != shape:
            raise ValueError(
                f"Tensor {row.theirs!r} is {list(theirs.shape)}; this ModelConfig has it "
                f"as {list(shape)}. Is the config of another model?"
            )
        view[...] = theirs[row.part * len(view) : (row.part + 1) * len(view)]
        used[row.theirs] = None
    params = {ours: array for ours, array in flat.items() if ours not in new}
    return Read(unflatten(params), tuple(used), tuple(new))


def flatten(tree: Params) -> Tensors:
    """Nested dicts of arrays as one dict of paths with slashes."""
    return {name: np.asarray(leaf) for name, leaf in named_leaves(tree).items()}


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
        "V": cfg.padded_vocab_size,
        "P": cfg.max_positions + cfg.position_offset,
        "S": cfg.num_segments,
        "D": cfg.hidden_size,
        "E": cfg.token_width,
        "N": cfg.num_heads,
        "K": cfg.kv_heads,
        "H": cfg.head_size,
        "F": cfg.mlp_size,
        "C": 0 if class_bias is None else class_bias.shape[-1],
        "2": 2,
    }


def _shapes(
    cfg: ModelConfig, rows: Iterable[Row], sizes: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    """Our path -> the shape of the whole parameter, its layers stacked."""
    return {
        row.ours: (
            *(() if row.layer is None else (cfg.num_layers,)),
            *(sizes[letter] for letter in row.shape),
        )
        for row in rows
    }


def _their_view(cfg: ModelConfig, row: Row, array: np.ndarray) -> np.ndarray:
    """The row's part of our array as it is laid out there.

    It is a view of `array`, so that it serves to read from and to write to.
    """
    part = array if row.layer is None else array[row.layer]
    if row.num_inputs:
        matrix = part.reshape(math.prod(part.shape[: row.num_inputs]), -1)
        return matrix.T if row.transposed else matrix
    if row.shape.startswith("V"):
        return part[: cfg.vocab_size]
    return part.reshape(-1) if row.shape in ("NH", "KH") else part
