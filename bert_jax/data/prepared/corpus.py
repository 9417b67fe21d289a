"""What a run trains on: one prepared dataset, or a mixture of several."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from bert_jax.config import DataConfig
from bert_jax.data.prepared.dataset import PreparedDataset, open_dataset
from bert_jax.data.tokenizers.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Corpus:
    """The datasets of a run, all with the same tokenizer."""

    datasets: tuple[PreparedDataset, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the datasets' folders."""
        return tuple(x.name for x in self.datasets)

    @property
    def tokenizer(self) -> Tokenizer:
        return self.datasets[0].tokenizer

    @property
    def identity(self) -> dict[str, Any]:
        """Hashes of the shard files: of a single dataset by file, else by dataset."""
        if len(self.datasets) == 1:
            return {"sha256": self.datasets[0].manifest["sha256"]}
        return {"sha256": {x.directory.name: x.sha256 for x in self.datasets}}

    def shares(self, weights: Sequence[float]) -> tuple[float, ...]:
        """The share of each dataset in the rows of training; they add up to 1.

        Args:
            weights: as `DataConfig.weights`; without any, the tokens of each dataset.
        """
        weights = weights or self.of_train("tokens")
        return tuple(weight / sum(weights) for weight in weights)

    def of_train(self, name: str) -> tuple[Any, ...]:
        """What the manifest of each dataset says about its training split."""
        return tuple(x.manifest["splits"]["train"][name] for x in self.datasets)


def open_corpus(cfg: DataConfig) -> Corpus:
    """Opens the dataset of these settings, or all those of their mixture.

    Raises:
        FileNotFoundError, ValueError: as for `open_dataset`; or the datasets of a mixture
            have different tokenizers, or two of them the same name.
    """
    corpus = Corpus(tuple(open_dataset(path) for path in cfg.datasets or (None,)))
    first = corpus.datasets[0]
    for dataset in corpus.datasets[1:]:
        if dataset.tokenizer.sha256 != first.tokenizer.sha256:
            raise ValueError(
                f"--data.mixture: {dataset.directory} was prepared with another tokenizer "
                f"({dataset.tokenizer.sha256[:12]}) than {first.directory} "
                f"({first.tokenizer.sha256[:12]}). Prepare it with --tokenizer "
                f"{first.directory / 'tokenizer'}."
            )
    for name in corpus.names:
        if corpus.names.count(name) > 1:
            raise ValueError(
                f"--data.mixture: two datasets are called {name!r}, the name of their "
                "folders, by which metrics tell them apart; rename one of the folders."
            )
    return corpus
