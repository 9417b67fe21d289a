import json
import time

import jax
import jax.numpy as jnp
import pytest
from counting_training import KilledError, counting_step, stage_of, train_counting

from bert_jax.config import LoopConfig
from bert_jax.config_json import to_values
from bert_jax.data.json_file import write_json
from bert_jax.train.flops import Work
from bert_jax.train.loop import Stage
from bert_jax.train.monitoring.goodput import CATEGORIES
from bert_jax.train.monitoring.metrics import read_metrics
from bert_jax.train.runs.run import RunInfo

TOKENS = 1_000.0


@jax.jit
def step(state, batch):
    one = jnp.ones(())
    new, metrics = counting_step(state, batch)
    return new, {**metrics, "work": Work(TOKENS * one, one, 8 * one, one)}


@pytest.fixture
def run(tmp_path, tiny):
    info = RunInfo(kind="pretrain", model=tiny, tokenizer_sha256="0", data={})
    write_json(tmp_path / "run.json", to_values(info))
    write_json(tmp_path / "config.json", {})
    return tmp_path


@pytest.fixture
def train(run, tiny, make_batch):
    """train(cfg, kill_at=None): six steps in two stages of two shapes."""

    def train(cfg: LoopConfig, kill_at: int | None = None):
        def stage(start: int, num_steps: int, length: int) -> Stage:
            def batches(first):
                for number in range(first, num_steps):
                    if start + number == kill_at:
                        raise KilledError
                    yield make_batch(rows=2, length=length, pairs=1)

            return stage_of(
                num_steps=num_steps,
                step=step,
                batches=batches,
                evaluate=lambda params: {"score": float(params["w"].sum())},
                rates={"tokens_per_sec": "tokens", "sequences_per_sec": "sequences"},
                flops=lambda work: 5.0 * work.tokens,
            )

        return train_counting(run, tiny, cfg, [stage(0, 4, 16), stage(4, 2, 24)])

    return train


def test_lines_say_what_was_done_in_the_time(train, run):
    """The step that compiles is timed by nobody: a line of it alone has no speed."""
    train(LoopConfig(log_every_steps=1, peak_tflops=1e-6))
    lines = [line for line in read_metrics(run) if line["kind"] == "train"]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] for line in lines] == [0.0, 4.0, 8.0, 12.0, 16.0, 20.0]
    for line in lines:
        assert 0.0 < line["goodput"] < 1.0
        assert line["peak_host_bytes"] > 2**26
        assert line["input_wait_share"] >= 0.0
        if line["step"] in (1, 5):
            assert not {"tokens_per_sec", "mfu"} & line.keys()
        else:
            speed = line["tokens_per_sec"]
            assert speed > 0
            assert line["sequences_per_sec"] == pytest.approx(speed / 125)
            assert line["mfu"] == pytest.approx(5.0 * speed / 1e6)


def test_without_a_known_chip_or_a_peak_there_is_no_mfu(train, run):
    train(LoopConfig(log_every_steps=2))
    lines = read_metrics(run)
    assert "tokens_per_sec" in lines[0]
    assert not any("mfu" in line for line in lines)


def test_all_wall_time_is_accounted_for_after_a_kill_too(train, run):
    began = time.time()
    cfg = LoopConfig(
        log_every_steps=1,
        checkpoint_every_steps=2,
        eval_every_steps=3,
        profile_at_step=2,
    )
    with pytest.raises(KilledError):
        train(cfg, kill_at=5)
    killed = json.loads((run / "goodput.json").read_text())
    assert list(killed["marks"]) == ["0", "2", "4"]
    time.sleep(0.2)
    trained = train(cfg)
    wall = time.time() - began
    summary = trained.goodput
    seconds = {name: summary[f"{name}_secs"] for name in CATEGORIES}
    assert all(x > 0 for x in seconds.values())
    assert sum(seconds.values()) == pytest.approx(summary["wall_secs"])
    # Both clocks are of this process; between their readings next to nothing happens.
    assert summary["wall_secs"] == pytest.approx(wall, abs=0.5)
    assert seconds["lost"] > 0.2
    assert [line["step"] for line in read_metrics(run)] == [1, 2, 3, 3, 4, 4, 5, 6, 6]
    assert trained.evaluation == {"score": 24.0}
    assert trained.elapsed_secs < seconds["train"] + seconds["input_wait"] + 0.5


def test_a_trace_is_taken_and_its_steps_are_those_of_the_run(train, run):
    train(LoopConfig(profile_at_step=2, profile_steps=1))
    (trace,) = (run / "profile").rglob("*.xplane.pb")
    assert trace.stat().st_size > 0
    data = jax.profiler.ProfileData.from_file(str(trace))
    numbers = [
        dict(event.stats)["step_num"]
        for plane in data.planes
        for line in plane.lines
        for event in line.events
        if event.name == "train"
    ]
    assert numbers == [2]
