"""Characters that no model should see are removed, and counted."""

from hypothesis import given
from hypothesis import strategies as st
from source_files import read

from bert_jax.data.text.cleaning import cleaned, decoded
from bert_jax.data.text.documents import ReadStats


def test_bad_bytes_and_controls_are_counted(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(
        b"\xef\xbb\xbfcaf\xe9 \xff\xfe ok\r\nbell\x07 form\x0cfeed caf\xc3\xa9\r\n"
        + b"ok" * 200  # If more than 1 % is wrong, it is not UTF-8 at all.
    )
    stats = ReadStats()
    [document] = read(str(path), stats)
    assert (
        document.text == "caf\ufffd \ufffd\ufffd ok\nbell form feed café\n" + "ok" * 200
    )
    assert (stats.undecodable_bytes, stats.control_characters) == (3, 2)
    both = stats + stats
    assert (both.documents, both.undecodable_bytes) == (2, 6)


def test_lone_surrogate_in_json_can_be_written_again(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"text": "bad \\ud800 one", "key": "\\udfff", "group": "g\\ud800"}'
    )
    stats = ReadStats()
    [document] = read(str(path), stats)
    assert document.text.encode() == b"bad \xef\xbf\xbd one"
    assert (document.key.encode(), document.group.encode()) == (b"?", b"g?")
    assert stats.undecodable_bytes == 1


@given(text=st.text(st.characters(codec=None)))
def test_what_is_cleaned_can_be_written_and_is_counted(text):
    stats = ReadStats()
    result, utf8, uncommon = cleaned(*decoded(text, stats), stats)
    assert utf8 == result.encode()
    common = {*map(chr, range(0x20, 0x7F)), "\n"}
    assert uncommon == set(result) - common
    assert stats.undecodable_bytes == sum("\ud800" <= c <= "\udfff" for c in text)
    assert stats.characters == len(result)
    assert stats.text_bytes == len(result.encode())
    assert result == result.strip()
    ordinary = result.translate(dict.fromkeys(map(ord, "\t\n")))
    assert not any(c < " " or "\x7f" <= c <= "\x9f" for c in ordinary)
    assert cleaned(result, utf8, ReadStats()) == (result, utf8, uncommon)


def test_line_ends():
    stats = ReadStats()
    found = cleaned("a\r\nb\rc\n\r\nd\r\n", b"a\r\nb\rc\n\r\nd\r\n", stats)
    assert found == ("a\nb\nc\n\nd", b"a\nb\nc\n\nd", frozenset())
