"""The tensors of a tree by their names, their types and shapes, and one hash of them all."""

import hashlib
from typing import Any

import jax
import numpy as np


def path_name(path: tuple) -> str:
    """The name of a leaf by its path in a tree, such as `layers/mlp/up/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their names, in JAX's order."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_name(path): leaf for path, leaf in leaves}


def describe(tree: Any) -> dict[str, str]:
    """A dict from the name of each tensor to its type and shape, e.g. `float32[2,128]`."""
    return {
        name: f"{np.dtype(leaf.dtype).name}[{','.join(map(str, leaf.shape))}]"
        for name, leaf in named_leaves(tree).items()
    }


def tensors_sha256(tree: Any) -> str:
    """One SHA-256 over the names and bytes of all tensors, sorted by name."""
    digest = hashlib.sha256()
    leaves = named_leaves(tree)
    for name in sorted(leaves):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(leaves[name]).tobytes())
    return digest.hexdigest()
