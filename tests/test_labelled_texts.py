"""Labelled text: files as they are in the wild, and the rows that are made of them."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import wordpiece

from bert_jax.config import TaskConfig
from bert_jax.data.labelled.labels import (
    many_classes_warning,
    numbers_of,
    ordered,
)
from bert_jax.data.labelled.texts import LabelledTexts, encode_texts, read_texts
from bert_jax.train.logits import held_out_batches
from bert_jax.train.reading import show_rows
from bert_jax.train.task_files import read_examples, read_trained_on
from bert_jax.train.tasks import task_named

PAIR = TaskConfig(text=("one", "two"))


@pytest.fixture(scope="module")
def words():
    """A tokenizer that has w0 ... w199 with the ids 5 ... 204."""
    return wordpiece(*(f"w{n}" for n in range(200)))


@pytest.fixture
def load(tmp_path):
    """load(name, content, cfg) -> LabelledTexts of a file of that content."""

    def call(name, content, cfg=None):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_texts(path, cfg or TaskConfig())

    return call


# Files.


def test_csv_reads_quotes_commas_and_line_breaks(load):
    content = 'text,label\r\n"a, ""b""\r\nc",x\r\nplain,y\r\n'
    found = load("x.csv", content)
    assert found.texts == (('a, "b"\r\nc',), ("plain",))
    assert found.labels == ("x", "y")


def test_jsonl_takes_any_order_blank_lines_and_numbers(load):
    rows = [{"text": "ä\tb", "label": 0, "other": None}, {"label": "1", "text": "c"}]
    found = load("x.jsonl", "\n\n".join(json.dumps(row) for row in rows))
    assert found.texts == (("ä\tb",), ("c",))
    assert found.labels == ("0", "1")


def test_pairs_keep_the_order_of_the_columns(load):
    found = load("x.tsv", "two\tlabel\tone\nB\tx\tA\n", PAIR)
    assert found.texts == (("A", "B"),)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.tsv", "text\tmark\na\tb\n", "no column with a usual name of a label; the "),
        ("x.tsv", "words\tlabel\na\tb\n", "columns are words, label. Set --text"),
        ("x.tsv", "class\ttarget\ttext\na\tb\tc\n", "be the label (class, target)"),
        ("x.tsv", "text\tlabel\na\tb\nc\t\n", "line 3: nothing in column 'label'"),
        ("x.tsv", "text\tlabel\na\tb\nc\n", "line 3: nothing in column 'label'"),
        ("x.csv", "text,label\na,b\n,x\n", "line 3: nothing in column 'text'"),
        ("x.tsv", "text\tlabel\na\tb\n\n\nc\n", "line 5: nothing in column 'label'"),
        ("x.csv", 'text,label\n"a\nb",c\nd\n', "line 4: nothing in column 'label'"),
        ("x.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}', "line 2: nothing in"),
        ("x.jsonl", '{"text": "a", "label": 1}\n\n{"text"', "line 3: not JSON"),
        ("x.tsv", "text\tlabel\n", "holds no rows"),
        (
            "x.jsonl",
            '{"a": {"text": "b"}, "label": 1}',
            "object, as in 'a', is not read",
        ),
        ("x.xlsx", "text\tlabel\na\tb\n", "unknown kind '.xlsx'; expected a file"),
    ],
)
def test_what_cannot_be_read_is_named(load, tmp_path, name, content, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        load(name, content)
    assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize("sign", [",", ";", "\t"])
def test_a_line_that_tells_excel_the_delimiter_is_no_row(load, sign):
    found = load("x.csv", f"\ufeffsep={sign}\r\ntext{sign}label\r\na{sign}b\r\n")
    assert (found.texts, found.labels) == ((("a",),), ("b",))


def test_a_file_must_be_given_and_there(tmp_path):
    with pytest.raises(ValueError, match=r"--train FILE"):
        read_texts(None, TaskConfig())
    with pytest.raises(
        FileNotFoundError, match=r"no\.tsv does not exist; expected .*\.csv"
    ):
        read_texts(tmp_path / "no.tsv", TaskConfig())


@pytest.mark.parametrize(
    ("name", "columns", "label", "count", "positives"),
    [
        ("sst2/dev.tsv", ("content",), "label", 872, 444),
        ("mrpc/dev.tsv", ("#1 String", "#2 String"), "Quality", 408, 279),
        ("sst2/train.tsv", ("sentence",), "label", 67_349, 37_569),
        ("mrpc/train.tsv", ("#1 String", "#2 String"), "Quality", 3_668, 2_474),
    ],
)
def test_real_tasks_are_read_whole(shared_data, name, columns, label, count, positives):
    cfg = TaskConfig(text=columns, label=label)
    found = read_texts(shared_data / name, cfg)
    assert len(found) == count
    assert ordered(found.labels) == ("0", "1")
    assert found.labels.count("1") == positives
    # Nothing is lost: the lines of the file, cut at tabs.
    lines = (shared_data / name).read_text(encoding="utf-8-sig").splitlines()
    header, *rows = (line.split("\t") for line in lines)
    at = [header.index(column) for column in columns]
    assert found.texts == tuple(tuple(row[k] for k in at) for row in rows)


def test_sst2_calls_its_columns_otherwise_to_judge(shared_data):
    cfg = TaskConfig(text=("sentence",), dev_text=("content",))
    train = read_texts(shared_data / "sst2/train.tsv", cfg)
    held_out = read_texts(shared_data / "sst2/dev.tsv", cfg, "validation")
    assert (len(train), len(held_out)) == (67_349, 872)
    with pytest.raises(ValueError, match=r"--dev-text"):
        read_texts(shared_data / "sst2/train.tsv", cfg, "validation")


def test_cola_has_no_header(shared_data):
    cfg = TaskConfig(header=False, text=("4",), label="2")
    train = read_texts(shared_data / "cola/train.tsv", cfg)
    held_out = read_texts(shared_data / "cola/dev.tsv", cfg, "validation")
    assert (len(train), len(held_out)) == (8_551, 527)
    assert held_out.texts[0] == ("The sailors rode the breeze clear of the rocks.",)
    assert held_out.labels.count("1") == 365
    assert ordered(train.labels) == ("0", "1")
    named = TaskConfig(text=("sentence",), label="label")
    with pytest.raises(ValueError, match=r"has no column 'sentence'.*no-h"):
        read_texts(shared_data / "cola/dev.tsv", named)


def test_stsb_has_scores(shared_data):
    cfg = TaskConfig(text=("sentence1", "sentence2"), label="score", kind="regression")
    for name, count in (("train", 5_749), ("dev", 1_500)):
        found = read_texts(shared_data / f"stsb/{name}.tsv", cfg, numbers=True)
        assert len(found) == count
        scores = [float(label) for label in found.labels]
        assert (min(scores), max(scores)) == (0.0, 5.0)
    assert scores[:2] == [5.0, 4.75]


# Files without a header, columns of two splits, fewer examples.

BARE = TaskConfig(header=False, text=("3",), label="1")


def test_columns_go_by_number_where_no_line_names_them(load):
    found = load("x.tsv", '0\t\t"a\n\n1\tx\tb\n', BARE)
    assert found.texts == (('"a',), ("b",))
    assert found.labels == ("0", "1")
    assert load("x.csv", '0,,"a, b"\n', BARE).texts == (("a, b",),)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.tsv", "0\tx\n", "has no column '3'; the columns are 1, 2."),
        ("x.tsv", "0\t\ta\n1\tx\n", "line 2: nothing in column '3'"),
        ("x.tsv", "0\t\ta\n1\t\tb\tc\n", "line 2: more fields (4) than the first line"),
        ("x.jsonl", '{"3": "a", "1": 0}\n', "leave --no-header out"),
        ("x.tsv", "", "holds no rows"),
    ],
)
def test_a_wrong_file_without_header_is_named(load, tmp_path, name, content, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        load(name, content, BARE)
    assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize("label", ["high", "nan", "inf", "1,5"])
def test_a_score_is_a_finite_number(tmp_path, label):
    cfg = TaskConfig(label="score")
    (tmp_path / "x.tsv").write_text(f"text\tscore\na\t 1.5 \nb\t{label}\n")
    message = rf"x\.tsv, line 3: column 'score' holds '{label}', which is no finite"
    with pytest.raises(ValueError, match=message):
        read_texts(tmp_path / "x.tsv", cfg, numbers=True)


def test_fewer_examples_are_a_fixed_choice_in_file_order(load):
    content = "text\tlabel\n" + "".join(f"t{n}\t{n % 2}\n" for n in range(100))
    whole = load("x.tsv", content)
    found = whole.sample(30)
    numbers = [int(text[1:]) for (text,) in found.texts]
    assert len(numbers) == 30
    assert numbers == sorted(set(numbers))
    assert numbers[-1] > 60  # not the first ones
    assert found == load("x.tsv", content).sample(30)
    assert found != whole.sample(30, seed=1)
    assert found.labels == tuple(str(n % 2) for n in numbers)
    assert whole.sample(500) == whole.sample(None) == whole


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"header": False, "label": "text"}, "one is given as 'text'"),
        ({"header": False, "text": ("0",), "label": "1"}, "as '0'"),
        (
            {"header": False, "text": ("1",), "label": "2"} | {"dev_label": "label"},
            "as 'label'",
        ),
        (
            {"text": ("t",), "dev_text": ("a", "b")},
            "differ in number",
        ),
        ({"max_train": 0}, "max_train=0 must be greater"),
    ],
)
def test_settings_that_cannot_be_meant(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        TaskConfig(**settings)


# Labels.


def test_labels_are_numbered_in_sorted_order():
    found = LabelledTexts((("a",),) * 4, ("no", "yes", "maybe", "no"))
    names = ordered(found.labels)
    assert names == ("maybe", "no", "yes")
    assert numbers_of(found.labels, names).tolist() == [1, 2, 0, 1]


def test_an_unknown_label_is_named_with_its_line(tmp_path):
    path = tmp_path / "dev.tsv"
    path.write_text("text\tlabel\nw1\ta\nw2\tnew\n", encoding="utf-8")
    found = read_texts(path, TaskConfig())
    kept = found.take(np.array([1]))
    message = re.escape(f"{path}, line 3: the label 'new' (1 times) is none of")
    message += " the model's labels, which are 'a', 'b';"
    with pytest.raises(ValueError, match=message):
        task_named("classification").targets(kept, ("a", "b"))
    several = read_texts(path, TaskConfig(kind="multilabel"), several=True)
    with pytest.raises(ValueError, match=message):
        task_named("multilabel").targets(several, ("a", "b"))


def test_a_file_with_one_label_is_named(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text("text\tlabel\nw1\ta\nw2\ta\n", encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(f"{path} has one label only, 'a'")):
        task_named("classification").outputs(read_texts(path, TaskConfig()))


def test_columns_of_0_and_1_are_known_as_labels(load):
    with pytest.raises(ValueError, match=r"multilabel --label-columns red big$"):
        load("x.csv", "text,red,year,big\na,1,1,0\nb,0,7,0\n")
    with pytest.raises(ValueError, match=r"names them\)\.$"):
        load("y.csv", "text,red,year\na,1,1\nb,0,7\n")


def test_what_was_cut_names_the_flags_of_its_task(words, capsys):
    rows = encode_texts(words, [("w1 w2 w3 w4 w5 w6 w7",)], [0], 6)
    batches = held_out_batches(rows, 8, 0.0)
    show_rows(task_named("classification"), "train", rows, batches)
    assert "at 6 tokens (--sequence-length, --long-texts)" in capsys.readouterr().out
    show_rows(task_named("spans"), "train", rows, batches)
    assert "at 6 tokens (--sequence-length)" in capsys.readouterr().out


def test_a_file_with_one_score_is_refused(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text("text\tlabel\nw1\t3.5\nw2\t3.5\n", encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(f"{path} has one score only, 3.5")):
        task_named("regression").outputs(read_texts(path, TaskConfig(), numbers=True))


@pytest.mark.parametrize("label", ["1e39", "-1e20", "1e308"])
def test_a_number_whose_square_is_beyond_float32_is_refused(tmp_path, label):
    path = tmp_path / "train.tsv"
    path.write_text(f"text\tlabel\nw1\t1e19\nw2\t{label}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"line 3: .*'{label}'; a regression takes"):
        read_texts(path, TaskConfig(), numbers=True)


def test_labels_that_occur_once_each_are_doubted():
    texts = [f"text {number}" for number in range(20)]
    [warning] = many_classes_warning(texts)
    assert warning.startswith("20 examples have 20 classes, of which 20 occur once")
    assert "regression" not in warning
    [of_numbers] = many_classes_warning([f"{number / 7:.2f}" for number in range(20)])
    assert "--task regression" in of_numbers
    assert not many_classes_warning([f"{number % 12}" for number in range(40)])
    assert not many_classes_warning(["a", "b"])


@pytest.mark.parametrize(("suffix", "task"), [(".conll", "tokens"), (".json", "spans")])
def test_a_file_of_another_task_names_it(tmp_path, suffix, task):
    path = tmp_path / f"train{suffix}"
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=f"are for --task {task}"):
        read_texts(path, TaskConfig())


def test_held_out_examples_that_are_trained_on_are_counted(tmp_path, capsys):
    for name, lines in (("train", "w1\ta\nw2\tb\nw3\ta\n"), ("dev", "w2\tb\nw4\ta\n")):
        text = f"text\tlabel\n{lines}"
        (tmp_path / f"{name}.tsv").write_text(text, encoding="utf-8")
    cfg = TaskConfig(train=tmp_path / "train.tsv", dev=tmp_path / "dev.tsv")
    read_examples(task_named("classification"), cfg)
    assert "1 of these 2 examples are trained on too" in capsys.readouterr().out
    task, cfg = task_named("classification"), TaskConfig(train=cfg.train, dev=1 / 3)
    train = read_examples(task, cfg).train
    assert "trained on too" not in capsys.readouterr().out
    assert read_trained_on(task, cfg, train.sha256()) == train
    assert read_trained_on(task, cfg, "of another file") is None


def test_examples_are_known_by_texts_labels_and_order():
    def digest(texts, labels):
        return LabelledTexts(texts, labels).sha256()

    base = digest((("a",), ("b",)), ("x", "y"))
    assert base == digest((("a",), ("b",)), ("x", "y"))
    others = {
        digest((("b",), ("a",)), ("y", "x")),
        digest((("a",), ("b",)), ("y", "x")),
        digest((("a",), ("c",)), ("x", "y")),
        digest((("a", "b"),), ("x",)),
    }
    assert len(others) == 4
    assert base not in others


# Rows.


def test_layout_of_a_single_text(words):
    rows = encode_texts(words, [("w1 W2",), ("w3 what w4 w5 w6 w7",)], [1, 0], 6)
    assert rows.input_ids.tolist() == [[2, 6, 7, 3, 0, 0], [2, 8, 1, 9, 10, 3]]
    assert rows.input_mask.tolist() == [[1, 1, 1, 1, 0, 0], [1] * 6]
    assert not rows.segment_ids.any()
    assert rows.labels.tolist() == [1, 0]
    assert rows.example.tolist() == [0, 1]
    arrays = [x for x in vars(rows).values() if isinstance(x, np.ndarray)]
    assert {x.dtype for x in arrays} == {np.dtype(np.int32)}
    assert rows.num_cut == 1


def test_scores_stay_float32(words):
    rows = encode_texts(words, [("w1",), ("w2",)], np.float64([0.25, 5.0]), 6)
    assert rows.labels.dtype == np.float32
    assert rows.batch(np.array([1]), 2).labels.tolist() == [5.0, 5.0]


def test_layout_of_a_pair(words):
    rows = encode_texts(words, [("w1", "w2 w3"), ("w1 w4", "w5")], [0, 1], 8)
    assert rows.input_ids.tolist() == [
        [2, 6, 3, 7, 8, 3, 0, 0],
        [2, 6, 9, 3, 10, 3, 0, 0],
    ]
    assert rows.segment_ids.tolist() == [
        [0, 0, 0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 1, 0, 0],
    ]
    assert rows.input_mask.tolist() == [[1] * 6 + [0] * 2] * 2


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=9),
    st.integers(5, 90),
)
@settings(max_examples=100)
def test_pairs_lose_the_end_of_the_longer_text(words, sizes, length):
    texts = [
        (
            " ".join(f"w{n}" for n in range(a)),
            " ".join(f"w{n}" for n in range(100, 100 + b)),
        )
        for a, b in sizes
    ]
    rows = encode_texts(words, texts, [0] * len(texts), length)
    assert rows.input_ids.shape == (len(texts), length)
    for row, (a, b) in enumerate(sizes):
        one, two = list(range(5, 5 + a)), list(range(105, 105 + b))
        while len(one) + len(two) > length - 3:
            # Of two that are now as long, the one that was shorter, as in `tokenizers`.
            is_first = (len(one), a <= b) > (len(two), a > b)
            (one if is_first else two).pop()
        expected = [2, *one, 3, *two, 3]
        spare = [0] * (length - len(expected))
        assert rows.input_ids[row].tolist() == expected + spare
        assert rows.input_mask[row].tolist() == [1] * len(expected) + spare
        segments = [0] * (len(one) + 2) + [1] * (len(two) + 1)
        assert rows.segment_ids[row].tolist() == segments + spare


def test_batches_fill_up_without_weight(words):
    texts = [(f"w{n}",) for n in range(5)]
    rows = encode_texts(words, texts, [0, 1, 2, 3, 4], 4)
    batch = rows.batch(np.array([3, 1]), 4)
    assert batch.weights.tolist() == [1.0, 1.0, 0.0, 0.0]
    assert batch.weights.dtype == np.float32
    assert batch.labels[:2].tolist() == [3, 1]
    assert batch.input_ids[:2, 1].tolist() == [8, 6]
    assert {len(x) for x in batch} == {4}
    # Filler is real rows: a row without tokens would make NaN of an attention.
    assert (batch.input_mask.sum(1) == 3).all()
    assert rows.batch(np.arange(4), 4).weights.tolist() == [1.0] * 4
