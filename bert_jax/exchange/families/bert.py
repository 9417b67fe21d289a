"""BERT as transformers has it: its config.json and the names of its tensors.

Source: transformers, models/bert.
"""

from bert_jax.exchange.families.family import (
    Family,
    Field,
    forms,
    rows_by_head,
    text_heads,
)
from bert_jax.exchange.tensors import Head, Row, dense, embedding, norm

_EMBED = "bert.embeddings"
_LAYER = "bert.encoder.layer.{layer}."
_SELF, _OUT = f"{_LAYER}attention.self", f"{_LAYER}attention.output"
_MLM = "cls.predictions"

_TABLES = (
    embedding("embed/token", f"{_EMBED}.word_embeddings", "VD"),
    embedding("embed/position", f"{_EMBED}.position_embeddings", "PD"),
    embedding("embed/segment", f"{_EMBED}.token_type_embeddings", "SD"),
    *norm("embed/norm", f"{_EMBED}.LayerNorm"),
)
_ONE_LAYER = (
    *dense("layers/attention/query", f"{_SELF}.query", "DNH", "NH"),
    *dense("layers/attention/key", f"{_SELF}.key", "DNH", "NH"),
    *dense("layers/attention/value", f"{_SELF}.value", "DNH", "NH"),
    *dense("layers/attention/out", f"{_OUT}.dense", "NHD", "D", num_inputs=2),
    *norm("layers/attention/norm", f"{_OUT}.LayerNorm"),
    *dense("layers/mlp/up", f"{_LAYER}intermediate.dense", "DF", "F"),
    *dense("layers/mlp/down", f"{_LAYER}output.dense", "FD", "D"),
    *norm("layers/mlp/norm", f"{_LAYER}output.LayerNorm"),
)
_MLM_HEAD = (
    *dense("mlm/transform", f"{_MLM}.transform.dense", "DD", "D"),
    *norm("mlm/norm", f"{_MLM}.transform.LayerNorm"),
    Row("mlm/output_bias", f"{_MLM}.bias", "V"),
)
_HEADS: dict[Head, tuple[Row, ...]] = {
    "pretraining": (
        *dense("pooler", "bert.pooler.dense", "DD", "D"),
        *_MLM_HEAD,
        *dense("nsp", "cls.seq_relationship", "D2", "2"),
    ),
    "mlm": _MLM_HEAD,
    **text_heads("bert.pooler.dense"),
}


BERT = Family(
    model_type="bert",
    fields={
        "vocab_size": Field("vocab_size"),
        "hidden_size": Field("hidden_size"),
        "num_layers": Field("num_hidden_layers"),
        "num_heads": Field("num_attention_heads"),
        "mlp_size": Field("intermediate_size"),
        "max_positions": Field("max_position_embeddings"),
        "num_segments": Field("type_vocab_size", 2),
        "gelu": Field(
            "hidden_act",
            "gelu",
            {
                "gelu": "exact",
                "gelu_python": "exact",
                "gelu_pytorch_tanh": "tanh",
                "gelu_new": "tanh",
            },
        ),
        "dropout.hidden": Field("hidden_dropout_prob", 0.1),
        "dropout.attention": Field("attention_probs_dropout_prob", 0.1),
        "layer_norm_eps": Field("layer_norm_eps", 1e-12),
        "init_std": Field("initializer_range", 0.02),
    },
    refused={"position_embedding_type": ["absolute"]},
    idle={"gradient_checkpointing", "use_cache"},
    heads=forms(
        "Bert", "pretraining", "mlm", "classifier", "tokens", "spans", "choice"
    ),
    tokenizer_classes={"BertTokenizer", "BertTokenizerFast"},
    rows=rows_by_head(_TABLES, _ONE_LAYER, _HEADS),
    prefix="bert.",
    base_pools=True,
    layer=_LAYER,
    tied={
        f"{_MLM}.decoder.weight": f"{_EMBED}.word_embeddings.weight",
        f"{_MLM}.decoder.bias": f"{_MLM}.bias",
    },
    position_ids=f"{_EMBED}.position_ids",
    # TensorFlow's words, which the first PyTorch checkpoints kept.
    old_suffixes={".gamma": ".weight", ".beta": ".bias"},
)
