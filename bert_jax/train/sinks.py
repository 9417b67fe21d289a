"""Where metrics go beside metrics.jsonl: TensorBoard and Weights & Biases."""

import json
import pathlib
import secrets
from importlib.util import find_spec
from typing import Any, Protocol

from tensorboardX import SummaryWriter

from bert_jax.config import LoopConfig
from bert_jax.runtime.agreement import on_first_host
from bert_jax.train.run import write_text


class Sink(Protocol):
    """Takes one line of metrics after the other."""

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Scalars as kind/name, in tensorboard/ of the run directory."""

    def __init__(self, run: pathlib.Path, *, purge_after: int | None) -> None:
        """Lines after step `purge_after` are hidden: a resumed run repeats them."""
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
    """Scalars as kind/name over `step`, into one W&B run a run directory and project.

    W&B takes nothing back: the steps that a resumed run repeats are there twice.
    """

    def __init__(self, run: pathlib.Path, project: str) -> None:
        """Starts the W&B run, or goes on with it.

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
        # Its own count of steps only rises, ours goes back to the last checkpoint.
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        named = {f"{kind}/{name}": value for name, value in values.items()}
        self._run.log({"step": step, **named})

    def close(self) -> None:
        self._run.finish()


def check_sinks(cfg: LoopConfig) -> None:
    """Call it before anything is begun.

    Raises, on all hosts:
        ValueError: `cfg` asks for Weights & Biases, which the first host has not
            installed.
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
    """The id of `run` in `project`, drawn once and kept in wandb.json."""
    path = run / "wandb.json"
    ids = json.loads(path.read_text()) if path.exists() else {}
    if project not in ids:
        ids[project] = secrets.token_hex(8)
        write_text(path, json.dumps(ids, indent=2) + "\n")
    found: str = ids[project]
    return found
