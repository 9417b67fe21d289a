"""The `import` and `export` commands."""

import dataclasses
import pathlib
from typing import Annotated, Literal

import tyro

from bert_jax.commands.shared import RunDir, Step
from bert_jax.config.checks import require_seed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Import:
    """Makes a run directory from a published BERT of Hugging Face or Google.

    For example: `bert-jax import downloads/bert-base-uncased --output encoder`.
    """

    source: Annotated[pathlib.Path, tyro.conf.Positional]
    """Hugging Face directory, Google directory, or prefix of a TensorFlow checkpoint.
    Google's files need the extra tf."""
    output: pathlib.Path
    """Run directory to write. `pretrain` and `finetune` take it as --checkpoint."""
    lowercase: tyro.conf.FlagCreatePairsOff[bool] = False
    """The vocabulary is uncased. Needed only if the source does not say so."""
    no_lowercase: tyro.conf.FlagCreatePairsOff[bool] = False
    """The vocabulary is cased. Needed only if the source does not say so."""
    encoder_only: bool = False
    """Leave out the head of a model for a task and write a pretraining run. Default: a
    classifier, a tagger, a model that answers questions and one of sentence-transformers
    become a fine-tuned run."""
    allow_incomplete: bool = False
    """Fill parts that the encoder lacks with fresh random weights. Default: a source
    that lacks a part is refused."""
    num_texts: Literal[1, 2] = 1
    """Number of texts that a classifier reads. 1: single texts. 2: pairs of texts."""
    add_tokens: pathlib.Path | None = None
    """Extend the vocabulary by the tokens of this file, one a line. Those that exist
    already are skipped."""
    new_rows: Literal["mean", "random"] = "mean"
    """Embeddings of added tokens. mean: the mean of the pieces that the token was before.
    random: drawn afresh."""
    seed: int = 0
    """Seed of the weights that the source lacks and that are drawn afresh."""

    def run(self) -> None:
        from bert_jax.exchange.added_tokens import read_token_list
        from bert_jax.exchange.imported import describe
        from bert_jax.exchange.importing import import_run

        require_seed(self)
        tokens = read_token_list(self.add_tokens) if self.add_tokens else ()
        said = self.lowercase or self.no_lowercase
        imported = import_run(
            self.source,
            self.output,
            lowercase=self.lowercase if said else None,
            encoder_only=self.encoder_only,
            allow_incomplete=self.allow_incomplete,
            num_texts=self.num_texts,
            tokens=tokens,
            new_rows=self.new_rows,
            seed=self.seed,
        )
        for line in describe(imported):
            print(line)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export:
    """Writes a run's weights, the best where it keeps them, for another library.

    For example: `bert-jax export tuned --output huggingface`.
    """

    run_dir: RunDir
    """Run directory of `pretrain`, `finetune` or `import`."""
    output: pathlib.Path
    """Directory to write. If the other library is installed, it loads the result and the
    outputs are compared; of a TensorFlow checkpoint, the weights alone are."""
    to: Literal["huggingface", "tensorflow", "onnx", "stablehlo"] = "huggingface"
    """Format to write. huggingface: a directory that transformers loads. tensorflow: a
    TF1 checkpoint with Google's names (needs the extra tf). onnx: a graph for batches of
    any size and length (needs the extra onnx). stablehlo: a program for CPU, CUDA and
    TPU."""
    mlm_only: bool = False
    """Write a pretraining run as BertForMaskedLM, without pooler and next-sentence head.
    transformers' fill-mask pipeline loads that without a warning."""
    quantize: Literal["none", "int8"] = "none"
    """For onnx. int8: also write model_int8.onnx, whose weights have 8 bits, and measure
    its scores and its speed beside model.onnx on the run's held-out examples."""
    hidden_states: bool = False
    """For onnx and stablehlo: the exported model returns last_hidden_state, too, float32
    [batch, length, hidden]. The other formats hold the whole encoder anyway."""
    step: Step = None

    def run(self) -> None:
        from bert_jax.exchange.export import export_run

        done = export_run(
            *(self.run_dir, self.output, self.to),
            step=self.step,
            mlm_only=self.mlm_only,
            hidden_states=self.hidden_states,
            quantize=self.quantize,
        )
        print(done)
