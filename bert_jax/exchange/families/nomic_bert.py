"""NomicBERT as transformers has it: its config.json and the names of its tensors.

The names are those of files, which are those of the first NomicBERT. In memory, the class
of transformers has others.

Source: Nussbaum et al. 2024; transformers, models/nomic_bert.
"""

from bert_jax.exchange.families import rope
from bert_jax.exchange.families.family import (
    Family,
    Field,
    forms,
    rows_by_head,
    text_heads,
)
from bert_jax.exchange.tensors import (
    Head,
    Row,
    dense,
    embedding,
    fused,
    norm,
)

_EMBED = "nomic_bert.embeddings"
_LAYER = "nomic_bert.encoder.layers.{layer}."
_MLM = "cls.predictions"

_TABLES = (
    embedding("embed/token", f"{_EMBED}.word_embeddings", "VD"),
    embedding("embed/segment", f"{_EMBED}.token_type_embeddings", "SD"),
    *norm("embed/norm", "nomic_bert.emb_ln"),
)
_ONE_LAYER = (
    *fused(
        f"{_LAYER}attn.Wqkv",
        ("layers/attention/query", "DNH", ""),
        ("layers/attention/key", "DNH", ""),
        ("layers/attention/value", "DNH", ""),
        with_bias=False,
    ),
    *dense("layers/attention/out", f"{_LAYER}attn.out_proj", "NHD", "", 2),
    *norm("layers/attention/norm", f"{_LAYER}norm1"),
    *dense("layers/mlp/gate", f"{_LAYER}mlp.fc12", "DF", ""),
    *dense("layers/mlp/up", f"{_LAYER}mlp.fc11", "DF", ""),
    *dense("layers/mlp/down", f"{_LAYER}mlp.fc2", "FD", ""),
    *norm("layers/mlp/norm", f"{_LAYER}norm2"),
)
_HEADS: dict[Head, tuple[Row, ...]] = {
    "mlm": (
        *dense("mlm/transform", f"{_MLM}.transform.dense", "DD", "D"),
        *norm("mlm/norm", f"{_MLM}.transform.layer_norm"),
        Row("mlm/output_bias", f"{_MLM}.bias", "V"),
    ),
    **text_heads("nomic_bert.pooler.dense"),
}


NOMIC_BERT = Family(
    model_type="nomic_bert",
    fields={
        "vocab_size": Field("vocab_size", 30_528),
        "hidden_size": Field("hidden_size", 768),
        "num_layers": Field("num_hidden_layers", 12),
        "num_heads": Field("num_attention_heads", 12),
        "mlp_size": Field("intermediate_size", 3_072),
        "max_positions": Field("max_position_embeddings", 2_048),
        "num_segments": Field("type_vocab_size", 2),
        "mlp": Field("hidden_act", "silu", {"silu": "swiglu", "swish": "swiglu"}),
        "dropout.hidden": Field("hidden_dropout_prob", 0.0),
        "dropout.attention": Field("attention_probs_dropout_prob", 0.0),
        "layer_norm_eps": Field("layer_norm_eps", 1e-12),
        "init_std": Field("initializer_range", 0.02),
        "rope_theta": Field("rope_theta", 1_000.0),
    },
    fixed={"dense_bias": False, "positions": "rotary", "next_sentence": False},
    spelled_out=rope.with_theta,
    respelled=rope.with_parameters,
    refused={"rope_scaling": []},
    idle={"gradient_checkpointing", "use_cache", "head_dim", "position_embedding_type"},
    heads=forms("NomicBert", "mlm", "classifier", "tokens"),
    tokenizer_classes={"BertTokenizer", "BertTokenizerFast"},
    rows=rows_by_head(_TABLES, _ONE_LAYER, _HEADS),
    prefix="nomic_bert.",
    layer=_LAYER,
    tied={
        f"{_MLM}.decoder.weight": f"{_EMBED}.word_embeddings.weight",
        f"{_MLM}.decoder.bias": f"{_MLM}.bias",
    },
)
