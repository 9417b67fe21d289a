"""Characters that no model should see: wrong bytes, control characters, line ends."""

import re

from bert_jax.data.text.documents import ReadStats

_SURROGATE = re.compile("[\ud800-\udfff]")
# Controls that separate words (vertical tab, form feed, NEL, ...), and the others.
_CONTROL_SPACE = re.compile("[\x0b\x0c\x1c-\x1f\x85]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")
# The same in UTF-8: searching bytes takes a third of the time.
_LOW_CONTROLS = bytes({*range(0x20), 0x7F} - {*b"\t\n\r"})
_HIGH_CONTROL = re.compile(b"\xc2[\x80-\x9f]")


def decoded(text: bytes | str, stats: ReadStats) -> str:
    """Text that can be encoded: what is not UTF-8 is counted and becomes U+FFFD."""
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
    """Lines that end with a newline, no control characters, no space at the ends.

    Counts, besides what it removes, the characters and bytes of the result.
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
