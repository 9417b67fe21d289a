"""Flags as they were given: what must be known before they are read, or beside them."""

from collections.abc import Sequence
from typing import Any

from bert_jax.config import PretrainConfig
from bert_jax.config.checks import MAX_WORKERS, require, require_fitting_numbers


def value_of(flag: str, args: Sequence[str]) -> str | None:
    """The value of a flag in unparsed arguments."""
    value = None
    for place, arg in enumerate(args):
        if arg == flag and place + 1 < len(args):
            value = args[place + 1]
        elif arg.startswith(f"{flag}="):
            value = arg.partition("=")[2]
    return value


def is_given(flag: str, args: Sequence[str]) -> bool:
    """Whether a flag is among unparsed arguments, with dashes or underscores."""
    return any(arg.partition("=")[0].replace("_", "-") == flag for arg in args)


def check_numbers(command: Any) -> None:
    """Refuses numbers in a command's own flags that nothing can compute with.

    Raises:
        ValueError: a number is too large, too small for a float32 or not finite, or a
            number of workers cannot be started.
    """
    require_fitting_numbers(command, is_flag=True)
    workers = getattr(command, "num_workers", None)
    require(
        workers is None or 0 < workers <= MAX_WORKERS,
        f"--num-workers {workers} is not in [1, {MAX_WORKERS:,}]; give the number of this "
        "machine's cores or less.",
    )


def check_length(cfg: PretrainConfig, args: Sequence[str]) -> None:
    """Refuses --num-steps where later phases of the config would follow unnoticed.

    Raises:
        ValueError: the flag is given, and nothing is said of the later phases; or
            --minutes is given too.
    """
    if is_given("--minutes", args) and is_given("--num-steps", args):
        raise ValueError(
            f"--num-steps {cfg.num_steps} would be ignored: --minutes plans the number of "
            "steps. Pass one of the two."
        )
    said = any(arg.replace("_", "-").startswith("--next-phases") for arg in args)
    if not cfg.next_phases or not is_given("--num-steps", args) or said:
        return
    later = " and ".join(
        f"{phase.num_steps:,} steps of {phase.sequence_length} tokens"
        for phase in cfg.next_phases
    )
    raise ValueError(
        f"--num-steps {cfg.num_steps} sets the first phase only, and the config goes on "
        f"with {later}. Add --first-phase-only to leave that out, or set its length too: "
        f"--next-phases.0.num-steps {cfg.next_phases[0].num_steps}."
    )
