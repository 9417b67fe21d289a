"""What a run directory is, and how the other commands read it, except its checkpoints.

A run directory holds config.json (the whole config), run.json (kind, architecture,
tokenizer, labels, where the encoder came from), tokenizer/, checkpoints/, best/ (the
weights of the best state of fine-tuning), metrics.jsonl, tensorboard/, history.json
(where the run went back, and settings that were changed on its way), goodput.json
(where the time went), results.json and held_out_logits.npz (of fine-tuning); on request
also profile/ (traces), wandb/ and wandb.json. damaged/ holds checkpoints that were
passed over, and .lock the name of the process that trains.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, TypeVar

from bert_jax import config_json
from bert_jax.config import FinetuneConfig, ModelConfig, PretrainConfig
from bert_jax.data.json_file import read_json
from bert_jax.data.tokenizers.saved_tokenizer import load_tokenizer
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.runtime.agreement import on_first_host
from bert_jax.train.runs.checkpoint_fit import Identity
from bert_jax.train.runs.checkpoint_in_store import CHECKPOINTS
from bert_jax.train.runs.checkpoint_mirror import steps_in

T = TypeVar("T")

FORMAT_VERSION = 3
FROM_A_COPY = "Restore the file from a copy of the run."


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What other commands must know to use a run's checkpoints."""

    kind: str
    """"pretrain" or "finetune"."""
    model: ModelConfig
    tokenizer_sha256: str
    data: dict[str, Any]
    """Hashes of the data. They must be the same when a run continues."""
    task: str | None = None
    """Name of the task in `train.tasks`; None for a pretraining run."""
    labels: tuple[str, ...] | None = None
    """Names of the task's logits, in their order; None for a pretraining run."""
    sequence_length: int = 0
    """Number of tokens in the longest rows of the run."""
    devices: str | None = None
    """Kind and number of the devices that the run began on; None for an imported run."""
    encoder: dict[str, Any] | None = None
    """Where the weights of step 0 came from. It is written when they are read."""
    format_version: int = FORMAT_VERSION

    @property
    def identity(self) -> Identity:
        """What every checkpoint of the run is checked against."""
        return Identity(self.model, self.tokenizer_sha256)


def is_new_run(run: pathlib.Path) -> bool:
    """Whether `run` holds no run yet. In a job, the first host looks.

    Raises, on all hosts:
        OSError, ValueError: as for `_holds_run`.
    """
    return on_first_host(f"a look for a run in {run}", lambda: not _holds_run(run))


def _holds_run(run: pathlib.Path) -> bool:
    """Whether there is a run.

    Raises:
        FileNotFoundError: from `refuse_lost`.
    """
    is_there = (run / "run.json").exists()
    if not is_there:
        refuse_lost(run, steps_in(run / CHECKPOINTS))
    return is_there


def refuse_lost(place: object, steps: Sequence[int]) -> None:
    """Refuses a place without run.json that has checkpoints of a run.

    Args:
        place: the place, for the message.
        steps: of its checkpoints, the newest first.

    Raises:
        FileNotFoundError: there is one.
    """
    if steps:
        raise FileNotFoundError(
            f"{place} has checkpoints, the newest of step {steps[0]:,}, but its run.json is "
            "missing, without which nothing reads them. Restore the file from a copy of "
            "the run; a mirror (--loop.mirror) holds one."
        )


def load_run(run: pathlib.Path, kind: str | None = None) -> RunInfo:
    """Reads run.json.

    Args:
        run: run directory.
        kind: kind that the run must have, "pretrain" or "finetune". Default: either.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: the run has another kind or format, or run.json is damaged.
    """
    path = run / "run.json"
    if not _holds_run(run):
        foreign = any(
            place.is_file()
            for place in (
                *(run / "config.json", run / "bert_config.json"),
                run.absolute().with_name(f"{run.name}.index"),
            )
        )
        way_out = ""
        if foreign:
            way_out = (
                f" It looks like a model of Hugging Face or Google: `bert-jax import {run} "
                "--output RUN` makes a run directory of it."
            )
        elif not run.exists():
            way_out = (
                " There is no such directory. If it is the name of a model of the Hugging "
                "Face Hub, `hf download NAME --local-dir DIR` fetches it, and `bert-jax "
                "import DIR --output RUN` makes a run directory of it."
            )
        raise FileNotFoundError(
            f"{run} is not a run directory (run.json is missing); expected one written "
            f"by `bert-jax pretrain`, `finetune` or `import`.{way_out}"
        )
    raw = read_json(path, FROM_A_COPY, version=FORMAT_VERSION)
    info = _built(RunInfo, raw, path)
    if kind is not None and info.kind != kind:
        way_out = ""
        if kind == "finetune":
            way_out = f" `bert-jax finetune {run} --train FILE --dev FILE --output NEW` makes one."
        elif info.devices is None:  # only an imported run has none
            way_out = (
                " `bert-jax import` with --encoder-only makes a pretrain run of the "
                "classifier that it was imported from."
            )
        raise ValueError(f"{run} is a {info.kind} run; expected a {kind} run.{way_out}")
    return info


def load_run_config(run: pathlib.Path) -> PretrainConfig | FinetuneConfig:
    """The whole config with which a run was last started.

    Raises:
        FileNotFoundError: there is no run, or its config.json is missing.
        ValueError: run.json or config.json is damaged.
    """
    is_pretraining = load_run(run).kind == "pretrain"
    kind: type[PretrainConfig | FinetuneConfig] = (
        PretrainConfig if is_pretraining else FinetuneConfig
    )
    path = run / "config.json"
    return _built(kind, read_json(path, FROM_A_COPY), path)


def load_run_tokenizer(run: pathlib.Path) -> Tokenizer:
    """The run's own tokenizer, checked against run.json."""
    expected = load_run(run).tokenizer_sha256
    tokenizer = load_tokenizer(run / "tokenizer")
    if tokenizer.sha256 != expected:
        raise ValueError(
            f"The tokenizer in {run} has hash {tokenizer.sha256[:12]}, but the run was "
            f"made with {expected[:12]}; restore the original files."
        )
    return tokenizer


def _built(kind: type[T], values: dict[str, Any], path: pathlib.Path) -> T:
    """The object that a file of a run holds.

    Raises:
        ValueError: a value is missing or not what it must be; the file is named.
    """
    try:
        return config_json.from_values(kind, values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}). {FROM_A_COPY}") from None
