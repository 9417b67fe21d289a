"""Numbers as people read them. What was not measured says so."""

import json
import math
from typing import Any

NOT_MEASURED = "not measured"
SPACE = "\u00a0"  # keeps a number and its unit on one line


def percent(value: float | None, digits: int = 1) -> str:
    """A share of 1 as a percentage."""
    return _absent(value) or f"{100 * _sure(value):.{digits}f}{SPACE}%"


def rare(value: float | None) -> str:
    """A share that may be tiny: 12.3 %, 0.27 %, < 0.01 %; 0 % where there is none."""
    if absent := _absent(value):
        return absent
    share = _sure(value)
    if share == 0.0:
        return f"0{SPACE}%"
    if share < 1e-4:
        return f"< 0.01{SPACE}%"
    return percent(share, 1 if share >= 0.01 else 2)


def points(difference: float) -> str:
    """The size of a difference between two shares, in percentage points."""
    return f"{abs(100 * difference):.1f}{SPACE}points"


def gap(difference: float) -> str:
    """How far one share is from another: "3.2 points above", "level with"."""
    if abs(difference) < 0.0005:  # reads 0.0 points
        return "level with"
    return f"{points(difference)} {'above' if difference > 0 else 'below'}"


def decimal(value: float | None, digits: int = 2) -> str:
    """A plain number, such as a loss in nats."""
    return _absent(value) or f"{_sure(value):,.{digits}f}"


def scientific(value: float) -> str:
    """A learning rate: 1e-4, 2.5e-5."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def count(value: float | None) -> str:
    """A number of things, in full."""
    return _absent(value) or f"{_sure(value):,.0f}"


def compact(value: float | None) -> str:
    """A number of things to three digits: 950, 12.4 k, 5.31 M."""
    if absent := _absent(value):
        return absent
    # Rounded first: 999,999 is 1.00 M and not 1000 k.
    number = float(f"{_sure(value):.3g}")
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            scaled = number / size
            digits = max(0, 2 - int(math.log10(scaled)))
            return f"{scaled:.{digits}f}{SPACE}{unit}"
    return f"{number:.0f}"


def size(num_bytes: float | None) -> str:
    """Bytes to three digits: 950 B, 12.4 kB, 5.31 MB."""
    if absent := _absent(num_bytes):
        return absent
    number = compact(num_bytes)
    return f"{number}B" if SPACE in number else f"{number}{SPACE}B"


def compact_tick(value: float) -> str:
    """The same for the round numbers of an axis: 5 k, 2.5 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:g}{SPACE}{unit}"
    return f"{value:g}"


def duration(seconds: float | None) -> str:
    """Seconds in the two largest units that matter."""
    if absent := _absent(seconds):
        return absent
    total = round(_sure(seconds))
    if total < 60:
        return f"{_sure(seconds):.3g}{SPACE}s"
    if total < 3600:
        return f"{total // 60}{SPACE}min{SPACE}{total % 60}{SPACE}s"
    minutes = round(total / 60)
    return f"{minutes // 60}{SPACE}h{SPACE}{minutes % 60}{SPACE}min"


def setting(value: Any) -> str:
    """One value of a config as it would be written."""
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, float):
        return f"{value:g}" if math.isfinite(value) else str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(map(setting, value)) or "none"
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def plural(number: int, noun: str) -> str:
    """ "1 run", "2 runs"."""
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else many}"


def shorten(text: str, length: int) -> str:
    """At most `length` characters, with an ellipsis where some are missing."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def inner(name: str) -> str:
    """A name inside a sentence; acronyms keep their capitals."""
    return name if name[1:2].isupper() else name[:1].lower() + name[1:]


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names and printable values, in their order."""
    flat: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = setting(value)
    return flat


def _absent(value: float | None) -> str | None:
    if value is None:
        return NOT_MEASURED
    return None if math.isfinite(value) else "not finite"


def _sure(value: float | None) -> float:
    assert value is not None
    return value
