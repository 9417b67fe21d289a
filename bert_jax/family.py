"""Architectures by name: six sizes of BERT with three vocabularies, three of ModernBERT.

Source: Devlin et al. 2018, section 3 (base, large); Turc et al. 2019, "Well-Read
Students Learn Better", section 3 (the other four); Warner et al. 2024, table 4, and for
the small one Weller et al. 2025, "Seq vs Seq" (Ettin).
"""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, NamedTuple

from bert_jax.config import ModelConfig


class Size(NamedTuple):
    num_layers: int
    hidden_size: int
    num_heads: int


SIZES: Mapping[str, Size] = {
    "tiny": Size(2, 128, 2),
    "mini": Size(4, 256, 4),
    "small": Size(4, 512, 8),
    "medium": Size(8, 512, 8),
    "base": Size(12, 768, 12),
    "large": Size(24, 1_024, 16),
}
# Number of pieces in each vocabulary that google-research/bert published.
VOCABULARIES: Mapping[str, int] = {
    "uncased": 30_522,
    "cased": 28_996,
    "multilingual-cased": 119_547,
}


_FIELDS = [field.name for field in dataclasses.fields(ModelConfig)]


def model_config(
    name: str, *, vocabulary: str = "uncased", **changes: Any
) -> ModelConfig:
    """The architecture of a published size, with some fields changed.

    Args:
        name: a key of `SIZES`.
        vocabulary: a key of `VOCABULARIES`; ignored if `vocab_size=` is given.
        changes: fields of `ModelConfig`. If `mlp_size` is not among them, it becomes
            four times the hidden size.

    Raises:
        ValueError: a size, vocabulary or field of that name does not exist, or the
            fields do not fit together.
    """
    for change in changes:
        _require_known("ModelConfig field", change, _FIELDS)
    _require_known("BERT size", name, SIZES)
    _require_known("vocabulary", vocabulary, VOCABULARIES)
    settings = SIZES[name]._asdict() | {"vocab_size": VOCABULARIES[vocabulary]}
    settings |= changes
    settings.setdefault("mlp_size", 4 * settings["hidden_size"])
    return ModelConfig(**settings)


class ModernSize(NamedTuple):
    num_layers: int
    hidden_size: int
    num_heads: int
    mlp_size: int


MODERN_SIZES: Mapping[str, ModernSize] = {
    "small": ModernSize(7, 256, 4, 384),  # 17 million parameters
    "base": ModernSize(22, 768, 12, 1_152),
    "large": ModernSize(28, 1_024, 16, 2_624),
}
# What all sizes of ModernBERT have in common.
_MODERN: Mapping[str, Any] = {
    "vocab_size": 50_368,
    "max_positions": 8_192,
    "num_segments": 0,
    "gelu": "exact",
    "layer_norm_eps": 1e-5,
    "init_by_depth": True,
    "mlp": "geglu",
    "norm_position": "pre",
    "norm_bias": False,
    "dense_bias": False,
    "positions": "rotary",
    "rope_theta": 160_000.0,
    "local_window": 128,
    "global_every": 3,
    "head_bias": False,
    "next_sentence": False,
    "pooler": "mlm_transform",
}


def modernbert_config(name: str, **changes: Any) -> ModelConfig:
    """The architecture of a size of ModernBERT, with some fields changed.

    Args:
        name: a key of `MODERN_SIZES`.
        changes: fields of `ModelConfig`.

    Raises:
        ValueError: as for `model_config`.
    """
    for change in changes:
        _require_known("ModelConfig field", change, _FIELDS)
    _require_known("ModernBERT size", name, MODERN_SIZES)
    return ModelConfig(**{**_MODERN, **MODERN_SIZES[name]._asdict(), **changes})


def _require_known(what: str, name: str, known: Any) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"There is no {what} {name!r}; expected one of {', '.join(known)}.{hint}"
        )
