"""Numbers as people read them. What was not measured says so."""

import json
import math
from typing import Any

NOT_MEASURED = "not measured"
SPACE = "\u00a0"  # keeps a number and its unit on one line
_UNITS = (("G", 1e9), ("M", 1e6), ("k", 1e3))


def number(value: float | None, form: str) -> str:
    """A value in a format of Python's, such as ".1%" for shares or ",.2f"."""
    if value is None:
        return NOT_MEASURED
    return f"{value:{form}}" if math.isfinite(value) else "not finite"


def gap(difference: float, form: str) -> str:
    """How far one value is from another: "3.2 points above", "level with"."""
    size = number(abs(difference), form)
    if size == number(0.0, form):
        return "level with"
    side = "above" if difference > 0 else "below"
    return f"{size.replace('%', f'{SPACE}points')} {side}"


def scientific(value: float) -> str:
    """A learning rate: 1e-4, 2.5e-5."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def count(value: float | None) -> str:
    """A number of things, in full."""
    return number(value, ",.0f")


def compact(value: float | None) -> str:
    """A number of things to three digits: 950, 12.4 k, 5.31 M."""
    if value is None:
        return NOT_MEASURED
    # Rounded first: 999,999 is 1.00 M and not 1000 k.
    rounded = float(f"{value:.3g}")
    for unit, size in _UNITS:
        if rounded >= size:
            digits = max(0, 2 - int(math.log10(rounded / size)))
            return f"{rounded / size:.{digits}f}{SPACE}{unit}"
    return f"{rounded:.0f}"


def compact_tick(value: float) -> str:
    """The same for the round numbers of an axis: 5 k, 2.5 M."""
    for unit, size in _UNITS:
        if value >= size:
            return f"{value / size:g}{SPACE}{unit}"
    return f"{value:g}"


def size(num_bytes: float) -> str:
    """Bytes to three digits: 12.4 kB, 5.31 MB."""
    return f"{compact(num_bytes)}{SPACE * (num_bytes < 1e3)}B"


def duration(seconds: float | None) -> str:
    """Seconds in the two largest units that matter."""
    if seconds is None:
        return NOT_MEASURED
    total = round(seconds)
    if total < 60:
        return f"{seconds:.3g}{SPACE}s"
    if total < 3600:
        return f"{total // 60}{SPACE}min{SPACE}{total % 60}{SPACE}s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}{SPACE}h{SPACE}{minutes % 60}{SPACE}min"


def setting(value: Any) -> str:
    """One value of a config, as config.json has it; texts stand without quotes."""
    if isinstance(value, str):
        return value or '""'
    if value is None:
        return "none"
    if type(value) is int:
        return f"{value:,}"
    return json.dumps(value, ensure_ascii=False)


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names and printable values, in their order."""
    flat: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = setting(value)
    return flat


def plural(number: int, noun: str) -> str:
    """ "1 run", "2 runs"."""
    return f"{number:,} {noun if number == 1 else f'{noun}s'}"


def shorten(text: str, length: int) -> str:
    """At most `length` characters, with an ellipsis where some are missing."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def inner(name: str) -> str:
    """A name inside a sentence; acronyms keep their capitals."""
    return name if name[1:2].isupper() else name[:1].lower() + name[1:]


def heading(name: str) -> str:
    """A name at the beginning of a line."""
    return name[:1].upper() + name[1:]


def listed(parts: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts)
