"""The Python interface: what `import bert_jax` offers, over what the commands call.

Every function here does what the command of its name does, with the same settings
(`bert_jax.config`), the same run directories and the same errors.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator, Sequence
from types import NoneType
from typing import Any, Literal

import numpy as np

from bert_jax import __version__, config_json
from bert_jax.batch import PretrainBatch
from bert_jax.commands.foreign_checkpoint import Settings, import_checkpoint
from bert_jax.commands.settled import settle
from bert_jax.config import (
    ClusterConfig,
    DataConfig,
    FinetuneConfig,
    ModelConfig,
    PrepareOptions,
    PretrainConfig,
)
from bert_jax.config.address import path_of
from bert_jax.config.checks import require, require_type
from bert_jax.data.batches.loader import train_batches
from bert_jax.data.batches.rows import open_rows
from bert_jax.data.cache_folder import cache_folder
from bert_jax.data.labelled.given_texts import Given, tuples_of
from bert_jax.data.object_store import alone_in
from bert_jax.data.prepared import dataset as prepared_dataset
from bert_jax.data.prepared.prepare import prepare as prepare_dataset
from bert_jax.data.text.sources import Sources
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.exchange import importing
from bert_jax.exchange.export import Format, Quantize, export_run
from bert_jax.exchange.imported import describe
from bert_jax.train import finetune as finetuning
from bert_jax.train import pretrain as pretraining
from bert_jax.train.inference.embed import Embedder
from bert_jax.train.inference.fill import Filler
from bert_jax.train.inference.hidden import EncodedText, HiddenStates
from bert_jax.train.inference.predict import Predictor
from bert_jax.train.runs.run import RunInfo, load_run, load_run_tokenizer
from bert_jax.train.runs.run_in_store import fetch_run, trained_in_store
from bert_jax.train.tasks.embeddings import normalised

Path = str | os.PathLike[str]
Texts = Given
"""One text, several, or pairs as tuples of two. A single text is a list of one."""


class Model:
    """A trained model in its run directory; `load` makes it.

    Weights are read when a method first needs them, and stay in memory.
    """

    def __init__(self, run: pathlib.Path) -> None:
        """Reads what the run says of itself; as for `load`."""
        self.run = run.absolute()
        """The run directory, wherever the process is when weights are read."""
        self.info: RunInfo = load_run(self.run)
        """Kind, architecture, task and labels of the run."""
        self._fillers: dict[int, Filler] = {}
        self._embedders: dict[str | None, Embedder] = {}

    def __reduce__(self) -> tuple[type["Model"], tuple[pathlib.Path]]:
        """Another process reads the run itself."""
        return Model, (self.run,)

    def __repr__(self) -> str:
        return f"<bert_jax.Model {self.run}: {self.info.task or 'masked words'}>"

    @property
    def config(self) -> ModelConfig:
        """The architecture."""
        return self.info.model

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """What makes ids of text."""
        return load_run_tokenizer(self.run)

    def predict(self, texts: Texts) -> list[dict[str, Any]]:
        """The predictions of a fine-tuned model, as `bert-jax predict --output` writes them.

        Args:
            texts: see `Texts`; pairs where the task has pairs.

        Returns:
            One dict for each text, in the form of the task: "label" and "probabilities" of
            a class, "entities" of tags, "answer" of a question, and so on.

        Raises:
            ValueError: the run was not fine-tuned, no text is given, a text is empty, or a
                pair is given where the task takes single texts, or the reverse.
        """
        return self._predictor(tuples_of(texts))

    def fill_mask(self, texts: Texts, *, top: int = 5) -> list[dict[str, Any]]:
        """Guesses what [MASK], or the mask of the model's tokenizer, hides in each text.

        Args:
            texts: single texts, each with at least one mask.
            top: number of guesses for each mask.

        Returns:
            One dict for each text: "filled" is the text with the best guesses, "masks" has
            the guesses of each mask, with "piece", "text" and "probability".

        Raises:
            ValueError: the run was fine-tuned, a text has no mask or is too long, or there
                are no such guesses.
        """
        require_type("top", top, int, np.integer)
        if top not in self._fillers:
            self._fillers[top] = Filler(self.run, top=int(top))
        return self._fillers[top](tuples_of(texts))

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        pooling: Literal["mean", "cls"] | None = None,
        normalise: bool = False,
    ) -> np.ndarray:
        """A vector for each text, float32 [texts, hidden size]; 0 for an empty text.

        Args:
            texts: one text, or several.
            pooling: mean: the mean of the tokens' vectors. cls: that of the first token.
                Default: what the model was fine-tuned with, else mean.
            normalise: scale every vector to length 1.

        Raises:
            ValueError: there is no text, all are empty, or one is a pair.
        """
        require_type("pooling", pooling, str, NoneType)
        require_type("normalise", normalise, bool)
        found = tuples_of(texts)
        for number, text in enumerate(found, 1):
            if len(text) != 1:
                raise ValueError(
                    f"Text {number} is {text!r}; a vector is of one text: pass strings."
                )
        if pooling not in self._embedders:
            self._embedders[pooling] = Embedder(self.run, pooling=pooling)
        vectors = self._embedders[pooling]([text for (text,) in found])
        return normalised(vectors) if normalise else vectors

    def encode(self, texts: Texts) -> list[EncodedText]:
        """Ids, pieces and hidden states of each text: what the encoder makes of its tokens.

        Args:
            texts: see `Texts`. A text that is longer than the model's rows loses its end.

        Returns:
            For each text `ids` int32 [T], `pieces` and `hidden` float32 [T, D], with
            [CLS] and [SEP], without padding.

        Raises:
            ValueError: there is no text, or single texts and pairs are mixed.
        """
        return self._hidden(tuples_of(texts))

    def export(
        self,
        output: Path,
        to: Format = "huggingface",
        *,
        step: int | None = None,
        mlm_only: bool = False,
        hidden_states: bool = False,
        quantize: Quantize = "none",
    ) -> str:
        """Writes the model for another library, loads it back and compares it.

        Args:
            output: directory to write.
            to: huggingface, tensorflow, onnx or stablehlo.
            step: step of the checkpoint. Default: the best one that the run keeps, else
                the newest one.
            mlm_only: leave out pooler and next-sentence head of a pretraining run.
            hidden_states: for onnx and stablehlo, return the last hidden states, too.
            quantize: for onnx, "int8" also writes a graph with weights of 8 bits.

        Returns:
            One line: what was written, and how far its outputs are from ours.

        Raises:
            ValueError: the format cannot express the model, a library is missing, or the
                outputs differ by more than rounding explains.
        """
        return export_run(
            *(self.run, path_of("output", output), to),
            step=step,
            mlm_only=mlm_only,
            hidden_states=hidden_states,
            quantize=quantize,
        )

    @functools.cached_property
    def _predictor(self) -> Predictor:
        return Predictor(self.run)

    @functools.cached_property
    def _hidden(self) -> HiddenStates:
        return HiddenStates(self.run)


def load(source: Path) -> Model:
    """A model from the run directory of `pretrain`, `finetune` or `import`.

    A directory of Hugging Face or of Google is imported first, once, into the user's cache
    folder (`~/.cache/bert_jax/imported`). What `bert-jax import` says is printed.

    Raises:
        FileNotFoundError: there is no run and no model.
        ValueError: the run or the model cannot be read.
    """
    run = fetch_run(path_of("source", source))
    if importing.is_foreign(run):
        # Another version may import it in another way.
        name = f"{__version__}-{importing.source_sha256(run)[:16]}"
        imported = cache_folder("imported") / name
        with alone_in(imported):
            if not (imported / "run.json").exists():
                done = importing.import_run(run, imported)
                print("\n".join(describe(done)), flush=True)
        run = imported
    return Model(run)


def open_dataset(directory: Path) -> prepared_dataset.PreparedDataset:
    """A dataset that `prepare` wrote: its manifest, its tokenizer and its splits.

    Raises:
        FileNotFoundError: there is no finished dataset.
        ValueError: the dataset is damaged or of another format.
    """
    return prepared_dataset.open_dataset(path_of("directory", directory))


def prepare(
    source: Sources,
    tokenizer: Path,
    output: Path,
    options: PrepareOptions = PrepareOptions(),  # noqa: B008
    *,
    strict: bool = False,
    num_workers: int | None = None,
) -> dict[str, Any]:
    """Tokenises text and writes a dataset, as `bert-jax prepare` does.

    It starts processes, so a script must call it under `if __name__ == "__main__":`.

    Args:
        source: files:GLOB, tfds:NAME, docs: or a path, or several of them.
        tokenizer: directory of a tokenizer or a run, or a tokenizer.json.
        output: directory of the dataset; unfinished work there is continued.
        options: what decides the content.
        strict: raise an error where the audit finds what would spoil training.
        num_workers: number of processes. Default: one per core.

    Returns:
        The manifest of the dataset.

    Raises:
        ValueError: settings, text or an earlier dataset in `output` do not fit.
        RuntimeError: a process that it has started imports the script, which calls it.
    """
    return prepare_dataset(
        *(source, path_of("tokenizer", tokenizer), path_of("output", output)),
        config_json.checked(options, PrepareOptions, "options"),
        strict=strict,
        num_workers=num_workers,
    )


def pretrain(cfg: PretrainConfig, output: Path) -> dict[str, Any]:
    """Starts or continues a pretraining run, as `bert-jax pretrain` does.

    The architecture comes from `cfg.checkpoint`, where there is one; else the size of the
    vocabulary comes from the dataset. What was taken is printed.

    Returns:
        What stands in results.json: "eval" has the scores on held-out text.

    Raises:
        ValueError, OSError: settings, dataset and checkpoint do not fit together, or
            `output` holds another run.
        bert_jax.train.stop_request.InterruptedRunError: a signal came; a checkpoint was
            written, and the same call goes on.
    """
    cfg = config_json.checked(cfg, PretrainConfig, "cfg")
    with trained_in_store(path_of("output", output), cfg.loop) as run:
        cfg = import_checkpoint(_with_checkpoint_here(cfg), run, ClusterConfig())
        return pretraining.pretrain(settle(cfg, cfg, ()), run)


def finetune(cfg: FinetuneConfig, output: Path) -> dict[str, Any]:
    """Starts or continues a fine-tuning run, as `bert-jax finetune` does.

    Returns:
        What stands in results.json: "eval" has the scores on the dev file.

    Raises:
        ValueError, OSError: settings, files and checkpoint do not fit together, or
            `output` holds another run.
        bert_jax.train.stop_request.InterruptedRunError: a signal came; a checkpoint was
            written, and the same call goes on.
    """
    cfg = config_json.checked(cfg, FinetuneConfig, "cfg")
    with trained_in_store(path_of("output", output), cfg.loop) as run:
        cfg = import_checkpoint(_with_checkpoint_here(cfg), run, ClusterConfig())
        return finetuning.finetune(cfg, run)


def batches(
    dataset: Path,
    data: DataConfig = DataConfig(),  # noqa: B008
    *,
    batch_size: int,
    num_steps: int,
    first_step: int = 0,
    split: Literal["train", "validation"] = "train",
    seed: int = 0,
) -> Iterator[PretrainBatch]:
    """The batches that a run of pretraining sees, as NumPy arrays, before masking.

    The batch of a step is a function of (seed, step): an iterator that begins at
    `first_step` gives what one from 0 gives there.

    Args:
        dataset: directory that `prepare` wrote.
        data: pairs, lengths and layout of rows; which datasets it names is not read.
        batch_size: rows of a batch.
        num_steps: number behind the last step.
        first_step: number of the first step.
        split: which part of the dataset.
        seed: seed of pairs and order.

    Raises:
        FileNotFoundError: there is no finished dataset.
        ValueError: the split has too little text, or settings do not fit it.
    """
    opened, data = open_dataset(dataset), config_json.checked(data, DataConfig, "data")
    require_type("first_step", first_step, int, np.integer)
    require(
        first_step >= 0, f"first_step={first_step} is negative; expected 0 or more."
    )
    # Raises an error where one of them does not fit, as for a run.
    PretrainConfig(data=data, batch_size=batch_size, num_steps=num_steps, seed=seed)
    data = dataclasses.replace(data, dataset=None, mixture=(), weights=())
    rows = open_rows(opened, split, data, seed=seed, batch_size=batch_size)
    return train_batches(
        rows, batch_size=batch_size, first_step=first_step, num_steps=num_steps
    )


def _with_checkpoint_here(cfg: Settings) -> Settings:
    if cfg.checkpoint is None:
        return cfg
    goes_on = isinstance(cfg, PretrainConfig)
    run = fetch_run(cfg.checkpoint, "newest" if goes_on else "one", cfg.checkpoint_step)
    return dataclasses.replace(cfg, checkpoint=run)
