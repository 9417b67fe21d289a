"""Saves and restores train states with Orbax.

A checkpoint holds four items. `params` and `opt_state` are separate, so that the encoder
can be read without the moments. `rest` holds the step and the random key. `manifest`
holds the architecture, the tokenizer's hash, the names, shapes and types of all tensors,
and the hashes of all files; every restore is checked against it first.

A run goes on from what stands in checkpoints/. The weights of the best state that
fine-tuning has judged stand in best/, without moments.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Collection, Iterator
from typing import Any

import orbax.checkpoint as ocp

from bert_jax.runtime import process
from bert_jax.runtime.agreement import agree, on_first_host
from bert_jax.runtime.explanations import system_reason
from bert_jax.train.averaging import AVERAGE, abstract_average
from bert_jax.train.runs.checkpoint_files import (
    MANIFEST,
    check_files,
    read_manifest,
)
from bert_jax.train.runs.checkpoint_fit import FORMAT_VERSION, Identity, check_fit
from bert_jax.train.runs.checkpoint_in_store import BEST, CHECKPOINTS
from bert_jax.train.runs.checkpoint_items import (
    barrier,
    handlers,
    restored,
    silence_expected_lines,
)
from bert_jax.train.runs.checkpoint_mirror import Mirror, steps_in
from bert_jax.train.runs.checkpoint_recovery import (
    damaged,
    delete_older,
    find_whole,
    forget_damaged,
    remove_half_written,
)
from bert_jax.train.runs.run_lock import vanished
from bert_jax.train.step import TrainState
from bert_jax.train.tensors import describe

NEWEST = CHECKPOINTS
_OF_AVERAGE = f"opt_state/{AVERAGE}/"

silence_expected_lines()


class Checkpoints:
    """The checkpoints of one run directory.

    Args:
        run: the run directory.
        identity: written to each manifest; checkpoints with another identity are refused.
        keep: number of newest checkpoints to keep.
        keep_every: checkpoints of the multiples of this step are kept as well.
        mirror: where checkpoints are copied to, and taken from when the run has none.
        read_only: whether nothing may be written.
        place: directory in the run, `NEWEST` or `BEST`.

    Raises:
        FileNotFoundError: `read_only` is set and there are no checkpoints.
        ValueError: the hosts of the job see different checkpoints.
    """

    def __init__(
        self,
        run: pathlib.Path,
        identity: Identity,
        *,
        keep: int = 1,
        keep_every: int | None = None,
        mirror: Mirror | None = None,
        read_only: bool = False,
        place: str = NEWEST,
    ):
        self.identity = identity
        self.directory = run / place
        self._mirror = mirror
        self._run = run
        self._whole: int | None = None  # step whose files were just compared
        if read_only and not self.directory.is_dir():
            raise FileNotFoundError(
                f"{run} holds no checkpoints; expected a run directory written by "
                "`bert-jax pretrain` or `bert-jax finetune`."
            )
        if not read_only:
            on_first_host(
                f"clearing of {self.directory}",
                lambda: remove_half_written(self.directory),
            )
        self._keep, self._keep_every = keep, keep_every
        self._read_only = read_only
        self._manager = self._open()
        # Each host lists the directory itself, and a shared file system may show an old
        # list to some of them.
        agree(
            f"the checkpoints in {self.directory}",
            {"steps": sorted(self._manager.all_steps())},
            remedy="Is it on storage that all hosts share? Start the command again.",
        )

    def _open(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self.directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=self._keep,
                keep_period=self._keep_every,
                # Else Orbax reads a file of each checkpoint that has no hash, for times.
                lightweight_initialize=True,
                read_only=self._read_only,  # then Orbax creates and deletes nothing
                async_options=ocp.options.AsyncOptions(barrier_sync_fn=barrier),
            ),
            handler_registry=handlers(),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        try:
            with self._writing():
                self._manager.close()
        except (OSError, ValueError):
            if kind is None:  # else the error that is on its way says more
                raise
        finally:
            if self._mirror is not None:
                self._mirror.close()

    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint, or `None` if there is none."""
        return self._manager.latest_step()

    def newest_whole(self) -> int | None:
        """Step of the newest checkpoint with all files as they were saved, to go on from.

        Newer ones are moved to damaged/ of the run, and are deleted when their step has
        been saved again. If no checkpoint is whole, the newest copy of the mirror is
        taken. Both are said. `None`: there is no checkpoint at all.

        Raises, on all hosts:
            ValueError: there are checkpoints, and none is whole.
        """
        step = on_first_host(
            f"a look for a whole checkpoint in {self.directory}",
            lambda: find_whole(self._run, self._mirror),
        )
        if step != self.latest_step():
            self._reopen()
        if step is not None:
            self.delete_older(step)
        self._whole = step
        return step

    def delete_older(self, step: int) -> None:
        """Deletes what a kill has left of checkpoints older than those that are kept."""
        directory, kept = self.directory, (self._keep, self._keep_every)
        if on_first_host(
            f"old checkpoints in {directory}",
            lambda: delete_older(directory, step, *kept),
        ):
            self._reopen()

    def _reopen(self) -> None:
        self._manager.close()
        self._manager = self._open()

    def save(self, state: TrainState, **notes: Any) -> None:
        """Starts to write a checkpoint. Training may continue meanwhile.

        Args:
            state: what is saved. A state whose `opt_state` is `None` gives weights to
                start another run from; a run cannot continue from it.
            notes: further entries of the manifest, fit for JSON.

        Raises:
            OSError: this or the last checkpoint could not be written.
        """
        step, before = int(state.step), self.latest_step()
        if step == before:
            return
        items: dict[str, Any] = {
            "params": ocp.args.PyTreeSave(state.params),
            "rest": ocp.args.PyTreeSave({"step": state.step, "key": state.key}),
            MANIFEST: ocp.args.JsonSave(
                {
                    "format_version": FORMAT_VERSION,
                    "model": dataclasses.asdict(self.identity.model),
                    "tokenizer_sha256": self.identity.tokenizer_sha256,
                    "tensors": describe(state),
                    **notes,
                }
            ),
        }
        if state.opt_state is not None:
            items["opt_state"] = ocp.args.PyTreeSave(state.opt_state)
        with self._writing():
            self._manager.save(step, args=ocp.args.Composite(**items))
        # Orbax writes one checkpoint at a time, so the one before is complete.
        self._forget_damaged(before)
        if self._mirror is not None and process.is_first():
            self._mirror.follow(step)

    def note(self, name: str) -> Any:
        """A note in the newest manifest; `None` if there is none, or no checkpoint.

        Raises:
            ValueError: the manifest was changed.
        """
        step = self.latest_step()
        if step is None:
            return None
        return on_first_host(
            f"the {name} in {self.directory}", lambda: self._manifest(step).get(name)
        )

    def wait(self) -> None:
        """Returns when all checkpoints are on disk.

        Raises:
            OSError: one could not be written, for example because the disk is full.
        """
        with self._writing():
            self._manager.wait_until_finished()
        self._forget_damaged(self.latest_step())

    def _forget_damaged(self, complete: int | None) -> None:
        if process.is_first() and self.directory.name == NEWEST:
            forget_damaged(self._run, complete)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns what TensorStore and Orbax raise into one sentence."""
        try:
            yield
        except (OSError, ValueError) as error:
            if not self.directory.is_dir():
                raise OSError(vanished(self._run)) from error
            reason = system_reason(error)
            if reason is None:
                raise
            raise OSError(
                f"A checkpoint could not be written to {self.directory}: {reason}. Older "
                "checkpoints stay as they are. When the cause is removed, start the same "
                "command again: it goes on from the newest of them, or begins anew."
            ) from error

    def restore(self, abstract: TrainState, step: int | None = None) -> TrainState:
        """Reads a whole state and places it as `abstract` says.

        Args:
            abstract: shapes, types and placements.
            step: step of the checkpoint. Default: the newest one.

        Raises:
            FileNotFoundError: there is no such checkpoint.
            ValueError: a tensor is missing, extra, or of another shape or type.
        """
        step = self._step(step)
        self._check(step, describe(abstract))
        restored = self._restore(
            step,
            params=abstract.params,
            opt_state=abstract.opt_state,
            rest={"step": abstract.step, "key": abstract.key},
        )
        return TrainState(
            params=restored.params, opt_state=restored.opt_state, **restored.rest
        )

    def restore_params(
        self, abstract: Any, step: int | None = None, *, averaged: bool = True
    ) -> Any:
        """Reads all parameters, without the rest of the optimizer's state.

        Args:
            abstract: shapes, types and placements.
            step: step of the checkpoint. Default: the newest one.
            averaged: whether their average is read instead, if the run keeps one in
                which there is an update.

        Raises:
            ValueError: a tensor is missing, extra, or of another shape or type.
        """
        step = self._step(step)
        self.check(step, params=abstract)
        tensors = self._manifest(step)["tensors"]
        has_average = any(name.startswith(_OF_AVERAGE) for name in tensors)
        if averaged and has_average:
            wanted = {AVERAGE: abstract_average(abstract)._asdict()}
            self._check(step, describe({"opt_state": wanted}), prefix=_OF_AVERAGE)
            restored = self._restore(step, partial=True, opt_state=wanted)
            if restored.opt_state[AVERAGE]["age"] > 0:
                return restored.opt_state[AVERAGE]["mean"]
        return self._restore(step, params=abstract).params

    def restore_opt_state(self, abstract: Any, step: int | None = None) -> Any:
        """Reads the optimizer's state only.

        Raises:
            ValueError: the checkpoint has no such state, or a tensor is missing, extra
                or of another shape or type.
        """
        step = self._step(step)
        self.check(step, opt_state=abstract)
        return self._restore(step, opt_state=abstract).opt_state

    def check(self, step: int | None = None, **parts: Any) -> None:
        """Compares a manifest with abstract trees.

        Args:
            step: step of the checkpoint. Default: the newest one.
            parts: abstract trees by the name of the item, such as `params`.

        Raises:
            FileNotFoundError: there is no complete checkpoint.
            ValueError: a tensor is missing, extra, or of another shape or type.
        """
        for name, abstract in parts.items():
            self._check(self._step(step), describe({name: abstract}), prefix=f"{name}/")

    def _step(self, step: int | None) -> int:
        found = list(self._manager.all_steps())
        if not found:
            raise FileNotFoundError(
                f"{self.directory} holds no complete checkpoint; run the command until "
                "it has written one."
            )
        if step is not None and step not in found:
            there = sorted({*found, *steps_in(self.directory.parent / BEST)})
            raise FileNotFoundError(
                f"{self.directory.parent} has no checkpoint of step {step}; there are {there}."
            )
        return max(found) if step is None else step

    def _check(self, step: int, wanted: dict[str, str], prefix: str = "") -> None:
        """Compares a checkpoint's manifest with what is wanted; reads no other file."""
        checkpoint, manifest = self.directory / str(step), self._manifest(step)
        check_fit(checkpoint, manifest, self.identity, wanted, prefix)

    def _manifest(self, step: int, items: Collection[str] = ()) -> dict[str, Any]:
        """The manifest of a checkpoint, with whose hashes the files of `items` are compared.

        Raises:
            ValueError: a file is missing or was changed.
        """
        checkpoint = self.directory / str(step)
        try:
            manifest = read_manifest(checkpoint)
            check_files(checkpoint, manifest, items)
        except ValueError as damage:
            raise damaged(self.directory, step, damage) from None
        return manifest

    def _restore(self, step: int, *, partial: bool = False, **items: Any) -> Any:
        """Reads some items after their files were compared with the manifest's hashes.

        The first host of a job reads the files for all. `partial` says that the items are
        parts of those that were saved.
        """

        def check() -> None:
            self._manifest(step, items)

        if step != self._whole:
            on_first_host(f"check of the files of {self.directory}/{step}", check)
        self._whole = None
        args = {name: restored(item, partial=partial) for name, item in items.items()}
        return self._manager.restore(step, args=ocp.args.Composite(**args))


def open_weights(
    run: pathlib.Path, identity: Identity, step: int | None = None
) -> Checkpoints:
    """Where the weights of a run stand that other runs and commands take: read-only.

    They are those of the best state that fine-tuning has judged, if it has judged any;
    else those of the newest checkpoint. The newest step in the place is the step to take.
    With `step`, the place is the one that has weights of this step.

    Raises:
        FileNotFoundError: there are no checkpoints.
        ValueError: the hosts of the job see different checkpoints.
    """

    def find() -> str:
        judged = steps_in(run / BEST)
        is_there = bool(judged) if step is None else step in judged
        return BEST if is_there else NEWEST

    place = on_first_host(f"a look for the best state of {run}", find)
    return Checkpoints(run, identity, read_only=True, place=place)
