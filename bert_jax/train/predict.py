"""Predicts with a fine-tuned run."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.config import FinetuneConfig, MeshConfig
from bert_jax.data.labelled.examples import EncodedExamples, Text
from bert_jax.runtime.jax_settings import our_settings
from bert_jax.train.initial import load_params
from bert_jax.train.logits import BatchedLogits
from bert_jax.train.mesh import make_mesh
from bert_jax.train.run import load_run_config, load_run_tokenizer
from bert_jax.train.tasks import task_named


class Predictor:
    """A fine-tuned model, loaded from its run directory."""

    @our_settings()
    def __init__(
        self, run: pathlib.Path, *, batch_size: int = 32, mesh: Mesh | None = None
    ) -> None:
        """Reads the newest checkpoint of a run.

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
        self.task = task_named(self.info.task)
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
            if len(text) != self.num_texts or not all(part.strip() for part in text):
                raise ValueError(
                    f"Text {number} is {text!r}; this run takes {self.num_texts} "
                    "non-empty text(s) each (a pair has a tab between its two)."
                )
        if not texts:
            raise ValueError("No text given; pass texts as arguments or on stdin.")
        examples = self.task.unlabelled(texts)
        encoded = self.encode(examples)
        return self.task.predictions(
            self.logits(encoded), encoded, examples, self.outputs
        )

    def encode(self, examples: Any) -> EncodedExamples:
        """Rows of token ids from examples of the task."""
        return self.task.encode(
            self.tokenizer, examples, self.outputs, self.info.sequence_length
        )

    @our_settings()
    def logits(self, encoded: EncodedExamples) -> np.ndarray:
        """Logits of all rows, float32 [rows, ...].

        Raises:
            ValueError: an id is outside its table.
        """
        return self._logits(self.params, encoded)
