"""Files of questions with choices, and of pairs of texts: as they are in the wild."""

import dataclasses
import json
import string

import numpy as np
import pytest
from small_tokenizers import wordpiece

from bert_jax.config import FinetuneConfig, TaskConfig
from bert_jax.data.labelled.choices import (
    choice_names,
    encode_choices,
    read_choices,
    read_unlabelled_choices,
)
from bert_jax.data.labelled.text_pairs import encode_text_pairs, read_text_pairs
from bert_jax.train.task_files import read_examples, read_held_out
from bert_jax.train.tasks import TASKS, task_of


@pytest.fixture(scope="module")
def letters():
    """A tokenizer that has a ... z with the ids 5 ... 30."""
    return wordpiece(*string.ascii_lowercase)


@pytest.fixture
def write(tmp_path):
    """write(name, content): a file; of a list, one JSON object a line."""

    def call(name, content):
        if not isinstance(content, str):
            content = "".join(json.dumps(line) + "\n" for line in content)
        (tmp_path / name).write_text(content)
        return tmp_path / name

    return call


def choices_of(path, **fields):
    return read_choices(path, TaskConfig(kind="choice", **fields))


def pairs_of(path, **fields):
    cfg = TaskConfig(kind="embeddings", **fields)
    return read_text_pairs(path, cfg.of_split("train"), "train")


# Choices.


def test_a_file_of_swag_is_read_by_its_names(write):
    path = write(
        "swag.csv",
        ",video-id,sent1,sent2,gold-source,ending0,ending1,label\n"
        "0,v1,a b,C,gold,d,e f,1\n"
        "1,v2,a,B,gold,d,e,0\n",
    )
    found = choices_of(path)
    assert found.texts == (("a b", "C d", "C e f"), ("a", "B d", "B e"))
    assert found.labels == ("1", "0")
    said = "text from 'sent1', choices from 'ending0', 'ending1', each behind 'sent2'"
    assert said in found.reading.how
    [more] = choices_of(path).take(np.array([1])).records()
    assert more == ["a", "B d", "B e", "0"]


@pytest.mark.parametrize(
    ("row", "label"),
    [
        ({"question": "q", "choices": ["x", "y"], "answer": 1}, "1"),
        ({"goal": "q", "sol1": "x", "sol2": "y", "label": 0}, "0"),
        (
            {
                "question": "q",
                "choices": {"text": ["x", "y"], "label": ["A", "B"]},
                "answerKey": "B",
            },
            "B",
        ),
        ({"question": "q", "option_a": "x", "option_b": "y", "answer": "A"}, "A"),
        ({"article": "q", "question": "", "options": ["x", "y"], "answer": "A"}, "A"),
        ({"question": "q", "choice10": "y", "choice2": "x", "label": 0}, "0"),
        ({"question": "q", "option_b": "y", "option_a": "x", "answer": "A"}, "A"),
    ],
)
def test_the_usual_names_of_other_sets_are_known(write, row, label):
    found = choices_of(write("x.jsonl", [row]))
    assert found.texts == (("q", "x", "y"),)
    assert found.labels == (label,)


def test_columns_can_be_named(write):
    path = write("x.tsv", "s\tgood\tbad\tn\tid\na\tb\tc\t0\t7\n")
    found = choices_of(path, text=("s",), choices=("good", "bad"), label="n")
    assert found.texts == (("a", "b", "c"),)
    given = read_unlabelled_choices(
        path, TaskConfig(kind="choice", text=("s",), choices=("good", "bad"))
    )
    assert given[:3] == ([("a", "b", "c")], ["7"], None)


def test_examples_may_have_fewer_choices_than_others(write, letters):
    row = {"question": "a b", "answer": "B"}
    path = write("x.jsonl", [{**row, "choices": list("xyz")[:n]} for n in (3, 2)])
    found = choices_of(path)
    names = choice_names(found)
    assert names == ("A", "B", "C")
    encoded = encode_choices(letters, found, names, 8)
    assert encoded.input_ids.shape == (2, 3, 8)
    assert encoded.input_ids[1, 1, :6].tolist() == [2, 5, 6, 3, 29, 3]
    assert encoded.segment_ids[1, 1, :6].tolist() == [0, 0, 0, 0, 1, 1]
    assert not encoded.input_mask[1, 2].any()
    assert encoded.labels.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ("01", ("0", "1", "2")),
        ("12", ("0", "1", "2")),
        ("13", ("1", "2", "3")),
        ("AC", ("A", "B", "C")),
        ("ac", ("a", "b", "c")),
    ],
)
def test_the_training_file_says_what_choices_are_called(write, labels, names):
    row = {"question": "a", "choices": ["x", "y", "z"]}
    path = write("x.jsonl", [{**row, "answer": label} for label in labels])
    assert choice_names(choices_of(path)) == names


def test_a_dev_file_counts_as_the_training_file_does(write, letters):
    row = {"question": "a", "choices": ["x", "y", "z"], "answer": "2"}
    dev = choices_of(write("dev.jsonl", [row]))
    assert encode_choices(letters, dev, ("1", "2", "3"), 8).labels.tolist() == [1]
    with pytest.raises(ValueError, match=r"label '2' .* is none of the model's labels"):
        encode_choices(letters, dev, ("A", "B", "C"), 8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"question": "a", "choices": ["x"], "answer": 0}], "line 1: 1 choices"),
        (
            [{"question": "a", "choices": "x y", "answer": 0}],
            "expected a list of texts",
        ),
        ([{"question": "a", "choices": ["x", ""], "answer": 0}], "line 1: 1 choices"),
        ([{"question": "a", "choices": ["x", "y"]}], "no usual name for --label"),
        ([{"q": "a", "choices": ["x", "y"], "answer": 0}], "no usual name for --text"),
        ([{"question": "a", "b": "x", "answer": 0}], "no usual name for --choices"),
        ([{"question": "", "choices": ["x", "y"], "answer": 0}], "nothing in column"),
        ("", "holds no rows"),
        (
            [{"question": "a", "choice1": "x", "sol1": "y", "answer": 0}],
            r"could be the choices \(choice1, sol1\); name those",
        ),
        (
            [{"question": "a", "choices": ["x", "y"], "answer": 0, "Answer": 1}],
            "'answer' and 'Answer', and each could be meant",
        ),
        (
            [
                {
                    "question": "a",
                    "choices": {"text": ["x", "y"], "label": ["B", "A"]},
                    "answer": "A",
                }
            ],
            "line 1: the choices are called B, A; expected",
        ),
        (
            [
                {
                    "question": "a",
                    "choices": [
                        {"text": x, "label": n} for x, n in [("x", 2), ("y", 1)]
                    ],
                    "answer": 1,
                }
            ],
            "line 1: the choices are called 2, 1; expected",
        ),
    ],
)
def test_a_wrong_file_of_choices_is_told(write, content, message):
    with pytest.raises(ValueError, match=message):
        choices_of(write("x.jsonl", content))


def test_labels_that_name_no_choice_are_told(write, letters):
    row = {"question": "a", "choices": ["x", "y"]}
    wrong = choices_of(write("x.jsonl", [{**row, "answer": "maybe"}]))
    with pytest.raises(ValueError, match=r"labels are 'maybe'; .* 0 to 1 or 1 to 2"):
        choice_names(wrong)
    rows = [{**row, "answer": answer} for answer in ("0", "1", "2")]
    mixed = choices_of(write("m.jsonl", rows))
    with pytest.raises(ValueError, match="labels are '0', '1', '2'; expected"):
        choice_names(mixed)
    with pytest.raises(
        ValueError, match=r"m\.jsonl, example 3: the label '2' \(1 time"
    ):
        encode_choices(letters, mixed, ("0", "1"), 8)
    counted = choices_of(write("y.jsonl", rows[1:]))
    with pytest.raises(ValueError, match=r"1, 2 count the choices from 1, .* from 0"):
        encode_choices(letters, counted, ("0", "1"), 8)
    counted = choices_of(write("y.jsonl", rows[:1]))
    with pytest.raises(
        ValueError, match=r"labels 0 count the choices from 0, .* from 1"
    ):
        encode_choices(letters, counted, ("1", "2"), 8)
    beyond = choices_of(write("y.jsonl", [{**row, "answer": "2"}]))
    with pytest.raises(ValueError, match="example 1 has the label '2' and 2 choices"):
        encode_choices(letters, beyond, ("0", "1", "2"), 8)


# Pairs.


def test_pairs_with_scores_are_cosines(write, letters):
    path = write("x.tsv", "sentence1\tsentence2\tscore\na b\tc\t2.5\nd\te\t0\n")
    found = pairs_of(path)
    assert found.texts == (("a b", "c"), ("d", "e"))
    assert found.similarities == (0.5, 0.0)
    assert "0 to 5 as cosines of 0 to 1" in found.reading.how
    assert found.reading.columns == ("sentence1", "sentence2", "score")
    encoded = encode_text_pairs(letters, found, 8)
    assert encoded.input_ids.shape == (2, 2, 8)
    assert encoded.input_ids[0, :, :4].tolist() == [[2, 5, 6, 3], [2, 7, 3, 0]]
    assert encoded.labels.dtype == np.float32
    # As they are, where none is greater than 1.
    path = write("y.tsv", "sentence1\tsentence2\tscore\na b\tc\t0.25\nd\te\t-1\n")
    assert pairs_of(path).similarities == (0.25, -1.0)
    assert pairs_of(path, score_range=(-1.0, 1.0)).similarities == (0.625, 0.0)


def test_the_scores_of_held_out_pairs_have_the_scale_of_training(write):
    header = "sentence1\tsentence2\tscore\n"
    train = write("train.tsv", f"{header}a b\tc\t5\nd\te\t0\n")
    dev = write("dev.tsv", f"{header}a\tc\t1\nb\te\t0.5\n")
    cfg = TaskConfig(kind="embeddings", train=train, dev=dev)
    task = TASKS["embeddings"]
    found = read_examples(task, cfg)
    assert found.held_out.similarities == (0.2, 0.1)
    # As `evaluate` reads them, the file of the run or a given one.
    again = found.as_read.with_file(found.as_read.file)
    assert read_held_out(task, again, found.held_out.sha256()) == found.held_out
    assert task.read(dev, again, "validation") == found.held_out
    swapped = dataclasses.replace(cfg, train=dev, dev=train)
    with pytest.raises(
        ValueError, match=r"n\.tsv, line 2: .* 0 to 1, as in the traini"
    ):
        read_examples(task, swapped)


def test_pairs_without_scores_belong_together(write, letters):
    path = write("x.csv", "anchor,positive\na,b\nc,d\n")
    found = pairs_of(path)
    assert found.similarities is None
    assert encode_text_pairs(letters, found, 8).labels.dtype == np.int32
    assert "belong" not in found.reading.how
    assert found.reading.columns == ()
    triples = pairs_of(write("y.csv", "sent0,sent1,hard_neg\na,b,c\n"))
    assert triples.texts == (("a", "b", "c"),)
    assert "do not belong to them from 'hard_neg'" in triples.reading.how
    named = pairs_of(
        write("z.csv", "x,y,label,w\na,b,entailed,c\n"),
        text=("x", "y"),
        negative="w",
        pairs="matching",
    )
    assert named.texts == (("a", "b", "c"),)


@pytest.mark.parametrize(
    ("content", "fields", "message"),
    [
        ("anchor,positive,label\na,b,yes\n", {}, "'yes', which is no finite number"),
        ("anchor,positive,score\na,b,7\n", {}, "line 2: the score 7 would be a cosine"),
        ("anchor,positive\na,b\n", {"pairs": "scored"}, "no column with a usual name"),
        ("anchor,positive\na,b\n", {"negative": "n"}, "no column 'n'; .* --negative"),
        ("text,label\na,1\n", {}, "two columns of texts. Name both with --text"),
        ("anchor,positive\na,\n", {}, "line 2: nothing in column 'positive'"),
        (
            "anchor,positive,score,n\na,b,1,c\n",
            {"negative": "n"},
            "be ignored: .* scores",
        ),
        (
            "anchor,positive\na,b\n",
            {"score_range": (0.0, 4.0)},
            "be ignored: .* no column",
        ),
        ("anchor,positive,score,Score\na,b,1,2\n", {}, "'score' and 'Score', and each"),
    ],
)
def test_a_wrong_file_of_pairs_is_told(write, content, fields, message):
    with pytest.raises(ValueError, match=message):
        pairs_of(write("x.csv", content), **fields)


def test_pairs_to_predict_on_may_be_lines(tmp_path):
    (tmp_path / "x.txt").write_text("a b\tc\nd\te\n")
    cfg = TaskConfig(kind="embeddings")
    found = TASKS["embeddings"].read_unlabelled(tmp_path / "x.txt", cfg, ())
    assert found.texts == [("a b", "c"), ("d", "e")]


def test_fields_of_another_task_are_refused():
    with pytest.raises(ValueError, match="pooling='cls' would be ignored: --task cl"):
        task_of(FinetuneConfig(task=TaskConfig(pooling="cls")))
    with pytest.raises(ValueError, match="would be ignored: --task embeddings"):
        task_of(FinetuneConfig(task=TaskConfig(kind="embeddings", choices=("a",))))
    with pytest.raises(ValueError, match="a smaller number and then a greater one"):
        TaskConfig(kind="embeddings", score_range=(5.0, 0.0))


def test_the_similarities_of_sts_are_read_as_they_are(shared_data):
    cfg = TaskConfig(kind="embeddings", train=shared_data / "stsb/train.tsv")
    found = TASKS["embeddings"].read(cfg.train, cfg, "train")
    assert len(found) == 5_749
    assert found.texts[0] == ("A plane is taking off.", "An air plane is taking off.")
    assert found.similarities[1] == pytest.approx(0.76)
    assert (min(found.similarities), max(found.similarities)) == (0.0, 1.0)
    dev = pairs_of(shared_data / "stsb/dev.tsv")
    assert len(dev) == 1_500
    assert "scored pairs" in TASKS["embeddings"].counts(dev, ())


def test_settings_for_several_labels_are_refused(write):
    cfg = TaskConfig(label_columns=("a", "b"))
    choices = write("c.jsonl", [{"question": "q", "choices": ["x", "y"], "answer": 0}])
    pairs = write("p.jsonl", [{"sentence1": "a", "sentence2": "b", "score": 1.0}])
    with pytest.raises(ValueError, match=r"label_columns=\('a', 'b'\).* be ignored"):
        read_choices(choices, cfg)
    with pytest.raises(ValueError, match=r"label_columns=\('a', 'b'\).* be ignored"):
        read_text_pairs(pairs, cfg, "train")
