"""Counts the bytes that a compiled step reads from and writes to a device's main memory."""

import math
import re

from bert_jax.topology.hlo import Module
from bert_jax.topology.instructions import Array, Instruction

# Instructions that move no bytes, because they only name or group what is there.
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
        # The instructions that these execute count.
        "call",
        "conditional",
        "while",
    )
)
# Instructions that read only a part of their first operand.
_PART_READERS = ("dynamic-slice", "gather", "slice")


def hbm_bytes_of(module: Module) -> float:
    """The bytes that one device reads from and writes to its main memory in one step.

    Every instruction, or fusion of several, reads its operands and writes its results.
    Where an operand is only sliced or gathered from, the part that is read counts; where
    a result is written in place, the part that changes. Arrays that the compiler placed in
    a chip's fast memory do not count.
    """
    total = 0.0
    for name in module.scheduled:
        times = module.times[name]
        for instruction in module.computations[name]:
            is_end = instruction.opcode.endswith(("-done", "-update"))
            if instruction.opcode not in _FREE and not is_end:
                total += times * _moved(module, name, instruction)
    return total


def _moved(module: Module, name: str, instruction: Instruction) -> float:
    if 'custom_call_target="AllocateBuffer"' in instruction.attributes:
        return 0.0
    cost = instruction.stated_cost
    if cost is not None and cost["bytes_accessed"] > 0:
        return cost["bytes_accessed"]
    operands = [module.named(name)[operand] for operand in instruction.operands]
    if instruction.opcode == "fusion":
        called = str(instruction.attribute("calls"))
        return _fusion_bytes(module, called, instruction, operands)
    given = tuple(array for operand in operands for array in operand.arrays)
    results = instruction.arrays
    if instruction.opcode.endswith("-start"):
        # The result repeats the operands; only what follows them is new.
        results = results[len(given) :] or results
    if instruction.opcode.removesuffix("-start") in _PART_READERS:
        is_far = _in_main_memory(given[:1]) > 0
        return _in_main_memory(results) + (_bytes(results[:1]) if is_far else 0)
    if instruction.opcode == "dynamic-update-slice":
        return 2.0 * _in_main_memory(operands[1].arrays)
    return _in_main_memory(results) + _in_main_memory(given)


def _fusion_bytes(
    module: Module, called: str, fusion: Instruction, operands: list[Instruction]
) -> float:
    total = 0.0
    for parameter, operand in zip(_parameters(module, called), operands, strict=True):
        whole = _in_main_memory(operand.arrays)
        if whole:
            total += min(whole, _bytes_read(module, called, parameter))
    # Results that are an operand, which the fusion hands on without writing it.
    passed_on = {int(n) for n in re.findall(r"\{(\d+)\}: \(\d+, \{", fusion.attributes)}
    results = _results(module, called)
    for number, (array, (inside, result)) in enumerate(
        zip(fusion.arrays, results, strict=True)
    ):
        if array.on_chip:
            continue
        if result.opcode == "dynamic-update-slice":
            total += _bytes(module.named(inside)[result.operands[1]].arrays)
        elif number not in passed_on and result.opcode != "parameter":
            total += array.num_bytes
    return total


def _parameters(module: Module, called: str) -> list[Instruction]:
    inside = (i for i in module.computations[called] if i.opcode == "parameter")
    return sorted(inside, key=lambda i: int(i.argument))


def _results(module: Module, called: str) -> list[tuple[str, Instruction]]:
    """For each array of a fusion's result: the computation and instruction it comes from."""
    root = module.root(called)
    if root.opcode == "tuple":
        return [
            result
            for operand in root.operands
            for result in _origin(module, called, operand)
        ]
    return _origin(module, called, root.name)


def _origin(module: Module, inside: str, name: str) -> list[tuple[str, Instruction]]:
    """The same for one instruction: looks through renamings and into inner fusions."""
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


def _bytes_read(module: Module, called: str, value: Instruction) -> float:
    """The bytes of `value` that a fusion slices or gathers; infinite: it reads all."""
    total = 0.0
    for user in module.computations[called]:
        for place, operand in enumerate(user.operands):
            if operand != value.name or user.opcode == "tuple":
                continue
            if user.opcode in _PART_READERS and place == 0:
                total += _bytes(user.arrays)
            elif user.opcode == "bitcast":
                total += _bytes_read(module, called, user)
            elif user.opcode == "fusion":
                deeper = str(user.attribute("calls"))
                parameter = _parameters(module, deeper)[place]
                total += _bytes_read(module, deeper, parameter)
            elif user.opcode != "dynamic-update-slice" or place != 0:
                return math.inf
    return total


def _in_main_memory(arrays: tuple[Array, ...]) -> int:
    return sum(array.num_bytes for array in arrays if not array.on_chip)


def _bytes(arrays: tuple[Array, ...]) -> int:
    return sum(array.num_bytes for array in arrays)
