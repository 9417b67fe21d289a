"""Models of every family of transformers, with random numbers in every tensor."""

import copy
import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.config import ModelConfig
from bert_jax.exchange.families.registry import FAMILIES
from bert_jax.exchange.huggingface_config import read_architecture
from bert_jax.exchange.logits import forward
from bert_jax.exchange.tensors import Tensors, from_tensors, to_tensors

AUTO = {
    "mlm": "AutoModelForMaskedLM",
    "classifier": "AutoModelForSequenceClassification",
    "tokens": "AutoModelForTokenClassification",
    "spans": "AutoModelForQuestionAnswering",
    "choice": "AutoModelForMultipleChoice",
}
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_OF_ROBERTA = {"pad_token_id": 1, "type_vocab_size": 1}
# What a family has beside the sizes; `window` is that of its local layers.
OWN: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": _OF_ROBERTA,
    "xlm-roberta": _OF_ROBERTA,
    "camembert": _OF_ROBERTA,
    "distilbert": {},
    "electra": {"embedding_size": 32},
    "modernbert": {**_SPECIAL, "cls_token_id": 1, "sep_token_id": 2},
    "nomic_bert": {},
    "eurobert": {**_SPECIAL, "num_key_value_heads": 2, "mask_token_id": 3},
}
ROUTES = [
    (name, head)
    for name, family in FAMILIES.items()
    for head in AUTO
    if head in family.heads
]


class Theirs(NamedTuple):
    model: Any
    """The PyTorch model, in evaluation."""
    cfg: ModelConfig
    tensors: Tensors
    """Its tensors, without the second copies of tied ones."""


def make(
    name: str,
    head: str,
    *,
    layers: int = 3,
    width: int = 64,
    heads: int = 4,
    inner: int = 96,
    vocab: int = 300,
    positions: int = 130,
    **changes: Any,
) -> Theirs:
    """A model of transformers; all its numbers are drawn at random."""
    import torch
    import transformers

    keys = ["hidden_size", "num_hidden_layers", "num_attention_heads"]
    keys += ["intermediate_size"]
    if name == "distilbert":
        keys = ["dim", "n_layers", "n_heads", "hidden_dim"]
    sizes = dict(zip(keys, (width, layers, heads, inner), strict=True))
    if name in ("roberta", "xlm-roberta", "camembert"):
        positions += 2
    sizes |= {"vocab_size": vocab, "max_position_embeddings": positions}
    if head in ("classifier", "tokens"):
        changes = {"num_labels": 3, **changes}
    config = transformers.AutoConfig.for_model(
        name, **{**sizes, **OWN[name], **changes}
    )
    config._attn_implementation = "eager"
    torch.manual_seed(1)
    model = getattr(transformers, AUTO[head]).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn_like(parameter)
            if parameter.ndim == 1:
                parameter.add_(0.2 * drawn)
            else:
                parameter.copy_(drawn * 0.8 / width**0.5)
    family = FAMILIES[name]
    stated = json.loads(config.to_json_string(use_diff=False))
    cfg, _ = read_architecture(pathlib.Path("config.json"), stated, family)
    tied = family.tied if cfg.tied_decoder else {}
    state = in_files(model, model.state_dict())
    state = {k: v.numpy() for k, v in state.items() if k not in tied}
    return Theirs(model, cfg, state)


def in_files(model: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors by the names and in the layout that `save_pretrained` gives them."""
    from transformers.core_model_loading import revert_weight_conversion

    return revert_weight_conversion(model, tensors)


class Rows(NamedTuple):
    """Int32 [B, T] each; the mask is 1 on real tokens."""

    input_ids: np.ndarray
    segment_ids: np.ndarray
    mask: np.ndarray


def rows(
    cfg: ModelConfig,
    length: int,
    num_rows: int = 3,
    pad: int = 0,
    shortest: float = 0.34,
) -> Rows:
    """Random rows of several lengths, down to a share of the longest."""
    rng = np.random.default_rng(0)
    shape = (num_rows, length)
    ids = rng.integers(5, cfg.vocab_size, shape)
    ends = np.linspace(length, int(length * shortest), num_rows).astype(int)
    mask = np.arange(length) < ends[:, None]
    segments = rng.integers(0, 2, shape) * mask * (cfg.num_segments > 1)
    return Rows(
        *(np.asarray(x, np.int32) for x in (np.where(mask, ids, pad), segments, mask))
    )


def theirs_of(model: Any, head: str, given: Rows, cfg: ModelConfig) -> Tensors:
    """Outputs of the PyTorch model by their names, in NumPy."""
    import torch

    inputs = {"input_ids": given.input_ids, "attention_mask": given.mask}
    if cfg.num_segments > 1:
        inputs["token_type_ids"] = given.segment_ids
    tensors = {k: torch.tensor(x.astype(np.int64)) for k, x in inputs.items()}
    if head == "choice":
        tensors = {k: x[None] for k, x in tensors.items()}
    with torch.no_grad():
        found = model(**tensors, output_hidden_states=True)
        hidden = model.base_model(
            **({k: x[0] for k, x in tensors.items()} if head == "choice" else tensors)
        )
    names = ["start_logits", "end_logits"] if head == "spans" else ["logits"]
    outputs = {name: found[name].numpy() for name in names}
    if head == "choice":
        outputs["logits"] = outputs["logits"].T
    return {**outputs, "last_hidden_state": hidden.last_hidden_state.numpy()}


@functools.partial(jax.jit, static_argnums=(0, 2))
def _ours(cfg, params, head, ids, segments, mask):
    return forward(cfg, params, head, True, ids, segments, mask)


def differences(theirs: Theirs, name: str, head: str, length: int) -> dict[str, float]:
    """The largest difference of each output on real tokens, and what came back of it."""
    family, cfg = FAMILIES[name], theirs.cfg
    table = family.rows(cfg, head)
    read = from_tensors(cfg, theirs.tensors, table)
    assert read.new == ()
    assert set(read.used) == set(theirs.tensors)
    again = to_tensors(cfg, read.params, table)
    assert again.keys() == theirs.tensors.keys()
    for key, tensor in again.items():
        np.testing.assert_array_equal(tensor, theirs.tensors[key], err_msg=key)
    given = rows(cfg, length, pad=theirs.model.config.pad_token_id or 0)
    expected = theirs_of(theirs.model, head, given, cfg)
    arrays = map(jnp.asarray, given)
    with jax.default_matmul_precision("highest"):
        found = jax.device_get(_ours(cfg, read.params, head, *arrays))
    assert found.keys() == expected.keys()
    real = given.mask > 0
    worst = {}
    for key, ours in found.items():
        assert np.isfinite(ours).all()
        change = np.abs(ours - expected[key])
        by_token = change.shape[:2] == real.shape
        worst[key] = float((change[real] if by_token else change).max())
    return worst


class Rounding(NamedTuple):
    """Largest distances from what transformers computes in float64."""

    ours: float
    theirs: float
    """Of transformers in float32."""


def rounding(theirs: Theirs, name: str, length: int) -> dict[str, Rounding]:
    """How exact both masked language models are in float32, for each output.

    All rows are full: in float64, ModernBERT's class in transformers gives NaN for a query
    that sees padding only.
    """
    cfg = theirs.cfg
    given = rows(cfg, length, num_rows=2, shortest=1.0)
    exact = theirs_of(copy.deepcopy(theirs.model).double(), "mlm", given, cfg)
    single = theirs_of(theirs.model, "mlm", given, cfg)
    params = from_tensors(cfg, theirs.tensors, FAMILIES[name].rows(cfg, "mlm")).params
    with jax.default_matmul_precision("highest"):
        ours = jax.device_get(_ours(cfg, params, "mlm", *map(jnp.asarray, given)))

    def distance(x: np.ndarray, key: str) -> float:
        assert exact[key].dtype == np.float64
        return float(np.abs(x - exact[key]).max())

    return {
        key: Rounding(distance(x, key), distance(single[key], key))
        for key, x in ours.items()
    }
