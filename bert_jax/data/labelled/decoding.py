"""The text of a file: its bytes as letters, by its byte-order mark or its encoding."""

import codecs
import io
import pathlib
from typing import NamedTuple

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class Decoded(NamedTuple):
    text: str
    encoding: str
    """Name of the encoding, such as "UTF-8"."""
    warnings: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        """Without their ends. The end of the last line begins no further one."""
        return [x.rstrip("\n") for x in io.StringIO(self.text, newline=None)]


def read_text(path: pathlib.Path, encoding: str = "utf-8") -> Decoded:
    """Reads a whole file. A byte-order mark is no part of its text and decides first.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: the bytes are of another encoding, or the file is binary; the message
            names the line and what to do.
    """
    data = path.read_bytes()
    given = codecs.lookup(encoding).name
    for mark, name in _MARKS:
        if data.startswith(mark):
            data, encoding = data[len(mark) :], name
            break
    try:
        text = data.decode(encoding)
    except UnicodeError as error:
        # Some encodings, such as punycode, do not say where.
        start = getattr(error, "start", 0)
        line = data[:start].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {line}: byte 0x{data[start]:02X} is not "
            f"{encoding.upper()} ({getattr(error, 'reason', error)}). If the file has another encoding, name "
            "it: --encoding latin-1 or cp1252 for files from Western Europe, gb18030 "
            "for Chinese, cp932 for Japanese; or convert it with iconv."
        ) from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ValueError(
            f"{path}, line {line}: the text holds a NUL character, so the file is binary, "
            "damaged or UTF-16. Pass --encoding utf-16-le if it is UTF-16, or mend "
            "the file."
        )
    return Decoded(text, encoding.upper(), _doubts(path, data, given))


def _doubts(path: pathlib.Path, data: bytes, encoding: str) -> tuple[str, ...]:
    """A warning if single-byte letters were asked for, and the bytes are UTF-8."""
    if encoding.startswith("utf") or data.isascii():
        return ()
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return ()
    return (
        f"{path} is valid UTF-8, but was read as {encoding}, as --encoding says; "
        "letters beyond ASCII may be wrong",
    )
