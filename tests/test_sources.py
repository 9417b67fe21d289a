"""What a source names, and how it is divided without a change to what is read."""

import gzip
import multiprocessing
import os
import pathlib
import pickle
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_files import COMPRESSORS, JSON_LINES, PLAIN, WIKI, read, tar_of, write_tar

from bert_jax.data.text import division
from bert_jax.data.text.documents import Document, ReadStats
from bert_jax.data.text.formats import Record
from bert_jax.data.text.reading import read_section, read_source
from bert_jax.data.text.registry import KINDS, Kind
from bert_jax.data.text.sections import Section, Source
from bert_jax.data.text.sources import divide, open_source

TEXTS = [f"Document {n}.\n" + f"Line {n}. " * (n % 23) for n in range(120)]


def read_sections(sections: tuple[Section, ...], stats: ReadStats) -> list[Document]:
    # As worker processes get them.
    sections = pickle.loads(pickle.dumps(sections))
    return [
        document for section in sections for document in read_section(section, stats)
    ]


def wiki_of(texts: list[str]) -> bytes:
    return "".join(
        f'<doc id="{n}" url="u{n}">\n{text}\n</doc>\n' for n, text in enumerate(texts)
    ).encode()


def write_everything(folder: pathlib.Path) -> None:
    """Every kind of file, each of several kilobytes."""
    plain, wiki = "\n\n".join(TEXTS).encode(), wiki_of(TEXTS)
    for suffix, compress in COMPRESSORS.items():
        (folder / f"plain.txt{suffix}").write_bytes(compress(plain))
    table = pa.table({"text": TEXTS, "key": [f"p{n}" for n in range(len(TEXTS))]})
    pq.write_table(table, folder / "rows.parquet", row_group_size=7)
    rows = (folder / "rows.parquet").read_bytes()
    (folder / "rows.parquet.zst").write_bytes(COMPRESSORS[".zst"](rows))
    members = {
        "AA/wiki_00": wiki,
        "AA/small_0.txt": b"Small 0.",
        "AA/small_1.jsonl": JSON_LINES.encode(),
        "BB/rows.parquet": rows,
        "BB/packed.txt.gz": gzip.compress(plain),
        **{f"CC/{n}.txt": text.encode() for n, text in enumerate(TEXTS)},
    }
    for suffix in ("", ".gz", ".xz", ".zst"):
        write_tar(folder / f"all.tar{suffix}", members)


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    folder = tmp_path_factory.mktemp("everything")
    write_everything(folder)
    return folder


@pytest.mark.parametrize("target", [100, 1_500, 10_000, 1 << 30])
def test_divided_sources_hold_the_same_documents(everything, tmp_path, target):
    source = open_source(f"files:{everything}/*")
    whole, divided = ReadStats(), ReadStats()
    expected = read_sections(source.sections, whole)
    sections = divide(source, target, tmp_path / "work")
    assert read_sections(sections, divided) == expected
    named = [document.key for document in expected if "#" in document.key]
    assert len(set(named)) == len(named) > 2_000
    assert whole.disk_bytes == source.size_bytes
    assert divided.disk_bytes == sum(section.size_bytes for section in sections)
    whole.disk_bytes = divided.disk_bytes = 0
    assert divided == whole


def test_progress_goes_forward(everything, tmp_path):
    source = open_source(f"files:{everything}/*")
    for section in (*source.sections, *divide(source, 1_500, tmp_path / "work")):
        stats = ReadStats(disk_bytes=100)
        done = [stats.disk_bytes - 100 for _ in read_section(section, stats)]
        assert done == sorted(done)
        assert all(0 <= size <= section.size_bytes for size in done)
        assert stats.disk_bytes == 100 + section.size_bytes


def test_progress_of_a_section_is_its_own(tmp_path):
    (tmp_path / "a.txt").write_text("One document.\n\n" * 100_000)
    sections = divide(
        open_source(f"files:{tmp_path}/a.txt"), 500_000, tmp_path / "work"
    )
    assert len(sections) == 3
    for section in sections:
        stats = ReadStats()
        next(read_section(section, stats))
        # The blocks that were read ahead.
        assert 0 < stats.disk_bytes < 200_000


def test_sections_are_of_about_the_target(tmp_path):
    draw = random.Random(0)
    plain = "\n\n".join(draw.randbytes(99).hex() for _ in range(500)).encode()
    (tmp_path / "plain.txt").write_bytes(plain)
    (tmp_path / "plain.txt.xz").write_bytes(COMPRESSORS[".xz"](plain))
    members = {f"AA/{n}.txt": b"x" * 900 for n in range(50)}
    write_tar(tmp_path / "small.tar", members)
    write_tar(tmp_path / "large.tar", {"a.txt": plain, "b.txt": b"Small."})
    (tmp_path / "tiny.txt.gz").write_bytes(gzip.compress(b"Tiny."))
    target = 10_000
    sections = divide(open_source(f"files:{tmp_path}/*"), target, tmp_path / "work")
    sizes: dict[str, list[int]] = {}
    for section in sections:
        sizes.setdefault(section.name, []).append(section.size_bytes)
    assert list(sizes) == [
        *("large.tar/a.txt", "large.tar", "plain.txt", "plain.txt.xz", "small.tar"),
        "tiny.txt.gz",
    ]
    assert sum(sizes["plain.txt"]) == sum(sizes["large.tar/a.txt"]) == len(plain)
    assert sum(sizes["plain.txt.xz"]) == len(plain), "unpacked"
    for name in ("plain.txt", "plain.txt.xz", "large.tar/a.txt"):
        assert all(0.6 * target < size < 1.5 * target for size in sizes[name])
    # 1,536 bytes each, with their headers.
    assert sizes["small.tar"] == [7 * 1_536] * 7 + [1_536]


def test_unpacked_files_are_used_again(tmp_path):
    path = tmp_path / "a.txt.zst"
    # A frame without compression, nor a checksum.
    body = b"Stored text. " + os.urandom(1_000).hex().encode()
    frame = (b"\x28\xb5\x2f\xfd\x60", len(body) - 256, 1 | len(body) << 3)
    path.write_bytes(
        frame[0]
        + frame[1].to_bytes(2, "little")
        + frame[2].to_bytes(3, "little")
        + body
    )
    source, work = open_source(str(path)), tmp_path / "work"
    sections = divide(source, 100, work)
    [unpacked] = work.iterdir()
    inode = unpacked.stat().st_ino
    assert divide(source, 100, work) == sections
    assert unpacked.stat().st_ino == inode
    # Another file at the same place is another file, though of the same size.
    size = path.stat().st_size
    path.write_bytes(path.read_bytes().replace(b"Stored", b"Edited"))
    os.utime(path, ns=(1, 1))
    changed = divide(open_source(str(path)), 100, work)
    assert path.stat().st_size == size
    assert next(read_section(changed[0])).text.startswith("Edited")


def test_a_broken_unpacking_leaves_nothing_that_counts(tmp_path, monkeypatch):
    path = tmp_path / "a.txt.gz"
    packed = gzip.compress(os.urandom(3_000).hex().encode())
    path.write_bytes(packed[:-9])
    source, work = open_source(str(path)), tmp_path / "work"
    with pytest.raises(ValueError, match=r"Cannot read .*a\.txt\.gz: .*too early"):
        divide(source, 100, work)
    assert not list(work.glob("*.unpacked"))

    def killed(*args):
        raise KeyboardInterrupt

    path.write_bytes(packed)
    with monkeypatch.context() as patched:
        patched.setattr(division.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            divide(open_source(str(path)), 100, work)
    assert not list(work.glob("*.unpacked"))
    sections = divide(open_source(str(path)), 100, work)
    assert sum(section.size_bytes for section in sections) == 6_000


def test_no_room_to_unpack_is_said(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(os.urandom(3_000).hex().encode()))
    (tmp_path / "work").write_text("a file where the folder should be")
    with pytest.raises(ValueError, match=r"Cannot unpack .*a\.txt\.gz to .*work"):
        divide(open_source(str(path)), 100, tmp_path / "work")


def test_files_that_changed_since_are_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("One.\n\n" * 100)
    source = open_source(str(path))
    divided = divide(source, 100, tmp_path)
    path.write_text("One.\n\n" * 50)
    for section in (source.sections[0], divided[-1]):
        with pytest.raises(ValueError, match="its 300 bytes are not as many as"):
            list(read_section(section))


def test_damaged_files_are_named_while_dividing(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing else" * 50)
    with pytest.raises(ValueError, match=r"a\.parquet is not Parquet"):
        divide(open_source(f"files:{tmp_path}/a.parquet"), 100, tmp_path / "work")
    (tmp_path / "a.tar").write_bytes(tar_of({"a.txt": b"x" * 9_000})[:8_000])
    with pytest.raises(ValueError, match=r"Cannot read .*a\.tar: unexpected end"):
        divide(open_source(f"files:{tmp_path}/a.tar"), 100, tmp_path / "work")
    (tmp_path / "b.tar").write_bytes(tar_of({".hidden": b"x" * 9_000}))
    with pytest.raises(ValueError, match=r"b\.tar holds no files"):
        divide(open_source(f"files:{tmp_path}/b.tar"), 100, tmp_path / "work")


@pytest.mark.slow(ci=False)
def test_several_processes_divide_alike(everything, tmp_path):
    source = open_source(f"files:{everything}/*")
    alone = divide(source, 1_500, tmp_path / "work")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert divide(source, 1_500, tmp_path / "work", map=pool.map) == alone


def test_keys_do_not_name_the_machine(tmp_path):
    keys = []
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "a.txt"
        path.write_text(PLAIN)
        keys.append([document.key for document in read(str(path))])
        assert keys[-1] == [d.key for d in read(f"files:{tmp_path / folder}/*.txt")]
    second = PLAIN.index("Next")
    assert keys[0] == keys[1] == ["a.txt#2", f"a.txt#{second}"]


def test_keys_name_the_member_of_an_archive(tmp_path):
    write_tar(tmp_path / "dump.tar.xz", {"AA/wiki_0": WIKI.encode(), "b.txt": b"One."})
    keys = [document.key for document in read(f"files:{tmp_path}/dump.tar.xz")]
    assert keys == [
        *("dump.tar.xz/AA/wiki_0#12", "dump.tar.xz/AA/wiki_0#7"),
        "dump.tar.xz/b.txt#0",
    ]


def test_names_that_are_no_text_or_look_like_patterns(tmp_path):
    (tmp_path / "a[1].txt").write_text("One.")
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("Two.")
    assert [d.key for d in read(f"{tmp_path}/a[1].txt")] == ["a[1].txt#0"]
    keys = [document.key for document in read(f"files:{tmp_path}/*")]
    assert keys == ["a[1].txt#0", "caf\ufffd.txt#0"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("files:nowhere/*.txt", "matches no file"),
        ("gopher:wikipedia", "'gopher':, which is not a kind of source"),
        ("files:/", "is a folder"),
        ("docs:no_such_package_here", "'no_such_package_here' is not installed"),
    ],
)
def test_wrong_specs(spec, message):
    with pytest.raises(ValueError, match=message):
        open_source(spec)


def test_a_kind_of_source_needs_a_line_in_the_registry_only(tmp_path, monkeypatch):
    def open_squares(request):
        section = Section("squares", "n", 800, kind="squares", end=int(request.rest))
        return Source((request.spec,), (section,))

    def read_squares(section, options):
        for n in range(section.start, section.end):
            done = (n + 1 - section.start) / (section.end - section.start)
            yield Record(str(n * n), f"n#{n}", f"n#{n}", 0, fraction=done)

    monkeypatch.setitem(KINDS, "squares", Kind("squares:N", open_squares, read_squares))
    sections = divide(open_source("squares:8"), 200, tmp_path)
    assert [(x.start, x.end) for x in sections] == [(0, 2), (2, 4), (4, 6), (6, 8)]
    stats = ReadStats()
    texts = [x.text for section in sections for x in read_section(section, stats)]
    assert texts == [str(n * n) for n in range(8)]
    assert (stats.documents, stats.disk_bytes) == (8, 800)
    with pytest.raises(ValueError, match=r"files:GLOB, .*docs: or squares:N"):
        open_source("cubes:8")


def test_several_sources_are_one_corpus(tmp_path):
    for folder, name in (("a", "x"), ("b", "x"), ("b", "y")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}.txt").write_text(f"Text {folder}{name}.")
    specs = [f"files:{tmp_path}/a/*", f"files:{tmp_path}/b/*.txt"]
    source = open_source(specs)
    assert source.specs == tuple(specs)
    assert [section.source for section in source.sections] == [0, 1, 1]
    assert source.num_repeated == 0
    documents = list(read_source(source))
    assert [(d.key, d.text) for d in documents] == [
        ("a/x.txt#0", "Text ax."),
        ("b/x.txt#0", "Text bx."),
        ("b/y.txt#0", "Text by."),
    ]
    [moved] = open_source([f"{tmp_path}/b/../a/x.txt"]).sections
    assert moved.name == "x.txt"
    with pytest.raises(ValueError, match="No source is given"):
        open_source([])
    with pytest.raises(ValueError, match="matches no file"):
        open_source([*specs, "files:nowhere/*"])


def test_a_file_that_is_named_again_is_read_once(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_text("One.")
    (tmp_path / "deep" / "b.txt").write_text("Two.")
    (tmp_path / "link.txt").symlink_to("a.txt")
    once = open_source(f"files:{tmp_path}/**/*.txt")
    assert [section.name for section in once.sections] == ["a.txt", "deep/b.txt"]
    assert once.num_repeated == 1
    twice = open_source(
        [f"files:{tmp_path}/**/**/[ab].txt", f"{tmp_path}/deep/../a.txt"]
    )
    assert [section.name for section in twice.sections] == ["a.txt", "deep/b.txt"]
    assert twice.num_repeated == 1


def test_sources_are_found_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("One.")
    monkeypatch.chdir(tmp_path)
    source = open_source("files:*.txt")
    assert source.specs == (f"files:{tmp_path}/*.txt",)
    monkeypatch.chdir("/")
    assert [document.text for document in read_source(source)] == ["One."]


def test_files_stand_in_the_order_of_their_bytes(tmp_path):
    names = ["a.txt", "B.txt", "\u00e4.txt", "\ufb01.txt", "\U0001f600.txt"]
    names += [os.fsdecode(b"\xff.txt"), "10.txt", "9.txt"]
    for name in names:
        (tmp_path / name).write_text("Text.")
    found = [section.path for section in open_source(f"files:{tmp_path}/*").sections]
    ordered = sorted(os.fsencode(tmp_path / name) for name in names)
    assert list(map(os.fsencode, found)) == ordered


def test_a_link_to_nothing_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("Text.")
    (tmp_path / "b.txt").symlink_to("gone.txt")
    with pytest.raises(
        ValueError, match=r"b\.txt is a link to gone\.txt, which is not"
    ):
        open_source(f"files:{tmp_path}/*")


def test_a_pipe_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("One.\n")
    os.mkfifo(tmp_path / "b.txt")
    with pytest.raises(ValueError, match=r"b\.txt is a pipe or a device"):
        open_source(f"files:{tmp_path}/*.txt")


def test_folders_are_refused_with_the_name_of_their_files(tmp_path):
    for name in ("a.txt", "b.txt", "c.md"):
        (tmp_path / "deep").mkdir(exist_ok=True)
        (tmp_path / "deep" / name).write_text("Text.")
    with pytest.raises(
        ValueError, match=rf"is a folder.* files:{tmp_path}/deep/\*\*/\*\.txt"
    ):
        open_source(f"files:{tmp_path}/deep/")
    with pytest.raises(
        ValueError, match=rf"1 folder and no file.* files:{tmp_path}/\*/\*"
    ):
        open_source(f"files:{tmp_path}/*")
    assert len(open_source(f"files:{tmp_path}/deep/**/*.txt").sections) == 2
