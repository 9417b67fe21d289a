"""Splits documents into sentences, and decides which documents are held out."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import sentencex  # type: ignore[import-untyped]

from bert_jax.data.text.documents import Document

# sentencex has rules for these languages. With any other code it would silently use the
# rules of a related language or of English.
LANGUAGES = (
    *("am", "ar", "bg", "bn", "ca", "da", "de", "el", "en", "es", "fi", "fr", "gu"),
    *("hi", "hy", "it", "ja", "kk", "kn", "ml", "mr", "my", "nl", "pa", "pl", "pt"),
    *("ru", "sk", "ta", "te", "uk"),
)


_LANGUAGE_CODE = re.compile("[a-z]{2,3}")
# NumPy finds two spaces in fewer steps than Python, but takes longer to begin.
_SHORT_BYTES = 3_000
# Besides the newline; where `str.splitlines` splits.
_LINE_ENDS = "\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


def sentences(document: Document | str, language: str = "en") -> list[str]:
    """Splits a text into sentences, each within a line, with single spaces.

    Args:
        document: text with one paragraph per line. A `Document` saves time.
        language: ISO 639 code. Those in LANGUAGES have rules of their own. All others
            get the rules of Unicode (UAX 29), which know no abbreviations.

    Raises:
        ValueError: the language is not in LANGUAGES, and the extra `icu` is not installed
            or this is no code.
    """
    if isinstance(document, str):
        document = Document.of(document)
    paragraphs = _paragraphs(document)
    found: Iterable[str]
    if language in LANGUAGES:
        # sentencex takes each paragraph alone, and is quicker with all of them at once.
        found = sentencex.segment(language, "\n\n".join(paragraphs))
    else:
        found = _by_unicode_rules(paragraphs, language)
    return _stripped(found)


def _by_unicode_rules(paragraphs: Sequence[str], language: str) -> Iterator[str]:
    """Sentences by the rules of Unicode (UAX 29), as ICU has them for a language."""
    is_known = _LANGUAGE_CODE.fullmatch(language) is not None
    try:
        from icu4py.breakers import SentenceBreaker
    except ImportError:
        is_known = False
    if not is_known:
        raise ValueError(
            f"There are no sentence rules for language={language!r}; expected one of "
            f"{' '.join(LANGUAGES)}. For other languages, pip install 'bert_jax[icu]', "
            "which splits by the rules of Unicode (UAX 29), and give the language's code "
            "in ISO 639, such as zh or cs."
        )
    for paragraph in paragraphs:
        yield from SentenceBreaker(paragraph, language)


def _paragraphs(document: Document) -> list[str]:
    """The lines of a text that are not blank, with single spaces."""
    text, utf8 = document.text, document.utf8
    if spaces := [x for x in document.uncommon if x.isspace()]:
        for space in spaces:
            text = text.replace(space, "\n" if space in _LINE_ENDS else " ")
        utf8 = text.encode("utf-8", "replace")
    lines = text.split("\n")
    if _has_two_spaces(utf8):
        # Splitting takes much longer than looking for two spaces.
        lines = [" ".join(x.split()) if "  " in x else x for x in lines]
    return _stripped(lines)


def _stripped(texts: Iterable[str]) -> list[str]:
    """The texts without white space at either end, and without those of nothing else."""
    return list(filter(None, map(str.strip, texts)))


def _has_two_spaces(utf8: bytes) -> bool:
    """Whether there are two spaces side by side."""
    if len(utf8) < _SHORT_BYTES:
        return b"  " in utf8
    is_space = np.frombuffer(utf8, np.uint8) == ord(" ")
    return bool(np.any(is_space[1:] & is_space[:-1]))


def validation_place(group: str) -> float:
    """Where a group stands in [0, 1): it is held out if the fraction is larger.

    It depends on the name alone.
    """
    digest = hashlib.blake2b(group.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def validation_group(group: str, fraction: float) -> bool:
    """Whether the documents of a group are held out; it depends on the name alone.

    Args:
        group: `Document.group`.
        fraction: expected fraction of groups that are held out, in [0, 1).
    """
    return validation_place(group) < fraction
