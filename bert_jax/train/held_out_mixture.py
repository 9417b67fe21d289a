"""Scores a pretrained model on the held-out rows of each dataset of its corpus."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from jax.sharding import Mesh

from bert_jax.config import PretrainConfig
from bert_jax.data.batches.rows import PretrainRows
from bert_jax.data.prepared.corpus import Corpus
from bert_jax.train.held_out import PretrainEvaluator, held_out_rows, num_batches


class MixtureEvaluator:
    """Scores parameters on each dataset of a mixture, and on their mixture."""

    def __init__(
        self,
        judge: PretrainEvaluator,
        rows: Mapping[str, PretrainRows],
        shares: Mapping[str, float],
    ) -> None:
        """Judges nothing yet.

        Args:
            judge: scores parameters on rows.
            rows: the held-out rows of each dataset, by its name.
            shares: share of each dataset in training; they add up to 1.
        """
        self.judge, self.rows, self.shares = judge, rows, shares

    def __call__(
        self, params: Any, progress: Callable[[int], None] = lambda _: None
    ) -> dict[str, float]:
        """As `PretrainEvaluator`, of the mixture; and of each dataset under NAME/METRIC.

        A value of the mixture is the mean of the datasets' values by their shares in
        training, and its perplexity is that of its mean loss.
        """
        each, done = {}, 0

        def of_all(number: int) -> None:
            progress(done + number)

        for name, rows in self.rows.items():
            each[name] = self.judge.of_rows(rows, params, of_all)
            done += num_batches(self.judge.cfg, [rows])
        metrics = next(iter(each.values()))
        means = {
            metric: sum(
                share * each[name][metric] for name, share in self.shares.items()
            )
            for metric in metrics
        }
        means["mlm_perplexity"] = math.exp(min(means["mlm_loss"], 700.0))
        return means | {
            f"{name}/{metric}": value
            for name, found in each.items()
            for metric, value in found.items()
        }

    @property
    def held_out(self) -> tuple[PretrainRows, ...]:
        """The rows of each dataset that is judged on."""
        return tuple(self.rows.values())


def open_evaluator(
    cfg: PretrainConfig, corpus: Corpus, mesh: Mesh
) -> PretrainEvaluator | MixtureEvaluator:
    """What judges a phase on the held-out rows of its corpus.

    Args:
        cfg: one of `PretrainConfig.phases`.
        corpus: the datasets of `cfg.data`.
        mesh: devices to compute on.
    """
    each = [held_out_rows(dataset, cfg.data) for dataset in corpus.datasets]
    vocabulary = corpus.tokenizer.mask_vocabulary
    judge = PretrainEvaluator(cfg, each[0], vocabulary, mesh)
    if len(each) == 1:
        return judge
    shares = corpus.shares(cfg.data.weights)
    return MixtureEvaluator(
        judge,
        dict(zip(corpus.names, each, strict=True)),
        dict(zip(corpus.names, shares, strict=True)),
    )
