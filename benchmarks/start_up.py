"""From the command to the end of the first step, with an empty compile cache and a full one."""

import json
import pathlib
import time

from benchmarks.measure import Findings
from benchmarks.run_command import bert_jax_lines
from benchmarks.run_settings import RunSettings

_BATCH_SIZE = 8
_PROMISED_SECS = 20.0
_PARTS = {
    "start_up": "dataset, proof of isolation, first state and batch",
    "compile": "tracing, compiling or the cache, first step",
}


def time_start_up(settings: RunSettings, findings: Findings) -> None:
    """Starts `bert-jax pretrain --config bert_base` twice and ends it after a step."""
    try:
        from benchmarks.run_dataset import small_dataset
    except ImportError as error:
        findings.left_out("the loader", f"{error}; pip install -e .")
        return
    dataset = small_dataset(settings.workdir)
    for number, cache in enumerate(("empty", "full")):
        run = settings.workdir / f"start-up-{number}"
        seconds, parts = _first_step(
            [
                *("--config", "bert_base", "--workdir", str(run)),
                *("--data.dataset", str(dataset.directory)),
                *("--model.vocab-size", str(dataset.tokenizer.vocab_size)),
                *("--model.compute-dtype", "float32"),
                *("--compile-cache", str(settings.workdir / "start-up-cache")),
                *("--batch-size", str(_BATCH_SIZE), "--loop.log-every-steps", "1"),
            ],
            run,
            settings,
        )
        what = f"{cache} compile cache"
        findings.figure(
            f"BERT-base, float32, {_BATCH_SIZE} rows of 128: command to the end of the first "
            f"step, {what}",
            "s",
            seconds,
            at_most=_PROMISED_SECS if cache == "full" else None,
        )
        for part, value in parts.items():
            findings.figure(f"of it {part}, {what}", "s", value)


def _first_step(
    arguments: list[str], run: pathlib.Path, settings: RunSettings
) -> tuple[float, dict[str, float]]:
    """Seconds to the first step's end, and of its parts.

    Raises:
        RuntimeError: the run ended before, or the time did.
    """
    launched, said = time.time(), ""
    with bert_jax_lines(["pretrain", *arguments], settings.seconds_left) as lines:
        for line in lines:
            said = line
            if line.startswith("step"):
                break
        else:
            raise RuntimeError(f"there was no step; the last line was {said!r}")
        seconds = time.time() - launched
    kept = json.loads((run / "goodput.json").read_text())
    began = kept["seen"] - sum(kept["seconds"].values())
    parts = {"imports and config": began - launched}
    parts |= {words: kept["seconds"][name] for name, words in _PARTS.items()}
    return seconds, parts
