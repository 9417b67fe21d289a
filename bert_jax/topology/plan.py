"""The fastest layout of a run that fits a machine, as a config of its own."""

from collections.abc import Callable
from typing import NamedTuple

from bert_jax.config import PretrainConfig
from bert_jax.runtime.chips import Chip
from bert_jax.topology.choices import Choice, choice_of, kernels_of, layouts
from bert_jax.topology.search import Found, Measure, describe, search


class NothingFitsError(ValueError):
    """No layout that was compiled fits the machine."""


class Plan(NamedTuple):
    """What was chosen for all phases, and how sure it is."""

    choice: Choice
    found: Found
    report: tuple[str, ...]
    """For the header of the config and for people."""


def plan(
    cfg: PretrainConfig,
    *,
    topology: str,
    num_devices: int,
    num_slices: int,
    chip: Chip | None,
    measure: Measure,
    max_compiles: int,
    tell: Callable[[str], None] = print,
) -> Plan:
    """Searches meshes, recomputation, attention kernels and micro-batches.

    Rows of a batch and all that a result depends on stay as they are; see `choices`.
    The mesh, recomputation and the kernel are of the whole run, micro-batches of each
    phase.

    Args:
        cfg: all phases of the run.
        topology: its name, for messages.
        num_devices: of all slices.
        chip: `None` is refused: without its figures nothing can be compared.
        measure: compiles a phase.
        max_compiles: of phases.
        tell: given lines of progress.

    Raises:
        ValueError: nothing divides evenly, or the machine has no figures.
        NothingFitsError: nothing that was compiled fits.
    """
    if chip is None or chip.device_usable_bytes is None:
        raise ValueError(
            f"--topology {topology}: its memory and speed are not known, so there is "
            "nothing to plan for; give a TPU, such as v5e:4x4."
        )
    choices = list(
        layouts(
            cfg,
            num_devices=num_devices,
            num_slices=num_slices,
            kernels=kernels_of(cfg),
        )
    )
    if not choices:
        sizes = " and ".join(str(phase.batch_size) for phase in cfg.phases)
        raise ValueError(
            f"--topology {topology}: no mesh divides batches of {sizes} rows, "
            f"{cfg.model.num_heads} heads and {num_devices} chips evenly; change "
            "batch_size."
        )
    tell(f"{len(choices):,} layouts divide {topology} evenly")
    found = search(
        cfg,
        choices,
        chip,
        chip.device_usable_bytes,
        measure,
        max_compiles=max_compiles,
        tell=tell,
    )
    if found.best is None:
        tried = len(found.trials)
        raise NothingFitsError(
            f"--topology {topology}: none of the {tried} layouts that were compiled fits"
            + (
                ", and no other is expected to; take more chips or smaller batches."
                if found.complete
                else "; the same command with a larger --max-compiles goes on."
            )
        )
    return Plan(found.best.choice, found, _report(cfg, found, num_devices, num_slices))


def _report(
    cfg: PretrainConfig, found: Found, num_devices: int, num_slices: int
) -> tuple[str, ...]:
    assert found.best is not None
    best = found.best
    lines = [f"{best.choice.describe()}."]
    for number, (phase, measured) in enumerate(
        zip(cfg.phases, best.phases, strict=True), start=1
    ):
        lines.append(
            f"Phase {number}, {phase.batch_size:,} rows of "
            f"{phase.data.sequence_length:,}: {describe(measured)}."
        )
    fitting = sum(trial.fits for trial in found.trials)
    lines.append(
        f"Compiled {len(found.trials)} layouts of {found.num_choices:,}, of which "
        f"{fitting} fit; "
        + (
            "no other that should fit is predicted to be faster."
            if found.complete
            else "the search was ended by --max-compiles before its own end."
        )
    )
    try:
        changes = choice_of(cfg, num_devices, num_slices).changes(best.choice)
    except ValueError:  # the config's own mesh does not divide this machine
        changes = []
    if changes:
        lines.append(f"Other than the config: {', '.join(changes)}.")
    return tuple(lines)
