"""What happened to a run on its way: history.json of the run directory.

It holds the times that the run went back to a checkpoint, with the batches that are passed by
since then, and the settings that were changed by `--resume-with`. A resumed run reads it, so
that it does what the run would have done.
"""

import dataclasses
import pathlib
from typing import Any

from bert_jax.data.json_file import read_json, write_json
from bert_jax.runtime.agreement import on_first_host

FORMAT_VERSION = 1
FILE = "history.json"
_WAY_OUT = (
    "Restore it from a copy: it says which batches the run passes by, and which settings "
    "were changed."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollback:
    """The run went back to a checkpoint."""

    noticed_at: int
    """Step at which it was noticed that the run had to go back."""
    to: int
    """Step of the checkpoint that it went on from; 0 for the beginning."""
    passed_by: tuple[int, ...]
    """Numbers of the batches that are not trained on, counted from 0."""
    reason: str

    def __str__(self) -> str:
        return (
            f"step {self.noticed_at:,}: {self.reason}; went back to step {self.to:,} and "
            f"passed {len(self.passed_by):,} batches by"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """The run went on with other settings."""

    from_step: int
    """Step of the checkpoint from which they hold."""
    settings: dict[str, Any]
    """Name such as `optimizer.learning_rate` -> value."""

    def __str__(self) -> str:
        names = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        return f"from step {self.from_step:,} on: {names} (--resume-with)"


_KINDS: dict[str, type] = {"rollback": Rollback, "settings": Change}


@dataclasses.dataclass(frozen=True)
class History:
    """All that happened, in its order."""

    events: tuple[Rollback | Change, ...] = ()

    @property
    def passed_by(self) -> frozenset[int]:
        """Numbers of the batches that are not trained on."""
        found = (x.passed_by for x in self.events if isinstance(x, Rollback))
        return frozenset(number for numbers in found for number in numbers)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that differ from the run's command, by name."""
        found: dict[str, Any] = {}
        for event in self.events:
            if isinstance(event, Change):
                found |= event.settings
        return found

    @property
    def num_rollbacks(self) -> int:
        """How often the run went back since its settings were changed last."""
        kinds = [isinstance(event, Rollback) for event in self.events]
        return kinds[::-1].index(False) if False in kinds else len(kinds)


def load_history(run: pathlib.Path) -> History:
    """Reads the history of a run. In a job, the first host reads it for all.

    Raises, on all hosts:
        ValueError: the file is damaged, or of another format. It must be restored: without
            it, a run would train on batches that it had passed by.
    """

    def read() -> list[dict[str, Any]]:
        path = run / FILE
        if not path.exists():
            return []
        events: list[dict[str, Any]] = read_json(
            path, _WAY_OUT, version=FORMAT_VERSION
        )["events"]
        return events

    events = on_first_host(f"the history of {run}", read)
    return History(tuple(_event(**fields) for fields in events))


def add_event(run: pathlib.Path, event: Rollback | Change) -> History:
    """Writes one more event to the history, on the first host. The others wait for it."""
    history = History((*load_history(run).events, event))
    names = {kind: name for name, kind in _KINDS.items()}
    content = {
        "format_version": FORMAT_VERSION,
        "events": [{"kind": names[type(x)], **vars(x)} for x in history.events],
    }

    on_first_host(f"the history of {run}", lambda: write_json(run / FILE, content))
    return history


def _event(kind: str, **fields: Any) -> Rollback | Change:
    if "passed_by" in fields:
        fields["passed_by"] = tuple(fields["passed_by"])
    event: Rollback | Change = _KINDS[kind](**fields)
    return event
