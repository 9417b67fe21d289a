"""Writes metrics to TensorBoard and to Weights & Biases (W&B)."""

import contextlib
import pathlib
import secrets
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any, Protocol

from google.protobuf.message import DecodeError

from bert_jax.config import LoopConfig
from bert_jax.data.json_file import read_json, write_json
from bert_jax.runtime.agreement import on_first_host


@contextlib.contextmanager
def _not_loaded(*names: str) -> Iterator[None]:
    """Makes modules that are not loaded yet look as if they were not installed."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


# tensorboardX loads them where they are installed, which takes as long as all the rest of
# a training, and never needs them for numbers and a local folder.
with _not_loaded("torch", "boto3", "google.cloud.storage"):
    from tensorboardX import SummaryWriter
    from tensorboardX.proto.event_pb2 import Event


class Sink(Protocol):
    """A place to which lines of metrics are written."""

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Writes scalars named kind/name to tensorboard/ of the run directory, each once."""

    def __init__(
        self,
        run: pathlib.Path,
        *,
        first_step: int,
        kept: Sequence[dict[str, Any]] = (),
    ) -> None:
        """Goes on with the points of earlier sessions.

        Args:
            run: run directory.
            first_step: step that this session goes on from. Points after it, which it
                repeats, are hidden.
            kept: lines of metrics up to that step. What a kill took from TensorBoard,
                which writes some seconds late, is written now.
        """
        folder, purge_step = run / "tensorboard", None
        self._shown: set[tuple[str, int]] = set()
        # metrics.jsonl does not tell whether there are points: a session that begins anew
        # empties it, and may be killed before it has hidden them.
        if any(folder.glob("events.*")):
            purge_step = first_step + 1
            self._shown = {x for x in shown_points(folder) if x[1] < purge_step}
        self._events = SummaryWriter(
            str(folder),
            purge_step=purge_step,
            flush_secs=10,
            # Without it, a session of the same second would overwrite the file.
            filename_suffix=f".{time.time_ns()}",
        )
        for line in kept:
            values = {
                name: value
                for name, value in line.items()
                if name not in ("kind", "step") and isinstance(value, int | float)
            }
            self.write(line["kind"], line["step"], values)

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if (f"{kind}/{name}", step) not in self._shown:
                self._events.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        self._events.close()


def shown_points(folder: pathlib.Path) -> set[tuple[str, int]]:
    """(name, step) of every point that TensorBoard shows of the event files of a folder.

    A file is a row of records: the length in 8 bytes and its checksum in 4, an event, and
    the checksum of that in 4. A kill may cut off the last record. As in TensorBoard, a
    record that is damaged hides all behind it.
    """
    points: set[tuple[str, int]] = set()
    for path in sorted(folder.glob("events.*")):
        content = path.read_bytes()
        start = 12
        while start <= len(content):
            (size,) = struct.unpack_from("<Q", content, start - 12)
            if start + size + 4 > len(content):
                break
            try:
                event = Event.FromString(content[start : start + size])
            except DecodeError:
                break
            start += size + 16
            if event.HasField("session_log"):
                points = {point for point in points if point[1] < event.step}
            points.update((value.tag, event.step) for value in event.summary.value)
    return points


class WeightsAndBiases:
    """Writes scalars named kind/name over `step` to Weights & Biases.

    Each run directory has one W&B run per project. W&B deletes nothing, so steps that a
    resumed run repeats appear twice. A process of its own sends the lines, which a kill of
    the run does not end.
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
                config=read_json(run / "config.json", "Restore it from a copy."),
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
    way_out = "Delete the file; then the metrics go to another run of W&B."
    ids = read_json(path, way_out) if path.exists() else {}
    if project not in ids:
        ids[project] = secrets.token_hex(8)
        write_json(path, ids)
    found: str = ids[project]
    return found
