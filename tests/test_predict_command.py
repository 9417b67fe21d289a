"""`bert-jax predict`: arguments, files and standard input in; lines and a file out."""

import datetime
import io
import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_tokenizers import wordpiece

from bert_jax import cli
from bert_jax.config import FinetuneConfig, ModelConfig, TaskConfig
from bert_jax.train.inference import predict
from bert_jax.train.runs.run import RunInfo, load_run, load_run_config
from bert_jax.train.runs.run_start import start_run
from bert_jax.train.tasks import TASKS


class Echo(predict.Predictor):
    """A run without weights: the first class wins, by the length of the text."""

    def __init__(self, run, step=None):
        self.cfg, info = load_run_config(run), load_run(run)
        self.task, self.outputs = TASKS[info.task], info.labels
        self.num_texts = self.task.num_texts(self.cfg.task)

    def _answers(self, texts):
        if self.task.name == "tokens":
            return [
                {"words": x.split(), "tags": ["O"] * len(x.split()), "entities": []}
                for (x,) in texts
            ]
        if self.task.name == "spans":
            return [{"answer": passage, "score": 1 / 3} for _, passage in texts]
        share = [1 / (1 + len("".join(text))) for text in texts]
        return [
            {"label": "no", "probabilities": {"no": 1 - x, "yes": x}} for x in share
        ]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(kind, **settings of the task) -> run directory; the folder is the current one."""
    monkeypatch.setattr(predict, "Predictor", Echo)
    monkeypatch.chdir(tmp_path)
    tokenizer = wordpiece("w")

    def make(kind="classification", **fields):
        if kind == "classification":
            fields = {"text": ("text",), "label": "label", **fields}
        info = RunInfo(
            kind="finetune",
            model=ModelConfig(vocab_size=6),
            tokenizer_sha256=tokenizer.sha256,
            data={},
            task=kind,
            labels={"tokens": ("B-X", "O")}.get(kind, ("no", "yes")),
        )
        cfg = FinetuneConfig(task=TaskConfig(kind=kind, **fields))
        start_run(tmp_path / kind, cfg, info, tokenizer)
        return kind

    return make


def written(folder):
    return [json.loads(x) for x in (folder / "out.jsonl").read_text().splitlines()]


@pytest.fixture
def failed(refused):
    """Standard error of `predict` when it fails."""
    return lambda *args: " ".join(refused("predict", *args).replace("│", " ").split())


def test_a_file_is_read_and_its_rows_come_back_in_order(run, tmp_path, capsys):
    rows = [{"id": n, "text": "w" * n, "label": "yes"} for n in (3, 0, 1)]
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cli.main(["predict", run(), "dev.jsonl", "--output", "out.jsonl"])
    found = written(tmp_path)
    assert [(line["id"], line["text"]) for line in found] == [
        (3, "www"),
        (0, ""),
        (1, "w"),
    ]
    assert found[0]["probabilities"] == {"no": 0.75, "yes": 0.25}
    assert (found[1]["label"], found[1]["probabilities"]) == (None, None)
    said = capsys.readouterr()
    assert (
        "3 texts of dev.jsonl (UTF-8, one JSON object a line; text from 'text')"
        in said.err
    )
    assert "1 empty text got no prediction" in said.err
    assert not said.out
    # With the column of the labels, both stand side by side.
    flags = ("--label", "label")
    cli.main(["predict", run(), "dev.jsonl", "--output", "out.jsonl", *flags])
    found = written(tmp_path)
    assert [(line["given_label"], line["label"]) for line in found][:2] == [
        ("yes", "no"),
        ("yes", None),
    ]


def test_ids_that_json_has_not_are_written_as_text(run, tmp_path):
    rows = {"id": [datetime.date(2026, 1, 2)], "text": ["w"]}
    pq.write_table(pa.table(rows), tmp_path / "x.parquet")
    cli.main(["predict", run(), "x.parquet", "--output", "out.jsonl"])
    assert [line["id"] for line in written(tmp_path)] == ["2026-01-02"]
    (tmp_path / "x.jsonl").write_text('{"id": NaN, "text": "w", "label": 1e999}\n')
    cli.main(["predict", run(), "x.jsonl", "--label", "label", "--output", "out.jsonl"])
    assert (
        '{"id": null, "text": "w", "given_label": null,'
        in (tmp_path / "out.jsonl").read_text()
    )


def test_all_digits_are_kept(run, tmp_path):
    cli.main(["predict", run(), "ww", "--output", "out.jsonl"])
    [line] = (tmp_path / "out.jsonl").read_text().splitlines()
    assert json.loads(line)["probabilities"]["yes"] == 1 / 3
    assert json.loads(line)["text"] == "ww"


def test_texts_are_arguments_or_lines(run, capsys, monkeypatch):
    cli.main(["predict", run(), "a", "b c", "--top", "1"])
    assert capsys.readouterr().out == "no 50.0%  |  a\nno 75.0%  |  b c\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO("\ufeffa\n\nb\n"))
    cli.main(["predict", run(), "--top", "1"])
    assert capsys.readouterr().out == "no 50.0%  |  a\nempty  |  \nno 50.0%  |  b\n"


@pytest.mark.parametrize("stdin", [None, io.StringIO("")])
def test_no_text_is_told(run, failed, monkeypatch, stdin):
    monkeypatch.setattr(sys, "stdin", stdin)
    assert "No text given" in failed(run())


def test_signs_of_the_training_file_are_not_asked_of_another_kind(
    run, tmp_path, capsys, failed
):
    """A run whose file had semicolons and no header; here are files with names."""
    bare = run(text=("2",), label="1", header=False, delimiter=";", quotes="text")
    (tmp_path / "x.jsonl").write_text('{"text": "w", "2": "ww"}\n')
    pq.write_table(pa.table({"text": ["w"]}), tmp_path / "x.parquet")
    cli.main(["predict", bare, "x.jsonl"])
    assert capsys.readouterr().out.endswith("|  ww\n")
    for name in ("x.jsonl", "x.parquet"):
        cli.main(["predict", bare, name, "--text", "text"])
        assert capsys.readouterr().out.endswith("|  w\n")
    assert "has no column '2'; the columns are text" in failed(bare, "x.parquet")
    assert "delimiter='|' would be ignored" in failed(
        bare, "x.jsonl", "--delimiter", "|"
    )


def test_texts_without_a_part_are_told(run, failed, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n \n"))
    said = "Nothing to work on: of {}, each is empty or has an empty part."
    assert said.format("2 texts") in failed(run())
    pair = run(text=("a", "b"))
    assert said.format("1 text") in failed(pair, "question", "")


def test_a_file_of_empty_texts_is_named(run, tmp_path, failed):
    (tmp_path / "x.csv").write_text("text,label\n,no\n  ,yes\n")
    assert "x.csv: Nothing to work on: of 2 texts" in failed(run(), "x.csv")


def test_a_pair_is_two_arguments_or_two_columns(run, tmp_path, capsys, failed):
    pair = run(text=("a", "b"))
    for arguments in (["x", "y"], ["x\ty"]):
        cli.main(["predict", pair, *arguments])
        assert capsys.readouterr().out.endswith("|  x\ty\n")
    (tmp_path / "pairs.csv").write_text("b,a\ny,x\n")
    cli.main(["predict", pair, "pairs.csv"])
    assert capsys.readouterr().out.endswith("|  x\ty\n")
    assert "takes 2 non-empty" in failed(pair, "x", "y", "z")


def test_the_same_flags_read_files_of_other_forms(run, tmp_path, capsys, failed):
    (tmp_path / "x.csv").write_bytes("1;é, a\n".encode("latin-1"))
    flags = ("--no-header", "--text", "2", "--delimiter", ";")
    cli.main(["predict", run(), "x.csv", *flags, "--encoding", "latin-1"])
    assert capsys.readouterr().out.endswith("|  é, a\n")
    assert "byte 0xE9 is not UTF-8" in failed(run(), "x.csv")
    (tmp_path / "y.csv").write_text("sentence\na\n")
    said = failed(run(), "y.csv")
    assert "has no column 'text'; the columns are sentence" in said
    assert "Set --text" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["no.csv"],
            "no.csv does not exist. To predict on 'no.csv' as a text, pass it on",
        ),
        (["here.csv", "a"], "'here.csv' names something on this disk"),
        (["folder"], "'folder' names something on this disk"),
        (["a", "caf\udce9"], "Text 2 holds half of a character ('\\udce9'), which"),
        (["a", "--encoding", "latin-1"], "would be ignored: no file is given"),
        (["a", "--top", "0"], "--top 0 must be greater than 0"),
        (["a", "--output", "x.csv"], "give a name that ends in .jsonl"),
        (["a", "--output", "no/x.jsonl"], "there is no directory no"),
        (["a", "--output", "x.jsonl", "--top", "2"], "--top 2 would be ignored"),
        (["here.jsonl", "--output", "here.jsonl"], "is the file of the texts"),
        (["-"], "'-' would be taken for a text"),
        (
            ["here.csv", "--label-columns", "a", "b"],
            "label_columns=('a', 'b') would be",
        ),
    ],
)
def test_what_is_ambiguous_or_ignored_is_refused(
    run, tmp_path, failed, arguments, message
):
    (tmp_path / "here.csv").write_text("text\na\n")
    (tmp_path / "here.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "folder").mkdir()
    assert message in failed(run(), *arguments)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.conll", "a\tB-X\nb\tO\n\nc\tO\n", [["a", "b"], ["c"]]),
        ("x.conll", "a\nb\n\nc\n", [["a", "b"], ["c"]]),
        ("x.txt", "a B-X\nb O\n\nc O\n", [["a", "b"], ["c"]]),
        ("x.txt", "a b\nc\n", [["a", "b"], ["c"]]),
    ],
)
def test_sentences_to_tag_are_read_with_or_without_tags(
    run, tmp_path, name, content, words
):
    (tmp_path / name).write_text(content)
    cli.main(["predict", run("tokens"), name, "--output", "out.jsonl"])
    found = written(tmp_path)
    assert [line["words"] for line in found] == words


def test_questions_come_from_squad_files(run, tmp_path):
    wrong = {"text": "Bea", "answer_start": 0}  # is not read
    qas = [{"id": "q1", "question": "who?"}, {"id": "q2", "question": "what?"}]
    qas[1]["answers"] = [wrong]
    document = {"data": [{"paragraphs": [{"context": "Bo ran.", "qas": qas}]}]}
    (tmp_path / "x.json").write_text(json.dumps(document))
    cli.main(["predict", run("spans"), "x.json", "--output", "out.jsonl"])
    found = written(tmp_path)
    assert [line["id"] for line in found] == ["q1", "q2"]
    assert found[0]["text"] == ["who?", "Bo ran."]
    assert found[0]["score"] == 1 / 3
