"""Checks of settings. Each error names the field, its value and what would be right."""

import math


def require(condition: bool, message: str) -> None:
    """Raises ValueError with `message` unless the condition holds."""
    if not condition:
        raise ValueError(message)


def require_rate(owner: object, *names: str) -> None:
    """Requires that each named field is a probability in [0, 1)."""
    for name in names:
        value = getattr(owner, name)
        require(
            0.0 <= value < 1.0,
            f"{type(owner).__name__}.{name}={value} is not in [0, 1).",
        )


def require_seed(owner: object) -> None:
    """Requires that the field `seed` fits 32 bits."""
    seed = vars(owner)["seed"]
    require(
        0 <= seed < 2**32, f"{type(owner).__name__}.seed={seed} is not in [0, 2**32)."
    )


def require_positive(owner: object, *names: str) -> None:
    """Requires that each named field is greater than 0, and finite."""
    for name in names:
        value = getattr(owner, name)
        require(
            value > 0,
            f"{type(owner).__name__}.{name}={value} must be greater than 0.",
        )
        require(
            value < math.inf,
            f"{type(owner).__name__}.{name}={value} must be a finite number.",
        )
