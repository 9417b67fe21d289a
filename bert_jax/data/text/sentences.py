"""Splits documents into sentences, and decides which documents are held out."""

import hashlib

import sentencex  # type: ignore[import-untyped]

# sentencex has rules for these languages. With any other code it would silently use the
# rules of a related language or of English.
LANGUAGES = (
    *("am", "ar", "bg", "bn", "ca", "da", "de", "el", "en", "es", "fi", "fr", "gu"),
    *("hi", "hy", "it", "ja", "kk", "kn", "ml", "mr", "my", "nl", "pa", "pl", "pt"),
    *("ru", "sk", "ta", "te", "uk"),
)


def sentences(document_text: str, language: str = "en") -> list[str]:
    """Splits a text into sentences, each within a line, with single spaces.

    Args:
        document_text: text with one paragraph per line.
        language: ISO 639-1 code, one of LANGUAGES.

    Raises:
        ValueError: there are no rules for the language.
    """
    if language not in LANGUAGES:
        raise ValueError(
            f"There are no sentence rules for language={language!r}; expected one of "
            f"{' '.join(LANGUAGES)}. Give the most similar one: ja for Chinese, sk for "
            "Czech, da for Norwegian and Swedish, otherwise en."
        )
    found = []
    for line in document_text.splitlines():
        paragraph = " ".join(line.split())
        if paragraph:
            found += [s.strip() for s in sentencex.segment(language, paragraph)]
    return [sentence for sentence in found if sentence]


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

    Raises:
        ValueError: the fraction is outside [0, 1).
    """
    if not 0.0 <= fraction < 1.0:
        raise ValueError(
            f"The validation fraction {fraction} is not in [0, 1); 0 holds nothing out."
        )
    return validation_place(group) < fraction
