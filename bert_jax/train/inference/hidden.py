"""Vectors of each token of texts, by the encoder of any run.

Shape suffixes: B texts, T tokens, D hidden.
"""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from bert_jax.batch import ClassifyBatch
from bert_jax.config import DropoutConfig
from bert_jax.data.labelled.examples import Text
from bert_jax.data.labelled.lengths import compiled_lengths
from bert_jax.data.labelled.texts import encode_texts
from bert_jax.data.labelled.unlabelled import no_text
from bert_jax.model import encoder
from bert_jax.model.dropout import Dropout
from bert_jax.runtime.jax_settings import our_settings
from bert_jax.train import sharding
from bert_jax.train.initial import load_params
from bert_jax.train.mesh import one_device
from bert_jax.train.placement import global_batch
from bert_jax.train.runs.run import load_run_config, load_run_tokenizer

_BATCH_SIZE = 8


class EncodedText(NamedTuple):
    """What the encoder makes of one text, or of a pair of texts."""

    ids: np.ndarray  # int32 [T], with [CLS] and [SEP], without padding
    pieces: list[str]  # of the ids, as the tokenizer writes them
    hidden: np.ndarray  # float32 [T, D], hidden states of the last layer


class HiddenStates:
    """The encoder of a run."""

    @our_settings()
    def __init__(self, run: pathlib.Path) -> None:
        """Reads the best state of a fine-tuned run, else the newest one of the run.

        Raises:
            FileNotFoundError: there is no run.
            ValueError: the run cannot be read.
        """
        self.mesh = one_device()
        self.info, _, self.params = load_params(run, self.mesh)
        self.tokenizer = load_run_tokenizer(run)
        model = self.info.model
        self.length = min(
            self.info.sequence_length or model.max_positions, model.max_positions
        )
        compute = load_run_config(run).compute.on_any_platform.inference

        def hidden(params: Any, batch: ClassifyBatch) -> jax.Array:
            with sharding.on_mesh(self.mesh):
                none = Dropout.of(DropoutConfig(), None, batch.input_ids.shape[0])
                return encoder.encode_texts(model, params, batch, compute, none)

        self._hidden = jax.jit(hidden)

    @our_settings()
    def __call__(self, texts: Sequence[Text]) -> list[EncodedText]:
        """One result for each text, in order. A text longer than a row loses its end.

        Raises:
            ValueError: there is no text, or single texts and pairs are mixed.
        """
        if not texts:
            raise ValueError(no_text(0))
        if len({len(text) for text in texts}) > 1:
            raise ValueError(
                "Single texts and pairs are mixed; encode each kind in a call of its own."
            )
        labels = np.zeros(len(texts), np.int32)
        rows = encode_texts(self.tokenizer, texts, labels, self.length)
        found = []
        for first in range(0, len(texts), _BATCH_SIZE):
            last = len(texts) - 1
            numbers = np.minimum(np.arange(first, first + _BATCH_SIZE), last)
            counts = rows.num_tokens[numbers]
            lengths = compiled_lengths(self.length)
            end = int(lengths[np.searchsorted(lengths, counts.max())])
            batch = ClassifyBatch(
                input_ids=rows.input_ids[numbers, :end],
                segment_ids=rows.segment_ids[numbers, :end],
                input_mask=rows.input_mask[numbers, :end],
                labels=labels[numbers],
                weights=np.ones(_BATCH_SIZE, np.float32),
            )
            hidden = np.asarray(
                self._hidden(self.params, global_batch(self.mesh, batch))
            )
            for place, number in enumerate(numbers[: last + 1 - first]):
                ids = rows.input_ids[number, : counts[place]]
                pieces = [self.tokenizer.pieces[index] for index in ids]
                found.append(EncodedText(ids, pieces, hidden[place, : counts[place]]))
        return found
