"""From questions and their passages to rows of ids, several rows for a long passage.

Shape suffixes: B rows, T tokens.
"""

import functools

import numpy as np

from bert_jax.data.labelled.examples import EncodedExamples, RowBuilder
from bert_jax.data.labelled.questions import Questions
from bert_jax.data.labelled.word_places import places_of_words
from bert_jax.data.tokenizers.tokenizer import Tokenizer


def encode_questions(
    tokenizer: Tokenizer,
    examples: Questions,
    sequence_length: int,
    stride: int | None = None,
) -> EncodedExamples:
    """`[CLS] question [SEP] passage [SEP]`; a long passage has several rows that overlap.

    A question takes at most half of a row. An answer is whole words, which widens one
    that begins or ends within a word. Labels are int32 [rows, 2]: the first and the last
    token of the answer, or [CLS] twice where the row does not hold all of it. `word` is
    -1 where a window holds a part of a word only.

    Args:
        stride: tokens from the beginning of a window to that of the next, at most the room
            for the passage in a row. An answer of up to room - stride tokens is whole in
            some window. Default: half of the room.

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
        pieces, begin = passage_pieces(passage)
        room = sequence_length - 3 - len(question)
        step = max(1, room // 2) if stride is None else min(stride, room)
        for start in range(0, max(1, len(pieces) - room + step), step):
            plan.append((number, question, pieces, begin, start, start + room))
    rows = RowBuilder(tokenizer.special, len(plan), sequence_length)
    word_BT = np.full((len(plan), sequence_length), -1, np.int32)
    labels_B2 = np.zeros((len(plan), 2), np.int32)
    for row, (number, question, pieces, begin, start, end) in enumerate(plan):
        _, place = rows.put(row, [question, pieces[start:end]])
        # The words that the window holds whole, and their tokens.
        first = int(np.searchsorted(begin, start))
        last = int(np.searchsorted(begin, end, side="right")) - 1
        if first < last:
            words = np.repeat(np.arange(first, last), np.diff(begin[first : last + 1]))
            shift = place + begin[first] - start
            word_BT[row, shift : shift + words.size] = words
        answer = _answer_words(examples, number)
        if answer and first <= answer[0] and answer[1] < last:
            ends = begin[answer[0]], begin[answer[1] + 1] - 1
            labels_B2[row] = np.array(ends) + place - start
    return EncodedExamples(
        rows.input_ids,
        rows.segment_ids,
        rows.input_mask,
        labels=labels_B2,
        example=np.array([number for number, *_ in plan], np.int32),
        word=word_BT,
        num_cut=num_cut,
        lost="lost the end of their question",
    )


def _pieces_of(tokenizer: Tokenizer, passage: str) -> tuple[list[int], np.ndarray]:
    """The pieces of a passage, and int64 [words + 1]: where each word begins in them.

    A word of which the tokenizer leaves nothing becomes [UNK].
    """
    words = [passage[start:end] for start, end in places_of_words(passage)]
    encoded = [pieces or [tokenizer.special.unk] for pieces in tokenizer.encode(words)]
    begin = np.cumsum([0, *(len(pieces) for pieces in encoded)])
    return [piece for pieces in encoded for piece in pieces], begin


def _answer_words(examples: Questions, number: int) -> tuple[int, int] | None:
    """First and last word of the answer to train on."""
    if not examples.answers[number]:
        return None
    text, start = examples.answers[number][0]
    touched = [
        word
        for word, (begin, end) in enumerate(places_of_words(examples.passages[number]))
        if begin < start + len(text) and end > start
    ]
    return (touched[0], touched[-1]) if touched else None
