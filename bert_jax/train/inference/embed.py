"""Vectors of texts, by the encoder of any run."""

import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from bert_jax.config import FinetuneConfig, TaskConfig
from bert_jax.data.labelled.texts import encode_texts
from bert_jax.data.labelled.unlabelled import no_text
from bert_jax.runtime.jax_settings import our_settings
from bert_jax.train.initial import load_params
from bert_jax.train.logits import BatchedLogits
from bert_jax.train.mesh import one_device
from bert_jax.train.runs.run import load_run_config, load_run_tokenizer
from bert_jax.train.tasks.embeddings import Embeddings, Pooling


class Embedder:
    """The encoder of a run, and how the vector of a text is made of its output."""

    @our_settings()
    def __init__(
        self,
        run: pathlib.Path,
        *,
        step: int | None = None,
        pooling: Pooling | None = None,
        sequence_length: int | None = None,
        batch_size: int = 32,
    ) -> None:
        """Reads a state of a run onto one device.

        Args:
            run: run directory of `pretrain`, `finetune` or `import`.
            step: step of the state. Default: the best one that the run keeps, else the
                newest one.
            pooling: default: that of a run of --task embeddings, else "mean".
            sequence_length: tokens that a text is cut to. Default: the run's own.
            batch_size: number of texts that are computed at once.

        Raises:
            ValueError: the encoder has fewer positions than `sequence_length`.
        """
        mesh = one_device()
        info, self.step, self._params = load_params(run, mesh, step=step)
        most = info.model.max_positions
        self.sequence_length = sequence_length or info.sequence_length or most
        if not 3 <= self.sequence_length <= most:
            raise ValueError(
                f"--sequence-length {self.sequence_length} is not between 3 and the "
                f"{most} positions of {run}; choose another length, or leave it out."
            )
        cfg = load_run_config(run)
        tuned = cfg.task.pooling if isinstance(cfg, FinetuneConfig) else None
        self.pooling: Pooling = pooling or tuned or "mean"
        own = TaskConfig(kind="embeddings", pooling=self.pooling)
        self.width = info.model.hidden_size
        self.tokenizer = load_run_tokenizer(run)
        self._vectors = BatchedLogits(
            Embeddings().configured(FinetuneConfig(task=own)),
            info.model,
            cfg.compute.on_any_platform,
            mesh,
            batch_size,
        )

    @our_settings()
    def __call__(
        self,
        texts: Sequence[str],
        progress: Callable[[int, int], None] = lambda *_: None,
    ) -> np.ndarray:
        """The vectors in the order of the texts, float32 [texts, D]; 0 for an empty text.

        Texts of similar length are computed together, in at most six lengths of rows.

        Args:
            progress: called with the numbers of batches done and of all.

        Raises:
            ValueError: there is no text, or all are empty.
        """
        real = np.array([bool(text.strip()) for text in texts], bool)
        if not real.any():
            raise ValueError(no_text(len(texts)))
        rows = encode_texts(
            self.tokenizer,
            [(text,) for text, is_real in zip(texts, real, strict=True) if is_real],
            np.zeros(int(real.sum()), np.int32),
            self.sequence_length,
        )
        found = np.zeros((len(texts), self.width), np.float32)
        found[real] = self._vectors(self._params, rows, progress)
        return found
