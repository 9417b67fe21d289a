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
import shutil
from collections.abc import Iterator
from typing import Any, NamedTuple

import orbax.checkpoint as ocp

from bert_jax.config import ModelConfig
from bert_jax.runtime.agreement import agree, on_first_host
from bert_jax.runtime.explanations import system_reason
from bert_jax.train.averaging import AVERAGE
from bert_jax.train.checkpoint_files import (
    MANIFEST,
    check_files,
    is_whole,
    read_manifest,
)
from bert_jax.train.checkpoint_items import handlers, part_of
from bert_jax.train.orbax_log import silence_expected_lines
from bert_jax.train.step import TrainState
from bert_jax.train.tensors import describe

FORMAT_VERSION = 3
# Formats whose weights can be read: files of the older ones have no hashes, and version 1
# has another state of the optimizer.
WEIGHTS_FORMATS = (1, 2, FORMAT_VERSION)
NEWEST = "checkpoints"
BEST = "best"
_OF_AVERAGE = f"opt_state/{AVERAGE}/mean/"
_HALF_WRITTEN = ".orbax-checkpoint-tmp"  # the end of Orbax's names

silence_expected_lines()


class Identity(NamedTuple):
    """The architecture and the tokenizer that a checkpoint belongs to."""

    model: ModelConfig
    tokenizer_sha256: str


class Checkpoints:
    """The checkpoints of one run directory.

    Args:
        run: the run directory.
        identity: written to each manifest; checkpoints with another identity are refused.
        keep: number of newest checkpoints to keep.
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
        read_only: bool = False,
        place: str = NEWEST,
    ):
        self.identity = identity
        self.directory = run / place
        if read_only and not self.directory.is_dir():
            raise FileNotFoundError(
                f"{run} holds no checkpoints; expected a run directory written by "
                "`bert-jax pretrain` or `bert-jax finetune`."
            )
        if not read_only:
            on_first_host(f"clearing of {self.directory}", self._remove_half_written)
        self._manager = ocp.CheckpointManager(
            self.directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=None if read_only else keep,
                create=not read_only,
                read_only=read_only,
            ),
            handler_registry=handlers(),
        )
        # Each host lists the directory itself, and a shared file system may show an old
        # list to some of them.
        agree(
            f"the checkpoints in {self.directory}",
            {"steps": sorted(self._manager.all_steps())},
            remedy="Is it on storage that all hosts share? Start the command again.",
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        try:
            with self._writing():
                self._manager.close()
        except OSError:
            if kind is None:  # else the error that is on its way says more
                raise

    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint, or `None` if there is none."""
        return self._manager.latest_step()

    def save(self, state: TrainState, **notes: Any) -> None:
        """Starts to write a checkpoint. Training may continue meanwhile.

        Args:
            state: what is saved. A state whose `opt_state` is `None` gives weights to
                start another run from; a run cannot continue from it.
            notes: further entries of the manifest, fit for JSON.

        Raises:
            OSError: this or the last checkpoint could not be written.
        """
        step = int(state.step)
        if step == self.latest_step():
            return
        items: dict[str, Any] = {
            "params": ocp.args.StandardSave(state.params),
            "rest": ocp.args.StandardSave({"step": state.step, "key": state.key}),
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
            items["opt_state"] = ocp.args.StandardSave(state.opt_state)
        with self._writing():
            self._manager.save(step, args=ocp.args.Composite(**items))

    def note(self, name: str) -> Any:
        """A note in the newest manifest; `None` if there is no checkpoint.

        Raises:
            ValueError: the manifest was changed.
        """
        step = self.latest_step()
        if step is None:
            return None

        def read() -> Any:
            try:
                return read_manifest(self.directory / str(step))[name]
            except ValueError as damage:
                raise self._damaged(step, damage) from None

        return on_first_host(f"the {name} in {self.directory}", read)

    def wait(self) -> None:
        """Returns when all checkpoints are on disk.

        Raises:
            OSError: one could not be written, for example because the disk is full.
        """
        with self._writing():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns what TensorStore and Orbax raise into one sentence."""
        try:
            yield
        except (OSError, ValueError) as error:
            reason = system_reason(error)
            if reason is None:
                raise
            raise OSError(
                f"A checkpoint could not be written to {self.directory}: {reason}. Older "
                "checkpoints stay as they are. When the cause is removed, start the same "
                "command again: it goes on from the newest of them."
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
            averaged: whether their average is read instead, if the run keeps one.

        Raises:
            ValueError: a tensor is missing, extra, or of another shape or type.
        """
        step = self._step(step)
        self._check(step, describe({"params": abstract}), prefix="params/")
        tensors = read_manifest(self.directory / str(step))["tensors"]
        has_average = any(name.startswith(_OF_AVERAGE) for name in tensors)
        if averaged and has_average and step > 0:
            wanted = {AVERAGE: {"mean": abstract}}
            self._check(step, describe({"opt_state": wanted}), prefix=_OF_AVERAGE)
            restored = self._restore(step, partial=True, opt_state=wanted)
            return restored.opt_state[AVERAGE]["mean"]
        return self._restore(step, params=abstract).params

    def restore_opt_state(self, abstract: Any, step: int | None = None) -> Any:
        """Reads the optimizer's state only.

        Raises:
            ValueError: the checkpoint has no such state, or a tensor is missing, extra
                or of another shape or type.
        """
        step = self._step(step)
        self._check(step, describe({"opt_state": abstract}), prefix="opt_state/")
        return self._restore(step, opt_state=abstract).opt_state

    def check(self, **parts: Any) -> None:
        """Compares the newest manifest with abstract trees.

        Args:
            parts: abstract trees by the name of the item, such as `params`.

        Raises:
            FileNotFoundError: there is no complete checkpoint.
            ValueError: a tensor is missing, extra, or of another shape or type.
        """
        for name, abstract in parts.items():
            self._check(self._step(None), describe({name: abstract}), prefix=f"{name}/")

    def _remove_half_written(self) -> None:
        """Frees the room that a crash or a full disk has left taken.

        Orbax's option for this works in the background, and was seen to collide with the
        next save.
        """
        for path in self.directory.glob(f"*{_HALF_WRITTEN}"):
            shutil.rmtree(path, ignore_errors=True)

    def _step(self, step: int | None) -> int:
        found = list(self._manager.all_steps())
        if not found:
            raise FileNotFoundError(
                f"{self.directory} holds no complete checkpoint; run the command until "
                "it has written one."
            )
        if step is not None and step not in found:
            raise FileNotFoundError(
                f"{self.directory} has no checkpoint of step {step}; there are "
                f"{sorted(found)}."
            )
        return max(found) if step is None else step

    def _check(self, step: int, wanted: dict[str, str], prefix: str = "") -> None:
        """Compares a checkpoint's manifest with what is wanted; reads no other file."""
        try:
            manifest = read_manifest(self.directory / str(step))
        except ValueError as damage:
            raise self._damaged(step, damage) from None
        version = manifest.get("format_version")
        if version not in (
            WEIGHTS_FORMATS if prefix == "params/" else (FORMAT_VERSION,)
        ):
            way_out = (
                f", and only the weights of {version}: start a new run with --checkpoint "
                "and fresh moments."
                if version in WEIGHTS_FORMATS
                else ". Start a new run."
            )
            raise ValueError(
                f"{self.directory}/{step} has checkpoint format {version}; this version "
                f"of bert_jax reads {FORMAT_VERSION}{way_out}"
            )
        if manifest["tokenizer_sha256"] != self.identity.tokenizer_sha256:
            raise ValueError(
                f"Checkpoint {self.directory}/{step} was trained with tokenizer "
                f"{manifest['tokenizer_sha256'][:12]}, but the tokenizer here is "
                f"{self.identity.tokenizer_sha256[:12]}, in which ids mean other pieces. "
                "Use the tokenizer of that run."
            )
        there, here = manifest["model"], dataclasses.asdict(self.identity.model)
        problems = [
            f"{name} is {there.get(name)!r} in the checkpoint and {here.get(name)!r} "
            "here"
            # The manifest of version 1 also holds settings of the computation.
            for name in (here if version == 1 else {**there, **here})
            if there.get(name) != here.get(name)
        ]
        stored = {n: d for n, d in manifest["tensors"].items() if n.startswith(prefix)}
        problems += [
            f"{name} is {stored.get(name, 'missing')} in the checkpoint and "
            f"{wanted.get(name, 'not wanted')} here"
            for name in sorted({*stored, *wanted})
            if stored.get(name) != wanted.get(name)
        ]
        if problems:
            more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise ValueError(
                f"Checkpoint {self.directory}/{step} does not fit the model: "
                f"{'; '.join(problems[:5])}{more}. Use the config it was written with."
            )

    def _restore(self, step: int, *, partial: bool = False, **items: Any) -> Any:
        """Reads some items after their files were compared with the manifest's hashes.

        The first host of a job reads the files for all. `partial` says that the items are
        parts of those that were saved.
        """

        def check() -> None:
            checkpoint = self.directory / str(step)
            try:
                manifest = read_manifest(checkpoint)
                if manifest["format_version"] == FORMAT_VERSION:
                    check_files(checkpoint, manifest, items)
            except ValueError as damage:
                raise self._damaged(step, damage) from None

        on_first_host(f"check of the files of {self.directory}/{step}", check)
        args = {
            name: part_of(item) if partial else ocp.args.StandardRestore(item)
            for name, item in items.items()
        }
        return self._manager.restore(step, args=ocp.args.Composite(**args))

    def _damaged(self, step: int, damage: ValueError) -> ValueError:
        """The error for a damaged checkpoint; it says how to go on."""
        whole = next(
            (
                other
                for other in sorted(self._manager.all_steps(), reverse=True)
                if other < step and is_whole(self.directory / str(other))
            ),
            None,
        )
        way_out = (
            "The run has no older checkpoint that is whole: restore the directory from a "
            "copy, or start a new run."
            if whole is None
            else f"The checkpoint of step {whole:,} is whole. To go on from there, delete "
            f"{self.directory / str(step)} and start the same command again."
        )
        return ValueError(
            f"The checkpoint of step {step:,} is damaged: {damage}. {way_out}"
        )


def open_weights(run: pathlib.Path, identity: Identity) -> Checkpoints:
    """Where the weights of a run stand that other runs and commands take: read-only.

    They are those of the best state that fine-tuning has judged, if it has judged any;
    else those of the newest checkpoint. The newest step in the place is the step to take.

    Raises:
        FileNotFoundError: there are no checkpoints.
        ValueError: the hosts of the job see different checkpoints.
    """

    def find() -> str:
        steps = (run / BEST).glob("[0-9]*")
        is_there = any(not path.name.endswith(_HALF_WRITTEN) for path in steps)
        return BEST if is_there else NEWEST

    place = on_first_host(f"a look for the best state of {run}", find)
    return Checkpoints(run, identity, read_only=True, place=place)
