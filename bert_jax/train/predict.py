"""Predicts with a fine-tuned run."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.config import FileConfig, FinetuneConfig, MeshConfig
from bert_jax.data.labelled.examples import EncodedExamples, Text
from bert_jax.data.labelled.unlabelled import Unlabelled
from bert_jax.runtime.jax_settings import our_settings
from bert_jax.train.initial import load_params
from bert_jax.train.logits import BatchedLogits
from bert_jax.train.mesh import make_mesh
from bert_jax.train.run import load_results, load_run_config, load_run_tokenizer
from bert_jax.train.tasks import task_of


def is_empty(text: Text) -> bool:
    """Whether a part of a text has nothing to predict on."""
    return not all(part.strip() for part in text)


def prediction_file(file: FileConfig) -> FileConfig:
    """Settings that read labelled files, for files whose labels do not matter."""
    return dataclasses.replace(file, label=None, label_columns=())


class Predictor:
    """A fine-tuned model, loaded from its run directory."""

    @our_settings()
    def __init__(
        self, run: pathlib.Path, *, batch_size: int = 32, mesh: Mesh | None = None
    ) -> None:
        """Reads the best state of a run.

        Args:
            run: run directory of `finetune`.
            batch_size: number of rows that are computed at once.
            mesh: devices to compute on. Default: one device of this process. A job of
                several processes must pass a mesh of all its devices.
        """
        mesh = mesh or make_mesh(MeshConfig(), jax.local_devices()[:1])
        self.info, _, self.params = load_params(run, mesh, kind="finetune")
        assert self.info.labels is not None
        assert self.info.task is not None
        self.outputs = self.info.labels
        cfg = load_run_config(run)
        assert isinstance(cfg, FinetuneConfig)
        self.cfg = cfg
        # A run that has not finished has no results, and nothing fitted.
        fitted = (load_results(run) or {}).get("fitted", {})
        self.task = task_of(cfg).with_fitted(fitted)
        self.num_texts = self.task.num_texts(cfg.task)
        self.tokenizer = load_run_tokenizer(run)
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
            if is_empty(text):
                raise ValueError(
                    f"Text {number} is {text!r}; this run takes "
                    f"{self.num_texts or 'some'} non-empty text(s) each."
                )
            self._check(number, text)
        if not texts:
            raise ValueError("No text given; pass texts as arguments or on stdin.")
        examples = self.task.unlabelled(texts)
        encoded = self.encode(examples)
        return self.task.predictions(
            self.logits(encoded), encoded, examples, self.outputs
        )

    @property
    def file_settings(self) -> FileConfig:
        """How the run read its validation file, without the column of its labels."""
        return prediction_file(self.cfg.task.file)

    def read(self, path: pathlib.Path, file: FileConfig | None = None) -> Unlabelled:
        """The texts of a file, read by `file` or by `file_settings`."""
        cfg = self.cfg.task.with_file(file or self.file_settings)
        return self.task.read_unlabelled(path, cfg, self.outputs)

    def lines(self, given: Unlabelled) -> list[dict[str, Any]]:
        """One JSON object per text: its id and given label if it has them, the text, and
        the prediction, whose entries are null where the text is empty.

        Raises:
            ValueError: all texts are empty, or as for a call.
        """
        for number, text in enumerate(given.texts, 1):
            if not is_empty(text):
                self._check(number, text)
        found = iter(self([text for text in given.texts if not is_empty(text)]))
        predictions = [None if is_empty(text) else next(found) for text in given.texts]
        keys = next(x for x in predictions if x is not None)
        lines = []
        for number, (text, prediction) in enumerate(
            zip(given.texts, predictions, strict=True)
        ):
            line: dict[str, Any] = (
                {} if given.ids is None else {"id": given.ids[number]}
            )
            line["text"] = text[0] if len(text) == 1 else list(text)
            if given.labels is not None:
                line["given_label"] = given.labels[number]
            lines.append(line | (prediction or dict.fromkeys(keys)))
        return lines

    def _check(self, number: int, text: Text) -> None:
        if self.num_texts is not None and len(text) != self.num_texts:
            raise ValueError(
                f"Text {number} is {text!r}; this run takes {self.num_texts} non-empty "
                "text(s) each (a pair has a tab between its two, or is two arguments)."
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
