"""results.json of a run: what came out, written when the run has finished."""

import pathlib
from typing import Any

from bert_jax.config import PretrainConfig
from bert_jax.data.json_file import read_json, write_json
from bert_jax.runtime.agreement import on_first_host
from bert_jax.train.runs.run import load_run_config

WEIGHTS_REMOVED = {"weights": False}
"""The entry of a run whose weights a sweep removes. It is written before they are removed,
so that a sweep that is killed meanwhile knows what it has left."""

_MADE_AGAIN = (
    "The command that made the run makes the file again, from the last checkpoint."
)


def save_results(run: pathlib.Path, results: dict[str, Any]) -> None:
    """Writes results.json on the first host. The other hosts wait for it."""
    on_first_host(
        f"results of {run}", lambda: write_json(run / "results.json", results)
    )


def load_results(run: pathlib.Path) -> dict[str, Any] | None:
    """Reads results.json of a finished run, or returns `None` if there is none.

    A run of pretraining that goes on to more steps has none before it ends again. In a
    job, the first host reads the file for all.

    Raises:
        ValueError: the file is damaged.
    """

    return on_first_host(f"a look for results in {run}", lambda: _results_of(run))


def finished_results(run: pathlib.Path) -> dict[str, Any] | None:
    """As `load_results`, for the command that can make the results again.

    Returns:
        `None` too if the file is damaged, which is said.
    """

    def read() -> dict[str, Any] | None:
        try:
            return _results_of(run)
        except ValueError as damage:
            print(f"note: {damage} This command does so now.", flush=True)
            return None

    return on_first_host(f"a look for results in {run}", read)


def _results_of(run: pathlib.Path) -> dict[str, Any] | None:
    path = run / "results.json"
    results = read_json(path, _MADE_AGAIN) if path.exists() else None
    if results is not None and results.get("kind") == "pretrain":
        cfg = load_run_config(run)
        assert isinstance(cfg, PretrainConfig)
        return results if results["step"] >= cfg.all_steps else None
    return results
