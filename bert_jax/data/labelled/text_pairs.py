"""Texts that belong together, or whose similarity is known: tables to examples, to rows."""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bert_jax.config import TaskConfig
from bert_jax.config.checks import require_used
from bert_jax.config.finetune import Split
from bert_jax.data.labelled.columns import find_columns, refuse_twins
from bert_jax.data.labelled.examples import (
    EncodedExamples,
    Examples,
    Reading,
    Text,
    require_file,
)
from bert_jax.data.labelled.groups import encode_groups
from bert_jax.data.labelled.labels import is_number
from bert_jax.data.labelled.tables import (
    SUFFIXES,
    CompleteRow,
    Table,
    complete_rows,
    read_table,
)
from bert_jax.data.labelled.texts import refuse_several_labels, text_of
from bert_jax.data.tokenizers.tokenizer import Tokenizer

_NEGATIVES = ("negative", "hard_negative", "hard_neg", "neg")
_SCORES = ("score", "similarity", "similarity_score", "label", "quality", "rating")


@dataclasses.dataclass(frozen=True)
class TextPairs(Examples):
    """Pairs of texts in file order, with scores, or with a third text that differs."""

    texts: tuple[Text, ...]
    """Two of each: they belong together if there are no scores. Or three: the first two
    belong together, the third one does not."""
    similarities: tuple[float, ...] | None
    """What the cosine of each pair should be, in [-1, 1]."""
    reading: Reading = dataclasses.field(default=Reading(), compare=False)

    def records(self) -> Iterator[Any]:
        for number, text in enumerate(self.texts):
            yield [*text, self.similarities and self.similarities[number]]

    def shown(self) -> Iterator[tuple[str, str]]:
        for *text, similarity in self.records():
            truth = "belong together"
            if similarity is not None:
                truth = f"similarity {similarity:.3g}"
            yield "\n".join(text), truth


def read_text_pairs(
    path: pathlib.Path | None, cfg: TaskConfig, split: Split
) -> TextPairs:
    """Reads a table (`tables.SUFFIXES`) of pairs with a score each, or without scores.

    Args:
        split: for messages; the columns are those of `cfg`, which is that split's.

    Raises:
        ValueError: no path, an unknown kind, a missing column, an incomplete row, a score
            that is no number or lies outside its range (the line is named), or no rows.
        FileNotFoundError: nothing is there.
    """
    path = require_file(path, SUFFIXES)
    refuse_several_labels(path, cfg)
    table = read_table(path, cfg)
    if not table.rows:
        raise ValueError(f"{path} holds no rows; expected pairs of texts.")
    score = _score_column(table, cfg)
    if split == "train":
        scored = (
            f"{path} has scores in {score!r}, so a row has two texts. Leave it out, "
        )
        require_used(
            cfg, score is None, f"{scored}or pass --pairs matching.", "negative"
        )
        unscored = f"{path} has no column of scores. Leave it out, or set --label."
        require_used(cfg, score is not None, unscored, "score_range")
    found = find_columns(
        table,
        dataclasses.replace(cfg, label=score),
        split,
        labelled=score is not None,
    )
    columns = found.texts
    if len(columns) != 2:
        raise ValueError(
            f"{path}: {found}; a file for --task embeddings has two columns of texts. "
            f"Name both with --text; the columns are {', '.join(table.columns)}."
        )
    negative = None if score else _column(table, cfg.negative, _NEGATIVES, "negative")
    columns = (*columns, *filter(None, [negative, score]))
    rows, num_skipped = complete_rows(table, columns, cfg)
    num_texts = 2 + (negative is not None)
    texts = tuple(
        tuple(
            text_of(value, f"{row.where}: column {name!r}")
            for name, value in zip(columns[:num_texts], row.values, strict=False)
        )
        for row in rows
    )
    how = f"{table.how}; {found}"
    similarities, settings = None, {}
    if score is not None:
        low, high = cfg.score_range or _usual_range(rows)
        how += f", {low:g} to {high:g} as cosines of 0 to 1"
        # An imported model has no training, whose settings say what scores mean.
        by = None if split == "validation" and cfg.train is None else split
        similarities = _similarities(rows, score, low, high, by)
        settings = {"score_range": (low, high)}
    elif negative is not None:
        how += f", texts that do not belong to them from {negative!r}"
    reading = Reading(
        str(path),
        how,
        columns if score else (),
        num_skipped,
        table.warnings,
        settings,
    )
    return TextPairs(texts, similarities, reading)


def _score_column(table: Table, cfg: TaskConfig) -> str | None:
    """The column of scores, or `None` for pairs that belong together."""
    if cfg.pairs == "matching":
        return None
    found = _column(table, cfg.label, _SCORES, "label")
    if found is None and cfg.pairs == "scored":
        raise ValueError(
            f"{table.path} has no column with a usual name of a score; the columns are "
            f"{', '.join(table.columns)}. Set --label, or leave --pairs scored out."
        )
    return found


def _column(
    table: Table, given: str | None, usual: Sequence[str], flag: str
) -> str | None:
    if given is not None and given not in table.columns:
        raise ValueError(
            f"{table.path} has no column {given!r}; the columns are "
            f"{', '.join(table.columns)}. Set --{flag}."
        )
    names = {name.lower(): name for name in table.columns}
    found = next((names[name] for name in usual if name in names), None)
    if given is None and found is not None:
        refuse_twins(table, [found], ())
    return given or found


def _usual_range(rows: Sequence[CompleteRow]) -> tuple[float, float]:
    """0 to 5, as in STS, if a score is greater than 1; else 0 to 1."""
    values = [str(row.values[-1]) for row in rows]
    greatest = max((float(x) for x in values if is_number(x)), default=1.0)
    return (0.0, 5.0) if greatest > 1.0 else (0.0, 1.0)


def _similarities(
    rows: Sequence[CompleteRow], column: str, low: float, high: float, by: Split | None
) -> tuple[float, ...]:
    found = []
    for row in rows:
        value: Any = row.values[-1]
        if not is_number(str(value)):
            raise ValueError(
                f"{row.where}: column {column!r} holds {value!r}, which is no finite "
                "number. Set --label to the column of the scores, or pass --pairs "
                "matching if the texts of every row belong together."
            )
        similarity = (float(value) - low) / (high - low)
        if not -1.0 <= similarity <= 1.0:
            scale = ", as in the training file" if by == "validation" else ""
            way_out = (
                f"Bring all scores to numbers from {low:g} to {high:g}."
                if by is None
                else "Set finetune's --score-range to the smallest and the greatest score."
            )
            raise ValueError(
                f"{row.where}: the score {value} would be a cosine of {similarity:g}, "
                f"since scores of {low:g} to {high:g} mean cosines of 0 to 1{scale}. "
                f"{way_out}"
            )
        found.append(similarity)
    return tuple(found)


def encode_text_pairs(
    tokenizer: Tokenizer, examples: TextPairs, sequence_length: int
) -> EncodedExamples:
    """`[CLS] text [SEP]` for each text, in groups of two or three.

    Labels are float32 [examples], the similarities; or int32 zeros where there are none.
    """
    groups = [[(text,) for text in texts] for texts in examples.texts]
    labels = np.zeros(len(examples), np.int32)
    if examples.similarities is not None:
        labels = np.array(examples.similarities, np.float32)
    return encode_groups(tokenizer, groups, labels, sequence_length)
