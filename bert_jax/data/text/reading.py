"""From a section of a source to clean documents."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import IO

from bert_jax.config import ReadOptions
from bert_jax.data.text.archives import read_members
from bert_jax.data.text.cleaning import cleaned, decoded
from bert_jax.data.text.documents import Document, ReadStats
from bert_jax.data.text.files_source import refuse_other_kinds
from bert_jax.data.text.formats import Record, RecordError, read_file
from bert_jax.data.text.markup import count_markup, strip_markup, unescaped
from bert_jax.data.text.parquet_source import is_parquet, read_parquet
from bert_jax.data.text.registry import KINDS
from bert_jax.data.text.sections import Section, Source
from bert_jax.data.text.streams import Window, naming_file, open_stream

_DEFAULT_OPTIONS = ReadOptions()
_COUNT_BYTES = 1 << 18


def read_section(
    section: Section,
    stats: ReadStats | None = None,
    options: ReadOptions = _DEFAULT_OPTIONS,
) -> Iterator[Document]:
    """Reads the documents of one section, in file order, in bounded memory.

    A document of more than `options.max_document_bytes` is cut into fragments, which
    become documents of their own. The first one has the document's key; the others have
    `/2`, `/3`, ... added to it. All of them have the document's group.

    Args:
        section: one of `open_source(...).sections`, or from `divide`.
        stats: if given, everything that is read is added to its counts.
        options: how to read.

    Raises:
        ValueError: the file is damaged, is not text, holds no document, or a line is
            not the expected JSON. The message names the file and, if there is one, the
            line.
    """
    stats = ReadStats() if stats is None else stats
    before = dataclasses.replace(stats)
    with naming_file(section.path), contextlib.ExitStack() as stack:
        known = KINDS.get(section.kind)
        if known is not None and known.read is not None:
            window, records = None, known.read(section, options)
        else:
            window = stack.enter_context(_open_window(section))
            records = _file_records(section, window, options)
        try:
            for document, fraction in _documents(records, stats, options):
                done = _done_bytes(section, window, fraction)
                stats.disk_bytes = before.disk_bytes + done
                yield document
        except RecordError as error:
            line = _line_of(section, error)
            raise ValueError(f"{error.name}, line {line}: {error.problem}.") from error
    stats.disk_bytes = before.disk_bytes + section.size_bytes
    if section.kind == "file" and not section.is_range:
        num_paragraphs = stats.paragraph_documents - before.paragraph_documents
        stats.single_documents += num_paragraphs == 1
    if stats.documents == before.documents and not section.is_range:
        num_empty = stats.empty_documents - before.empty_documents
        num_broken = stats.broken_records - before.broken_records
        empty = f", but {num_empty:,} empty ones" if num_empty else ""
        remedy = (
            f"Take away --read.skip-broken {options.skip_broken} to read what is wrong with "
            f"the {num_broken:,} records that it left out"
            if num_broken
            else "Remove the file from the source"
        )
        raise ValueError(
            f"{section.name} holds no document{empty}; expected text. {remedy}."
        )


def read_source(
    source: Source, options: ReadOptions = _DEFAULT_OPTIONS
) -> Iterator[Document]:
    """Reads the documents of all sections of a source, as `read_section` does."""
    for section in source.sections:
        yield from read_section(section, options=options)


def _documents(
    records: Iterator[Record], stats: ReadStats, options: ReadOptions
) -> Iterator[tuple[Document, float | None]]:
    """Yields cleaned and counted documents, each with its record's `fraction`."""
    num_given = 1
    num_broken = 0
    for record in records:
        if record.error is not None:
            num_broken += 1
            if num_broken > options.skip_broken:
                raise record.error
            stats.broken_records += 1
            continue
        if record.fragment == 0:
            stats.empty_documents += num_given == 0
            num_given = 0
        stats.cut_documents += record.fragment == 1
        text, utf8 = decoded(record.text, stats)
        if record.is_escaped and "&" in text:
            text = unescaped(text)
            utf8 = text.encode()
        if num_elements := count_markup(text, utf8):
            stats.markup_documents += 1
            stats.markup_elements += num_elements
            if options.markup == "strip":
                text = strip_markup(text)
                utf8 = text.encode()
        text, utf8, uncommon = cleaned(text, utf8, stats)
        if text:
            num_given += 1
            key = f"{record.key}/{num_given}" if num_given > 1 else record.key
            stats.documents += 1
            stats.paragraph_documents += record.is_paragraph
            document = Document(text, key, record.group, utf8, uncommon)
            yield document, record.fraction
    stats.empty_documents += num_given == 0


def _open_window(section: Section) -> Window:
    if section.kind == "tar":
        return Window(section.path, section.start, section.end)
    window = Window(section.path, *(section.member or ()))
    least = 0 if is_parquet(section.name) else section.end or 0
    if window.size < least or not (
        section.is_range or window.size == section.size_bytes
    ):
        window.close()
        raise EOFError(
            f"its {window.size:,} bytes are not as many as when the source was opened"
        )
    return window


def _entries(section: Section, window: Window) -> Iterator[tuple[str, IO[bytes]]]:
    """(name, uncompressed content) of each file of a section."""
    stream = open_stream(window, section.path)
    if section.kind == "file":
        yield section.name, stream
        return
    is_range = section.end is not None
    for name, content in read_members(stream, section.name, is_range=is_range):
        yield f"{section.name}/{name}", open_stream(content, name)


def _file_records(
    section: Section, window: Window, options: ReadOptions
) -> Iterator[Record]:
    start, end = (section.start, section.end) if section.kind == "file" else (0, None)
    for name, stream in _entries(section, window):
        refuse_other_kinds(name)
        read = read_parquet if is_parquet(name) else read_file
        yield from read(stream, name, options, start=start, end=end)


def _done_bytes(section: Section, window: Window | None, fraction: float | None) -> int:
    if window is not None and (fraction is None or section.kind == "tar"):
        done = window.position - (section.start if section.kind == "file" else 0)
    else:
        assert fraction is not None
        done = int(fraction * section.size_bytes)
    return min(max(done, 0), section.size_bytes)


def _line_of(section: Section, error: RecordError) -> int:
    """The line of an error; it is counted from the file's start only when it is needed."""
    with _open_window(section) as window:
        for name, stream in _entries(section, window):
            if name == error.name:
                lines, left = 1, error.offset
                while left and (block := stream.read(min(left, _COUNT_BYTES))):
                    lines += block.count(b"\n") or block.count(b"\r")
                    left -= len(block)
                return lines
    raise AssertionError(f"{error.name} is not in {section.path}")
