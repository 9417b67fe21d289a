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
    -1 where a window holds a part of a word only, and `last_word` is the last word that a
    token is a part of: an added token such as covid-19 is three.

    Args:
        stride: tokens from the beginning of a window to that of the next, at most the room
            for the passage in a row. An answer of up to room - stride tokens is whole in
            some window. Default: half of the room.

    Source: Devlin et al. 2018, section 4.2; google-research/bert, run_squad.py.
    """

    @functools.lru_cache(maxsize=64)
    def passage_pieces(passage: str) -> tuple[list[int], np.ndarray, np.ndarray]:
        places = places_of_words(passage)
        pieces, words = tokenizer.encode_places(passage, places)
        return pieces, words, _last_words(words, len(places))

    questions = tokenizer.encode(list(examples.questions))
    plan = []
    num_cut = 0
    for number, passage in enumerate(examples.passages):
        question = questions[number][: sequence_length // 2 - 2]
        num_cut += len(question) < len(questions[number])
        pieces, words, last = passage_pieces(passage)
        room = sequence_length - tokenizer.pair.num_special(2) - len(question)
        step = max(1, room // 2) if stride is None else min(stride, room)
        for start in range(0, max(1, len(pieces) - room + step), step):
            plan.append((number, question, pieces, words, last, start, start + room))
    rows = RowBuilder(tokenizer, len(plan), sequence_length)
    word_BT = np.full((len(plan), sequence_length), -1, np.int32)
    last_word_BT = word_BT.copy()
    labels_B2 = np.zeros((len(plan), 2), np.int32)
    for row, (number, question, pieces, words, last, start, end) in enumerate(plan):
        _, place = rows.put(row, [question, pieces[start:end]])
        whole = words[start:end].copy()
        for outside in (words[start - 1 : start], words[end : end + 1]):
            whole[np.isin(whole, outside)] = -1
        word_BT[row, place : place + whole.size] = whole
        last_word_BT[row, place : place + whole.size] = last[start:end]
        answer = _answer_tokens(words, _answer_words(examples, number))
        inside = [token - start for token in answer if start <= token < end]
        if len(inside) == 2 and (whole[inside] >= 0).all():
            labels_B2[row] = np.array(inside) + place
    return EncodedExamples(
        rows.input_ids,
        rows.segment_ids,
        rows.input_mask,
        labels=labels_B2,
        example=np.array([number for number, *_ in plan], np.int32),
        word=word_BT,
        last_word=last_word_BT,
        num_cut=num_cut,
        lost="lost the end of their question",
    )


def _last_words(words: np.ndarray, num_words: int) -> np.ndarray:
    """Of each token the last word that it is a part of: its own, and those behind it that
    have no token of their own.

    Args:
        words: int64 [tokens], the word of each token, as `encode_places` gives it.
    """
    own = np.unique(words[words >= 0])
    following = np.append(own, num_words)[np.searchsorted(own, words, side="right")]
    return np.where(words >= 0, following - 1, -1)


def _answer_tokens(words: np.ndarray, answer: tuple[int, int] | None) -> list[int]:
    """First and last token of the answer; none if it has no tokens.

    Args:
        words: int64 [tokens], the word of each token, as `encode_places` gives it.
        answer: first and last word of the answer.
    """
    (tokens,) = np.nonzero(words >= 0)
    if answer is None or not tokens.size:
        return []
    # A word without tokens of its own is in the token before.
    owner = words[tokens][np.searchsorted(words[tokens], answer, side="right") - 1]
    first = np.searchsorted(words[tokens], owner[0])
    last = np.searchsorted(words[tokens], owner[1], side="right") - 1
    return [int(tokens[first]), int(tokens[last])]


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
