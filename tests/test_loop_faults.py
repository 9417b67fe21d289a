"""What goes wrong in a run: bad numbers, kills and signals between two steps."""

import json
import os
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from counting_training import (
    KilledError,
    counting_step,
    stage_of,
    train_counting,
)

from bert_jax.config import LoopConfig
from bert_jax.train import loop
from bert_jax.train.averaging import with_average
from bert_jax.train.losses import Mean
from bert_jax.train.monitoring.metrics import NotFiniteError, read_metrics
from bert_jax.train.runs import run_lock
from bert_jax.train.step import TrainState
from bert_jax.train.stop_request import InterruptedRunError


@pytest.fixture
def train(tmp_path, tiny, make_batch):
    """train(...): two stages of four steps each; returns what the loop returns."""

    def train(
        evaluate=lambda params: {"score": float(params["w"][0])},
        step=counting_step,
        opt_state=None,
        stop_file=None,
    ):
        def batches(first):
            yield from [make_batch(rows=2, length=16, pairs=1)] * (4 - first)

        stage = stage_of(num_steps=4, step=step, batches=batches, evaluate=evaluate)
        cfg = LoopConfig(
            log_every_steps=8,
            eval_every_steps=2,
            checkpoint_every_steps=2,
            stop_file=stop_file,
        )
        return train_counting(
            tmp_path, tiny, cfg, [stage, stage], opt_state, judge_first=True
        )

    return train


def evaluations(run):
    lines = [line for line in read_metrics(run) if line["kind"] == "eval"]
    return [(line["step"], line["score"]) for line in lines]


WHOLE = [(0, 0.0), (2, 2.0), (4, 4.0), (6, 6.0), (8, 8.0)]


def test_the_weights_of_step_0_are_judged_and_the_time_is_estimated(
    train, tmp_path, capsys
):
    assert train().evaluation == {"score": 8.0}
    assert evaluations(tmp_path) == WHOLE
    said = capsys.readouterr().out
    assert said.index("held out at step 0:") < said.index("about 0:00 until step 4:")


def test_the_loop_judges_the_average_and_says_so(train, capsys):
    optimizer = with_average(optax.sgd(1.0), 0.5)

    @jax.jit
    def step(state, batch):
        grads = jax.tree.map(lambda x: -jnp.ones_like(x), state.params)
        updates, kept = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = TrainState(state.step + 1, params, kept, state.key)
        return new, {"loss": Mean(params["w"].sum(), jnp.ones(()))}

    trained = train(step=step, opt_state=optimizer.init({"w": jnp.zeros(4)}))
    # The parameters are the number of the update: of 8, 7, 6 ... with halved weights.
    weights = 0.5 ** np.arange(8)
    expected = np.average(np.arange(8, 0, -1), weights=weights)
    assert trained.evaluation["score"] == pytest.approx(expected, rel=1e-6)
    said = capsys.readouterr().out
    assert "held out at step 0:" in said
    assert "held out, averaged parameters, at step 8:" in said


@pytest.mark.parametrize("killed_at", [0, 2, 4, 6, 8])
def test_an_evaluation_that_a_kill_took_is_made_up(train, tmp_path, killed_at):
    """A kill between the checkpoint of a step and the evaluation of that step."""

    def evaluate(params):
        if params["w"][0] == killed_at:
            raise KilledError
        return {"score": float(params["w"][0])}

    with pytest.raises(KilledError):
        train(evaluate)
    assert evaluations(tmp_path) == [x for x in WHOLE if x[0] < killed_at]
    assert train().evaluation == {"score": 8.0}
    assert evaluations(tmp_path) == WHOLE


def test_a_damaged_newest_checkpoint_costs_the_steps_since_the_one_before(
    train, tmp_path, capsys
):
    whole = train()
    [file] = (tmp_path / "checkpoints/8/params/d").iterdir()
    file.write_bytes(b"")
    capsys.readouterr()
    again = train()
    said = capsys.readouterr().out
    assert f"step 8 is passed over, because it is damaged: {file}" in said
    assert "going on from step 6" in said
    jax.tree.map(np.testing.assert_array_equal, again.state, whole.state)
    assert evaluations(tmp_path) == WHOLE
    assert not list((tmp_path / "damaged").iterdir())


def test_a_directory_that_vanishes_ends_the_run_with_one_sentence(
    train, tmp_path, monkeypatch
):
    monkeypatch.setattr(run_lock, "_BEAT_SECS", 0.01)

    def move(params):
        if params["w"][0] == 0.0:
            tmp_path.rename(tmp_path.with_name("elsewhere"))
            time.sleep(0.3)
        return {"score": 1.0}

    with pytest.raises(
        OSError, match="was moved or deleted while it was being trained"
    ):
        train(evaluate=move)
    assert not tmp_path.exists()


def test_a_kill_after_an_evaluation_leaves_one_line_of_it(train, tmp_path):
    train()
    assert train().evaluation == {"score": 8.0}
    assert evaluations(tmp_path) == WHOLE


@pytest.mark.parametrize("where", ["params", "opt_state"])
def test_no_state_with_nan_is_saved(train, tmp_path, where):
    """The loss of a step is that of the weights before it, so it does not show this."""

    def bad_step(state, batch):
        new, metrics = counting_step(state, batch)
        broken = jax.tree.map(
            lambda x: jnp.where(new.step == 4, jnp.nan, x), getattr(new, where)
        )
        parts = vars(new) | {where: broken}
        return TrainState(**parts), metrics

    with pytest.raises(
        NotFiniteError, match=r"NaN or infinite at step 4\. This state was"
    ):
        train(step=jax.jit(bad_step))
    saved = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert saved == ["2"]


def test_a_score_that_is_no_number_ends_the_run(train, tmp_path):
    def evaluate(params):
        done = float(params["w"][0])
        return {"score": float("nan") if done == 2 else done}

    with pytest.raises(
        NotFiniteError, match="score is nan in the evaluation at step 2"
    ):
        train(evaluate)
    assert evaluations(tmp_path) == [(0, 0.0)]


def test_a_file_that_appears_stops_the_run_and_lets_the_next_one_go_on(
    train, tmp_path, monkeypatch
):
    monkeypatch.setattr("bert_jax.train.stop_request._LOOK_SECS", 0.0)
    notice = tmp_path / "notice"

    def evaluate(params):
        done = float(params["w"][0])
        if done == 2 and not notice.exists():
            notice.write_text("this machine ends soon")
        return {"score": done}

    with pytest.raises(InterruptedRunError, match="stopped at step 2 of 8"):
        train(evaluate, stop_file=notice)
    # The file is still there, and was not written again.
    assert train(evaluate, stop_file=notice).evaluation == {"score": 8.0}
    assert evaluations(tmp_path) == WHOLE


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_while_the_next_batch_is_planned_saves_at_once(
    train, tmp_path, number, monkeypatch
):
    """Planning an epoch of a large dataset takes minutes."""
    asked = loop.InputClock.__next__

    def planned(clock):
        clock.count = getattr(clock, "count", 0) + 1
        if clock.count == 4:
            os.kill(os.getpid(), number)
            for _ in range(1_000):
                time.sleep(0.01)
            pytest.fail("it went on planning")
        return asked(clock)

    monkeypatch.setattr(loop.InputClock, "__next__", planned)
    with pytest.raises(InterruptedRunError, match="stopped at step 3 of 8"):
        train()
    lines = [line["step"] for line in read_metrics(tmp_path) if line["kind"] != "eval"]
    assert lines == [2, 3]
    monkeypatch.undo()
    assert train().evaluation == {"score": 8.0}
    assert evaluations(tmp_path) == WHOLE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", [0, 2, 8])
def test_a_signal_stops_an_evaluation_at_once(train, tmp_path, number, when, capsys):
    def evaluate(params):
        if params["w"][0] == when:
            os.kill(os.getpid(), number)
            for _ in range(1_000):
                time.sleep(0.01)
            pytest.fail("the evaluation went on")
        return {"score": float(params["w"][0])}

    with pytest.raises(InterruptedRunError, match=f"stopped at step {when} of 8"):
        train(evaluate)
    assert "stopping now" in capsys.readouterr().out
    assert train().evaluation == {"score": 8.0}
    assert evaluations(tmp_path) == WHOLE
    assert json.loads((tmp_path / "goodput.json").read_text())
