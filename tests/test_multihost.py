"""Jobs of two and four processes on CPU devices, with real collectives.

They are told of each other by flags, as `launch.local` does. What they reach is compared
with this one process and its eight devices.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jobs
import numpy as np
import pytest
from processes import is_running

from bert_jax.config import MeshConfig
from bert_jax.train import pretrain as pretraining
from bert_jax.train.finetune import finetune
from bert_jax.train.inference.evaluate import evaluate_run
from bert_jax.train.inference.predict import Predictor
from bert_jax.train.initial import load_params
from bert_jax.train.mesh import make_mesh
from bert_jax.train.pretrain import pretrain
from bert_jax.train.tensors import tensors_sha256

pytestmark = pytest.mark.slow

# Sums over rows and parts of a matrix are added in another order.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jobs")
    jobs.make_folder(folder)
    with contextlib.chdir(folder):
        yield folder


@pytest.fixture(scope="module")
def one(folder):
    """The run of this process alone."""
    cfg = jobs.pretrain_config()
    data = dataclasses.replace(cfg.data, dataset=pathlib.Path("dataset"))
    pretrain(dataclasses.replace(cfg, data=data), pathlib.Path("one"))
    return pathlib.Path("one")


@pytest.fixture(scope="module")
def four(folder):
    """The run of four processes: a matrix and the rows are split across them."""
    args = jobs.pretrain_args("four", "--mesh.fsdp", 2, "--mesh.tensor", 2)
    done = jobs.launched(folder, 4, 1, args)
    assert done.returncode == 0, done.stdout + done.stderr
    return pathlib.Path("four"), done


@pytest.fixture(scope="module")
def two(folder):
    """The run of two processes with two devices each."""
    done = jobs.launched(folder, 2, 2, jobs.pretrain_args("two", "--mesh.fsdp", 2))
    assert done.returncode == 0, done.stdout + done.stderr
    return pathlib.Path("two")


def params_sha256(run: pathlib.Path) -> str:
    return tensors_sha256(load_params(run, make_mesh(MeshConfig())).params)


def same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=TOLERANCE, err_msg=name)


@pytest.mark.slow(ci=False)
def test_four_processes_reach_the_losses_of_one(one, four):
    run, _ = four
    assert len(jobs.losses(one)) == jobs.NUM_STEPS
    same(jobs.losses(run), jobs.losses(one))
    results = [json.loads((x / "results.json").read_text()) for x in (run, one)]
    same(results[0]["eval"], results[1]["eval"])
    assert results[0]["device"] == "cpu x 4"
    guesses = [
        [token["guesses"][0] for token in example["tokens"] if token["guesses"]]
        for result in results
        for example in result["mask_examples"][:1]
    ]
    assert [piece for piece, _ in guesses[0]] == [piece for piece, _ in guesses[1]]


def test_two_processes_reach_the_losses_of_one(one, two):
    same(jobs.losses(two), jobs.losses(one))


@pytest.mark.slow(ci=False)
def test_two_processes_go_back_and_pass_by_what_one_does(folder, monkeypatch):
    args = jobs.pretrain_args("back2", "--mesh.fsdp", 2, config="spoiled_config")
    done = jobs.launched(folder, 2, 2, args)
    assert done.returncode == 0, done.stdout + done.stderr
    make = jobs.spoiled(pretraining.pretrain_program)
    monkeypatch.setattr(pretraining, "pretrain_program", make)
    cfg = jobs.pretrain_config()
    data = dataclasses.replace(cfg.data, dataset=pathlib.Path("dataset"))
    pretrain(dataclasses.replace(cfg, data=data), pathlib.Path("back1"))
    for run in map(pathlib.Path, ("back2", "back1")):
        (event,) = json.loads((run / "history.json").read_text())["events"]
        assert (event["noticed_at"], event["to"]) == (16, 10)
        assert event["passed_by"] == [10, 11, 12, 13, 14, 15]
    same(*(jobs.losses(pathlib.Path(name)) for name in ("back2", "back1")))


@pytest.mark.slow(ci=False)
def test_two_processes_stop_with_a_diagnosis(folder):
    args = jobs.pretrain_args(
        *("stop2", "--mesh.fsdp", 2, "--loop.max-rollbacks", 0), config="spoiled_config"
    )
    done = jobs.launched(folder, 2, 2, args)
    assert done.returncode == 1
    assert "stopped before batch 13: 3 updates in a row were skipped" in done.stderr
    # What spoils the batches is not there when the step is looked at.
    assert "All activations and gradients are finite here" in done.stderr
    with np.load(folder / "stop2" / "bad_step" / "batch.npz") as arrays:
        assert arrays["input_ids"].shape == (16, 32)


@pytest.mark.slow(ci=False)
def test_only_the_first_process_prints(four):
    _, done = four
    lines = done.stdout.splitlines()
    assert {line[:3] for line in lines} == {"[0]"}
    assert any(" joining the job: process 0 of 4 (flags, " in line for line in lines)
    assert any(" 4 processes with 1 x cpu each" in line for line in lines)
    assert len([x for x in lines if f" step       5/{jobs.NUM_STEPS} " in x]) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.slow(ci=False)
def test_a_checkpoint_of_four_is_judged_by_one(four):
    run, _ = four
    expected = json.loads((run / "results.json").read_text())["eval"]
    same(evaluate_run(run, None), expected)


@pytest.mark.slow(ci=False)
def test_a_checkpoint_of_one_is_judged_by_four(folder, one):
    done = jobs.launched(folder, 4, 1, ["evaluate", "one"])
    assert done.returncode == 0, done.stderr
    shown = [line[4:] for line in done.stdout.splitlines() if ": " in line[4:]]
    shown = dict(line.split(": ") for line in shown if "joining" not in line)
    expected = json.loads((one / "results.json").read_text())["eval"]
    same({name: float(value) for name, value in shown.items()}, expected)


def test_one_stopped_process_stops_all_and_the_run_goes_on(folder, two):
    args = jobs.pretrain_args("stopped", "--mesh.fsdp", 2)
    first, second = members = jobs.hosts(folder, [args] * 2, devices=2)
    with first, second:
        for line in first.stdout:
            if line.startswith(f"step       3/{jobs.NUM_STEPS}"):
                os.kill(second.pid, signal.SIGTERM)
                break
        ends = [member.communicate(timeout=200) for member in members]
    for number, (member, (_, errors)) in enumerate(zip(members, ends, strict=True)):
        assert member.returncode == 130, errors
        assert f"process {number} of 2: stopped at step " in errors
        assert "Traceback" not in errors
    assert not pathlib.Path("stopped/results.json").exists()

    done = jobs.launched(folder, 2, 2, args)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[0] going on from step" in done.stdout
    assert params_sha256(pathlib.Path("stopped")) == params_sha256(two)
    assert jobs.losses(pathlib.Path("stopped")) == jobs.losses(two)


@pytest.mark.slow(ci=False)
def test_fine_tuning_in_four_processes(folder, four):
    run, _ = four
    done = jobs.launched(folder, 4, 1, jobs.finetune_args("tuned4", str(run)))
    assert done.returncode == 0, done.stdout + done.stderr
    alone = finetune(
        dataclasses.replace(jobs.finetune_config(), checkpoint=run),
        pathlib.Path("tuned1"),
    )
    together = json.loads(pathlib.Path("tuned4/results.json").read_text())
    same(jobs.losses(pathlib.Path("tuned4")), jobs.losses(pathlib.Path("tuned1")))
    same(together["eval"], alone["eval"])
    assert together["encoder"] == alone["encoder"]  # its hash too
    predictors = [Predictor(pathlib.Path(name)) for name in ("tuned4", "tuned1")]
    texts = [("River stones.",), ("The letters in the garden.",)]
    for one, other in zip(*(predict(texts) for predict in predictors), strict=True):
        same(one["probabilities"], other["probabilities"])

    judged = jobs.launched(folder, 2, 2, ["evaluate", "tuned4"])
    assert judged.returncode == 0, judged.stderr
    assert f"[0] accuracy: {together['eval']['accuracy']:.6g}" in judged.stdout


def outcomes(members: list[subprocess.Popen[str]]) -> list[str]:
    """What the processes of a job that fails say; none may hang."""
    errors = [member.communicate(timeout=300)[1] for member in members]
    for member, text in zip(members, errors, strict=True):
        assert member.returncode == 1, text
        assert "Traceback" not in text
        assert "terminate called" not in text
    return errors


def test_a_host_with_other_settings_and_data_is_named_by_all(folder):
    same_args = jobs.pretrain_args("differ")
    other = jobs.pretrain_args("differ", "--seed", "1", dataset="other")
    members = jobs.hosts(folder, [same_args, same_args, other])
    for number, error in enumerate(outcomes(members)):
        assert f"process {number} of 3: pretrain: The processes of this job" in error
        for fact in ("seed is 1 on process 2 (", "dataset_sha256 is "):
            assert fact in error
        assert "and 0 elsewhere" in error
    assert not pathlib.Path("differ").exists()


def test_a_host_that_fails_alone_ends_the_others(folder):
    args = jobs.pretrain_args("alone")
    broken = jobs.pretrain_args("alone", dataset="nowhere")
    first, second = outcomes(jobs.hosts(folder, [args, broken]))
    assert "process 1 of 2: pretrain: nowhere" in second
    host = socket.gethostname()
    assert f"process 0 of 2: process 1 ({host}) failed: nowhere" in first


def test_a_host_that_is_killed_is_named_by_the_other(folder):
    args = jobs.pretrain_args("killed", "--num-steps", 100_000)
    first, second = jobs.hosts(folder, [args] * 2)
    with first, second:
        for line in first.stdout:
            if line.startswith("step       3/"):
                second.kill()
                break
        said = first.communicate(timeout=200)[1]
        second.communicate()
    assert first.returncode == 134  # launch/supervise.sh starts the job again
    assert "process 1 (" in said
    assert "it was killed, or its connection broke" in said


def test_a_mistake_in_the_first_process_is_told_by_all(folder):
    taken = folder / "taken"
    taken.mkdir()
    (taken / "something").touch()
    errors = outcomes(jobs.hosts(folder, [jobs.pretrain_args("taken")] * 2))
    for error in errors:
        assert "taken is not empty and holds no run" in error


def outcomes_apart(folder: pathlib.Path, apart: pathlib.Path, args) -> list[str]:
    """What two processes say; the second one works in a folder of its own."""
    shared = ("dataset", "*_config.py", "*.tsv")
    for path in (path for pattern in shared for path in folder.glob(pattern)):
        (apart / path.name).symlink_to(path)
    port = jobs.local.free_port()
    return outcomes(
        [
            subprocess.Popen(
                [
                    *(sys.executable, "-c", SHORT_WAIT, *args),
                    *jobs.local.cluster_flags(port, 2, number),
                ],
                cwd=where,
                env=jobs.local.environment(port, 1),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number, where in enumerate((folder, apart))
        ]
    )


def test_a_run_directory_that_is_not_shared_is_refused(folder, tmp_path):
    (tmp_path / "mine").mkdir()
    (folder / "mine").mkdir()
    for error in outcomes_apart(folder, tmp_path, jobs.pretrain_args("mine")):
        assert "a file that process 0 wrote is there on process 0" in error
        assert "not there on process 1" in error
        assert "storage that all hosts share" in error


def test_hosts_whose_encoders_have_other_weights_are_refused(folder, tmp_path, one):
    cfg = jobs.pretrain_config()
    data = dataclasses.replace(cfg.data, dataset=pathlib.Path("dataset"))
    pretrain(dataclasses.replace(cfg, data=data, seed=1), tmp_path / "start")
    (folder / "start").symlink_to(one.absolute())
    args = jobs.finetune_args(str(folder / "mixed"), "start")
    for error in outcomes_apart(folder, tmp_path, args):
        assert "differ in the checkpoint start/checkpoints/24: the sha256 of" in error
        assert "give all of them the same files" in error


# A minute and a half is for NFS.
SHORT_WAIT = """
import sys
from bert_jax import cli
from bert_jax.train.runs import run_start
run_start._VISIBLE_SECS = 1.0
cli.main(sys.argv[1:])
"""


def test_the_processes_end_with_their_launcher(folder):
    args = jobs.pretrain_args("orphans", "--num-steps", 100_000)
    root = str(pathlib.Path(__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-m", "launch.local", "--processes", "2", "--", *args],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as launcher:
        launcher.stdout.readline()  # process 0 is joining
        children = pathlib.Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
        pids = [int(pid) for pid in children.read_text().split()]
        assert len(pids) == 2
        launcher.kill()
    deadline = time.monotonic() + 60
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_exit_code_of_the_first_that_fails(folder):
    args = ["evaluate", "nowhere"]
    done = jobs.launched(folder, 2, 1, args)
    assert done.returncode == 1
    assert "of 2: evaluate: nowhere is not a run directory" in done.stderr
    assert "of 2 ended first, with exit code 1\n" in done.stderr
