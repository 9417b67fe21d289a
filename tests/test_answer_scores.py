"""Answers to questions: the best spans, their scores, and when there is no answer."""

import collections
import json
import re
import string

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from small_tokenizers import wordpiece

from bert_jax.config import FileConfig, FinetuneConfig, TaskConfig
from bert_jax.data.labelled.examples import EncodedExamples
from bert_jax.data.labelled.question_rows import encode_questions
from bert_jax.data.labelled.questions import Answer, Questions, read_questions
from bert_jax.data.tokenizers.wordpiece_tokenizer import WordPieceTokenizer
from bert_jax.train.tasks import TASKS
from bert_jax.train.tasks.answer_scores import (
    answer_scores,
    best_threshold,
    exact_match,
    word_f1,
)
from bert_jax.train.tasks.best_spans import best_spans
from bert_jax.train.tasks.task import Judged

ROUNDING = 1e-12  # sums of float64 in another order
ENDS = ("start", "end")


# The official scripts, written again from their published rules.


def official_normal(text):
    text = "".join(x for x in text.lower() if x not in set(string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def official_pair(found, gold, version):
    a, b = official_normal(found), official_normal(gold)
    exact = int(" ".join(a) == " ".join(b))
    if version == 2 and (not a or not b):
        return exact, int(a == b)
    shared = sum((collections.Counter(a) & collections.Counter(b)).values())
    if shared == 0:
        return exact, 0
    precision, recall = shared / len(a), shared / len(b)
    return exact, 2 * precision * recall / (precision + recall)


def official(found, accepted):
    """(exact, f1) of each question."""
    version = 1 if all(accepted) else 2
    rows = []
    for text, golds in zip(found, accepted, strict=True):
        if version == 2:
            golds = [gold for gold in golds if official_normal(gold)] or [""]
        pairs = [official_pair(text, gold, version) for gold in golds]
        rows.append([max(side) for side in zip(*pairs, strict=True)])
    return np.array(rows, float).T


WORDS = st.sampled_from(
    ["a", "The", "an", "Oslo", "river", "U.S.", "!", "--", "ran,", ""]
)
PHRASES = st.lists(WORDS, max_size=4).map(" ".join)


@given(
    st.lists(st.tuples(PHRASES, st.lists(PHRASES, min_size=1, max_size=3)), min_size=1),
    st.sets(st.integers(0, 5)),
)
@settings(max_examples=50)
def test_answers_are_scored_as_the_official_scripts_do(pairs, unanswerable):
    found = [text for text, _ in pairs]
    for impossible in (set(), unanswerable):
        accepted = [[] if n in impossible else x for n, (_, x) in enumerate(pairs)]
        exact, f1 = answer_scores(found, accepted)
        expected = official(found, accepted)
        np.testing.assert_array_equal(exact, expected[0])
        np.testing.assert_allclose(f1, expected[1], rtol=ROUNDING)


@pytest.mark.parametrize(
    ("found", "answer", "exact", "f1"),
    [
        ("The Eiffel Tower!", "eiffel tower", 1.0, 1.0),
        ("in Paris", "Paris", 0.0, 2 / 3),
        ("a b b", "b c", 0.0, 2 / 4),  # "a" is an article
        ("", "", 1.0, 1.0),
        ("x", "", 0.0, 0.0),
        ("London", "Paris", 0.0, 0.0),
    ],
)
def test_answers_are_compared_by_their_words(found, answer, exact, f1):
    assert exact_match(found, answer) == exact
    assert word_f1(found, answer) == pytest.approx(f1, rel=ROUNDING)


def test_no_answer_at_all_is_judged_by_the_version():
    # 1.1 gives the exact match and no F1; in 2.0, such an accepted answer does not count.
    assert [x.tolist() for x in answer_scores(["the"], [["a"]])] == [[1.0], [0.0]]
    exact, f1 = answer_scores(["", "x"], [["a", "b"], []])
    assert (exact.tolist(), f1.tolist()) == ([0.0, 0.0], [0.0, 0.0])


# The threshold.


@given(
    st.lists(
        st.tuples(st.integers(-3, 3), st.sampled_from([0.0, 0.4, 1.0]), st.booleans()),
        min_size=1,
        max_size=12,
    )
)
@settings(max_examples=50)
def test_the_threshold_is_the_best_of_all(rows):
    """Against every threshold between, below and above the margins."""
    margins = np.array([float(x) for x, *_ in rows])
    unanswered = np.array([float(none) for *_, none in rows])
    answered = np.array([0.0 if none else score for _, score, none in rows])

    def mean(threshold):
        return np.where(margins > threshold, unanswered, answered).mean()

    chosen = best_threshold(margins, answered, unanswered)
    best = max(mean(x) for x in np.arange(-4.5, 4.0))
    assert mean(chosen) == pytest.approx(best, rel=ROUNDING)
    assert chosen not in margins


# The best spans.


def span_case(ends, answers):
    """One passage in one row, its best ends as given."""
    passage = "Oxygen was found by Scheele in 1772."
    words = 8  # seven words and the point
    word = np.full((1, 12), -1, np.int32)
    word[0, 3 : 3 + words] = np.arange(words)
    logits = np.zeros((1, 12, 2), np.float32)
    for place, end, value in ends:
        logits[0, place, end] = value
    mask = np.ones((1, 12), np.int32)
    labels = np.zeros((1, 2), np.int32)
    rows = EncodedExamples(mask, mask, mask, labels, np.zeros(1, np.int32), word)
    return Judged(logits, rows, Questions(("Who?",), (passage,), (answers,)), ENDS)


def test_the_best_span_is_read_from_the_passage():
    answers = (Answer("Scheele", 20), Answer("Scheele in 1772", 20))
    # The best end lies before the best start; the best pair in order is the name alone.
    case = span_case([(7, 0, 5.0), (7, 1, 3.0), (4, 1, 4.0)], answers)
    scores = TASKS["spans"].scores(case)
    assert (scores["exact_match"], scores["f1"]) == (1.0, 1.0)
    [said] = TASKS["spans"].predictions(case)
    nbest = said.pop("nbest")
    assert nbest[0].items() <= said.items()
    assert (said.pop("score"), said.pop("no_answer_score")) == (8.0, 0.0)
    assert said.pop("probability") == pytest.approx(
        np.exp(8) / sum(np.exp(x["score"]) for x in nbest)
    )
    assert said == {"answer": "Scheele", "start": 20, "end": 27}
    assert len(nbest) == 10
    assert nbest[1]["score"] == 5.0
    assert sum(x["probability"] for x in nbest) == pytest.approx(1.0)


def test_cls_may_say_that_there_is_no_answer():
    ends = [(7, 0, 5.0), (7, 1, 3.0), (0, 0, 9.0)]  # [CLS] is ahead by 1
    answered = span_case(ends, (Answer("Scheele", 20),))
    spans = TASKS["spans"]
    assert spans.scores(answered)["exact_match"] == 1.0
    for threshold, answer in ((1.5, "Scheele"), (0.5, "")):
        fitted = spans.with_fitted({"no_answer_threshold": threshold})
        [said] = fitted.predictions(answered)
        assert said["answer"] == answer
        assert fitted.scores(answered)["exact_match"] == float(answer != "")
        assert fitted.scores(answered)["no_answer_threshold"] == threshold
        # The answer that is more probable by itself stands first among the best.
        assert said["nbest"][0]["answer"] == ""
    assert fitted.say(said, 2) == "no answer 69.8%, Scheele 25.7%"
    empty = span_case(ends, ())
    assert fitted.scores(empty)["f1"] == 1.0


def two_questions(pieces, margins):
    """Two equal passages; only the first question has an answer, which is found."""
    passages = ("w1 w2 w3",) * 2
    answers = ((Answer("w2", 3),), ())
    examples = Questions(("w9",) * 2, passages, answers)
    rows = encode_questions(pieces, examples, 10)
    logits = np.zeros((2, 10, 2), np.float32)
    logits[:, 4] = 3.0
    logits[:, 0, 0] = [6.0 + margin for margin in margins]
    return Judged(logits, rows, examples, ENDS)


@pytest.fixture(scope="module")
def pieces():
    return wordpiece(*(f"w{n}" for n in range(10)), "##x")


def test_the_threshold_is_fitted_where_some_have_no_answer(pieces):
    spans = TASKS["spans"]
    case = two_questions(pieces, (-1.0, 2.0))
    fitted = spans.fit(case)
    assert fitted == {"no_answer_threshold": 0.5}
    scores = spans.with_fitted(fitted).scores(case)
    names = ("f1", "answerable_f1", "answerable_exact_match", "unanswerable_accuracy")
    assert [scores[name] for name in names] == [1.0] * 4
    # Without it, both get an answer.
    assert spans.scores(case)["f1"] == 0.5
    said = spans.say_line(scores)
    assert "accuracy of those without 1.000" in said
    assert "(no answer from a margin of 0.50 on)" in said
    examples = case.examples
    start = -np.log(np.exp(3) / (np.exp(3) + np.exp(5) + 5))  # 7 tokens
    end = -np.log(np.exp(3) / (np.exp(3) + 6))
    losses = spans.example_losses(case)
    assert losses[0] == pytest.approx((start + end) / 2, rel=1e-6)
    assert [truth for _, truth in examples.shown()] == ["w2", "no answer"]
    both = Questions(examples.questions, examples.passages, examples.answers[:1] * 2)
    assert spans.fit(case._replace(examples=both)) == {}


def test_settings_of_the_task_reach_rows_and_answers(pieces):
    cfg = FinetuneConfig(task=TaskConfig(kind="spans"), stride=2, max_answer_tokens=1)
    task = TASKS["spans"].configured(cfg)
    examples = Questions(("w9",), ("w1 w2 w3 w4 w5 w6 w7 w8",), ((),))
    rows = task.encode(pieces, examples, ENDS, 10)
    assert len(rows) == 2
    assert len(TASKS["spans"].encode(pieces, examples, ENDS, 10)) == 2
    logits = np.random.default_rng(0).normal(size=(2, 10, 2)).astype(np.float32)
    [said] = task.predictions(Judged(logits, rows, examples, ENDS))
    assert all(" " not in x["answer"] for x in said["nbest"])


@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(1, 12))
@settings(max_examples=40)
def test_the_best_spans_are_those_of_all_pairs(pieces, seed, num_best, max_tokens):
    """Against every first and last word, in every row of a passage."""
    rng = np.random.default_rng(seed)
    words = [f"w{n % 10}" + "x" * int(rng.integers(0, 3)) for n in range(14)]
    passages = (" ".join(words), "w1")
    examples = Questions(("w9",) * 2, passages, ((), ()))
    rows = encode_questions(pieces, examples, 16, 5)
    logits = rng.normal(size=(*rows.input_ids.shape, 2)).astype(np.float32)
    found = best_spans(logits, rows, num_best=num_best, max_tokens=max_tokens)
    for number in range(2):
        every, none = {}, []
        for row in np.flatnonzero(rows.example == number):
            none.append(float(logits[row, 0].sum()))
            held = sorted(set(rows.word[row]) - {-1})
            for first in held:
                for last in (x for x in held if x >= first):
                    start = np.flatnonzero(rows.word[row] == first)[0]
                    end = np.flatnonzero(rows.word[row] == last)[-1]
                    if end - start < max_tokens:
                        score = float(logits[row, start, 0]) + float(
                            logits[row, end, 1]
                        )
                        key = (first, last)
                        every[key] = max(score, every.get(key, -np.inf))
        best = sorted(every.items(), key=lambda x: -x[1])[:num_best]
        assert [(x.first_word, x.last_word) for x in found[number].spans] == [
            k for k, _ in best
        ]
        assert [x.score for x in found[number].spans] == [score for _, score in best]
        assert found[number].none_score == min(none)


def test_a_passage_without_words_has_no_answer(pieces):
    examples = Questions(("w9",), ("\u200b",), ((),))
    rows = encode_questions(pieces, examples, 8)
    [said] = TASKS["spans"].predictions(
        Judged(np.zeros((1, 8, 2), np.float32), rows, examples, ENDS)
    )
    assert (said["answer"], said["start"], said["probability"]) == ("", None, 1.0)
    json.dumps(said, allow_nan=False)


def test_perfect_predictions_of_real_questions_score_100(shared_data):
    examples = read_questions(shared_data / "squad/dev.json", FileConfig()).sample(200)
    vocabulary = (shared_data / "vocab/bert-base-cased-vocab.txt").read_bytes()
    tokenizer = WordPieceTokenizer(vocabulary.rstrip(b"\n"), lowercase=False)
    cfg = FinetuneConfig(task=TaskConfig(kind="spans"), stride=64, max_answer_tokens=64)
    task = TASKS["spans"].configured(cfg)
    rows = task.encode(tokenizer, examples, ENDS, 192)
    assert len(rows) > 1.3 * len(examples)
    logits = np.zeros((*rows.input_ids.shape, 2), np.float32)
    for end in range(2):
        logits[np.arange(len(rows)), rows.labels[:, end], end] = 9.0
    judged = Judged(logits, rows, examples, ENDS)
    scores = task.scores(judged)
    assert (scores["f1"], scores["exact_match"]) == (1.0, 1.0)
    for number, said in enumerate(task.predictions(judged)):
        passage = examples.passages[number]
        assert said["answer"] == passage[said["start"] : said["end"]]
        assert said["start"] == examples.answers[number][0].start
