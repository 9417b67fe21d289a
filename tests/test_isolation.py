"""Attention that mixes sequences, or is no attention, is found before a run starts."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from prepared_corpus import make_corpus, prepared

from bert_jax import cli
from bert_jax.commands import training
from bert_jax.config import (
    ComputeConfig,
    DataConfig,
    DropoutConfig,
    FinetuneConfig,
    OptimizerConfig,
    PretrainConfig,
    TaskConfig,
)
from bert_jax.data.tokenizers.saved_tokenizer import load_tokenizer
from bert_jax.model import attention, attention_blocks, isolation
from bert_jax.model.attention_blocks import blocked_attention
from bert_jax.model.attention_gpu import triton_attention
from bert_jax.model.attention_xla import xla_attention
from bert_jax.model.isolation import IsolationError, prove_isolation
from bert_jax.train import finetune, pretrain
from bert_jax.train.runs.run import RunInfo, load_run
from bert_jax.train.runs.run_start import start_run


@pytest.fixture(autouse=True)
def not_yet_proven():
    isolation._prove.cache_clear()
    yield
    isolation._prove.cache_clear()


def prove(cfg, num_tokens=24, interpret=False, **compute):
    return prove_isolation(
        cfg,
        ComputeConfig(**compute),
        DropoutConfig(),
        num_tokens=num_tokens,
        interpret=interpret,
    )


def mixed(q, k, v, ids, keys, dropout_rate, reach=None, products="auto"):
    return xla_attention(q, k, v, jnp.zeros_like(ids), keys, dropout_rate)


def mixed_gradients(q, k, v, ids, keys, dropout_rate, reach=None, products="auto"):
    """Right outputs; the backward pass is that of `mixed`."""

    @jax.custom_vjp
    def attend(q, k, v):
        return xla_attention(q, k, v, ids, keys, dropout_rate)

    def forward(*args):
        return attend(*args), args

    def backward(args, d_out):
        return jax.vjp(lambda *x: mixed(*x, ids, keys, dropout_rate), *args)[1](d_out)

    attend.defvjp(forward, backward)
    return attend(q, k, v)


def hardly_mixed(*args, **options):
    """Less than any tolerance, of the token before."""
    return xla_attention(*args, **options) + 1e-6 * jnp.roll(args[2], 1, axis=1)


def by_place(q, k, v, *args, **options):
    """No sequence sees another, but the result depends on the place in the row."""
    place = jnp.linspace(0.5, 1.5, q.shape[1]).astype(q.dtype)[None, :, None, None]
    return xla_attention(q, k, v * place, *args, **options)


def lost(*args, **options):
    return xla_attention(*args, **options) * jnp.nan


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_is_isolated(tiny, dtype):
    proof = prove(tiny, dtype=dtype)
    assert proof.kernel == "xla"
    assert proof.device == "cpu"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (mixed, "differs from the same sequences alone. The output is off"),
        (mixed_gradients, "The gradient of the queries is off"),
        (hardly_mixed, "new values in one sequence change another"),
        (by_place, "differs from the same sequences alone"),
        (lost, "off by nan"),
    ],
)
def test_what_is_not_isolated_attention_is_an_error(tiny, monkeypatch, wrong, message):
    monkeypatch.setattr(attention, "xla_attention", wrong)
    with pytest.raises(IsolationError, match=message) as raised:
        prove(tiny)
    for part in ('"xla" on cpu', "24 tokens", "heads 8 wide", "do not train"):
        assert part in str(raised.value)


def lengths_seen(monkeypatch, name):
    """The lengths of the rows that an attention gets from now on, a list that grows."""
    attend, seen = getattr(attention, name), []

    def noted(q, *args, **options):
        seen.append(q.shape[1])
        return attend(q, *args, **options)

    monkeypatch.setattr(attention, name, noted)
    return seen


@pytest.mark.parametrize("reach", [None, 40])
def test_long_rows_are_tried_in_blocks(tiny, monkeypatch, reach):
    for module in (attention_blocks, isolation):
        monkeypatch.setattr(module, "SHORTEST_IN_BLOCKS", 64)
    monkeypatch.setattr(attention_blocks, "_BLOCK_SIZE", 16)
    monkeypatch.setattr(isolation, "_LONG_FOR_XLA", 24)
    seen = lengths_seen(monkeypatch, "blocked_attention")
    cfg = tiny
    if reach is not None:
        cfg = dataclasses.replace(tiny, local_window=2 * reach, global_every=2)
    compute, dropout = ComputeConfig(), DropoutConfig()
    isolation.prove_for_lengths(cfg, compute, dropout, [100, 32])
    assert 64 in seen
    assert 32 not in seen
    isolation._prove.cache_clear()
    monkeypatch.setattr(
        attention, "blocked_attention", lambda *x, size, **y: mixed(*x, **y)
    )
    with pytest.raises(IsolationError, match="the same sequences alone"):
        isolation.prove_for_lengths(cfg, compute, dropout, [100, 32])
    isolation._prove.cache_clear()
    monkeypatch.setattr(attention, "blocked_attention", blocked_attention)
    monkeypatch.setattr(attention, "xla_attention", mixed)
    with pytest.raises(IsolationError):
        isolation.prove_for_lengths(cfg, compute, dropout, [100, 32])


def test_rows_that_a_mesh_splits_are_tried_whole(tiny, monkeypatch):
    """As the run computes them, however long they are."""
    for module in (attention_blocks, isolation):
        monkeypatch.setattr(module, "SHORTEST_IN_BLOCKS", 64)
    seen = lengths_seen(monkeypatch, "xla_attention")
    monkeypatch.delattr(attention, "blocked_attention")
    settings = tiny, ComputeConfig(), DropoutConfig()
    isolation.prove_for_lengths(*settings, [100, 32], splits_rows=True)
    assert set(seen) == {63}


@pytest.mark.slow(ci=False)
def test_a_kernel_drops_the_weights_that_xla_drops(tiny, monkeypatch):
    cfg = dataclasses.replace(tiny, num_heads=2)
    options = {"interpret": True, "attention": "triton", "dtype": "bfloat16"}

    def other_bits(*args, **options):
        *arrays, words, heads, queries = args
        return triton_attention(*arrays, words + 1, heads, queries, **options)

    assert prove(cfg, **options).kernel == "triton"
    isolation._prove.cache_clear()
    monkeypatch.setattr(attention, "triton_attention", other_bits)
    with pytest.raises(IsolationError, match="differs from XLA's attention") as raised:
        prove(cfg, **options)
    assert "--compute.attention xla" in str(raised.value)


def test_a_path_is_tried_once(tiny, monkeypatch):
    prove(tiny)
    monkeypatch.setattr(attention, "xla_attention", mixed)
    # Depth and vocabulary do not matter to attention; the length of rows may.
    prove(dataclasses.replace(tiny, num_layers=1))
    with pytest.raises(IsolationError):
        prove(tiny, num_tokens=16)


def test_a_kernel_that_cannot_run_is_named(tiny):
    with pytest.raises(ValueError, match="compiled for cpu"):
        prove(tiny, attention="fused")


def test_all_rows_of_a_run_are_tried(tiny):
    packed = DataConfig(dataset="", sequence_length=16)
    buckets = DataConfig(dataset="", sequence_length=24, layout="buckets")
    cfg = PretrainConfig(model=tiny, data=packed)
    assert pretrain._row_lengths(cfg) == {16}
    cfg = dataclasses.replace(cfg, data=buckets)
    assert pretrain._row_lengths(cfg) == set(buckets.buckets)
    assert len(buckets.buckets) > 1


def test_shapes_of_the_trial():
    ids = isolation._packed_ids(24)
    assert [sorted(set(row)) for row in ids.tolist()] == [
        [0, 1, 2, 3],
        [1],
        [1, 2],
        [0],
        [1, 2, 3, 4, 5],
    ]
    for row, number in (*isolation._ALONE, *isolation._CHANGED):
        assert np.count_nonzero(ids[row] == number) > 1


@pytest.fixture(scope="module")
def base(tiny, tmp_path_factory) -> pathlib.Path:
    """A prepared dataset, and the run of a pretraining that got as far as its start."""
    folder = tmp_path_factory.mktemp("base")
    corpus = make_corpus(folder)
    prepared(corpus, folder / "dataset")
    tokenizer = load_tokenizer(corpus[2])
    model = dataclasses.replace(tiny, vocab_size=tokenizer.vocab_size)
    info = RunInfo(
        kind="pretrain", model=model, tokenizer_sha256=tokenizer.sha256, data={}
    )
    start_run(folder / "run", PretrainConfig(), info, tokenizer)
    (folder / "task.csv").write_text("text,label\nriver,a\nstone,b\n")
    return folder


def pretraining(base):
    cfg = PretrainConfig(
        model=load_run(base / "run").model,
        data=DataConfig(dataset=base / "dataset", sequence_length=24),
        optimizer=OptimizerConfig(warmup_steps=0),
        batch_size=8,
        num_steps=1,
    )
    return lambda run: pretrain.pretrain(cfg, run)


def finetuning(base):
    cfg = FinetuneConfig(
        task=TaskConfig(train=base / "task.csv", dev=base / "task.csv"),
        checkpoint=base / "run",
        from_scratch=True,
        sequence_length=24,
        batch_size=8,
        num_epochs=1,
    )
    return lambda run: finetune.finetune(cfg, run)


@pytest.mark.parametrize("begin", [pretraining, finetuning])
def test_no_run_starts_with_attention_that_mixes(base, monkeypatch, tmp_path, begin):
    start = begin(base)

    class LoopReached(Exception):
        pass

    def run_loop(**_):
        raise LoopReached

    for module in (pretrain, finetune):
        monkeypatch.setattr(module, "run_loop", run_loop)
    with pytest.raises(LoopReached):
        start(tmp_path / "run")
    isolation._prove.cache_clear()
    monkeypatch.setattr(attention, "xla_attention", mixed)
    with pytest.raises(IsolationError):
        start(tmp_path / "run")


def test_the_command_line_shows_the_error_alone(monkeypatch, capsys):
    def run(self):
        raise IsolationError("sequences mix")

    monkeypatch.setattr(training.Pretrain, "run", run)
    with pytest.raises(SystemExit, match="1"):
        cli.main(["pretrain", "--output", "run"])
    assert capsys.readouterr().err == "bert-jax: pretrain: sequences mix\n"
