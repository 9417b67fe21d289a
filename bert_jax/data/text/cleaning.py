"""Removes what no model should see: wrong bytes, control characters, foreign line ends."""

import re

from bert_jax.data.text.documents import ReadStats
from bert_jax.data.uncommon_characters import uncommon_characters

_SURROGATE = re.compile("[\ud800-\udfff]")
# Control characters that separate words (vertical tab, form feed, NEL, ...), and others.
_CONTROL_SPACE = re.compile("[\x0b\x0c\x1c-\x1f\x85]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")
_CONTROLS = frozenset(map(chr, [*range(0x20), *range(0x7F, 0xA0)])) - {*"\t\n\r"}


def decoded(text: bytes | str, stats: ReadStats) -> tuple[str, bytes]:
    """(a text, the same in UTF-8).

    Wrong bytes and lone surrogates become U+FFFD and are counted.
    """
    try:
        return (text, text.encode()) if isinstance(text, str) else (text.decode(), text)
    except UnicodeError:
        if isinstance(text, bytes):
            text = text.decode("utf-8", "surrogateescape")
        text, count = _SURROGATE.subn("\ufffd", text)
        stats.undecodable_bytes += count
        return text, text.encode()


def cleaned(
    text: str, utf8: bytes, stats: ReadStats
) -> tuple[str, bytes, frozenset[str]]:
    """A text with newlines as line ends, and without control characters or outer space.

    Adds the removed control characters, and the size of the result, to `stats`.

    Args:
        text: the text.
        utf8: the same in UTF-8.
        stats: what is added to.

    Returns:
        The result, the result in UTF-8, and its `uncommon_characters`.
    """
    clean, uncommon = text, uncommon_characters(utf8)
    if "\r" in uncommon:
        clean = clean.replace("\r\n", "\n").replace("\r", "\n")
    if not _CONTROLS.isdisjoint(uncommon):
        clean, num_spaces = _CONTROL_SPACE.subn(" ", clean)
        clean, num_others = _CONTROL.subn("", clean)
        stats.control_characters += num_spaces + num_others
    clean = clean.strip()
    if clean is not text:
        utf8 = clean.encode()
        uncommon = uncommon_characters(utf8)
    stats.characters += len(clean)
    stats.text_bytes += len(utf8)
    return clean, utf8, uncommon
