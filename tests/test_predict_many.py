"""Prediction on many texts: bounded shapes, bounded memory, order kept."""

import fcntl
import io
import json
import os
import pathlib
import sys
import threading

import numpy as np
import pytest
from exchange_models import make_tokenizer
from random_runs import random_run

from bert_jax.commands import text_input
from bert_jax.commands.json_lines import write_lines
from bert_jax.data.atomic_file import open_atomically, remove_leftovers_of
from bert_jax.data.labelled.unlabelled import Unlabelled, from_lines
from bert_jax.train.inference.predict import Predictor
from bert_jax.train.runs.checkpoint import Checkpoints


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    return random_run(folder / "run", make_tokenizer("wordpiece"), "classification")


@pytest.fixture(scope="module")
def predictor(run):
    return Predictor(run, batch_size=16)


def test_the_weights_of_a_run_are_read_once(run, monkeypatch):
    read, restore = [], Checkpoints.restore_params

    def counted(checkpoints, *args, **options):
        read.append(checkpoints.directory)
        return restore(checkpoints, *args, **options)

    monkeypatch.setattr(Checkpoints, "restore_params", counted)
    Predictor(run)
    assert len(read) == 1


def test_a_pretraining_run_is_refused(tmp_path):
    run = random_run(tmp_path / "run", make_tokenizer("wordpiece"))
    with pytest.raises(ValueError, match="is a pretrain run; expected a finetune run"):
        Predictor(run)


def texts_of(lengths):
    rng = np.random.default_rng(0)
    return ["".join(rng.choice(list("abcd"), n)) for n in lengths]


def test_there_are_few_programs_whatever_is_asked(predictor):
    rng = np.random.default_rng(1)
    for count in (1, 1, 1, 3, 8, 9, 40, 100):
        texts = texts_of(rng.integers(1, 40, count))
        assert len(predictor([(text,) for text in texts])) == count
    compiled = predictor._logits._logits._cache_size()
    # Rows of at most 32 tokens have four lengths: 8, 16, 24 and 32; batches have 1, 8 or
    # 16 rows.
    assert predictor._logits._lengths <= {8, 16, 24, 32}
    assert compiled <= 12


def test_one_text_is_a_batch_of_one_row(predictor, monkeypatch):
    shapes = []
    compute = predictor._logits._logits

    def seen(params, batch):
        shapes.append(batch.input_ids.shape)
        return compute(params, batch)

    monkeypatch.setattr(predictor._logits, "_logits", seen)
    predictor([("abc",)])
    predictor([("abc",)] * 5)
    predictor([("abc",)] * 20)
    assert [rows for rows, _ in shapes] == [1, 8, 16, 16]


def test_parts_change_no_prediction_and_no_place(predictor):
    texts = texts_of(np.random.default_rng(2).integers(1, 40, 50))
    texts[7] = ""
    given = Unlabelled([(text,) for text in texts], ids=list(range(50)))
    whole = list(predictor.lines([given]))
    assert [line["id"] for line in whole] == list(range(50))
    assert [line["text"] for line in whole] == texts
    parts = list(predictor.lines(given.parts(7)))
    for a, b in zip(whole, parts, strict=True):
        assert (a["id"], a["text"], a["label"]) == (b["id"], b["text"], b["label"])
        if a["label"] is not None:
            assert a["probabilities"] == pytest.approx(b["probabilities"], rel=1e-5)
    assert whole[7]["label"] is None
    # The answers tell the texts apart, so a wrong place would be seen.
    assert len({json.dumps(line["probabilities"]) for line in whole}) > 25


def test_a_part_is_answered_before_the_next_is_read(predictor):
    read = []

    def parts():
        for line in "abc":
            read.append(line)
            yield from_lines([line])

    lines = predictor.lines(parts())
    assert next(lines)["text"] == "a"
    assert read == ["a"]


def test_empty_texts_before_the_first_one_have_its_entries(predictor):
    parts = [from_lines(["", ""]), from_lines(["a"]), from_lines([" "])]
    found = list(predictor.lines(parts))
    assert [line["label"] is None for line in found] == [True, True, False, True]
    assert [set(line) for line in found] == [set(found[2])] * 4
    with pytest.raises(ValueError, match="of 3 texts, each is empty"):
        list(predictor.lines([from_lines(["", ""]), from_lines([""])]))
    with pytest.raises(ValueError, match="No text given"):
        list(predictor.lines([]))


def test_a_text_of_another_form_is_named_by_its_number(predictor):
    with pytest.raises(ValueError, match=r"Text 3 is .* takes 1 non-empty"):
        list(predictor.lines([from_lines(["a", "b"]), from_lines(["a\tb"])]))


def test_standard_input_is_taken_as_it_comes(monkeypatch):
    more = threading.Event()

    def lines():
        yield "\ufeffa\n"
        yield "b\n"
        more.wait()
        yield "c\n"

    monkeypatch.setattr(sys, "stdin", lines())
    found = []
    chunks = text_input.standard_input()
    while len(found) < 2:
        found += next(chunks)
    assert found == ["a", "b"]
    more.set()
    assert list(chunks) == [["c"]]


def test_standard_input_comes_in_chunks(monkeypatch):
    monkeypatch.setattr(text_input, "CHUNK", 10)
    text = "".join(f"{n}\n" for n in range(95))
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    chunks = list(text_input.standard_input())
    assert max(map(len, chunks)) <= 10
    assert [line for chunk in chunks for line in chunk] == [str(n) for n in range(95)]


def test_another_encoding_on_standard_input_is_told(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(b"a\n\xe9\n"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stream)
    with pytest.raises(ValueError, match="Standard input is not UTF-8"):
        list(text_input.standard_input())


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("old")

    def write(error):
        with open_atomically(path) as file:
            file.write("new")
            raise error

    for error in (ValueError("a"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            write(error)
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match=r"No space left on device: '.*x\.jsonl'$"):
        write(OSError(28, "No space left on device"))
    with open_atomically(path) as file:
        file.write("é")
    assert path.read_bytes() == "é".encode()


def test_what_a_killed_command_left_of_its_output_is_deleted(tmp_path):
    output = tmp_path / "x.jsonl"
    left = [tmp_path / name for name in ("x.jsonl.partial-1", "y.jsonl.partial-1")]
    for path in left:
        path.touch()
    with (tmp_path / "x.jsonl.partial-2").open("w") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        write_lines(output, [{"text": "a"}], 1)
        assert {*tmp_path.iterdir()} == {output, pathlib.Path(alive.name), left[1]}


def test_a_file_that_is_being_written_is_locked(tmp_path):
    output = tmp_path / "x.jsonl"
    with open_atomically(output):
        remove_leftovers_of(output)
        assert len(list(tmp_path.iterdir())) == 1


def test_a_pipe_is_written_and_stays(tmp_path):
    """Nothing may take its place: for root, that of /dev/stdout too."""
    path = tmp_path / "x.jsonl"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with open_atomically(path) as file:
        file.write("é")
    assert os.read(reader, 9) == "é".encode()
    os.close(reader)
    assert path.is_fifo()
    assert list(tmp_path.iterdir()) == [path]


def test_a_wrong_text_leaves_no_output(tmp_path, refused, monkeypatch):
    run = random_run(tmp_path / "run", make_tokenizer("wordpiece"), "classification")
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\nb\tc\n"))
    assert "takes 1 non-empty" in refused(
        "predict", run, "--output", tmp_path / "x.jsonl"
    )
    assert not list(tmp_path.glob("x.jsonl*"))
