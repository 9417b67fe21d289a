"""Commands about imports, exports and reports."""

import dataclasses
import pathlib
from typing import Annotated, Literal

import tyro

from bert_jax.commands.shared import RunDir


@dataclasses.dataclass(frozen=True, kw_only=True)
class Import:
    """Brings a published BERT in, from Hugging Face or Google, as a run directory."""

    source: Annotated[pathlib.Path, tyro.conf.Positional]
    """Hugging Face directory, Google directory, or prefix of a TensorFlow checkpoint
    (extra tf)."""
    output: Annotated[pathlib.Path, tyro.conf.Positional]
    """Run directory to write: for --checkpoint of pretrain and finetune, for export."""
    lowercase: tyro.conf.FlagCreatePairsOff[bool] = False
    """The vocabulary is uncased, where the source does not say."""
    no_lowercase: tyro.conf.FlagCreatePairsOff[bool] = False
    """The vocabulary is cased, where the source does not say."""
    encoder_only: bool = False
    """Of a classifier, make a pretraining run instead of a fine-tuned one."""
    allow_incomplete: bool = False
    """Draw missing parts of the encoder afresh instead of refusing."""
    num_texts: Literal[1, 2] = 1
    """2 for a classifier of pairs of texts."""
    seed: int = 0
    """Of what is drawn."""

    def run(self) -> None:
        from bert_jax.exchange.importing import describe, import_run

        if self.lowercase and self.no_lowercase:
            raise ValueError("--lowercase and --no-lowercase are both given; pass one.")
        said = self.lowercase or self.no_lowercase
        imported = import_run(
            self.source,
            self.output,
            lowercase=self.lowercase if said else None,
            encoder_only=self.encoder_only,
            allow_incomplete=self.allow_incomplete,
            num_texts=self.num_texts,
            seed=self.seed,
        )
        for line in describe(imported):
            print(line)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export:
    """Writes a run's newest checkpoint in the form of another library."""

    run_dir: RunDir
    """Run directory of `pretrain`, `finetune` or `import`."""
    to: Literal["huggingface", "tensorflow", "onnx", "stablehlo"] = "huggingface"
    """tensorflow: a TF1 checkpoint with Google's names (extra tf); onnx: a graph with
    free batch and length (extra onnx); stablehlo: for CPU, CUDA and TPU."""
    output: pathlib.Path
    """Directory to write; loaded back and compared where the library is installed."""
    mlm_only: bool = False
    """Of a pretraining run, a BertForMaskedLM without pooler and next-sentence head,
    which transformers' fill-mask pipeline loads without a remark."""

    def run(self) -> None:
        from bert_jax.exchange.export import export_run

        print(export_run(self.run_dir, self.output, self.to, mlm_only=self.mlm_only))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Writes one self-contained HTML page, and PNGs, about runs of any task or a dataset."""

    output: pathlib.Path
    """Directory to write: report.html, and a PNG of each chart."""
    pretrain: pathlib.Path | None = None
    """Run directory of `pretrain`. A run that is still going is shown as far as it is."""
    finetune: tuple[pathlib.Path, ...] = ()
    """Run directories of `finetune`. Those of one task and one held-out file are compared."""
    baselines: pathlib.Path | None = None
    """Directory that `bert-jax baselines` has written, to compare with."""
    dataset: pathlib.Path | None = None
    """Directory that `bert-jax prepare` has written. A finished run of --pretrain shows its
    own dataset without it."""
    title: str | None = None
    """Heading of the page. By default it speaks of a BERT, or of the text where only a
    dataset is given."""

    def run(self) -> None:
        from bert_jax.report.page import write_report

        about_runs = self.pretrain or self.finetune or self.baselines
        default = "A BERT of your own" if about_runs else "Text for a BERT of your own"
        written = write_report(
            self.output,
            pretrain=self.pretrain,
            finetunes=self.finetune,
            baselines=self.baselines,
            dataset=self.dataset,
            title=default if self.title is None else self.title,
        )
        print(f"{written[0]} and {len(written) - 1} pictures")
