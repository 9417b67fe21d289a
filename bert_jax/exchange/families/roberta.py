"""RoBERTa, XLM-RoBERTa and CamemBERT, which are one architecture in transformers.

Source: Liu et al. 2019; transformers, models/roberta, xlm_roberta and camembert.
"""

import pathlib

from bert_jax.config import ModelConfig
from bert_jax.exchange.families.bert import BERT
from bert_jax.exchange.families.family import ENDS, Config, Family, Field, forms
from bert_jax.exchange.tensors import Head, Row, dense, norm

_EMBED = "roberta.embeddings"
_POSITIONS = "max_position_embeddings"
# The positions of real tokens begin behind the id of padding.
_OFFSET = "position_offset"
_HEADS: dict[Head, tuple[Row, ...]] = {
    "mlm": (
        *dense("mlm/transform", "lm_head.dense", "DD", "D"),
        *norm("mlm/norm", "lm_head.layer_norm"),
        Row("mlm/output_bias", "lm_head.bias", "V"),
    ),
    "classifier": (
        *dense("pooler", "classifier.dense", "DD", "D"),
        *dense("classifier", "classifier.out_proj", "DC", "C"),
    ),
    "choice": (
        *dense("pooler", "roberta.pooler.dense", "DD", "D"),
        *dense("choice", "classifier", "DC", "C"),
    ),
}


def rows(cfg: ModelConfig, head: Head) -> tuple[Row, ...]:
    """The names and layouts of all tensors of a RoBERTa with this head."""
    of_bert: Head = "mean_vector" if head in _HEADS else head
    encoder = (
        row._replace(theirs=row.theirs.replace("bert.", "roberta.", 1))
        if row.theirs.startswith("bert.")
        else row
        for row in BERT.rows(cfg, of_bert)
    )
    return (*encoder, *_HEADS.get(head, ()))


def _spelled_out(path: pathlib.Path, config: Config) -> Config:
    pad = config.get("pad_token_id", 1)
    positions = config.get(_POSITIONS)
    if not isinstance(pad, int) or not isinstance(positions, int):
        raise ValueError(
            f"{path} has pad_token_id={pad} and {_POSITIONS}={positions}; expected two "
            "numbers, since positions are counted from the one up to the other."
        )
    return {**config, _OFFSET: pad + 1, _POSITIONS: positions - pad - 1}


def _respelled(config: Config, cfg: ModelConfig) -> Config:
    config = dict(config)
    del config[_OFFSET]
    if config["pad_token_id"] + 1 != cfg.position_offset:
        raise ValueError(
            f"ModelConfig.position_offset={cfg.position_offset}, but the tokenizer's id "
            f"of padding is {config['pad_token_id']}: RoBERTa counts positions from that "
            "id plus 1. Export to StableHLO instead."
        )
    return {**config, _POSITIONS: cfg.max_positions + cfg.position_offset}


def _family(model_type: str, prefix: str, tokenizers: set[str]) -> Family:
    return Family(
        model_type=model_type,
        fields={
            **BERT.fields,
            "gelu": Field("hidden_act", "gelu", {"gelu": "exact"}),
            "num_segments": Field("type_vocab_size", 2),
            _OFFSET: Field(_OFFSET),
        },
        fixed={"next_sentence": False},
        spelled_out=_spelled_out,
        respelled=_respelled,
        refused=BERT.refused,
        idle={*BERT.idle, "output_past"},
        heads=forms(prefix, "mlm", "classifier", "tokens", "spans", "choice"),
        tokenizer_classes=tokenizers,
        rows=rows,
        prefix="roberta.",
        base_pools=True,
        layer=BERT.layer.replace("bert.", "roberta.", 1),
        tied={
            "lm_head.decoder.weight": f"{_EMBED}.word_embeddings.weight",
            "lm_head.decoder.bias": "lm_head.bias",
        },
        special_keys=ENDS,
        position_ids=f"{_EMBED}.position_ids",
        old_suffixes=BERT.old_suffixes,
    )


ROBERTA = _family("roberta", "Roberta", {"RobertaTokenizer", "RobertaTokenizerFast"})
XLM_ROBERTA = _family(
    "xlm-roberta", "XLMRoberta", {"XLMRobertaTokenizer", "XLMRobertaTokenizerFast"}
)
CAMEMBERT = _family(
    "camembert", "Camembert", {"CamembertTokenizer", "CamembertTokenizerFast"}
)
