"""Sweeps: grids, runs at once, folds, shots, going on, and the comparison of two of them."""

import dataclasses
import json
import os
import re
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from bare_runs import bare_run
from prepared_corpus import WORDS
from small_pretraining import one_device  # noqa: F401

from bert_jax import cli
from bert_jax.config import (
    FinetuneConfig,
    LoopConfig,
    OptimizerConfig,
    SweepConfig,
    TaskConfig,
)
from bert_jax.data.json_file import read_json
from bert_jax.data.labelled.draws import fold_numbers
from bert_jax.data.labelled.texts import LabelledTexts
from bert_jax.train import finetune as finetuning
from bert_jax.train import loop
from bert_jax.train.finetune import finetune
from bert_jax.train.held_out_logits import load_logits
from bert_jax.train.inference.predict import Predictor
from bert_jax.train.losses import Mean
from bert_jax.train.monitoring.metrics import WAY_OUT, NotFiniteError
from bert_jax.train.runs.results_file import load_results
from bert_jax.train.runs.run import load_run, load_run_config, load_run_tokenizer
from bert_jax.train.runs.run_lock import RunLock
from bert_jax.train.stop_request import InterruptedRunError
from bert_jax.train.sweeps import at_once as sweep_at_once
from bert_jax.train.sweeps.compare import compare
from bert_jax.train.sweeps.grid import load_member_data, members_of
from bert_jax.train.sweeps.summary import spread
from bert_jax.train.sweeps.sweep import _Runs, sweep
from bert_jax.train.task_files import read_held_out
from bert_jax.train.tasks import task_of


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Settings of short runs on short and long texts, from random weights."""
    folder = tmp_path_factory.mktemp("sweep")
    checkpoint = bare_run(folder)
    rng = np.random.default_rng(0)
    for name, count in (("train", 40), ("dev", 24)):
        rows = [rng.choice(WORDS, n) for n in rng.choice([2, 10], count)]
        lines = [f"{' '.join(row)}\t{row[0] < 'n'}\n" for row in rows]
        (folder / f"{name}.tsv").write_text(f"text\tlabel\n{''.join(lines)}")
    return FinetuneConfig(
        checkpoint=checkpoint,
        from_scratch=True,
        task=TaskConfig(train=folder / "train.tsv", dev=folder / "dev.tsv"),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=0.1),
        loop=LoopConfig(log_every_steps=2, eval_every_steps=0),
        sequence_length=48,
        batch_size=8,
        num_epochs=1,
    )


@pytest.fixture
def quick(monkeypatch):
    """Runs that are begun and finished as always, with random answers in place of training."""

    def answers(cfg, run, data):
        mesh = finetuning.make_mesh(cfg.mesh)
        model = load_run(cfg.checkpoint).model
        tokenizer = load_run_tokenizer(cfg.checkpoint)
        finetuning.begin_run(cfg, run, data, model, tokenizer, mesh)
        if finished := load_results(run):
            return finished
        if cfg.optimizer.learning_rate > 1:
            raise NotFiniteError(f"loss is nan before step 5. {WAY_OUT}")
        rng = np.random.default_rng((cfg.seed, len(data.train)))
        ids = data.held_out_rows.input_ids
        shapes = {
            "choice": ids.shape[:2],
            "embeddings": (*ids.shape[:2], 4),
            "spans": (*ids.shape, 2),
        }
        of_texts = len(ids), len(data.outputs)
        logits = rng.normal(size=shapes.get(data.task.name, of_texts))
        judged = data.judged(logits)
        scores = data.task.scores(judged)
        return finetuning.finish_run(
            cfg, run, data, judged, step=5, evaluation=scores, elapsed_secs=1.0
        )

    monkeypatch.setattr("bert_jax.train.sweeps.sweep.finetune", answers)


GRID = SweepConfig(seeds=(0, 1), learning_rates=(1e-3, 5e-3), at_once=4)


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
    results = sweep(SweepConfig(seeds=(0, 1), epochs=(1, 2)), base, output)
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
        with pytest.raises(InterruptedRunError, match="stopped at step 3 of 5"):
            sweep(grid, base, tmp_path / "sweep")
    first = tmp_path / "sweep/runs/lr-0.001_epochs-1/seed-0"
    before = (first / "results.json").stat().st_mtime_ns
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


def test_every_example_is_judged_once_over_the_folds(base, quick, tmp_path, capsys):
    task = dataclasses.replace(base.task, dev=None)
    folded = dataclasses.replace(base, task=task)
    grid = SweepConfig(seeds=(0,), folds=2)
    results = sweep(grid, folded, tmp_path / "sweep")
    assert [run["num_validation"] for run in results["runs"]] == [20, 20]
    assert [run["num_train"] for run in results["runs"]] == [20, 20]
    [setting] = results["settings"]
    pooled = setting["out_of_fold"]["by_seed"]["0"]
    # Accuracy is a mean over examples, so that of all folds is the mean of equal folds.
    each = [run["eval"]["accuracy"] for run in results["runs"]]
    assert pooled["accuracy"] == pytest.approx(np.mean(each))
    assert setting["mean"]["accuracy"] == pytest.approx(np.mean(each))
    said = capsys.readouterr().out
    assert re.search(r"^0.001 +1 +all folds, 1 seeds +\d", said, re.M)
    cli.main(["compare", str(tmp_path / "sweep"), str(tmp_path / "sweep")])
    said = capsys.readouterr().out
    assert "all 2 folds together" in said
    assert "40 examples" in said
    run = tmp_path / "sweep" / results["runs"][0]["run"]
    cfg, info = load_run_config(run), load_run(run)
    with pytest.raises(ValueError, match="was judged on one fold of"):
        read_held_out(task_of(cfg), cfg.task, info.data["validation"])
    with pytest.raises(ValueError, match=r"--dev .* would be ignored: with --folds 2"):
        sweep(grid, base, tmp_path / "other")


def unlike_folds(base, folder, kind):
    """Settings of a sweep whose folds differ in more than their texts."""
    words = WORDS[:8]
    if kind == "choice":  # one example has a choice more than the others
        rows = [{"context": w, "choices": ["a", "b"], "label": "B"} for w in words]
        rows[0]["choices"].append("c")
    elif kind == "embeddings":
        rows = [{"anchor": w, "positive": f"a {w}"} for w in words]
    else:  # one question has no answer
        rows = [
            {"context": w, "qas": [{"id": w, "question": "which", "answers": [answer]}]}
            for w in words
            for answer in [{"text": w, "answer_start": 0}]
        ]
        rows[0]["qas"][0] |= {"answers": [], "is_impossible": True}
        rows = [{"data": [{"title": "", "paragraphs": rows}], "version": "v2.0"}]
    suffix = "json" if kind == "spans" else "jsonl"
    file = folder / f"all.{suffix}"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return dataclasses.replace(base, task=TaskConfig(kind=kind, train=file))


def test_folds_with_fewer_choices_are_judged_together(base, quick, tmp_path):
    cfg = unlike_folds(base, tmp_path, "choice")
    results = sweep(SweepConfig(seeds=(0,), folds=4), cfg, tmp_path / "sweep")
    [setting] = results["settings"]
    pooled = setting["out_of_fold"]["by_seed"]["0"]
    for name in ("accuracy", "loss"):
        each = [run["eval"][name] for run in results["runs"]]
        assert pooled[name] == pytest.approx(np.mean(each))


def test_what_one_fold_alone_has_gets_no_mean(base, quick, tmp_path, capsys):
    cfg = unlike_folds(base, tmp_path, "spans")
    results = sweep(SweepConfig(seeds=(0,), folds=3), cfg, tmp_path / "sweep")
    [setting] = results["settings"]
    score = "unanswerable_accuracy"
    assert sum(score in run["eval"] for run in results["runs"]) == 1
    assert score not in setting["mean"]
    assert score in setting["out_of_fold"]["by_seed"]["0"]
    assert "accuracy of those without" in capsys.readouterr().out


def test_vectors_of_several_encoders_are_not_compared(base, quick, tmp_path):
    cfg = unlike_folds(base, tmp_path, "embeddings")
    output = tmp_path / "sweep"
    [setting] = sweep(SweepConfig(seeds=(0,), folds=3), cfg, output)["settings"]
    assert "mrr" in setting["mean"]
    assert "out_of_fold" not in setting
    with pytest.raises(ValueError, match="each fold are of another encoder"):
        compare(output, output)


@pytest.mark.parametrize("seed", [0, 1])
def test_folds_keep_classes_and_what_belongs_together(seed):
    rng = np.random.default_rng(seed)
    classes = tuple(rng.choice(["a", "b", "c"], 83, p=[0.6, 0.3, 0.1]).tolist())
    examples = LabelledTexts(tuple((f"text {n}",) for n in range(83)), classes)
    folds = fold_numbers(examples, 5, seed, classes)
    assert np.ptp(np.bincount(folds, minlength=5)) <= 1
    for name in "abc":
        of_class = np.bincount(folds[np.array(classes) == name], minlength=5)
        assert np.ptp(of_class) <= 1
    assert (folds != fold_numbers(examples, 5, seed + 1, classes)).any()
    assert (folds == fold_numbers(examples, 5, seed, classes)).all()
    twice = examples.take(np.repeat(np.arange(83), 2))
    pairs = fold_numbers(twice, 5, seed).reshape(83, 2)
    assert (pairs[:, 0] == pairs[:, 1]).all()
    assert np.ptp(np.bincount(pairs[:, 0], minlength=5)) <= 1
    with pytest.raises(ValueError, match="--folds 9 needs as many examples"):
        fold_numbers(examples.take(np.arange(5)), 9, seed)


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
