"""Compiled programs as text, read into instructions and how often each is executed.

Only what cost and communication need is read: names, results, operands, attributes,
calls and the trip counts of loops.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_ITEM_BITS = {
    **dict.fromkeys(("s2", "u2"), 2),
    **dict.fromkeys(("s4", "u4", "f4e2m1fn"), 4),
    **dict.fromkeys(("pred", "s8", "u8"), 8),
    **dict.fromkeys(("bf16", "f16", "s16", "u16"), 16),
    **dict.fromkeys(("f32", "s32", "u32"), 32),
    **dict.fromkeys(("f64", "s64", "u64", "c64"), 64),
    "c128": 128,
}
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](?:\{([^}]*)\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")


class Array(NamedTuple):
    """One array of a result."""

    dtype: str
    dims: tuple[int, ...]
    on_chip: bool
    """In a chip's own fast memory (a memory space other than 0), not its main memory."""

    @property
    def size(self) -> int:
        return math.prod(self.dims)

    @property
    def num_bytes(self) -> int:
        """Without the padding of layouts."""
        bits = 8 if self.dtype.startswith("f8") else _ITEM_BITS.get(self.dtype, 0)
        return -(-self.size * bits // 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    opcode: str
    result: str
    operands: tuple[str, ...]
    argument: str
    """What stands between the parentheses, such as the number of a parameter."""
    attributes: str
    is_root: bool

    @functools.cached_property
    def arrays(self) -> tuple[Array, ...]:
        """Of the result, in order; tuples are flattened."""
        return arrays_of(self.result)

    def attribute(self, name: str) -> str | None:
        """A name or number behind `name=`."""
        match = re.search(rf"\b{name}=%?([\w.\-]+)", self.attributes)
        return None if match is None else match[1]


@dataclasses.dataclass(frozen=True)
class Module:
    computations: Mapping[str, tuple[Instruction, ...]]
    entry: str
    times: Mapping[str, float]
    """Executions of each computation in one run; those inside fusions included."""
    scheduled: frozenset[str]
    """Computations whose instructions are executed one by one: not inside a fusion."""
    unknown_loops: tuple[str, ...]
    """Loops whose trip count the program does not say; they count as one round."""

    def executed(self) -> Iterator[tuple[str, float]]:
        """Computations that are executed, and how often."""
        return ((name, times) for name, times in self.times.items() if times)

    @functools.cached_property
    def _named(self) -> dict[str, dict[str, Instruction]]:
        return {
            name: {instruction.name: instruction for instruction in instructions}
            for name, instructions in self.computations.items()
        }

    def named(self, computation: str) -> Mapping[str, Instruction]:
        """The instructions of a computation by name."""
        return self._named[computation]

    def root(self, computation: str) -> Instruction:
        return next(i for i in self.computations[computation] if i.is_root)


def arrays_of(shape: str) -> tuple[Array, ...]:
    """Reads bf16[2,3]{1,0:T(8,128)S(1)}, or a tuple of such."""
    return tuple(
        Array(
            dtype,
            tuple(int(dim) for dim in dims.split(",") if dim),
            re.search(r"S\([1-9]\d*\)", layout or "") is not None,
        )
        for dtype, dims, layout in _ARRAY.findall(shape)
    )


def parse_hlo(text: str) -> Module:
    """Reads the text of a compiled program (`jax.stages.Compiled.as_text`)."""
    computations: dict[str, list[Instruction]] = {}
    entry = ""
    current: list[Instruction] = []
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header is not None:
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
            continue
        match = _LINE.match(line)
        if match is not None:
            current.append(_instruction(match[2], match[3], match[1] is not None))
    if not entry:
        raise ValueError("the text of the compiled program has no ENTRY computation.")
    frozen = {name: tuple(lines) for name, lines in computations.items()}
    return _with_times(frozen, entry)


def _instruction(name: str, rest: str, is_root: bool) -> Instruction:
    end = _balanced(rest, 0) if rest.startswith("(") else rest.index(" ")
    result, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    closing = _balanced(rest, opening)
    argument = rest[opening + 1 : closing - 1]
    opcode = rest[:opening]
    operands = re.findall(r"%([\w.\-]+)", argument)
    return Instruction(
        name,
        opcode,
        result,
        tuple(operands),
        argument,
        rest[closing:].lstrip(", "),
        is_root,
    )


def _balanced(text: str, start: int) -> int:
    """The place behind the parenthesis that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    raise ValueError(f"the compiled program has an unclosed parenthesis: {text[:80]!r}")


def _with_times(computations: dict[str, tuple[Instruction, ...]], entry: str) -> Module:
    times = dict.fromkeys(computations, 0.0)
    scheduled: set[str] = set()
    unknown: list[str] = []

    def visit(name: str, count: float, in_fusion: bool) -> None:
        times[name] += count
        if not in_fusion:
            scheduled.add(name)
        for instruction in computations[name]:
            if instruction.opcode == "while":
                rounds = _trip_count(computations, name, instruction)
                if rounds is None:
                    unknown.append(instruction.name)
                body = instruction.attribute("body")
                visit(str(body), count * (1 if rounds is None else rounds), in_fusion)
            elif instruction.opcode == "fusion":
                visit(str(instruction.attribute("calls")), count, True)
            elif instruction.opcode in ("call", "async-start"):
                called = instruction.attribute("to_apply") or instruction.attribute(
                    "calls"
                )
                if called is not None:
                    visit(called, count, in_fusion)
            elif instruction.opcode == "conditional":
                for branch in _branches(instruction):
                    visit(branch, count, in_fusion)

    visit(entry, 1.0, False)
    return Module(computations, entry, times, frozenset(scheduled), tuple(unknown))


def _branches(instruction: Instruction) -> list[str]:
    match = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
    if match is not None:
        return re.findall(r"%?([\w.\-]+)", match[1])
    pair = (instruction.attribute(f"{way}_computation") for way in ("true", "false"))
    return [name for name in pair if name is not None]


def _trip_count(
    computations: Mapping[str, tuple[Instruction, ...]],
    caller: str,
    loop: Instruction,
) -> int | None:
    """How often a loop runs, where the compiler knows: stated, or a counter's limit."""
    stated = re.search(r'known_trip_count"?[:=]\{"?n"?[:=]"?(\d+)', loop.attributes)
    if stated is not None:
        return int(stated[1])
    condition = computations[str(loop.attribute("condition"))]
    root = next(i for i in condition if i.is_root)
    names = {i.name: i for i in condition}
    sides = [names[operand] for operand in root.operands]
    if root.opcode == "fusion":
        called = computations[str(root.attribute("calls"))]
        root = next(i for i in called if i.is_root)
        inner = {i.name: i for i in called}
        sides = [
            sides[int(i.argument)] if i.opcode == "parameter" else i
            for i in (inner[operand] for operand in root.operands)
        ]
    if root.opcode != "compare" or root.attribute("direction") != "LT":
        return None
    counter, limit = sides
    if counter.opcode != "get-tuple-element" or limit.opcode != "constant":
        return None
    index = int(str(counter.attribute("index")))
    start = _initial(computations[caller], loop, index)
    step = _step(computations[str(loop.attribute("body"))], index)
    if start is None or not step:
        return None
    return max(-(-(int(limit.argument) - start) // step), 0)


def _step(body: tuple[Instruction, ...], index: int) -> int | None:
    """What one round adds to a loop's counter; None: it is no constant."""
    names = {i.name: i for i in body}
    value = next(i for i in body if i.is_root)
    if value.opcode != "tuple":
        return None
    value, step = names[value.operands[index]], 0
    # A loop that the compiler has unrolled adds more than once, or more than one.
    while value.opcode in ("add", "copy", "bitcast"):
        operands = [names[operand] for operand in value.operands]
        constants = [o for o in operands if o.opcode == "constant"]
        if value.opcode == "add":
            if len(constants) != 1:
                return None
            step += int(constants[0].argument)
        (value,) = (o for o in operands if o.opcode != "constant")
    if value.opcode != "get-tuple-element":
        return None
    return step if int(str(value.attribute("index"))) == index else None


def _initial(
    caller: tuple[Instruction, ...], loop: Instruction, index: int
) -> int | None:
    """The constant a loop's counter begins with; None: it is no constant."""
    names = {i.name: i for i in caller}
    value = names[loop.operands[0]]
    if value.opcode != "tuple":
        return None
    value = names[value.operands[index]]
    while value.opcode in ("copy", "bitcast"):
        value = names[value.operands[0]]
    return int(value.argument) if value.opcode == "constant" else None
