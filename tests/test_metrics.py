import sys
import types

import jax
import jax.numpy as jnp
import pytest
from conftest import IN_CI

from benchmarks import same_run
from bert_jax.config import FinetuneConfig, LoopConfig, PretrainConfig
from bert_jax.data.json_file import read_json, write_json
from bert_jax.train.finetune import finetune
from bert_jax.train.flops import Work
from bert_jax.train.losses import Mean
from bert_jax.train.monitoring import metrics
from bert_jax.train.monitoring.metrics import (
    MetricsLog,
    NotFiniteError,
    Window,
    means_of,
    peak_memory,
    read_metrics,
)
from bert_jax.train.monitoring.sinks import WeightsAndBiases, check_sinks, shown_points
from bert_jax.train.pretrain import pretrain


@pytest.fixture
def run(tmp_path):
    """A run directory with its settings."""
    write_json(tmp_path / "config.json", {"model": {"num_layers": 3}})
    return tmp_path


@pytest.fixture(scope="module")
def wandb():
    """The real package."""
    try:
        import wandb
    except ModuleNotFoundError:
        if IN_CI:
            raise
        pytest.skip("install .[wandb]")
    return wandb


def mean(total: float, weight: float) -> Mean:
    return Mean(jnp.float32(total), jnp.float32(weight))


def write_steps(log: MetricsLog, *steps: int) -> None:
    for step in steps:
        log.write("train", step, {"loss": 9.0 - step, "elapsed_secs": 2.0 * step})
    log.close()


def events(run) -> bytes:
    return b"".join(x.read_bytes() for x in (run / "tensorboard").glob("events.*"))


def test_a_line_goes_to_the_file_and_to_tensorboard(run):
    log = MetricsLog(run, 0, LoopConfig())
    write_steps(log, 1, 2)
    assert read_metrics(run) == [
        {"kind": "train", "step": 1, "loss": 8.0, "elapsed_secs": 2.0},
        {"kind": "train", "step": 2, "loss": 7.0, "elapsed_secs": 4.0},
    ]
    assert events(run).count(b"train/loss") == 2
    assert not (run / "wandb").exists()


def test_tensorboard_is_caught_up_from_the_file_without_doubles(run):
    """A kill takes what TensorBoard writes some seconds late."""
    log = MetricsLog(run, 0, LoopConfig())
    log.write("eval", 0, {"score": 1.0})
    write_steps(log, 1, 2, 3, 4, 5)
    (path,) = (run / "tensorboard").glob("events.*")
    whole = path.read_bytes()
    third = whole.index(b"train/loss", 3 * whole.index(b"train/loss") // 3)
    for _ in range(2):  # of step 3
        third = whole.index(b"train/loss", third + 1)
    path.write_bytes(whole[: third + 4])  # in the middle of a record

    # Step 5 came after the checkpoint of step 4, and is repeated.
    log = MetricsLog(run, 4, LoopConfig())
    log.write("eval", 0, {"score": 1.0})  # as the loop does with an evaluation owed
    write_steps(log, 5, 6)
    expected = {("eval/score", 0)} | {
        (f"train/{name}", step)
        for name in ("loss", "elapsed_secs")
        for step in range(1, 7)
    }
    assert shown_points(run / "tensorboard") == expected
    assert events(run).count(b"train/loss") == 6  # 2 that were left, and 4
    assert events(run).count(b"eval/score") == 1


def test_a_damaged_file_of_tensorboard_does_not_keep_a_run_from_going_on(run):
    write_steps(MetricsLog(run, 0, LoopConfig()), 1, 2, 3)
    (path,) = (run / "tensorboard").glob("events.*")
    content = bytearray(path.read_bytes())
    content[content.rindex(b"train/loss") - 1] ^= 0xFF  # the length of the name
    path.write_bytes(content)
    write_steps(MetricsLog(run, 3, LoopConfig()), 4)
    shown = shown_points(run / "tensorboard")
    assert {("train/loss", step) for step in range(1, 5)} <= shown


def test_a_session_that_is_killed_before_its_first_line_leaves_no_doubles(run):
    """It has emptied the file of lines, and its event of the new beginning is lost."""

    def session():
        log = MetricsLog(run, 0, LoopConfig())
        log.write("eval", 0, {"score": 1.0})
        write_steps(log, 1, 2)

    session()
    first = set((run / "tensorboard").iterdir())
    MetricsLog(run, 0, LoopConfig()).close()
    assert (run / "metrics.jsonl").read_bytes() == b""
    (killed,) = set((run / "tensorboard").iterdir()) - first
    killed.unlink()
    session()
    points = dict(same_run._points(run))
    assert points["steps of train/loss"] == [1, 2]
    assert points["steps of eval/score"] == [0]


def test_tensorboard_hides_what_a_resumed_run_repeats(run):
    write_steps(MetricsLog(run, 0, LoopConfig()), 1, 2, 3, 4)
    MetricsLog(run, 2, LoopConfig()).close()
    shown = shown_points(run / "tensorboard")
    assert {step for _, step in shown} == {1, 2}


def test_a_resumed_run_drops_what_it_repeats(run):
    write_steps(MetricsLog(run, 0, LoopConfig()), 1, 2, 3)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # and the kill came
    log = MetricsLog(run, 2, LoopConfig())
    assert log.elapsed_before == 4.0
    write_steps(log, 3)
    assert [line["step"] for line in read_metrics(run)] == [1, 2, 3]


def test_other_hosts_write_nothing(run, monkeypatch):
    """They learn from the first how long was trained before."""
    monkeypatch.setattr(metrics, "on_first_host", lambda what, function: 12.5)
    log = MetricsLog(run, 0, LoopConfig(wandb_project="p"))
    write_steps(log, 1)
    assert log.elapsed_before == 12.5
    assert [path.name for path in run.iterdir()] == ["config.json"]


def test_a_window_divides_sums_once_and_adds_up_work():
    window = Window()
    for total, weight in ((6.0, 3.0), (1.0, 1.0)):
        window.add({"loss": mean(total, weight), "work": Work(10.0, weight, 2.0, 4.0)})
    assert len(window) == 2
    sums = window.close(2)
    assert sums.means == {"loss": 7.0 / 4.0}
    assert sums.work == Work(20.0, 4.0, 4.0, 8.0)
    assert sums.num_timed == 2
    assert sums.seconds > 0
    assert len(window) == 0


def test_work_of_many_steps_keeps_every_token():
    """Each step's count is exact in float32, their sum is not."""
    window = Window()
    odd = 2.0**24 - 1
    for _ in range(3):
        window.add({"work": Work(*map(jnp.float32, (odd, 0.0, 0.0, 0.0)))})
    assert window.close(3).work.tokens == 3 * odd


def test_steps_that_count_no_work_have_none():
    window = Window()
    window.add({"loss": mean(1.0, 1.0)})
    assert window.close(1).work is None


def test_a_step_whose_time_is_left_out_counts_in_means_but_in_no_speed():
    window = Window()
    window.add({"loss": mean(1.0, 1.0), "work": Work(5.0, 5.0, 5.0, 5.0)})
    window.leave_out(100.0)
    window.add({"loss": mean(3.0, 1.0), "work": Work(7.0, 7.0, 7.0, 7.0)})
    sums = window.close(2)
    assert sums.means == {"loss": 2.0}
    assert sums.work == Work(7.0, 7.0, 7.0, 7.0)
    assert sums.num_timed == 1
    assert sums.seconds < -90
    window.add({"loss": mean(3.0, 1.0), "work": Work(7.0, 7.0, 7.0, 7.0)})
    window.leave_out(0.0)
    assert window.close(3).work is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_mean_that_is_not_finite_ends_the_run(value):
    window = Window()
    window.add({"loss": mean(value, 1.0)})
    with pytest.raises(NotFiniteError, match=r"loss is .* 1 steps before step 7"):
        window.close(7)


def test_means_without_weight_are_zero():
    assert means_of([{"nsp_loss": mean(0.0, 0.0)}] * 2) == {"nsp_loss": 0.0}


def test_peak_memory_is_of_the_process_and_of_the_fullest_device(monkeypatch):
    here = peak_memory()
    assert 2**26 < here["peak_host_bytes"] < 2**40
    assert "peak_device_bytes" not in here  # this machine's do not report it
    devices = [
        types.SimpleNamespace(
            memory_stats=lambda peak=peak: {"peak_bytes_in_use": peak}
        )
        for peak in (7, 9, 8)
    ]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert peak_memory()["peak_device_bytes"] == 9


def test_wandb_gets_every_line_and_a_resumed_run_goes_on_in_its_run(
    wandb, run, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for first in (0, 1):
        log = MetricsLog(run, first, LoopConfig(wandb_project="berts"))
        write_steps(log, first + 1, first + 2)
    stored = sorted((run / "wandb").glob("offline-run-*/*.wandb"))
    assert len(stored) == 2
    (name,) = {path.name for path in stored}
    (number,) = read_json(run / "wandb.json", "").values()
    assert name == f"run-{number}.wandb"
    for path in stored:
        assert path.read_bytes().count(b"train/loss") >= 2
        assert b"num_layers" in path.read_bytes()


def test_another_project_is_another_wandb_run(wandb, run, monkeypatch):
    given = []

    class Fake:
        def define_metric(self, *args, **options): ...

    monkeypatch.setattr(wandb, "init", lambda **x: given.append(x) or Fake())
    for project in ("a", "b", "a"):
        WeightsAndBiases(run, project)
    first, second, third = ((x["project"], x["id"]) for x in given)
    assert first == third != second
    assert first[1] != second[1]
    assert given[0]["config"] == {"model": {"num_layers": 3}}


def test_wandb_that_does_not_start_is_an_error_of_the_user(wandb, run, monkeypatch):
    def refuse(**options):
        raise wandb.errors.UsageError("No API key configured.")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(ValueError, match=r"No API key configured\. Log in with"):
        MetricsLog(run, 0, LoopConfig(wandb_project="p"))


def test_wandb_that_is_not_installed_is_noticed_before_anything_is_begun(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    check_sinks(LoopConfig())
    with pytest.raises(ValueError, match=r"'p' needs the package wandb.*\[wandb\]"):
        check_sinks(LoopConfig(wandb_project="p"))


@pytest.mark.parametrize(
    ("command", "cfg"), [(pretrain, PretrainConfig), (finetune, FinetuneConfig)]
)
def test_commands_look_for_wandb_first(tmp_path, monkeypatch, command, cfg):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="needs the package wandb"):
        command(cfg(loop=LoopConfig(wandb_project="p")), tmp_path / "run")
    assert not list(tmp_path.iterdir())
