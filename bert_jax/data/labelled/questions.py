"""Questions whose answer is a span of a passage: files in SQuAD's form to examples."""

import dataclasses
import json
import pathlib
import types
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from bert_jax.config import FileConfig
from bert_jax.data.json_text import each_once, loads
from bert_jax.data.labelled.decoding import read_text
from bert_jax.data.labelled.examples import Examples, Reading, require_file
from bert_jax.data.labelled.tables import read_table
from bert_jax.data.labelled.texts import text_of
from bert_jax.data.labelled.word_places import places_of_words

SUFFIXES = (".json", ".jsonl", ".parquet")
_FORM = (
    '{"data": [{"paragraphs": [{"context": TEXT, "qas": [{"question": TEXT, "answers": '
    '[{"text": TEXT, "answer_start": NUMBER}]}]}]}]}, or in a .jsonl or .parquet the '
    'columns "context", "question" and "answers"'
)


class Answer(NamedTuple):
    text: str
    start: int
    """Number of its first character in the passage."""


@dataclasses.dataclass(frozen=True)
class Questions(Examples):
    """Questions in file order, each with its passage."""

    questions: tuple[str, ...]
    passages: tuple[str, ...]
    answers: tuple[tuple[Answer, ...], ...]
    """The accepted answers of each question, the first to train on; none where the
    passage holds no answer, or where it is to be found out."""
    ids: tuple[Any, ...] = dataclasses.field(default=(), compare=False)
    """Id of each question, where the file has it."""
    reading: Reading = dataclasses.field(default=Reading(), compare=False)

    def records(self) -> Iterator[object]:
        yield from zip(self.questions, self.passages, self.answers, strict=True)

    def together(self) -> Sequence[str]:
        """The questions about a passage stay together."""
        return self.passages

    def shown(self) -> Iterator[tuple[str, str]]:
        for question, passage, answers in zip(
            self.questions, self.passages, self.answers, strict=True
        ):
            accepted = dict.fromkeys(answer.text for answer in answers)
            yield f"{question}\n{passage}", " | ".join(accepted) or "no answer"

    def place_of(
        self, example: int, first_word: int, last_word: int
    ) -> tuple[int, int]:
        """Where a span begins and ends in its passage, in characters.

        Args:
            first_word: by the places of `places_of_words`, as `last_word`, which belongs
                to the span.
        """
        words = places_of_words(self.passages[example])
        return words[first_word][0], words[last_word][1]


def read_questions(
    path: pathlib.Path | None, cfg: FileConfig, *, answered: bool = True
) -> Questions:
    """Reads SQuAD 1.1 or 2.0: its .json, or its fields in a .jsonl or .parquet.

    An answer that does not stand at its `answer_start`, or only as a part of a word, is
    moved to the nearest place in the passage that holds it as whole words, or else to the
    nearest that holds it; a warning says how many were. Where there is no such place, the
    file is refused, or with `skip_incomplete` the question is left out.

    Args:
        answered: whether every question must say what its answers are. If not, they are
            not read.

    Raises:
        ValueError: no path, not this form, an empty question or passage, or an answer
            that is not in its passage (the question is named).
        FileNotFoundError: nothing is there.
    """
    path = require_file(path, SUFFIXES)
    read = _Read()
    if path.suffix.lower() == ".json":
        decoded = read_text(path, cfg.encoding)
        how, warnings = f"{decoded.encoding}, JSON in SQuAD's form", decoded.warnings
        try:
            document = loads(decoded.text, object_pairs_hook=each_once)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path} is not JSON ({error}); expected SQuAD's form, {_FORM}."
            ) from None
        for where, passage, qa in _questions_of(document, path):
            read.add(path, where, passage, qa, cfg, answered=answered)
    else:
        table = read_table(path, cfg)
        how, warnings = f"{table.how}, with the columns of SQuAD", table.warnings
        for row in table.rows:
            where = f"{path}, {row.place}"
            passage = _part(row.fields, "context", str | None, where)
            qa = _with_answers(row.fields, where)
            read.add(path, where, passage, qa, cfg, answered=answered)
    if not read.questions:
        raise ValueError(f"{path} holds no question.")
    return Questions(
        tuple(read.questions),
        tuple(read.passages),
        tuple(read.answers),
        tuple(read.ids),
        Reading(
            str(path),
            how,
            num_skipped=read.num_skipped,
            warnings=(*warnings, *read.warnings()),
        ),
    )


class _Read:
    """The questions of a file, as far as it is read."""

    def __init__(self) -> None:
        self.questions: list[str] = []
        self.passages: list[str] = []
        self.answers: list[tuple[Answer, ...]] = []
        self.ids: list[Any] = []
        self.num_moved = self.num_skipped = 0

    def add(
        self,
        path: pathlib.Path,
        where: str,
        passage: str | None,
        qa: Any,
        cfg: FileConfig,
        *,
        answered: bool,
    ) -> None:
        if isinstance(qa, dict) and qa.get("id") is not None:
            where += f" (id {qa['id']!r})"
        question = _part(qa, "question", str | None, where)
        question = text_of(question, f"{where}: the question")
        passage = text_of(passage, f"{where}: the context")
        given: list[Answer] = []
        # Of a text, even "false" would mean that there is no answer.
        marked = {"is_impossible": None} | qa
        if answered and not _part(marked, "is_impossible", int | float | None, where):
            given = [_answer(x, where) for x in _part(qa, "answers", list, where)]
        problem = None
        if answered and not (question and passage):
            empty = "question" if not question else "passage"
            problem = f"the {empty} of question {qa.get('id') or question!r} is empty"
        answers = []
        # Some files say by an answer without text that there is none.
        for text, start in given if passage else ():
            found = _place(passage, text, start)
            if found is None:
                problem = (
                    f"question {question!r} has the answer {text!r} at character {start}, "
                    f"where the passage reads {passage[max(0, start) :][: len(text)]!r}, and "
                    "the passage does not hold that answer at all"
                )
            elif text.strip():
                self.num_moved += found.start != start
                answers.append(found)
        if problem and not cfg.skip_incomplete:
            raise ValueError(
                f"{path}: {problem}; mend the file, or leave such questions out by "
                "--skip-incomplete."
            )
        if problem:
            self.num_skipped += 1
            return
        self.questions.append(question)
        self.passages.append(passage)
        self.answers.append(tuple(answers))
        self.ids.append(qa.get("id"))

    def warnings(self) -> list[str]:
        if not self.num_moved:
            return []
        return [
            f"{self.num_moved:,} answers do not stand at their answer_start as whole words; "
            "the nearest places in the passage that hold them so are taken"
        ]


def _place(passage: str, text: str, start: int) -> Answer | None:
    """The answer where the passage holds it, as whole words and as near as possible."""
    if start < 0 or not passage.startswith(text, start):
        text = text.strip()
    elif _is_whole(passage, start, start + len(text)):
        return Answer(text, start)
    places = []
    place = passage.find(text)
    while place >= 0:
        cut = not _is_whole(passage, place, place + len(text))
        places.append((cut, abs(place - start), place))
        place = passage.find(text, place + 1)
    return Answer(text, min(places)[-1]) if places else None


def _is_whole(passage: str, start: int, end: int) -> bool:
    """Whether neither end of a span is inside a word."""
    return not any(
        0 < end < len(passage) and passage[end - 1 : end + 1].isalnum()
        for end in (start, end)
    )


def _questions_of(
    document: Any, path: pathlib.Path
) -> Iterator[tuple[str, str | None, Any]]:
    """The place, the passage and the record of each question."""
    for a, article in enumerate(_part(document, "data", list, f"{path}"), 1):
        where = f"{path}, article {a}"
        for p, paragraph in enumerate(_part(article, "paragraphs", list, where), 1):
            place = f"{where}, paragraph {p}"
            passage = _part(paragraph, "context", str | None, place)
            for q, qa in enumerate(_part(paragraph, "qas", list, place), 1):
                yield f"{place}, question {q}", passage, qa


def _with_answers(fields: dict[str, Any], where: str) -> dict[str, Any]:
    """A row whose answers are a list, where it has lists of texts and of starts."""
    answers = fields.get("answers")
    if not isinstance(answers, dict):
        return fields
    texts, starts = (
        _part(answers, name, list, where) for name in ("text", "answer_start")
    )
    if len(texts) != len(starts):
        raise ValueError(
            f"{where}: the answers have {len(texts)} texts and {len(starts)} "
            "answer_starts; expected as many of both. Mend the file."
        )
    pairs = zip(texts, starts, strict=True)
    listed = [{"text": text, "answer_start": start} for text, start in pairs]
    return {**fields, "answers": listed}


def _answer(record: Any, where: str) -> Answer:
    """An answer as it stands in the file."""
    text = _part(record, "text", str | int | float, where)
    start = _part(record, "answer_start", str | int | float, where)
    try:
        return Answer(str(text), int(start))
    except (ValueError, OverflowError):
        raise _odd(where, f'"answer_start" is {json.dumps(start)[:60]}') from None


def _part(record: Any, name: str, kind: type | types.UnionType, where: str) -> Any:
    """What a record has by a name.

    Raises:
        ValueError: nothing of that kind; `where` tells the place.
    """
    if not isinstance(record, dict):
        raise _odd(where, f'there is no object with "{name}"')
    if name not in record:
        raise _odd(where, f'"{name}" is missing')
    if not isinstance(record[name], kind):
        raise _odd(where, f'"{name}" is {json.dumps(record[name], default=str)[:60]}')
    return record[name]


def _odd(where: str, what: str) -> ValueError:
    return ValueError(
        f"{where}: {what}, which is not the form of SQuAD; expected {_FORM}. Mend the file."
    )
