"""What several commands share: a progress bar, and a command's own flags."""

import dataclasses
import pathlib
import sys
from typing import Annotated, Any

import tyro

from bert_jax.runtime.agreement import agree

RunDir = Annotated[pathlib.Path, tyro.conf.Positional, tyro.conf.arg(name="run")]
Step = Annotated[
    int | None,
    tyro.conf.arg(
        help="Step of the checkpoint to take; `bert-jax checkpoints RUN` lists them. "
        "Default: the best one that the run keeps, else the newest one."
    ),
]


# These may differ between the hosts of a job, or are compared where they are used.
_OWN = ("config_file", "compile_cache", "settings", "task", "data", "cluster", "args")


def fields(command: Any) -> dict[str, Any]:
    return {f.name: getattr(command, f.name) for f in dataclasses.fields(command)}


def agree_on_flags(command: Any) -> None:
    """Checks that all hosts of the job run one command, with the same flags of its own.

    Raises, on all hosts:
        ValueError: they differ; else one would wait for what the others never do.
    """
    flags = {name: x for name, x in fields(command).items() if name not in _OWN}
    agree("their command", {"command": type(command).__name__.lower(), **flags})


class Bar:
    """A tqdm bar; `update` is the (done, total) callback that the library takes."""

    def __init__(self, what: str, *, unit_scale: bool = True) -> None:
        import tqdm

        # A file that keeps the output gets a line twice a minute.
        secs = 1.0 if sys.stderr.isatty() else 30.0
        self._bar: Any = tqdm.tqdm(
            desc=what,
            unit="B" if unit_scale else "",
            unit_scale=unit_scale,
            mininterval=secs,
            delay=secs,
        )

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.close()

    def update(self, done: int, total: int | None) -> None:
        self._bar.total = total
        self._bar.update(done - self._bar.n)
