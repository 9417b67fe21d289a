"""Which columns of a table hold the texts and the label: as given, or by usual names."""

from collections.abc import Collection, Iterable
from typing import NamedTuple

from bert_jax.config import FileConfig
from bert_jax.config.finetune import Split
from bert_jax.data.labelled.tables import DELIMITERS, Table

_PAIRS = (
    ("text", "text_pair"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("question", "passage"),
    ("#1 string", "#2 string"),
    ("anchor", "positive"),
    ("sent0", "sent1"),
    ("query", "positive"),
)
_TEXTS = (
    *("text", "sentence", "content", "review", "comment", "tweet", "document"),
    *("utterance", "query", "question", "message", "body"),
)
_LABELS = (
    *("label", "labels", "class", "category", "target", "sentiment", "intent"),
    *(
        "gold_label",
        "is_duplicate",
        "quality",
        "score",
        "similarity",
        "rating",
        "stars",
    ),
)
_ADVICE: dict[Split | None, str] = {
    "train": "Set --text and --label (by number, with "
    "--no-header, where no line names them)",
    "validation": "Set --text and --label; `finetune` also takes "
    "--dev-text and --dev-label, where only its "
    "validation file has these names",
    None: "Set --text (by number, with --no-header, where no line names them)",
}


class Columns(NamedTuple):
    texts: tuple[str, ...]
    label: str | None
    """`None` where no label is read."""
    guessed: tuple[str, ...]
    """Those that were found by their usual names."""
    flags: tuple[str, ...] = ()
    """Columns of 0 and 1 in place of one label column, each named like its label."""

    def __str__(self) -> str:
        said = "text from " + " and ".join(map(self._say, self.texts))
        if self.flags:
            said += f", labels from 0 and 1 in {', '.join(map(repr, self.flags))}"
        return (
            said
            if self.label is None
            else f"{said}, label from {self._say(self.label)}"
        )

    def _say(self, name: str) -> str:
        return f"{name!r} (by its name)" if name in self.guessed else repr(name)


def find_columns(
    table: Table, cfg: FileConfig, split: Split | None, *, labelled: bool = True
) -> Columns:
    """The columns that `cfg` gives; those that it leaves out, by their usual names.

    Args:
        split: for advice; `None` for a file to predict on.

    Raises:
        ValueError: a column is not there, or several could be meant, or none.
    """
    texts = cfg.text
    label = cfg.label if labelled else None
    flags = cfg.label_columns if labelled else ()
    if not cfg.header:
        _check_bare(table, cfg, split, labelled=labelled)
    given = {*texts, *filter(None, [label]), *flags}
    for name in (*texts, *filter(None, [label]), *flags):
        if name not in table.columns:
            raise ValueError(_missing(table, f"no column {name!r}", split))
    free = {name.lower(): name for name in table.columns if name not in given}
    if not texts:
        texts = _usual_texts(table, free, split)
    if labelled and label is None and not flags:
        label = _only(table, [free[x] for x in _LABELS if x in free], "label", split)
    found = tuple(x for x in (*texts, label) if x is not None and x not in given)
    refuse_twins(table, found, given)
    return Columns(texts, label, found, flags)


def refuse_twins(table: Table, found: Iterable[str], given: Collection[str]) -> None:
    """Raises ValueError if a column that was found by its name could as well be another
    one, whose name differs in case alone and which is not `given`.
    """
    for name in found:
        free = (x for x in table.columns if x not in given)
        twins = [x for x in free if x.lower() == name.lower()]
        if len(twins) > 1:
            raise ValueError(
                f"{table.path} has the columns {' and '.join(map(repr, twins))}, and each "
                "could be meant; rename one, or name the columns to read with flags such "
                "as --text and --label."
            )


def _usual_texts(
    table: Table, free: dict[str, str], split: Split | None
) -> tuple[str, ...]:
    for pair in _PAIRS:
        if all(name in free for name in pair):
            return tuple(free[name] for name in pair)
    return (_only(table, [free[x] for x in _TEXTS if x in free], "text", split),)


def _only(table: Table, found: list[str], what: str, split: Split | None) -> str:
    if what in found:
        return what
    if len(found) == 1:
        return found[0]
    if found:
        several = f"several columns that could be the {what} ({', '.join(found)})"
        raise ValueError(_missing(table, several, split))
    message = _missing(table, f"no column with a usual name of a {what}", split)
    flags = [] if what == "text" else _flag_columns(table)
    if len(flags) > 1:
        message += (
            " If each column of 0 and 1 is a label, pass --task multilabel "
            f"--label-columns {' '.join(flags)}"
        )
    raise ValueError(message)


def _flag_columns(table: Table) -> list[str]:
    """The columns that hold 0 or 1 in every row."""
    signs = {"0", "1", "true", "false"}
    return [
        name
        for name in table.columns
        if table.rows
        and all(str(row.fields.get(name)).lower() in signs for row in table.rows)
    ]


def _missing(table: Table, what: str, split: Split | None) -> str:
    message = f"{table.path} has {what}; the columns are {', '.join(table.columns)}"
    values = table.rows[0].fields if table.rows else {}
    if nested := [name for name, value in values.items() if isinstance(value, dict)]:
        message += (
            f". What is within an object, as in {nested[0]!r}, is not read: write it as a "
            "column of its own"
        )
    if len(table.columns) == 1:
        first = str(next(iter(table.rows[0].fields.values()), "")) if table.rows else ""
        signs = [x for x in DELIMITERS if x in table.columns[0] or x in first]
        message += f", and the first row is {first[:60]!r}"
        for sign in signs:
            flag = "tab" if sign == "\t" else f"'{sign}'"
            message += f". If its fields are separated, pass --delimiter {flag}"
    return f"{message}. {_ADVICE[split]}."


def _check_bare(
    table: Table, cfg: FileConfig, split: Split | None, *, labelled: bool
) -> None:
    """Without a header, columns go by number, and the first line must hold an example."""
    if not cfg.text or (labelled and cfg.label is None and not cfg.label_columns):
        raise ValueError(
            f"{table.path} is read without a header, so nothing names its columns; give "
            "--text and --label by number. The first line has "
            f"the fields {_shown(table)}."
        )
    if not table.rows:
        return
    fields = table.rows[0].fields
    texts = [str(fields.get(name)).strip().lower() for name in cfg.text]
    usual = {*_TEXTS, *(name for pair in _PAIRS for name in pair)}
    label = str(fields.get(cfg.label or "")).strip().lower()
    if all(text in usual for text in texts) and (not labelled or label in _LABELS):
        raise ValueError(
            f"{table.path}, {table.rows[0].place}: {_shown(table)} reads like the names of "
            "columns, but --no-header makes it an example; leave that flag out."
        )


def _shown(table: Table) -> str:
    fields = table.rows[0].fields if table.rows else {}
    return ", ".join(f"{name}: {str(value)[:40]!r}" for name, value in fields.items())
