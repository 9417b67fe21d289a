"""Pretrain a BERT of your own in JAX, fine-tune it and take it anywhere.

What this package offers to Python is imported when it is first used: `load` a model, or
`prepare`, `pretrain`, `finetune`, `batches` and `open_dataset`, with the settings of
`bert_jax.config`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bert_jax.api import Model as Model
    from bert_jax.api import batches as batches
    from bert_jax.api import finetune as finetune
    from bert_jax.api import load as load
    from bert_jax.api import open_dataset as open_dataset
    from bert_jax.api import prepare as prepare
    from bert_jax.api import pretrain as pretrain

__version__ = "0.1.0"
_OFFERED = (
    "Model",
    "batches",
    "finetune",
    "load",
    "open_dataset",
    "prepare",
    "pretrain",
)


def __getattr__(name: str) -> Any:
    if name not in _OFFERED:
        raise AttributeError(f"module 'bert_jax' has no attribute {name!r}")
    import importlib

    found = getattr(importlib.import_module("bert_jax.api"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_OFFERED})
