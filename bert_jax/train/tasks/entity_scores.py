"""Precision, recall and F1 of whole entities: all of them, and those of each type."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from bert_jax.data.labelled.tags import Style, entities


def entity_scores(
    truth: Sequence[Sequence[str]],
    found: Sequence[Sequence[str]],
    style: Style = "letters",
) -> dict[str, float]:
    """Precision, recall and F1 over all entities. Without entities they are 0.

    An entity is right if its type and both of its ends are right.

    Source: Tjong Kim Sang & De Meulder 2003 (conlleval); seqeval's default mode.
    """
    true, said, right = _counts(truth, found, style)
    return _scores(true.total(), said.total(), right.total())


def entity_table(
    truth: Sequence[Sequence[str]],
    found: Sequence[Sequence[str]],
    style: Style = "letters",
) -> list[dict[str, Any]]:
    """A dict of "label" and the scores of `PER_LABEL` for each type there is or was found."""
    true, said, right = _counts(truth, found, style)
    return [
        {
            "label": kind,
            **_scores(true[kind], said[kind], right[kind]),
            "support": true[kind],
        }
        for kind in sorted(true | said)
    ]


def _counts(
    truth: Sequence[Sequence[str]], found: Sequence[Sequence[str]], style: Style
) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """For each type, how many entities there are, were found, and both."""
    true: Counter[str] = Counter()
    said: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for true_tags, found_tags in zip(truth, found, strict=True):
        here, there = set(entities(true_tags, style)), set(entities(found_tags, style))
        true.update(entity.kind for entity in here)
        said.update(entity.kind for entity in there)
        right.update(entity.kind for entity in here & there)
    return true, said, right


def _scores(true: int, said: int, right: int) -> dict[str, float]:
    return {
        "precision": right / said if said else 0.0,
        "recall": right / true if true else 0.0,
        "f1": 2.0 * right / (true + said) if right else 0.0,
    }
