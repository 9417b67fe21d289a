"""The key `rope_parameters` of a config.json, flat and as it stands there."""

import pathlib
from typing import Any

from bert_jax.config import ModelConfig
from bert_jax.exchange.families.family import Config

KEYS = "rope_parameters"


def theta_of(path: pathlib.Path, parameters: Any) -> float | None:
    """The base of plain rotary angles, or None where nothing is said.

    Raises:
        ValueError: angles that are scaled or of another kind.
    """
    # What is no object is left over, as a key that nobody knows.
    own = dict(parameters or {}) if isinstance(parameters or {}, dict) else {KEYS: 0}
    kind = own.pop("rope_type", None) or own.pop("type", None) or "default"
    theta = own.pop("rope_theta", None)
    # The whole head is rotated here; so is it there by default.
    whole = own.pop("partial_rotary_factor", None) in (None, 1.0)
    if kind != "default" or own or not whole:
        raise ValueError(
            f"{path} has {KEYS}={parameters}; expected rope_type='default' and a "
            "rope_theta. Other rotary positions do not exist here."
        )
    return theta


def with_theta(path: pathlib.Path, config: Config) -> Config:
    """A config whose only theta stands under `rope_theta`.

    Raises:
        ValueError: as for `theta_of`, or the heads have another width than the hidden size
            gives them.
    """
    _check_head_size(path, config)
    config = dict(config)
    theta = theta_of(path, config.pop(KEYS, None))
    return config if theta is None else {**config, "rope_theta": theta}


def with_parameters(config: Config, cfg: ModelConfig) -> Config:
    """The reverse of `with_theta`; the flat key stays for older releases."""
    rope = {"rope_type": "default", "rope_theta": cfg.rope_theta}
    return {**config, KEYS: rope}


def _check_head_size(path: pathlib.Path, config: Config) -> None:
    given = config.get("head_dim")
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    if given is not None and hidden and heads and given * heads != hidden:
        raise ValueError(
            f"{path} has head_dim={given} beside hidden_size={hidden} and "
            f"num_attention_heads={heads}; here the heads share the hidden size."
        )
