"""Removes what no model should see: wrong bytes, control characters, foreign line ends."""

import re

from bert_jax.data.text.documents import ReadStats

_SURROGATE = re.compile("[\ud800-\udfff]")
# Control characters that separate words (vertical tab, form feed, NEL, ...), and others.
_CONTROL_SPACE = re.compile("[\x0b\x0c\x1c-\x1f\x85]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")
# The same characters in UTF-8; bytes are searched in a third of the time.
_LOW_CONTROLS = bytes({*range(0x20), 0x7F} - {*b"\t\n\r"})
_HIGH_CONTROL = re.compile(b"\xc2[\x80-\x9f]")


def decoded(text: bytes | str, stats: ReadStats) -> str:
    """Decodes UTF-8. Wrong bytes and lone surrogates become U+FFFD and are counted."""
    try:
        if isinstance(text, bytes):
            return text.decode()
        text.encode()
    except UnicodeError:
        if isinstance(text, bytes):
            text = text.decode("utf-8", "surrogateescape")
        text, count = _SURROGATE.subn("\ufffd", text)
        stats.undecodable_bytes += count
    return text


def cleaned(text: str, stats: ReadStats) -> str:
    """The text with newlines as line ends, and without control characters or outer space.

    Adds the removed control characters, and the size of the result, to `stats`.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    as_bytes = text.encode()
    num_bytes = len(as_bytes)
    has_low = len(as_bytes.translate(None, _LOW_CONTROLS)) < num_bytes
    if has_low or _HIGH_CONTROL.search(as_bytes):
        text, num_spaces = _CONTROL_SPACE.subn(" ", text)
        text, num_others = _CONTROL.subn("", text)
        stats.control_characters += num_spaces + num_others
        num_bytes = len(text.encode())
    stripped = text.strip()
    if len(stripped) < len(text):
        text = stripped
        num_bytes = len(text.encode())
    stats.characters += len(text)
    stats.text_bytes += num_bytes
    return text
