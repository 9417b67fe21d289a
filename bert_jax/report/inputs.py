"""Reads run directories for the report and refuses what is not one.

A run directory holds `config.json`, `metrics.jsonl` and `results.json`. Values are
looked up through `Record`, so that a wrong type is reported with its file and name
and a missing value stays missing.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROUNDING = 1e-5  # a share summed in float32 can end slightly above 1
_COMMANDS = {"pretrain": "pretrain", "finetune": "finetunes", "baselines": "baselines"}


@dataclasses.dataclass(frozen=True)
class Record:
    """A JSON object that knows where it came from."""

    values: Mapping[str, Any]
    source: str

    def number(self, *names: str) -> float | None:
        """The number at a path of names; None where nothing was measured."""
        value = self._find(names)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._refuse(names, value, "a number or null")
        return float(value)

    def rate(self, *names: str) -> float | None:
        """A number that must lie in [0, 1], such as an accuracy."""
        value = self.number(*names)
        if value is None or not math.isfinite(value):
            return value
        if not 0.0 <= value <= 1.0 + ROUNDING:
            raise self._refuse(names, value, "a share between 0 and 1")
        return min(value, 1.0)

    def count(self, *names: str) -> int | None:
        """A whole number of things; never negative."""
        value = self.number(*names)
        if value is None:
            return None
        if not math.isfinite(value) or value < 0 or value != int(value):
            raise self._refuse(names, value, "a whole number, 0 or more")
        return int(value)

    def text(self, *names: str) -> str | None:
        """The string at a path of names."""
        value = self._find(names)
        if value is not None and not isinstance(value, str):
            raise self._refuse(names, value, "a string or null")
        return value

    def flag(self, *names: str) -> bool | None:
        """Whether something holds."""
        value = self._find(names)
        if value is not None and not isinstance(value, bool):
            raise self._refuse(names, value, "true, false or null")
        return value

    def table(self, *names: str) -> "Record | None":
        """The object at a path of names."""
        value = self._find(names)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._refuse(names, value, "an object or null")
        return Record(value, f"{self.source}: {'.'.join(names)}")

    def items(self, *names: str) -> list[Any] | None:
        """The list at a path of names."""
        value = self._find(names)
        if value is not None and not isinstance(value, list):
            raise self._refuse(names, value, "a list or null")
        return value

    def _find(self, names: Sequence[str]) -> Any:
        value: Any = self.values
        for depth, name in enumerate(names):
            if value is None:
                return None
            if not isinstance(value, Mapping):
                raise self._refuse(names[:depth], value, "an object or null")
            value = value.get(name)
        return value

    def _refuse(self, names: Sequence[str], value: Any, expected: str) -> ValueError:
        return ValueError(
            f"{self.source}: {'.'.join(names)}={value!r} is not {expected}; write it "
            "again with this version, or mend the file."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One training run: its settings, its curves and what it ended with."""

    path: Path
    config: dict[str, Any]
    train: tuple[Record, ...]
    evals: tuple[Record, ...]
    results: Record


@dataclasses.dataclass(frozen=True)
class Series:
    """One curve. Values that are not finite are left out and counted."""

    steps: list[int]
    values: list[float]
    num_not_finite: int = 0


def load_run(path: Path, kind: str) -> Run:
    """Reads one training run directory.

    Args:
        path: the directory.
        kind: "pretrain" or "finetune"; what its `results.json` must say.

    Raises:
        FileNotFoundError: the directory or one of its three files is not there.
        ValueError: a file does not hold what it should.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(
            f"{path} is not a directory; expected the run directory of a {kind} run, "
            "with config.json, metrics.jsonl and results.json."
        )
    config = read_object(path / "config.json")
    train, evals = _read_metrics(path / "metrics.jsonl")
    results = read_object(path / "results.json")
    _check_kind(results, kind)
    return Run(
        path=path,
        config=dict(config.values),
        train=train,
        evals=evals,
        results=results,
    )


def load_baselines(path: Path) -> Record:
    """Reads the results of the baselines: a directory or the JSON file itself.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file does not hold baselines.
    """
    path = Path(path)
    results = read_object(path / "results.json" if path.is_dir() else path)
    _check_kind(results, "baselines")
    return results


def series(run: Run, kind: str, name: str, *, rate: bool = False) -> Series:
    """One curve of a run. An evaluation curve ends with the final result."""
    records = run.train if kind == "train" else run.evals
    values = {}
    for record in records:
        value = record.rate(name) if rate else record.number(name)
        if value is not None:
            values[record.values["step"]] = value
    final_step = run.results.count("step")
    if kind == "eval" and final_step is not None:
        find = run.results.rate if rate else run.results.number
        final = find("eval", name)
        if final is not None:
            values[final_step] = final
    finite = {step: v for step, v in sorted(values.items()) if math.isfinite(v)}
    return Series(list(finite), list(finite.values()), len(values) - len(finite))


def read_object(path: Path) -> Record:
    """Reads a JSON file that holds one object.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it does not hold an object.
    """
    return Record(_parse_object(_read_text(path), str(path)), str(path))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise FileNotFoundError(
            f"{path} is missing; expected a file that every finished run writes. "
            "Let the run finish, or give another run directory."
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text ({error.reason}); expected JSON. Give another "
            "run directory, or write this one again."
        ) from None


def _parse_object(text: str, source: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{source} is not JSON ({error}); expected one object. If the run was cut "
            "short while writing, resume it or remove the broken part."
        ) from None
    if not isinstance(value, dict):
        raise ValueError(
            f"{source} holds a JSON {type(value).__name__}; expected an object. Give "
            "a run directory written by bert-jax."
        )
    return value


def _read_metrics(path: Path) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Training and evaluation lines by ascending step; other kinds are not ours.

    A resumed run goes back to its last checkpoint, so a line takes the place of every
    earlier one at the same step or beyond it.
    """
    kept: dict[str, list[Record]] = {"train": [], "eval": []}
    # Not splitlines: it also breaks at U+2028, which JSON strings may hold.
    for i, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        source = f"{path}, line {i}"
        record = Record(_parse_object(line, source), source)
        step = record.count("step")
        kind = record.text("kind")
        if step is None or kind is None:
            raise ValueError(
                f"{source} has kind={kind!r} and step={step!r}; every line needs both. "
                "Remove the line, or write the run directory again."
            )
        if kind not in kept:
            continue
        lines = kept[kind]
        while lines and lines[-1].values["step"] >= step:
            lines.pop()
        lines.append(Record({**record.values, "step": step}, source))
    return tuple(kept["train"]), tuple(kept["eval"])


def _check_kind(results: Record, kind: str) -> None:
    found = results.text("kind")
    if found == kind:
        return
    advice = (
        f"Pass it as `{_COMMANDS[found]}`."
        if found in _COMMANDS
        else "Give a run directory written by bert-jax."
    )
    raise ValueError(f"{results.source}: kind={found!r}, expected {kind!r}. {advice}")
