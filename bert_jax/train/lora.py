"""LoRA: low-rank changes of frozen weights, which can be added to them for good.

The pairs of matrices are a part of the parameters of their own, `lora`, with the paths of
the weights that they change. Nothing but this file knows of them: the model and all other
commands see ordinary parameters, with the changes added.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from bert_jax.config import LoraConfig
from bert_jax.train.losses import Mean
from bert_jax.train.objectives import Objective

PART = "lora"
_BLOCKS = {"up": "mlp", "gate": "mlp", "down": "mlp"}  # all others: "attention"


def init_lora(cfg: LoraConfig, layers: Any, key: jax.Array) -> dict[str, Any]:
    """Fresh pairs of matrices, float32: `a` at random, `b` zero, so that nothing changes.

    Args:
        cfg: rank and targets.
        layers: stacked parameters of the layers, [L, ...], or their shapes.
        key: random key.

    Returns:
        A tree with the paths of `layers`. In the place of the kernel [L, *inputs,
        *outputs] of a target stand `a`, [L, *inputs, rank], uniform with the bounds
        1 / sqrt(size of the inputs) as in the code of Hu et al., and `b`,
        [L, rank, *outputs].

    Raises:
        ValueError: the layers have no gate.
    """
    found: dict[str, Any] = {}
    for target in cfg.targets:
        block = _BLOCKS.get(target, "attention")
        if target not in layers[block]:
            raise ValueError(
                f"LoraConfig.targets={cfg.targets} names {target!r}, but the feed-forward "
                "blocks of this model have none; leave it out of --lora-targets."
            )
        num_layers, *sizes = layers[block][target]["kernel"].shape
        # All axes but the last are inputs of `out`, [L, N, H, D].
        split = 2 if target == "out" else 1
        inputs, outputs = sizes[:split], sizes[split:]
        key, own = jax.random.split(key)
        bound = 1.0 / math.sqrt(math.prod(inputs))
        shape = (num_layers, *inputs, cfg.rank)
        found.setdefault(block, {})[target] = {
            "a": jax.random.uniform(own, shape, jnp.float32, -bound, bound),
            "b": jnp.zeros((num_layers, cfg.rank, *outputs), jnp.float32),
        }
    return found


def merged(cfg: LoraConfig, params: dict[str, Any]) -> dict[str, Any]:
    """The parameters without the part `lora`, whose changes are added to the weights.

    Args:
        cfg: alpha and rank.
        params: all parameters. Without a part `lora` they are returned as they are.
    """
    if PART not in params:
        return params
    return _merged(cfg, params)


@functools.partial(jax.jit, static_argnums=0)
def _merged(cfg: LoraConfig, params: dict[str, Any]) -> dict[str, Any]:
    scale = cfg.alpha / cfg.rank
    product = functools.partial(jnp.tensordot, axes=1, precision="highest")

    def one(path: tuple, weights: jax.Array) -> jax.Array:
        block, name, *rest = (key.key for key in path)
        pair = params[PART].get(block, {}).get(name)
        if pair is None or rest != ["kernel"]:
            return weights
        return weights + scale * jax.vmap(product)(pair["a"], pair["b"])

    layers = jax.tree_util.tree_map_with_path(one, params["layers"])
    ordinary = {name: part for name, part in params.items() if name != PART}
    return {**ordinary, "layers": layers}


def with_lora(cfg: LoraConfig, objective: Objective) -> Objective:
    """The same objective for parameters that have a part `lora`."""
    if not cfg.rank:
        return objective

    def metrics(params: Any, rows: Any) -> dict[str, Mean]:
        return objective.metrics(merged(cfg, params), rows)

    return dataclasses.replace(objective, metrics=metrics)
