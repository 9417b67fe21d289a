"""Honest references for a classification task that need no neural network."""

import pathlib
import time
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score

from bert_jax.config import TaskConfig
from bert_jax.data.tasks import (
    Examples,
    label_names,
    label_numbers,
    load_examples,
)
from bert_jax.train.run import load_results, save_results


def baselines(task: TaskConfig, output: pathlib.Path) -> dict[str, Any]:
    """Scores of the majority class and of TF-IDF with logistic regression.

    The majority class is that of the held-out examples: the best that a constant answer
    could score. Words and pairs of words, sublinear counts, scikit-learn's default regularisation:
    nothing is tuned on the validation split.

    Raises:
        ValueError: as `load_examples`; the task is a regression; or `output` holds the
            scores of another task.
    """
    if task.kind != "classification":
        raise ValueError(
            f"TaskConfig.kind={task.kind!r} has no baselines here, which are "
            "classifiers; expected 'classification'. The results of a fine-tuned "
            "regression name the error of a constant answer."
        )
    train = load_examples(task.train, task)
    held_out = load_examples(task.validation, task, "validation")
    identity = {"train": train.sha256(), "validation": held_out.sha256()}
    finished = load_results(output)
    if finished is not None:
        if finished["data"] != identity:
            raise ValueError(
                f"{output} holds the baselines of another task; choose another --output."
            )
        return finished
    names = label_names(train)
    truth = label_numbers(held_out, names)
    numbers = label_numbers(train, names)
    started = time.perf_counter()
    majority = np.full_like(truth, np.bincount(truth).argmax())
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = LogisticRegression(max_iter=1_000)
    model.fit(vectorizer.fit_transform(_joined(train)), numbers)
    predicted = model.predict(vectorizer.transform(_joined(held_out)))
    results = {
        "kind": "baselines",
        "data": identity,
        "majority": _scores(truth, majority),
        "tfidf_logistic_regression": _scores(truth, predicted),
        "num_train": len(train),
        "num_validation": len(held_out),
        "seconds": time.perf_counter() - started,
    }
    output.mkdir(parents=True, exist_ok=True)
    save_results(output, results)
    return results


def _joined(examples: Examples) -> list[str]:
    return [" ".join(text) for text in examples.texts]


def _scores(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    return {
        "accuracy": float(accuracy_score(truth, predicted)),
        "macro_f1": float(f1_score(truth, predicted, average="macro")),
    }
