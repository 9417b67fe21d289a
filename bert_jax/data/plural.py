"""Counts of things as people read them."""


def plural(number: int, noun: str, many: str | None = None) -> str:
    """ "1 run", "2 runs"; `many` is for a noun that takes more than an s."""
    return f"{number:,} {noun if number == 1 else many or f'{noun}s'}"
