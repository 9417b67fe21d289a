"""Applies the rules of a normaliser with a few operations on strings."""

import functools
import re
import unicodedata
from collections.abc import Callable, Collection, Sequence

from bert_jax.data.uncommon_characters import uncommon_characters

_SURROGATE = re.compile("[\ud800-\udfff]")
_SPACES = re.compile(" {2,}")
# Of these categories of Unicode, a character can change the one before it, or may do so in
# later versions. Letters of Hangul do it too.
_JOINING = {"Mn", "Mc", "Me", "Cn", "Cs"}
_HANGUL = re.compile("[\u1100-\u11ff]")


def without_surrogates(text: str) -> str:
    """The text with U+FFFD for lone surrogates, which are not characters."""
    # `isascii` reads a stored flag, so ordinary text is not searched.
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


class FastNormalization:
    """A normaliser that changes most characters whatever stands around them.

    Of printable ASCII, its rules may change the case and spaces alone. What they make of
    another character may depend on what follows only if this is a mark or a letter of those
    that Hangul is composed of. Unicode's forms and the rules of SentencePiece are so.
    """

    def __init__(
        self,
        normalize: Callable[[str], str],
        *,
        lowercase: bool,
        drops_spaces: bool = False,
    ) -> None:
        """Takes the rules.

        Args:
            normalize: applies them to one text.
            lowercase: whether they put text in lower case.
            drops_spaces: whether they drop spaces at both ends and behind other spaces.
        """
        self._normalize = normalize
        self._lowercase, self._drops_spaces = lowercase, drops_spaces
        self._change = functools.cache(self._change_of)

    def __call__(
        self, texts: Sequence[str], uncommon: Collection[str] | None = None
    ) -> Sequence[str]:
        """The texts after the rules; lone surrogates count as U+FFFD.

        Args:
            texts: the texts.
            uncommon: as for `Tokenizer.encode_joined`.
        """
        if uncommon is None:
            utf8 = "".join(texts).encode("utf-8", "surrogatepass")
            uncommon = uncommon_characters(utf8)
        changes = {x: self._change(x) for x in (*uncommon, "\n")}
        found = texts
        for character, becomes in changes.items():
            if becomes is not None and becomes != character:
                found = [text.replace(character, becomes) for text in found]
        found = self._as_plain(found)
        if unsure := [x for x, becomes in changes.items() if becomes is None]:
            has_some = re.compile(f"[{re.escape(''.join(unsure))}]").search
            found = [
                self._one(text) if not text.isascii() and has_some(text) else simple
                for text, simple in zip(texts, found, strict=True)
            ]
        return found

    def _as_plain(self, texts: Sequence[str]) -> Sequence[str]:
        """The texts after the rules for printable ASCII."""
        if self._lowercase:
            texts = [text.lower() for text in texts]
        if self._drops_spaces:
            texts = [
                (_SPACES.sub(" ", text) if "  " in text else text).strip(" ")
                for text in texts
            ]
        return texts

    def _one(self, text: str) -> str:
        text = self._normalize(without_surrogates(text))
        return text.strip(" ") if self._drops_spaces else text

    def _change_of(self, character: str) -> str | None:
        """What goes in the place of a character before `_as_plain`, if that can be said."""
        decomposed = unicodedata.normalize("NFKD", character)
        kinds = {unicodedata.category(character), unicodedata.category(decomposed[0])}
        if kinds & _JOINING or _HANGUL.search(unicodedata.normalize("NFC", decomposed)):
            return None
        becomes = self._within_text(character)
        if self._within_text(becomes) != becomes:
            return None
        if not self._lowercase:
            return becomes
        # A sigma's lower case depends on what follows, to Python but not to the rules.
        is_plain = becomes == character.lower() and character != "Σ"
        return (
            None if becomes.lower() != becomes else character if is_plain else becomes
        )

    def _within_text(self, character: str) -> str:
        return self._one(f"a{character}a")[1:-1]
