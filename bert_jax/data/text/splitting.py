"""A stream of bytes as records between separators, and a text as pieces of a size.

Where records begin and where long ones are cut follows from their bytes alone: not
from how the stream was buffered, nor from the byte at which reading began.
"""

import re
from collections.abc import Iterator
from typing import IO, AnyStr, Literal, NamedTuple

_BLOCK_BYTES = 1 << 17
_LOOK_BACK_BYTES = 1 << 16
# White space aside, a separator is nothing or </doc>.
_MAX_MARK_BYTES = len(b"</doc>")
_SPACE = re.compile(rb"\s*")
_LONG_SPACE_BYTES = 1 << 16


class Piece(NamedTuple):
    """A record, or as much of a long one as may stand together."""

    offset: int
    """Of the record's first byte in the stream."""
    part: int
    """0, and counting up through the further pieces of one record."""
    text: bytes
    """Without white space at either end."""
    ended_by: Literal["separator", "cut", "end of stream"]
    """After a cut the record goes on in the next piece."""


def split(
    stream: IO[bytes],
    separator: re.Pattern[bytes] | None,
    *,
    limit: int,
    read: bytes = b"",
    base: int = 0,
    start: int = 0,
    end: int | None = None,
) -> Iterator[Piece]:
    """Records of a stream that begin at a byte in [start, end), in order.

    Args:
        stream: read from where it stands.
        separator: a pattern that begins with a newline and takes all white space that
            follows; its only newlines are the first and those of that white space.
            `None`: the stream is one record.
        limit: bytes of a piece; longer records come as several, see `cut`.
        read: what was read of the stream already and counts as its beginning.
        base: offset of the first byte (of `read` or of the stream).
        start: records before it are passed over.
        end: reading stops here, though the last record may go on; `None` reads all.
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
    searched = part = 0
    is_last = False
    while True:
        position = 0
        for match in separator.finditer(buffer, searched) if separator else ():
            if match.end() == len(buffer) and not is_last:
                searched = match.start()
                break
            if offset >= start:
                yield from _pieces(
                    buffer[position : match.start()], offset, part, limit
                )
            position = match.end()
            offset, part = base + position, 0
            if end is not None and offset >= end:
                return
        else:
            newline = buffer.rfind(b"\n", max(searched, position))
            searched = newline if newline >= 0 else len(buffer)
        if is_last:
            if offset >= start:
                for piece in _pieces(buffer[position:], offset, part, limit):
                    at_end = piece.ended_by == "separator"
                    yield piece._replace(ended_by="end of stream") if at_end else piece
            return
        buffer, base, searched = buffer[position:], base + position, searched - position
        if offset < start and end is not None and base + searched >= end:
            # The record that reading began in the middle of goes on beyond the end.
            return
        while len(buffer) > limit:
            known, rest = _known(buffer, searched)
            if len(known) <= limit:
                break
            length = cut(known, limit)
            if offset >= start:
                yield Piece(offset, part, known[:length].rstrip(), "cut")
            part += 1
            known = known[length:].lstrip()
            base += len(buffer) - len(known) - len(rest)
            buffer, searched = known + rest, len(known)
        buffer, removed = _squeezed(buffer)
        base += removed
        searched = min(searched, len(buffer.rstrip()))
        # As much again, so that a long record is copied a few times only.
        block = stream.read(max(_BLOCK_BYTES, len(buffer)))
        buffer += block
        is_last = not block


def cut(text: bytes, limit: int) -> int:
    """Where to cut a text of more than `limit` bytes: at most so far in.

    At the end of a line, else of a sentence, else of a word, if there is one in the
    second half; else between two characters.
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
    # A character has at most three continuation bytes; more are not UTF-8.
    starts = (k for k in range(limit, limit - 4, -1) if text[k] & 0xC0 != 0x80)
    return next(starts, limit)


def split_text(text: AnyStr, limit: int) -> list[AnyStr]:
    """A text in pieces of at most `limit` bytes of UTF-8, cut as `cut` says."""
    if isinstance(text, bytes):
        if len(text) <= limit:
            return [text]
        return [piece.text for piece in _pieces(text, 0, 0, limit)]
    # No character takes more than four bytes, nor a lone surrogate more than three.
    if len(text) * 4 <= limit:
        return [text]
    as_bytes = text.encode("utf-8", "surrogatepass")
    return [
        piece.decode("utf-8", "surrogatepass") for piece in split_text(as_bytes, limit)
    ]


def line_start(stream: IO[bytes], position: int) -> int:
    """Where to begin reading so that `split` finds what begins from `position` on.

    The newline before the line of the last byte before `position` that is not white
    space; 0 where there is none.
    """
    is_blank = True
    while position > 0:
        size = min(position, _LOOK_BACK_BYTES)
        stream.seek(position - size)
        block = stream.read(size)
        position -= size
        if is_blank:
            block = block.rstrip()
            is_blank = not block
        if not is_blank and (newline := block.rfind(b"\n")) >= 0:
            return position + newline
    return 0


def _pieces(text: bytes, offset: int, part: int, limit: int) -> Iterator[Piece]:
    text = _without_long_spaces(text.strip())
    begin = 0
    while len(text) - begin > limit:
        end = begin + cut(text[begin : begin + limit + 1], limit)
        yield Piece(offset, part, text[begin:end].rstrip(), "cut")
        part += 1
        begin = _SPACE.match(text, end).end()  # type: ignore[union-attr]
    if text:
        yield Piece(offset, part, text[begin:], "separator")


def _known(buffer: bytes, searched: int) -> tuple[bytes, bytes]:
    """What surely belongs to the record, whatever comes, and the rest of the buffer."""
    if len(buffer[searched:].strip()) <= _MAX_MARK_BYTES:
        end = len(buffer[:searched].rstrip())
    else:
        end = len(buffer.rstrip())
    return _without_long_spaces(buffer[:end].lstrip()), buffer[end:]


def _squeezed(buffer: bytes) -> tuple[bytes, int]:
    """Less of a very long white space at the end, and how many bytes less.

    What is left is still very long, and as good a separator as before.
    """
    kept = buffer.rstrip()
    space = buffer[len(kept) :]
    if len(space) <= 2 * _LONG_SPACE_BYTES:
        return buffer, 0
    squeezed = _short(space).ljust(_LONG_SPACE_BYTES)
    return kept + squeezed, len(space) - len(squeezed)


def _without_long_spaces(text: bytes) -> bytes:
    # Any of them holds one of these blocks, which are seldom even looked at.
    half = _LONG_SPACE_BYTES // 2
    blocks = range(0, len(text) - half + 1, half)
    if not any(text[start : start + half].isspace() for start in blocks):
        return text
    # Those that were squeezed are no longer what they were: all become the same.
    long_space = rb"\s{%d,}" % _LONG_SPACE_BYTES
    return re.sub(long_space, lambda match: _short(match[0]), text)


def _short(space: bytes) -> bytes:
    return b"\n" * min(space.count(b"\n"), 2) or b" "
