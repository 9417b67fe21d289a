"""A newcomer's first small run, through the commands: what it says, and what it keeps."""

import contextlib
import itertools
import json
import os
import shutil
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from prepared_corpus import make_corpus, other_tokenizer, prepared
from small_pretraining import one_device, pretrain, pretrain_args  # noqa: F401

from bert_jax import cli
from bert_jax.runtime import process
from bert_jax.runtime.jax_settings import OURS
from bert_jax.train import planned_steps
from bert_jax.train import pretrain as pretraining
from bert_jax.train.monitoring.metrics import read_metrics
from bert_jax.train.planned_steps import PlannedSteps
from bert_jax.train.runs.history import load_history
from bert_jax.train.runs.run import load_run_config

CHANGE = ("--resume-with", "optimizer.learning-rate=1e-5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first_run")
    corpus = make_corpus(folder)
    prepared(corpus, folder / "dataset")
    prepared(corpus, folder / "other" / "dataset", validation_fraction=0.6)
    return folder


def evaluate(capsys, *args) -> tuple[str, dict[str, str]]:
    """What `evaluate` says beside its figures, and these as they are printed."""
    capsys.readouterr()
    cli.main(["evaluate", *map(str, args)])
    shown = capsys.readouterr()
    return shown.err, dict(line.split(": ") for line in shown.out.splitlines())


@pytest.fixture(scope="module")
def run(folder):
    """A finished run of eight steps, whose dataset was given as a relative path."""
    with contextlib.chdir(folder):
        pretrain("run", "--num-steps", 8, dataset="dataset")
    return folder / "run"


def test_the_first_line_is_that_of_random_weights(run):
    first = read_metrics(run)[0]
    assert (first["kind"], first["step"]) == ("eval", 0)
    assert first["mlm_loss"] == pytest.approx(3.78, abs=0.1)  # ln 44


def test_the_run_keeps_its_dataset_wherever_it_is_looked_at(run, folder, capsys):
    with contextlib.chdir(folder / "other"):
        said, figures = evaluate(capsys, run)
    assert f"held-out rows of {folder / 'dataset'} (the dataset of its train" in said
    last = read_metrics(run)[-1]
    assert figures["mlm_loss"] == f"{last['mlm_loss']:.6g}"
    said, others = evaluate(capsys, run, folder / "other" / "dataset")
    assert "(not the dataset of its training)" in said
    assert others != figures


def test_only_the_first_process_of_a_job_says_what_is_judged(run, capsys, monkeypatch):
    monkeypatch.setattr(process, "is_first", lambda: False)
    capsys.readouterr()
    cli.main(["evaluate", str(run)])
    # Elsewhere than in this test, standard output of such a process goes nowhere.
    assert "held-out rows" not in capsys.readouterr().err


def test_the_settings_that_are_kept_are_those_of_the_process_that_trains(
    folder, tmp_path, monkeypatch
):
    """Another command may start and be refused while the first one compiles."""
    prove = pretraining.prove_for_lengths
    flags = ("--num-steps", 4, "--loop.keep-checkpoints")

    def meanwhile(*args, **options):
        monkeypatch.setattr(pretraining, "prove_for_lengths", refuse)
        with pytest.raises(SystemExit):
            pretrain(tmp_path / "run", *flags, 2, *CHANGE, dataset=folder / "dataset")
        assert load_run_config(tmp_path / "run").loop.keep_checkpoints == 2
        prove(*args, **options)

    def refuse(*args, **options):
        raise ValueError("the run is being trained by the first one")

    monkeypatch.setattr(pretraining, "prove_for_lengths", meanwhile)
    pretrain(tmp_path / "run", *flags, 3, dataset=folder / "dataset")
    assert load_run_config(tmp_path / "run").loop.keep_checkpoints == 3
    assert not load_history(tmp_path / "run").events


def test_a_moved_run_is_judged_the_same(run, tmp_path, capsys):
    _, figures = evaluate(capsys, run)
    shutil.copytree(run, tmp_path / "moved")
    assert evaluate(capsys, tmp_path / "moved")[1] == figures


def test_a_moved_dataset_is_named_by_its_new_place(
    run, folder, tmp_path, capsys, refused
):
    moved = (folder / "dataset").rename(tmp_path / "moved")
    try:
        said = refused("evaluate", run)
        assert "moved, name its new place" in said
        assert f"`bert-jax evaluate {run} DATASET`" in said
        said, _ = evaluate(capsys, run, moved)
        assert f"rows of {moved} (the dataset of its training)" in said
        again = pretrain_args(run, "--num-steps", 8, dataset=folder / "dataset")
        assert "in pretraining with --data.dataset." in refused(*again)
        pretrain(run, "--num-steps", 8, dataset=moved)
        assert "nothing to do" in capsys.readouterr().out
    finally:
        moved.rename(folder / "dataset")
        pretrain(run, "--num-steps", 8, dataset=folder / "dataset")


def test_the_vocabulary_of_a_checkpoint_asks_for_its_tokenizer(
    run, folder, tmp_path, refused
):
    other_tokenizer().save(tmp_path / "tokenizer")
    source = f"files:{folder}/*.jsonl"
    prepared((source, [], tmp_path / "tokenizer"), tmp_path / "dataset")
    flags = (tmp_path / "run", "--num-steps", 1, "--checkpoint", run)
    said = refused(*pretrain_args(*flags, dataset=tmp_path / "dataset"))
    assert "vocab_size=44, but" in said
    assert f"`bert-jax prepare --tokenizer {run}` wrote" in said
    assert "--model.vocab-size" not in said


@pytest.mark.slow(ci=False)
def test_another_dataset_in_the_place_of_the_old_one_is_seen(
    folder, tmp_path, capsys, refused
):
    shutil.copytree(folder / "dataset", tmp_path / "dataset")
    pretrain(tmp_path / "run", "--num-steps", 1, dataset=tmp_path / "dataset")
    shutil.rmtree(tmp_path / "dataset")
    shutil.copytree(folder / "other" / "dataset", tmp_path / "dataset")
    assert "is not the dataset any more that" in refused("evaluate", tmp_path / "run")
    said, _ = evaluate(capsys, tmp_path / "run", tmp_path / "dataset")
    assert "(not the dataset of its training)" in said


def test_few_batches_are_judged_on_request(run, capsys):
    _, figures = evaluate(capsys, run)
    said, one = evaluate(capsys, run, "--batches", 1)
    assert "on 8 of" in said
    assert one != figures


@pytest.mark.slow(ci=False)
def test_no_setting_of_jax_changes_the_figures(run, capsys):
    _, figures = evaluate(capsys, run)
    others = {
        "jax_threefry_partitionable": False,
        "jax_default_prng_impl": "rbg",
        "jax_enable_x64": True,
        "jax_random_seed_offset": 7,
    }
    for name, value in others.items():
        jax.config.update(name, value)
        try:
            cli.main(["evaluate", str(run)])
        finally:
            jax.config.update(name, OURS[name])
        said = capsys.readouterr()
        assert f"{name}={value!r} is put aside" in said.err
        lines = said.out.splitlines()
        assert dict(line.split(": ") for line in lines) == figures


def test_one_held_out_document_is_refused_before_the_first_step(
    folder, tmp_path, capsys, refused
):
    """As when a source of whole books holds out one book."""
    dataset = held_out_one(folder / "tokenizer", tmp_path)
    few = (tmp_path / "run", "--num-steps", 2)
    said = refused(*pretrain_args(*few, dataset=dataset))
    assert "holds out too little text to evaluate on" in said
    assert "--validation-fraction" in said
    assert not (tmp_path / "run").exists()
    # Single segments can be judged within one document.
    pretrain(*few, "--data.pairs", "none", dataset=dataset)
    said = capsys.readouterr().out
    assert " segments in " in said
    for word in ("NSP", "pairs"):
        assert word not in said
    lines = read_metrics(tmp_path / "run")
    assert {line["kind"] for line in lines} == {"train", "eval"}
    assert not [name for line in lines for name in line if name.startswith("nsp")]


def test_plans_that_cannot_be_written_are_no_lack_of_held_out_text(
    folder, tmp_path, refused
):
    (tmp_path / "file").touch()
    flags = (tmp_path / "run", "--num-steps", 2, "--data.plan-dir", tmp_path / "file")
    said = refused(*pretrain_args(*flags, dataset=folder / "dataset"))
    assert "plans of epochs cannot be written to" in said
    assert "held out" not in said
    assert "holds out" not in said


def held_out_one(tokenizer, folder):
    """A dataset with one held-out document; which ones are held out follows a hash."""
    for number in range(4, 30):
        text = [f"The river was long, the stones old: {n}. " * 3 for n in range(number)]
        file, output = folder / f"{number}.txt", folder / f"dataset-{number}"
        file.write_text("\n\n".join(text))
        with contextlib.suppress(ValueError):
            made = prepared(
                (f"files:{file}", text, tokenizer), output, validation_fraction=0.05
            )
            if made["splits"]["validation"]["documents"] == 1:
                return output
    raise AssertionError("no corpus holds out one document")


def test_a_step_that_ends_in_nan_is_not_saved(folder, tmp_path, refused):
    rates = ("--optimizer.learning-rate", "1e38", "--optimizer.warmup-steps", "0")
    flags = (tmp_path / "run", "--num-steps", 1, *rates)
    said = refused(*pretrain_args(*flags, dataset=folder / "dataset"))
    assert " is nan in the evaluation at step 1" in said
    assert not (tmp_path / "run" / "results.json").exists()


CONSTANT = ("--optimizer.schedule", "constant", "--optimizer.warmup-steps", "2")


@pytest.mark.slow(ci=False)
def test_a_run_of_a_constant_rate_can_be_made_longer(folder, tmp_path, capsys, refused):
    dataset = folder / "dataset"
    pretrain(tmp_path / "run", "--num-steps", 4, *CONSTANT, dataset=dataset)
    pretrain(tmp_path / "run", "--num-steps", 8, *CONSTANT, dataset=dataset)
    assert "goes on to step 8 instead of 4" in capsys.readouterr().out
    pretrain(tmp_path / "whole", "--num-steps", 8, *CONSTANT, dataset=dataset)
    there, here = (
        json.loads((tmp_path / name / "results.json").read_text())
        for name in ("run", "whole")
    )
    assert (there["step"], there["eval"]) == (8, here["eval"])
    shorter = (tmp_path / "run", "--num-steps", 6, *CONSTANT)
    refused(*pretrain_args(*shorter, dataset=dataset))


def test_the_best_weights_are_kept_and_taken_on_request(
    folder, tmp_path, capsys, refused
):
    """With such a rate the loss is soon worse than at the start."""
    flags = ["--loop.eval-every-steps", 2, "--loop.checkpoint-every-steps", 2]
    flags += ["--optimizer.learning-rate", 0.5]
    run, dataset = tmp_path / "run", folder / "dataset"
    pretrain(run, "--num-steps", 6, "--keep-best", *flags, dataset=dataset)
    losses = {
        line["step"]: line["mlm_loss"]
        for line in read_metrics(run)
        if line["kind"] == "eval"
    }
    best = min(losses, key=losses.__getitem__)
    assert best < 6
    results = json.loads((run / "results.json").read_text())
    assert results["best"]["step"] == best
    assert results["eval"]["mlm_loss"] == losses[best]
    assert results["last"]["eval"]["mlm_loss"] == losses[6]
    said = capsys.readouterr().out
    assert f"that is the best state, of step {best}, and the last one has" in said
    _, figures = evaluate(capsys, run)
    assert figures["mlm_loss"] == f"{losses[best]:.6g}"
    further = ["--num-steps", 1, "--checkpoint", run]
    pretrain(tmp_path / "further", *flags, *further, dataset=dataset)
    first = read_metrics(tmp_path / "further")[0]
    assert first["mlm_loss"] == losses[6]  # goes on from the newest
    # Without a checkpoint of its own, it must not begin with random weights.
    shutil.rmtree(tmp_path / "further" / "checkpoints")
    (tmp_path / "further" / "results.json").unlink()
    flags = (tmp_path / "further", *flags, "--num-steps", 1)
    said = refused(*pretrain_args(*flags, dataset=dataset))
    assert f"Give --checkpoint {run} again" in said


def test_another_run_says_how_to_train_on(run, folder, refused):
    longer = pretrain_args(run, "--num-steps", 12, dataset=folder / "dataset")
    said = refused(*longer)
    assert "holds a run of 8 steps with 0 of warm-up and schedule 'linear'" in said
    assert f"--checkpoint {run} --moments keep --num-steps STEPS --output" in said


@pytest.mark.slow(ci=False)
def test_minutes_are_planned_once(folder, tmp_path, monkeypatch, capsys):
    dataset, plan = folder / "dataset", PlannedSteps(5, 0.5, 12.0)
    with monkeypatch.context() as patch:
        patch.setattr(planned_steps, "planned_steps", lambda cfg, minutes: plan)
        pretrain(tmp_path / "run", "--minutes", 0.4, dataset=dataset)
    assert "5 steps fit into 0.4 minutes: a step takes" in capsys.readouterr().out
    # Whoever measures again now takes too long.
    monkeypatch.setattr(planned_steps, "planned_steps", pytest.fail)
    pretrain(tmp_path / "run", "--minutes", 0.4, dataset=dataset)
    said = capsys.readouterr().out
    assert "was planned for 5 steps" in said
    assert "is finished at step 5; nothing to do" in said


def test_steps_fill_the_minutes():
    fitting = planned_steps._fitting
    cfg = cli.parse("pretrain", ["bert_tiny", "--output", "x"]).settings
    # 600 s less 3 %, 12 s to compile and two evaluations of 10 s leave 550 s for steps of
    # 0.5 s and an evaluation each 2,000 of them.
    assert fitting(cfg, 10.0, 0.5, 12.0, 10.0) == PlannedSteps(1_089, 0.5, 32.0)
    with pytest.raises(ValueError, match=r"time for 0 steps .* give 0.8 or more"):
        fitting(cfg, 0.5, 1.0, 12.0, 10.0)


def test_compiling_for_another_length_is_no_time_of_a_step(monkeypatch):
    """With buckets, it would make a step of a large model seem ten times as long."""
    monkeypatch.setattr(planned_steps, "_SECS", 0.0)
    lengths = itertools.chain([8, 16, 8, 32], itertools.repeat(16))
    batches = (SimpleNamespace(input_ids=np.zeros((2, n))) for n in lengths)
    seen = {8}

    def update(batch):
        length = batch.input_ids.shape[1]
        time.sleep(0.0 if length in seen else 0.2)
        seen.add(length)

    step_secs, compile_secs = planned_steps._timed(update, batches, (2, 8))
    assert compile_secs >= 0.4
    assert step_secs < 0.1


@pytest.mark.slow(ci=False)
def test_a_planned_run_takes_its_minutes(folder, tmp_path):
    pretrain(tmp_path / "run", "--minutes", 1, dataset=folder / "dataset")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert 30 < results["goodput"]["wall_secs"] < 75


def test_a_warmup_must_fit_the_planned_steps_alone(folder, tmp_path, monkeypatch):
    """It is longer than the 2,000 steps of the config, which do not count."""
    plan, begun = PlannedSteps(5_000, 0.5, 12.0), []
    monkeypatch.setattr(planned_steps, "planned_steps", lambda cfg, minutes: plan)
    monkeypatch.setattr(pretraining, "pretrain", lambda cfg, *_: begun.append(cfg))
    args = ["pretrain", "quickstart", "--data.dataset", str(folder / "dataset")]
    args += ["--minutes", "1", "--optimizer.warmup-steps", "3000"]
    cli.main([*args, "--output", str(tmp_path / "run")])
    assert [cfg.num_steps for cfg in begun] == [5_000]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--minutes", "1", "--num-steps", "5"), "--num-steps 5 would be ignored"),
        (("--minutes", "1"), "plans a run of one phase, and the config has 2"),
        (("--minutes", "nan"), "--minutes nan must be a finite number"),
    ],
)
def test_minutes_that_mean_nothing_are_refused(
    folder, tmp_path, flags, message, refused
):
    args = ["pretrain", "bert_base", "--output", str(tmp_path / "run"), *flags]
    assert message in refused(*args, "--data.dataset", folder / "dataset")
    assert os.listdir(tmp_path) == []
