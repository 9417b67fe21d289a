"""Reads the text of a compiled program into its computations and their instructions."""

import dataclasses
import functools
import json
import math
import re
from typing import NamedTuple

_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](?:\{([^}]*)\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")


class Array(NamedTuple):
    """One array that an instruction returns."""

    dtype: str
    dims: tuple[int, ...]
    on_chip: bool
    """Whether it lies in a chip's fast memory (a memory space other than 0)."""

    @property
    def size(self) -> int:
        return math.prod(self.dims)

    @property
    def num_bytes(self) -> int:
        """Size in memory without the padding that a layout may add."""
        bits = re.search(r"\d+", self.dtype.replace("pred", "u8"))
        # Types without a width, such as tokens, take no memory.
        return 0 if bits is None else -(-self.size * int(bits[0]) // 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a compiled program."""

    name: str
    opcode: str
    result: str
    """Types, shapes and layouts of what the instruction returns."""
    operands: tuple[str, ...]
    """Names of the instructions whose results this one takes."""
    argument: str
    """The text between the parentheses, such as the number of a parameter."""
    attributes: str
    """The text behind the parentheses."""
    is_root: bool
    """Whether its result is the result of its computation."""

    @functools.cached_property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays of the result in order; nested tuples are flattened."""
        return arrays_of(self.result)

    def attribute(self, name: str) -> str | None:
        """The name or number behind `name=`; `None` where there is no such attribute."""
        match = re.search(rf"\b{name}=%?([\w.\-]+)", self.attributes)
        return None if match is None else match[1]

    @property
    def is_kernel(self) -> bool:
        """Whether this calls a Pallas kernel on a TPU."""
        return self.opcode == "custom-call" and (
            'custom_call_target="tpu_custom_call"' in self.attributes
        )

    @property
    def stated_cost(self) -> dict[str, float] | None:
        """The `flops` and `bytes_accessed` that a kernel states; `None` if it does not."""
        match = re.search(r'"cost_estimate":\s*(\{[^}]*\})', self.attributes)
        if not self.is_kernel or match is None:
            return None
        stated = json.loads(match[1])
        return {key: float(stated.get(key, 0)) for key in ("flops", "bytes_accessed")}


def arrays_of(shape: str) -> tuple[Array, ...]:
    """Reads the arrays of bf16[2,3]{1,0:T(8,128)S(1)} or of a tuple of such."""
    return tuple(
        Array(
            dtype,
            tuple(int(dim) for dim in dims.split(",") if dim),
            re.search(r"S\([1-9]\d*\)", layout or "") is not None,
        )
        for dtype, dims, layout in _ARRAY.findall(shape)
    )


def read_computations(text: str) -> tuple[dict[str, tuple[Instruction, ...]], str]:
    """Reads a program's computations by name, and the name of the one it starts with.

    Raises:
        ValueError: the text is no compiled program.
    """
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
    return {name: tuple(lines) for name, lines in computations.items()}, entry


def _instruction(name: str, rest: str, is_root: bool) -> Instruction:
    end = _balanced(rest, 0) if rest.startswith("(") else rest.index(" ")
    result, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    closing = _balanced(rest, opening)
    argument = rest[opening + 1 : closing - 1]
    return Instruction(
        name=name,
        opcode=rest[:opening],
        result=result,
        operands=tuple(re.findall(r"%([\w.\-]+)", argument)),
        argument=argument,
        attributes=rest[closing:].lstrip(", "),
        is_root=is_root,
    )


def _balanced(text: str, start: int) -> int:
    """The position behind the parenthesis that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    raise ValueError(f"the compiled program has an unclosed parenthesis: {text[:80]!r}")
