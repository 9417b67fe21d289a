"""Blank lines, encodings and cut files: what plain text is, and what it is not."""

import pytest
from source_files import (
    COMPRESSORS,
    read,
)

from bert_jax.data.text.documents import ReadStats

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
