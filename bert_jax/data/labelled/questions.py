"""Questions whose answer is a span of a passage: files in SQuAD's form to examples, to rows.

Shape suffixes: B rows, T tokens.
"""

import dataclasses
import functools
import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from bert_jax.data.labelled.decoding import read_text
from bert_jax.data.labelled.examples import (
    EncodedExamples,
    Examples,
    Reading,
    RowBuilder,
    require_file,
)
from bert_jax.data.labelled.texts import text_of
from bert_jax.data.tokenizers.tokenizer import Tokenizer

# An answer begins and ends at a word or at a sign.
_WORD = re.compile(r"\w+|[^\w\s]")


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

    def __len__(self) -> int:
        return len(self.questions)

    def records(self) -> Iterator[object]:
        yield from zip(self.questions, self.passages, self.answers, strict=True)

    def together(self) -> Sequence[str]:
        """The questions about a passage stay together."""
        return self.passages

    def take(self, numbers: np.ndarray) -> "Questions":
        return dataclasses.replace(
            self,
            questions=tuple(self.questions[n] for n in numbers),
            passages=tuple(self.passages[n] for n in numbers),
            answers=tuple(self.answers[n] for n in numbers),
            ids=(),
        )

    def text_of(self, example: int, first_word: int, last_word: int) -> str:
        """The passage from one word to another, both included."""
        words = words_of(self.passages[example])
        return self.passages[example][words[first_word][0] : words[last_word][1]]


@functools.lru_cache(maxsize=1_024)
def words_of(passage: str) -> list[tuple[int, int]]:
    """Where each word or sign of a passage begins and ends, in characters."""
    return [match.span() for match in _WORD.finditer(passage)]


def read_questions(
    path: pathlib.Path | None, encoding: str = "utf-8", *, answered: bool = True
) -> Questions:
    """Reads a .json in the form of SQuAD 1.1 or 2.0.

    Args:
        answered: whether every question must say what its answers are.

    Raises:
        ValueError: no path, not this form, or an answer that does not stand where it is
            said to (the question is named).
        FileNotFoundError: nothing is there.
    """
    path = require_file(path, (".json",))
    decoded = read_text(path, encoding)
    questions, passages, answers, ids = [], [], [], []
    try:
        for passage, qa in _questions_of(json.loads(decoded.text)):
            questions.append(text_of(qa["question"], f"{path}: a question"))
            passages.append(text_of(passage, f"{path}: a context"))
            ids.append(qa.get("id"))
            given = qa["answers"] if answered else qa.get("answers", ())
            given = () if qa.get("is_impossible") else given
            answers.append(
                tuple(Answer(str(x["text"]), int(x["answer_start"])) for x in given)
            )
            for text, start in answers[-1]:
                if passage[start : start + len(text)] != text:
                    raise ValueError(
                        f"{path}: question {questions[-1]!r} has the answer {text!r} at "
                        f"character {start}, where the passage reads "
                        f"{passage[start : start + len(text)]!r}; mend the file."
                    )
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is not in the form of SQuAD ({type(error).__name__}: {error}); "
            'expected {"data": [{"paragraphs": [{"context": ..., "qas": [{"question": '
            '..., "answers": [{"text": ..., "answer_start": ...}]}]}]}]}.'
        ) from None
    if not questions:
        raise ValueError(f"{path} holds no question.")
    how = f"{decoded.encoding}, JSON in the form of SQuAD"
    reading = Reading(str(path), how, warnings=decoded.warnings)
    return Questions(
        tuple(questions), tuple(passages), tuple(answers), tuple(ids), reading
    )


def _questions_of(document: Any) -> Iterator[tuple[str, Any]]:
    for article in document["data"]:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                yield paragraph["context"], qa


def encode_questions(
    tokenizer: Tokenizer, examples: Questions, sequence_length: int
) -> EncodedExamples:
    """`[CLS] question [SEP] passage [SEP]`; a long passage has several rows that overlap.

    A question takes at most half of a row. The windows of a passage overlap by half, so
    an answer that the cut of one window spoils is whole in the next, unless it is longer
    than half a window. Labels are int32 [rows, 2]: the first and the last token of the
    answer, or [CLS] twice where the row does not hold all of it.

    Source: Devlin et al. 2018, section 4.2; google-research/bert, run_squad.py.
    """
    passage_pieces = functools.lru_cache(maxsize=64)(
        lambda passage: _pieces_of(tokenizer, passage)
    )
    questions = tokenizer.encode(list(examples.questions))
    plan = []
    num_cut = 0
    for number, passage in enumerate(examples.passages):
        question = questions[number][: sequence_length // 2 - 2]
        num_cut += len(question) < len(questions[number])
        pieces, words = passage_pieces(passage)
        room = sequence_length - 3 - len(question)
        start = 0
        while True:
            plan.append((number, question, pieces, words, start, start + room))
            if start + room >= len(pieces):
                break
            start += max(1, room // 2)
    rows = RowBuilder(tokenizer.special, len(plan), sequence_length)
    word_BT = np.full((len(plan), sequence_length), -1, np.int32)
    labels_B2 = np.zeros((len(plan), 2), np.int32)
    for row, (number, question, pieces, words, start, end) in enumerate(plan):
        _, place = rows.put(row, [question, pieces[start:end]])
        inside = words[start:end]
        word_BT[row, place : place + len(inside)] = inside
        answer = _answer_words(examples, number)
        if answer is None:
            continue
        first, last = np.searchsorted(words, [answer[0], answer[1] + 1])
        if start <= first and last <= min(end, len(pieces)) and first < last:
            labels_B2[row] = place + first - start, place + last - 1 - start
    return EncodedExamples(
        rows.input_ids,
        rows.segment_ids,
        rows.input_mask,
        labels=labels_B2,
        example=np.array([number for number, *_ in plan], np.int32),
        word=word_BT,
        num_cut=num_cut,
    )


def _pieces_of(tokenizer: Tokenizer, passage: str) -> tuple[list[int], np.ndarray]:
    """The pieces of a passage, and int32 [pieces]: the number of the word of each."""
    encoded = tokenizer.encode([passage[start:end] for start, end in words_of(passage)])
    words = np.repeat(np.arange(len(encoded)), [len(pieces) for pieces in encoded])
    return [piece for pieces in encoded for piece in pieces], words.astype(np.int32)


def _answer_words(examples: Questions, number: int) -> tuple[int, int] | None:
    """First and last word of the answer to train on."""
    if not examples.answers[number]:
        return None
    text, start = examples.answers[number][0]
    touched = [
        word
        for word, (begin, end) in enumerate(words_of(examples.passages[number]))
        if begin < start + len(text) and end > start
    ]
    return (touched[0], touched[-1]) if touched else None
