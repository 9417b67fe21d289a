"""Plain text, JSON lines and WikiExtractor's output, whole, in ranges and damaged."""

import contextlib
import dataclasses
import itertools
import json
import lzma
import pathlib
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from source_files import (
    COMPRESSORS,
    FORMATS,
    JSON_LINES,
    PLAIN,
    WIKI,
    read,
    write_tar,
)

from bert_jax.config import ReadOptions
from bert_jax.data.text import formats
from bert_jax.data.text.documents import Document, ReadStats
from bert_jax.data.text.reading import read_section
from bert_jax.data.text.sentences import sentences
from bert_jax.data.text.sources import divide, open_source

ONE_FILE = ReadOptions(documents="file")
SMALL = ReadOptions(max_document_bytes=1024)


@pytest.mark.parametrize("suffix", COMPRESSORS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_and_compression(tmp_path, name, suffix):
    text, expected = FORMATS[name]
    path = tmp_path / f"{name}{suffix}"
    path.write_bytes(COMPRESSORS[suffix](text.encode()))
    stats = ReadStats()
    documents = read(f"files:{path}", stats)
    assert [document.text for document in documents] == expected
    assert len({document.key for document in documents}) == len(documents)
    assert stats == ReadStats(
        documents=len(expected),
        characters=sum(map(len, expected)),
        text_bytes=sum(len(text.encode()) for text in expected),
        disk_bytes=path.stat().st_size,
        paragraph_documents=len(expected) if name == "a.txt" else 0,
    )


def test_keys_and_groups(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.jsonl").write_text(JSON_LINES)
    (tmp_path / "deep" / "wiki_00").write_text(WIKI)
    found = [(d.key, d.group) for d in read(f"files:{tmp_path}/**/*")]
    offset = JSON_LINES.index('{"text": "Three')
    assert found == [
        ("k1", "g1"),
        (f"deep/a.jsonl#{offset}", f"deep/a.jsonl#{offset}"),
        ("deep/wiki_00#12", "http://en.wikipedia.org/wiki?curid=12"),
        ("deep/wiki_00#7", "http://en.wikipedia.org/wiki?curid=7"),
    ]


def test_keys_of_plain_text_are_offsets_of_its_decompressed_bytes(tmp_path):
    text = "\ufeff\n\nFirst é.\n\nSecond.\n"
    for suffix, compress in COMPRESSORS.items():
        path = tmp_path / f"a.txt{suffix}"
        path.write_bytes(compress(text.encode()))
        keys = [document.key for document in read(str(path))]
        assert keys == [f"a.txt{suffix}#5", f"a.txt{suffix}#16"]
        assert read(str(path))[0].text == "First é."


def test_both_outputs_of_wikiextractor_group_alike(tmp_path):
    address = "http://en.wikipedia.org/wiki?curid=12"
    record = {"id": "12", "url": address, "title": "A", "text": "A & B\n\nText."}
    (tmp_path / "wiki_00").write_text(json.dumps(record) + "\n")
    [document] = read(f"files:{tmp_path}/wiki_00")
    assert document == Document.of("A & B\n\nText.", "wiki_00#0", address)


def test_one_document_a_file(tmp_path):
    (tmp_path / "a.txt").write_text(PLAIN)
    (tmp_path / "b.jsonl").write_text(JSON_LINES)
    documents = read(f"files:{tmp_path}/*", options=ONE_FILE)
    assert documents[0] == Document.of(PLAIN.strip(), "a.txt", "a.txt")
    assert [document.text for document in documents[1:]] == FORMATS["a.jsonl"][1]
    # However it is divided, the document is in the range with its first byte.
    [section, _] = open_source(f"files:{tmp_path}/*").sections
    ranges = [(0, 2), (2, 9), (9, None)]
    texts = [
        len(list(read_section(dataclasses.replace(part, start=start, end=end))))
        for start, end in ranges
        for part in [dataclasses.replace(section, is_range=True)]
    ]
    assert texts == [0, 1, 1]
    counts = [
        len(list(read_section(part, options=ONE_FILE)))
        for start, end in ranges
        for part in [dataclasses.replace(section, is_range=True, start=start, end=end)]
    ]
    assert counts == [0, 1, 0]


def test_another_field_of_json(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"body": "One.", "key": 7}\n{"body": "Two.", "key": ""}\n')
    documents = read(str(path), options=ReadOptions(text_field="body"))
    assert [(d.text, d.key) for d in documents] == [
        ("One.", "7"),
        ("Two.", "a.jsonl#27"),
    ]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "wiki_00", "one.txt"])
def test_giant_documents_are_cut_into_some_of_one_group(tmp_path, name):
    options = ONE_FILE if name == "one.txt" else ReadOptions()
    options = dataclasses.replace(options, max_document_bytes=1024)
    sentence = "Ein Satz über Straßen. "
    text = "\n".join(sentence * n for n in (3, 90, 40, 1)).strip()
    bodies = {
        "a.txt": f"Small.\n\n{text}\n\nLast.",
        "one.txt": text,
        "a.jsonl": "".join(
            json.dumps({"text": t, "key": k}) + "\n"
            for k, t in {"s": "Small.", "giant": text, "l": "Last."}.items()
        ),
        "wiki_00": f'<doc id="1">\nSmall.\n</doc>\n<doc id="giant" url="u">\n{text}\n'
        '</doc>\n<doc id="3">\nLast.\n</doc>\n',
    }
    (tmp_path / name).write_text(bodies[name])
    stats = ReadStats()
    documents = read(f"files:{tmp_path}/*", stats, options)
    giant = documents if name == "one.txt" else documents[1:-1]
    # 3,200 bytes in pieces between 512 and 1,024.
    assert 4 <= len(giant) <= 7
    assert stats.cut_documents == 1
    assert stats.documents == len(documents)
    assert " ".join(" ".join(d.text for d in giant).split()) == " ".join(text.split())
    assert all(len(d.text.encode()) <= 1024 and d.text[-1] == "." for d in giant)
    first = giant[0]
    assert [d.key for d in giant] == [
        first.key,
        *(f"{first.key}/{n}" for n in range(2, len(giant) + 1)),
    ]
    assert {d.group for d in giant} == {first.group}
    if name != "one.txt":
        assert [d.text for d in (documents[0], documents[-1])] == ["Small.", "Last."]


def test_empty_documents_are_counted(tmp_path):
    (tmp_path / "a.txt").write_text("One.\n\n\x07\n\nTwo.\n")
    (tmp_path / "b.jsonl").write_text('{"text": ""}\n{"text": " \\n"}\n{"text": "x"}\n')
    (tmp_path / "wiki_00").write_text('<doc id="1">\n</doc>\n<doc id="2">\nx\n</doc>\n')
    stats = ReadStats()
    assert len(read(f"files:{tmp_path}/*", stats)) == 4
    assert (stats.documents, stats.empty_documents) == (4, 4)


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("a.jsonl", b'{"text": "fine"}\n{"text": \n', r"a\.jsonl, line 2: not JSON"),
        ("a.jsonl", b'\n{"body": "x"}\n', r'a\.jsonl, line 2: .* no string "text"'),
        ("a.jsonl", b'["text"]\n', r"a\.jsonl, line 1: "),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl, line 1: not JSON"),
        ("a.jsonl", b'{"text": ' + b"9" * 5_000 + b"}", r"line 1: not JSON"),
        ("a.jsonl", b'\n\n{"text": "x", "key": {}}', "line 3: {} is no key"),
        ("a.txt", b"", "is empty"),
        ("a.txt", b" \n\n", "holds no document; "),
        ("a.txt", b"\x07\n\n\x07", "holds no document, but 2 empty ones"),
        ("a.jsonl", b'{"content": "x", "n": [1]}', r"content \(a string\), n \(a list"),
        ("a.jsonl", b'{"text": ["x"]}', r"are text \(a list\)\. .*--read\.text-field"),
        ("a.jsonl", b'{"data": {"text": "x"}}', r"are data \(an object\)"),
        ("a.json", b'[{"text": "x"},\n{"text": "y"}]', r"jq -c '\.\[\]'"),
        ("a.json", b'{\n "text": "x"\n}', r"jq -c '\.'"),
        ("a.csv", b"text,label\nx,1\n", "of a table, write the column"),
        (
            "a.tsv.gz",
            COMPRESSORS[".gz"](b"text\tlabel\n"),
            "of a table, write the column",
        ),
        ("a.txt", "text".encode("utf-16"), "UTF-16.* iconv -f UTF-16 -t UTF-8"),
        ("a.txt", "text".encode("utf-32"), "UTF-32"),
        ("a.txt", "text and more".encode("utf-16-le"), "is UTF-16LE without a mark"),
        (
            "a.txt",
            "text and more".encode("utf-16-be"),
            "is UTF-16BE .*iconv -f UTF-16BE",
        ),
        ("a.txt", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1", "is not text; .* Take the"),
        ("a.bin", bytes(range(256)), "is not text"),
        ("a.txt", b' {"text": "' + b"x" * 99_999, r"is JSON, .* Call it \.jsonl"),
        ("a.txt", b'[\n {"text": "x"}]', r"is JSON, .* Call it \.jsonl"),
        ("a.warc.wet", b"WARC/1.0\r\n", r"web archive \(WARC\).* as \.jsonl"),
        ("a.txt", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("a.html", b"<p>x</p>", "not of a kind that can be read"),
        ("a.xml.bz2", b"BZh9", "not of a kind that can be read"),
        ("a.txt", lzma.compress(b"text"), r"compressed \(\.xz\), which its name"),
        ("a.txt.gz", b"not gzip", r"Cannot read .*a\.txt\.gz"),
        ("a.tar.gz", b"not tar", r"Cannot read .*a\.tar\.gz"),
        ("wiki_00", WIKI[:120].encode(), "line 1: this <doc> is not closed"),
        ("wiki_00", f"{WIKI}stray\n".encode(), r"line 13: 'stray' stands outside"),
        (
            "wiki_00",
            WIKI.replace("</doc>\n", "", 1).encode(),
            "line 1: this <doc> is not closed",
        ),
    ],
)
def test_wrong_files_are_named(tmp_path, name, body, message):
    (tmp_path / name).write_bytes(body)
    with pytest.raises(ValueError, match=message):
        read(f"files:{tmp_path}/*")


@pytest.mark.parametrize("target", [None, 1 << 10])
def test_a_table_in_an_archive_is_refused_as_outside_of_one(tmp_path, target):
    members = {"a.txt": b"One. " * 999, "b/c.csv": b"text,label\n" + b"x,1\n" * 999}
    write_tar(tmp_path / "a.tar", members)
    source = open_source(f"files:{tmp_path}/a.tar")
    sections = source.sections if target is None else divide(source, target, tmp_path)
    with pytest.raises(
        ValueError, match=r"^a\.tar/b/c\.csv is not of a kind .* a table"
    ):
        list(itertools.chain.from_iterable(map(read_section, sections)))


def test_a_record_that_memory_could_not_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "MAX_RECORD_BYTES", 2 << 20)
    line = json.dumps({"text": "x" * (2 << 20)})
    (tmp_path / "a.jsonl").write_text(f'{{"text": "fine"}}\n{line}\n')
    with pytest.raises(ValueError, match="line 2: longer than 2 MiB"):
        read(f"files:{tmp_path}/*")


def test_the_line_is_known_in_a_range_and_in_an_archive(tmp_path):
    body = b'{"text": "fine"}\n' * 50 + b"wrong\n" + b'{"text": "fine"}\n' * 50
    (tmp_path / "a.jsonl").write_bytes(body)
    [section] = open_source(f"files:{tmp_path}/a.jsonl").sections
    half = dataclasses.replace(section, start=len(body) // 3, end=len(body))
    with pytest.raises(ValueError, match=r"a\.jsonl, line 51: not JSON"):
        list(read_section(half))
    members = {"x/1.txt": b"One.", "x/2.jsonl": body}
    write_tar(tmp_path / "b.tar.xz", members)
    with pytest.raises(ValueError, match=r"b\.tar\.xz/x/2\.jsonl, line 51: not JSON"):
        read(f"files:{tmp_path}/b.tar.xz")


def outcome(section, options=SMALL):
    """Documents, or `None` for an error."""
    try:
        return list(read_section(section, options=options))
    except ValueError:
        return None


FRAGMENTS = {
    "a.txt": ["a", "Word. ", " ", "\t", "\n", "\r\n", "\n\n", "\n \r\n", "é" * 600],
    "a.jsonl": [
        *('{"text": "a"}', '{"text": ""}', '{"text": "b\\n\\nc", "key": "k"}'),
        *("\n", "\r\n", "\n\n", " ", json.dumps({"text": "x y. " * 500})),
    ],
    "wiki_00": [
        *('<doc id="1" url="u">\n', "<doc >\n", "</doc>\n", "\n</doc>", "\r\n", "\n"),
        *("text ", "&lt;doc&gt;\n", "<doc\n", "One. Two. " * 200),
        *('<doc id="2">\nText.\n\nMore.\n</doc>\n', "<doc x>\n</doc>\r\n") * 3,
    ],
}


@pytest.mark.parametrize("name", FRAGMENTS)
@given(data=st.data())
def test_ranges_hold_every_document_once(name, data, tmp_path_factory):
    """Whatever the file, wherever it is divided; and it is refused whole or not at all."""
    parts = data.draw(st.lists(st.sampled_from(FRAGMENTS[name]), max_size=14))
    opening = {"wiki_00": '<doc id="0">\n', "a.jsonl": "", "a.txt": ""}[name]
    mark = data.draw(st.sampled_from(["", "\ufeff"]))
    body = (mark + opening + "".join(parts)).encode() or b" "
    path = pathlib.Path(tmp_path_factory.getbasetemp(), name)
    path.write_bytes(body)
    [section] = open_source(f"files:{path}").sections
    section = dataclasses.replace(section, is_range=True)
    whole = outcome(section)
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=4).map(sorted))
    bounds = [0, *cuts, len(body)]
    by_range = [
        outcome(dataclasses.replace(section, start=bounds[k], end=bounds[k + 1]))
        for k in range(len(bounds) - 1)
    ]
    if whole is None:
        assert None in by_range
    else:
        assert None not in by_range
        assert list(itertools.chain.from_iterable(by_range)) == whole


@pytest.mark.parametrize("name", FRAGMENTS)
@given(data=st.data())
def test_no_bytes_do_worse_than_a_clear_error(name, data, tmp_path_factory):
    fragments = [fragment.encode() for fragment in FRAGMENTS[name]]
    parts = st.one_of(st.sampled_from(fragments), st.binary(max_size=20))
    path = pathlib.Path(tmp_path_factory.getbasetemp(), name)
    path.write_bytes(
        b"".join(data.draw(st.lists(parts, max_size=20))) or b"\xef\xbb\xbf"
    )
    stats = ReadStats()
    [section] = open_source(f"files:{path}").sections
    documents = []
    with contextlib.suppress(ValueError):
        for document in read_section(section, stats):
            documents.append(document)
        assert documents
        assert stats.disk_bytes == section.size_bytes
    assert stats.documents == len(documents)
    assert stats.characters == sum(len(d.text) for d in documents)
    assert stats.text_bytes == sum(len(d.text.encode()) for d in documents)
    assert all(d.text == d.text.strip() and d.key for d in documents)


@given(body=st.binary(max_size=300))
def test_no_byte_of_plain_text_is_dropped_silently(body, tmp_path_factory):
    path = pathlib.Path(tmp_path_factory.getbasetemp(), "plain.txt")
    # Enough letters to be taken for text: the wrong bytes lie beyond what is judged.
    body = b"." * (1 << 16) + body + b"."
    path.write_bytes(body)
    stats = ReadStats()
    [document] = read(str(path), stats, ONE_FILE)
    decoded = body.decode("utf-8", "surrogateescape")
    assert stats.undecodable_bytes == sum("\ud800" <= c <= "\udfff" for c in decoded)
    assert document.text.count("\ufffd") == stats.undecodable_bytes + decoded.count(
        "\ufffd"
    )
    kept = decoded.replace("\r\n", "\n")
    removed = sum(c < " " and c not in "\t\n\r" for c in kept)
    removed += sum("\x7f" <= c <= "\x9f" for c in kept)
    assert stats.control_characters == removed
    separators = sum(c in "\x0b\x0c\x1c\x1d\x1e\x1f\x85" for c in kept)
    assert len(document.text) == len(kept) - removed + separators


def test_real_wikipedia(shared_data):
    [path] = (shared_data / "enwiki").glob("*.tar.xz")
    first = []
    with tarfile.open(path, "r|xz") as archive:
        member = next(m for m in archive if m.isfile())
    for document in read_section(open_source(f"files:{path}").sections[0]):
        if not document.key.startswith(f"{path.name}/{member.name}#"):
            break
        first.append(document)
    assert first[0].text.startswith("Gunpowder\n\nGunpowder, also known as black")
    assert first[0].group == "http://en.wikipedia.org/wiki?curid=12737"
    # The tags are a small part of the 1.0 MB.
    assert sum(len(d.text.encode()) for d in first) > 0.98 * member.size
    assert len({d.key for d in first}) == len(first)
    assert len(sentences(first[0].text)) > 100
