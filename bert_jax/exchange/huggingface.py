"""Our parameters as a directory that transformers' Auto classes load, and back.

One table names every tensor on both sides. Writing needs NumPy only; torch and
transformers are imported where an export is verified, and nowhere else.

Shape letters: L layers, V padded vocabulary, P positions, S segments, D hidden,
N heads, H head size, F feed-forward, C classes.
"""

import importlib.util
import json
import math
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from bert_jax.config import ModelConfig
from bert_jax.data.tokenizer import Tokenizer
from bert_jax.exchange.tokenizer import save_huggingface_tokenizer

Head = Literal["pretraining", "classifier"]
Params = dict[str, Any]
Tensors = dict[str, np.ndarray]


class _Row(NamedTuple):
    ours: str
    theirs: str
    shape: str
    num_inputs: int = 0
    """Leading axes that a dense kernel sums over; theirs is [outputs, inputs]."""


def _dense(
    ours: str, theirs: str, kernel: str, bias: str, num_inputs: int = 1
) -> Iterator[_Row]:
    yield _Row(f"{ours}/kernel", f"{theirs}.weight", kernel, num_inputs)
    yield _Row(f"{ours}/bias", f"{theirs}.bias", bias)


def _norm(ours: str, theirs: str, shape: str) -> Iterator[_Row]:
    yield _Row(f"{ours}/scale", f"{theirs}.weight", shape)
    yield _Row(f"{ours}/bias", f"{theirs}.bias", shape)


_EMBED = "bert.embeddings"
_LAYER = "bert.encoder.layer.{layer}"
_SELF = f"{_LAYER}.attention.self"
_OUT = f"{_LAYER}.attention.output"

_BODY = (
    _Row("embed/token/embedding", f"{_EMBED}.word_embeddings.weight", "VD"),
    _Row("embed/position/embedding", f"{_EMBED}.position_embeddings.weight", "PD"),
    _Row("embed/segment/embedding", f"{_EMBED}.token_type_embeddings.weight", "SD"),
    *_norm("embed/norm", f"{_EMBED}.LayerNorm", "D"),
    *_dense("layers/attention/query", f"{_SELF}.query", "LDNH", "LNH"),
    *_dense("layers/attention/key", f"{_SELF}.key", "LDNH", "LNH"),
    *_dense("layers/attention/value", f"{_SELF}.value", "LDNH", "LNH"),
    *_dense("layers/attention/out", f"{_OUT}.dense", "LNHD", "LD", num_inputs=2),
    *_norm("layers/attention/norm", f"{_OUT}.LayerNorm", "LD"),
    *_dense("layers/mlp/up", f"{_LAYER}.intermediate.dense", "LDF", "LF"),
    *_dense("layers/mlp/down", f"{_LAYER}.output.dense", "LFD", "LD"),
    *_norm("layers/mlp/norm", f"{_LAYER}.output.LayerNorm", "LD"),
    *_dense("pooler", "bert.pooler.dense", "DD", "D"),
)
_TABLES: dict[Head, tuple[_Row, ...]] = {
    "pretraining": (
        *_BODY,
        *_dense("mlm/transform", "cls.predictions.transform.dense", "DD", "D"),
        *_norm("mlm/norm", "cls.predictions.transform.LayerNorm", "D"),
        _Row("mlm/output_bias", "cls.predictions.bias", "V"),
        *_dense("nsp", "cls.seq_relationship", "DC", "C"),
    ),
    "classifier": (*_BODY, *_dense("classifier", "classifier", "DC", "C")),
}
_ARCHITECTURES: dict[Head, str] = {
    "pretraining": "BertForPreTraining",
    "classifier": "BertForSequenceClassification",
}


def to_huggingface(cfg: ModelConfig, params: Params, head: Head) -> Tensors:
    """Tensors under their names in transformers, float32, vocabulary padding removed.

    Tied tensors appear once, as transformers 5 saves them: the decoder's weight is the
    token table, and its bias is `cls.predictions.bias`.

    Raises:
        ValueError: a parameter is missing, left over, of another shape or not float32.
    """
    left = _flatten(params)
    table = _TABLES[head]
    sizes = _sizes(cfg, left.get(table[-1].ours))
    tensors: Tensors = {}
    for row in table:
        shape = tuple(sizes[letter] for letter in row.shape)
        array = left.pop(row.ours, None)
        if array is None or array.shape != shape or array.dtype != np.float32:
            found = "missing" if array is None else f"{array.dtype} {list(array.shape)}"
            raise ValueError(
                f"Parameter {row.ours!r} is {found}; a {head} model of this "
                f"ModelConfig has it as float32 {list(shape)}."
            )
        for name, part in _layers(row, array):
            assert name not in tensors, f"two rows of the table write {name!r}"
            tensors[name] = np.ascontiguousarray(_their_view(cfg, row, part))
    if left:
        raise ValueError(
            f"Parameters {sorted(left)} have no name in a Hugging Face {head} model; "
            "export the head that they belong to."
        )
    return tensors


def from_huggingface(cfg: ModelConfig, tensors: Mapping[str, np.ndarray]) -> Params:
    """The inverse of `to_huggingface`; rows of vocabulary padding become zeros.

    The head is told by the names. ValueError: a tensor is missing, left over or of
    another shape.
    """
    left = dict(tensors)
    head: Head = "classifier" if "classifier.weight" in left else "pretraining"
    table = _TABLES[head]
    sizes = _sizes(cfg, left.get(table[-1].theirs))
    params: Params = {}
    for row in table:
        shape = tuple(sizes[letter] for letter in row.shape)
        array = np.zeros(shape, np.float32)
        for name, part in _layers(row, array):
            view = _their_view(cfg, row, part)
            theirs = left.pop(name, None)
            if theirs is None or theirs.shape != view.shape:
                found = "is missing" if theirs is None else f"is {list(theirs.shape)}"
                raise ValueError(
                    f"Tensor {name!r} {found}; a {_ARCHITECTURES[head]} of this "
                    f"ModelConfig has it as {list(view.shape)}."
                )
            view[...] = theirs
        *parents, leaf = row.ours.split("/")
        node = params
        for name in parents:
            node = node.setdefault(name, {})
        node[leaf] = array
    if left:
        raise ValueError(
            f"Tensors {sorted(left)} have no place in a {_ARCHITECTURES[head]} of "
            f"num_layers={cfg.num_layers}; is the config of another model?"
        )
    return params


def export_pretraining(
    cfg: ModelConfig,
    params: Params,
    tokenizer: Tokenizer,
    directory: pathlib.Path,
    *,
    results: Mapping[str, object] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a BertForPreTraining: weights, config, tokenizer and model card.

    `directory` must be absent or empty unless `overwrite` is set, and appears at once,
    complete, or not at all. `results`, name -> value, go to the model card.

    Raises:
        ValueError: `directory` is taken, or the parts do not fit each other.
    """
    _export(cfg, params, tokenizer, directory, "pretraining", {}, results, overwrite)


def export_classifier(
    cfg: ModelConfig,
    params: Params,
    labels: Sequence[str],
    tokenizer: Tokenizer,
    directory: pathlib.Path,
    *,
    results: Mapping[str, object] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a BertForSequenceClassification; see `export_pretraining`.

    Raises:
        ValueError: as there, or `labels` are not one name for each of the C logits.
    """
    num_classes = np.shape(params.get("classifier", {}).get("bias", ()))
    if num_classes != (len(labels),) or len(set(labels)) != len(labels):
        raise ValueError(
            f"labels={list(labels)} do not fit a classifier bias of shape "
            f"{list(num_classes)}; give every class one name of its own."
        )
    extra = {
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": "single_label_classification",
    }
    _export(cfg, params, tokenizer, directory, "classifier", extra, results, overwrite)


def _export(
    cfg: ModelConfig,
    params: Params,
    tokenizer: Tokenizer,
    directory: pathlib.Path,
    head: Head,
    extra: dict[str, Any],
    results: Mapping[str, object] | None,
    overwrite: bool,
) -> None:
    from safetensors.numpy import save_file

    directory = pathlib.Path(directory).absolute()
    if directory.exists() and (
        not directory.is_dir() or (any(directory.iterdir()) and not overwrite)
    ):
        raise ValueError(
            f"directory={directory} is taken; choose another or overwrite an export."
        )
    if tokenizer.vocab_size != cfg.vocab_size:
        raise ValueError(
            f"The tokenizer has {tokenizer.vocab_size} pieces, ModelConfig.vocab_size="
            f"{cfg.vocab_size}; export with the tokenizer of the training run."
        )
    tensors = to_huggingface(cfg, params, head)
    partial = directory.with_name(f".{directory.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
        text = json.dumps(_config(cfg, tokenizer, head) | extra, indent=2) + "\n"
        (partial / "config.json").write_text(text, encoding="utf-8")
        save_huggingface_tokenizer(tokenizer, partial, cfg.max_positions)
        card = _model_card(cfg, tokenizer, head, results or {})
        (partial / "README.md").write_text(card, encoding="utf-8")
        # A rename replaces no directory with something in it, so that steps aside.
        old = partial.with_suffix(".old")
        if directory.exists():
            directory.rename(old)
        partial.rename(directory)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _config(cfg: ModelConfig, tokenizer: Tokenizer, head: Head) -> dict[str, Any]:
    return {
        "architectures": [_ARCHITECTURES[head]],
        "model_type": "bert",
        "vocab_size": cfg.vocab_size,
        "hidden_size": cfg.hidden_size,
        "num_hidden_layers": cfg.num_layers,
        "num_attention_heads": cfg.num_heads,
        "intermediate_size": cfg.mlp_size,
        "max_position_embeddings": cfg.max_positions,
        "type_vocab_size": cfg.num_segments,
        "hidden_act": "gelu" if cfg.gelu == "exact" else "gelu_pytorch_tanh",
        "hidden_dropout_prob": cfg.dropout_rate,
        "attention_probs_dropout_prob": cfg.attention_dropout_rate,
        "layer_norm_eps": cfg.layer_norm_eps,
        "initializer_range": cfg.init_std,
        "pad_token_id": tokenizer.special.pad,
        "dtype": "float32",
    }


def _model_card(
    cfg: ModelConfig, tokenizer: Tokenizer, head: Head, results: Mapping[str, object]
) -> str:
    name = _ARCHITECTURES[head]
    rows = "".join(f"| {key} | {value} |\n" for key, value in results.items())
    return f"""---
library_name: transformers
tags: [bert, bert_jax]
---

# {name} trained with bert_jax

{cfg.num_layers} layers, hidden size {cfg.hidden_size}, {cfg.num_heads} heads,
{cfg.max_positions} positions, {cfg.gelu} GELU; {tokenizer.kind} vocabulary of
{cfg.vocab_size:,} pieces, {"lower-cased" if tokenizer.lowercase else "cased"}.

Load it with `{name}.from_pretrained`, its tokenizer with
`AutoTokenizer.from_pretrained`.
""" + (f"\n| measured | value |\n|---|---|\n{rows}" if rows else "")


def transformers_available() -> bool:
    """Whether exports can be verified here."""
    return all(importlib.util.find_spec(name) for name in ("torch", "transformers"))


def verify_pretraining(
    directory: pathlib.Path,
    outputs_fn: Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[Any, Any]],
    input_ids: np.ndarray,
    segment_ids: np.ndarray,
    mask: np.ndarray,
) -> float:
    """Largest difference between our logits and transformers' on the same ids.

    `outputs_fn` gets input_ids, segment_ids and mask (1 on real tokens), all [B, T], and
    returns MLM logits of every position, [B, T, V] with or without vocabulary padding,
    and NSP logits [B, 2]. Positions without mask do not count.

    Raises:
        ValueError: transformers found missing, unexpected or misshapen tensors.
    """
    theirs = _run_theirs(directory, "pretraining", input_ids, segment_ids, mask)
    mlm, nsp = outputs_fn(input_ids, segment_ids, mask)
    their_mlm = theirs["prediction_logits"]
    our_mlm = np.asarray(mlm)[..., : their_mlm.shape[-1]]
    real = np.asarray(mask) == 1
    return max(
        _max_difference(our_mlm[real], their_mlm[real]),
        _max_difference(np.asarray(nsp), theirs["seq_relationship_logits"]),
    )


def verify_classifier(
    directory: pathlib.Path,
    logits_fn: Callable[[np.ndarray, np.ndarray, np.ndarray], Any],
    input_ids: np.ndarray,
    segment_ids: np.ndarray,
    mask: np.ndarray,
) -> float:
    """The same for `export_classifier`; `logits_fn` gives class logits [B, C]."""
    theirs = _run_theirs(directory, "classifier", input_ids, segment_ids, mask)
    ours = np.asarray(logits_fn(input_ids, segment_ids, mask))
    return _max_difference(ours, theirs["logits"])


def _run_theirs(directory: pathlib.Path, head: Head, *ids: np.ndarray) -> Tensors:
    import torch
    import transformers

    auto = _ARCHITECTURES[head].replace("Bert", "AutoModel")
    model, info = getattr(transformers, auto).from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True
    )
    inputs = zip(("input_ids", "token_type_ids", "attention_mask"), ids, strict=True)
    if problems := {kind: names for kind, names in info.items() if names}:
        raise ValueError(f"{directory} does not load cleanly: {problems}.")
    with torch.no_grad():
        outputs = model.eval()(
            **{name: torch.tensor(np.asarray(x, np.int64)) for name, x in inputs}
        )
    return {name: value.numpy() for name, value in outputs.items()}


def _max_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    if ours.shape != theirs.shape:
        raise ValueError(
            f"Our logits are {list(ours.shape)}, transformers' {list(theirs.shape)}."
        )
    return float(np.abs(ours - theirs).max())


def _sizes(cfg: ModelConfig, class_bias: np.ndarray | None) -> dict[str, int]:
    return {
        "L": cfg.num_layers,
        "V": cfg.padded_vocab_size,
        "P": cfg.max_positions,
        "S": cfg.num_segments,
        "D": cfg.hidden_size,
        "N": cfg.num_heads,
        "H": cfg.head_size,
        "F": cfg.mlp_size,
        "C": 0 if class_bias is None else class_bias.shape[-1],
    }


def _layers(row: _Row, array: np.ndarray) -> list[tuple[str, np.ndarray]]:
    if not row.shape.startswith("L"):
        return [(row.theirs, array)]
    return [(row.theirs.format(layer=i), part) for i, part in enumerate(array)]


def _their_view(cfg: ModelConfig, row: _Row, part: np.ndarray) -> np.ndarray:
    """`part` as transformers lays it out; a view, so that it serves both directions."""
    if row.num_inputs:
        return part.reshape(math.prod(part.shape[: row.num_inputs]), -1).T
    if row.shape.startswith("V"):
        return part[: cfg.vocab_size]
    return part.reshape(-1) if row.shape == "LNH" else part


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Tensors:
    flat: Tensors = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}/")
        else:
            flat[prefix + name] = np.asarray(value)
    return flat
