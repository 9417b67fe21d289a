"""A model of Hugging Face or Google as `--checkpoint`: imported on the way, once."""

import dataclasses
import json
import pathlib
from typing import TypeVar

from bert_jax.config import ClusterConfig, FinetuneConfig, PretrainConfig

Settings = TypeVar("Settings", PretrainConfig, FinetuneConfig)


def import_checkpoint(
    settings: Settings, output: pathlib.Path, cluster: ClusterConfig
) -> Settings:
    """Returns settings whose checkpoint is a run directory, or that have none.

    A foreign model is imported into `OUTPUT-checkpoint` beside the run. A run that
    continues takes what was imported when it began, even if the source is gone.

    Args:
        settings: as they were given.
        output: run directory of the command.
        cluster: the job that the command is part of.

    Raises:
        FileNotFoundError, ValueError: the model cannot be imported, has changed since
            the run began, or `OUTPUT-checkpoint` holds something else.
    """
    source = settings.checkpoint
    if source is None:
        return settings
    if not output.name:
        output = output.absolute()
    imported = output.with_name(f"{output.name}-checkpoint")
    before = _manifest(imported)
    taken = dataclasses.replace(settings, checkpoint=imported)
    if not source.exists() and before and before["source"] == str(source.absolute()):
        print(f"checkpoint: {imported}, imported from {source}, which is gone")
        return taken

    from bert_jax.exchange.imported import describe
    from bert_jax.exchange.importing import import_run, is_foreign, source_sha256

    if not is_foreign(source):
        return settings  # what reads it says what it lacks
    if before:
        if before["source_sha256"] != source_sha256(source):
            raise ValueError(
                f"{imported} was imported from {before['source']}, and {source} has "
                f"other files. Give --checkpoint {imported} to go on with what was "
                "imported then, or choose another --output."
            )
        print(f"checkpoint: {imported}, imported from {source} before", flush=True)
        return taken
    way_out = (
        f"`bert-jax import {source} --output RUN` makes a run directory of it; then "
        "give --checkpoint RUN."
    )
    _refuse_jobs(source, cluster, way_out)
    try:
        found = import_run(
            source, imported, encoder_only=isinstance(settings, PretrainConfig)
        )
    except ValueError as error:
        raise ValueError(
            f"{error} (This is the checkpoint {source}, which is no run directory. "
            f"{way_out} There, every flag of `import` can be given.)"
        ) from error
    print(f"checkpoint: {source} is imported into {imported}")
    for line in describe(found):
        print(f"  {line}", flush=True)
    return taken


def _manifest(imported: pathlib.Path) -> dict[str, str] | None:
    path = imported / "import.json"
    try:
        return json.loads(path.read_bytes()) if path.is_file() else None
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}). Delete {imported}: it is imported again."
        ) from None


def _refuse_jobs(source: pathlib.Path, cluster: ClusterConfig, way_out: str) -> None:
    """Raises ValueError in a job of several processes, which would all import."""
    from bert_jax.runtime.job import find_job

    if find_job(cluster) is not None:
        raise ValueError(
            f"The checkpoint {source} is no run directory, and several processes "
            f"cannot import it at once. {way_out}"
        )
