"""From sentences to labels, or scores, with a fine-tuned run."""

import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.config import FinetuneConfig, MeshConfig
from bert_jax.config_json import from_json
from bert_jax.data.tasks import EncodedExamples, Text, encode_examples
from bert_jax.train.finetune import Classifier
from bert_jax.train.initial import load_params
from bert_jax.train.mesh import make_mesh
from bert_jax.train.run import load_run_tokenizer


class Predictor:
    """A fine-tuned classifier or regression, loaded from its run directory."""

    def __init__(
        self, run: pathlib.Path, *, batch_size: int = 32, mesh: Mesh | None = None
    ) -> None:
        """Reads the newest checkpoint of a run.

        Args:
            mesh: one device by default; in a job of several processes, all of its.
        """
        mesh = mesh or make_mesh(MeshConfig(), jax.local_devices()[:1])
        self.info, _, self.params = load_params(run, mesh, kind="finetune")
        if self.info.labels is None:
            raise ValueError(f"{run}/run.json names no labels; fine-tune again.")
        self.labels = self.info.labels
        cfg = from_json(FinetuneConfig, (run / "config.json").read_text())
        self.num_texts = len(cfg.task.text_columns)
        self.kind = cfg.task.kind
        self.tokenizer = load_run_tokenizer(run)
        self._classify = Classifier(
            self.info.model,
            cfg.compute.on_any_platform,
            len(self.labels),
            mesh,
            batch_size,
        )

    def __call__(self, texts: Sequence[Text]) -> np.ndarray:
        """Probabilities, float32 [texts, labels]; longer texts are cut.

        A regression gives its score, float32 [texts, 1].

        Raises:
            ValueError: texts are none, empty, or pairs where the task has single texts.
        """
        columns = self.num_texts
        for number, text in enumerate(texts, 1):
            if len(text) != columns or not all(part.strip() for part in text):
                raise ValueError(
                    f"Text {number} is {text!r}; this run takes {columns} non-empty "
                    "text(s) each (a pair has a tab between its two)."
                )
        if not texts:
            raise ValueError("No text given; pass texts as arguments or on stdin.")
        examples = encode_examples(
            self.tokenizer,
            texts,
            np.zeros(len(texts), np.int32),
            self.info.sequence_length,
        )
        logits = self.logits(examples)
        if self.kind == "regression":
            return logits
        return np.asarray(jax.nn.softmax(logits, axis=-1))

    def logits(self, examples: EncodedExamples) -> np.ndarray:
        """Float32 [examples, labels].

        Raises:
            ValueError: an id or a label is outside its range.
        """
        return self._classify(self.params, examples)
