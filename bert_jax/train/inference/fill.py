"""Fills in the masks of texts with a run that has an MLM head.

Shape suffixes: B rows, T tokens, M masks of a row, K guesses.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from bert_jax.batch import PretrainBatch
from bert_jax.data.labelled.examples import RowBuilder, Text
from bert_jax.data.labelled.lengths import compiled_lengths
from bert_jax.data.labelled.unlabelled import no_text
from bert_jax.data.tokenizers.pieces import bare
from bert_jax.limits import check_range
from bert_jax.model import pretraining
from bert_jax.model.masking import MaskedBatch
from bert_jax.runtime.jax_settings import our_settings
from bert_jax.train import sharding
from bert_jax.train.initial import load_params
from bert_jax.train.mesh import one_device
from bert_jax.train.placement import global_batch
from bert_jax.train.runs.run import load_run, load_run_config, load_run_tokenizer

_BATCH_SIZES = (1, 8, 32)
_NUM_MASKS = (1, 4, 16, 64)


class _Row(NamedTuple):
    """A text as the model takes it, without [CLS] and [SEP]."""

    ids: list[int]
    masks: list[int]  # places of the masks in `ids`


class Filler:
    """A model with an MLM head, loaded from its run directory."""

    task = "fill"
    num_texts = 1

    @our_settings()
    def __init__(
        self,
        run: pathlib.Path,
        *,
        step: int | None = None,
        top: int = 5,
    ) -> None:
        """Reads a checkpoint of a run of `pretrain` or `import`.

        It computes on the first device of this process.

        Args:
            run: run directory.
            step: step of the checkpoint. Default: the newest one.
            top: number of guesses for each mask.

        Raises:
            FileNotFoundError: there is no run.
            ValueError: the run has no MLM head, or fewer pieces than `top`.
        """
        info = load_run(run)
        if info.kind != "pretrain":
            raise ValueError(
                f"{run} is a fine-tuned run (task {info.task}), which has no MLM head any "
                "more. Pass a run of `pretrain` or `import`; `bert-jax predict` and "
                "`serve` take this one."
            )
        self.mesh = one_device()
        self.info, _, self.params = load_params(run, self.mesh, step=step)
        self.tokenizer = load_run_tokenizer(run)
        self.mask = self.tokenizer.pieces[self.tokenizer.special.mask]
        if not (isinstance(top, int) and 0 < top <= self.tokenizer.vocab_size):
            raise ValueError(
                f"top={top!r} is no number from 1 to {self.tokenizer.vocab_size:,}, the number of "
                "pieces that this tokenizer has."
            )
        self.length = min(
            self.info.sequence_length or self.info.model.max_positions,
            self.info.model.max_positions,
        )
        model, compute = (
            self.info.model,
            load_run_config(run).compute.on_any_platform.inference,
        )

        def guess(
            params: Any, batch: PretrainBatch, masked: MaskedBatch
        ) -> tuple[jax.Array, jax.Array]:
            with sharding.on_mesh(self.mesh):
                outputs = pretraining.apply(
                    model, params, batch, masked, compute=compute
                )
            probs_BMV = jax.nn.softmax(outputs.mlm_logits, axis=-1)
            return jax.lax.top_k(probs_BMV, top)

        self._guess = jax.jit(guess)

    def __call__(self, texts: Sequence[Text]) -> list[dict[str, Any]]:
        """One JSON object per text.

        "masks" has for each mask its guesses, the most probable first: "piece" as the
        tokenizer has it, "text" as people read it, and "probability". Each mask is
        guessed while the others are still hidden. "filled" is the text with the first
        guess in the place of every mask.

        Args:
            texts: a tuple of one text each, which holds the tokenizer's mask.

        Raises:
            ValueError: no text is given, or a text has no mask or is too long.
        """
        if not texts:
            raise ValueError(no_text(0))
        rows = [self._row(text, f"Text {n}") for n, text in enumerate(texts, 1)]
        return self._fill([text[0] for text in texts], rows)

    def check(self, text: Text, where: str) -> None:
        """Requires that masks of a text can be filled in; `where` names it.

        Raises:
            ValueError: it is a pair, or has no mask, or has too many tokens.
        """
        self._row(text, where)

    def lines(
        self, parts: Iterable[Sequence[str]], where: str
    ) -> Iterator[dict[str, Any]]:
        """One JSON object per line: the text, and what a call says of it.

        Lines without text have no object.

        Args:
            parts: lines, some at a time.
            where: what stands before the number of a line in messages, such as "Text".

        Raises:
            ValueError: no line holds text, or as for a call.
        """
        numbers, found_some = itertools.count(1), False
        for part in parts:
            texts, rows = [], []
            for text, number in zip(part, numbers, strict=False):
                if text.strip():
                    rows.append(self._row((text,), f"{where} {number}"))
                    texts.append(text)
            for text, found in zip(texts, self._fill(texts, rows), strict=True):
                yield {"text": text, **found}
            found_some = found_some or bool(texts)
        if not found_some:
            raise ValueError(no_text(next(numbers) - 1))

    @our_settings()
    def _fill(self, texts: Sequence[str], rows: Sequence[_Row]) -> list[dict[str, Any]]:
        order = sorted(range(len(rows)), key=lambda n: len(rows[n].ids))
        largest = _BATCH_SIZES[-1]
        found: dict[int, dict[str, Any]] = {}
        for first in range(0, len(order), largest):
            numbers = order[first : first + largest]
            probs, pieces = self._guesses([rows[n] for n in numbers])
            for row, number in enumerate(numbers):
                used = slice(len(rows[number].masks))  # of the slots
                guesses = [
                    list(map(self._guess_of, ids, shares))
                    for ids, shares in zip(
                        pieces[row, used].tolist(),
                        probs[row, used].tolist(),
                        strict=True,
                    )
                ]
                best = pieces[row, used, 0].tolist()
                filled = self._filled(texts[number], rows[number], best)
                found[number] = {"filled": filled, "masks": guesses}
        return [found[number] for number in range(len(texts))]

    def _guesses(self, rows: Sequence[_Row]) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities and ids of the best pieces at each mask, [rows, M, K]."""
        lengths = compiled_lengths(self.length)
        longest = max(len(row.ids) for row in rows) + 2
        length = int(lengths[np.searchsorted(lengths, longest)])
        num_masks = max(len(row.masks) for row in rows)
        slots = next((n for n in _NUM_MASKS if num_masks <= n), length)
        batch_size = next(n for n in _BATCH_SIZES if len(rows) <= n)
        built = RowBuilder(self.tokenizer, batch_size, length)
        positions_BM = np.zeros((batch_size, slots), np.int32)
        for number in range(batch_size):
            row = rows[min(number, len(rows) - 1)]  # the last one fills up
            built.put(number, [row.ids])
            positions_BM[number, : len(row.masks)] = np.array(row.masks) + 1
        ids = built.input_ids
        check_range(
            "input_ids", ids, self.info.model.vocab_size, "ModelConfig.vocab_size"
        )
        batch = PretrainBatch(
            input_ids=ids,
            segment_ids=built.segment_ids,
            sequence_ids=built.input_mask,
            position_ids=np.broadcast_to(np.arange(length, dtype=np.int32), ids.shape),
            cls_positions=np.zeros((batch_size, 1), np.int32),
            nsp_labels=np.zeros((batch_size, 1), np.int32),
            nsp_weights=np.zeros((batch_size, 1), np.float32),
        )
        nothing = np.zeros_like(positions_BM)
        slots_of: Any = (ids, positions_BM, nothing, nothing.astype(np.float32))
        masked = MaskedBatch(*slots_of)
        found = self._guess(self.params, *global_batch(self.mesh, (batch, masked)))
        probs, pieces = jax.tree.map(np.asarray, found)
        return probs, pieces

    def _row(self, text: Text, where: str) -> _Row:
        """The row of a text; raises ValueError where `check` does."""
        if len(text) != 1 or self.mask not in text[0]:
            raise ValueError(
                f"{where}, {_shown(text)}, has no mask. Write {self.mask}, the mask of this "
                f"run's tokenizer, where something is to be guessed, as in 'Paris is the "
                f"{self.mask} of France.'"
            )
        ids = self.tokenizer.encode_masked(text[0])
        mask = self.tokenizer.special.mask
        masks = [place for place, index in enumerate(ids) if index == mask]
        if len(ids) + 2 > self.length:
            raise ValueError(
                f"{where}, {_shown(text)}, has {len(ids) + 2} tokens; this run takes at "
                f"most {self.length}. Shorten it."
            )
        return _Row(ids, masks)

    def _guess_of(self, index: int, probability: float) -> dict[str, Any]:
        return {
            "piece": self.tokenizer.pieces[index],
            "text": bare(self.tokenizer.shown_pieces[index]),
            "probability": probability,
        }

    def _filled(self, text: str, row: _Row, best: Sequence[int]) -> str:
        """The text with these pieces in the place of its masks."""
        first, *others = text.split(self.mask)
        for place, index, part in zip(row.masks, best, others, strict=True):
            guess = bare(self.tokenizer.shown_pieces[index])
            if self._goes_on(index):
                first = first.rstrip()
            elif self._runs_together(first, guess):
                first += " "
            first += guess
            # What the model has read behind the mask.
            begins_word = self.tokenizer.starts_word[row.ids[place + 1 :][:1]].any()
            if begins_word and self._runs_together(first, part):
                first += " "
            first += part
        return first

    def _runs_together(self, before: str, after: str) -> bool:
        """Whether two words would be read as other pieces than each of them is."""
        if not before or before[-1].isspace() or not after or after[0].isspace():
            return False
        word, following = before.split()[-1], after.split()[0]
        joined, apart = self.tokenizer.encode([word + following, f"{word} {following}"])
        return list(joined) != list(apart)

    def _goes_on(self, index: int) -> bool:
        """Whether a piece goes on with the word before it."""
        special = dataclasses.astuple(self.tokenizer.special)
        return index not in special and not self.tokenizer.starts_word[index]


def _shown(text: Text) -> str:
    said = repr(text[0] if len(text) == 1 else text)
    return said if len(said) <= 60 else f"{said[:60]}..."
