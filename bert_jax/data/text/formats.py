"""Reads records from plain text, JSON lines and WikiExtractor's output.

A record becomes a document after cleaning. Lines end with a newline; a blank line
holds nothing but white space and characters without width, see `splitting.BLANK`.
"""

import json
import re
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from bert_jax.config import ReadOptions
from bert_jax.data.text.splitting import (
    BLANK,
    Fragment,
    line_start,
    split,
    split_text,
)
from bert_jax.data.text.streams import without_compression

# A line of JSON is parsed at once, which takes up to 14 times its size in memory.
MAX_RECORD_BYTES = 32 << 20
_HEAD_BYTES = 1 << 16
_MAX_HEADER_BYTES = 1 << 12

_BLANK = rb"[ \t\r\v\f]*"
_BLANK_LINE = re.compile(rb"\n%b*\n(?:%b|\n)*" % (BLANK, BLANK))
_NOTHING = re.compile(rb"(?:%b|\n)*" % BLANK)
_NEWLINE = re.compile(rb"\n\s*")
_DOC_CLOSE = re.compile(rb"\n%b</doc>%b(?:\n\s*|\Z)" % (_BLANK, _BLANK))
_DOC_OPEN = re.compile(rb"<doc[ \t]+(.*)>%b(?:\n|\Z)" % _BLANK)
_DOC_INSIDE = re.compile(rb"\n<doc[ \t].*>%b(?:\n|\Z)" % _BLANK)
_DOC_ATTRIBUTE = re.compile(r'(\w+)="(.*?)"(?=\s+\w+="|\s*$)')

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# UTF-32 first: its mark begins with that of UTF-16.
_OTHER_ENCODINGS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_OTHER_KINDS = {
    b"\x1f\x8b": "compressed (.gz)",
    b"\xfd7zXZ\0": "compressed (.xz)",
    b"\x28\xb5\x2f\xfd": "compressed (.zst)",
    b"BZh91AY&SY": "compressed (.bz2)",
    b"PAR1\x15": "Parquet (.parquet)",
    b"PK\x03\x04": "a zip archive",
    b"%PDF-": "PDF",
}
# A few of these characters can be errors in a text; a file with many is not text.
_CONTROLS = bytes({*range(0x20)} - {*b"\t\n\v\f\r\x1b"})


class Record(NamedTuple):
    """A document as it is stored, or a fragment of one that is too long."""

    text: bytes | str
    key: str
    group: str
    fragment: int
    """0 for the first fragment of a document, 1 for the next, and so on."""
    is_escaped: bool = False
    """Whether <, > and & are written as entities."""
    is_paragraph: bool = False
    """Whether blank lines are all that makes it a document."""
    fraction: float | None = None
    """How much of the section has been read with this record, in (0, 1]; `None` if the
    position in the file tells it."""


class RecordError(Exception):
    """A record cannot be read; whoever catches this can find the line from the offset."""

    def __init__(self, name: str, offset: int, problem: str) -> None:
        super().__init__(problem)
        self.name, self.offset, self.problem = name, offset, problem


def read_file(
    stream: IO[bytes],
    name: str,
    options: ReadOptions,
    *,
    start: int = 0,
    end: int | None = None,
) -> Iterator[Record]:
    """Yields the records of a file that begin at a byte in [start, end).

    Args:
        stream: the file, not compressed and at its beginning; it must be able to seek
            if `start` is not 0.
        name: how keys begin; the suffix helps to recognise the format.
        options: how to read.
        start: first byte of the range.
        end: first byte behind the range; `None` reads to the end.

    Raises:
        ValueError: the file is not text in UTF-8.
        RecordError: a record cannot be read.
    """
    head = stream.read(_HEAD_BYTES)
    _check_is_text(head, name)
    base = len(_BYTE_ORDER_MARK) if head.startswith(_BYTE_ORDER_MARK) else 0
    opening = head[base:].lstrip()
    is_wiki = opening.startswith((b"<doc ", b"<doc\t"))
    # WikiExtractor's --json output has no suffix.
    plain_name = without_compression(name).lower()
    is_json = plain_name.endswith((".jsonl", ".json", ".ndjson")) or (
        opening.startswith(b"{") and not plain_name.endswith(".txt")
    )
    limit = options.max_document_bytes
    separator: re.Pattern[bytes] | None
    if is_wiki:
        separator, records = _DOC_CLOSE, _wiki
    elif is_json:
        separator, records, limit = _NEWLINE, _json_lines, MAX_RECORD_BYTES
    elif options.documents == "file":
        separator, records = None, _plain_text
    else:
        separator, records = _BLANK_LINE, _plain_text
    read = head[base:]
    if start > 0 and (before := line_start(stream, start)) > base:
        stream.seek(before)
        read, base = b"", before
    elif start > 0:
        stream.seek(len(head))
    fragments = split(
        stream, separator, limit=limit, read=read, base=base, start=start, end=end
    )
    return records(fragments, name, options)


def identity(
    default: str, key: Any = None, group: Any = None, url: Any = None
) -> tuple[str, str]:
    """(key, group) of a record, from its own fields where it has them.

    A record without a group gets its address as the group, so that the versions of one
    page stay together; without an address, its key.

    Args:
        default: the key of a record without one.
        key: the record's field "key".
        group: the record's field "group".
        url: the record's field "url".

    Raises:
        ValueError: the key or the group is neither a string nor a whole number.
    """
    for value in (key, group):
        if value is not None and not isinstance(value, str | int):
            raise ValueError(
                f"{value!r} is no key or group; expected a string or a whole number"
            )
    key = default if key is None or key == "" else str(key)
    group = url if group is None or group == "" else str(group)
    if not isinstance(group, str) or not group:
        group = key
    return _writable(key), _writable(group)


def _writable(name: str) -> str:
    """The name without lone surrogates, which JSON can hold and UTF-8 cannot."""
    return name.encode("utf-8", "replace").decode()


def _check_is_text(head: bytes, name: str) -> None:
    for mark, encoding in _OTHER_ENCODINGS.items():
        if head.startswith(mark):
            raise ValueError(f"{name} is {encoding}; expected UTF-8. Convert it first.")
    for mark, kind in _OTHER_KINDS.items():
        if head.startswith(mark):
            raise ValueError(
                f"{name} is {kind}, which its name does not say; expected text. Give the "
                "file the right suffix, or take it out of the source."
            )
    beginning = head[:4096]
    num_controls = len(beginning) - len(beginning.translate(None, _CONTROLS))
    most_zeros, most_controls = len(beginning) // 50, 8 + len(beginning) // 20
    if beginning.count(0) > most_zeros or num_controls > most_controls:
        raise ValueError(
            f"{name} is not text; expected UTF-8. Take the file out of the source, or "
            "convert it."
        )


def _plain_text(
    fragments: Iterator[Fragment], name: str, options: ReadOptions
) -> Iterator[Record]:
    for fragment in fragments:
        if _NOTHING.fullmatch(fragment.text):
            continue  # Blank lines at the beginning of the file.
        key = name if options.documents == "file" else f"{name}#{fragment.offset}"
        by_blank_lines = options.documents == "blank-lines"
        yield Record(
            fragment.text, key, key, fragment.number, is_paragraph=by_blank_lines
        )


def _json_lines(
    fragments: Iterator[Fragment], name: str, options: ReadOptions
) -> Iterator[Record]:
    field = options.text_field
    example = f"expected one object a line, like {json.dumps({field: '...'})}"
    for fragment in fragments:
        if fragment.ended_by == "cut":
            raise RecordError(
                name,
                fragment.offset,
                f"longer than {MAX_RECORD_BYTES >> 20} MiB; {example}",
            )
        text = fragment.text.decode("utf-8", "surrogateescape")
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            raise RecordError(
                name,
                fragment.offset,
                f"not JSON ({error.msg}, column {error.colno}); {example}",
            ) from error
        except (ValueError, RecursionError) as error:
            raise RecordError(name, fragment.offset, f"not JSON ({error})") from error
        if not isinstance(record, dict) or not isinstance(record.get(field), str):
            raise RecordError(
                name,
                fragment.offset,
                f"{_shown(fragment.text)} has no string {json.dumps(field)}; {example}",
            )
        try:
            key, group = identity(
                f"{name}#{fragment.offset}",
                *(record.get(kind) for kind in ("key", "group", "url")),
            )
        except ValueError as error:
            raise RecordError(name, fragment.offset, str(error)) from None
        for number, content in enumerate(
            split_text(record[field], options.max_document_bytes)
        ):
            yield Record(content, key, group, number)


def _wiki(
    fragments: Iterator[Fragment], name: str, options: ReadOptions
) -> Iterator[Record]:
    key = group = ""
    for fragment in fragments:
        body = fragment.text
        if fragment.number == 0:
            opening = _DOC_OPEN.match(body)
            if opening is None:
                raise RecordError(
                    name,
                    fragment.offset,
                    f"{_shown(body)} stands outside <doc ...> and </doc>; expected "
                    "WikiExtractor output",
                )
            header = opening[1][:_MAX_HEADER_BYTES].decode("utf-8", "replace")
            attributes = dict(_DOC_ATTRIBUTE.findall(header))
            # Versions of an article have the same address, so they get the same group.
            key, group = identity(
                f"{name}#{attributes.get('id') or fragment.offset}",
                url=attributes.get("url"),
            )
            body = body[opening.end() :]
        is_nested = b"<doc" in body and _DOC_INSIDE.search(b"\n" + body)
        if fragment.ended_by == "end of stream" or is_nested:
            raise RecordError(
                name,
                fragment.offset,
                "this <doc> is not closed with </doc>; the file seems to be cut off. "
                "Write it again",
            )
        # WikiExtractor escapes <, > and & unless told not to.
        yield Record(body, key, group, fragment.number, is_escaped=True)


def _shown(text: bytes) -> str:
    line = text.partition(b"\n")[0][:80].decode("utf-8", "replace")
    return repr(line[:60])
