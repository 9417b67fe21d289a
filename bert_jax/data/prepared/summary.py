"""What a run keeps of its dataset's manifest, and the report shows."""

import hashlib
from typing import Any

from bert_jax.data.prepared.audit import problems

_KEPT = ("source", "options", "tokenizer", "splits", "read", "audit")


def summarize(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest with the verdict on it, and one hash in place of a list of files.

    Returns:
        `source`, `options`, `tokenizer`, `splits`, `read` and `audit` of the manifest;
        `problems`, as `audit.problems` puts them; and `sha256` over all shards, the one
        that `sha256sum *.array_record-* | sha256sum` prints in the dataset's directory
        (in the C locale, which sorts names by their bytes).
    """
    lines = [f"{sha256}  {name}\n" for name, sha256 in manifest["sha256"].items()]
    listed = sorted(lines, key=lambda line: line.split("  ", 1)[1].encode())
    return {
        **{name: manifest[name] for name in _KEPT},
        "problems": problems(manifest),
        "sha256": hashlib.sha256("".join(listed).encode()).hexdigest(),
    }
