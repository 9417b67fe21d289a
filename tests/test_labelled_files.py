"""Labelled files as people bring them: what is read, how it is said, what is refused."""

import csv
import io
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_jax.config import TaskConfig
from bert_jax.data.labelled.labels import numbers_of, ordered, spelling_warnings
from bert_jax.data.labelled.texts import read_texts
from bert_jax.data.labelled.unlabelled import read_unlabelled


@pytest.fixture
def load(tmp_path):
    """load(name, content, **settings) -> LabelledTexts of a file of that content."""

    def call(name, content, *, numbers=False, **fields):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_texts(path, TaskConfig(**fields), numbers=numbers)

    return call


AB = ((("a",), ("b",)), ("1", "0"))
"""Texts and labels of most files below."""


@pytest.mark.parametrize(
    ("name", "content", "how"),
    [
        ("x.txt", "text\tlabel\na\t1\nb\t0\n", "UTF-8, fields between tabs"),
        ("x.csv", "text;label\na;1\nb;0\n", "fields between semicolons"),
        ("x.tsv", "text,label\na,1\nb,0\n", "fields between commas"),
        ("x.csv", "text|label\na|1\nb|0\n", "fields between '|'"),
        ("X.CSV", "text,label\na,1\nb,0\n", "commas"),
        ("x.csv", "text,label\ra,1\rb,0\r", "commas"),
        ("x.tsv", "text\tlabel\r\na\t1\r\n\r\nb\t0", "tabs"),
        ("x.csv", "text,label,,\na,1,,\nb,0,,\n", "commas"),
        ("x.csv", "text,label\na,1,\nb,0,,\n", "commas"),
        ("x.csv", ",text,label\n0,a,1\n1,b,0\n", "commas"),
        ("x.csv", 'label, text\n1, "a"\n 0 , b\n', "quotes enclose fields"),
        ("x.tsv", "text\tlabel\na\t1\nb\t0\n".encode("utf-16"), "UTF-16-LE, "),
        ("x.tsv", "text\tlabel\na\t1\nb\t0\n".encode("utf-8-sig"), "UTF-8, "),
        ("x.tsv", "Sentence\tClass\na\t1\nb\t0\n", "'Sentence' (by its name), label "),
        (
            "x.jsonl",
            '{"label": 1, "text": "a"}\n{"text": "b", "label": 0}',
            "one JSON ",
        ),
    ],
)
def test_many_kinds_are_read_alike(load, name, content, how):
    found = load(name, content)
    assert (found.texts, found.labels) == AB
    assert how in found.reading.how


def test_parquet_is_read(tmp_path):
    for label in ([1, 0], pa.array(["1", "0"]).dictionary_encode()):
        pq.write_table(
            pa.table({"text": ["a", "b"], "label": label}), tmp_path / "x.parquet"
        )
        found = read_texts(tmp_path / "x.parquet", TaskConfig())
        assert (found.texts, found.labels) == AB
    pq.write_table(
        pa.table({"text": ["a", None], "label": [1, 0]}), tmp_path / "x.parquet"
    )
    with pytest.raises(
        ValueError, match=r"x\.parquet, row 2: nothing in column 'text'"
    ):
        read_texts(tmp_path / "x.parquet", TaskConfig())
    (tmp_path / "x.parquet").write_text("text")
    with pytest.raises(ValueError, match="is not Parquet, or damaged"):
        read_texts(tmp_path / "x.parquet", TaskConfig())


def test_a_folder_for_each_class(tmp_path):
    for name, text in {
        "pos/2.txt": "good",
        "pos/10.txt": "fine",
        "neg/1.txt": "bad",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "pos/.DS_Store").write_bytes(b"\xff")
    (tmp_path / "urls.txt").write_text("http")
    found = read_texts(tmp_path, TaskConfig())
    assert found.texts == (("bad",), ("fine",), ("good",))
    assert found.labels == ("neg", "pos", "pos")
    assert "1 files outside of the folders not read" in found.reading.how
    with pytest.raises(ValueError, match="would be ignored"):
        read_texts(tmp_path, TaskConfig(text=("a",)))
    for ignored in ({"delimiter": ";"}, {"quotes": "text"}):
        with pytest.raises(
            ValueError, match="ignored, since a folder names its columns"
        ):
            read_texts(tmp_path, TaskConfig(**ignored))
    (tmp_path / "pos/deep").mkdir()
    with pytest.raises(ValueError, match="is a folder inside of"):
        read_texts(tmp_path, TaskConfig())
    with pytest.raises(ValueError, match="is a folder without folders of text files"):
        read_texts(tmp_path / "pos/deep", TaskConfig())


def test_delimiter_encoding_and_header_have_flags(load):
    bare = {"header": False, "text": ("1",), "label": "2"}
    found = load("x.csv", "a;1\nb;0\n", delimiter=";", **bare)
    assert (found.texts, found.labels) == AB
    assert load("x.csv", "a^1\nb^0\n", delimiter="^", **bare) == found
    assert load("x.csv", "a\t1\nb\t0\n", delimiter="tab", **bare) == found
    found = load("x.csv", "text,label\né,1\n".encode("latin-1"), encoding="latin-1")
    assert found.texts == (("é",),)
    assert not found.reading.warnings
    found = load("x.csv", "text,label\né,1\n", encoding="latin-1")
    assert "is valid UTF-8, but was read as" in found.reading.warnings[0]


@pytest.mark.parametrize("encoding", ["utf-8", "punycode"])
def test_bytes_of_another_encoding_are_named(load, encoding):
    """The error of punycode has no place of a byte."""
    with pytest.raises(ValueError, match=rf"line 1: byte .* is not {encoding.upper()}"):
        load("x.csv", b"\xe9text,label\n", encoding=encoding)


def test_of_columns_that_differ_in_case_one_can_be_named(load):
    found = load("x.csv", "Text,label,text\na,1,x\nb,0,y\n", text=("Text",))
    assert (found.texts, found.labels) == AB


def test_a_long_field_is_read(load):
    found = load("x.csv", f"text,label\n{'x' * 200_000},1\nb,0\n")
    assert len(found.texts[0][0]) == 200_000


def test_rows_without_text_or_label_are_left_out_on_request(load):
    content = "text,label\na,1\n,0\n  ,0\nc,\nd\nb,0\n"
    found = load("x.csv", content, skip_incomplete=True)
    assert (found.texts, found.labels) == AB
    assert found.reading.num_skipped == 4
    with pytest.raises(ValueError, match=r"line 3: nothing.* --skip-incomplete"):
        load("x.csv", content)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.tsv", "text\tlabel\ttext\nA\t1\tB\n", "names the column 'text' twice"),
        ("x.tsv", "text\tlabel\tText\nA\t1\tB\n", "the columns 'text' and 'Text', and"),
        ("x.tsv", "Label\tlabel\ttext\nA\t1\tB\n", "'Label' and 'label', and each"),
        ("x.jsonl", '{"text": "a", "text": "b", "label": 1}', "'text' twice"),
        ("x.csv", 'label,text\n1,a\n0,"b\n1,c\n0,d\n', "line 3: the quotes of the row"),
        (
            "x.csv",
            'label,text\n1,a\n0,"b\n1,c\n0,"d\n',
            "line 3: the quotes of the row",
        ),
        ("x.csv", 'label,text\n0,"a "b" c"\n', "line 2: the quotes of the row"),
        (
            "x.jsonl",
            '{"text": ["a", "fox"], "label": 0}',
            "line 1: column 'text' holds",
        ),
        ("x.jsonl", '{"text": {"a": 1}, "label": 0}', "a dict; expected a text"),
        ("x.jsonl", '{"text": "a\\ud800", "label": 0}', "holds half of a character"),
        ("x.jsonl", '{"text": 5, "label": 0}', "holds 5, a int; expected a text"),
        ("x.jsonl", '{"text": "a", "label": ["x", "y"]}', "Pass --task multilabel"),
        ("x.jsonl", '{"text": "a", "label": NaN}', "line 1: column 'label' holds nan"),
        (
            "x.jsonl",
            '{"text": "a", "label": null}',
            "line 1: nothing in column 'label'",
        ),
        ("x.jsonl", '[{"text": "a", "label": 1}]', "line 1: a line must be an object"),
        ("x.tsv", "text\tlabel\na\t1\nb\tnan\nc\t0\n", "line 3: the label is 'nan'"),
        ("x.csv", "text,label\na,1\nb,inf\n", "line 3: the label is 'inf'"),
        (
            "x.tsv",
            "a fine film\t1\nbad\t0\n",
            "the columns are a fine film, 1. Set --text",
        ),
        ("x.csv", "text label\na 1\n", "and the first row is 'a 1'"),
        ("x.csv", "a;b|c\nd;e|f\n", "pass --delimiter ';'. If"),
        ("x.csv", "text,label\na,1\ntext,label\nb,0\n", "line 3 repeats the header"),
        (
            "x.csv",
            "text,label\na,1\nb, c,0\n",
            "line 3: more fields (3) than the header",
        ),
        ("x.tsv", "text\tlabel\na\0b\t1\n", "line 2: the text holds a NUL character"),
        ("x.tsv", "text\tlabel\n".encode("utf-16-le"), "--encoding utf-16-le"),
        ("x.csv", b"text,label\na,1\n\xe9,0\n", "line 3: byte 0xE9 is not UTF-8"),
        ("x.csv", b"text,label\na,1\n\xe9,0\n", "--encoding latin-1"),
        ("x.jsonl", '{}\n{"a": "b"}', "the columns are a, and the first row is ''"),
        ("x.csv", "\n\n", "holds no rows"),
        ("x.jsonl", "", "holds no rows"),
    ],
)
def test_what_cannot_be_meant_is_refused(load, tmp_path, name, content, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        load(name, content)
    assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize(
    ("content", "fields", "message"),
    [
        (
            "text\tlabel\na\t1\n",
            {"text": ("1",), "label": "2"},
            "reads like",
        ),
        ("a\t1\nb\t0\n", {}, "The first line has the fields 1: 'a', 2: '1'"),
    ],
)
def test_a_header_that_is_there_or_not_is_noticed(load, content, fields, message):
    with pytest.raises(ValueError, match=message):
        load("x.tsv", content, header=False, **fields)


@pytest.mark.parametrize(
    "fields", [{"header": False}, {"delimiter": ";"}, {"quotes": "text"}]
)
def test_what_a_jsonl_would_ignore_is_refused(load, fields):
    with pytest.raises(ValueError, match="would be ignored"):
        load("x.jsonl", '{"text": "a", "label": 1}', **fields)


# Quotes of files with tabs.


CSV = "quotes enclose fields"
TEXT = "quotes are part of the text"


@pytest.mark.parametrize(
    ("rows", "texts", "how"),
    [
        ('"he said ""yes"""\t1\nplain\t0\n', ('he said "yes"', "plain"), CSV),
        ('"two\nlines"\t1\nplain\t0\n', ("two\nlines", "plain"), CSV),
        ('"a\ttab"\t1\nplain\t0\n', ("a\ttab", "plain"), CSV),
        # Published files do not quote: one mark that is not so makes all of them text.
        ('"a ""b"""\t1\n5 " disk\t0\n', ('"a ""b"""', '5 " disk'), TEXT),
        ('"It is .\t1\nno "\t0\n', ('"It is .', 'no "'), TEXT),
    ],
)
def test_quotes_are_pandas_only_if_all_of_them_are(load, rows, texts, how):
    found = load("x.tsv", f"text\tlabel\n{rows}")
    assert tuple(text for (text,) in found.texts) == texts
    assert how in found.reading.how


def test_the_meaning_of_quotes_can_be_given(load):
    content = 'text\tlabel\n"a"\t1\nb\t0\n'
    assert load("x.tsv", content).texts[0] == ("a",)
    assert load("x.tsv", content, quotes="text").texts[0] == ('"a"',)


@given(
    st.lists(
        st.tuples(st.text('ab" ,;\n', min_size=1), st.text('x"', min_size=1)),
        min_size=1,
    )
)
@settings(max_examples=200)
@pytest.mark.parametrize(("name", "delimiter"), [("x.tsv", "\t"), ("x.csv", ",")])
def test_what_a_csv_writer_wrote_comes_back(tmp_path_factory, name, delimiter, rows):
    rows = [row for row in rows if row[0].strip()]
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows(
        [("text", "label"), *rows]
    )
    path = tmp_path_factory.getbasetemp() / name
    path.write_text(file.getvalue(), newline="")
    if rows:
        found = read_texts(path, TaskConfig())
        assert [
            (text, label)
            for (text,), label in zip(found.texts, found.labels, strict=True)
        ] == rows


# Labels.


def test_integers_are_ordered_as_numbers():
    assert ordered(str(n) for n in range(12)) == tuple(str(n) for n in range(12))
    assert ordered(["10", "-1", "9"]) == ("-1", "9", "10")
    assert ordered(["10", "9", "x"]) == ("10", "9", "x")
    assert ordered(["2" * 4_301, "1" * 4_301]) == ("1" * 4_301, "2" * 4_301)
    # Equal as floats.
    long = ("12345678901234567", "12345678901234568")
    assert ordered(long) == long


@pytest.mark.parametrize("other", ["0.0", "+0", "00", "0e0"])
def test_one_number_in_two_spellings_is_refused(other):
    with pytest.raises(ValueError, match="are one number in several spellings"):
        ordered(["0", other, "1"])


@pytest.mark.parametrize("other", ["positive", "POSITIVE", "Positive\u200b"])
def test_spellings_that_look_alike_are_warned_about(other):
    [warning] = spelling_warnings(["Positive", other, "negative"])
    assert "differ in spelling only" in warning
    assert not spelling_warnings(["Positive", "Positive", "negative"])


def test_blanks_around_a_label_are_left_out(load):
    assert load("x.tsv", "text\tlabel\na\t1\nb\t 1 \n").labels == ("1", "1")
    assert load("x.jsonl", '{"text": "a", "label": true}').labels == ("true",)


def test_a_label_in_another_spelling_is_named_with_the_known_one():
    for unknown in ("1.0", "Yes"):
        with pytest.raises(ValueError, match=r"the model spells it '(1|yes)'"):
            numbers_of([unknown], ["0", "1", "yes"])


def test_a_sample_keeps_every_class_in_its_share(load):
    names = [str(n) for n in range(77) for _ in range(3 + 10 * (n < 7))]
    content = "text\tlabel\n" + "".join(f"t{n}\t{x}\n" for n, x in enumerate(names))
    whole = load("x.tsv", content)
    for count in (77, 100, 200):
        found = whole.sample(count, whole.labels)
        assert len(found) == count
        assert set(found.labels) == set(names)
        more = whole.sample(count + 20, whole.labels)
        assert {*found.texts} <= {*more.texts}
    # 7 of 77 classes hold 91 of 301 examples.
    large = sum(int(label) < 7 for label in found.labels)
    assert large == pytest.approx(200 * 91 / 301, abs=6)


# Texts to predict on.


@pytest.mark.parametrize(
    ("name", "content", "texts", "ids"),
    [
        ("x.csv", 'id,text\n7,"a, b"\n8,\n9,c\n', ["a, b", "", "c"], ["7", "8", "9"]),
        ("x.jsonl", '{"text": "a"}\n{"text": null, "label": 3}\n', ["a", ""], None),
        ("x.txt", "a\n\nb, c\n", ["a", "", "b, c"], None),
        ("x.txt", "a\r\n\r\nb\r\n\r\n", ["a", "", "b", ""], None),
        ("x.txt", "label\ttext\n1\ta\n0\tb\n", ["a", "b"], None),
    ],
)
def test_files_without_labels(tmp_path, name, content, texts, ids):
    (tmp_path / name).write_text(content, newline="")
    found = read_unlabelled(tmp_path / name, TaskConfig(text=("text",)))
    assert [text for (text,) in found.texts] == texts
    assert found.ids == ids


def test_a_pair_is_two_columns_or_has_a_tab_between(tmp_path):
    cfg = TaskConfig(text=("a", "b"))
    (tmp_path / "x.txt").write_text("one\ttwo\n")
    (tmp_path / "y.jsonl").write_text(json.dumps({"b": "two", "a": "one"}))
    for name in ("x.txt", "y.jsonl"):
        assert read_unlabelled(tmp_path / name, cfg).texts == [("one", "two")]
