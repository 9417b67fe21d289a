"""The encoder and its heads as ONNX nodes; no other framework takes part.

Weights keep Hugging Face's names, layouts ([outputs, inputs]) and ties. Opset 20 is
the first with Gelu; nothing newer is used, so that older runtimes read the file too.

Shape suffixes: B rows, T tokens (S when they are attended to), R all B * T tokens,
D hidden, N heads, H head width, F feed-forward, V vocabulary, C classes.
"""

import importlib
import math
from typing import Any

import numpy as np

import bert_jax
from bert_jax.config import ModelConfig
from bert_jax.exchange import portable
from bert_jax.exchange.names import Head, Tensors
from bert_jax.model.attention_xla import MASKED_SCORE

OPSET, IR_VERSION = 20, 9  # both of ONNX 1.15

_EMBED = "bert.embeddings"


def library(name: str) -> Any:
    """`onnx` or `onnxruntime`, which are extras."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        raise ValueError(
            f"ONNX exports need {name}, and {missing}; pip install 'bert_jax[onnx]'."
        ) from missing


class _Graph:
    """Nodes in order and the weights that they name; a value is called as its node."""

    def __init__(self, tensors: Tensors):
        self.onnx = library("onnx")
        self.nodes: list[Any] = []
        self.tensors = dict(tensors)

    def add(self, op: str, name: str, *inputs: str, **attributes: Any) -> str:
        node = self.onnx.helper.make_node(op, inputs, [name], name=name, **attributes)
        self.nodes.append(node)
        return name

    def constant(self, name: str, value: Any, dtype: type) -> str:
        self.tensors[name] = np.asarray(value, dtype)
        return name

    def shape(self, name: str, *dims: int) -> str:
        return self.constant(name, dims, np.int64)

    def lookup(self, name: str, table: str, ids: str) -> str:
        rows = len(self.tensors[f"{table}.weight"])
        return self.add("Gather", f"{name} (table of {rows})", f"{table}.weight", ids)

    def dense(self, weights: str, x_RD: str, name: str | None = None) -> str:
        parts = (f"{weights}.weight", f"{weights}.bias")
        return self.add("Gemm", name or f"{weights}.out", x_RD, *parts, transB=1)

    def norm(self, weights: str, x_RD: str, cfg: ModelConfig) -> str:
        parts = (f"{weights}.weight", f"{weights}.bias")
        eps = {"epsilon": cfg.layer_norm_eps}
        return self.add("LayerNormalization", f"{weights}.out", x_RD, *parts, **eps)

    def gelu(self, name: str, x_RD: str, cfg: ModelConfig) -> str:
        kind = "tanh" if cfg.gelu == "tanh" else "none"
        return self.add("Gelu", name, x_RD, approximate=kind)


def build_model(cfg: ModelConfig, head: Head, tensors: Tensors) -> Any:
    """A float32 ModelProto with batch and length left open.

    `tensors` are those of `names.to_tensors` in Hugging Face's dialect.
    """
    graph = _Graph(tensors)
    helper, kinds = graph.onnx.helper, graph.onnx.TensorProto
    graph.shape("rows_by_hidden", -1, cfg.hidden_size)
    graph.add("Shape", "batch_and_length", portable.INPUTS[0])
    x_RD = _embed(graph, cfg)
    graph.add("Cast", "is_real", "attention_mask", to=kinds.BOOL)
    graph.shape("heads_and_queries", 1, 2)
    graph.add("Unsqueeze", "is_real_key", "is_real", "heads_and_queries")
    graph.shape("heads", cfg.num_heads, cfg.head_size)
    graph.add("Concat", "by_head", "batch_and_length", "heads", axis=0)
    graph.constant("score_scale", math.sqrt(cfg.head_size), np.float32)
    graph.constant("masked_score", MASKED_SCORE, np.float32)
    for index in range(cfg.num_layers):
        x_RD = _layer(graph, cfg, f"bert.encoder.layer.{index}", x_RD)
    _head(graph, cfg, head, x_RD)
    sizes = {"vocabulary": cfg.vocab_size, "pair_classes": 2}
    if head in portable.LABELLED:
        sizes["labels"] = len(tensors["classifier.bias"])
    made = helper.make_graph(
        graph.nodes,
        f"bert_{head}",
        [
            helper.make_tensor_value_info(name, kinds.INT64, ["batch", "length"])
            for name in portable.INPUTS
        ],
        [
            helper.make_tensor_value_info(
                name, kinds.FLOAT, [sizes.get(axis, axis) for axis in shape]
            )
            for name, shape in portable.OUTPUTS[head]
        ],
        [
            graph.onnx.numpy_helper.from_array(array, name)
            for name, array in graph.tensors.items()
        ],
    )
    return helper.make_model(
        made,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="bert_jax",
        producer_version=bert_jax.__version__,
    )


def _embed(graph: _Graph, cfg: ModelConfig) -> str:
    """Token + position + segment, normalised, [R, D]."""
    for name, value in (("zero", 0), ("one", 1)):
        graph.constant(name, value, np.int64)
    length = graph.add("Gather", "length", "batch_and_length", "one", axis=0)
    positions_T = graph.add("Range", "positions", "zero", length, "one")
    # Gather refuses what lies behind the end of the table. Where a runtime makes it a
    # Slice, which does not, the Add below finds fewer positions than tokens.
    token_BTD = graph.lookup("token", f"{_EMBED}.word_embeddings", "input_ids")
    place_TD = graph.lookup("position", f"{_EMBED}.position_embeddings", positions_T)
    segments = f"{_EMBED}.token_type_embeddings"
    segment_BTD = graph.lookup("segment", segments, "token_type_ids")
    limit = f"token and position (at most {cfg.max_positions})"
    x_BTD = graph.add("Add", limit, token_BTD, place_TD)
    x_BTD = graph.add("Add", "embedded", x_BTD, segment_BTD)
    x_RD = graph.add("Reshape", "embedded_rows", x_BTD, "rows_by_hidden")
    return graph.norm(f"{_EMBED}.LayerNorm", x_RD, cfg)


def _layer(graph: _Graph, cfg: ModelConfig, layer: str, x_RD: str) -> str:
    name, out = f"{layer}.attention.self", f"{layer}.attention.output"
    heads = {}
    for part, order in (
        ("query", [0, 2, 1, 3]),
        ("key", [0, 2, 3, 1]),
        ("value", [0, 2, 1, 3]),
    ):
        part_RD = graph.dense(f"{name}.{part}", x_RD)
        part_BTNH = graph.add("Reshape", f"{name}.{part}.heads", part_RD, "by_head")
        heads[part] = graph.add(
            "Transpose", f"{name}.{part}.by_head", part_BTNH, perm=order
        )
    scores = graph.add("MatMul", f"{name}.products", heads["query"], heads["key"])
    scores = graph.add("Div", f"{name}.scores", scores, "score_scale")
    scores = graph.add("Where", f"{name}.masked", "is_real_key", scores, "masked_score")
    probs_BNTS = graph.add("Softmax", f"{name}.weights", scores, axis=-1)
    y_BNTH = graph.add("MatMul", f"{name}.context", probs_BNTS, heads["value"])
    y = graph.add("Transpose", f"{name}.by_token", y_BNTH, perm=[0, 2, 1, 3])
    y_RD = graph.add("Reshape", f"{name}.rows", y, "rows_by_hidden")
    y_RD = graph.dense(f"{out}.dense", y_RD)
    x_RD = graph.norm(
        f"{out}.LayerNorm", graph.add("Add", f"{out}.sum", x_RD, y_RD), cfg
    )
    up_RF = graph.dense(f"{layer}.intermediate.dense", x_RD)
    up_RF = graph.gelu(f"{layer}.intermediate.gelu", up_RF, cfg)
    out = f"{layer}.output"
    y_RD = graph.dense(f"{out}.dense", up_RF)
    return graph.norm(
        f"{out}.LayerNorm", graph.add("Add", f"{out}.sum", x_RD, y_RD), cfg
    )


def _head(graph: _Graph, cfg: ModelConfig, head: Head, x_RD: str) -> None:
    """The nodes behind the encoder; the last ones are called as the outputs."""
    if head in ("pretraining", "classifier"):
        graph.shape("width", cfg.hidden_size)
        graph.add("Concat", "by_token", "batch_and_length", "width", axis=0)
        x_BTD = graph.add("Reshape", "hidden", x_RD, "by_token")
        cls_BD = graph.add("Gather", "cls", x_BTD, "zero", axis=1)
        pooled_BD = graph.dense("bert.pooler.dense", cls_BD)
        pooled_BD = graph.add("Tanh", "pooled", pooled_BD)
    if head == "pretraining":
        graph.dense("cls.seq_relationship", pooled_BD, "seq_relationship_logits")
        transform = "cls.predictions.transform"
        y_RD = graph.dense(f"{transform}.dense", x_RD)
        y_RD = graph.gelu(f"{transform}.gelu", y_RD, cfg)
        y_RD = graph.norm(f"{transform}.LayerNorm", y_RD, cfg)
        tied = (f"{_EMBED}.word_embeddings.weight", "cls.predictions.bias")
        logits_RV = graph.add("Gemm", "prediction_rows", y_RD, *tied, transB=1)
        _by_token(graph, "prediction_logits", logits_RV, cfg.vocab_size)
    elif head == "classifier":
        graph.dense("classifier", pooled_BD, "logits")
    elif head == "tokens":
        num_labels = len(graph.tensors["classifier.bias"])
        _by_token(graph, "logits", graph.dense("classifier", x_RD), num_labels)
    else:
        both_BTC = _by_token(graph, "spans", graph.dense("qa_outputs", x_RD), 2)
        for name, side in (("start_logits", "zero"), ("end_logits", "one")):
            graph.add("Gather", name, both_BTC, side, axis=2)


def _by_token(graph: _Graph, name: str, logits_RC: str, num_classes: int) -> str:
    graph.shape(f"{name}.classes", num_classes)
    parts = ("batch_and_length", f"{name}.classes")
    shape = graph.add("Concat", f"{name}.shape", *parts, axis=0)
    return graph.add("Reshape", name, logits_RC, shape)
