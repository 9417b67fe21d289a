"""Refuses, before any work, a source of which nothing would be held out, or everything."""

import dataclasses
import math
from collections.abc import Callable

from bert_jax.config import PrepareOptions
from bert_jax.data.plural import plural
from bert_jax.data.text.reading import read_source
from bert_jax.data.text.sections import Source
from bert_jax.data.text.sentences import validation_place

# Of a larger source only the beginning is read here. A split that is empty in so much
# text and not in the rest is rare, and harmless.
_MOST_BYTES = 256 << 20


@dataclasses.dataclass
class _Group:
    name: str
    documents: int = 0
    text_bytes: int = 0


def refuse_one_sided(source: Source, options: PrepareOptions) -> None:
    """Reads documents until each split has one; most sources need a few dozen.

    Raises:
        ValueError: one of the splits would be empty. The message says which fraction
            would fill it, with how many documents and bytes.
    """
    groups: dict[float, _Group] = {}
    num_bytes = 0
    sides = set()
    for document in read_source(source, options.read):
        place = validation_place(document.group)
        group = groups.setdefault(place, _Group(document.group))
        size = len(document.utf8)
        group.documents += 1
        group.text_bytes += size
        num_bytes += size
        sides.add(place < options.validation_fraction)
        if len(sides) == 2 or num_bytes > _MOST_BYTES:
            return
    raise ValueError(_message(source.spec, groups, options.validation_fraction))


def _message(spec: str, groups: dict[float, _Group], fraction: float) -> str:
    documents = sum(group.documents for group in groups.values())
    num_bytes = sum(group.text_bytes for group in groups.values())
    text = f"{spec} holds {documents:,} documents of {num_bytes:,} bytes"
    if documents == 1:
        return (
            f"{spec} is one document of {num_bytes:,} bytes, so that nothing can be held "
            "out for validation. Add text; or, if it is several documents, put blank "
            "lines between them and leave out --read.documents file."
        )
    if len(groups) == 1:
        [group] = groups.values()
        return (
            f"{text}, and all of them are of one group, {group.name!r}. The documents of "
            "a group are held out together, so that one split would be empty. The group "
            'is the field "group" of a record, or else its field "url"; give the '
            "documents several groups, or take that field out. (The fragments of a "
            "document longer than --read.max-document-bytes are of one group, too.)"
        )
    places = sorted(groups)
    if fraction > places[0]:  # Everything is held out.
        split, advised = "training", _rounded(places[-1], math.floor)
    else:
        split, advised = "validation", _rounded(places[0], math.ceil)
    of_groups = ""
    if len(groups) < documents:
        of_groups = (
            f' in {len(groups):,} groups (by the field "group" or "url"; a group is held '
            "out as a whole)"
        )
    held_out = [group for place, group in groups.items() if place < advised]
    return (
        f"With --validation-fraction {fraction} the {split} split would be empty: "
        f"{text}{of_groups}, which are too few for this fraction. For "
        f"example, --validation-fraction {advised:g} holds out "
        f"{plural(sum(group.documents for group in held_out), 'document')}, "
        f"{sum(group.text_bytes for group in held_out) / num_bytes:.1%} of the text. "
        "Nothing has been written yet."
    )


def _rounded(place: float, rounding: Callable[[float], int]) -> float:
    """The place with three digits."""
    scale = 10.0 ** (3 - math.ceil(math.log10(place)))
    return rounding(place * scale) / scale
