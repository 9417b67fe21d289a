"""From a unit of a source to clean documents."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import IO

from bert_jax.config import ReadOptions
from bert_jax.data.text.archives import read_members
from bert_jax.data.text.cleaning import cleaned, decoded
from bert_jax.data.text.documents import Document, ReadStats
from bert_jax.data.text.formats import Record, RecordError, read_file
from bert_jax.data.text.markup import count_markup, strip_markup, unescaped
from bert_jax.data.text.parquet_source import is_parquet, read_parquet
from bert_jax.data.text.streams import Window, naming_file, open_stream
from bert_jax.data.text.tfds_source import read_tfds
from bert_jax.data.text.units import Unit

_DEFAULT_OPTIONS = ReadOptions()
_COUNT_BYTES = 1 << 18


def read_unit(
    unit: Unit,
    stats: ReadStats | None = None,
    options: ReadOptions = _DEFAULT_OPTIONS,
) -> Iterator[Document]:
    """The documents of one unit, in file order, in bounded memory.

    A text of more than `options.max_document_bytes` is cut into several documents:
    the key of the first is the text's own, `/2`, `/3`, ... are added to the others;
    all have its group.

    Args:
        unit: from `open_source(...).units` or `divide`.
        stats: counted up while reading, if given.
        options: how to read.

    Raises:
        ValueError: the file is damaged, binary, holds no document or wrong JSON; the
            message names the file and, where there is one, the line.
    """
    stats = ReadStats() if stats is None else stats
    before = dataclasses.replace(stats)
    with naming_file(unit.path), contextlib.ExitStack() as stack:
        if unit.kind == "tfds":
            window, records = None, read_tfds(unit, options)
        else:
            window = stack.enter_context(_open_window(unit))
            records = _file_records(unit, window, options)
        try:
            for document, share in _documents(records, stats, options):
                done = _done_bytes(unit, window, share)
                stats.disk_bytes = before.disk_bytes + done
                yield document
        except RecordError as error:
            line = _line_of(unit, error)
            raise ValueError(f"{error.name}, line {line}: {error.problem}.") from error
    stats.disk_bytes = before.disk_bytes + unit.size_bytes
    if stats.documents == before.documents and not unit.is_part:
        num_empty = stats.empty_documents - before.empty_documents
        empty = f", but {num_empty:,} empty ones" if num_empty else ""
        raise ValueError(
            f"{unit.name} holds no document{empty}; expected text. Remove it from the "
            "source."
        )


def _documents(
    records: Iterator[Record], stats: ReadStats, options: ReadOptions
) -> Iterator[tuple[Document, float | None]]:
    """Cleaned and counted, each with its record's share."""
    num_given = 1
    for record in records:
        if record.part == 0:
            stats.empty_documents += num_given == 0
            num_given = 0
        stats.cut_documents += record.part == 1
        text = decoded(record.text, stats)
        if record.is_escaped:
            text = unescaped(text)
        if num_elements := count_markup(text):
            stats.markup_documents += 1
            stats.markup_elements += num_elements
            if options.markup == "strip":
                text = strip_markup(text)
        text = cleaned(text, stats)
        if text:
            num_given += 1
            key = f"{record.key}/{num_given}" if num_given > 1 else record.key
            stats.documents += 1
            yield Document(text, key, record.group), record.share
    stats.empty_documents += num_given == 0


def _open_window(unit: Unit) -> Window:
    if unit.kind == "tar":
        return Window(unit.path, unit.start, unit.end)
    window = Window(unit.path, *(unit.member or ()))
    least = 0 if is_parquet(unit.name) else unit.end or 0
    if window.size < least or not (unit.is_part or window.size == unit.size_bytes):
        window.close()
        raise EOFError(f"its {window.size:,} bytes are not those that were opened")
    return window


def _entries(unit: Unit, window: Window) -> Iterator[tuple[str, IO[bytes]]]:
    """(name, plain content) of the files of a unit."""
    stream = open_stream(window, unit.path)
    if unit.kind == "file":
        yield unit.name, stream
        return
    is_share = unit.end is not None
    for name, content in read_members(stream, unit.name, is_share=is_share):
        yield f"{unit.name}/{name}", open_stream(content, name)


def _file_records(unit: Unit, window: Window, options: ReadOptions) -> Iterator[Record]:
    start, end = (unit.start, unit.end) if unit.kind == "file" else (0, None)
    for name, stream in _entries(unit, window):
        read = read_parquet if is_parquet(name) else read_file
        yield from read(stream, name, options, start=start, end=end)


def _done_bytes(unit: Unit, window: Window | None, share: float | None) -> int:
    if window is not None and (share is None or unit.kind == "tar"):
        done = window.position - (unit.start if unit.kind == "file" else 0)
    else:
        assert share is not None
        done = int(share * unit.size_bytes)
    return min(max(done, 0), unit.size_bytes)


def _line_of(unit: Unit, error: RecordError) -> int:
    """Counted only now: a share of a file does not know how many lines came before."""
    with _open_window(unit) as window:
        for name, stream in _entries(unit, window):
            if name == error.name:
                lines, left = 1, error.offset
                while left and (block := stream.read(min(left, _COUNT_BYTES))):
                    lines += block.count(b"\n")
                    left -= len(block)
                return lines
    raise AssertionError(f"{error.name} is not in {unit.path}")
