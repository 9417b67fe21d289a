"""The tensors of a tree by their names: types, shapes and one hash over all of them."""

import hashlib
from typing import Any

import jax
import numpy as np


def describe(tree: Any) -> dict[str, str]:
    """A dict from the name of each tensor to its type and shape, e.g. `float32[2,128]`."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            f"{np.dtype(leaf.dtype).name}[{','.join(map(str, leaf.shape))}]"
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def tensors_sha256(tree: Any) -> str:
    """One SHA-256 over the names and bytes of all tensors, sorted by name."""
    digest = hashlib.sha256()
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    for name in sorted(leaves):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(leaves[name]).tobytes())
    return digest.hexdigest()
