"""Scores a pretrained model on held-out rows, with masks that never change."""

import math
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bert_jax.batch import MaskVocabulary, PretrainBatch
from bert_jax.config import DataConfig, MaskingConfig, PretrainConfig
from bert_jax.data.batches.loader import evaluation_batches
from bert_jax.data.batches.pairs import TooFewDocumentsError
from bert_jax.data.batches.rows import PretrainRows, open_rows
from bert_jax.data.prepared.corpus import Corpus
from bert_jax.data.prepared.dataset import PreparedDataset
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.limits import check_ids
from bert_jax.model import pretraining
from bert_jax.model.masking import MaskedBatch, mask_tokens
from bert_jax.model.random_bits import root_key
from bert_jax.runtime.distributed import fetch
from bert_jax.train import sharding
from bert_jax.train.losses import Mean, masked_share, pretrain_loss, weighted
from bert_jax.train.monitoring.metrics import means_of
from bert_jax.train.placement import row_parts, to_devices

# Seed of the masks and pairs of evaluation. No setting of a run changes it.
EVALUATION_SEED = 20_181_011
_NUM_EXAMPLES = 6
_NUM_GUESSES = 5


def held_out_rows(dataset: PreparedDataset, cfg: DataConfig) -> PretrainRows:
    """The rows of the validation split, the same for every run with this `cfg`.

    Buckets are used in training only; here they are replaced by rows of full length.
    """
    return open_rows(dataset, "validation", cfg.without_buckets, seed=EVALUATION_SEED)


def check_held_out(dataset: PreparedDataset, cfg: DataConfig) -> None:
    """Checks that the validation split has rows to evaluate on.

    Raises:
        ValueError: it has too few documents for the pairs of `cfg`, or no row; or its
            rows cannot be opened or planned.
    """
    try:
        empty = held_out_rows(dataset, cfg).size(0).num_rows == 0
    except TooFewDocumentsError as error:
        raise ValueError(
            f"{dataset.directory} holds out too little text to evaluate on: {error} More "
            "is held out by `bert-jax prepare --validation-fraction`."
        ) from None
    if empty:
        raise ValueError(
            f"The validation split of {dataset.directory} gives no row with these "
            "settings; prepare more text, or a larger --validation-fraction."
        )


def num_batches(cfg: PretrainConfig, held_out: Iterable[PretrainRows]) -> int:
    """Batches of one evaluation on these rows."""
    return sum(
        min(cfg.eval_batches, -(-rows.size(0).num_rows // cfg.batch_size))
        for rows in held_out
    )


class PretrainEvaluator:
    """Scores parameters, on the same masked rows every time."""

    def __init__(
        self,
        cfg: PretrainConfig,
        rows: Mapping[str, PretrainRows],
        vocabulary: MaskVocabulary,
        mesh: Mesh,
        shares: Sequence[float] = (1.0,),
    ) -> None:
        """Judges nothing yet.

        Args:
            cfg: settings of the run, or one of `PretrainConfig.phases`.
            rows: the held-out rows of each dataset, by its name.
            vocabulary: what masks are made of.
            mesh: devices to compute on.
            shares: share of each dataset in training, in the order of `rows`; they add up
                to 1.
        """
        self.cfg, self.rows, self.mesh = cfg, rows, mesh
        self.vocabulary, self.shares = vocabulary, shares
        self._step = jax.jit(
            self._evaluate_batch, out_shardings=sharding.replicated(mesh)
        )

    def _evaluate_batch(
        self, params: Any, batch: PretrainBatch, first_row: jax.Array
    ) -> dict[str, Mean]:
        with sharding.on_mesh(self.mesh):
            masking = self.cfg.masking.for_evaluation
            masked = fixed_masks(masking, batch, self.vocabulary, first_row)
            outputs = pretraining.apply(
                self.cfg.model,
                params,
                batch,
                masked,
                compute=self.cfg.compute.inference,
            )
            has_labels = self.cfg.data.has_labels
            _, metrics = pretrain_loss(outputs, batch, masked, has_labels=has_labels)
        if not self.cfg.masking.is_judged_alike:
            metrics["masked_share"] = masked_share(batch, masked)
        if has_labels:
            ones = (batch.nsp_labels == 1).astype(jnp.float32)
            metrics["nsp_ones"] = weighted(ones, batch.nsp_weights)
        return metrics

    def __call__(
        self, params: Any, progress: Callable[[int], None] = lambda _: None
    ) -> dict[str, float]:
        """Held-out losses in nats, accuracies, and the fraction of the larger NSP class.

        Single segments have no figures of NSP. A value of several datasets is the mean of
        theirs by their shares in training, and the perplexity is that of the mean loss;
        the values of each dataset stand beside them under NAME/METRIC.

        Args:
            params: parameters of the model.
            progress: called after each batch with the number of batches that are done.
        """
        each, done = {}, 0

        def of_all(number: int) -> None:
            progress(done + number)

        for name, rows in self.rows.items():
            each[name], count = self._of_rows(rows, params, of_all)
            done += count
        first, *others = each.values()
        if not others:
            return first
        means = {
            metric: sum(
                share * found[metric]
                for share, found in zip(self.shares, each.values(), strict=True)
            )
            for metric in first
        }
        means["mlm_perplexity"] = _perplexity(means)
        return means | {
            f"{name}/{metric}": value
            for name, found in each.items()
            for metric, value in found.items()
        }

    def _of_rows(
        self, rows: PretrainRows, params: Any, progress: Callable[[int], None]
    ) -> tuple[dict[str, float], int]:
        """The values of one dataset, and the number of its batches."""
        found: list[dict[str, Mean]] = []
        batches = evaluation_batches(
            rows,
            batch_size=self.cfg.batch_size,
            max_batches=self.cfg.eval_batches,
            **row_parts(self.mesh)._asdict(),
        )
        for number, batch in enumerate(batches):
            check_ids(self.cfg.model, batch)
            placed = to_devices(self.mesh, batch)
            found.append(
                self._step(params, placed, np.int32(number * self.cfg.batch_size))
            )
            # One batch is computed while the next is made; more in flight would make a
            # signal wait for all of them.
            jax.block_until_ready(found[:-1][-1:])
            progress(number)
        means = means_of(found)
        progress(len(found))
        share = means.pop("nsp_ones", None)
        means["mlm_perplexity"] = _perplexity(means)
        if share is not None:
            means["nsp_majority"] = max(share, 1.0 - share)
        return means, len(found)


def _perplexity(means: Mapping[str, float]) -> float:
    return math.exp(min(means["mlm_loss"], 700.0))


def open_evaluator(
    cfg: PretrainConfig, corpus: Corpus, mesh: Mesh
) -> PretrainEvaluator:
    """What judges a phase on the held-out rows of its corpus.

    Args:
        cfg: one of `PretrainConfig.phases`.
        corpus: the datasets of `cfg.data`.
        mesh: devices to compute on.
    """
    each = (held_out_rows(dataset, cfg.data) for dataset in corpus.datasets)
    rows = dict(zip(corpus.names, each, strict=True))
    shares = corpus.shares(cfg.data.weights)
    return PretrainEvaluator(cfg, rows, corpus.tokenizer.mask_vocabulary, mesh, shares)


def fixed_masks(
    cfg: MaskingConfig,
    batch: PretrainBatch,
    vocabulary: MaskVocabulary,
    first_row: jax.Array,
) -> MaskedBatch:
    """The masks of held-out rows from number `first_row` on, the same in every run.

    The masks of a row depend on its number only, not on the batch that holds it.
    """
    root = root_key(EVALUATION_SEED)
    numbers_B = first_row + jnp.arange(batch.input_ids.shape[0])

    def one(row: PretrainBatch, number: jax.Array) -> MaskedBatch:
        alone = jax.tree.map(lambda x: x[None], row)
        key = jax.random.fold_in(root, number)
        masked = mask_tokens(cfg, alone, vocabulary, key)
        return jax.tree.map(lambda x: x[0], masked)

    return jax.vmap(one)(batch, numbers_B)


def mask_examples(
    cfg: PretrainConfig,
    params: Any,
    rows: PretrainRows,
    tokenizer: Tokenizer,
) -> list[dict[str, Any]]:
    """Held-out pairs with their hidden tokens and the model's guesses for them.

    Returns:
        For each pair `{"tokens": [{"text", "guesses"}]}`. `guesses` is `None` for tokens
        that were not hidden, else a list of (piece, probability), most probable first.
    """
    batch = next(
        iter(evaluation_batches(rows, batch_size=_NUM_EXAMPLES, max_batches=1))
    )
    check_ids(cfg.model, batch)
    fill: Callable[[Any, PretrainBatch], tuple] = jax.jit(
        lambda params, batch: _fill(cfg, params, batch, tokenizer.mask_vocabulary)
    )
    masked, probs, pieces = fetch(fill(params, batch))
    examples = []
    for row in range(_NUM_EXAMPLES):
        guesses = {
            int(position): [
                (tokenizer.shown_pieces[int(i)], float(p))
                for i, p in zip(pieces[row, slot], probs[row, slot], strict=True)
            ]
            for slot, position in enumerate(masked.positions[row])
            if masked.weights[row, slot]
        }
        first = batch.sequence_ids[row] == 1
        tokens = [
            {"text": tokenizer.shown_pieces[int(i)], "guesses": guesses.get(position)}
            for position, i in enumerate(batch.input_ids[row])
            if first[position]
        ]
        if any(token["guesses"] for token in tokens):
            examples.append({"tokens": tokens})
    return examples


def _fill(
    cfg: PretrainConfig,
    params: Any,
    batch: PretrainBatch,
    vocabulary: MaskVocabulary,
) -> tuple[MaskedBatch, jax.Array, jax.Array]:
    masking = cfg.masking.for_evaluation
    masked = fixed_masks(masking, batch, vocabulary, jnp.int32(0))
    compute = cfg.compute.inference
    logits = pretraining.apply(
        cfg.model, params, batch, masked, compute=compute
    ).mlm_logits
    probs, pieces = jax.lax.top_k(jax.nn.softmax(logits), _NUM_GUESSES)
    return masked, probs, pieces


def check_vocabulary(
    cfg: PretrainConfig, tokenizer: Tokenizer, where: pathlib.Path
) -> None:
    """Raises ValueError if the token table and the tokenizer differ in size."""
    if cfg.model.vocab_size == tokenizer.vocab_size:
        return
    if cfg.checkpoint is None:
        way_out = (
            f"pass --model.vocab-size {tokenizer.vocab_size}, or choose the dataset that "
            "fits the model."
        )
    else:
        way_out = (
            f"a run has the vocabulary of its checkpoint. Choose a dataset that `bert-jax "
            f"prepare --tokenizer {cfg.checkpoint}` wrote."
        )
    raise ValueError(
        f"ModelConfig.vocab_size={cfg.model.vocab_size}, but the tokenizer of {where} has "
        f"{tokenizer.vocab_size} pieces; {way_out}"
    )
