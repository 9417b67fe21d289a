"""Copies of a run's checkpoints in a second directory, for the loss of the first.

The mirror of a run holds checkpoints/STEP as the run has them, and its small files, from
which the run directory can be made again. A copy has its name only when it is whole: its files are compared with
the hashes of its manifest first. In a store, its manifest comes last.
"""

import pathlib
import shutil
import threading
import uuid

from bert_jax.config import LoopConfig
from bert_jax.config.address import address_of
from bert_jax.data.atomic_file import write_atomically
from bert_jax.data.object_store import StoreFolder, local_copy_of
from bert_jax.train.runs.checkpoint_files import damage_of
from bert_jax.train.runs.checkpoint_in_store import (
    CHECKPOINTS,
    delete_checkpoint,
    get_checkpoint,
    put_checkpoint,
    steps_in_store,
)

SMALL_FILES = ("metrics.jsonl", "goodput.json", "config.json", "run.json")
_PARTIAL = ".partial-"
_POLL_SECS = 0.2


def copy_checkpoint(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies the directory of a checkpoint; `target` appears when it is whole.

    Raises:
        OSError: it cannot be read or written.
        ValueError: the copy is not what was saved; a file is named.
    """
    partial = target.with_name(f"{target.name}{_PARTIAL}{uuid.uuid4().hex}")
    try:
        shutil.copytree(source, partial)
        if (damage := damage_of(partial)) is not None:
            raise ValueError(damage)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        # It holds the reasons of all files, with their paths.
        if isinstance(error, shutil.Error):
            raise OSError(error.args[0][0][2]) from None
        raise


def copy_small_files(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies the small files of a run that are there; run.json comes last."""
    for name in SMALL_FILES:
        if (source / name).exists():
            write_atomically(target / name, (source / name).read_bytes())


def steps_in(checkpoints: pathlib.Path) -> list[int]:
    """Steps of the checkpoints in a directory, the newest first; of no directory, none."""
    if not checkpoints.is_dir():
        return []
    names = (path.name for path in checkpoints.iterdir())
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


class Mirror:
    """Copies checkpoints of a run into its mirror, one at a time, in a thread.

    What goes wrong is said and is no error: the run has its own checkpoints.
    """

    def __init__(
        self, run: pathlib.Path, home: pathlib.Path, *, every: int, keep: int
    ) -> None:
        """Starts nothing yet.

        Args:
            run: run directory.
            home: directory of the mirror.
            every: least number of updates between two copies.
            keep: number of the newest copies that are kept.
        """
        self.home: pathlib.Path | StoreFolder = home
        self._run, self._every, self._keep = run, every, keep
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    def steps(self) -> list[int]:
        """Steps of the copies, the newest first."""
        return steps_in(self._place())

    def fetch(self, step: int, target: pathlib.Path) -> None:
        """Copies a copy to `target`, which appears when it is whole.

        Raises:
            OSError: it cannot be read or written.
            ValueError: it is not what was saved; a file is named.
        """
        copy_checkpoint(self._place(step), target)

    def small_files(self) -> pathlib.Path:
        """A local folder with the small files of the run, or without any."""
        assert isinstance(self.home, pathlib.Path)
        return self.home

    def _place(self, step: int | None = None) -> pathlib.Path:
        place = self.small_files() / CHECKPOINTS
        return place if step is None else place / str(step)

    def _put(self, source: pathlib.Path) -> None:
        for left in self._place().glob(f"*{_PARTIAL}*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        copy_checkpoint(source, self._place(int(source.name)))
        copy_small_files(self._run, self.small_files())

    def _delete(self, step: int) -> None:
        shutil.rmtree(self._place(step))

    def follow(self, step: int) -> None:
        """Copies the checkpoint of a step when it is complete, if its turn has come."""
        if self._thread is not None and self._thread.is_alive():
            return  # the next one will be newer
        self._thread = threading.Thread(target=self._copy, args=(step,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Returns when the copy in progress, if there is one, is finished."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def _copy(self, step: int) -> None:
        source = self._run / CHECKPOINTS / str(step)
        # Orbax gives a checkpoint its name when it is complete. At the end of a session it
        # is: the checkpoints are closed before the mirror.
        while not source.exists():
            if self._closing.wait(_POLL_SECS) and not source.exists():
                return
        try:
            newest = max((n for n in self.steps() if n <= step), default=None)
            if newest is not None and step - newest < self._every:
                return
            self._put(source)
            for old in self.steps()[self._keep :]:
                self._delete(old)
        except (OSError, ValueError) as error:
            print(
                f"note: the checkpoint of step {step:,} was not copied to {self.home} "
                f"({error}). The run goes on.",
                flush=True,
            )


class StoreMirror(Mirror):
    """A mirror in an object store."""

    def __init__(self, run: pathlib.Path, address: str, **options: int) -> None:
        super().__init__(run, pathlib.Path(), **options)
        self.home = self._store = StoreFolder(address)

    def steps(self) -> list[int]:
        return steps_in_store(self._store.sizes(), CHECKPOINTS)

    def fetch(self, step: int, target: pathlib.Path) -> None:
        get_checkpoint(self._folder(step), target)

    def small_files(self) -> pathlib.Path:
        local = local_copy_of(self._store.address, "mirrors")
        shutil.rmtree(local, ignore_errors=True)
        self._store.get_small(local, SMALL_FILES)
        return local

    def _put(self, source: pathlib.Path) -> None:
        put_checkpoint(source, self._folder(int(source.name)))
        for name in SMALL_FILES:
            if (self._run / name).exists():
                self._store.write(name, (self._run / name).read_bytes())

    def _delete(self, step: int) -> None:
        delete_checkpoint(self._folder(step))

    def _folder(self, step: int) -> StoreFolder:
        return StoreFolder(f"{self._store}/{CHECKPOINTS}/{step}")


def mirror_of(run: pathlib.Path, cfg: LoopConfig) -> Mirror | None:
    """The mirror of a run, if its settings name one.

    Raises:
        ValueError: it is the run directory itself.
    """
    if cfg.mirror is None:
        return None
    options = {"every": cfg.mirror_every_steps, "keep": cfg.keep_checkpoints}
    if address := address_of(cfg.mirror):
        return StoreMirror(run, address, **options)
    home = pathlib.Path(cfg.mirror).expanduser().resolve()
    if home == run.resolve():
        raise ValueError(
            f"--loop.mirror {cfg.mirror} is the run directory itself, so that nothing would "
            "be copied. Give another directory, best on another disk."
        )
    return Mirror(run, home, **options)
