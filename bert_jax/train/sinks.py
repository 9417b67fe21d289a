"""Writes metrics to TensorBoard and to Weights & Biases (W&B)."""

import json
import pathlib
import secrets
from importlib.util import find_spec
from typing import Any, Protocol

from tensorboardX import SummaryWriter

from bert_jax.config import LoopConfig
from bert_jax.data.atomic_file import write_atomically
from bert_jax.runtime.agreement import on_first_host


class Sink(Protocol):
    """A place to which lines of metrics are written."""

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Writes scalars named kind/name to tensorboard/ of the run directory."""

    def __init__(self, run: pathlib.Path, *, purge_after: int | None) -> None:
        """Hides older lines after step `purge_after`, since a resumed run repeats them."""
        self._events = SummaryWriter(
            str(run / "tensorboard"),
            purge_step=None if purge_after is None else purge_after + 1,
            flush_secs=10,
        )

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        for name, value in values.items():
            self._events.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        self._events.close()


class WeightsAndBiases:
    """Writes scalars named kind/name over `step` to Weights & Biases.

    Each run directory has one W&B run per project. W&B deletes nothing, so steps that a
    resumed run repeats appear twice.
    """

    def __init__(self, run: pathlib.Path, project: str) -> None:
        """Starts or continues the W&B run.

        Raises:
            ValueError: W&B did not start, for example because nobody is logged in.
        """
        import wandb

        try:
            self._run = wandb.init(
                project=project,
                id=_wandb_id(run, project),
                resume="allow",
                name=run.resolve().name,
                config=json.loads((run / "config.json").read_text()),
                dir=str(run),
                settings=wandb.Settings(console="off", silent=True),
            )
        except wandb.Error as error:
            reason = str(error).rstrip(".")
            raise ValueError(
                f"Weights & Biases did not start: {reason}. Log in with `wandb login`, "
                "set WANDB_MODE=offline to send it later, or leave out "
                "--loop.wandb-project."
            ) from error
        # W&B's own step count can only rise; ours goes back to the last checkpoint.
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        named = {f"{kind}/{name}": value for name, value in values.items()}
        self._run.log({"step": step, **named})

    def close(self) -> None:
        self._run.finish()


def check_sinks(cfg: LoopConfig) -> None:
    """Checks that wandb is installed if `cfg` asks for it. Call it before all other work.

    Raises, on all hosts:
        ValueError: `cfg` asks for Weights & Biases, and the first host lacks wandb.
    """
    if cfg.wandb_project is None:
        return
    found = on_first_host("search for wandb", lambda: bool(find_spec("wandb")))
    if not found:
        raise ValueError(
            f"LoopConfig.wandb_project={cfg.wandb_project!r} needs the package wandb, "
            "which is not installed; run `pip install 'bert_jax[wandb]'`, or leave out "
            "--loop.wandb-project."
        )


def _wandb_id(run: pathlib.Path, project: str) -> str:
    """The id of `run` in `project`, which is drawn once and kept in wandb.json."""
    path = run / "wandb.json"
    ids = json.loads(path.read_text()) if path.exists() else {}
    if project not in ids:
        ids[project] = secrets.token_hex(8)
        write_atomically(path, json.dumps(ids, indent=2) + "\n")
    found: str = ids[project]
    return found
