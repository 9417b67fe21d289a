"""Finds where the step of one batch goes wrong: the first layer and tensor that is not finite."""

import dataclasses
import functools
import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bert_jax.config import ComputeConfig
from bert_jax.model.attention import KEY_AXES, QUERY_AXES
from bert_jax.model.logical import Axes
from bert_jax.model.random_bits import KEY_KIND
from bert_jax.runtime.distributed import fetch
from bert_jax.train import sharding
from bert_jax.train.accumulation import mean_gradients
from bert_jax.train.objectives import Objective
from bert_jax.train.step import TrainState
from bert_jax.train.tensors import named_leaves

_PART = re.compile(r"(?:^|/)(embed|layers|lora)/")
_OUTPUT = "the output"
# What a layer computes, in its order: by the logical axes of the array.
_IN_LAYER: dict[Axes, tuple[str, ...]] = {
    QUERY_AXES: ("the queries",),
    KEY_AXES: ("the keys", "the values"),
    ("batch", "length", "mlp"): ("the inner feed-forward activations",),
    ("batch", "length", "act_embed"): (_OUTPUT,),
}


def in_a_row(compute: ComputeConfig) -> ComputeConfig:
    """The same computation with all layers in a row, where each can be looked at.

    The results are equal up to rounding.
    """
    return dataclasses.replace(
        compute, scan_layers=False, remat="none", mlm_logits="whole"
    )


def diagnose(
    objective: Objective,
    mesh: Mesh,
    state: TrainState,
    batch: Any,
    *,
    micro_batches: int = 1,
) -> str:
    """Repeats the step of a batch without its update, and says what is not finite first.

    It looks at the weights and moments, then at the activations from the embeddings to the
    last layer, then at the loss, then at the gradients from the heads to the embeddings. All
    processes of a job call it.

    Args:
        objective: computes `in_a_row`.
        mesh: devices of the state and the batch.
        state: the state before the step.
        batch: global arrays.
        micro_batches: number of parts in which the gradients are computed.
    """
    if bad := bad_tensors(state):
        return (
            f"Before the step, weights or moments are not finite already; the first is {bad}. "
            "The batch is not to blame."
        )
    root = jax.random.wrap_key_data(state.key, impl=KEY_KIND)
    key = jax.random.fold_in(root, state.step)  # as in `train_step`
    rows = jax.jit(objective.prepare)(batch, key, state.step)
    names: list[str] = []

    @functools.partial(jax.jit, out_shardings=sharding.replicated(mesh))
    def forward(params: Any, rows: Any) -> tuple[Any, list[jax.Array]]:
        numbers_of_bad = []

        def look(x: jax.Array, axes: Axes) -> None:
            if axes in _IN_LAYER:
                names.append(_name_of(names, axes))
                numbers_of_bad.append(jnp.sum(~jnp.isfinite(x)))

        with sharding.on_mesh(mesh, look):
            return objective.metrics(params, rows), numbers_of_bad

    metrics, numbers_of_bad = jax.device_get(forward(state.params, rows))
    for name, number in zip(names, numbers_of_bad, strict=True):
        if number:
            return (
                "Forward, weights and moments are finite, and the first activations that "
                f"are not are {name}: {number:,} numbers of them."
            )
    lost = [n for n, x in metrics.items() if n != "work" and not np.isfinite(x).all()]
    if lost:
        return (
            "Forward, the activations of all layers are finite, and behind them, in the "
            f"heads, {' and '.join(lost)} is not."
        )

    @jax.jit
    def backward(params: Any, rows: Any) -> tuple[jax.Array, Any]:
        with sharding.on_mesh(mesh):
            metrics, grads = mean_gradients(objective, params, rows, micro_batches)
        return metrics["loss"].sum, grads

    loss, grads = backward(state.params, rows)
    loss = float(loss)
    entries = _entries(grads)[::-1]
    if bad := _said([entry for entry in entries if entry.num_bad]):
        return (
            f"Backward, the loss is finite, {loss:.6g}, and gradients are not; the first on "
            f"the way back from it is that of {bad}."
        )
    top = max(entries, key=lambda entry: entry.largest)
    return (
        f"All activations and gradients are finite here, and so is the loss, {loss:.6g}. "
        f"The largest entry of a gradient is {top.largest:.3g}, in {top.name}. Where the "
        "step itself was not finite, the squares of its gradients are too large to be "
        "added up, or memory or a processor failed."
    )


def bad_tensors(state: TrainState) -> str:
    """Names the first weight that is not finite, else the first such moment; else empty."""
    found = [_entries(tree) for tree in (state.params, state.opt_state)]
    for entries in found:
        if bad := _said([entry for entry in entries if entry.num_bad]):
            return bad
    return ""


class _Entry(NamedTuple):
    """A tensor, or one layer of a stacked one."""

    place: float
    """From the embeddings over the layers to the heads."""
    name: str
    num_bad: int
    size: int
    largest: float


def _entries(tree: Any) -> list[_Entry]:
    """All tensors of parameters or moments, from the embeddings to the heads."""
    named = named_leaves(tree)
    parts = {name: _PART.search(name) for name in named}

    @jax.jit
    def summary(named: dict[str, jax.Array]) -> dict[str, tuple[jax.Array, jax.Array]]:
        def one(name: str, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            axes = tuple(range(_is_stack(parts[name]), x.ndim))
            return jnp.sum(~jnp.isfinite(x), axis=axes), jnp.abs(x).max(axis=axes)

        return {name: one(name, x) for name, x in named.items()}

    entries = []
    for name, found in fetch(summary(named)).items():
        part, size = parts[name], named[name].size
        columns = [np.atleast_1d(x).tolist() for x in found]
        for number, (num_bad, largest) in enumerate(zip(*columns, strict=True)):
            place, said = math.inf, name
            if _is_stack(part):
                place, said = number, f"{name} of layer {number + 1}"
            elif part:
                place = -1
            each = size // len(columns[0])
            entries.append(_Entry(place, said, num_bad, each, largest))
    return sorted(entries, key=lambda entry: (entry.place, entry.name))


def _is_stack(part: re.Match[str] | None) -> bool:
    return part is not None and part[1] != "embed"


def _said(bad: list[_Entry]) -> str:
    """Names the first of some bad tensors, and counts the others; empty without any."""
    if not bad:
        return ""
    first, *others = bad
    text = f"{first.name} ({first.num_bad:,} of {first.size:,} numbers)"
    return f"{text}, and there are {len(others):,} more" if others else text


def _name_of(names: list[str], axes: Axes) -> str:
    """What the next array is, after those of these names: they come layer by layer."""
    if not names:
        return "the embeddings"
    layer = 1 + sum(name.startswith(_OUTPUT) for name in names)
    found = [f"{what} of layer {layer}" for what in _IN_LAYER[axes]]
    return next(name for name in found if name not in names)
