"""Predicts with a fine-tuned run."""

import dataclasses
import itertools
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from bert_jax.config import FileConfig, FinetuneConfig
from bert_jax.data.labelled.examples import EncodedExamples, Text
from bert_jax.data.labelled.unlabelled import Unlabelled, no_text
from bert_jax.runtime import process
from bert_jax.runtime.agreement import on_first_host
from bert_jax.runtime.jax_settings import our_settings
from bert_jax.train.initial import load_params
from bert_jax.train.logits import BatchedLogits
from bert_jax.train.mesh import one_device
from bert_jax.train.monitoring.metrics import read_metrics
from bert_jax.train.runs.results_file import load_results
from bert_jax.train.runs.run import load_run_config, load_run_tokenizer
from bert_jax.train.tasks import Task, task_of
from bert_jax.train.tasks.task import Judged


def is_empty(text: Text) -> bool:
    """Whether a part of a text has nothing to predict on."""
    return not all(part.strip() for part in text)


def prediction_file(file: FileConfig) -> FileConfig:
    """Settings that read labelled files, for files whose labels do not matter."""
    return dataclasses.replace(file, label=None, label_columns=())


def _in_json(value: Any) -> Any:
    """A field of a file, or `None` for NaN and infinity, which JSON does not have."""
    return value if not isinstance(value, float) or math.isfinite(value) else None


def _lines(
    given: Unlabelled, predictions: Sequence[dict[str, Any] | None], keys: Sequence[str]
) -> Iterator[dict[str, Any]]:
    pairs = zip(given.texts, predictions, strict=True)
    for number, (text, prediction) in enumerate(pairs):
        line: dict[str, Any] = {}
        if given.ids is not None:
            line["id"] = _in_json(given.ids[number])
        line["text"] = text[0] if len(text) == 1 else list(text)
        if given.labels is not None:
            line["given_label"] = _in_json(given.labels[number])
        yield line | (prediction or dict.fromkeys(keys))


def with_fitted_of(task: Task, run: pathlib.Path, step: int) -> Task:
    """The task with what was fitted to the answers of the weights of `step`.

    Where the run did not judge these weights, it is what was fitted to its best ones, which
    is said.
    """
    results = load_results(run) or {}
    fitted = results.get("fitted", {})
    if not task.fits or results.get("best", results).get("step") == step:
        return task.with_fitted(fitted)

    def evaluation() -> dict[str, Any]:
        lines = (x for x in reversed(read_metrics(run)) if x["kind"] == "eval")
        return next((line for line in lines if line["step"] == step), {})

    line = on_first_host(f"the evaluation of {run} at step {step}", evaluation)
    if line:
        fitted = {name: line[name] for name in task.fits if name in line}
    elif fitted:
        print(
            f"note: {run} was not judged at step {step:,}, so {', '.join(fitted)} is what "
            "was fitted to its best state.",
            file=process.notes(),
        )
    return task.with_fitted(fitted)


class Predictor:
    """A fine-tuned model, loaded from its run directory."""

    @our_settings()
    def __init__(
        self,
        run: pathlib.Path,
        *,
        step: int | None = None,
        batch_size: int = 32,
        mesh: Mesh | None = None,
    ) -> None:
        """Reads a state of a run.

        Args:
            run: run directory of `finetune`.
            step: step of the state. Default: the best one.
            batch_size: number of rows that are computed at once.
            mesh: devices to compute on. Default: one device of this process. A job of
                several processes must pass a mesh of all its devices.
        """
        mesh = mesh or one_device()
        loaded = load_params(run, mesh, kind="finetune", step=step)
        self.info, self.params = loaded.info, loaded.params
        cfg = load_run_config(run)
        assert isinstance(cfg, FinetuneConfig)
        self.cfg = cfg
        self.tokenizer = load_run_tokenizer(run)
        assert self.info.labels is not None
        assert self.info.task is not None
        self.outputs = self.info.labels
        self.task = with_fitted_of(task_of(cfg), run, loaded.step)
        self.num_texts = self.task.num_texts(cfg.task)
        self._logits = BatchedLogits(
            self.task,
            self.info.model,
            cfg.compute.on_any_platform,
            mesh,
            batch_size,
        )

    @our_settings()
    def __call__(self, texts: Sequence[Text]) -> list[dict[str, Any]]:
        """One JSON object per text, in the form of the task.

        Texts are encoded as in fine-tuning, which may cut long ones.

        Raises:
            ValueError: no text is given, a text is empty, or a pair is given where the
                task takes single texts, or the reverse.
        """
        for number, text in enumerate(texts, 1):
            self.check(text, f"Text {number}")
        if not texts:
            raise ValueError(no_text(0))
        return self._answers(texts)

    @our_settings()
    def _answers(self, texts: Sequence[Text]) -> list[dict[str, Any]]:
        """The predictions of texts that were checked."""
        examples = self.task.unlabelled(texts)
        encoded = self.encode(examples)
        judged = Judged(self.logits(encoded), encoded, examples, self.outputs)
        return self.task.predictions(judged)

    @property
    def file_settings(self) -> FileConfig:
        """How the run read its validation file, without the column of its labels."""
        return prediction_file(self.cfg.task.file)

    def read(self, path: pathlib.Path, file: FileConfig | None = None) -> Unlabelled:
        """The texts of a file, read by `file` or by `file_settings`."""
        cfg = self.cfg.task.with_file(file or self.file_settings)
        return self.task.read_unlabelled(path, cfg, self.outputs)

    def lines(self, parts: Iterable[Unlabelled]) -> Iterator[dict[str, Any]]:
        """One JSON object per text: its id and given label if it has them, the text, and
        the prediction, whose entries are null where the text is empty.

        Args:
            parts: the texts, some at a time; a part's predictions are in memory together.

        Raises:
            ValueError: all texts are empty, or as for a call.
        """
        first, keys = 1, None
        waiting = []  # parts before the first text that is not empty
        for part in parts:
            predictions = self._predictions(part.texts, first)
            first += len(part.texts)
            waiting.append((part, predictions))
            keys = keys or next((tuple(x) for x in predictions if x is not None), None)
            if keys is None:
                continue
            for given, found in waiting:
                yield from _lines(given, found, keys)
            waiting.clear()
        if keys is None:
            raise ValueError(no_text(first - 1))

    def _predictions(
        self, texts: Sequence[Text], first: int
    ) -> list[dict[str, Any] | None]:
        """The prediction of each text, or `None` if it is empty; `first` is a number."""
        full = [not is_empty(text) for text in texts]
        for number in itertools.compress(range(len(texts)), full):
            self.check(texts[number], f"Text {first + number}")
        answers = (
            self._answers(list(itertools.compress(texts, full))) if any(full) else ()
        )
        found = iter(answers)
        return [next(found) if is_full else None for is_full in full]

    def check(self, text: Text, where: str) -> None:
        """Requires that a text can be predicted on; `where` names it.

        Raises:
            ValueError: it is empty, a pair where the task takes single texts or the
                reverse, or a text with fewer than two choices.
        """
        empty, number = is_empty(text), self.num_texts
        wrong = len(text) != number if number else len(text) < 3
        if not empty and not wrong:
            return
        expected = f"{number} non-empty text(s) each"
        if number is None:
            expected = (
                "a text and two choices or more, none of them empty (in a file, with "
                "tabs between them)"
            )
        elif not empty:
            expected += " (a pair has a tab between its two, or is two arguments)"
        raise ValueError(
            f"{where} is {(text[0] if len(text) == 1 else text)!r}; this run takes "
            f"{expected}."
        )

    def encode(self, examples: Any) -> EncodedExamples:
        """Rows of token ids from examples of the task."""
        return self.task.encode(
            self.tokenizer, examples, self.outputs, self.info.sequence_length
        )

    @our_settings()
    def logits(
        self,
        encoded: EncodedExamples,
        progress: Callable[[int, int], None] = lambda *_: None,
    ) -> np.ndarray:
        """Logits of all rows, float32 [rows, ...].

        Args:
            progress: called with the numbers of batches done and of all.

        Raises:
            ValueError: an id is outside its table.
        """
        return self._logits(self.params, encoded, progress)
