"""Exact match and F1 of answers, by the rules of SQuAD's official scripts.

Source: Rajpurkar et al. 2016, section 6.1 (evaluate-v1.1.py); Rajpurkar et al. 2018
(evaluate-v2.0.py), which judges a set in which some questions have no answer.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


class AnswerScores(NamedTuple):
    exact: np.ndarray  # float64 [questions], 0 or 1
    f1: np.ndarray  # float64 [questions]


def answer_scores(
    found: Sequence[str], accepted: Sequence[Sequence[str]]
) -> AnswerScores:
    """The scores of each answer against the best of the accepted ones.

    Args:
        found: an answer for each question; "" says that there is none.
        accepted: none for a question without answer. If there is such a question, the
            rules are those of 2.0.
    """
    version_2 = not all(accepted)
    rows = []
    for text, answers in zip(found, accepted, strict=True):
        if version_2:
            answers = [answer for answer in answers if normalised(answer)] or [""]
        exact = max(exact_match(text, answer) for answer in answers)
        f1 = max(word_f1(text, answer) for answer in answers)
        if not version_2 and not normalised(text):
            f1 = 0.0  # 1.1 counts shared words, of which there are none
        rows.append((exact, f1))
    return AnswerScores(*np.array(rows, np.float64).reshape(-1, 2).T)


def normalised(answer: str) -> str:
    """The answer in lower case, without punctuation, articles and repeated blanks."""
    plain = answer.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", plain).split())


def exact_match(found: str, answer: str) -> float:
    """1 if both answers are equal after normalising, else 0."""
    return float(normalised(found) == normalised(answer))


def word_f1(found: str, answer: str) -> float:
    """F1 of the words of two normalised answers.

    If an answer has no words, it is 1 if the other has none either, else 0.
    """
    a, b = normalised(found).split(), normalised(answer).split()
    if not a or not b:
        return float(a == b)
    shared = (Counter(a) & Counter(b)).total()
    return 2.0 * shared / (len(a) + len(b))


def best_threshold(
    margins: np.ndarray, answered: np.ndarray, unanswered: np.ndarray
) -> float:
    """The threshold that gives the largest mean score.

    A question gets an answer if its margin is at most the threshold. Of several such
    thresholds it is the lowest; it lies in the middle between two margins.

    Args:
        margins: float64 [questions], how much "no answer" is ahead of the best answer.
        answered: float64 [questions], the score of that answer.
        unanswered: float64 [questions], the score of saying that there is none.

    Source: evaluate-v2.0.py, find_best_thresh.
    """
    order = np.argsort(margins, kind="stable")
    margins = margins[order]
    gains = np.concatenate([[0.0], np.cumsum((answered - unanswered)[order])])
    # Equal margins fall on one side together.
    between = np.concatenate([[True], margins[1:] > margins[:-1], [True]])
    edges = np.concatenate([[margins[0] - 1.0], margins, [margins[-1] + 1.0]])
    best = int(np.argmax(np.where(between, gains.round(12), -np.inf)))
    return float((edges[best] + edges[best + 1]) / 2.0)
