"""Arithmetic and main-memory traffic of a compiled step, every round of loops counted.

XLA's own cost analysis counts the body of a loop once, so both are added up here from
the program's text.
"""

import json
import math
import re
from collections.abc import Iterator

from bert_jax.topology.hlo import Array, Instruction, Module

# Instructions that move nothing: names for parts of what is there.
_FREE = frozenset(
    (
        "after-all",
        "bitcast",
        "constant",
        "get-tuple-element",
        "optimization-barrier",
        "parameter",
        "partition-id",
        "replica-id",
        "tuple",
        # Counted where they are executed, or where they start.
        "call",
        "conditional",
        "while",
        "all-gather-done",
        "all-reduce-done",
        "async-done",
        "async-update",
        "collective-permute-done",
        "copy-done",
        "recv-done",
        "send-done",
        "slice-done",
    )
)
_LOOKS_AT_PARTS = ("dynamic-slice", "gather", "slice")


def flops_of(module: Module) -> tuple[float, tuple[str, ...]]:
    """FLOPs of one device, and the kernels that do not state theirs.

    Matrix products and convolutions, a multiplication and an addition two, recomputation
    included; and what Pallas kernels state as their cost.
    """
    flops = 0.0
    silent: set[str] = set()
    for name, times in module.executed():
        for instruction in module.computations[name]:
            if instruction.opcode == "dot":
                flops += times * _dot_flops(module, name, instruction)
            elif instruction.opcode == "convolution":
                flops += times * _convolution_flops(module, name, instruction)
            elif _is_kernel(instruction):
                cost = _stated_cost(instruction)
                if cost is None:
                    silent.add(_kernel_name(instruction))
                else:
                    flops += times * cost["flops"]
    return flops, tuple(sorted(silent))


def cycles_of(module: Module) -> float | None:
    """Cycles that the TPU compiler reckons with for all operations; None: it says none.

    They cover matrix and vector units and main memory, not collectives, nor kernels of
    one's own.
    """
    total, said = 0.0, False
    for name in module.scheduled:
        for instruction in module.computations[name]:
            match = re.search(r'"estimated_cycles":"(\d+)"', instruction.attributes)
            if match is not None:
                said = True
                total += module.times[name] * int(match[1])
    return total if said else None


def hbm_bytes_of(module: Module) -> float:
    """Bytes that one device reads from and writes to its main memory.

    Every instruction, or fusion of several, reads its operands and writes its results;
    of an operand that is only sliced or gathered from, the part that is looked at; of a
    result that is written in place, the part that changes. What the compiler placed in
    a chip's fast memory is not counted.
    """
    total = 0.0
    for name in module.scheduled:
        times = module.times[name]
        for instruction in module.computations[name]:
            if instruction.opcode not in _FREE:
                total += times * _moved(module, name, instruction)
    return total


def _moved(module: Module, name: str, instruction: Instruction) -> float:
    if 'custom_call_target="AllocateBuffer"' in instruction.attributes:
        return 0.0
    cost = _stated_cost(instruction) if _is_kernel(instruction) else None
    if cost is not None and cost["bytes_accessed"] > 0:
        return cost["bytes_accessed"]
    operands = [module.named(name)[operand] for operand in instruction.operands]
    if instruction.opcode == "fusion":
        called = str(instruction.attribute("calls"))
        return _fusion_bytes(module, called, instruction, operands)
    if instruction.opcode in _LOOKS_AT_PARTS:
        read = _in_main_memory(operands[0].arrays[:1]) > 0
        return _in_main_memory(instruction.arrays) + (
            sum(a.num_bytes for a in instruction.arrays) if read else 0
        )
    if instruction.opcode == "dynamic-update-slice":
        return 2.0 * _in_main_memory(operands[1].arrays)
    if instruction.opcode.endswith("-start"):
        # Operands come back in the result; what follows them is new.
        known = sum(len(operand.arrays) for operand in operands)
        results = instruction.arrays[known:] or instruction.arrays
        return _in_main_memory(results) + sum(
            _in_main_memory(operand.arrays) for operand in operands
        )
    return _in_main_memory(instruction.arrays) + sum(
        _in_main_memory(operand.arrays) for operand in operands
    )


def _fusion_bytes(
    module: Module, called: str, fusion: Instruction, operands: list[Instruction]
) -> float:
    total = 0.0
    for parameter, operand in zip(_parameters(module, called), operands, strict=True):
        whole = _in_main_memory(operand.arrays)
        if whole:
            total += min(whole, _looked_at(module, called, parameter))
    passed_on = {int(n) for n in re.findall(r"\{(\d+)\}: \(\d+, \{", fusion.attributes)}
    results = _results(module, called)
    for number, (array, (inside, result)) in enumerate(
        zip(fusion.arrays, results, strict=True)
    ):
        if array.on_chip:
            continue
        if result.opcode == "dynamic-update-slice":
            update = module.named(inside)[result.operands[1]]
            total += sum(a.num_bytes for a in update.arrays)
        elif number not in passed_on and result.opcode != "parameter":
            total += array.num_bytes
    return total


def _parameters(module: Module, called: str) -> list[Instruction]:
    inside = (i for i in module.computations[called] if i.opcode == "parameter")
    return sorted(inside, key=lambda i: int(i.argument))


def _results(module: Module, called: str) -> list[tuple[str, Instruction]]:
    """What a fusion returns, array by array, and the computation where it arises."""
    root = module.root(called)
    if root.opcode == "tuple":
        return [
            result
            for operand in root.operands
            for result in _origin(module, called, operand)
        ]
    return _origin(module, called, root.name)


def _origin(module: Module, inside: str, name: str) -> list[tuple[str, Instruction]]:
    """Looks through names for the same values, and into fusions inside a fusion."""
    instruction = module.named(inside)[name]
    if instruction.opcode in ("bitcast", "copy", "convert"):
        return _origin(module, inside, instruction.operands[0])
    if instruction.opcode == "fusion":
        return _results(module, str(instruction.attribute("calls")))
    if instruction.opcode == "get-tuple-element":
        number = int(str(instruction.attribute("index")))
        several = _origin(module, inside, instruction.operands[0])
        return several[number : number + 1]
    return [(inside, instruction)] * len(instruction.arrays)


def _looked_at(module: Module, called: str, value: Instruction) -> float:
    """Bytes of `value` that a fusion reads: all, or what it slices and gathers."""
    total = 0.0
    for user in module.computations[called]:
        for place, operand in enumerate(user.operands):
            if operand != value.name or user.opcode == "tuple":
                continue
            if user.opcode in _LOOKS_AT_PARTS and place == 0:
                total += sum(array.num_bytes for array in user.arrays)
            elif user.opcode == "bitcast":
                total += _looked_at(module, called, user)
            elif user.opcode == "fusion":
                deeper = str(user.attribute("calls"))
                parameter = _parameters(module, deeper)[place]
                total += _looked_at(module, deeper, parameter)
            elif user.opcode != "dynamic-update-slice" or place != 0:
                return math.inf
    return total


def _in_main_memory(arrays: tuple[Array, ...]) -> int:
    return sum(array.num_bytes for array in arrays if not array.on_chip)


def _dot_flops(module: Module, name: str, dot: Instruction) -> float:
    left = module.named(name)[dot.operands[0]].arrays[0]
    dims = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", dot.attributes)
    contracted = [int(n) for n in dims[1].split(",") if n] if dims else []
    return 2.0 * dot.arrays[0].size * math.prod(left.dims[n] for n in contracted)


def _convolution_flops(module: Module, name: str, convolution: Instruction) -> float:
    """Counts the products of places that exist: not of padding, nor between dilated
    ones, which is how the TPU compiler writes batches of matrix products."""
    image, kernel = (module.named(name)[o].arrays[0] for o in convolution.operands)
    (result,) = convolution.arrays
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", convolution.attributes)
    assert labels is not None, convolution.name
    in_image, in_kernel, in_result = labels.groups()
    flops = 2.0 * result.dims[in_result.index("b")] * result.dims[in_result.index("f")]
    flops *= kernel.dims[in_kernel.index("i")]
    groups = re.search(r"batch_group_count=(\d+)", convolution.attributes)
    if groups is not None:
        flops /= int(groups[1])
    for window in _windows(convolution.attributes, in_image):
        place = in_image.index(window["label"])
        flops *= _products(
            image.dims[place],
            result.dims[in_result.index(window["label"])],
            window,
        )
    return flops


def _windows(attributes: str, in_image: str) -> Iterator[dict]:
    match = re.search(r"window=\{([^}]*)\}", attributes)
    spatial = sorted(label for label in in_image if label.isdigit())
    if match is None:
        return
    given = dict(item.split("=") for item in match[1].split())
    sizes = given["size"].split("x")

    def of(key: str, default: str) -> list[str]:
        return given[key].split("x") if key in given else [default] * len(sizes)

    for n, label in enumerate(spatial):
        yield {
            "label": label,
            "size": int(sizes[n]),
            "stride": int(of("stride", "1")[n]),
            "pad": int(of("pad", "0_0")[n].split("_")[0]),
            "image_dilation": int(of("lhs_dilate", "1")[n]),
            "kernel_dilation": int(of("rhs_dilate", "1")[n]),
        }


def _products(image: int, result: int, window: dict) -> int:
    """Pairs of a place of the result and one of the kernel that meet a real input."""
    dilation = window["image_dilation"]
    count = 0
    for out in range(result):
        first = out * window["stride"] - window["pad"]
        for k in range(window["size"]):
            place = first + k * window["kernel_dilation"]
            count += place % dilation == 0 and 0 <= place // dilation < image
    return count


def _is_kernel(instruction: Instruction) -> bool:
    return instruction.opcode == "custom-call" and (
        'custom_call_target="tpu_custom_call"' in instruction.attributes
    )


def _kernel_name(instruction: Instruction) -> str:
    match = re.search(r'op_name="([^"]*)"', instruction.attributes)
    return instruction.name if match is None else match[1].rsplit("/", 1)[-1]


def _stated_cost(instruction: Instruction) -> dict[str, float] | None:
    """What a Pallas kernel says of itself; None: nothing."""
    match = re.search(r'"cost_estimate":\s*(\{[^}]*\})', instruction.attributes)
    if match is None:
        return None
    stated = json.loads(match[1])
    return {name: float(stated.get(name, 0)) for name in ("flops", "bytes_accessed")}
