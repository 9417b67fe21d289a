import json

import pytest

from bert_jax.data.json_file import write_json
from bert_jax.train.monitoring.goodput import CATEGORIES, Goodput


class Clock:
    """Whole seconds, so that sums are exact."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def spent(goodput: Goodput) -> dict[str, float]:
    """Seconds of each category that has some; they add up to the wall time."""
    summary = goodput.summary()
    seconds = {name: summary[f"{name}_secs"] for name in CATEGORIES}
    assert sum(seconds.values()) == summary["wall_secs"]
    assert summary["share"] == seconds["train"] / summary["wall_secs"]
    return {name: x for name, x in seconds.items() if x}


def test_all_time_of_a_session_goes_to_one_category_each(tmp_path, clock):
    goodput = Goodput(tmp_path, began=990.0, clock=clock)
    clock.pass_by(5)
    goodput.go_on(0)
    with goodput.during("compile"):
        clock.pass_by(30)
    clock.pass_by(103)
    with goodput.during("input_wait"):
        clock.pass_by(7)
    with goodput.during("evaluate"):
        clock.pass_by(20)
        with goodput.during("checkpoint"):
            clock.pass_by(2)
        clock.pass_by(1)
    assert spent(goodput) == {
        "start_up": 15,
        "compile": 30,
        "train": 103,
        "input_wait": 7,
        "evaluate": 21,
        "checkpoint": 2,
    }
    assert goodput.share() == 103 / 178
    assert goodput.summary()["wall_secs"] == clock.now - 990


def test_an_error_inside_ends_its_category(tmp_path, clock):
    goodput = Goodput(tmp_path, began=clock.now, clock=clock)
    goodput.go_on(0)

    @goodput.during("evaluate")
    def fail() -> None:
        clock.pass_by(3)
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    clock.pass_by(4)
    assert spent(goodput) == {"evaluate": 3, "train": 4}


def test_a_kill_loses_what_came_after_the_checkpoint_and_the_time_until_the_restart(
    tmp_path, clock
):
    first = Goodput(tmp_path, began=clock.now, clock=clock)
    clock.pass_by(10)
    first.go_on(0)
    clock.pass_by(96)
    with first.during("input_wait"):
        clock.pass_by(4)
    first.mark(50)
    with first.during("checkpoint"):
        clock.pass_by(6)
    clock.pass_by(39)
    with first.during("input_wait"):
        clock.pass_by(1)
    with first.during("evaluate"):
        clock.pass_by(8)
    first.save()
    clock.pass_by(3)  # and the kill comes, unseen
    clock.pass_by(500)

    second = Goodput(tmp_path, began=clock.now, clock=clock)
    clock.pass_by(12)
    second.go_on(50)
    clock.pass_by(60)
    # The evaluation was made and is in the metrics; the steps around it were not kept.
    assert spent(second) == {
        "start_up": 22,
        "train": 96 + 60,
        "input_wait": 4,
        "checkpoint": 6,
        "evaluate": 8,
        "lost": 40 + 3 + 500,
    }
    assert second.summary()["wall_secs"] == clock.now - 1_000


def test_a_checkpoint_that_was_never_finished_saves_nothing(tmp_path, clock):
    first = Goodput(tmp_path, began=clock.now, clock=clock)
    first.go_on(0)
    clock.pass_by(10)
    first.mark(100)
    clock.pass_by(20)
    first.mark(200)
    for _ in range(2):  # and the same again: nothing is lost twice
        again = Goodput(tmp_path, began=clock.now, clock=clock)
        again.go_on(100)
        assert spent(again) == {"train": 10, "lost": 20}
    clock.pass_by(5)
    again.mark(200)
    clock.pass_by(1)
    again.save()
    last = Goodput(tmp_path, began=clock.now, clock=clock)
    last.go_on(200)
    assert spent(last) == {"train": 15, "lost": 21}


def test_without_a_checkpoint_all_steps_are_lost(tmp_path, clock):
    first = Goodput(tmp_path, began=clock.now, clock=clock)
    first.go_on(0)
    clock.pass_by(10)
    first.save()
    second = Goodput(tmp_path, began=clock.now, clock=clock)
    second.go_on(0)
    clock.pass_by(1)
    assert spent(second) == {"train": 1, "lost": 10}


def test_as_many_marks_are_kept_as_checkpoints_and_one_more(tmp_path, clock):
    goodput = Goodput(tmp_path, began=clock.now, keep=2, clock=clock)
    goodput.go_on(0)
    for step in range(1, 7):
        clock.pass_by(1)
        goodput.mark(step)
    kept = json.loads((tmp_path / "goodput.json").read_text())
    assert list(kept["marks"]) == ["4", "5", "6"]
    # An older state: at least what came after the oldest mark is lost.
    older = Goodput(tmp_path, began=clock.now, keep=2, clock=clock)
    older.go_on(2)
    assert spent(older) == {"train": 4, "lost": 2}
    older.mark(3)  # those beyond it are no part of this run any more
    kept = json.loads((tmp_path / "goodput.json").read_text())
    assert list(kept["marks"]) == ["2", "3"]


def test_a_clock_that_is_behind_takes_no_time_away(tmp_path, clock):
    first = Goodput(tmp_path, began=clock.now, clock=clock)
    first.go_on(0)
    clock.pass_by(50)
    first.mark(5)
    behind = Clock(clock.now - 20)  # of another machine
    second = Goodput(tmp_path, began=behind.now, clock=behind)
    second.go_on(5)
    behind.pass_by(30)
    assert spent(second) == {"train": 80}


def test_a_host_that_writes_nothing_leaves_no_file(tmp_path, clock):
    goodput = Goodput(None, began=clock.now, clock=clock)
    goodput.go_on(0)
    clock.pass_by(2)
    goodput.mark(1)
    assert spent(goodput) == {"train": 2}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    [
        *("", b"\xff\xfe", "[]", "{}", {}, {"format_version": 2}),
        {"format_version": 1, "seen": [], "seconds": {}, "marks": {}},
    ],
    ids=repr,
)
def test_a_file_that_cannot_be_used_is_said_and_replaced(
    tmp_path, clock, capsys, content
):
    file = tmp_path / "goodput.json"
    if isinstance(content, dict):
        write_json(file, content)
    else:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    goodput = Goodput(tmp_path, began=clock.now, clock=clock)
    out = capsys.readouterr().out
    assert f"note: {file}" in out
    clock.pass_by(3)
    goodput.go_on(7)
    clock.pass_by(5)
    goodput.save()
    assert spent(Goodput(tmp_path, began=clock.now, clock=clock)) == {
        "start_up": 3,
        "train": 5,
    }
    assert not capsys.readouterr().out
