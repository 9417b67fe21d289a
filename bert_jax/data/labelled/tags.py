"""Tags of words: the scheme that they are written in, and the entities that they mark."""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

_LETTERED = re.compile(r"([BIELSU])(?:-(.+))?")
_UNREAD = re.compile(r"[BIELSU][-_:/].+|.+[-_:/][BIELSU]", re.IGNORECASE)
# seqeval's name of the type in files with letters only.
_NO_TYPE = "_"

Style = Literal["letters", "types", "words"]


class Entity(NamedTuple):
    kind: str
    first: int
    """Number of its first word in the sentence."""
    last: int
    """Number of its last word."""


def style_of(tags: Iterable[str]) -> Style:
    """What the tags of a file are.

    letters: `O`, or a letter of B, I, E, L, S, U with or without a type, as in `B-PER`.
        Models of others have tags without one beside them, such as `[CLS]`.
    types: `O` and types without letters. Neighbours of one type are one entity.
    words: everything else, such as parts of speech. Each word stands for itself.
    """
    names = set(tags)
    if odd_tags(names) or all(map(_LETTERED.fullmatch, names - {"O"})):
        return "letters"
    return "types" if "O" in names else "words"


def odd_tags(tags: Iterable[str]) -> set[str]:
    """Tags without a letter of BIO or the like, where other tags have one."""
    names = set(tags) - {"O"}
    if not any(name.startswith(("B-", "I-")) for name in names):
        return set()
    return {name for name in names if not _LETTERED.fullmatch(name)}


def form_warnings(tags: Iterable[str]) -> list[str]:
    """A warning if all tags look like BIO in a form that is not read, such as `LOC-B`."""
    names = sorted(set(tags) - {"O", "o"})
    if style_of(names) == "letters" or not all(map(_UNREAD.fullmatch, names)):
        return []
    return [
        f"tags such as {names[0]!r} look like BIO, but are read as types, each for itself; "
        "if BIO is meant, write them as in B-LOC, and O outside of entities"
    ]


def scheme_of(sentences: Sequence[Sequence[str]]) -> str:
    """The scheme of the tags, by its usual name."""
    style = style_of(tag for tags in sentences for tag in tags)
    if style == "words":
        return "a tag for each word by itself, such as its part of speech"
    if style == "types":
        return "IO, types without letters"
    letters = {tag[0] for tags in sentences for tag in tags}
    if letters & set("ES"):
        return "BIOES"
    if letters & set("LU"):
        return "BILOU"
    opening = [tags[entity.first][0] for tags in sentences for entity in entities(tags)]
    if "I" not in opening:
        return "BIO (IOB2)"
    # In IOB1, a B is there only to part two neighbours of one type.
    parting = sum(
        previous[1:] == tag[1:]
        for tags in sentences
        for previous, tag in itertools.pairwise(tags)
        if tag[0] == "B" and previous[0] in "BI"
    )
    if opening.count("B") == parting:
        return "IOB1"
    return f"BIO (IOB2), with {opening.count('I'):,} entities that begin with I"


def entities(tags: Sequence[str], style: Style = "letters") -> Iterator[Entity]:
    """The entities of a sentence, tagged in BIO, IOB1, BIOES, BILOU, or as `style` says.

    An entity begins at B, S or U, at any letter after O or after another type, and after
    an entity that E, L, S or U has ended.

    Source: Tjong Kim Sang & De Meulder 2003 (conlleval); seqeval's default mode.
    """
    if style == "words":
        yield from (Entity(tag, number, number) for number, tag in enumerate(tags))
        return
    first, kind, ended = 0, "", True
    for number, tag in enumerate([*tags, "O"]):
        lettered = _LETTERED.fullmatch(tag) if style == "letters" else None
        letter, of = lettered.groups(_NO_TYPE) if lettered else ("I", tag)
        if kind and (ended or of != kind or letter in "BSU"):
            yield Entity(kind, first, number - 1)
            kind = ""
        if of != "O" and not kind:
            first, kind = number, of
        ended = letter in "ELSU"
