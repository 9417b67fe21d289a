"""Records of a stream: the same however it is buffered and wherever reading begins."""

import contextlib
import io
from collections.abc import Iterator
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bert_jax.data.text import formats, splitting
from bert_jax.data.text.splitting import Fragment, cut, line_start, split, split_text

SEPARATORS = {"lines": formats._NEWLINE, "blank lines": formats._BLANK_LINE}
# More than any text here.
NO_LIMIT = 10_000

fragments = st.sampled_from(
    [
        *(b"a", b"word", b". ", b" ", b"  ", b"\t", b"\n", b"\n", b"\r\n", b"\n\n"),
        *(b"\n \n", b"\x0c", "é".encode(), "。".encode(), "\U00010348".encode()),
        *(b"\xff", b"\x80", b" " * 9, b"\n" * 9, b"x" * 20),
        *("\u3000".encode(), "\u00a0".encode(), "\n\u200b\n".encode()),
        *("\n\u3000\u2003\n".encode(), b"\xe3", b"\xe3\x80"),
    ]
)
texts = st.lists(fragments, max_size=40).map(b"".join)


def records(text: bytes, between: str) -> list[tuple[int, bytes]]:
    """(offset, record), found line by line."""
    found: list[tuple[int, bytes]] = []
    offset, is_open = 0, False
    *lines, last = text.split(b"\n")
    for number, line in enumerate([*lines, last]):
        # Behind a newline all blanks are left out, otherwise only ASCII white space.
        is_behind_newline = between == "blank lines" and number > 0
        rest = unblank(line) if is_behind_newline else line.lstrip()
        begin = offset + len(line) - len(rest)
        # A blank line ends with a newline, so the last line is none.
        if is_open and (rest or (line is last and line.strip())):
            found[-1] = (found[-1][0], text[found[-1][0] : offset + len(line)].strip())
        elif rest:
            found.append((begin, rest.strip()))
        is_open = between == "blank lines" and bool(rest)
        offset += len(line) + 1
    return found


def unblank(line: bytes) -> bytes:
    """The line without blank characters at its beginning."""
    text = line.decode("utf-8", "surrogateescape")
    text = text.lstrip(" \t\r\v\f\n\u3000\u00a0\u200b\u2003")
    return text.encode("utf-8", "surrogateescape")


@contextlib.contextmanager
def block_bytes(size: int) -> Iterator[None]:
    """Every way of buffering shows with blocks of a few bytes."""
    with (
        mock.patch.object(splitting, "_BLOCK_BYTES", size),
        mock.patch.object(splitting, "_LOOK_BACK_BYTES", size),
    ):
        yield


def split_all(text: bytes, between: str, limit: int, start: int = 0, end=None):
    stream = io.BytesIO(text)
    base = line_start(stream, start)
    stream.seek(base)
    found = split(
        stream, SEPARATORS[between], limit=limit, base=base, start=start, end=end
    )
    return list(found)


@pytest.mark.parametrize("between", SEPARATORS)
@given(text=texts, size=st.integers(1, 20))
def test_records_are_what_stands_between_separators(between, text, size):
    text = b"a" + text  # In front of the first record, only ASCII is left out.
    with block_bytes(size):
        found = split_all(text, between, NO_LIMIT)
    assert [(p.offset, p.text) for p in found] == records(text, between)
    assert all(p.number == 0 for p in found)


@pytest.mark.parametrize("between", SEPARATORS)
@given(data=st.data(), text=texts, size=st.integers(1, 20), limit=st.integers(8, 40))
def test_every_record_is_in_exactly_one_range(between, data, text, size, limit):
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6).map(sorted))
    bounds = [0, *cuts, len(text)]
    with block_bytes(size):
        in_ranges = [
            fragment
            for k in range(len(bounds) - 1)
            for fragment in split_all(text, between, limit, bounds[k], bounds[k + 1])
        ]
    assert in_ranges == split_all(text, between, limit)


@pytest.mark.parametrize("between", SEPARATORS)
@given(text=texts, limit=st.integers(8, 40))
def test_fragments_hold_the_whole_record_and_are_short_enough(between, text, limit):
    text = b"a" + text
    whole: dict[int, list[Fragment]] = {}
    for fragment in split_all(text, between, limit):
        whole.setdefault(fragment.offset, []).append(fragment)
    for (offset, record), fragments in zip(
        records(text, between), whole.values(), strict=True
    ):
        assert [(p.offset, p.number) for p in fragments] == [
            (offset, k) for k in range(len(fragments))
        ]
        assert all(
            0 < len(p.text) <= limit and p.text == p.text.strip() for p in fragments
        )
        # Only white space is left out, at the cuts.
        joined = b"".join(b"".join(p.text.split()) for p in fragments)
        assert joined == b"".join(record.split())


@given(text=st.text(min_size=9), limit=st.integers(8, 40))
def test_no_character_is_cut(text, limit):
    fragments = split_text(text, limit)
    assert all(len(fragment.encode()) <= limit for fragment in fragments)
    # bytes.split knows ASCII white space only, as the cuts do.
    joined = "".join(fragments).encode()
    assert b"".join(joined.split()) == b"".join(text.encode().split())


@given(
    fragments=st.lists(
        st.one_of(
            st.sampled_from(
                [b"</doc>", b"\n</doc>\n", b"<doc>", b"</do", b"</docs>\n"]
            ),
            fragments,
        ),
        max_size=30,
    ),
    size=st.integers(1, 20),
    limit=st.integers(8, 40),
)
@example(fragments=[b"x" * 8, b"\n</doc>\n", b"more"], size=3, limit=8)
def test_a_separator_with_a_mark_is_found_however_the_stream_is_read(
    fragments, size, limit
):
    text = b"".join(fragments)
    separator = formats._DOC_CLOSE
    whole = list(split(io.BytesIO(text), separator, limit=limit))
    with block_bytes(size):
        assert list(split(io.BytesIO(text), separator, limit=limit)) == whole
    if not any(fragment.count(b"</doc>") for fragment in fragments):
        assert {fragment.offset for fragment in whole} <= {
            len(text) - len(text.lstrip())
        }


def test_cuts_at_lines_then_sentences_then_words():
    limit = 20
    assert cut(b"aaaaaaaaaaa\nb. c d eeeeeeeeee", limit) == 11
    assert cut(b"aaaaaaaaaaaa b. c deeeeeeeeee", limit) == 15
    assert cut("aaaaaaaaaaaa。c deeeeeeeeee".encode(), limit) == 15
    assert cut(b"aaaaaaaaaaaa bcd eeeeeeeeeeeee", limit) == 16
    # What stands in the first half would make fragments without end.
    assert cut(b"a\nb. c ddddddddddddddddddddddd", limit) == limit
    assert cut(b"a" * 19 + "é".encode() * 4, limit) == 19


@pytest.mark.parametrize("between", SEPARATORS)
@given(data=st.data(), size=st.integers(1, 20), limit=st.sampled_from([8, 40, 400]))
def test_very_long_white_space_is_shortened_alike(between, data, size, limit):
    """In a whole file and in ranges, with 12 bytes as "very long"."""
    spaces = st.tuples(st.integers(0, 60), st.integers(0, 1)).map(
        lambda n: b" " * n[0] + b"\n" * n[1] + b" " * (n[0] // 2)
    )
    words = st.sampled_from([b"a", b"bcd. ", b"x" * 15])
    text = b"".join(data.draw(st.lists(st.one_of(spaces, words), max_size=12)))
    bound = data.draw(st.integers(0, len(text)))
    with block_bytes(size), mock.patch.object(splitting, "_LONG_SPACE_BYTES", 12):
        in_ranges = [
            *split_all(text, between, limit, 0, bound),
            *split_all(text, between, limit, bound, len(text)),
        ]
        with block_bytes(NO_LIMIT):
            whole = split_all(text, between, limit)
    assert in_ranges == whole
    assert b"".join(b"".join(p.text.split()) for p in whole) == b"".join(text.split())
    assert [p.offset for p in whole if p.number == 0] == [
        offset for offset, _ in records(text, between)
    ]


class Endless(io.RawIOBase):
    """A gigabyte that is never written anywhere; counts what was read."""

    def __init__(self, byte: bytes, size: int) -> None:
        self.byte, self.left = byte, size

    def read(self, size: int = -1) -> bytes:
        size = min(size, self.left)
        self.left -= size
        return self.byte * size


@pytest.mark.parametrize("byte", [b"a", b" ", b"\n"])
def test_a_text_without_end_is_read_in_bounded_memory(byte):
    limit = 1 << 16
    stream = Endless(byte, 64 << 20)
    found = split(stream, SEPARATORS["blank lines"], limit=limit)
    if byte.isspace():
        assert not list(found)
    else:
        assert next(found).text == byte * limit
        # Read at most twice what was needed, and a block.
        assert (64 << 20) - stream.left <= 2 * limit + 2 * splitting._BLOCK_BYTES
        # The last fragment is the rest.
        assert sum(len(fragment.text) for fragment in found) == (64 << 20) - limit
    assert not stream.left
