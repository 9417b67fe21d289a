"""Dropout: which units a forward pass sets to zero."""

import dataclasses

import jax
import jax.numpy as jnp

from bert_jax.config import DropoutConfig
from bert_jax.model.random_bits import (
    are_kept,
    kept_scale,
    key_sets,
    random_bits,
    row_keys,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dropout:
    """The random keys and the rates of one forward pass, or of one part of it."""

    keys_B: jax.Array | None
    """Typed random keys, one per row. `None` drops nothing."""
    rates: DropoutConfig = dataclasses.field(metadata={"static": True})

    @staticmethod
    def of(rates: DropoutConfig, key: jax.Array | None, num_rows: int) -> "Dropout":
        """The dropout of a batch of `num_rows` rows.

        Args:
            rates: rates of hidden units and of attention weights.
            key: one key, or typed keys [B]. `None` turns dropout off.
            num_rows: B.
        """
        return Dropout(row_keys(key, num_rows), rates)

    def stacked(self, num: int) -> "Dropout":
        """`num` independent dropouts in one object, whose keys have shape [num, B]."""
        return Dropout(key_sets(self.keys_B, num), self.rates)

    def split(self, num: int) -> "list[Dropout]":
        """A list of `num` independent dropouts."""
        keys = self.stacked(num).keys_B
        sets = [None] * num if keys is None else list(keys)
        return [Dropout(keys_B, self.rates) for keys_B in sets]

    def hidden(self, x: jax.Array) -> jax.Array:
        """`x` [B, ...] with hidden units dropped."""
        return drop_units(x, self.rates.hidden, self.keys_B)


def drop_units(x: jax.Array, rate: float, keys_B: jax.Array | None) -> jax.Array:
    """Zeroes units with probability `rate` and scales the others to keep the mean.

    Args:
        x: [B, ...], any float type.
        rate: in [0, 1), rounded to a multiple of 2**-32. With 0, `x` is returned as it is.
        keys_B: typed keys, one per row. With `None`, `x` is returned as it is.

    Source: Srivastava et al. 2014; inverted scaling.
    """
    if keys_B is None or rate == 0.0:
        return x
    kept = are_kept(random_bits(keys_B, x.shape), rate)
    return jnp.where(kept, x * kept_scale(rate), 0.0).astype(x.dtype)
