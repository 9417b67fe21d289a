"""Whether a checkpoint is of the architecture, the tokenizer and the tensors that are wanted."""

import dataclasses
import pathlib
from typing import Any, NamedTuple

from bert_jax.config import ModelConfig
from bert_jax.data.hashes import json_sha256
from bert_jax.runtime.agreement import agree

FORMAT_VERSION = 3


class Identity(NamedTuple):
    """The architecture and the tokenizer that a checkpoint belongs to."""

    model: ModelConfig
    tokenizer_sha256: str


def check_fit(
    checkpoint: pathlib.Path,
    manifest: dict[str, Any],
    identity: Identity,
    wanted: dict[str, str],
    prefix: str = "",
) -> None:
    """Compares the manifest of a checkpoint with what is wanted from it.

    Each host of a job reads the tensors that it needs for itself, so all must call it.

    Args:
        checkpoint: directory of one step.
        manifest: what `read_manifest` returned.
        identity: what the checkpoint must belong to.
        wanted: types and shapes by the names of the tensors, as `describe` gives them.
        prefix: how the names of all wanted tensors begin; others are not compared.

    Raises:
        ValueError: the format, the tokenizer, the architecture or a tensor differs, or the
            hosts of the job see different checkpoints there.
    """
    agree(
        f"the checkpoint {checkpoint}",
        {"the sha256 of its manifest": json_sha256(manifest)[:16]},
        remedy="Every host reads its weights there: give all of them the same files.",
    )
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{checkpoint} has checkpoint format {version}; this version of bert_jax "
            f"reads {FORMAT_VERSION}. Start a new run, or use the version that wrote it."
        )
    if manifest["tokenizer_sha256"] != identity.tokenizer_sha256:
        raise ValueError(
            f"Checkpoint {checkpoint} was trained with tokenizer "
            f"{manifest['tokenizer_sha256'][:12]}, but the tokenizer here is "
            f"{identity.tokenizer_sha256[:12]}, in which ids mean other pieces. "
            "Use the tokenizer of that run."
        )
    there, here = manifest["model"], dataclasses.asdict(identity.model)
    problems = [
        f"{name} is {there.get(name)!r} in the checkpoint and {here.get(name)!r} here"
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    ]
    stored = {n: d for n, d in manifest["tensors"].items() if n.startswith(prefix)}
    if prefix == "opt_state/" and not stored:
        raise ValueError(
            f"Checkpoint {checkpoint} holds weights alone, as after an import, and no "
            "moments of an optimizer; start with --moments fresh."
        )
    problems += [
        f"{name} is {stored.get(name, 'missing')} in the checkpoint and "
        f"{wanted.get(name, 'not wanted')} here"
        for name in sorted({*stored, *wanted})
        if stored.get(name) != wanted.get(name)
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(
            f"Checkpoint {checkpoint} does not fit the model: "
            f"{'; '.join(problems[:5])}{more}. Use the config it was written with."
        )
