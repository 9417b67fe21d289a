"""ELECTRA as transformers has it: its config.json and the names of its tensors.

Source: Clark et al. 2020; transformers, models/electra.
"""

import pathlib

from bert_jax.config import ModelConfig
from bert_jax.exchange.families.bert import BERT
from bert_jax.exchange.families.family import (
    Config,
    Family,
    Field,
    forms,
    text_heads,
)
from bert_jax.exchange.tensors import Head, Row, dense, embedding, norm

_EMBED = "electra.embeddings"
_WIDTH = "embedding_size"

_TABLES = (
    embedding("embed/token", f"{_EMBED}.word_embeddings", "VE"),
    embedding("embed/position", f"{_EMBED}.position_embeddings", "PE"),
    embedding("embed/segment", f"{_EMBED}.token_type_embeddings", "SE"),
    *norm("embed/norm", f"{_EMBED}.LayerNorm", width="E"),
)
_WIDEN = tuple(dense("embed/widen", "electra.embeddings_project", "ED", "D"))
_HEADS: dict[Head, tuple[Row, ...]] = {
    **text_heads("sequence_summary.summary"),
    "mlm": (
        *dense("mlm/transform", "generator_predictions.dense", "DE", "E"),
        *norm("mlm/norm", "generator_predictions.LayerNorm", width="E"),
        Row("mlm/output_bias", "generator_lm_head.bias", "V"),
    ),
    "classifier": (
        *dense("pooler", "classifier.dense", "DD", "D"),
        *dense("classifier", "classifier.out_proj", "DC", "C"),
    ),
}


def rows(cfg: ModelConfig, head: Head) -> tuple[Row, ...]:
    """The names and layouts of all tensors of an ELECTRA with this head."""
    layers = (
        row._replace(theirs=row.theirs.replace("bert.", "electra.", 1))
        for row in BERT.rows(cfg, "mean_vector")
        if row.layer is not None
    )
    widen = () if cfg.embed_size is None else _WIDEN
    return (*_TABLES, *widen, *layers, *_HEADS[head])


def _spelled_out(path: pathlib.Path, config: Config) -> Config:
    config.setdefault(_WIDTH, 128)
    if config[_WIDTH] == config.get("hidden_size", 256):
        config[_WIDTH] = None  # there is no matrix between the two
    return config


def _respelled(config: Config, cfg: ModelConfig) -> Config:
    if cfg.embed_size == cfg.hidden_size:
        raise ValueError(
            f"ModelConfig.embed_size={cfg.embed_size} is hidden_size: ELECTRA has no matrix "
            "that widens embeddings there. Export to StableHLO instead."
        )
    return {**config, _WIDTH: cfg.token_width}


ELECTRA = Family(
    model_type="electra",
    fields={
        **BERT.fields,
        "vocab_size": Field("vocab_size", 30_522),
        "hidden_size": Field("hidden_size", 256),
        "num_layers": Field("num_hidden_layers", 12),
        "num_heads": Field("num_attention_heads", 4),
        "mlp_size": Field("intermediate_size", 1_024),
        "max_positions": Field("max_position_embeddings", 512),
        "embed_size": Field(_WIDTH, optional=True),
        # The heads have the exact one, whatever the layers have.
        "gelu": Field("hidden_act", "gelu", {"gelu": "exact"}),
    },
    fixed={"next_sentence": False, "pooler": "gelu"},
    spelled_out=_spelled_out,
    respelled=_respelled,
    refused=BERT.refused,
    idle={
        *(*BERT.idle, "output_past", "summary_last_dropout"),
        # Of models for multiple choice, of which the encoder alone is imported.
        *("summary_type", "summary_use_proj", "summary_activation"),
    },
    heads=forms("Electra", "mlm", "classifier", "tokens", "spans", "choice"),
    tokenizer_classes={
        *("ElectraTokenizer", "ElectraTokenizerFast"),
        *BERT.tokenizer_classes,
    },
    rows=rows,
    prefix="electra.",
    layer=BERT.layer.replace("bert.", "electra.", 1),
    tied={"generator_lm_head.weight": f"{_EMBED}.word_embeddings.weight"},
    position_ids=f"{_EMBED}.position_ids",
)
