"""Where the encoders of runs came from, and where the time of a run went."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from bert_jax.config import FinetuneConfig
from bert_jax.report import formats
from bert_jax.report.runs import Run
from bert_jax.report.sections import Fact, Origin, Row, Table

Start = Literal["pretrained", "earlier", "foreign", "random"]

# Parts of `goodput` in results.json.
_TIMES = {
    "train_secs": "Training",
    "input_wait_secs": "Batches",
    "compile_secs": "Compiling",
    "evaluate_secs": "Evaluating",
    "checkpoint_secs": "Saving",
    "start_up_secs": "Starting",
    "lost_secs": "Lost",
}


def start_of(run: Run, pretrain: Run | None) -> Start:
    """What a fine-tuned run began with, seen from the pretraining run of the page.

    Returns:
        "pretrained": its encoder, as the page shows it (or no such run is shown);
        "earlier": its encoder at an earlier step; "foreign": the encoder of another
        run; "random": fresh weights.
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


def origins(named: Sequence[tuple[str, Run]], pretrain: Run | None) -> list[Origin]:
    """Where each encoder came from.

    Args:
        named: fine-tuned runs with their names on the page.
        pretrain: the pretraining run of the page.
    """
    rows = []
    if pretrain is not None and pretrain.info.encoder is not None:
        rows.append(_origin("Start of pretraining", pretrain.info.encoder))
    for name, run in named:
        encoder, start = run.info.encoder, start_of(run, pretrain)
        if encoder is None:
            known = "weights drawn at random" if start == "random" else "not recorded"
            rows.append(Origin(name, known))
            continue
        note = ""
        if pretrain is not None and start == "earlier":
            note = f"This page shows step {pretrain.step:,}."
        if pretrain is not None and not pretrain.encoder_hashes(encoder["step"]):
            note += (
                f" The path tells so; {pretrain.path} keeps no checkpoint of that step to "
                "compare with."
            )
        if pretrain is not None and start == "foreign":
            note = f"Foreign: this is not the encoder of {pretrain.path}."
        rows.append(_origin(name, encoder, note.strip()))
    return rows


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


def hardware_facts(run: Run) -> list[Fact]:
    """The machine and the versions, as far as the run has recorded them."""
    facts = []
    if "device" in run.results:
        facts.append(("Device", run.results["device"]))
    if use := run.series("train", "mfu").values:
        median = formats.number(statistics.median(use), ".1%")
        facts.append(("Model FLOP/s utilisation, median", median))
    return [*facts, *sorted(run.results.get("versions", {}).items())]


def time_table(named: Sequence[tuple[str, Run]]) -> Table | None:
    """Where the wall time of finished runs went; None where there are none."""
    rows = []
    for name, run in named:
        if spent := run.results.get("goodput"):
            wall = max(spent["wall_secs"], 1e-9)
            cells = [
                f"{formats.duration(spent[x])}\n{spent[x] / wall:.1%}" for x in _TIMES
            ]
            rows.append(Row(name, [formats.duration(wall), *cells]))
    if not rows:
        return None
    return Table(
        title="Where the time went",
        columns=["Run", "Since it began", *_TIMES.values()],
        rows=rows,
        caption="The share of the training steps is the goodput of a run.",
        wide=True,
    )


def _origin(name: str, encoder: dict, note: str = "") -> Origin:
    where = f"{encoder['run']}, step {encoder['step']:,}"
    tensors = formats.plural(encoder["num_tensors"], "tensor")
    return Origin(name, f"{where}, {tensors}", encoder["sha256"], note)
