"""`bert-jax COMMAND --help`: an example, boxes, and in each box the flags that matter first."""

import contextlib
import io
import re

import pytest

from bert_jax import cli

# Of each command: arguments before --help, and the first flags of its boxes.
FIRST: dict[str, dict[str, list[str]]] = {
    "quickstart": {"options": ["--output", "--num-steps", "--vocab-size"]},
    "doctor": {"options": ["--devices"]},
    "corpus": {"options": ["--output", "--packages", "--task"]},
    "tokenizer train": {"options": ["--source", "--output", "--vocab-size"]},
    "tokenizer wrap": {"options": ["--output", "--lowercase", "--no-lowercase"]},
    "prepare": {"options": ["--source", "--tokenizer", "--output"]},
    "inspect": {"options": ["--rows", "--split"]},
    "pretrain": {
        "options": ["--output", "--config", "--minutes"],
        "data options": ["--data.dataset"],
    },
    "finetune": {
        "options": ["--output", "--config"],
        "labelled text options": ["--train", "--dev", "--task"],
    },
    "sweep": {
        "options": ["--output", "--config"],
        "grid options": ["--seeds", "--learning-rates", "--epochs"],
        "labelled text options": ["--train", "--dev", "--task"],
    },
    "compare": {"options": ["--output", "--resamples"]},
    "baselines": {
        "options": ["--output"],
        "labelled text options": ["--train", "--dev", "--task"],
    },
    "replay": {"options": ["--devices"]},
    "evaluate": {"options": ["--batches", "--step"], "file options": ["--text"]},
    "predict": {"options": ["--output", "--top"], "file options": ["--text"]},
    "fill": {"options": ["--top", "--output"]},
    "embed": {"options": ["--output", "--pooling"], "file options": ["--text"]},
    "serve": {"options": ["--port", "--host"], "limits options": ["--batch-size"]},
    "import": {"options": ["--output"]},
    "export": {"options": ["--output", "--to"]},
    "checkpoints": {"options": ["--json"]},
    "report": {"options": ["--output", "--pretrain", "--finetune"]},
    "compile": {"options": ["--topology", "--config", "--output"]},
}


def test_every_command_is_here():
    assert {words.split()[0] for words in FIRST} == {*cli.COMMANDS}


def help_of(name: str, *rest: str) -> str:
    """What a terminal shows that knows how to draw boxes."""
    screen = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with contextlib.redirect_stdout(screen), pytest.raises(SystemExit):
        cli.parse(name, [*rest, "--help"])
    screen.seek(0)
    return screen.read()


def test_what_matters_comes_first(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")  # wide terminals have boxes side by side
    for words, expected in FIRST.items():
        text = help_of(*words.split())
        if words != "doctor":
            said = " ".join(text.split())
            assert f"For example: `bert-jax {words} " in said, words
        _, *boxes = re.split(r"^╭─ (.+?) ─+╮$", text, flags=re.M)
        flags = {
            title: re.findall(r"^│ (--[\w.-]+)", box, re.M)
            for title, box in zip(boxes[::2], boxes[1::2], strict=True)
        }
        found = {title: flags[title][: len(x)] for title, x in expected.items()}
        assert found == expected, words
        titles = [title for title in flags if title != "positional arguments"]
        assert titles[: len(expected)] == [*expected], words


def test_what_has_no_flag_is_called_by_its_name(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    named = {"embed": "RUN TEXTS", "compare": "A B", "evaluate": "RUN [DATA]"}
    for command, names in named.items():
        assert f" {names}" in help_of(command).partition("\n")[0]


def test_help_ends_on_a_screen_of_no_width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    expected = help_of("fill")
    monkeypatch.setenv("COLUMNS", "1")
    assert help_of("fill") == expected
