"""Classes and tags: their order, their counts, and spellings that look like mistakes."""

import collections
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

# Python reads no more than 4,300 digits.
_INTEGER = re.compile(r"[+-]?[0-9]{1,4300}")
_MOST_SHOWN = 100


def ordered(
    labels: Iterable[str], what: str = "label", path: str = ""
) -> tuple[str, ...]:
    """The distinct labels in the order of the logits.

    Integers are ordered as numbers, other labels as text.

    Args:
        path: the training file, for messages.

    Raises:
        ValueError: fewer than two labels, or two that are the same number.
    """
    names = sorted(set(labels))
    if all(_INTEGER.fullmatch(name) for name in names):
        names.sort(key=lambda name: (int(name), name))
    if len(names) < 2:
        raise ValueError(
            f"{path or 'The training file'} has one {what} only, {names[0]!r}; at least "
            "two are needed to tell apart."
        )
    for group in _alike(names, _number):
        raise ValueError(
            f"The labels {_list(group)} of the training file are one number in several "
            "spellings, and would be several classes; write them alike."
        )
    return tuple(names)


def spelling_warnings(labels: Iterable[str]) -> list[str]:
    """Warnings about labels that differ in case, blanks or Unicode form alone."""
    return [
        f"the labels {_list(group)} differ in spelling only, and are several classes; "
        "write them alike if they are meant as one"
        for group in _alike(sorted(set(labels)), _folded)
    ]


def many_classes_warning(labels: Sequence[str]) -> list[str]:
    """A warning if most labels occur once, as if texts or numbers were taken for them."""
    counts = collections.Counter(labels)
    num_single = sum(count == 1 for count in counts.values())
    if len(counts) <= 10 or 2 * num_single <= len(labels):
        return []
    advice = "another column may be meant: --label"
    if all(map(is_number, counts)):
        advice += ", or amounts: --task regression"
    return [
        f"{len(labels):,} examples have {len(counts):,} classes, of which {num_single:,} "
        f"occur once; {advice}"
    ]


def numbers_of(
    labels: Iterable[str],
    names: Sequence[str],
    what: str = "label",
    place: Callable[[int], str] | None = None,
) -> np.ndarray:
    """Each label's place in `names`, int32 [labels].

    Args:
        place: where the label of that number stands, such as "dev.tsv, line 7".

    Raises:
        ValueError: a label is not among them.
    """
    number_of = {name: number for number, name in enumerate(names)}
    labels = list(labels)
    unknown = sorted({x for x in labels if x not in number_of})
    if unknown:
        similar = [
            name
            for name in names
            for key in (_number, _folded)
            if key(name) is not None and key(name) == key(unknown[0])
        ]
        advice = (
            f"the model spells it {similar[0]!r}, so write both alike"
            if similar
            else "remove such rows, or train on examples of it"
        )
        the = f"{place(labels.index(unknown[0]))}: the" if place else "The"
        raise ValueError(
            f"{the} {what} {unknown[0]!r} ({labels.count(unknown[0]):,} times) is none of "
            f"the model's {what}s, which are {_list(names)}; {advice}."
        )
    return np.array([number_of[label] for label in labels], np.int32)


def say_counts(labels: Iterable[str], names: Sequence[str]) -> str:
    """The labels with their counts, such as `no (15), yes (7)`.

    Args:
        names: labels to name, even where they do not occur; others come behind them.
    """
    counts = collections.Counter(labels)
    names = list(dict.fromkeys([*names, *sorted(counts)]))
    said = ", ".join(f"{name} ({counts[name]:,})" for name in names[:_MOST_SHOWN])
    more = len(names) - _MOST_SHOWN
    return said + (f" and {more:,} more" if more > 0 else "")


def is_number(text: str) -> bool:
    """Whether a text is a finite number, such as "5" or "-1.5e3"."""
    try:
        # Python would also take 1_000.
        return math.isfinite(float(text)) and "_" not in text
    except ValueError:
        return False


def _alike(names: Sequence[str], key: Callable[[str], Any]) -> Iterable[list[str]]:
    groups: dict[Any, list[str]] = {}
    for name in names:
        found = key(name)
        if found is not None:
            groups.setdefault(found, []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _number(name: str) -> float | None:
    if not is_number(name):
        return None
    # A float would make one number of two long ones.
    return int(name) if _INTEGER.fullmatch(name) else float(name)


def _folded(name: str) -> str:
    plain = unicodedata.normalize("NFKC", name).casefold()
    seen = (sign for sign in plain if unicodedata.category(sign) != "Cf")
    return " ".join("".join(seen).split())


def _list(names: Sequence[str]) -> str:
    said = ", ".join(map(repr, names[:_MOST_SHOWN]))
    return said if len(names) <= _MOST_SHOWN else f"{said}, …"
