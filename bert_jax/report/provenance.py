"""Where the encoders of runs came from, seen from the pretraining run of the page."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from bert_jax.config import FinetuneConfig
from bert_jax.data.plural import plural
from bert_jax.report.runs import Run
from bert_jax.train.runs.history import load_history

Start = Literal["pretrained", "earlier", "foreign", "random"]


def start_of(run: Run, pretrain: Run | None) -> Start:
    """What a fine-tuned run began with.

    Returns:
        "pretrained": the encoder of `pretrain`, as the page shows it (or no such run is
        shown); "earlier": its encoder at an earlier step; "foreign": the encoder of
        another run; "random": fresh weights.
    """
    assert isinstance(run.cfg, FinetuneConfig)
    if run.cfg.from_scratch:
        return "random"
    encoder = run.info.encoder
    if pretrain is None or encoder is None:
        return "pretrained"
    same_kind = (
        run.info.model == pretrain.info.model
        and run.info.tokenizer_sha256 == pretrain.info.tokenizer_sha256
    )
    if not same_kind or not _is_encoder_of(encoder, pretrain):
        return "foreign"
    return "earlier" if encoder["step"] < pretrain.step else "pretrained"


def _is_encoder_of(encoder: dict[str, Any], pretrain: Run) -> bool:
    """By the hash of the weights; by the path where their checkpoint is gone."""
    hashes = pretrain.encoder_hashes(encoder["step"])
    if hashes:
        return hashes.get(encoder["num_tensors"]) == encoder["sha256"]
    is_its_path = Path(encoder["run"]) == pretrain.path.resolve()
    return is_its_path and encoder["step"] <= pretrain.step


def origin(run: Run, pretrain: Run | None) -> tuple[str, str]:
    """Lines on what a run was made from and where, and the hash of its first encoder.

    Args:
        run: a run of any kind.
        pretrain: the pretraining run of the page.
    """
    encoder, found = run.info.encoder, run.results
    cfg = run.cfg
    fresh = cfg.from_scratch if isinstance(cfg, FinetuneConfig) else not cfg.checkpoint
    lines = ["Weights drawn at random." if fresh else "Origin of weights not recorded."]
    if encoder is not None:
        tensors = plural(encoder["num_tensors"], "tensor")
        lines = [f"{encoder['run']}, step {encoder['step']:,}, {tensors}"]
    if isinstance(cfg, FinetuneConfig):
        if encoder is not None and pretrain is not None:
            lines += _verdict(encoder, start_of(run, pretrain), pretrain)
        number = f", {found['num_train']:,} examples" if found else ""
        if cfg.task.train is not None:  # an imported run was trained elsewhere
            lines.append(f"Training: {cfg.task.train}{number}")
        dev = cfg.task.dev
        if dev is not None:
            share = isinstance(dev, float)
            held_out = f"a share of {dev:g} of the training file" if share else dev
            lines.append(f"Held out: {held_out}")
    if skipped := [line for line in run.lines if line["kind"] == "skipped"]:
        updates = plural(len(skipped), "update")
        lines.append(f"{updates} skipped: loss or gradients were not finite.")
    lines += map(str, load_history(run.path).events)
    if "device" in found:
        use = run.series("train", "mfu").values
        peak = f", {statistics.median(use):.1%} of its peak FLOP/s" if use else ""
        lines.append(f"Device: {found['device']}{peak}")
    if versions := found.get("versions"):
        lines.append(", ".join(map(" ".join, versions.items())))
    return "\n".join(lines), "" if encoder is None else encoder["sha256"]


def _verdict(encoder: dict[str, Any], start: Start, pretrain: Run) -> list[str]:
    """How an encoder is related to the pretraining run of the page."""
    lines = []
    if start == "foreign":
        lines.append(f"Foreign: this is not the encoder of {pretrain.path}.")
    if start == "earlier":
        lines.append(f"This page shows step {pretrain.step:,}.")
    if not pretrain.encoder_hashes(encoder["step"]):
        lines.append(
            f"The path tells so; {pretrain.path} keeps no checkpoint of that step to "
            "compare with."
        )
    return lines


def warnings(runs: Sequence[Run], pretrain: Run | None) -> list[str]:
    """What must be known of the encoders before scores are compared."""
    found = []
    hashes: dict[tuple[str, int, int], set[str]] = defaultdict(set)
    for run in runs:
        encoder = run.info.encoder
        if encoder is None:
            continue
        same = (encoder["run"], encoder["step"], encoder["num_tensors"])
        hashes[same].add(encoder["sha256"])
        if pretrain is not None and start_of(run, pretrain) == "foreign":
            found.append(
                f"{run.path} began with a foreign encoder, from {encoder['run']} at "
                f"step {encoder['step']:,}. Its scores say nothing about "
                f"{pretrain.path}."
            )
    found += [
        f"Several runs began with {source} at step {step:,}, but their encoders have "
        "different hashes: that run was replaced in between."
        for (source, step, _), digests in hashes.items()
        if len(digests) > 1
    ]
    return found
