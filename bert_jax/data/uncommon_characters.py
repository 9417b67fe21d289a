"""The few characters of a text that rules about single characters can concern."""

_COMMON = bytes({*range(0x20, 0x7F), *b"\n"})


def uncommon_characters(utf8: bytes) -> frozenset[str]:
    """The characters of a text that are neither printable ASCII nor newlines.

    They are few, so that looking for one of them here is much faster than in the text.

    Args:
        utf8: the text in UTF-8; lone surrogates may be written as `surrogatepass` does.
    """
    rest = utf8.translate(None, _COMMON)
    return frozenset(rest.decode("utf-8", "surrogatepass"))
