"""Whole runs with Muon and an average: stopped and resumed, judged, and branched off."""

import dataclasses
import os
import signal

import jax
import numpy as np
import pytest
from bare_runs import MODEL

from bert_jax.config import (
    DataConfig,
    LoopConfig,
    MeshConfig,
    OptimizerConfig,
    PretrainConfig,
)
from bert_jax.data.prepared.dataset import open_dataset
from bert_jax.train import loop
from bert_jax.train.averaging import AVERAGE
from bert_jax.train.inference.evaluate import evaluate_run
from bert_jax.train.initial import load_params
from bert_jax.train.mesh import make_mesh
from bert_jax.train.moments import moments_of
from bert_jax.train.monitoring.metrics import read_metrics
from bert_jax.train.pretrain import pretrain
from bert_jax.train.program import pretrain_program
from bert_jax.train.runs.checkpoint import Checkpoints
from bert_jax.train.runs.run import load_run
from bert_jax.train.stop_request import InterruptedRunError

# Each case trains a whole run.
pytestmark = pytest.mark.slow(ci=False)

STABLE, DECAY = 6, 4


@pytest.fixture(scope="module")
def cfg(dataset) -> PretrainConfig:
    """The stable part: the rate stays where the warm-up ended."""
    return PretrainConfig(
        model=dataclasses.replace(MODEL, num_layers=2, max_positions=24),
        data=DataConfig(dataset=dataset, sequence_length=24),
        mesh=MeshConfig(data=8),
        optimizer=OptimizerConfig(
            name="muon",
            learning_rate=1e-2,
            warmup_steps=2,
            schedule="constant",
            ema_decay=0.7,
        ),
        loop=LoopConfig(log_every_steps=1, eval_every_steps=0),
        batch_size=16,
        num_steps=STABLE,
        eval_batches=2,
    )


@pytest.fixture(scope="module")
def stable(cfg, tmp_path_factory):
    """An uninterrupted run of the stable part, and its results."""
    run = tmp_path_factory.mktemp("stable") / "run"
    return run, pretrain(cfg, run)


def last_state(cfg, run):
    """Everything in the newest checkpoint."""
    tokenizer = open_dataset(cfg.data.dataset).tokenizer
    program = pretrain_program(cfg, make_mesh(cfg.mesh), tokenizer.mask_vocabulary)
    with Checkpoints(run, load_run(run).identity, read_only=True) as checkpoints:
        return checkpoints.restore(program.state)


def test_a_stopped_run_goes_on_to_the_same_bits(cfg, stable, tmp_path, monkeypatch):
    place, calls = loop.to_devices, []

    def stopping(mesh, batch):
        calls.append(0)
        if len(calls) == STABLE // 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return place(mesh, batch)

    monkeypatch.setattr(loop, "to_devices", stopping)
    with pytest.raises(InterruptedRunError):
        pretrain(cfg, tmp_path / "run")
    monkeypatch.undo()
    assert pretrain(cfg, tmp_path / "run")["eval"] == stable[1]["eval"]
    ours, expected = (last_state(cfg, run) for run in (tmp_path / "run", stable[0]))
    jax.tree.map(np.testing.assert_array_equal, ours, expected)


def test_the_average_is_what_is_judged_and_handed_on(cfg, stable):
    run, results = stable
    assert evaluate_run(run, None) == pytest.approx(results["eval"], rel=1e-6)
    state = last_state(cfg, run)
    params = load_params(run, make_mesh(cfg.mesh)).params
    jax.tree.map(np.testing.assert_array_equal, params, state.opt_state[AVERAGE].mean)


def test_it_is_judged_by_as_many_devices_as_share_a_batch(stable, monkeypatch):
    run, results = stable
    three = jax.devices()[:3]  # 16 rows are no multiple of them
    monkeypatch.setattr(jax, "devices", lambda *_: three)
    assert evaluate_run(run, None) == pytest.approx(results["eval"], rel=1e-6)


def test_a_decay_branch_goes_on_from_the_stable_part(cfg, stable, tmp_path):
    run, _ = stable
    branch = dataclasses.replace(
        cfg,
        checkpoint=run,
        moments="keep",
        optimizer=dataclasses.replace(
            cfg.optimizer,
            schedule="trapezoidal",
            warmup_steps=0,
            decay_steps=DECAY,
            ema_decay=None,
        ),
        num_steps=DECAY,
        seed=1,
    )
    pretrain(branch, tmp_path / "branch")
    lines = list(read_metrics(tmp_path / "branch"))
    rates = [x["learning_rate"] for x in lines if x["kind"] == "train"]
    np.testing.assert_allclose(rates, [1e-2 * (1 - s / DECAY) for s in range(DECAY)])
    moments = moments_of(last_state(branch, tmp_path / "branch").opt_state)
    assert moments.age == STABLE + DECAY

    # The branch begins with the parameters themselves, not with their average.
    at_once = dataclasses.replace(cfg.optimizer, ema_decay=None)
    plain = dataclasses.replace(cfg, optimizer=at_once)
    expected = pretrain(plain, tmp_path / "plain")["eval"]
    first = next(x for x in lines if x["kind"] == "eval")
    assert first["mlm_loss"] == expected["mlm_loss"]
