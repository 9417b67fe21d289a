"""Which checkpoint a run goes on from when files were damaged, and what becomes of others."""

import pathlib
import shutil

from bert_jax.train.runs.checkpoint_files import damage_of
from bert_jax.train.runs.checkpoint_in_store import BEST, CHECKPOINTS
from bert_jax.train.runs.checkpoint_mirror import Mirror, steps_in

DAMAGED = "damaged"
_HALF_WRITTEN = ".orbax-checkpoint-tmp"  # the end of Orbax's names


def find_whole(run: pathlib.Path, mirror: Mirror | None = None) -> int | None:
    """Step of the newest checkpoint of a run with all files as they were saved.

    Newer ones are moved to damaged/ of the run. If no checkpoint is whole, the newest copy
    of the mirror is taken into the run. Both are said.

    Returns:
        `None` if there is no checkpoint at all.

    Raises:
        ValueError: there are checkpoints, and none is whole.
    """
    damages: dict[int, str] = {}
    for step in steps_in(run / CHECKPOINTS):
        damage = damage_of(run / CHECKPOINTS / str(step))
        if damage is None:
            _pass_over(run, damages)
            return step
        damages[step] = damage
    copied = None if mirror is None else _from_mirror(run, mirror, damages)
    if copied is not None:
        return copied
    if damages:
        newest = max(damages)
        raise damaged(run / CHECKPOINTS, newest, damages[newest])
    return None


def step_to_go_on_from(run: pathlib.Path, mirror: Mirror | None = None) -> int:
    """Step of the checkpoint that `find_whole` will take; 0 if there is none.

    The files of the run's own checkpoints are read. Nothing is moved, and a copy in the
    mirror is taken for whole.
    """
    for step in steps_in(run / CHECKPOINTS):
        if damage_of(run / CHECKPOINTS / str(step)) is None:
            return step
    return max(mirror.steps(), default=0) if mirror is not None else 0


def remove_half_written(checkpoints: pathlib.Path) -> None:
    """Frees the room that a crash or a full disk has left taken.

    Orbax's option for this works in the background, and was seen to collide with the next
    save.
    """
    for path in checkpoints.glob(f"*{_HALF_WRITTEN}"):
        shutil.rmtree(path, ignore_errors=True)


def delete_older(
    checkpoints: pathlib.Path, step: int, keep: int, keep_every: int | None
) -> bool:
    """Deletes the checkpoints that should be gone, since a kill may have kept Orbax from it.

    Args:
        checkpoints: directory that holds them.
        step: step of a whole checkpoint. Newer ones are not looked at.
        keep: number of newest checkpoints to keep.
        keep_every: checkpoints of the multiples of this step are kept as well.

    Returns:
        Whether there were any.
    """
    found = [old for old in steps_in(checkpoints) if old <= step]
    gone = too_old(found, keep, keep_every)
    for old in gone:
        shutil.rmtree(checkpoints / str(old), ignore_errors=True)
    return bool(gone)


def too_old(steps: list[int], keep: int, keep_every: int | None) -> list[int]:
    """Those of some steps, the newest first, that are not kept, as for `delete_older`."""
    return [x for x in steps[keep:] if keep_every is None or x % keep_every != 0]


def forget_damaged(run: pathlib.Path, complete: int | None) -> None:
    """Deletes damaged checkpoints that are no newer than a complete one."""
    for old in steps_in(run / DAMAGED):
        if complete is not None and old <= complete:
            shutil.rmtree(run / DAMAGED / str(old), ignore_errors=True)


def damaged(checkpoints: pathlib.Path, step: int, damage: object) -> ValueError:
    """The error for a damaged checkpoint; it says how to go on."""
    whole = next(
        (
            other
            for other in steps_in(checkpoints)
            if other < step and damage_of(checkpoints / str(other)) is None
        ),
        None,
    )
    way_out = (
        _without_best(checkpoints)
        if checkpoints.name == BEST
        else "There is no older checkpoint that is whole: restore the directory from a "
        "copy, or start a new run."
        if whole is None
        else f"The checkpoint of step {whole:,} is whole: --step {whole} takes it (for "
        f"--checkpoint of a new run: --checkpoint-step {whole})."
    )
    return ValueError(
        f"The checkpoint of step {step:,} is damaged: {damage}. {way_out}"
    )


def _without_best(checkpoints: pathlib.Path) -> str:
    return (
        "It is the best state of its run. `bert-jax checkpoints RUN` lists those of other "
        "steps, which --step takes. A run that is not finished goes on when "
        f"{checkpoints} is deleted; then the best of the evaluations to come counts."
    )


def _pass_over(run: pathlib.Path, damages: dict[int, str]) -> None:
    for step, damage in damages.items():
        kept = run / DAMAGED / str(step)
        shutil.rmtree(kept, ignore_errors=True)
        kept.parent.mkdir(exist_ok=True)
        (run / CHECKPOINTS / str(step)).rename(kept)
        print(
            f"note: the checkpoint of step {step:,} is passed over, because it is damaged: "
            f"{damage}. It lies in {kept} until the run has saved this step again.",
            flush=True,
        )


def _from_mirror(
    run: pathlib.Path, mirror: Mirror, damages: dict[int, str]
) -> int | None:
    for step in mirror.steps():
        copied = run / f"{CHECKPOINTS}-of-mirror" / str(step)
        try:
            mirror.fetch(step, copied)
        except (OSError, ValueError) as error:
            print(
                f"note: the copy of step {step:,} in {mirror.home} cannot be used "
                f"({error}).",
                flush=True,
            )
            continue
        _pass_over(run, damages)
        copied.rename(run / CHECKPOINTS / str(step))
        # With what a kill, or a copy that could not be used, has left there.
        shutil.rmtree(copied.parent)
        print(
            f"note: {run} has no whole checkpoint; the one of step {step:,} was copied "
            f"from {mirror.home}.",
            flush=True,
        )
        return step
    return None
