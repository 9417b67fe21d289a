"""How far the outputs of an exported model lie from ours, and how far rounding allows.

Two float32 programs sum in two orders, so their logits differ, and by how much depends
on the model: 1e-8 for a fresh classifier of two layers, 2e-3 for an encoder with logits
to 40. So the allowed difference is measured on the model itself: every weight is moved
to one of the two float32 numbers beside it, and our own program runs again. An export
may differ by `ALLOWED` times what that changes.

On 22 models with 1 to 12 layers, widths of 16 to 768 and logits from 0.1 to 41, PyTorch
differed by 0.2 to 1.4 times that change. With the other form of GELU it differed by 100
to 650 times on all but the two smallest, and with an epsilon of 1e-5 for 1e-12 by 4 to
370 times.

Shape letters: B rows, T tokens.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from bert_jax.config import ModelConfig
from bert_jax.exchange.logits import forward
from bert_jax.exchange.portable import Output, PortableModel
from bert_jax.exchange.tensors import Head, Params, Tensors, flatten, unflatten

# input_ids, attention_mask and token_type_ids, [B, T] each -> arrays by output name.
Run = Callable[[np.ndarray, np.ndarray, np.ndarray], Mapping[str, Any]]

_program = jax.jit(forward, static_argnums=(0, 2, 3))

ALLOWED = 4.0
_DRAWS = 3


class Probe(NamedTuple):
    """Ids to compare on, and our outputs of them."""

    head: Head
    inputs: tuple[str, ...]
    """What an exported model takes, in the order of `Run`."""
    signature: tuple[Output, ...]
    """What an exported model returns."""
    outputs: Mapping[str, np.ndarray]
    """Our arrays by the names of `signature`."""
    input_ids: np.ndarray  # int32 [B, T]
    segment_ids: np.ndarray  # int32 [B, T]
    mask: np.ndarray  # int32 [B, T], 1 on real tokens

    def largest(self, output: Output) -> float:
        """The largest absolute number of one of our outputs, on real tokens."""
        ours = self.outputs[output.name]
        return float(np.abs(_real_tokens(output, ours, self.mask)).max())


def make_probe(model: PortableModel) -> Probe:
    """Random ids, rows of several lengths and both segments, with our outputs."""
    rng = np.random.default_rng(0)
    rows, length = 4, min(model.cfg.max_positions, 128)
    shape = (rows, length)
    ids_BT = rng.integers(0, model.cfg.vocab_size, shape).astype(np.int32)
    ends_B = np.linspace(length // 4, length, rows).astype(int)
    mask_BT = (np.arange(length) < ends_B[:, None]).astype(np.int32)
    # Some models count positions by the ids that are not padding's.
    pad = model.tokenizer.special.pad
    ids_BT = np.where(ids_BT == pad, (pad + 1) % model.cfg.vocab_size, ids_BT)
    ids_BT = np.where(mask_BT > 0, ids_BT, pad).astype(np.int32)
    segments_BT = (np.arange(length) >= ends_B[:, None] // 2).astype(np.int32)
    segments_BT = segments_BT * mask_BT * (model.cfg.num_segments > 1)
    outputs = _our_run(model, model.params)(ids_BT, mask_BT, segments_BT)
    return Probe(
        model.head, model.inputs, model.outputs, outputs, ids_BT, segments_BT, mask_BT
    )


def allowed_differences(model: PortableModel, probe: Probe) -> dict[str, float]:
    """The largest difference that rounding explains, by the name of the output.

    Raises:
        ValueError: the outputs are not finite.
    """
    ids = (probe.input_ids, probe.mask, probe.segment_ids)
    # One unit in the last place of the largest number is always allowed.
    unit = float(np.finfo(np.float32).eps)
    moved = {x.name: [probe.largest(x) * unit] for x in probe.signature}
    for params in _with_neighbours(model.params):
        found = _our_run(model, params)(*ids)
        for output in probe.signature:
            change = np.abs(found[output.name] - probe.outputs[output.name])
            change = _real_tokens(output, change, probe.mask)
            moved[output.name].append(float(change.max()))
    # NumPy's maximum, unlike Python's, of something with NaN is NaN.
    allowed = {name: ALLOWED * float(np.max(found)) for name, found in moved.items()}
    if not all(map(np.isfinite, allowed.values())):
        raise ValueError(
            "The model's outputs of random ids are not finite, so no export can be "
            "compared with it; its weights are too large or damaged."
        )
    return allowed


def differences(run: Run, probe: Probe) -> dict[str, float]:
    """How far each output of an exported model lies from ours, on real tokens.

    It runs twice: on the batch, and on its shortest row alone, cut to its real tokens.
    Our outputs of that row serve for both, because padding must not matter, so another
    batch size, another length and the padding are compared without a second forward
    pass of ours.

    Args:
        run: the exported model.
        probe: ids and our outputs of them. The real tokens of a row come before its
            padding.

    Returns:
        The largest absolute difference by the name of the output; NaN when either side
        has one.

    Raises:
        ValueError: names or shapes disagree, or a row has padding before real tokens.
    """
    ids, mask, segments = probe.input_ids, probe.mask, probe.segment_ids
    real = mask != 0
    lengths = real.sum(axis=1)
    if not np.array_equal(real, np.arange(ids.shape[1]) < lengths[:, None]):
        raise ValueError("mask has zeros before ones; put the padding behind the text.")
    row = int(lengths.argmin())
    alone = (slice(row, row + 1), slice(0, int(lengths[row])))
    cuts = [(slice(None), slice(None)), alone]
    worst: dict[str, list[float]] = {x.name: [] for x in probe.signature}
    for rows, tokens in cuts if lengths[row] else cuts[:1]:
        found = run(*(x[rows, tokens] for x in (ids, mask, segments)))
        if odd := sorted(probe.outputs.keys() ^ found.keys()):
            raise ValueError(
                f"The outputs {odd} are only here or only in the export; are these "
                "outputs of the same model?"
            )
        for output in probe.signature:
            name = output.name
            theirs, ours = np.asarray(found[name]), probe.outputs[name][rows]
            if "length" in output.shape:
                ours = ours[:, tokens]
            if ours.shape != theirs.shape:
                raise ValueError(
                    f"{name} is {list(ours.shape)} here and {list(theirs.shape)} in "
                    "the export; are these outputs of the same model and ids?"
                )
            difference = _real_tokens(output, np.abs(ours - theirs), real[rows, tokens])
            worst[name].append(float(difference.max(initial=0.0)))
    return {name: float(np.max(found)) for name, found in worst.items()}


def _real_tokens(output: Output, array: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return array[mask != 0] if "length" in output.shape else array


def our_run(
    cfg: ModelConfig, params: Params, head: Head, *, hidden_states: bool = False
) -> Run:
    """Our own forward pass, as if it were that of an exported model."""

    def run(ids: np.ndarray, mask: np.ndarray, segments: np.ndarray) -> Tensors:
        with jax.default_matmul_precision("highest"):
            found = _program(cfg, params, head, hidden_states, ids, segments, mask)
        return jax.device_get(found)

    return run


def _our_run(model: PortableModel, params: Params) -> Run:
    return our_run(model.cfg, params, model.head, hidden_states=model.hidden_states)


def _with_neighbours(params: Params) -> Iterator[Params]:
    """The parameters with every number moved to one of its two neighbours, by chance."""
    ends = np.array([-np.inf, np.inf], np.float32)
    for seed in range(_DRAWS):
        rng = np.random.default_rng(seed)
        yield unflatten(
            {
                path: np.nextafter(x, rng.choice(ends, x.shape))
                for path, x in flatten(params).items()
            }
        )
