"""Rows of Parquet files as documents."""

import io
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from source_files import read, write_tar

from bert_jax.config import ReadOptions
from bert_jax.data.text.documents import Document, ReadStats
from bert_jax.data.text.reading import read_section
from bert_jax.data.text.sources import divide, open_source

TEXTS = ["One.", "Two\nlines.", "", None, " \n", "Ünï.", "x" * 5_000]
KEPT = ["One.", "Two\nlines.", "Ünï.", "x" * 5_000]


def parquet(row_group_size: int = 3, **columns) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, row_group_size=row_group_size)
    return file.getvalue()


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.string(), pa.large_string(), pa.binary(), pa.large_binary()),
        pa.dictionary(pa.int32(), pa.string()),
    ],
    ids=str,
)
def test_columns_of_text(tmp_path, kind):
    column = pa.array(TEXTS, pa.string()).cast(kind)
    (tmp_path / "a.parquet").write_bytes(parquet(text=column, other=range(7)))
    stats = ReadStats()
    documents = read(f"files:{tmp_path}/*", stats)
    assert [document.text for document in documents] == KEPT
    assert [document.key for document in documents] == [
        f"a.parquet#{row}" for row in (0, 1, 5, 6)
    ]
    assert (stats.documents, stats.empty_documents) == (4, 3)
    assert stats.disk_bytes == (tmp_path / "a.parquet").stat().st_size


def test_rows_may_bring_keys_and_groups(tmp_path):
    rows = parquet(
        body=["One.", "Two.", "Three.", "Four."],
        key=["a", None, "", "d"],
        group=["g", "g", None, None],
        url=[None, "u", "u", "u"],
    )
    (tmp_path / "a.parquet").write_bytes(rows)
    documents = read(f"files:{tmp_path}/*", options=ReadOptions(text_field="body"))
    assert documents == [
        Document.of("One.", "a", "g"),
        Document.of("Two.", "a.parquet#1", "g"),
        Document.of("Three.", "a.parquet#2", "u"),
        Document.of("Four.", "d", "u"),
    ]


def test_wrong_bytes_and_giants_are_treated_as_in_text(tmp_path):
    giant = b"A sentence. " * 200
    column = pa.array([b"caf\xe9", giant], pa.binary())
    (tmp_path / "a.parquet").write_bytes(parquet(text=column))
    stats = ReadStats()
    documents = read(f"files:{tmp_path}/*", stats, ReadOptions(max_document_bytes=1024))
    assert documents[0].text == "caf\ufffd"
    assert [d.key for d in documents[1:]] == [
        f"a.parquet#1{n}" for n in ("", "/2", "/3")
    ]
    assert " ".join(d.text for d in documents[1:]) == giant.decode().strip()
    assert (stats.undecodable_bytes, stats.cut_documents) == (1, 1)


def test_row_groups_are_shared_out(tmp_path):
    draw = random.Random(0)
    texts = [draw.randbytes(500).hex() for _ in range(40)]
    rows = parquet(row_group_size=4, text=texts)
    (tmp_path / "a.parquet").write_bytes(rows)
    write_tar(tmp_path / "b.tar", {"rows.parquet": rows})
    source = open_source(f"files:{tmp_path}/*")
    whole = [d for section in source.sections for d in read_section(section)]
    sections = divide(source, len(rows) // 5, tmp_path)
    assert [d for section in sections for d in read_section(section)] == whole
    spans = [(section.start, section.end) for section in sections]
    assert spans == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10)] * 2
    assert sum(section.size_bytes for section in sections[:5]) == len(rows)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"body": ["One."]}, r"no column 'text' of text; it has body \(string\)"),
        ({"text": [1, 2]}, r"no column 'text' of text; it has text \(int64\)"),
        ({"text": ["One."], "key": [1.5]}, "row 0: 1.5 is no key or group"),
        ({"text": ["", " "]}, "holds no document, but 2 empty ones"),
    ],
)
def test_wrong_columns_are_named(tmp_path, columns, message):
    (tmp_path / "a.parquet").write_bytes(parquet(**columns))
    with pytest.raises(ValueError, match=message):
        read(f"files:{tmp_path}/*")


@pytest.mark.parametrize("names", [["text", "text"], ["text", "key", "key"]])
def test_a_doubled_column_is_named(tmp_path, names):
    table = pa.table([["One."]] * len(names), names=names)
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=f"has several columns '{names[-1]}'"):
        read(f"files:{tmp_path}/*")


ROWS = parquet(text=KEPT[:3])


@given(place=st.integers(0, len(ROWS) - 1), value=st.integers(0, 255))
def test_damage_is_an_error_or_shows(place, value, tmp_path_factory):
    """Pages carry no checksum: a letter may change, but no row may be lost."""
    damaged = bytearray(ROWS)
    damaged[place] = value
    path = tmp_path_factory.getbasetemp() / "damaged.parquet"
    path.write_bytes(damaged)
    stats = ReadStats()
    try:
        read(str(path), stats)
    except ValueError:
        return
    assert stats.documents + stats.empty_documents == 3


def test_checksums_are_checked_where_there_are_any(tmp_path):
    table = pa.table({"text": ["A sentence."] * 3})
    path = tmp_path / "a.parquet"
    options = {"compression": "none", "use_dictionary": False}
    pq.write_table(table, path, write_page_checksum=True, **options)
    assert len(read(str(path))) == 3
    path.write_bytes(path.read_bytes().replace(b"A sentence.", b"Another one"))
    with pytest.raises(ValueError, match=r"Cannot read .*a\.parquet: .*CRC"):
        read(str(path))


@pytest.mark.parametrize("size", [1, 4, 100, len(ROWS) - 1])
def test_a_cut_file_is_an_error(tmp_path, size):
    (tmp_path / "a.parquet").write_bytes(ROWS[:size])
    with pytest.raises(ValueError, match=r"a\.parquet is not Parquet, or damaged"):
        read(f"files:{tmp_path}/*")
