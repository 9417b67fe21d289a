"""What the settings check: each failure names the field, its value and what fits."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def require_rate(owner: object, *names: str) -> None:
    """Probabilities lie in [0, 1)."""
    for name in names:
        value = getattr(owner, name)
        require(
            0.0 <= value < 1.0,
            f"{type(owner).__name__}.{name}={value} is not in [0, 1).",
        )


def require_seed(owner: object) -> None:
    seed = vars(owner)["seed"]
    require(
        0 <= seed < 2**32, f"{type(owner).__name__}.seed={seed} is not in [0, 2**32)."
    )


def require_positive(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        require(
            value > 0,
            f"{type(owner).__name__}.{name}={value} must be greater than 0.",
        )
