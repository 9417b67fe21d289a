"""Blank lines, encodings and cut files: what plain text is, and what it is not."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_files import (
    COMPRESSORS,
    read,
)

from bert_jax.config import ReadOptions
from bert_jax.data.source_description import describe_sources
from bert_jax.data.text.documents import ReadStats, source_counts
from bert_jax.data.text.sources import open_source

BLANK_LINES = {
    "nothing": "",
    "a tab": "\t",
    "a form feed": "\f",
    "an ideographic space": "\u3000",
    "two ideographic spaces": " \u3000\u3000\r",
    "no-break spaces": "\u00a0\u202f",
    "an em space": "\u2003",
    "a next-line character": "\x85",
    "a line separator": "\u2028",
    "a zero-width space": "\u200b",
    "a mark of direction": "\u200f",
    "a byte order mark": "\ufeff",
    "a Mongolian vowel separator": "\u180e",
    "a word joiner": "\u2060",
    "an Ogham space": "\u1680",
}


@pytest.mark.parametrize("line", BLANK_LINES.values(), ids=BLANK_LINES)
def test_a_line_without_a_visible_character_is_blank(tmp_path, line):
    path = tmp_path / "a.txt"
    # In binary, so that no line end is translated.
    text = f"{line}\n\nA.\n{line}\nB.\n{line}\n{line}\n{line}\nC.\n"
    path.write_bytes(text.encode())
    stats = ReadStats()
    assert [document.text for document in read(str(path), stats)] == ["A.", "B.", "C."]
    assert stats.empty_documents == 0


def test_a_line_of_separators_of_files_and_units_is_blank(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("A. " * 99 + "\n\x1c\x1d\n" + "B. " * 99 + "\n\x1e\x1f\nC.")
    assert [document.text[0] for document in read(str(path))] == ["A", "B", "C"]


@pytest.mark.parametrize("line", ["\u3164", "\u2800", "\u0301", "\u00ad", "*"])
def test_other_lines_are_text(tmp_path, line):
    path = tmp_path / "a.txt"
    path.write_text(f"A.\n{line}\nB.\n", encoding="utf-8")
    assert [document.text for document in read(str(path))] == [f"A.\n{line}\nB."]


def test_an_indented_paragraph_goes_on(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\u3000\u3000A\u3002\n\u3000\u3000B\u3002\n", encoding="utf-8")
    [document] = read(str(path))
    assert document.text == "A\u3002\n\u3000\u3000B\u3002"


ENCODED = {
    "latin-1": "Der Flu\u00df.\n\n",
    "cp1252": "He said \u201chi\u201d.\n\n",
    "cp1251": "\u0420\u0435\u043a\u0430.\n\n",
    "gb18030": "\u6cb3\u6d41\u3002\n\n",
    "shift_jis": "\u5ddd\u3067\u3059\u3002\n\n",
    "euc-kr": "\uac15\ubb3c.\n\n",
}


@pytest.mark.parametrize("repeats", [1, 20_000])
@pytest.mark.parametrize("encoding", ENCODED)
def test_another_encoding_is_named_with_the_way_out(tmp_path, encoding, repeats):
    path = tmp_path / "a.txt"
    path.write_bytes(b"A river.\n" + (ENCODED[encoding] * repeats).encode(encoding))
    with pytest.raises(ValueError, match=r"a\.txt, line 2: .*not UTF-8.* iconv -f"):
        read(str(path))


def test_utf8_is_not_taken_for_another_encoding(tmp_path):
    for name, text in ENCODED.items():
        (tmp_path / f"{name}.txt").write_text(text * 5_000, encoding="utf-8")
        # The limit of what is judged cuts a character in one of these.
        (tmp_path / f"{name}2.txt").write_text("." + text * 5_000, encoding="utf-8")
    stats = ReadStats()
    assert len(read(f"files:{tmp_path}/*", stats)) == 2 * 5_000 * len(ENCODED)
    assert stats.undecodable_bytes == 0


def test_null_is_an_empty_document_in_json_as_in_parquet(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": null}\n{"text": "x"}\n')
    stats = ReadStats()
    assert [document.text for document in read(str(path), stats)] == ["x"]
    assert stats.empty_documents == 1


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".bz2", ".zst"])
def test_a_compressed_file_cut_short_is_named(tmp_path, suffix):
    packed = COMPRESSORS[suffix](b"".join(b"River %d.\n\n" % n for n in range(400)))
    (tmp_path / f"a.txt{suffix}").write_bytes(packed[:-20])
    with pytest.raises(ValueError, match=rf"a\.txt{suffix}: .*ends too early"):
        read(f"files:{tmp_path}/*")


def test_carriage_returns_alone_end_lines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"A.\rB.\r\rC.\r \r" * 9_000 + b"D.")
    found = [document.text for document in read(str(path))]
    assert found == ["A.\nB.", "C."] * 9_000 + ["D."]
    path.write_bytes(b"x" * ((1 << 16) - 1) + b"\r\n\r\ny")
    assert [document.text[-1] for document in read(str(path))] == ["x", "y"]


def test_a_form_feed_within_a_line_is_a_space(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"A.\fB.\n\f\nC.")
    assert [document.text for document in read(str(path))] == ["A. B.", "C."]


def described(source, stats):
    [line] = describe_sources(source_counts(open_source(source), [stats]), 0)
    return line


def test_how_documents_were_found_is_told(tmp_path):
    (tmp_path / "a.txt").write_text("A.\nB.\n")
    (tmp_path / "b.txt").write_text("A.\n\nB.\n")
    stats = ReadStats()
    read(f"files:{tmp_path}/*", stats)
    line = described(f"files:{tmp_path}/*", stats)
    assert "3 of them divided by blank lines" in line
    assert "1 file that came out as one document, without a blank line inside" in line


BROKEN = [
    *("{", '{"text": 3}', '{"text": "x", "key": [1]}', "[1]", '{"other": "x"}'),
    '{"text": "x", "text": "y"}',
]


def test_broken_lines_are_skipped_on_request(tmp_path):
    path = tmp_path / "a.jsonl"
    good = [json.dumps({"text": f"Text {n}."}) for n in range(3)]
    path.write_text("\n".join([good[0], *BROKEN[:3], good[1], *BROKEN[3:], good[2]]))
    stats = ReadStats()
    options = ReadOptions(skip_broken=len(BROKEN))
    found = read(str(path), stats, options=options)
    assert [document.text for document in found] == ["Text 0.", "Text 1.", "Text 2."]
    assert (stats.documents, stats.broken_records) == (3, len(BROKEN))
    assert stats.empty_documents == 0
    assert "6 broken records left out" in described(str(path), stats)
    with pytest.raises(ValueError, match=re.escape("line 8: ")):
        read(str(path), options=ReadOptions(skip_broken=len(BROKEN) - 1))
    with pytest.raises(ValueError, match=re.escape("line 2: ")):
        read(str(path))


def test_a_file_of_broken_lines_alone_is_refused_by_the_flag_that_hides_them(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(['{"text": " "}', *BROKEN]))
    said = (
        "1 empty ones; expected text. Take away --read.skip-broken 6 to read what is "
    )
    with pytest.raises(ValueError, match=f"{said}wrong with the 6 records that it "):
        read(str(path), options=ReadOptions(skip_broken=len(BROKEN)))


def test_broken_rows_are_skipped_on_request(tmp_path):
    path = tmp_path / "a.parquet"
    keys = pa.array([1.5, None, 2.5])
    pq.write_table(pa.table({"text": ["a", "b", None], "key": keys}), path)
    stats = ReadStats()
    found = read(str(path), stats, options=ReadOptions(skip_broken=2))
    assert [document.text for document in found] == ["b"]
    assert stats.broken_records == 2
    with pytest.raises(ValueError, match=r"row 2: 2\.5 is no key"):
        read(str(path), options=ReadOptions(skip_broken=1))


def test_the_rest_of_a_long_line_is_part_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr("bert_jax.data.text.formats.MAX_RECORD_BYTES", 1_000)
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "' + "x " * 3_000 + '"}\n{"text": "y"}\n')
    stats = ReadStats()
    found = read(str(path), stats, options=ReadOptions(skip_broken=1))
    assert [document.text for document in found] == ["y"]
    assert stats.broken_records == 1
