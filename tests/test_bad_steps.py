"""Updates that are not made because loss or gradients are not finite."""

import dataclasses

import jax
import numpy as np
import pytest
from toy_training import OPTIMIZER, batch, init_params, objective, toy, train

from bert_jax.train import step as steps
from bert_jax.train.monitoring.metrics import read_metrics
from bert_jax.train.optimizer import RULES, make_optimizer
from bert_jax.train.schedules import make_schedule
from bert_jax.train.step import init_state, train_step

FAULTS = ("input", "gradient", "weight")


def with_nan(params):
    changed = jax.tree.map(np.array, params)
    changed["layers"]["mlp"]["up"]["kernel"][1, 2, 3] = np.nan
    return changed


@pytest.mark.parametrize(
    ("rule", "dtype", "platform"),
    [
        *((rule, "float32", "cpu") for rule in RULES),
        ("adamw", "bfloat16", "cpu"),
        ("adamw", "float32", "gpu"),
    ],
)
def test_a_bad_step_changes_nothing_but_the_step_and_the_rate(
    rule, dtype, platform, monkeypatch
):
    """The program for accelerators is another one; it is run here on a CPU."""
    monkeypatch.setattr(steps, "platform", lambda: platform)
    cfg = dataclasses.replace(OPTIMIZER, name=rule)
    optimizer = make_optimizer(cfg, make_schedule(cfg, 20))
    step = jax.jit(lambda s, b: train_step(objective(dtype), optimizer, s, b))
    good, _ = step(init_state(init_params, optimizer, 0), batch(0))
    for fault in FAULTS:
        before = good
        if fault == "weight":
            before = dataclasses.replace(good, params=with_nan(good.params))
        after, metrics = step(before, batch(1, fault))
        assert not np.isfinite(metrics["grad_norm"].sum)
        assert np.isfinite(metrics["loss"].sum) == (fault == "gradient")
        changed = [
            path
            for (path, one), other in zip(
                jax.tree_util.tree_leaves_with_path(before),
                jax.tree.leaves(after),
                strict=True,
            )
            if not np.array_equal(one, other, equal_nan=True)
        ]
        names = [jax.tree_util.keystr(path) for path in changed]
        assert names == [".step", ".opt_state['update']['rate'].count"]
        assert after.step == before.step + 1


def test_three_bad_batches_are_skipped_logged_and_hardly_cost_anything(
    tmp_path, capsys
):
    parts = toy(8, "bfloat16")
    long = {"num_steps": 160, "log_every_steps": 40, "checkpoint_every_steps": 80}
    clean = train(tmp_path / "clean", parts=parts, **long)
    faults = {5: "input", 71: "gradient", 72: "input"}
    found = train(tmp_path / "bad", faults, parts=parts, **long)
    assert clean.evaluation["mse"] < 1.3
    assert found.evaluation["mse"] == pytest.approx(clean.evaluation["mse"], rel=0.01)
    lines = read_metrics(tmp_path / "bad")
    skipped = [line for line in lines if line["kind"] == "skipped"]
    assert [(x["step"], x["rows"]) for x in skipped] == [
        (6, [5]),
        (72, [71]),
        (73, [72]),
    ]
    assert skipped[0]["found"].startswith("loss nan, norm of the gradients nan")
    means = [line["mse"] for line in lines if line["kind"] == "train"]
    assert len(means) == 4
    assert np.isfinite(means).all()
    assert capsys.readouterr().out.count("update skipped, loss") == 3
    assert not (tmp_path / "bad" / "history.json").exists()
