"""The run directory: what a run is, beside its checkpoints.

config.json (the whole config), run.json (kind, architecture, tokenizer, labels, where
the encoder came from), tokenizer/, checkpoints/, metrics.jsonl, tensorboard/,
results.json.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

from bert_jax import config_json
from bert_jax.config import ModelConfig
from bert_jax.data.tokenizers.saved_tokenizer import load_tokenizer
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.train.checkpoint import Identity

FORMAT_VERSION = 1
# May change between a run and its continuation: they do not touch the numbers.
_FREE = (
    "loop",
    "data.num_threads",
    "data.num_workers",
    "data.plan_dir",
    "data.dataset",
    "checkpoint",
    "task",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What another command must know to use a run's checkpoints."""

    kind: str
    """"pretrain" or "finetune"."""
    model: ModelConfig
    tokenizer_sha256: str
    data: dict[str, Any]
    """Identity of the data: equal in a run and its continuation."""
    labels: tuple[str, ...] | None = None
    """Of a classifier, in the order of its logits."""
    sequence_length: int = 0
    encoder: dict[str, Any] | None = None
    """Where the weights of step 0 came from."""
    format_version: int = FORMAT_VERSION

    @property
    def identity(self) -> Identity:
        """What every checkpoint of the run is checked against."""
        return Identity(self.model, self.tokenizer_sha256)


def start_run(
    run: pathlib.Path, config: Any, info: RunInfo, tokenizer: Tokenizer
) -> None:
    """Creates a run directory, or checks that it is the same run that goes on.

    Raises:
        ValueError: the directory holds another run, or something else.
    """
    text = config_json.to_json(config)
    if (run / "run.json").exists():
        before = json.loads((run / "config.json").read_text())
        changed = _differences(before, json.loads(text))
        if changed:
            raise ValueError(
                f"{run} holds a run of other settings: {'; '.join(changed)}. Go on "
                "with those settings, or choose another --workdir."
            )
        old = load_run(run)
        for name in ("kind", "tokenizer_sha256", "data", "labels"):
            if getattr(old, name) != getattr(info, name):
                raise ValueError(
                    f"{run} was begun with another {name}: {getattr(old, name)} then, "
                    f"{getattr(info, name)} now. Choose another --workdir."
                )
        return
    if run.exists() and any(run.iterdir()):
        raise ValueError(
            f"{run} is not empty and holds no run; choose another --workdir."
        )
    run.mkdir(parents=True, exist_ok=True)
    tokenizer.save(run / "tokenizer")
    write_text(run / "config.json", text)
    write_text(run / "run.json", config_json.to_json(info))


def load_run(run: pathlib.Path, kind: str | None = None) -> RunInfo:
    """Reads run.json.

    Raises:
        FileNotFoundError: no run is there.
        ValueError: it is of another kind or format.
    """
    path = run / "run.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{run} is not a run directory (run.json is missing); expected one written "
            "by `bert-jax pretrain` or `bert-jax finetune`."
        )
    raw = json.loads(path.read_text())
    if raw.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{run} has run format {raw.get('format_version')}; this version of "
            f"bert_jax reads {FORMAT_VERSION}."
        )
    info = RunInfo(
        kind=raw["kind"],
        model=config_json.from_json(ModelConfig, json.dumps(raw["model"])),
        tokenizer_sha256=raw["tokenizer_sha256"],
        data=raw["data"],
        labels=None if raw["labels"] is None else tuple(raw["labels"]),
        sequence_length=raw["sequence_length"],
        encoder=raw["encoder"],
    )
    if kind is not None and info.kind != kind:
        raise ValueError(f"{run} is a {info.kind} run; expected a {kind} run.")
    return info


def load_run_tokenizer(run: pathlib.Path) -> Tokenizer:
    """The run's own tokenizer, checked against run.json."""
    tokenizer = load_tokenizer(run / "tokenizer")
    expected = load_run(run).tokenizer_sha256
    if tokenizer.sha256 != expected:
        raise ValueError(
            f"The tokenizer in {run} has hash {tokenizer.sha256[:12]}, the run was made "
            f"with {expected[:12]}; restore the original files."
        )
    return tokenizer


def save_results(run: pathlib.Path, results: dict[str, Any]) -> None:
    write_text(run / "results.json", json.dumps(results, indent=2) + "\n")


def load_results(run: pathlib.Path) -> dict[str, Any] | None:
    """results.json of a finished run, or `None`."""
    path = run / "results.json"
    return json.loads(path.read_text()) if path.exists() else None


def write_text(path: pathlib.Path, text: str) -> None:
    """A reader sees the old file or the whole new one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


def _differences(before: Any, now: Any, where: str = "") -> list[str]:
    if where in _FREE:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            line
            for name in {**before, **now}
            for line in _differences(
                before.get(name), now.get(name), f"{where}.{name}".lstrip(".")
            )
        ]
    return [] if before == now else [f"{where} is {before!r} there and {now!r} here"]
