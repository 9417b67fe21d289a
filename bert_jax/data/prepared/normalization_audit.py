"""Counts what a tokenizer's normalisation takes away from text of a source.

What it deletes, or merges with other characters, is counted by Unicode category. Case is
left out, for a tokenizer says itself whether it keeps it.
"""

import collections
import unicodedata
from collections.abc import Sequence
from typing import Any

from bert_jax.data.tokenizers.tokenizer import Tokenizer

_EXAMPLES = 3
_MARKS = ("Mn", "Mc")
# Words of the names of marks without which a script can be read. "COMBINING" is that of
# accents on Latin letters and the like; kana need theirs.
_OPTIONAL = ("COMBINING", "ARABIC", "HEBREW", "SYRIAC", "CYRILLIC")
_KANA = "COMBINING KATAKANA-HIRAGANA"


def lost_in_normalization(
    tokenizer: Tokenizer, sentences: Sequence[str]
) -> dict[str, Any]:
    """What normalisation takes away from sentences.

    Returns:
        `characters`: how many were looked at. `lost`: Unicode category -> `count`, how
        many of its characters are deleted or become others, and `examples`, up to three
        words as [before, after], the most frequent characters first. `needed_marks`: how
        many of the lost are marks without which their script cannot be read, such as
        vowel signs.
    """
    counts: collections.Counter[str] = collections.Counter()
    for sentence in sentences:
        counts.update(sentence)
    lost: dict[str, Any] = {}
    needed = 0
    for char, count in counts.most_common():
        for part in _lost_of(tokenizer, char):
            kind = unicodedata.category(part)
            entry = lost.setdefault(kind, {"count": 0, "examples": []})
            entry["count"] += count
            needed += count * _is_needed(part)
            word = _word_with(char, sentences)
            example = [word, tokenizer.normalize(word).strip()]
            if len(entry["examples"]) < _EXAMPLES and example not in entry["examples"]:
                entry["examples"].append(example)
    return {"characters": counts.total(), "lost": lost, "needed_marks": needed}


def _lost_of(tokenizer: Tokenizer, char: str) -> list[str]:
    """What of a character is deleted or merged: its marks, or the character itself."""
    if char.isspace() or unicodedata.category(char)[0] == "C":
        return []
    # Behind a letter, because some rules change what begins a text. Others put spaces
    # around an ideograph, which takes nothing away.
    after = tokenizer.normalize(f"a{char}").strip()[1:].strip()
    if after.lower() in (
        char.lower(),
        unicodedata.normalize("NFC", char).lower(),
    ):
        return []
    parts, kept = (unicodedata.normalize("NFD", x.lower()) for x in (char, after))
    if parts == kept:
        return []
    marks = [x for x in parts if unicodedata.category(x) in _MARKS and x not in kept]
    return marks or [char]


def _is_needed(char: str) -> bool:
    name = unicodedata.name(char, "")
    return unicodedata.category(char) in _MARKS and (
        name.startswith(_KANA) or not name.startswith(_OPTIONAL)
    )


def _word_with(char: str, sentences: Sequence[str]) -> str:
    """The first word with a character, cut around it if it is long."""
    sentence = next(x for x in sentences if char in x)
    word = next(x for x in sentence.split() if char in x)
    start = max(word.index(char) - 8, 0)
    return word[start : start + 17]
