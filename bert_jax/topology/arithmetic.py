"""Counts the FLOPs of a compiled step from the program's text, rounds of loops included."""

import math
import re

import numpy as np

from bert_jax.topology.hlo import Module
from bert_jax.topology.instructions import Instruction


def flops_of(module: Module) -> tuple[float, tuple[str, ...]]:
    """The FLOPs of one device in one step, and the kernels that do not state theirs.

    Counted are matrix products and convolutions, where a multiplication and an addition
    are two FLOPs, and what Pallas kernels state as their cost. Whatever the step computes
    a second time (recomputation) counts a second time.
    """
    flops = 0.0
    silent: set[str] = set()
    for name, times in module.executed():
        for instruction in module.computations[name]:
            if instruction.opcode == "dot":
                flops += times * _dot_flops(module, name, instruction)
            elif instruction.opcode == "convolution":
                flops += times * _convolution_flops(module, name, instruction)
            elif instruction.is_kernel:
                cost = instruction.stated_cost
                if cost is None:
                    silent.add(_kernel_name(instruction))
                else:
                    flops += times * cost["flops"]
    return flops, tuple(sorted(silent))


def _kernel_name(instruction: Instruction) -> str:
    match = re.search(r'op_name="([^"]*)"', instruction.attributes)
    return instruction.name if match is None else match[1].rsplit("/", 1)[-1]


def _dot_flops(module: Module, name: str, dot: Instruction) -> float:
    left = module.named(name)[dot.operands[0]].arrays[0]
    dims = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", dot.attributes)
    contracted = [int(n) for n in dims[1].split(",") if n] if dims else []
    return 2.0 * dot.arrays[0].size * math.prod(left.dims[n] for n in contracted)


def _convolution_flops(module: Module, name: str, convolution: Instruction) -> float:
    """Counts only products with a real input, not those with padding.

    The TPU compiler writes a batch of matrix products as a convolution whose input is
    dilated; the zeros between the real inputs are not counted either.
    """
    image, kernel = (module.named(name)[o].arrays[0] for o in convolution.operands)
    (result,) = convolution.arrays
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", convolution.attributes)
    assert labels is not None, convolution.name
    in_image, in_kernel, in_result = labels.groups()
    flops = 2.0 * result.dims[in_result.index("b")] * result.dims[in_result.index("f")]
    flops *= kernel.dims[in_kernel.index("i")]
    groups = re.search(r"batch_group_count=(\d+)", convolution.attributes)
    flops /= 1 if groups is None else int(groups[1])
    window = re.search(r"window=\{([^}]*)\}", convolution.attributes)
    if window is not None:
        given = dict(item.split("=") for item in window[1].split())
        for label in sorted(label for label in in_image if label.isdigit()):
            flops *= _products(
                image.dims[in_image.index(label)],
                result.dims[in_result.index(label)],
                {key: value.split("x")[int(label)] for key, value in given.items()},
            )
    return flops


def _products(image: int, result: int, window: dict[str, str]) -> int:
    """Pairs of an output position and a kernel position that meet a real input.

    Args:
        image: inputs along this dimension.
        result: outputs along this dimension.
        window: the settings of this dimension, as XLA writes them.
    """
    first: np.ndarray = np.arange(result) * int(window.get("stride", 1))
    first -= int(window.get("pad", "0_0").split("_")[0])
    inside: np.ndarray = np.arange(int(window["size"])) * int(
        window.get("rhs_dilate", 1)
    )
    place, between = np.divmod(
        first[:, None] + inside[None, :], int(window.get("lhs_dilate", 1))
    )
    return int(((between == 0) & (place >= 0) & (place < image)).sum())
