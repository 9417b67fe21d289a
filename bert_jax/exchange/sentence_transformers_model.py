"""A directory that sentence-transformers loads: a Hugging Face export, and how to pool.

Source: sentence-transformers 6.2, base/model.py and sentence_transformer/modules/. Older
versions, from 3.0 on, read the same keys.
"""

import pathlib
from typing import Any

from bert_jax.exchange.comparison import Probe
from bert_jax.exchange.families.registry import family_of_model
from bert_jax.exchange.json_files import save_json
from bert_jax.exchange.libraries import library
from bert_jax.exchange.portable import VECTORS, PortableModel
from bert_jax.exchange.transformers_model import torch_differences
from bert_jax.exchange.write_huggingface import write_huggingface

_POOLING = "1_Pooling"
_MODULES = ("Transformer", "Pooling")


def write_sentence_transformers(model: PortableModel, directory: pathlib.Path) -> None:
    """Writes what `write_huggingface` does, and the modules around the encoder.

    Args:
        model: with a head that gives vectors.
        directory: created if need be.

    Raises:
        ValueError: the parts do not fit each other.
    """
    write_huggingface(model, directory)
    modules = [
        {
            "idx": number,
            "name": str(number),
            "path": path,
            "type": f"sentence_transformers.models.{kind}",
        }
        for number, (path, kind) in enumerate(
            zip(("", _POOLING), _MODULES, strict=True)
        )
    ]
    save_json(directory / "modules.json", modules)
    config: dict[str, Any] = {
        "max_seq_length": model.sequence_length or model.cfg.max_positions,
        "do_lower_case": False,  # the tokenizer does it where it must be done
    }
    if family_of_model(model.cfg, model.tokenizer).base_pools:
        # Of a pooler that has no weights here.
        config["model_args"] = {"add_pooling_layer": False}
    save_json(directory / "sentence_bert_config.json", config)
    save_json(
        directory / "config_sentence_transformers.json",
        {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"},
    )
    pooling = VECTORS[model.head]
    (directory / _POOLING).mkdir(exist_ok=True)
    save_json(
        directory / _POOLING / "config.json",
        {
            "word_embedding_dimension": model.cfg.hidden_size,
            "pooling_mode_cls_token": pooling == "cls",
            "pooling_mode_mean_tokens": pooling == "mean",
        },
    )


def verify_sentence_transformers(
    directory: pathlib.Path, probe: Probe
) -> dict[str, float]:
    """Largest differences between our vectors and those of sentence-transformers.

    See `comparison.differences`.

    Raises:
        ValueError: it is not installed, or shapes disagree.
    """
    package = library(
        "sentence_transformers", "export", "Vectors of sentence-transformers"
    )
    model = package.SentenceTransformer(str(directory), device="cpu").eval()
    return torch_differences(model, probe)
