"""Says in words in which facts the hosts of a job differ."""

from collections.abc import Mapping, Sequence

_MOST_HOSTS, _MOST_NUMBERS = 6, 24


def differences(names: Sequence[str], facts: Sequence[Mapping[str, str]]) -> list[str]:
    """One line for each fact that is not the same everywhere.

    Args:
        names: the name of each host.
        facts: the facts of each host, in the same order; a fact that a host does not
            know counts as different.

    Returns:
        Lines such as `jax is 0.10.1 on process 3 (b) and 0.10.2 elsewhere`. Where most
        hosts do not share one value, all values are named with their hosts.
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
            f"{value} on {named(where, _MOST_HOSTS)}"
            for value, where in values.items()
            if not (is_usual and value == common)
        ]
        if is_usual:
            parts.append(f"{common} elsewhere")
        lines.append(f"{fact} is {' and '.join(parts)}")
    return lines


def named(things: Sequence[object], most: int = _MOST_NUMBERS) -> str:
    """The numbers or names as text, such as `2, 5`; only the first ones of many."""
    more = len(things) - most
    text = ", ".join(map(str, things[:most]))
    return f"{text} and {more} more" if more > 0 else text
