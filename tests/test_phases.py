"""Two phases as one job: other rows and rates, one state, one resume."""

import dataclasses
import os
import signal

import jax
import numpy as np
import pytest
from bare_runs import MODEL

from bert_jax.config import (
    ComputeConfig,
    DataConfig,
    LoopConfig,
    MaskingConfig,
    MeshConfig,
    OptimizerConfig,
    PhaseConfig,
    PretrainConfig,
)
from bert_jax.data.batches.rows import open_rows
from bert_jax.data.prepared.dataset import open_dataset
from bert_jax.train import loop
from bert_jax.train.inference.evaluate import evaluate_run
from bert_jax.train.initial import load_params
from bert_jax.train.mesh import make_mesh
from bert_jax.train.monitoring.metrics import read_metrics
from bert_jax.train.pretrain import pretrain
from bert_jax.train.stop_request import InterruptedRunError

# Each case trains through two phases.
pytestmark = pytest.mark.slow(ci=False)

FIRST, SECOND = 6, 4


@pytest.fixture(scope="module")
def cfg(dataset) -> PretrainConfig:
    return PretrainConfig(
        model=dataclasses.replace(MODEL, max_positions=48),
        data=DataConfig(dataset=dataset, sequence_length=24),
        masking=MaskingConfig(rate=0.4, end_rate=0.1),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=2),
        loop=LoopConfig(log_every_steps=1, eval_every_steps=0),
        batch_size=16,
        num_steps=FIRST,
        next_phases=(
            PhaseConfig(
                sequence_length=48,
                batch_size=8,
                num_steps=SECOND,
                learning_rate=5e-4,
                warmup_steps=1,
                micro_batches=1,
            ),
        ),
        eval_batches=2,
    )


@pytest.fixture(scope="module")
def whole(cfg, tmp_path_factory):
    """An uninterrupted run of both phases, and its results."""
    run = tmp_path_factory.mktemp("whole") / "run"
    return run, pretrain(cfg, run)


def test_the_rate_starts_again_and_the_steps_go_on(whole):
    run, results = whole
    lines = [line for line in read_metrics(run) if line["kind"] == "train"]
    assert [line["step"] for line in lines] == list(range(1, FIRST + SECOND + 1))
    rates = [line["learning_rate"] for line in lines]
    up, down = [0.0, 0.5], [1 - s / FIRST for s in range(2, FIRST)]
    second = [0.0, *(1 - s / SECOND for s in range(1, SECOND))]
    expected = [*(1e-3 * x for x in up + down), *(5e-4 * x for x in second)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    assert results["step"] == FIRST + SECOND


def test_each_phase_is_judged_on_rows_of_its_length(whole):
    lines = [line for line in read_metrics(whole[0]) if line["kind"] == "eval"]
    assert [line["step"] for line in lines] == [0, FIRST, FIRST + SECOND]
    # At 15 %, less what rounds down in rows with few tokens.
    assert [line["masked_share"] for line in lines] == pytest.approx(
        [0.15] * 3, abs=0.02
    )


def test_the_masking_rate_falls_over_both_phases(whole):
    lines = [line for line in read_metrics(whole[0]) if line["kind"] == "train"]
    line = np.linspace(0.4, 0.1, FIRST + SECOND)
    shares = [line["masked_share"] for line in lines]
    np.testing.assert_allclose(shares, line, rtol=0, atol=0.03)


def test_a_phase_of_the_same_rows_begins_behind_those_before(
    cfg, tmp_path, monkeypatch
):
    larger = PhaseConfig(
        sequence_length=24, batch_size=16, num_steps=2, learning_rate=None
    )
    growing = dataclasses.replace(
        cfg, batch_size=8, num_steps=3, next_phases=(larger, cfg.next_phases[0], larger)
    )
    seen = []
    place = loop.to_devices
    monkeypatch.setattr(
        loop, "to_devices", lambda mesh, x: seen.append(x.input_ids) or place(mesh, x)
    )
    pretrain(growing, tmp_path / "run")
    rows = open_rows(open_dataset(cfg.data.dataset), "train", cfg.data, seed=cfg.seed)
    ids = np.concatenate([x for x in seen if x.shape[1] == 24])
    np.testing.assert_array_equal(ids, rows.batch(0, 3 * 8 + 4 * 16).input_ids)
    assert [len(x) for x in seen] == [8] * 3 + [16] * 2 + [8] * SECOND + [16] * 2


def test_the_whole_run_is_judged_as_its_last_phase_was(whole):
    run, results = whole
    # The mesh is that of the machine that judges: here rows over all eight devices.
    assert evaluate_run(run, None) == pytest.approx(results["eval"], rel=1e-5)


@pytest.fixture
def stopped(cfg, tmp_path, monkeypatch):
    """stopped(n): a run that was stopped after n updates."""
    place = loop.to_devices

    def make(stop_after):
        calls = 0

        def stopping(mesh, batch):
            nonlocal calls
            calls += 1
            if calls == stop_after:
                os.kill(os.getpid(), signal.SIGTERM)
            return place(mesh, batch)

        run = tmp_path / "run"
        monkeypatch.setattr(loop, "to_devices", stopping)
        with pytest.raises(InterruptedRunError, match=rf"step {stop_after:,} of 10"):
            pretrain(cfg, run)
        monkeypatch.undo()
        return run

    return make


@pytest.mark.slow(ci=False)
def test_a_stopped_run_goes_on_in_another_layout(cfg, whole, stopped, capsys):
    run = stopped(FIRST + 2)
    moved = dataclasses.replace(
        cfg,
        mesh=MeshConfig(data=2, fsdp=2, tensor=2),
        compute=ComputeConfig(remat="full"),
        micro_batches=2,
        next_phases=(dataclasses.replace(cfg.next_phases[0], micro_batches=2),),
    )
    results = pretrain(moved, run)
    said = capsys.readouterr().out
    for change in ("mesh.fsdp is 1", "compute.remat is 'none'"):
        assert f"another layout, equal up to rounding: {change}" in said
    # A few updates of Adam over other roundings.
    assert results["eval"] == pytest.approx(whole[1]["eval"], rel=1e-4)
    other = dataclasses.replace(moved, seed=1)
    with pytest.raises(ValueError, match="other settings: seed is 0 there and 1 here"):
        pretrain(other, run)


def test_a_stopped_run_goes_on_to_the_same_bits(cfg, whole, stopped):
    run = stopped(FIRST - 2)
    results = pretrain(cfg, run)

    assert results["eval"] == whole[1]["eval"]
    ours, expected = (
        load_params(folder, make_mesh(cfg.mesh)).params for folder in (run, whole[0])
    )
    jax.tree.map(np.testing.assert_array_equal, ours, expected)


def test_a_phase_that_does_not_fit_is_named(cfg):
    too_long = PhaseConfig(sequence_length=64, num_steps=20_000)
    with pytest.raises(ValueError, match=r"next_phases\[0\]: .*64 exceeds .*48"):
        dataclasses.replace(cfg, next_phases=(too_long,)).check()
