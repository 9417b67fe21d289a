"""Reading documents from files, and the corpus and task made from documentation."""

import gzip
import io
import json
import lzma
import pathlib
import pickle
import subprocess
import sys
import tarfile

import pytest

from bert_jax.data import corpus, docs, docstrings, library_task

WIKI = """\
<doc id="12" url="http://en.wikipedia.org/wiki?curid=12" title="A &amp; B">
A &amp; B

First paragraph of A.
History.
Second paragraph.
</doc>
<doc id="7" url="http://en.wikipedia.org/wiki?curid=7" title="Say "so"">
Say "so"

Only one.
</doc>
"""
JSON_LINES = (
    '{"text": "One.\\nTwo.", "key": "k1", "group": "g1"}\n\n{"text": "Three."}\n'
)
PLAIN = "\n\nFirst line.\nSecond line.\n\n  \nNext document.\n"
FORMATS = {
    "a.txt": (PLAIN, ["First line.\nSecond line.", "Next document."]),
    "a.jsonl": (JSON_LINES, ["One.\nTwo.", "Three."]),
    "wiki_00": (
        WIKI,
        [
            "A & B\n\nFirst paragraph of A.\nHistory.\nSecond paragraph.",
            'Say "so"\n\nOnly one.',
        ],
    ),
}
COMPRESSORS = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}


def read(spec: str, stats: corpus.ReadStats | None = None) -> list[corpus.Document]:
    units = corpus.open_source(spec).units
    return [document for unit in units for document in corpus.read_unit(unit, stats)]


def write_tar(path: pathlib.Path, members: dict[str, bytes]) -> None:
    mode = "w:gz" if path.suffix == ".gz" else "w:xz"
    with tarfile.open(path, mode) as archive:
        for name, body in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))


@pytest.mark.parametrize("suffix", COMPRESSORS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_and_compression(tmp_path, name, suffix):
    text, expected = FORMATS[name]
    path = tmp_path / f"{name}{suffix}"
    path.write_bytes(COMPRESSORS[suffix](text.encode()))
    stats = corpus.ReadStats()
    documents = read(f"files:{path}", stats)
    assert [document.text for document in documents] == expected
    assert len({document.key for document in documents}) == len(documents)
    assert stats == corpus.ReadStats(
        documents=len(expected), characters=sum(map(len, expected))
    )


def test_keys_and_groups(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.jsonl").write_text(JSON_LINES)
    (tmp_path / "deep" / "wiki_00").write_text(WIKI)
    found = [(d.key, d.group) for d in read(f"files:{tmp_path}/**/*")]
    assert found == [
        ("k1", "g1"),
        ("deep/a.jsonl#3", "deep/a.jsonl#3"),
        ("deep/wiki_00#12", "http://en.wikipedia.org/wiki?curid=12"),
        ("deep/wiki_00#7", "http://en.wikipedia.org/wiki?curid=7"),
    ]


def test_keys_do_not_name_the_machine(tmp_path):
    keys = []
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "a.txt"
        path.write_text(PLAIN)
        keys.append([document.key for document in read(str(path))])
        assert keys[-1] == [d.key for d in read(f"files:{tmp_path / folder}/*.txt")]
    assert keys[0] == keys[1] == ["a.txt#0", "a.txt#1"]


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.xz"])
def test_archive_parts_cover_each_member_once(tmp_path, monkeypatch, suffix):
    members = {f"AA/wiki_{k}": f"Document {k}.".encode() for k in range(7)}
    members["AA/.hidden"] = b"no"
    members["AA/packed.jsonl.gz"] = gzip.compress(JSON_LINES.encode())
    path = tmp_path / f"dump{suffix}"
    write_tar(path, members)
    whole = read(str(path))
    monkeypatch.setattr(corpus, "TAR_BYTES_PER_PART", path.stat().st_size // 3 + 1)
    units = corpus.open_source(str(path)).units
    assert len(units) == 3
    parts = [list(corpus.read_unit(pickle.loads(pickle.dumps(u)))) for u in units]
    assert all(parts)
    flat = [document for part in parts for document in part]
    assert sorted(flat, key=lambda d: d.key) == sorted(whole, key=lambda d: d.key)
    assert len(flat) == 9
    assert whole[0].key == f"dump{suffix}/AA/wiki_0#0"


def test_bad_bytes_and_controls_are_counted(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(
        b"\xef\xbb\xbfcaf\xe9 \xff\xfe ok\r\nbell\x07 form\x0cfeed caf\xc3\xa9\r\n"
    )
    stats = corpus.ReadStats()
    [document] = read(str(path), stats)
    assert document.text == "caf\ufffd \ufffd\ufffd ok\nbell form feed café"
    assert (stats.undecodable_bytes, stats.control_characters) == (3, 2)
    both = stats + stats
    assert (both.documents, both.undecodable_bytes) == (2, 6)


def test_lone_surrogate_in_json_can_be_written_again(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "bad \\ud800 one"}\n')
    [document] = read(str(path))
    assert document.text.encode() == b"bad \xef\xbf\xbd one"


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("a.jsonl", b'{"text": "fine"}\n{"text": \n', r"a\.jsonl, line 2: not JSON"),
        ("a.jsonl", b'\n{"body": "x"}\n', r'a\.jsonl, line 2: .* no string "text"'),
        ("a.jsonl", b'["text"]\n', r"a\.jsonl, line 1: "),
        ("a.txt", b"", "is empty"),
        ("a.txt", b" \n\n", "holds no document"),
        ("a.txt", "text".encode("utf-16"), "UTF-16"),
        ("a.bin", bytes(range(256)), "is not text"),
        ("a.parquet", b"PAR1", "not of a kind that can be read"),
        ("a.txt.gz", b"not gzip", r"Cannot read .*a\.txt\.gz"),
        ("a.txt.xz", lzma.compress(b"x" * 99)[:-20], r"Cannot read .*a\.txt\.xz"),
        ("a.tar.gz", b"not tar", r"Cannot read .*a\.tar\.gz"),
        ("wiki_00", WIKI[:120].encode(), "line 1: this <doc> is not closed"),
        ("wiki_00", f"{WIKI}stray\n".encode(), r"line 13: 'stray' stands outside"),
    ],
)
def test_wrong_files_are_named(tmp_path, name, body, message):
    (tmp_path / name).write_bytes(body)
    with pytest.raises(ValueError, match=message):
        read(f"files:{tmp_path}/*")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("files:nowhere/*.txt", "matches no file"),
        ("tfds:wikipedia", "'tfds':, which is not known"),
        ("files:/", "is a folder"),
        ("docs:no_such_package_here", "'no_such_package_here' is not installed"),
    ],
)
def test_wrong_specs(spec, message):
    with pytest.raises(ValueError, match=message):
        corpus.open_source(spec)


def test_sentences():
    text = "Dr. Smith  came, e.g. today.\tHe left!\n\nA heading\nIs it 3.5?  Yes."
    assert corpus.sentences(text) == [
        "Dr. Smith came, e.g. today.",
        "He left!",
        "A heading",
        "Is it 3.5?",
        "Yes.",
    ]
    assert corpus.sentences(" \n\t\n") == []


def test_validation_group_is_the_same_in_every_process():
    groups = [f"group {k}" for k in range(2_000)]
    held_out = [corpus.validation_group(group, 0.1) for group in groups]
    # A share of 0.1 over 2,000 draws: five standard deviations are 0.034.
    assert sum(held_out) / 2_000 == pytest.approx(0.1, abs=0.034)
    assert not any(corpus.validation_group(group, 0.0) for group in groups)
    wider = [corpus.validation_group(group, 0.2) for group in groups]
    assert all(b for a, b in zip(held_out, wider, strict=True) if a)
    program = (
        "from bert_jax.data.corpus import validation_group as v\n"
        "print([k for k in range(2000) if v(f'group {k}', 0.1)])"
    )
    said = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert json.loads(said) == [k for k in range(2_000) if held_out[k]]
    with pytest.raises(ValueError, match=r"1\.5 is not in"):
        corpus.validation_group("x", 1.5)


def test_real_wikipedia(shared_data):
    [path] = (shared_data / "enwiki").glob("*.tar.xz")
    first = []
    with tarfile.open(path, "r|xz") as archive:
        member = next(m for m in archive if m.isfile())
    for document in corpus.read_unit(corpus.open_source(f"files:{path}").units[0]):
        if not document.key.startswith(f"{path.name}/{member.name}#"):
            break
        first.append(document)
    assert first[0].text.startswith("Gunpowder\n\nGunpowder, also known as black")
    assert first[0].group == "http://en.wikipedia.org/wiki?curid=12737"
    # The tags are a small part of the 1.0 MB.
    assert sum(len(d.text.encode()) for d in first) > 0.98 * member.size
    assert len({d.key for d in first}) == len(first)
    assert len(corpus.sentences(first[0].text)) > 100


DOCSTRING = """
    Return the thing, see :func:`~numpy.linalg.norm` and ``x.T`` [1]_.

    A paragraph that is wrapped
    over two lines, with *emphasis*.

    .. versionadded:: 1.2

    .. note:: The text of a note
        `stays` where it is.

    Parameters
    ----------
    x : {array_like, None}, optional
        The array to work with,
        or nothing at all.

    Examples
    --------
    This is how it is used::

        y = thing(x)

    >>> thing(3)
    3 is what it prints

    ====  =====
    name  value
    ====  =====
    a is  the first one of it
    ====  =====

    References
    ----------
    .. [1] Somebody, "A book of the things", 1999.
"""


def test_docstrings_become_prose():
    assert docstrings.prose(DOCSTRING) == (
        "Return the thing, see norm and x.T.",
        "A paragraph that is wrapped over two lines, with emphasis.",
        "The text of a note stays where it is.",
        "The array to work with, or nothing at all.",
        "This is how it is used:",
    )
    google = (
        "Makes a thing.\n\nArgs:\n  key: the key of the thing\n    that is made.\n"
        "  *others (int): what else there is.\n\nReturns:\n  A thing of the shape that"
        "\n  ``key`` has. See [2]_ for more.\n\nRaises:\n  ValueError: if it is wrong."
    )
    assert docstrings.prose(google) == (
        "The key of the thing that is made.",
        "What else there is.",
        "A thing of the shape that key has. See the literature for more.",
        "If it is wrong.",
    )


def test_docs_do_not_depend_on_workers(tmp_path):
    spec, one, two = "docs:optax,grain", tmp_path / "one", tmp_path / "two"
    alone = corpus.open_source(spec, docs_dir=one, num_workers=1)
    corpus.open_source(spec, docs_dir=two, num_workers=2)
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in two.iterdir())
    assert len(names) == 9
    assert all((one / n).read_bytes() == (two / n).read_bytes() for n in names)

    documents = [d for unit in alone.units for d in corpus.read_unit(unit)]
    assert documents == read(f"files:{one}/documents-*.jsonl")
    assert len({document.key for document in documents}) == len(documents) > 100
    assert all("\n\n" not in d.text and ">>>" not in d.text for d in documents)
    assert {d.group.partition(":")[0] for d in documents} == {"optax", "grain"}


def test_whole_docs_corpus_is_kept_and_a_broken_one_written_again(tmp_path):
    seen = []
    options = {"packages": ["optax"], "num_workers": 1, "num_files": 3}
    first = docs.write_docs_corpus(
        tmp_path, progress=lambda done, total: seen.append((done, total)), **options
    )
    assert not first["reused"]
    assert seen[-1][0] == seen[-1][1] == len(seen)
    assert docs.write_docs_corpus(tmp_path, **options)["reused"]
    (tmp_path / "documents-00001-of-00003.jsonl").write_text("{}")
    again = docs.write_docs_corpus(tmp_path, **options)
    assert not again["reused"]
    assert again["files"] == first["files"]
    assert not docs.write_docs_corpus(tmp_path, **options | {"num_files": 2})["reused"]
    assert len(list(tmp_path.glob(docs.FILE_PATTERN))) == 2


def test_task_splits_share_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(library_task, "MIN_TRAIN_SENTENCES", 20)
    monkeypatch.setattr(library_task, "MIN_VALIDATION_SENTENCES", 5)
    docs.write_docs_corpus(tmp_path, packages=["optax", "grain"], num_workers=1)
    fraction = 0.3
    summary, again = (
        library_task.write_library_task(
            tmp_path,
            tmp_path / folder,
            validation_fraction=fraction,
            max_train=400,
            max_validation=100,
            seed=3,
        )
        for folder in ("task", "again")
    )
    assert summary == again
    rows = {}
    for split, limit in (("train", 400), ("validation", 100)):
        text = (tmp_path / "task" / f"{split}.tsv").read_text()
        header, *lines = text.removesuffix("\n").split("\n")
        assert header == "text\tlabel"
        rows[split] = [tuple(line.split("\t")) for line in lines]
        assert 0.5 * limit < len(lines) <= limit
        assert {label for _, label in rows[split]} == {"optax", "grain"}
    assert not {text for text, _ in rows["train"]} & {t for t, _ in rows["validation"]}

    groups: dict[str, set[str]] = {"train": set(), "validation": set()}
    group_of: dict[str, set[str]] = {}
    for document in read(f"files:{tmp_path}/{docs.FILE_PATTERN}"):
        for sentence in corpus.sentences(document.text):
            shown = library_task.without_library_names(sentence)
            group_of.setdefault(shown, set()).add(document.group)
    for split in groups:
        for text, _ in rows[split]:
            groups[split] |= group_of[text]
    assert not groups["train"] & groups["validation"]
    assert all(corpus.validation_group(g, fraction) for g in groups["validation"])


def test_library_names_are_not_in_the_question():
    hidden = library_task.without_library_names
    assert (
        hidden("np.asarray gives jax.numpy arrays, as NumPy's own scikit-learn does.")
        == "Library gives library arrays, as library's own library does."
    )
    assert hidden("Objects with __jax_array__ and fine-grained plots.") == (
        "Objects with library and fine-grained plots."
    )
    assert hidden("Use tensorflow_datasets or tf.data in Python 3.") == (
        "Use library or library in library 3."
    )


def test_task_needs_two_libraries(tmp_path):
    docs.write_docs_corpus(tmp_path, packages=["optax"], num_workers=1)
    with pytest.raises(ValueError, match="two are needed"):
        library_task.write_library_task(
            tmp_path,
            tmp_path / "task",
            validation_fraction=0.1,
            max_train=10,
            max_validation=10,
            seed=0,
        )
