"""Every family and head against transformers' own class in PyTorch."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_models import OWN, ROUTES, differences, in_files, make, rounding, rows

from bert_jax.batch import PretrainBatch
from bert_jax.config import ComputeConfig, DropoutConfig
from bert_jax.exchange.families.registry import (
    FAMILIES,
    family_of_model,
    word_before_training,
)
from bert_jax.exchange.huggingface_config import read_architecture, write_config
from bert_jax.exchange.logits import param_shapes
from bert_jax.exchange.tensors import flatten, from_tensors
from bert_jax.model import pretraining
from bert_jax.model.masking import MaskedBatch
from bert_jax.train.losses import cross_entropy

BOUND = 1e-5
# At base width PyTorch's own float32 is as far from its float64 as that, and for EuroBERT
# farther. There ours may be so many times as far; a wrong formula is hundreds of times.
TIMES = 3.0


def _is_slow(name: str, head: str) -> bool:
    """Two are RoBERTa under other names; BERT's heads have tests of their own."""
    if name in ("bert", "xlm-roberta", "camembert"):
        return head != "mlm" or name != "bert"
    return name != "modernbert" and head not in ("mlm", "classifier")


@pytest.mark.parametrize(
    ("name", "head"),
    [
        pytest.param(
            name, head, marks=[pytest.mark.slow(ci=False)] * _is_slow(name, head)
        )
        for name, head in ROUTES
    ],
)
def test_numbers_agree_with_transformers(hf, name, head, record_route):
    """100 tokens, so that ModernBERT's windows of 16 hide most of a row."""
    window = {"local_attention": 16, "num_hidden_layers": 5}
    theirs = make(name, head, **(window if name == "modernbert" else {}))
    worst = differences(theirs, name, head, 100)
    assert max(worst.values()) <= BOUND, worst
    record_route(
        f"{name}, {type(theirs.model).__name__} of PyTorch",
        f"logits {max(worst.values()):.1e}",
    )
    read = from_tensors(
        theirs.cfg, theirs.tensors, FAMILIES[name].rows(theirs.cfg, head)
    )
    outputs = {"classifier": 3, "tokens": 3, "spans": 2}.get(head, 1)
    shapes = param_shapes(theirs.cfg, head, outputs)
    assert {k: x.shape for k, x in flatten(read.params).items()} == shapes


def test_long_rows_agree_with_transformers(hf, record_route):
    """Global layers compute such rows in blocks of queries, the last of them incomplete."""
    theirs = make("modernbert", "mlm", positions=2_200, local_attention=16)
    _agree(theirs, "modernbert", 2_100, "modernbert, 2100 tokens", record_route)


@pytest.mark.slow(ci=False)
@pytest.mark.parametrize("length", [128, 1_024])
@pytest.mark.parametrize("name", FAMILIES)
def test_numbers_agree_at_base_width(hf, name, length, record_route):
    """Four layers; windows of 128 cross the blocks in which long rows are computed."""
    positions = 1_030 if name != "bert" else 1_024
    sizes = {"width": 768, "heads": 12, "inner": 3_072, "vocab": 2_000, "layers": 4}
    if name == "modernbert":
        sizes["inner"] = 1_152
    if name == "eurobert":
        sizes["num_key_value_heads"] = 4
    theirs = make(name, "mlm", positions=positions, **sizes)
    _agree(
        theirs,
        name,
        length,
        f"{name}, base width, 4 layers, {length} tokens",
        record_route,
    )


@pytest.mark.slow(ci=False)
def test_modernbert_agrees_at_full_depth(hf, record_route):
    sizes = {"width": 768, "heads": 12, "inner": 1_152, "vocab": 2_000, "layers": 22}
    theirs = make("modernbert", "mlm", positions=1_024, **sizes)
    route = "modernbert, base, 22 layers, 1024 tokens"
    _agree(theirs, "modernbert", 1_024, route, record_route)


def _agree(theirs, name, length, route, record_route):
    """Within the bound, padding included; or as exact as PyTorch, up to a small factor."""
    worst = differences(theirs, name, "mlm", length)
    said = f"hidden {worst['last_hidden_state']:.1e}, logits {worst['logits']:.1e}"
    if max(worst.values()) > BOUND:
        assert max(worst.values()) < 3 * BOUND, worst
        found = rounding(theirs, name, length)
        for output, (ours, others) in found.items():
            assert ours <= TIMES * others, (output, found)
            said += f"; {output} from float64: {ours:.1e}, PyTorch's {others:.1e}"
    record_route(route, said)


def _pretrain_batch(given, sequence_ids, position_ids):
    every = np.broadcast_to(np.arange(given.mask.shape[1]), given.mask.shape)
    batch = PretrainBatch(
        given.input_ids,
        given.segment_ids,
        sequence_ids,
        position_ids,
        cls_positions=np.zeros((len(every), 1), np.int32),
        nsp_labels=np.zeros((len(every), 1), np.int32),
        nsp_weights=np.zeros((len(every), 1), np.float32),
    )
    slots = MaskedBatch(
        given.input_ids,
        every.astype(np.int32),
        given.input_ids,
        (given.mask).astype(np.float32),
    )
    return jax.tree.map(jnp.asarray, (batch, slots))


def _loss(cfg, batch, slots, compute=ComputeConfig()):
    def loss(params):
        out = pretraining.apply(cfg, params, batch, slots, compute=compute)
        return cross_entropy(out.mlm_logits, slots.labels, slots.weights)[0].value()

    return loss


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            x, marks=[pytest.mark.slow(ci=False)] * (x in ("nomic_bert", "distilbert"))
        )
        for x in OWN
        if x not in ("xlm-roberta", "camembert")
    ],
)
def test_gradients_agree_with_transformers(hf, name):
    import torch

    window = {"local_attention": 16} if name == "modernbert" else {}
    theirs = make(name, "mlm", layers=2, **window)
    cfg, table = theirs.cfg, FAMILIES[name].rows(theirs.cfg, "mlm")
    # BERT's own pretraining model has two more parts, of which this loss knows nothing.
    cfg = dataclasses.replace(cfg, next_sentence=False)
    params = from_tensors(cfg, theirs.tensors, table).params
    given = rows(cfg, 60, pad=theirs.model.config.pad_token_id or 0)
    places = np.broadcast_to(np.arange(60, dtype=np.int32), given.mask.shape)
    batch, slots = _pretrain_batch(given, given.mask, places)
    with jax.default_matmul_precision("highest"):
        found = jax.device_get(jax.jit(jax.grad(_loss(cfg, batch, slots)))(params))
    inputs = {"input_ids": given.input_ids, "attention_mask": given.mask}
    if cfg.num_segments > 1:
        inputs["token_type_ids"] = given.segment_ids
    labels = np.where(given.mask > 0, given.input_ids, -100)
    tensors = {k: torch.tensor(x.astype(np.int64)) for k, x in inputs.items()}
    theirs.model(**tensors, labels=torch.tensor(labels).long()).loss.backward()
    grads = {
        k: torch.zeros(x.shape) if x.grad is None else x.grad
        for k, x in theirs.model.named_parameters()
    }
    grads = {k: x.numpy() for k, x in in_files(theirs.model, grads).items()}
    expected = from_tensors(cfg, grads, table).params
    for path, theirs_grad in flatten(expected).items():
        ours = flatten(found)[path]
        if path == "embed/token/embedding":  # PyTorch leaves out the row of padding
            pad = theirs.model.config.pad_token_id or 0
            ours, theirs_grad = (np.delete(x, pad, axis=0) for x in (ours, theirs_grad))
        if path == "layers/attention/norm/scale" and name == "modernbert":
            ours, theirs_grad = ours[1:], theirs_grad[1:]  # the first has none there
        bound = 1e-4 * np.abs(theirs_grad).max() + 1e-7
        np.testing.assert_allclose(ours, theirs_grad, rtol=0, atol=bound, err_msg=path)


@pytest.mark.parametrize(
    ("name", "scan"),
    [
        pytest.param(
            name,
            scan,
            marks=[pytest.mark.slow(ci=False)]
            * (not scan or name not in ("modernbert", "eurobert")),
        )
        for name in ("modernbert", "nomic_bert", "eurobert", "roberta")
        for scan in (True, False)
    ],
)
def test_packed_rows_equal_each_sequence_alone(hf, name, scan):
    """Logits and gradients; scanned in blocks of layers, or one layer after the other."""
    window = {"local_attention": 8} if name == "modernbert" else {}
    theirs = make(name, "mlm", layers=4, positions=64, **window)
    cfg = dataclasses.replace(theirs.cfg, next_sentence=False)
    params = from_tensors(cfg, theirs.tensors, FAMILIES[name].rows(cfg, "mlm")).params
    lengths = (20, 7, 13)
    given = rows(cfg, 40, num_rows=1)
    ids = np.concatenate([np.full(n, i + 1) for i, n in enumerate(lengths)])
    places = np.concatenate([np.arange(n) for n in lengths]).astype(np.int32)[None]
    packed = _pretrain_batch(given, ids.astype(np.int32)[None], places)
    alone = np.zeros((3, 40), np.int32)
    mask, segments = np.zeros_like(alone), np.zeros_like(alone)
    start = 0
    for row, n in enumerate(lengths):
        alone[row, :n] = given.input_ids[0, start : start + n]
        segments[row, :n] = given.segment_ids[0, start : start + n]
        mask[row, :n] = 1
        start += n
    every = np.broadcast_to(np.arange(40, dtype=np.int32), mask.shape)
    rest = type(given)(alone, segments, mask)
    unpacked = _pretrain_batch(rest, mask, every)
    compute = ComputeConfig(scan_layers=scan)
    with jax.default_matmul_precision("highest"):
        (one, d_one), (all_, d_all) = (
            jax.jit(jax.value_and_grad(_loss(cfg, *x, compute)))(params)
            for x in (packed, unpacked)
        )
    np.testing.assert_allclose(one, all_, rtol=2e-6)
    for path, x in flatten(d_all).items():
        bound = 2e-5 * np.abs(x).max() + 1e-8
        np.testing.assert_allclose(flatten(d_one)[path], x, rtol=0, atol=bound)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_config_goes_out_as_it_came_in(hf, name):
    """What is written is read by transformers as the same config, key by key."""
    import transformers

    theirs = make(name, "mlm", layers=4)
    model = _Written(theirs)
    written = write_config(model, FAMILIES[name])
    again = transformers.AutoConfig.for_model(**written)
    before, after = (
        json.loads(x.to_json_string(use_diff=False))
        for x in (theirs.model.config, again)
    )
    odd = {
        key: (before[key], after.get(key))
        for key in before
        if before[key] != after.get(key)
    }
    for key in ("architectures", "dtype"):
        odd.pop(key, None)
    if not FAMILIES[name].special_keys:  # BERT's own say nothing
        odd = {key: x for key, x in odd.items() if key[3:] != "_token_id"}
    assert odd == {}
    cfg, _ = read_architecture(pathlib.Path("x"), written, FAMILIES[name])
    assert cfg == theirs.cfg


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_few_layers_keep_how_often_one_is_global(hf, num_layers):
    """Windows in two of three layers are also those of a model without a third one."""
    theirs = make("modernbert", "mlm", layers=4)
    cfg = dataclasses.replace(theirs.cfg, num_layers=num_layers)
    theirs = theirs._replace(cfg=cfg)
    written = write_config(_Written(theirs), FAMILIES["modernbert"])
    assert written["layer_types"][1:] == ["sliding_attention"] * (num_layers - 1)
    found, _ = read_architecture(pathlib.Path("x"), written, FAMILIES["modernbert"])
    assert found == cfg


_ROBERTA = ("roberta", "xlm-roberta", "camembert")
# Their configs say 0.1 where nothing else is given.
_DROPPING = (*_ROBERTA, "bert", "distilbert", "electra")


class _Written:
    """As much of a portable model as `write_config` reads."""

    def __init__(self, theirs):
        self.cfg, self.head, self.labels = theirs.cfg, "mlm", None
        self.dropout = DropoutConfig(
            **{
                field.removeprefix("dropout."): 0.1
                if theirs.model.config.model_type in _DROPPING
                else 0.0
                for field in ("dropout.hidden", "dropout.attention")
            }
        )
        config = theirs.model.config
        start = 0 if config.model_type in _ROBERTA else 1
        ids = {"pad": config.pad_token_id or 0, "cls": start, "sep": 2, "mask": 3}
        self.tokenizer = type("T", (), {"special": type("S", (), ids)})


@pytest.mark.parametrize(
    ("spelling", "every", "thetas"),
    [
        ({}, 3, (160_000.0, 10_000.0)),
        (
            {"global_attn_every_n_layers": 2, "local_rope_theta": 5e3},
            2,
            (160_000.0, 5e3),
        ),
        (
            {
                "layer_types": ["full_attention", *["sliding_attention"] * 3] * 2,
                "rope_parameters": {
                    "full_attention": {"rope_type": "default", "rope_theta": 7e4},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                },
            },
            4,
            (7e4, 1e4),
        ),
        ({"layer_types": ["full_attention"] * 8}, 1, (160_000.0, 10_000.0)),
    ],
)
def test_old_and_new_spellings_of_modernbert(spelling, every, thetas):
    config = {"model_type": "modernbert", "num_hidden_layers": 8, **spelling}
    path = pathlib.Path("config.json")
    cfg, _ = read_architecture(path, config, FAMILIES["modernbert"])
    assert cfg.global_every == every
    assert (cfg.rope_theta, cfg.local_rope_theta) == thetas
    assert cfg.local_window == (128 if every > 1 else None)
    assert family_of_model(cfg).model_type == "modernbert"


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("modernbert", {"layer_types": ["sliding_attention"] * 2}, "global layer"),
        ("modernbert", {"mlp_bias": True}, "mlp_bias=True beside attention_bias=False"),
        (
            "modernbert",
            {"rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 2}}},
            "expected rope_type='default'",
        ),
        (
            "modernbert",
            {"rope_parameters": {"full_attention": 7}},
            "rope_parameters=7; expected rope_type='default'",
        ),
        ("nomic_bert", {"head_dim": 32}, "head_dim=32 beside hidden_size=768"),
        ("nomic_bert", {"hidden_act": "gelu"}, "hidden_act='gelu'; expected one of"),
        ("eurobert", {"mlp_bias": True}, "both are one setting here"),
        ("roberta", {}, "positions are counted"),
        (
            "bert",
            {"position_embedding_type": "relative_key"},
            "position_embedding_type",
        ),
        ("roberta", {"is_decoder": True}, "is_decoder=True"),
        ("bert", {"add_cross_attention": True}, "add_cross_attention=True"),
    ],
)
def test_what_a_family_has_and_we_have_not_is_refused_by_name(name, wrong, message):
    from bert_jax.exchange.huggingface_config import read_config

    sizes = {"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 2}
    config = {"model_type": name, **sizes, **wrong}
    with pytest.raises(ValueError, match=message):
        read_config(pathlib.Path("config.json"), config, FAMILIES[name], [])


def test_a_head_without_a_class_is_said_before_it_is_trained(hf):
    eurobert, bert = (make(name, "mlm").cfg for name in ("eurobert", "bert"))
    assert "'eurobert' for the head 'spans'" in word_before_training(eurobert, "spans")
    assert word_before_training(eurobert, "tokens") is None
    assert word_before_training(bert, "spans") is None
    nowhere = dataclasses.replace(bert, norm_position="pre")
    assert "no family of" in word_before_training(nowhere, "classifier")
