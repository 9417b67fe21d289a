"""Cuts a stream of bytes into records at separators, and long texts into fragments.

Where records begin and where long ones are cut depends on their bytes alone, neither
on how the stream was buffered nor on the byte at which reading began.
"""

import re
from collections.abc import Iterator
from typing import IO, AnyStr, Literal, NamedTuple

_BLOCK_BYTES = 1 << 17
_LOOK_BACK_BYTES = 1 << 16
# Apart from white space, a separator is empty or </doc>.
_MAX_MARK_BYTES = len(b"</doc>")
_SPACE = re.compile(rb"\s*")
# A character of UTF-8 that leaves a line blank: white space of Unicode, and what has no
# width (zero-width spaces and joiners, marks of direction, byte order marks).
BLANK = (
    rb"(?:[ \t\r\v\f\x1c-\x1f]|\xc2[\x85\xa0]|\xe1\x9a\x80|\xe1\xa0\x8e|\xe3\x80\x80|\xef\xbb\xbf"
    rb"|\xe2\x80[\x80-\x8f\xa8\xa9\xaf]|\xe2\x81[\x9f\xa0])"
)
_BLANK_OR_CUT = (
    " \t\r\v\f\n\x1c\x1d\x1e\x1f\x85\xa0\u1680\u180e\u202f\u205f\u2060\u3000\ufeff\u2028\u2029"
    + ("".join(map(chr, [*range(0x2000, 0x2010), *range(0xDC80, 0xDD00)])))
)
_BLANKS = re.compile(rb"(?:%b|\n)*" % BLANK)
_BEGINNING_OF_BLANK = re.compile(
    rb"(?:\xc2|\xe1[\x9a\xa0]?|\xe2[\x80\x81]?|\xe3\x80?|\xef\xbb?)?\Z"
)
_LONG_SPACE_BYTES = 1 << 16


class Fragment(NamedTuple):
    """A whole record, or one of several consecutive cuts of a long one."""

    offset: int
    """Offset in the stream of the first byte of the record."""
    number: int
    """0 for the first fragment of a record, 1 for the next, and so on."""
    text: bytes
    """The text without white space at either end."""
    ended_by: Literal["separator", "cut", "end of stream"]
    """After "cut", the record continues in the next fragment."""


def split(
    stream: IO[bytes],
    separator: re.Pattern[bytes] | None,
    *,
    limit: int,
    read: bytes = b"",
    base: int = 0,
    start: int = 0,
    end: int | None = None,
) -> Iterator[Fragment]:
    """Yields the records of a stream that begin at a byte in [start, end), in order.

    Args:
        stream: read from its present position.
        separator: a pattern that begins with a newline and takes all white space that
            follows, or all of `BLANK`; its only newlines are the first and those of
            that white space. If `None`, the whole stream is one record.
        limit: most bytes of a fragment; a longer record becomes several, see `cut`.
        read: bytes that have been read from the stream before; they come first.
        base: offset of the first byte of `read`, or of the stream if `read` is empty.
        start: records that begin before this offset are left out.
        end: no record that begins from this offset on is read, though the last one may
            reach beyond it; `None` reads to the end.
    """
    buffer = read
    while buffer.isspace() or not buffer:
        block = stream.read(_BLOCK_BYTES)
        if not block:
            return
        buffer += block
        if buffer.isspace():
            buffer, removed = _squeezed(buffer)
            base += removed
    offset = base + len(buffer) - len(buffer.lstrip())
    if end is not None and offset >= end:
        return
    searched = number = 0
    is_last = False
    while True:
        position, is_pending = 0, False
        for match in separator.finditer(buffer, searched) if separator else ():
            # The next block can make the separator longer.
            is_pending = not is_last and bool(
                _BEGINNING_OF_BLANK.match(buffer, match.end())
            )
            if is_pending:
                searched = match.start()
                break
            if offset >= start:
                yield from _fragments(
                    buffer[position : match.start()], offset, number, limit
                )
            position = match.end()
            offset, number = base + position, 0
            if end is not None and offset >= end:
                return
        else:
            newline = buffer.rfind(b"\n", max(searched, position))
            searched = newline if newline >= 0 else len(buffer)
        if is_last:
            if offset >= start:
                for fragment in _fragments(buffer[position:], offset, number, limit):
                    if fragment.ended_by == "separator":
                        fragment = fragment._replace(ended_by="end of stream")
                    yield fragment
            return
        buffer, base, searched = buffer[position:], base + position, searched - position
        if offset < start and end is not None and base + searched >= end:
            # Reading began in the middle of a record, which reaches beyond the end.
            return
        while len(buffer) > limit:
            known, rest = _known(buffer, searched, is_pending)
            if len(known) <= limit:
                break
            length = cut(known, limit)
            if offset >= start:
                yield Fragment(offset, number, known[:length].rstrip(), "cut")
            number += 1
            known = known[length:].lstrip()
            base += len(buffer) - len(known) - len(rest)
            buffer, searched = known + rest, len(known)
        buffer, removed = _squeezed(buffer)
        base += removed
        searched = min(searched, len(buffer.rstrip()))
        # The buffer doubles, so that a long record is copied only a few times.
        block = stream.read(max(_BLOCK_BYTES, len(buffer)))
        buffer += block
        is_last = not block


def cut(text: bytes, limit: int) -> int:
    """The offset, at most `limit`, at which a longer text is cut.

    It is the last end of a line between `limit` / 2 and `limit`; if there is none, the
    last end of a sentence there, else of a word, else between two characters.
    """
    least = limit // 2
    line = text.rfind(b"\n", least, limit)
    if line >= 0:
        return line
    sentence = max(
        text.rfind(mark, least, limit) + len(mark) - mark.count(b" ")
        for mark in (b". ", b"! ", b"? ", "。".encode())
    )
    if sentence > least:
        return sentence
    word = text.rfind(b" ", least, limit)
    if word >= 0:
        return word
    # In UTF-8, a character has at most three continuation bytes.
    starts = (k for k in range(limit, limit - 4, -1) if text[k] & 0xC0 != 0x80)
    return next(starts, limit)


def split_text(text: AnyStr, limit: int) -> list[AnyStr]:
    """Cuts a text into fragments of at most `limit` bytes of UTF-8, as `cut` does."""
    if isinstance(text, bytes):
        if len(text) <= limit:
            return [text]
        return [fragment.text for fragment in _fragments(text, 0, 0, limit)]
    # A character takes at most four bytes, and a lone surrogate three.
    if len(text) * 4 <= limit:
        return [text]
    as_bytes = text.encode("utf-8", "surrogatepass")
    return [x.decode("utf-8", "surrogatepass") for x in split_text(as_bytes, limit)]


def line_start(stream: IO[bytes], position: int) -> int:
    """Where to begin reading so that `split` finds all records from `position` on.

    Returns:
        The offset of a newline, or 0. Of the characters before `position`, the last one
        that is not blank stands in a line; the newline is the one before that line.
    """
    is_blank = True
    while position > 0:
        size = min(position, _LOOK_BACK_BYTES)
        stream.seek(position - size)
        block = stream.read(size)
        position -= size
        if is_blank:
            # What is not UTF-8 counts as blank, because a block can cut a character.
            text = block.decode("utf-8", "surrogateescape").rstrip(_BLANK_OR_CUT)
            block = text.encode("utf-8", "surrogateescape")
            is_blank = not block
        if not is_blank and (newline := block.rfind(b"\n")) >= 0:
            return position + newline
    return 0


def _fragments(text: bytes, offset: int, number: int, limit: int) -> Iterator[Fragment]:
    text = _without_long_spaces(text.strip())
    begin = 0
    while len(text) - begin > limit:
        end = begin + cut(text[begin : begin + limit + 1], limit)
        yield Fragment(offset, number, text[begin:end].rstrip(), "cut")
        number += 1
        begin = _SPACE.match(text, end).end()  # type: ignore[union-attr]
    if text:
        yield Fragment(offset, number, text[begin:], "separator")


def _known(buffer: bytes, searched: int, is_pending: bool) -> tuple[bytes, bytes]:
    """(what belongs to the record whatever follows, the rest of the buffer).

    Args:
        buffer: the record and what follows.
        searched: where a separator can begin, of which the end is not known yet.
        is_pending: whether one does begin there.
    """
    blank = _BLANKS.match(buffer, searched)
    tail = buffer[blank.end() :].rstrip()  # type: ignore[union-attr]
    if is_pending or len(tail) <= _MAX_MARK_BYTES:
        end = len(buffer[:searched].rstrip())
    else:
        end = len(buffer.rstrip())
    return _without_long_spaces(buffer[:end].lstrip()), buffer[end:]


def _squeezed(buffer: bytes) -> tuple[bytes, int]:
    """Shortens very long white space at the end; also returns by how many bytes.

    The rest is still very long, so it separates records as the whole did.
    """
    kept = buffer.rstrip()
    space = buffer[len(kept) :]
    if len(space) <= 2 * _LONG_SPACE_BYTES:
        return buffer, 0
    squeezed = _short(space).ljust(_LONG_SPACE_BYTES)
    return kept + squeezed, len(space) - len(squeezed)


def _without_long_spaces(text: bytes) -> bytes:
    if len(text) < _LONG_SPACE_BYTES:
        return text
    # A long white space contains one of these blocks, and testing them is fast.
    half = _LONG_SPACE_BYTES // 2
    blocks = range(0, len(text) - half + 1, half)
    if not any(text[start : start + half].isspace() for start in blocks):
        return text
    # Some were shortened by `_squeezed` before, so all are replaced in the same way.
    long_space = rb"\s{%d,}" % _LONG_SPACE_BYTES
    return re.sub(long_space, lambda match: _short(match[0]), text)


def _short(space: bytes) -> bytes:
    return b"\n" * min(space.count(b"\n"), 2) or b" "
