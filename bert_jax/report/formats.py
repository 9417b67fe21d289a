"""Numbers and names as people read them."""

import datetime

_PREFIXES = (("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0))


def compact(value: float, unit: str = "") -> str:
    """A value to three digits: 950, 12.4 k, 5.31 MB. No line ends before the unit."""
    # Rounded first: 999,999 is 1 M and not 1000 k.
    value = float(f"{value:.3g}")
    prefix, size = next((x for x in _PREFIXES if value >= x[1]), _PREFIXES[-1])
    return f"{value / size:.3g}\u00a0{prefix}{unit}".rstrip()


def duration(seconds: float) -> str:
    """Seconds as hours, minutes and seconds: 0:12:11."""
    return str(datetime.timedelta(seconds=round(seconds)))


def shorten(text: str, length: int) -> str:
    """At most `length` characters, with an ellipsis where some are missing."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def heading(name: str) -> str:
    """A name at the beginning of a line. Capitals within it stay."""
    return name[:1].upper() + name[1:]
