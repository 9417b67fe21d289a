"""Plans of epochs on disk, which all processes of a machine map into memory.

A plan depends on settings and data; a fingerprint of these names its folder:

    FINGERPRINT/epoch-00003/a_start.npy ...   arrays, kept for the last two epochs used
    FINGERPRINT/epoch-00003.json              their hashes and the epoch's size, kept

A plan that is missing or damaged is computed again, so the folder can be deleted
whenever no run is using it.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bert_jax.data.batches.epochs import Epoch, EpochSize
from bert_jax.data.batches.pairs import Pairs
from bert_jax.data.hashes import file_sha256, json_sha256

# Version of the rules by which plans are made. With another number, files of earlier
# versions are not used.
PLAN_VERSION = 2

_KEPT_EPOCHS = 2
_PARTIAL = "partial-"
_STALE_SECS = 3_600.0  # An older unfinished folder belongs to a killed process.
# NumPy parses the header of a file with `ast`. In CPython 3.11 this can raise a
# SystemError while another thread does the same (see python/cpython#106905), and a
# thread that plans ahead opens plans too.
_parsing_header = threading.Lock()
_PAIR_FIELDS = tuple(field.name for field in dataclasses.fields(Pairs))


class DamagedPlanError(Exception):
    """A file of a plan does not have the content that was written."""


class EpochPlans:
    """The plans of all epochs of the same settings and data."""

    def __init__(self, folder: pathlib.Path, decided_by: dict[str, Any]) -> None:
        """Opens a folder of plans; nothing is written yet.

        Args:
            folder: folder of plans, which can hold any number of fingerprints.
            decided_by: everything that decides the plans, as values that JSON can hold.
        """
        # Another version of NumPy can draw other random numbers.
        numpy = ".".join(np.__version__.split(".")[:2])
        key = {"version": PLAN_VERSION, "numpy": numpy, **decided_by}
        self._key = json.loads(json.dumps(key))  # as read: no tuples
        self.folder = folder.absolute() / json_sha256(self._key)[:16]

    def open(self, number: int, make: Callable[[], tuple[Epoch, EpochSize]]) -> Epoch:
        """Reads the plan of an epoch; if there is none, makes and writes it.

        If several processes ask at the same time, one makes it and the others wait.

        Args:
            number: number of the epoch.
            make: computes the plan.

        Raises:
            ValueError: the folder cannot be written, or `make` raised it.
        """
        found = self._load(number)
        if found is not None:
            return found
        with self._lock():
            found = self._load(number)
            if found is None:
                epoch, size = make()
                with self._writing():
                    self._save(number, epoch, size)
                del epoch  # It is mapped from disk instead.
                found = self._load(number, check_hashes=False)
            assert found is not None
            self._forget_others()
            return found

    def size(self, number: int) -> EpochSize | None:
        """The size of an epoch that was planned before, even if its arrays are deleted."""
        try:
            plan = self._read(number)
        except DamagedPlanError:
            return None
        return None if plan is None else EpochSize(**plan["size"])

    def _arrays(self, number: int) -> pathlib.Path:
        return self.folder / f"epoch-{number:05d}"

    def _description(self, number: int) -> pathlib.Path:
        return self.folder / f"epoch-{number:05d}.json"

    def _read(self, number: int) -> dict[str, Any] | None:
        """The description of an epoch's plan, or `None` if there is none."""
        path = self._description(number)
        try:
            whole = json.loads(path.read_bytes())
            plan = whole["plan"]
            sound = whole["sha256"] == json_sha256(plan) and plan["key"] == self._key
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError):
            sound = False
        if not sound:
            raise DamagedPlanError(f"{path} does not hold what was written")
        return plan

    def _load(self, number: int, *, check_hashes: bool = True) -> Epoch | None:
        folder = self._arrays(number)
        try:
            plan = self._read(number)
            if plan is None or not folder.is_dir():
                return None
            arrays = {
                name: _open_array(folder / f"{name}.npy", expected, check_hashes)
                for name, expected in plan["arrays"].items()
            }
        except DamagedPlanError as error:
            if not folder.is_dir():
                # Another run with the same settings deleted it.
                return None
            warnings.warn(f"{error}; epoch {number} is planned again", stacklevel=2)
            return None
        with contextlib.suppress(OSError):
            os.utime(folder)  # The last two used are kept.
        pairs = Pairs(**{name: arrays.pop(name) for name in _PAIR_FIELDS})
        return Epoch(pairs, **arrays)

    def _save(self, number: int, epoch: Epoch, size: EpochSize) -> None:
        """Writes a plan; files get their names only when whole, the description last."""
        arrays = {**vars(epoch.pairs), **epoch._asdict()}
        del arrays["pairs"]
        partial = pathlib.Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=self.folder))
        try:
            (partial / "arrays").mkdir()
            described = {}
            for name, array in arrays.items():
                path = partial / "arrays" / f"{name}.npy"
                np.save(path, array, allow_pickle=False)
                described[name] = {
                    "dtype": str(array.dtype),
                    "shape": list(array.shape),
                    "sha256": file_sha256(path),
                }
            plan = {
                "key": self._key,
                "epoch": number,
                "size": size._asdict(),
                "arrays": described,
            }
            whole = {"plan": plan, "sha256": json_sha256(plan)}
            (partial / "description").write_text(json.dumps(whole, indent=2) + "\n")
            shutil.rmtree(self._arrays(number), ignore_errors=True)
            os.replace(partial / "arrays", self._arrays(number))
            os.replace(partial / "description", self._description(number))
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _forget_others(self) -> None:
        """Deletes the arrays of all epochs but the last two that were used."""
        folders = [x for x in self.folder.glob("epoch-*") if x.is_dir()]
        folders.sort(key=lambda folder: folder.stat().st_mtime_ns)
        for folder in folders[:-_KEPT_EPOCHS]:
            # Renamed first, so that no process opens half a plan; arrays that are
            # mapped stay readable.
            gone = pathlib.Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=self.folder))
            with contextlib.suppress(OSError):
                os.replace(folder, gone)
            shutil.rmtree(gone, ignore_errors=True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ValueError(
                f"The plans of epochs cannot be written to {self.folder.parent} "
                f"({error}). Pass --data.plan-dir DIR, a folder on a local disk. It "
                "needs about 30 bytes per pair for each of two epochs."
            ) from error

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / ".lock").open("w")
        with file:
            # Without locks, every process would write the same plan.
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            for partial in self.folder.glob(f"{_PARTIAL}*"):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - partial.stat().st_mtime > _STALE_SECS:
                        shutil.rmtree(partial, ignore_errors=True)
            yield


def _open_array(
    path: pathlib.Path, expected: dict[str, Any], check_hash: bool
) -> np.ndarray:
    try:
        if check_hash and file_sha256(path) != expected["sha256"]:
            raise DamagedPlanError(f"{path} has another hash than when it was written")
        with _parsing_header:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, ValueError) as error:
        raise DamagedPlanError(f"{path} cannot be read ({error})") from None
    if [str(array.dtype), list(array.shape)] != [expected["dtype"], expected["shape"]]:
        raise DamagedPlanError(
            f"{path} is {array.dtype} {list(array.shape)}, and was written as "
            f"{expected['dtype']} {expected['shape']}"
        )
    return array
