"""Small files of every format, and how tests write and read them."""

import bz2
import functools
import gzip
import io
import lzma
import pathlib
import tarfile

import zstandard

from bert_jax.config import ReadOptions
from bert_jax.data.text.documents import Document, ReadStats
from bert_jax.data.text.reading import read_section
from bert_jax.data.text.sources import open_source

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
COMPRESSORS = {
    "": bytes,
    # The time in the header would make every call other bytes.
    ".gz": functools.partial(gzip.compress, mtime=0),
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def read(
    spec: str,
    stats: ReadStats | None = None,
    options: ReadOptions = ReadOptions(),  # noqa: B008
) -> list[Document]:
    """All documents of a source, undivided."""
    sections = open_source(spec).sections
    return [
        document
        for section in sections
        for document in read_section(section, stats, options)
    ]


def tar_of(members: dict[str, bytes]) -> bytes:
    """An archive that is not compressed."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, body in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    return file.getvalue()


def write_tar(path: pathlib.Path, members: dict[str, bytes]) -> None:
    """Compressed as the last suffix says."""
    compress = COMPRESSORS.get(path.suffix, bytes)
    path.write_bytes(compress(tar_of(members)))
