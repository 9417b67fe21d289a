"""Any number of labels for a text, as they stand in a file: a list, or columns of 0 and 1."""

import ast
import contextlib
import pathlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bert_jax.data.json_text import loads

SEPARATORS = ("|", ";", ",")

LabelSet = tuple[str, ...]
# An entry of a list as Python writes it, and the blanks before an entry without a comma.
_ENTRY = re.compile(
    r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s,'"\[\]]+)(\s+(?=[^\s,\]]))?"""
)
# All of a field, such as {a,b} of PostgreSQL, whose first label would be "{a".
_BRACKETS = re.compile(r"\[[^][]*\]|\{[^{}]*\}|\([^()]*\)")


def separator_of(
    fields: Iterable[Any], given: str | None, path: pathlib.Path
) -> str | None:
    """The sign between two labels in a field: as given, or the only one that occurs.

    Args:
        fields: of the label column; those that are no text do not matter.
        given: the separator that the user names.
        path: of the file, for messages.

    Returns:
        `None` if no field holds such a sign, so that each field is one label.

    Raises:
        ValueError: several could be meant, or labels without quotes stand in brackets.
    """
    texts = [x for x in fields if isinstance(x, str) and _listed(x) is None]
    signs = SEPARATORS if given is None else (given,)
    for text in texts:
        if _BRACKETS.fullmatch(text.strip()) and any(sign in text for sign in signs):
            raise ValueError(
                f"{path}: the labels {text[:60]!r} stand between brackets, but are no list "
                "as JSON or Python write it; put quotes around each label, or take the "
                "brackets away."
            )
    if given is not None:
        return given
    found = [sign for sign in SEPARATORS if any(sign in text for text in texts)]
    if len(found) > 1:
        raise ValueError(
            f"{path}: the labels hold {' and '.join(map(repr, found))}, and each could "
            "separate two of them; pass the one that does, such as "
            f"--label-separator '{found[0]}'."
        )
    return found[0] if found else None


def split_labels(
    field: Any, separator: str | None, one: Callable[[Any], str]
) -> LabelSet | None:
    """The labels of a field, each once, or `None` where nothing stands.

    An empty text or an empty list is a text without labels.

    Args:
        field: a list of labels, a text with a separator between them, or a text that
            writes a list as Python or JSON do, or a set or a tuple as Python does.
        one: makes a label of one entry, or "" of nothing.
    """
    if field is None:
        return None
    entries = field
    if isinstance(field, str):
        entries = _listed(field)
        if entries is None:
            entries = field.split(separator) if separator else [field]
    elif not isinstance(field, list):
        entries = [field]
    labels = (one(entry) for entry in entries)
    return tuple(dict.fromkeys(label for label in labels if label))


def _listed(field: str) -> list[Any] | None:
    """The entries of a list such as "['a', 'b']", which pandas writes into a CSV.

    Of an array it writes "['a' 'b']", which is "ab" to Python. A set or a tuple is read
    as a list.
    """
    plain = field.strip()
    if plain == "set()":
        return []
    if plain[:1] + plain[-1:] not in ("[]", "()", "{}"):
        return None
    if plain.startswith("{"):
        plain = f"[{plain[1:-1]}]"  # in the order of the file, which a set has not
    commas = _ENTRY.sub(lambda found: found[1] + "," * bool(found[2]), plain)
    for read, text in ((loads, plain), (ast.literal_eval, commas)):
        with contextlib.suppress(ValueError, SyntaxError):
            found = read(text)
            return list(found) if isinstance(found, list | tuple) else None
    return None


def labels_of_columns(
    fields: Mapping[str, Any], columns: Sequence[str], where: str
) -> list[str] | None:
    """The names of the columns that hold 1, or `None` if a column holds nothing.

    Raises:
        ValueError: a column holds neither 0 nor 1; `where` tells the place.
    """
    found = []
    for name in columns:
        value = "" if fields.get(name) is None else str(fields[name]).strip().lower()
        if value == "":
            return None
        if value in ("1", "1.0", "true"):
            found.append(name)
        elif value not in ("0", "0.0", "false"):
            raise ValueError(
                f"{where}: column {name!r} holds {fields[name]!r}; expected 1 where the "
                "text has this label, else 0. Set --label-columns, or mend the file."
            )
    return found


def rarest(sets: Sequence[LabelSet]) -> tuple[str, ...]:
    """Of each set the label that is rarest in all of them; "" where there is none.

    It sorts examples into classes, so that a random share has its share of rare labels.
    """
    counts = Counter(label for labels in sets for label in labels)
    return tuple(
        min(labels, key=lambda label: (counts[label], label), default="")
        for labels in sets
    )
