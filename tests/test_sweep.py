"""Sweeps: grids, shots, going on, and the comparison of two of them."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from prepared_corpus import WORDS
from small_pretraining import one_device  # noqa: F401
from small_sweeps import GRID, base_settings, quick_runs  # noqa: F401

from bert_jax import cli
from bert_jax.config import (
    SweepConfig,
    TaskConfig,
)
from bert_jax.runtime import compile_cache
from bert_jax.train import loop
from bert_jax.train.finetune import finetune
from bert_jax.train.held_out_logits import load_logits
from bert_jax.train.inference.predict import Predictor
from bert_jax.train.stop_request import InterruptedRunError
from bert_jax.train.sweeps.compare import compare
from bert_jax.train.sweeps.grid import members_of
from bert_jax.train.sweeps.summary import spread
from bert_jax.train.sweeps.sweep import sweep


def test_other_settings_and_hidden_runs_are_refused(base, quick, tmp_path):
    output = tmp_path / "sweep"
    sweep(dataclasses.replace(GRID, at_once=1), base, output)
    with pytest.raises(
        ValueError, match="2 runs that are not in this grid, such as runs"
    ):
        sweep(dataclasses.replace(GRID, seeds=(0,)), base, output)
    with pytest.raises(ValueError, match="other settings: batch_size is 8 there"):
        sweep(GRID, dataclasses.replace(base, batch_size=16), output)
    on_the_way = dataclasses.replace(base.loop, eval_every_steps=3)
    judged = dataclasses.replace(base, loop=on_the_way)
    with pytest.raises(ValueError, match=r"--at-once 4: LoopConfig.eval_every_steps=3"):
        sweep(dataclasses.replace(GRID, seeds=(0, 1, 2)), judged, output)


def test_finished_runs_stay_and_a_larger_grid_adds_runs(base, quick, tmp_path, capsys):
    output = tmp_path / "sweep"
    sweep(SweepConfig(seeds=(0,)), base, output)
    first = output / "runs/lr-0.001_epochs-1/seed-0/results.json"
    before = first.stat().st_mtime_ns
    capsys.readouterr()
    (output / "results.json.partial-1").touch()  # of a process that was killed
    results = sweep(SweepConfig(seeds=(0, 1), epochs=(1, 2)), base, output)
    assert {x.name for x in output.iterdir()} == {"results.json", "runs"}
    assert first.stat().st_mtime_ns == before
    assert [x["num_runs"] for x in results["settings"]] == [2, 2]
    said = capsys.readouterr().out
    plan = "4 runs (2 settings x 2 seeds), 1 of them finished; about 25 steps to come"
    assert plan in said
    assert re.search(r"about \d+:\d\d left for 20 more steps", said)
    tied = "2 of 2 settings tie with the largest mean accuracy; learning rate 0.001, 1 "
    assert f"{tied}epochs is taken. It was chosen on the examples" in said
    with pytest.raises(ValueError, match="was finished without keeping its weights"):
        sweep(SweepConfig(seeds=(0, 1), epochs=(1, 2), keep_weights=True), base, output)


@pytest.mark.slow(ci=False)
def test_one_at_a_time_is_a_lone_run_bit_by_bit_and_goes_on(
    base, tmp_path, monkeypatch
):
    grid = SweepConfig(seeds=(0, 1), at_once=1)
    with monkeypatch.context() as patch:
        patch.setattr(
            loop._Loop,
            "_must_stop",
            lambda self: "seed-1" in str(self.run) and self.done >= 3,
        )
        # As if it had been killed before it removed the weights of the first run.
        patch.setattr("bert_jax.train.sweeps.sweep._remove_weights", lambda run: None)
        with pytest.raises(InterruptedRunError, match="stopped at step 3 of 5"):
            sweep(grid, base, tmp_path / "sweep")
    first = tmp_path / "sweep/runs/lr-0.001_epochs-1/seed-0"
    before = (first / "results.json").stat().st_mtime_ns
    assert (first / "checkpoints").exists()
    sweep(grid, base, tmp_path / "sweep")
    assert (first / "results.json").stat().st_mtime_ns == before
    assert not (first / "checkpoints").exists()
    finetune(dataclasses.replace(base, seed=1), tmp_path / "alone")
    there, here = (
        load_logits(run) for run in (first.with_name("seed-1"), tmp_path / "alone")
    )
    np.testing.assert_array_equal(there, here)
    with pytest.raises(FileNotFoundError, match="holds no checkpoints"):
        Predictor(first)


def test_each_seed_draws_its_own_shots(base, quick, tmp_path):
    task = dataclasses.replace(base.task, shots=3)
    few = dataclasses.replace(base, task=task)
    results = sweep(SweepConfig(seeds=(0, 1)), few, tmp_path / "sweep")
    assert [run["num_train"] for run in results["runs"]] == [6, 6]
    hashes = {
        json.loads((tmp_path / "sweep" / run["run"] / "run.json").read_text())["data"][
            "train"
        ]
        for run in results["runs"]
    }
    assert len(hashes) == 2


def test_runs_that_cut_long_texts_at_different_places_are_compared(
    base, quick, tmp_path
):
    """With --shots, each seed may find another length of its rows."""
    lengths = [2, 2, 2, 2, 30, 30]
    for name, sizes in (("train", lengths), ("dev", [40, 3, 40])):
        lines = [f"{' '.join([WORDS[n]] * k)}\t{n % 2}" for n, k in enumerate(sizes)]
        (tmp_path / f"{name}.tsv").write_text("\n".join(["text\tlabel", *lines]))
    files = {name: tmp_path / f"{name}.tsv" for name in ("train", "dev")}
    task = TaskConfig(**files, shots=1)
    cfg = dataclasses.replace(
        base, task=task, sequence_length=None, long_texts="windows"
    )
    output = tmp_path / "sweep"
    results = sweep(SweepConfig(seeds=tuple(range(4))), cfg, output)
    runs = [output / entry["run"] for entry in results["runs"]]
    assert len({load_logits(run).shape for run in runs}) > 1
    found = compare(output, output, resamples=50)["metrics"]["accuracy"]
    assert found["a"] == pytest.approx(results["settings"][0]["mean"]["accuracy"])


def test_a_run_that_diverges_is_listed_and_not_chosen(base, quick, tmp_path, capsys):
    grid = SweepConfig(seeds=(0,), learning_rates=(1e-3, 5.0))
    results = sweep(grid, base, tmp_path / "sweep")
    # A sweep has no --resume-with.
    assert results["runs"][1]["failure"] == "loss is nan before step 5."
    assert [x["num_failed"] for x in results["settings"]] == [0, 1]
    assert results["chosen"]["learning_rate"] == 1e-3
    said = capsys.readouterr().out
    assert re.search(r"^5 +1 +0 +failed", said, re.M)
    assert "1 runs failed; their setting cannot be chosen." in said


def test_what_a_grid_refuses(base):
    with pytest.raises(ValueError, match=r"seeds=\(1, 1\) names a value twice"):
        SweepConfig(seeds=(1, 1))
    with pytest.raises(ValueError, match="folds=1 is too few"):
        SweepConfig(folds=1)
    with pytest.raises(ValueError, match="equal up to six digits"):
        members_of(SweepConfig(learning_rates=(1e-3, 1.0000001e-3)), base)
    with pytest.raises(ValueError, match=r"num_epochs=0 must be greater"):
        members_of(SweepConfig(epochs=(0,)), base)
    names = [str(x.path) for x in members_of(SweepConfig(epochs=(1, 2)), base)]
    assert len(set(names)) == 6
    assert spread([{"f1": 0.5}]) == {"mean": {"f1": 0.5}, "std": {"f1": None}}


def test_the_grid_is_read_from_flags(base):
    flags = (
        "--seeds 0 1 --learning-rates 2e-5 5e-5 --epochs 3 4 --folds 5 --keep-weights"
    )
    command = cli.parse(
        "sweep", [str(base.checkpoint), *flags.split(), "--output", "x"]
    )
    assert command.sweep == SweepConfig(
        seeds=(0, 1),
        learning_rates=(2e-5, 5e-5),
        epochs=(3, 4),
        folds=5,
        keep_weights=True,
    )
    assert command.settings.checkpoint == base.checkpoint
    with pytest.raises(ValueError, match="holds a single run; choose another"):
        sweep(GRID, base, base.checkpoint)


def test_the_command_refuses_flags_of_a_single_run(base, tmp_path, refused):
    assert "--seed sets a single run; a sweep takes --seeds" in refused(
        "sweep", base.checkpoint, "--output", tmp_path / "x", "--seed", "3"
    )


def test_a_refused_sweep_leaves_no_directory(base, tmp_path, refused, monkeypatch):
    """With one device, where compiled programs are kept in it; with what it held before."""

    def use(directory, devices):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "program").touch()

    monkeypatch.setattr(compile_cache, "use_compile_cache", use)
    monkeypatch.setattr(jax, "devices", lambda: jax.local_devices()[:1])
    output = tmp_path / "x"
    command = ("sweep", base.checkpoint, "--output", output)
    assert "learning_rate=0.0 must be" in refused(*command, "--learning-rates", "0")
    assert not output.exists()
    (output / "mine").mkdir(parents=True)
    assert "seed=-1 is not in" in refused(*command, "--seeds", "-1")
    assert (output / "mine").exists()


@pytest.mark.parametrize(
    "command", [("compare", "a", "b"), ("import", "a", "--output", "b")]
)
@pytest.mark.parametrize("seed", [-1, 2**70])
def test_a_seed_is_a_number_of_32_bits(refused, command, seed):
    assert f".seed={seed} is not in [0, 2**32)" in refused(*command, "--seed", seed)


def test_two_sweeps_are_compared(base, quick, tmp_path, capsys):
    output = tmp_path / "sweep"
    results = sweep(dataclasses.replace(GRID, at_once=1), base, output)
    run = output / results["runs"][0]["run"]
    cli.main(["compare", str(output), str(run), "--resamples", "300"])
    said = capsys.readouterr().out
    assert re.search(r"^A: .*, 2 seeds$", said, re.M)
    assert re.search(r"^accuracy +\d+\.\d% +\d+\.\d% +[+-]\d+\.\d% ", said, re.M)
    assert "24 examples, 300 resamples" in said
    assert "single run does not show how much its seed matters" in said
    file = tmp_path / "found.json"
    cli.main(["compare", str(run), str(run), "--output", str(file)])
    found = json.loads(file.read_text())["metrics"]["accuracy"]
    assert (found["difference"], found["p_value"]) == (0.0, 1.0)
    with pytest.raises(FileNotFoundError, match="expected a finished run"):
        cli.main(["--debug", "compare", str(run), str(tmp_path)])


def test_other_examples_are_not_compared(base, quick, tmp_path):
    dev = tmp_path / "dev.tsv"
    dev.write_text("text\tlabel\nriver\tTrue\nstone\tFalse\n")
    other = dataclasses.replace(base, task=dataclasses.replace(base.task, dev=dev))
    grid = SweepConfig(seeds=(0, 1))
    a, b = tmp_path / "a", tmp_path / "b"
    sweep(grid, base, a)
    sweep(grid, other, b)
    with pytest.raises(ValueError, match="were judged on different examples"):
        cli.main(["--debug", "compare", str(a), str(b)])
    dev.write_text("text\tlabel\nriver\tTrue\n")
    with pytest.raises(ValueError, match="has changed: its examples have SHA-256"):
        cli.main(["--debug", "compare", str(a), str(b)])


def test_a_compile_cache_that_was_asked_for_stays(base, tmp_path, monkeypatch):
    monkeypatch.setattr("bert_jax.train.sweeps.sweep.sweep", lambda *_: None)
    monkeypatch.setattr(
        "bert_jax.runtime.compile_cache.use_compile_cache", lambda *_: None
    )
    cache = tmp_path / "sweep/compiled"
    cache.mkdir(parents=True)
    flags = [str(base.checkpoint), "--output", str(tmp_path / "sweep")]
    cli.parse("sweep", [*flags, "--compile-cache", str(cache)]).run()
    assert cache.is_dir()
    cli.parse("sweep", flags).run()
    assert not cache.exists()
