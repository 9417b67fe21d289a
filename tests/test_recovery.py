"""A run that goes back to a checkpoint, passes batches by, or stops with a diagnosis."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_training import NUM_STEPS, toy, train

from bert_jax.config import LoopConfig
from bert_jax.train.monitoring.metrics import NotFiniteError, read_metrics
from bert_jax.train.monitoring.watch import GoBackError, StepNumbers, Watch
from bert_jax.train.runs.history import load_history
from bert_jax.train.tensors import tensors_sha256

ROW = dict.fromkeys((13, 14, 15), "input")


def events(run):
    return [
        {name: x for name, x in event.items() if name != "reason"}
        for event in json.loads((run / "history.json").read_text())["events"]
    ]


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return train(tmp_path_factory.mktemp("clean"))


@pytest.fixture(scope="module")
def gone_back(tmp_path_factory):
    run = tmp_path_factory.mktemp("back")
    return run, train(run, ROW)


def test_three_bad_batches_in_a_row_and_those_before_are_passed_by(gone_back, clean):
    run, found = gone_back
    assert events(run) == [
        {
            "kind": "rollback",
            "noticed_at": 16,
            "to": 8,
            "passed_by": [10, 11, 12, 13, 14, 15],
        }
    ]
    assert found.evaluation["mse"] == pytest.approx(clean.evaluation["mse"], rel=0.5)
    assert int(found.state.step) == NUM_STEPS
    steps = [x["step"] for x in read_metrics(run) if x["kind"] == "train"]
    assert steps == [4, 8, 12, 20, 24]  # of 12 to 16, all batches are passed by


def test_no_time_is_foretold_where_only_batches_were_passed_by(tmp_path, capsys):
    train(tmp_path, dict.fromkeys((3, 4, 5), "input"))
    seconds = re.findall(r"the first steps took (\S+) s each", capsys.readouterr().out)
    assert len(seconds) == 2  # of the run, and after it went back to its beginning
    assert all(float(x) < 60 for x in seconds)


@pytest.mark.parametrize("kill_at", [12, 22])
def test_a_killed_run_makes_the_same_decisions(tmp_path, gone_back, kill_at):
    run, whole = gone_back
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, ROW, kill_at=kill_at)
    again = train(tmp_path, ROW)
    assert tensors_sha256(again.state) == tensors_sha256(whole.state)
    assert again.evaluation == whole.evaluation
    assert events(tmp_path) == events(run)


def test_a_row_goes_on_over_a_checkpoint_and_a_kill(tmp_path):
    row = dict.fromkeys((6, 7, 8), "gradient")
    whole = train(tmp_path / "whole", row)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", row, kill_at=9)
    again = train(tmp_path / "killed", row)
    assert tensors_sha256(again.state) == tensors_sha256(whole.state)
    for name in ("whole", "killed"):
        assert [(x["to"], x["passed_by"]) for x in events(tmp_path / name)] == [
            (8, [8])
        ]


@pytest.mark.parametrize(("max_rollbacks", "num_rollbacks"), [(2, 2), (20, 3)])
def test_after_so_many_times_it_stops_and_says_where_the_numbers_go_wrong(
    tmp_path, max_rollbacks, num_rollbacks
):
    """Of 20 times it goes back three: the fourth would pass by most of its batches."""
    row = dict.fromkeys(range(9, NUM_STEPS), "gradient")
    with pytest.raises(NotFiniteError) as error:
        train(tmp_path, row, max_rollbacks=max_rollbacks, parts=toy(8))
    said = str(error.value)
    assert len(events(tmp_path)) == num_rollbacks
    assert "3 updates in a row were skipped" in said
    assert "Backward, the loss is finite" in said
    assert (
        "the first on the way back from it is that of nsp/kernel (8 of 8 numbers), and"
        in said
    )
    assert f"`bert-jax replay {tmp_path}` repeats its step" in said
    assert "--resume-with optimizer.learning-rate=" in said
    with np.load(tmp_path / "bad_step" / "batch.npz") as arrays:
        assert arrays["edge"].tolist().count(0.0) == 1
    # The same command stops in the same way; it goes back no more.
    with pytest.raises(NotFiniteError, match="Backward, the loss is finite"):
        train(tmp_path, row, max_rollbacks=max_rollbacks, parts=toy(8))
    assert len(events(tmp_path)) == num_rollbacks


@jax.jit
def broken(state):
    params = jax.tree.map(lambda x: x.at[0].set(jnp.nan), state.params)
    return dataclasses.replace(state, params=params)


@pytest.mark.parametrize("at", [11, 15])
def test_a_weight_that_was_lost_once_heals(tmp_path, clean, at, capsys):
    """At 15, the checkpoint is due before another step can notice it."""
    calls = []

    def step(state, batch):
        state, metrics = toy().step(state, batch)
        calls.append(None)
        return (broken(state) if len(calls) == at + 1 else state), metrics

    found = train(tmp_path, step=step)
    assert len(events(tmp_path)) == 1
    assert np.isfinite(found.evaluation["mse"])
    if at == 15:
        assert tensors_sha256(found.state) == tensors_sha256(clean.state)
        assert "The first is embed/token/embedding (8 of 32 numbers), and" in (
            load_history(tmp_path).events[0].reason
        )


def test_a_spike_is_passed_by_and_its_rule_survives_a_kill(tmp_path):
    """The weights are thrown far off by one batch, and only by that."""
    parts = toy()

    def step(state, batch):
        is_odd = int(state.step) == 18
        state, metrics = parts.step(state, batch)
        if is_odd:
            params = jax.tree.map(lambda x: 30.0 * x, state.params)
            state = dataclasses.replace(state, params=params)
        return state, metrics

    rule = {"spike_deviations": 8.0, "spike_window": 6}
    whole = train(tmp_path / "whole", step=step, **rule)
    assert [(x["to"], x["passed_by"]) for x in events(tmp_path / "whole")] == [
        (16, [18, 19])
    ]
    assert (
        "the loss of batch 19 is " in load_history(tmp_path / "whole").events[0].reason
    )
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", step=step, kill_at=17, **rule)
    again = train(tmp_path / "killed", step=step, **rule)
    assert tensors_sha256(again.state) == tensors_sha256(whole.state)


@pytest.mark.parametrize("kill_at", [None, 13])
def test_a_stage_with_higher_losses_is_no_spike(tmp_path, kill_at):
    rule = {"spike_deviations": 8.0, "spike_window": 6, "harder_from": 12}
    if kill_at:
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, kill_at=kill_at, **rule)
    found = train(tmp_path, **rule)
    assert int(found.state.step) == NUM_STEPS
    assert load_history(tmp_path).events == ()
    losses = [x["mse"] for x in read_metrics(tmp_path) if x["kind"] == "train"]
    assert losses[3] > 10 * losses[2]  # it would be one within a stage


def test_the_rule_for_spikes_is_off_unless_asked_for_and_needs_a_full_window():
    watch = Watch(LoopConfig())
    for loss in (1.0, 1.0, 1e9):
        watch.judge(0, StepNumbers(loss, 1.0))
    cfg = LoopConfig(spike_deviations=3.0, spike_window=4)
    watch = Watch(cfg)
    for number, loss in enumerate((1.0, 9.0, 2.0, 3.0)):
        watch.judge(number, StepNumbers(loss, 1.0))
    # Median 2.5, distances 1.5, 6.5, 0.5, 0.5: the limit is 2.5 + 3 x 1.4826 x 1.
    Watch(cfg, watch.notes).judge(4, StepNumbers(6.9, 1.0))
    with pytest.raises(
        GoBackError, match=r"is 7, more than 3 deviations of 1\.48 above 2\.5"
    ):
        watch.judge(4, StepNumbers(7.0, 1.0))


def test_a_damaged_history_is_named(tmp_path):
    (tmp_path / "history.json").write_text('{"format_version": 1, "ev')
    with pytest.raises(ValueError, match=r"history\.json is damaged.*Restore it"):
        load_history(tmp_path)
