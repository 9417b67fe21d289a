"""DistilBERT as transformers has it: its config.json and the names of its tensors.

Source: Sanh et al. 2019; transformers, models/distilbert.
"""

from bert_jax.exchange.families.family import (
    Family,
    Field,
    forms,
    rows_by_head,
    text_heads,
)
from bert_jax.exchange.tensors import Head, Row, dense, embedding, norm

_EMBED = "distilbert.embeddings"
_LAYER = "distilbert.transformer.layer.{layer}."

_TABLES = (
    embedding("embed/token", f"{_EMBED}.word_embeddings", "VD"),
    embedding("embed/position", f"{_EMBED}.position_embeddings", "PD"),
    *norm("embed/norm", f"{_EMBED}.LayerNorm"),
)
_ONE_LAYER = (
    *dense("layers/attention/query", f"{_LAYER}attention.q_lin", "DNH", "NH"),
    *dense("layers/attention/key", f"{_LAYER}attention.k_lin", "DNH", "NH"),
    *dense("layers/attention/value", f"{_LAYER}attention.v_lin", "DNH", "NH"),
    *dense("layers/attention/out", f"{_LAYER}attention.out_lin", "NHD", "D", 2),
    *norm("layers/attention/norm", f"{_LAYER}sa_layer_norm"),
    *dense("layers/mlp/up", f"{_LAYER}ffn.lin1", "DF", "F"),
    *dense("layers/mlp/down", f"{_LAYER}ffn.lin2", "FD", "D"),
    *norm("layers/mlp/norm", f"{_LAYER}output_layer_norm"),
)
_HEADS: dict[Head, tuple[Row, ...]] = {
    "mlm": (
        *dense("mlm/transform", "vocab_transform", "DD", "D"),
        *norm("mlm/norm", "vocab_layer_norm"),
        Row("mlm/output_bias", "vocab_projector.bias", "V"),
    ),
    **text_heads("pre_classifier"),
}


DISTILBERT = Family(
    model_type="distilbert",
    fields={
        "vocab_size": Field("vocab_size", 30_522),
        "hidden_size": Field("dim", 768),
        "num_layers": Field("n_layers", 6),
        "num_heads": Field("n_heads", 12),
        "mlp_size": Field("hidden_dim", 3_072),
        "max_positions": Field("max_position_embeddings", 512),
        "gelu": Field("activation", "gelu", {"gelu": "exact"}),
        "dropout.hidden": Field("dropout", 0.1),
        "dropout.attention": Field("attention_dropout", 0.1),
        "init_std": Field("initializer_range", 0.02),
    },
    fixed={"num_segments": 0, "next_sentence": False, "pooler": "relu"},
    # Sinusoids are only what the table begins with; the file has the table.
    refused={"output_past": [True]},
    idle={
        *("sinusoidal_pos_embds", "qa_dropout", "seq_classif_dropout", "tie_weights_"),
        *("gradient_checkpointing", "use_cache"),
    },
    heads=forms("DistilBert", "mlm", "classifier", "tokens", "spans", "choice"),
    tokenizer_classes={
        *("DistilBertTokenizer", "DistilBertTokenizerFast"),
        *("BertTokenizer", "BertTokenizerFast"),
    },
    rows=rows_by_head(_TABLES, _ONE_LAYER, _HEADS),
    prefix="distilbert.",
    layer=_LAYER,
    tied={"vocab_projector.weight": f"{_EMBED}.word_embeddings.weight"},
)
