"""Reads records from plain text, JSON lines and WikiExtractor's output.

A record becomes a document after cleaning. Lines end with a newline, or in a file
without newlines with a carriage return; a blank line holds nothing but white space (form
feeds too) and characters without width, see `splitting.BLANK`.
"""

import json
import re
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from bert_jax.config import ReadOptions
from bert_jax.data.json_text import each_once, loads
from bert_jax.data.text.content_check import check_is_text
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

# A text may begin with a brace, but not with an object's first key.
_JSON_OPENING = re.compile(rb'\[?\s*\{\s*"[^"\n]*"\s*:')
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


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
    error: Exception | None = None
    """Why the record cannot be read, if so."""


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
        RecordError: a record of WikiExtractor's output cannot be read. Other records say
            it themselves.
    """
    head = stream.read(_HEAD_BYTES)
    if b"\n" not in head and b"\r" in head[:-1]:
        stream = _WithNewlines(stream)  # type: ignore[assignment]
        head = head.replace(b"\r", b"\n")
    check_is_text(head, name, is_whole=len(head) < _HEAD_BYTES)
    base = len(_BYTE_ORDER_MARK) if head.startswith(_BYTE_ORDER_MARK) else 0
    opening = head[base:].lstrip()
    is_wiki = opening.startswith((b"<doc ", b"<doc\t"))
    # WikiExtractor's --json output has no suffix.
    plain_name = without_compression(name).lower()
    is_json = plain_name.endswith((".jsonl", ".json", ".ndjson")) or (
        opening.startswith(b"{") and not plain_name.endswith(".txt")
    )
    if not is_json and _JSON_OPENING.match(opening):
        raise ValueError(
            f"{name} is JSON, which its name does not say; expected text. Call it .jsonl "
            "if it holds one object a line, or take it out of the source."
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


class _WithNewlines:
    """A file whose lines end with a carriage return alone, read with newlines."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek = stream.seek

    def read(self, size: int) -> bytes:
        return self._stream.read(size).replace(b"\r", b"\n")


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
    for fragment in fragments:
        if fragment.number > 0:
            continue  # The rest of a line that is too long.
        try:
            yield from _json_records(fragment, name, options)
        except RecordError as error:
            yield Record("", "", "", 0, error=error)


def _json_records(
    fragment: Fragment, name: str, options: ReadOptions
) -> Iterator[Record]:
    """A line as a record, or as fragments of one that is too long."""
    field = options.text_field
    if fragment.ended_by == "cut":
        raise RecordError(
            name,
            fragment.offset,
            f"longer than {MAX_RECORD_BYTES >> 20} MiB; {_expected(field)}",
        )
    text = fragment.text.decode("utf-8", "surrogateescape")
    try:
        record = loads(text, object_pairs_hook=each_once)
    except json.JSONDecodeError as error:
        raise RecordError(
            name,
            fragment.offset,
            f"not JSON ({error.msg}, column {error.colno}); {_expected(field)}"
            f"{_several_lines(fragment.text)}",
        ) from error
    if not isinstance(record, dict):
        raise RecordError(
            name,
            fragment.offset,
            f"{_shown(fragment.text)} is no object; {_expected(field)}",
        )
    content = record.get(field, 0)
    if content is None:
        content = ""  # As in Parquet: counted as an empty document.
    if not isinstance(content, str):
        raise RecordError(
            name,
            fragment.offset,
            f"{_shown(fragment.text)} has no string {json.dumps(field)}; its fields "
            f"are {_fields(record)}. Name the one with the text with "
            "--read.text-field; what is within an object is not read",
        )
    try:
        key, group = identity(
            f"{name}#{fragment.offset}",
            *(record.get(kind) for kind in ("key", "group", "url")),
        )
    except ValueError as error:
        raise RecordError(name, fragment.offset, str(error)) from None
    fragments_of_text = split_text(content, options.max_document_bytes)
    for number, part in enumerate(fragments_of_text):
        yield Record(part, key, group, number)


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


def _expected(field: str) -> str:
    return f"expected one object a line, like {json.dumps({field: '...'})}"


def _fields(record: dict[str, Any]) -> str:
    """The names of a record's fields, each with its kind."""
    kinds = {str: "a string", list: "a list", dict: "an object", type(None): "null"}
    listed = [f"{name} ({kinds.get(type(x), x)})" for name, x in record.items()]
    return ", ".join(listed) or "none"


def _several_lines(line: bytes) -> str:
    """What to do about JSON of which one value has several lines."""
    if not line.startswith((b"[", b"{")) or line.rstrip().endswith((b"]", b"}")):
        return ""
    unpack = ".[]" if line.startswith(b"[") else "."
    return (
        ". If the file is JSON that goes over several lines, write one object a line, "
        f"for example with jq -c {unpack!r}"
    )


def _shown(text: bytes) -> str:
    line = text.partition(b"\n")[0][:80].decode("utf-8", "replace")
    return repr(line[:60])
