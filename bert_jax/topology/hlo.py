"""A compiled program, and how often each of its computations is executed.

XLA's own cost analysis counts the body of a loop once. Here the rounds of every loop are
counted, so that the work and the communication of a whole step can be added up.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping, Sequence

from bert_jax.topology.instructions import Instruction, read_computations


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program."""

    computations: Mapping[str, tuple[Instruction, ...]]
    """The instructions of every computation, by its name."""
    times: Mapping[str, float]
    """How often each computation is executed in one run, inside fusions too."""
    scheduled: frozenset[str]
    """Computations whose instructions run one by one, because no fusion contains them."""
    unknown_loops: tuple[str, ...]
    """Loops whose number of rounds is not in the program; they count as one round."""

    def executed(self) -> Iterator[tuple[str, float]]:
        """Every computation that is executed, and how often."""
        return ((name, times) for name, times in self.times.items() if times)

    @functools.cached_property
    def _named(self) -> dict[str, dict[str, Instruction]]:
        return {
            name: {instruction.name: instruction for instruction in instructions}
            for name, instructions in self.computations.items()
        }

    def named(self, computation: str) -> Mapping[str, Instruction]:
        """The instructions of a computation, by their names."""
        return self._named[computation]

    def root(self, computation: str) -> Instruction:
        """The instruction whose result a computation returns."""
        return next(i for i in self.computations[computation] if i.is_root)


def parse_hlo(text: str, branch_shares: Sequence[float] = ()) -> Module:
    """Reads the text that `jax.stages.Compiled.as_text` gives.

    Args:
        branch_shares: how often `jax.lax.switch` takes each of its branches, of 1. All
            branches of a conditional that does not come from such a switch count fully.

    Raises:
        ValueError: the text is no compiled program.
    """
    computations, entry = read_computations(text)
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
                    number = _branch_number(computations, branch)
                    share = 1.0
                    if number is not None and number < len(branch_shares):
                        share = branch_shares[number]
                    visit(branch, count * share, in_fusion)

    visit(entry, 1.0, False)
    return Module(computations, times, frozenset(scheduled), tuple(unknown))


def _branches(instruction: Instruction) -> list[str]:
    match = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
    if match is not None:
        return re.findall(r"%?([\w.\-]+)", match[1])
    pair = (instruction.attribute(f"{way}_computation") for way in ("true", "false"))
    return [name for name in pair if name is not None]


def _branch_number(
    computations: Mapping[str, tuple[Instruction, ...]], branch: str
) -> int | None:
    """Which function of a `jax.lax.switch` a branch is: the compiler may change the order."""
    for instruction in computations[branch]:
        match = re.search(r'op_name="[^"]*branch_(\d+)_fun', instruction.attributes)
        if match is not None:
            return int(match[1])
    return None


def _trip_count(
    computations: Mapping[str, tuple[Instruction, ...]],
    caller: str,
    loop: Instruction,
) -> int | None:
    """The rounds of a loop, which are stated or follow from its counter; else `None`."""
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
    """The constant that one round adds to a loop's counter; `None` if there is none."""
    names = {i.name: i for i in body}
    value = next(i for i in body if i.is_root)
    if value.opcode != "tuple":
        return None
    value, step = names[value.operands[index]], 0
    # In a loop that the compiler has unrolled, one round adds several times.
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
    """The constant that a loop's counter starts with; `None` if it is no constant."""
    names = {i.name: i for i in caller}
    value = names[loop.operands[0]]
    if value.opcode != "tuple":
        return None
    value = names[value.operands[index]]
    while value.opcode in ("copy", "bitcast"):
        value = names[value.operands[0]]
    return int(value.argument) if value.opcode == "constant" else None
