"""The moments in an optimizer's state: found there, and carried over to another one."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bert_jax.train.tensors import path_name


class Moments(NamedTuple):
    """What an optimizer knows about the gradients so far."""

    mu: Any
    """First moments: a tree like the parameters, without what is frozen."""
    nu: Any
    """Second moments: likewise, and without the parameters whose rule has none."""
    age: jax.Array
    """int32 scalar: number of updates in them, also those of earlier runs."""


def moments_of(opt_state: Any) -> Moments:
    """Finds the moments in the state of any chain, by their names in optax.

    Optax's rules call first moments `mu`, second moments `nu` and their age `count`. A
    chain may have several rules if each is for other parameters.

    Raises:
        ValueError: there are no moments in it, or a parameter has two.
    """
    nodes = [
        node
        for node in jax.tree.leaves(opt_state, is_leaf=_has_moments)
        if _has_moments(node)
    ]
    if not nodes:
        raise ValueError(
            "The optimizer's state holds no moments; expected those of a rule such as "
            "adamw. Start with fresh moments."
        )
    none = jax.tree.map(lambda _: optax.MaskedNode(), nodes[0].mu)
    return Moments(
        mu=functools.reduce(_joined, [node.mu for node in nodes]),
        nu=functools.reduce(_joined, [getattr(n, "nu", none) for n in nodes]),
        age=nodes[0].count,
    )


def with_moments(opt_state: Any, moments: Moments) -> Any:
    """The same state with other moments, whose run may have had another optimizer.

    Moments of a parameter that is frozen now are left out. A parameter for which
    `moments` lack one that its rule needs, because it was frozen or had another rule,
    keeps those that it has in `opt_state`.

    Args:
        opt_state: of any chain that `moments_of` knows.
        moments: trees of arrays like the parameters.

    Returns:
        A state like `opt_state`. The schedule's own count is not touched.

    Raises:
        ValueError: as for `moments_of`.
    """
    moments_of(opt_state)  # checks that there are some

    def replaced(node: Any) -> Any:
        if not _has_moments(node):
            return node
        names = [name for name in ("mu", "nu") if name in node._fields]
        kept = {
            name: dict(jax.tree_util.tree_leaves_with_path(getattr(moments, name)))
            for name in names
        }
        whole = set.intersection(*(set(found) for found in kept.values()))
        fitted = {
            name: _fitted(
                getattr(node, name), {path: kept[name][path] for path in whole}
            )
            for name in names
        }
        # A copy for each rule: a step that gives the state away may not get one twice.
        return node._replace(count=jnp.array(moments.age), **fitted)

    return jax.tree.map(replaced, opt_state, is_leaf=_has_moments)


def _has_moments(node: Any) -> bool:
    return {"mu", "count"} <= set(getattr(node, "_fields", ()))


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _joined(one: Any, other: Any) -> Any:
    """The moments of two rules, of which each has `optax.MaskedNode` for the rest."""

    def either(path: tuple, a: Any, b: Any) -> Any:
        if _is_masked(a) or _is_masked(b):
            return b if _is_masked(a) else a
        raise ValueError(
            f"The optimizer's state holds two moments of {path_name(path)}; expected one "
            "rule for each parameter. Start with fresh moments."
        )

    return jax.tree_util.tree_map_with_path(either, one, other, is_leaf=_is_masked)


def _fitted(fresh: Any, kept: dict[tuple, jax.Array]) -> Any:
    """What is kept in the shape of `fresh`, completed with numbers of `fresh`."""

    def one(path: tuple, new: jax.Array) -> jax.Array:
        old = kept.get(path, new)
        more = new.shape[0] - old.shape[0] if new.ndim else 0
        if not more:
            return old
        # The runs freeze another number of a stack's layers, always the first ones.
        both = jnp.concatenate([new[:more], old]) if more > 0 else old[-more:]
        return jax.device_put(both, jnp.asarray(new).sharding)

    return jax.tree_util.tree_map_with_path(one, fresh)
