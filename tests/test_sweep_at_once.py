"""Sweeps whose runs train at once: each is the run that it would be alone."""

import dataclasses
import json
import os
import re
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from small_pretraining import one_device  # noqa: F401
from small_sweeps import (
    GRID,
    base_settings,  # noqa: F401
)

from bert_jax.config import (
    SweepConfig,
)
from bert_jax.data.json_file import read_json
from bert_jax.train.finetune import finetune
from bert_jax.train.held_out_logits import load_logits
from bert_jax.train.inference.predict import Predictor
from bert_jax.train.losses import Mean
from bert_jax.train.runs.run import load_run, load_run_tokenizer
from bert_jax.train.runs.run_lock import RunLock
from bert_jax.train.stop_request import InterruptedRunError
from bert_jax.train.sweeps import at_once as sweep_at_once
from bert_jax.train.sweeps.grid import load_member_data, members_of
from bert_jax.train.sweeps.sweep import _Runs, sweep


@pytest.fixture(scope="module")
def swept(base, tmp_path_factory):
    """A sweep of two seeds and two learning rates, all four runs at once."""
    output = tmp_path_factory.mktemp("swept") / "sweep"
    return output, sweep(dataclasses.replace(GRID, keep_weights=True), base, output)


@pytest.mark.slow(ci=False)
def test_runs_at_once_are_those_of_lone_runs(base, swept, tmp_path):
    """With dropout, and with batches of several lengths."""
    output, results = swept
    assert len(results["runs"]) == 4
    # Another seed and another rate than those of the first, whose settings all share.
    for entry in results["runs"][3:]:
        rate = entry["learning_rate"]
        cfg = dataclasses.replace(
            base,
            optimizer=dataclasses.replace(base.optimizer, learning_rate=rate),
            seed=entry["seed"],
        )
        alone = finetune(cfg, tmp_path / f"{entry['seed']}")
        at_once = json.loads((output / entry["run"] / "results.json").read_text())
        assert (at_once["at_once"], at_once["step"]) == (4, alone["step"])
        for name in ("labels", "initial", "confusion", "num_train", "constant"):
            assert at_once[name] == alone[name]
        # Five updates of float32 in another order of additions; the logits are near 1.
        np.testing.assert_allclose(
            load_logits(output / entry["run"]),
            load_logits(tmp_path / f"{entry['seed']}"),
            atol=2e-5,
        )
        lines = [
            [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
            for run in (output / entry["run"], tmp_path / f"{entry['seed']}")
        ]
        for ours, theirs in zip(*lines, strict=True):
            assert (ours["kind"], ours["step"]) == (theirs["kind"], theirs["step"])
            assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
            assert ours.get("learning_rate") == theirs.get("learning_rate")


@pytest.mark.slow(ci=False)
def test_a_member_predicts_and_all_runs_are_listed(base, swept, capsys):
    output, results = swept
    assert read_json(output / "results.json", "") == results
    member = output / results["runs"][1]["run"]
    assert member == output / "runs/lr-0.001_epochs-1/seed-1"
    predictor = Predictor(member)
    examples = predictor.task.read(base.task.dev, base.task, "validation")
    found = predictor.logits(predictor.encode(examples))
    np.testing.assert_allclose(found, load_logits(member), atol=1e-6)
    for entry in results["settings"]:
        scores = [
            run["eval"]["accuracy"]
            for run in results["runs"]
            if run["learning_rate"] == entry["learning_rate"]
        ]
        assert entry["mean"]["accuracy"] == pytest.approx(np.mean(scores))
        assert entry["std"]["accuracy"] == pytest.approx(np.std(scores, ddof=1))
    means = [entry["mean"]["accuracy"] for entry in results["settings"]]
    best = results["settings"][int(np.argmax(means))]
    assert results["chosen"]["learning_rate"] == best["learning_rate"]
    # The same command again trains nothing, and shows the table again.
    capsys.readouterr()
    again = sweep(dataclasses.replace(GRID, keep_weights=True), base, output)
    assert again["runs"] == results["runs"]
    said = capsys.readouterr().out
    assert "4 of them finished; about 0 steps to come" in said
    assert re.search(r"^0.005 +1 +1 +\d+\.\d%", said, re.M)
    assert re.search(r"^0.005 +1 +mean of 2 +\d+\.\d% ± \d+\.\d%", said, re.M)
    assert "which flatters its score" in said


@pytest.mark.slow(ci=False)
def test_one_of_the_runs_at_once_diverges(base, tmp_path):
    rates = (1e-3, 1e30)
    grid = SweepConfig(seeds=(0,), learning_rates=rates, at_once=2)
    results = sweep(grid, base, tmp_path / "sweep")
    assert [x["num_failed"] for x in results["settings"]] == [0, 1]
    assert (
        "NaN" in results["runs"][1]["failure"] or "nan" in results["runs"][1]["failure"]
    )
    assert np.isfinite(results["runs"][0]["eval"]["loss"])


@pytest.mark.slow(ci=False)
def test_as_many_runs_as_fit(base, tmp_path, monkeypatch):
    tokenizer = load_run_tokenizer(base.checkpoint)
    first = members_of(GRID, base)[0]
    data = load_member_data(GRID, first, base, tokenizer)
    part = _Runs(GRID, base, tmp_path, tokenizer, data).part(first)
    size = sweep_at_once.AtOnce([part], tokenizer).bytes_of_one()
    num_params = (
        load_run(base.checkpoint).model.vocab_size * 32
    )  # the token table alone
    assert size > 3 * 4 * num_params  # with two moments
    for limit, expected in ((5.5 * size, 5), (0.5 * size, 1)):
        monkeypatch.setattr(
            sweep_at_once, "device_memory", lambda _, x=limit: int(x / 0.8)
        )
        assert sweep_at_once.number_that_fits(part, tokenizer) == expected
    monkeypatch.setattr(sweep_at_once, "device_memory", lambda _: None)
    assert sweep_at_once.number_that_fits(part, tokenizer) == 1


def stub_group(base, folder, losses):
    """Runs at once whose steps only report these losses, one for each run."""
    parts = []
    for number in range(len(losses)):
        (folder / f"{number}").mkdir()
        parts.append(sweep_at_once.Part(base, folder / f"{number}", None))

    def step(number, state, batch):
        loss = Mean(jnp.array(losses)[number], jnp.ones(()))
        return state + 1, {"loss": loss}

    return SimpleNamespace(
        cfg=base,
        parts=parts,
        data=SimpleNamespace(num_steps=5),
        step=step,
        schedules=[lambda step: 0.1] * len(losses),
        first_states=lambda: jnp.zeros(len(losses)),
        batch=lambda step: jnp.zeros(len(losses)),
    )


def test_runs_at_once_stop_at_a_signal(base, tmp_path):
    group = stub_group(base, tmp_path, [0.5, 0.6])
    with pytest.raises(InterruptedRunError, match=r"stopped at step 1 of 5 .* anew\."):
        sweep_at_once._train(group, lambda: True)


def test_runs_at_once_hold_their_locks(base, tmp_path, monkeypatch):
    seen = []

    def train(group, must_stop):
        for part in group.parts:
            with pytest.raises(
                ValueError, match=f"is being trained by .* {os.getpid()}"
            ):
                finetune(part.cfg, part.run)
            monkeypatch.setattr(RunLock, "check", lambda self: seen.append(self))
            must_stop()
        raise InterruptedRunError

    monkeypatch.setattr(sweep_at_once, "_train", train)
    with pytest.raises(InterruptedRunError):
        sweep(dataclasses.replace(GRID, at_once=2), base, tmp_path / "sweep")
    assert len(set(seen)) == 2


def test_one_of_the_runs_at_once_is_lost(base, tmp_path, capsys):
    group = stub_group(base, tmp_path, [0.5, np.nan, 0.7])
    states, failures = sweep_at_once._train(group, lambda: False)
    assert states.tolist() == [5.0] * 3
    assert failures.keys() == {1}
    assert "loss is nan within the 2 steps before step 2" in str(failures[1])
    said = capsys.readouterr().out
    assert "step       5/5 of 3 runs at once  loss 0.500 to 0.700  0:00 left" in said
    lines = (tmp_path / "2/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 5]
    assert not (tmp_path / "1/metrics.jsonl").read_text()


def test_runs_with_other_numbers_of_choices_are_not_trained_at_once(base):
    shapes = set()
    for num_choices in (2, 3):
        rows = SimpleNamespace(input_ids=np.zeros((4, num_choices, 8), np.int32))
        data = SimpleNamespace(epochs=(), outputs=("1", "2", "3"), train_rows=rows)
        shapes.add(sweep_at_once.Part(base, None, data).shape)
    assert len(shapes) == 2
