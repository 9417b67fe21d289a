"""Tar archives: all of their files, and an error for whatever is missing."""

import functools
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from source_files import tar_of

from bert_jax.data.text.archives import list_members, read_members
from bert_jax.data.text.streams import naming_file

MEMBERS = {
    "AA/wiki_0": b"Document 0.",
    "AA/.hidden": b"no",
    "AA/empty": b"",
    "b" * 150: b"A name that needs a header of its own.",
    "BB/c.txt": b"x" * 1_500,
    "ü/d.txt": b"y" * 512,
}
READ = {
    name: body
    for name, body in MEMBERS.items()
    if body and not name.endswith(".hidden")
}


def read_all(archive: bytes, **options) -> dict[str, bytes]:
    with naming_file("the file"):
        members = read_members(io.BytesIO(archive), "the file", **options)
        return {name: content.read() for name, content in members}


def list_all(archive: bytes, folder) -> dict[str, bytes]:
    path = folder / "a.tar"
    path.write_bytes(archive)
    with naming_file(str(path)):
        members = list_members(str(path), "the file")
    return {member.name: archive[member.start : member.end] for member in members}


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_files_are_read_and_listed(tmp_path, form):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        folder = tarfile.TarInfo("AA")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, body in MEMBERS.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "AA/wiki_0"
        archive.addfile(link)
    assert read_all(file.getvalue()) == READ
    assert list_all(file.getvalue(), tmp_path) == READ


def test_members_may_be_read_from_the_middle_of_an_archive(tmp_path):
    archive = tar_of(MEMBERS)
    (tmp_path / "a.tar").write_bytes(archive)
    members = list_members(str(tmp_path / "a.tar"), "a.tar")
    begin, end = members[1].header, members[3].header
    assert list(read_all(archive[begin:end], is_range=True)) == list(READ)[1:3]


def test_a_cut_archive_is_an_error(tmp_path):
    archive = tar_of(MEMBERS)
    end = len(archive.rstrip(b"\0"))
    places = [0, 100, 512, 520, 1024, 1536, 3_000, end - 200, end, end + 400]
    for size in places:
        for read in (read_all, lambda cut: list_all(cut, tmp_path)):
            with pytest.raises(ValueError, match=r"cut off|damaged|Cannot read"):
                read(archive[:size])


def test_joined_archives_are_an_error(tmp_path):
    joined = tar_of(MEMBERS) + tar_of({"more.txt": b"More."})
    for read in (read_all, lambda file: list_all(file, tmp_path)):
        with pytest.raises(ValueError, match="but more follows"):
            read(joined)


@given(place=st.integers(0, 4_000), value=st.integers(0, 255))
def test_no_damage_hides_a_member(place, value, tmp_path_factory):
    archive = tar_of(MEMBERS)
    damaged = bytearray(archive)
    damaged[place] = value
    for read in (
        read_all,
        lambda file: list_all(file, tmp_path_factory.getbasetemp()),
    ):
        try:
            found = read(bytes(damaged))
        except ValueError:
            continue
        assert len(found) == len(READ)


def test_a_file_that_an_archive_holds_twice_is_refused(tmp_path):
    once = tar_of({"a/b.txt": b"Newer."})
    archive = tar_of({"a/b.txt": b"Older.", "c.txt": b"Other."}).rstrip(b"\0")
    archive = archive.ljust(-(-len(archive) // 512) * 512, b"\0") + once
    for read in (read_all, functools.partial(list_all, folder=tmp_path)):
        with pytest.raises(ValueError, match=r"holds a/b.txt twice; expected each"):
            read(archive)


def test_sparse_members_are_refused():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        member = tarfile.TarInfo("sparse.txt")
        member.type = tarfile.GNUTYPE_SPARSE
        archive.addfile(member)
    with pytest.raises(ValueError, match=r"sparse\.txt is sparse"):
        read_all(file.getvalue())
