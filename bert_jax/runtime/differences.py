"""In what the hosts of a job differ, in words."""

from collections.abc import Mapping, Sequence

_MOST_NAMED = 6


def differences(names: Sequence[str], facts: Sequence[Mapping[str, str]]) -> list[str]:
    """One line a fact that is not the same everywhere.

    Args:
        names: of the hosts.
        facts: of each host; a fact that one does not know differs too.

    Returns:
        Such as `jax is 0.10.1 on process 3 (b) and 0.10.2 elsewhere`; all values are
        named where no value is that of most hosts.
    """
    lines = []
    for fact in {name: None for own in facts for name in own}:
        values: dict[str, list[str]] = {}
        for name, own in zip(names, facts, strict=True):
            values.setdefault(own.get(fact, "unknown"), []).append(name)
        if len(values) == 1:
            continue
        common = max(values, key=lambda value: len(values[value]))
        is_usual = 2 * len(values[common]) > len(names) and len(names) > 2
        parts = [
            f"{value} on {_together(where)}"
            for value, where in values.items()
            if not (is_usual and value == common)
        ]
        if is_usual:
            parts.append(f"{common} elsewhere")
        lines.append(f"{fact} is {' and '.join(parts)}")
    return lines


def named(numbers: Sequence[int]) -> str:
    """Such as `2, 5`; of many, the first ones."""
    more = len(numbers) - 4 * _MOST_NAMED
    text = ", ".join(map(str, numbers[: 4 * _MOST_NAMED]))
    return f"{text} and {more} more" if more > 0 else text


def _together(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    text = ", ".join(names[:_MOST_NAMED])
    return f"{text} and {more} more" if more > 0 else text
