"""The software that must be the same on every host of a job."""

import functools
import hashlib
import importlib.metadata
import pathlib
import platform

import bert_jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Versions by name: Python, the libraries behind the numbers, bert_jax, its source."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {
        "python": platform.python_version(),
        **found,
        "bert_jax": bert_jax.__version__,
        "source of bert_jax": source_sha256()[:12],
    }


@functools.cache
def source_sha256() -> str:
    """One hash over the names and bytes of all Python files of this package."""
    digest = hashlib.sha256()
    root = pathlib.Path(bert_jax.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
