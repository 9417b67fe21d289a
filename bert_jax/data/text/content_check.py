"""Recognises by its first bytes a file that is not text in UTF-8."""

import codecs

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
_UNREADABLE = {
    b"WARC/1.": ("a web archive (WARC)", "Write its texts as .jsonl."),
    b"version https://git-lfs": ("a pointer of Git LFS", "Fetch it: git lfs pull."),
}
# A few of these characters can be errors in a text; a file with many is not text.
_CONTROLS = bytes({*range(0x20)} - {*b"\t\n\v\f\r\x1b"})


def check_is_text(head: bytes, name: str, *, is_whole: bool) -> None:
    """Refuses a file of another kind or encoding.

    Single wrong bytes are let through; the reader counts them.

    Args:
        head: the first bytes of the file, not compressed.
        name: for messages.
        is_whole: whether these are all bytes of the file.

    Raises:
        ValueError: the file is not text in UTF-8. The message says what to do.
    """
    for mark, encoding in _OTHER_ENCODINGS.items():
        if head.startswith(mark):
            raise ValueError(
                f"{name} is {encoding}; expected UTF-8. {_conversion(encoding)}"
            )
    for mark, kind in _OTHER_KINDS.items():
        if head.startswith(mark):
            raise ValueError(
                f"{name} is {kind}, which its name does not say; expected text. Give the "
                "file the right suffix, or take it out of the source."
            )
    for mark, (kind, remedy) in _UNREADABLE.items():
        if head.startswith(mark):
            raise ValueError(f"{name} is {kind}; expected text. {remedy}")
    beginning = head[:4096]
    num_controls = len(beginning) - len(beginning.translate(None, _CONTROLS))
    most_zeros, most_controls = len(beginning) // 50, 8 + len(beginning) // 20
    if beginning.count(0) > most_zeros or num_controls > most_controls:
        what, remedy = "not text", "Take the file out of the source."
        if encoding := _utf_16(beginning):
            what, remedy = f"{encoding} without a mark", _conversion(encoding)
        raise ValueError(f"{name} is {what}; expected UTF-8. {remedy}")
    _check_encoding(head, name, is_whole)


def _utf_16(beginning: bytes) -> str:
    """The order of the bytes if most characters are Latin in UTF-16, otherwise nothing."""
    for encoding, high in (("UTF-16LE", 1), ("UTF-16BE", 0)):
        zeros = beginning[high::2].count(0)
        if zeros == beginning.count(0) and 4 * zeros > len(beginning):
            return encoding
    return ""


def _check_encoding(head: bytes, name: str, is_whole: bool) -> None:
    # Of a character that the end of `head` cuts, nothing is judged.
    decoders = codecs.getincrementaldecoder("utf-8")
    try:
        decoders().decode(head, final=is_whole)
        return
    except UnicodeDecodeError:
        text = decoders("surrogateescape").decode(head, final=is_whole)
    wrong = [place for place, char in enumerate(text) if "\udc80" <= char <= "\udcff"]
    if len(wrong) * 100 <= len(head) and not (
        len(wrong) > 8 and len(wrong) * 1000 > len(head)
    ):
        return
    line = text.count("\n", 0, wrong[0]) + 1
    byte = ord(text[wrong[0]]) - 0xDC00
    raise ValueError(
        f"{name}, line {line}: the byte {byte:#04x} is not UTF-8, and {len(wrong):,} of "
        f"the first {len(head):,} bytes are not; expected UTF-8. "
        f"{_conversion('CP1252')} In place of CP1252 (western Europe), name the "
        "encoding of the text, for example ISO-8859-2, CP1251, GB18030 or SHIFT_JIS."
    )


def _conversion(encoding: str) -> str:
    return f"Convert it, for example with: iconv -f {encoding} -t UTF-8 FILE > NEW."
