"""One dataclass a command: its flags with their help, and the function it calls.

Heavy libraries are imported by the command that needs them, so that `--help` and a
mistyped flag answer at once.
"""

import dataclasses
import pathlib
import sys
from typing import Annotated, Any, Literal

import tyro

from bert_jax.config import (
    DataConfig,
    FinetuneConfig,
    MaskingConfig,
    PretrainConfig,
    TaskConfig,
)

Inline = tyro.conf.arg(name="")
RunDir = Annotated[pathlib.Path, tyro.conf.Positional, tyro.conf.arg(name="run")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """Writes the documentation of the installed Python packages as a text corpus."""

    output: pathlib.Path
    """Folder for documents-*.jsonl and, with --task, labelled sentences."""
    packages: tuple[str, ...] = ()
    """Top-level names, "python" for the standard library; empty takes a fixed list."""
    task: bool = False
    """Also write library/{train,validation}.tsv: which library is a sentence from?"""
    validation_fraction: float = 0.08
    """Of modules, for --task; give `prepare` the same."""
    max_train: int = 12_000
    max_validation: int = 3_000
    num_workers: int = 2

    def run(self) -> None:
        from bert_jax.data import docs, library_task

        with _Bar("modules", unit_scale=False) as bar:
            made = docs.write_docs_corpus(
                self.output,
                packages=self.packages or None,
                num_workers=self.num_workers,
                progress=bar.update,
            )
        print(
            f"{made['documents']:,} documents, {made['characters'] / 1e6:.1f} M "
            f"characters from {len(made['libraries'])} libraries"
        )
        if self.task:
            task = library_task.write_library_task(
                self.output,
                self.output / "library",
                validation_fraction=self.validation_fraction,
                max_train=self.max_train,
                max_validation=self.max_validation,
                seed=0,
            )
            print(
                f"labelled sentences: {sum(task['train'].values()):,} to train on, "
                f"{sum(task['validation'].values()):,} held out, of "
                f"{len(task['labels'])} libraries"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainTokenizer:
    """Trains a SentencePiece vocabulary with BERT's special tokens."""

    source: str
    """files:GLOB (.txt, .jsonl, WikiExtractor; .gz, .xz, .tar.xz) or docs:."""
    output: pathlib.Path
    vocab_size: int = 30_522
    """Pieces, the five special ones included."""
    lowercase: bool = True
    model_type: Literal["unigram", "bpe"] = "unigram"
    max_sentences: int = 1_000_000
    """Of more, a uniform sample is used."""
    language: str = "en"
    """Rules of the sentence splitter."""

    def run(self) -> None:
        from bert_jax.data.corpus import open_source, read_unit, sentences
        from bert_jax.data.tokenizer import load_tokenizer
        from bert_jax.data.vocabulary import train_sentencepiece

        if (self.output / "bert_jax_tokenizer.json").exists():
            tokenizer = load_tokenizer(self.output)
            if tokenizer.vocab_size != self.vocab_size:
                raise ValueError(
                    f"{self.output} holds a tokenizer of {tokenizer.vocab_size} pieces, "
                    f"not {self.vocab_size}; choose another --output."
                )
            print(f"{self.output} is there already: {tokenizer.vocab_size:,} pieces")
            return
        source = open_source(self.source, num_workers=2)

        def lines():  # type: ignore[no-untyped-def]
            with _Bar("reading") as bar:
                done = 0
                for unit in source.units:
                    for document in read_unit(unit):
                        yield from sentences(document.text, self.language)
                    done += unit.size_bytes
                    bar.update(done, source.size_bytes)
            print("training the vocabulary ...", flush=True)

        tokenizer = train_sentencepiece(
            lines(),
            vocab_size=self.vocab_size,
            lowercase=self.lowercase,
            model_type=self.model_type,
            num_threads=2,
            max_sentences=self.max_sentences,
        )
        tokenizer.save(self.output)
        print(f"{tokenizer.vocab_size:,} pieces, sha256 {tokenizer.sha256[:16]}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepare:
    """Tokenises a source into a TFDS dataset with a held-out split by document."""

    source: str
    """files:GLOB (.txt, .jsonl, WikiExtractor; .gz, .xz, .tar.xz) or docs:."""
    tokenizer: pathlib.Path
    """Directory written by `bert-jax tokenizer`."""
    output: pathlib.Path
    """Started again with the same settings, unfinished work is gone on with."""
    validation_fraction: float = 0.05
    """Share of documents held out."""
    language: str = "en"
    """Rules of the sentence splitter."""
    num_shards: int = 64
    """At most; one file of the source is never divided."""
    num_workers: int | None = None
    """Processes; all cores by default."""

    def run(self) -> None:
        from bert_jax.data.prepare import prepare

        with _Bar("preparing") as bar:
            manifest = prepare(**_fields(self), progress=bar.update)
        for split, counts in manifest["splits"].items():
            print(
                f"{split}: {counts['documents']:,} documents, "
                f"{counts['sentences']:,} sentences, {counts['tokens']:,} tokens, "
                f"unigram entropy {counts['unigram_entropy']:.3f} nats"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Pretrains a BERT with MLM + NSP, or goes on with a run that was stopped."""

    config_file: Annotated[str, tyro.conf.arg(name="config")] = "bert_base"
    """Python file with get_config(), or the bare name of a shipped one."""
    workdir: pathlib.Path
    """Run directory; the same command goes on where it stopped."""
    settings: Annotated[PretrainConfig, Inline] = PretrainConfig()

    def run(self) -> None:
        from bert_jax.train.pretrain import pretrain

        pretrain(self.settings, self.workdir)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finetune:
    """Fine-tunes a classifier from a pretraining run."""

    config_file: Annotated[str, tyro.conf.arg(name="config")] = "finetune_classify"
    """Python file with get_config(), or the bare name of a shipped one."""
    workdir: pathlib.Path
    """Run directory; the same command goes on where it stopped."""
    settings: Annotated[FinetuneConfig, Inline] = FinetuneConfig()

    def run(self) -> None:
        from bert_jax.train.finetune import finetune

        finetune(self.settings, self.workdir)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baselines:
    """Scores the majority class and TF-IDF + logistic regression on a task."""

    task: TaskConfig = TaskConfig()
    output: pathlib.Path

    def run(self) -> None:
        from bert_jax.train.baselines import baselines

        results = baselines(self.task, self.output)
        for name in ("majority", "tfidf_logistic_regression"):
            scores = results[name]
            print(
                f"{name}: accuracy {scores['accuracy']:.1%}, macro-F1 "
                f"{scores['macro_f1']:.3f}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Judges a run's newest checkpoint on held-out data."""

    run_dir: RunDir
    """Run directory of `pretrain` or `finetune`."""
    data: pathlib.Path | None = None
    """Another prepared dataset, or another labelled file; by default the run's own."""

    def run(self) -> None:
        from bert_jax.train.rejudge import evaluate_run

        for name, value in evaluate_run(self.run_dir, self.data).items():
            print(f"{name}: {value:.6g}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predict:
    """Labels texts with a fine-tuned run; without texts, reads lines of stdin."""

    run_dir: RunDir
    """Run directory of `finetune`."""
    texts: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """One argument a text; a pair task takes A and B with a tab between."""
    top: int = 3
    """Labels to show, the likeliest first."""

    def run(self) -> None:
        from bert_jax.train.predict import Predictor

        texts = self.texts or tuple(line.rstrip("\n") for line in sys.stdin)
        predictor = Predictor(self.run_dir)
        probs = predictor([tuple(text.split("\t")) for text in texts])
        for text, row in zip(texts, probs, strict=True):
            best = row.argsort()[::-1][: self.top]
            shown = "  ".join(f"{predictor.labels[i]} {row[i]:.1%}" for i in best)
            print(f"{shown}  |  {text}")


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
class Import:
    """Brings a published BERT in, from Hugging Face or Google, as a run directory."""

    source: Annotated[pathlib.Path, tyro.conf.Positional]
    """Hugging Face directory, Google directory, or prefix of a TensorFlow checkpoint
    (extra tf)."""
    output: Annotated[pathlib.Path, tyro.conf.Positional]
    """Run directory to write: for --checkpoint of pretrain and finetune, for export."""
    lowercase: bool | None = None
    """Casing of the vocabulary, where the source does not say."""
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

        imported = import_run(
            self.source,
            self.output,
            lowercase=self.lowercase,
            encoder_only=self.encoder_only,
            allow_incomplete=self.allow_incomplete,
            num_texts=self.num_texts,
            seed=self.seed,
        )
        for line in describe(imported):
            print(line)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Writes one self-contained HTML page, and PNGs, about one or more runs."""

    output: pathlib.Path
    pretrain: pathlib.Path | None = None
    """Run directory of `pretrain`."""
    finetune: tuple[pathlib.Path, ...] = ()
    """Run directories of `finetune`."""
    baselines: pathlib.Path | None = None
    """Directory written by `bert-jax baselines`."""
    title: str = "A BERT of your own"

    def run(self) -> None:
        from bert_jax.report.page import write_report

        written = write_report(
            self.output,
            pretrain=self.pretrain,
            finetunes=self.finetune,
            baselines=self.baselines,
            title=self.title,
        )
        print(f"{written[0]} and {len(written) - 1} pictures")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspect:
    """Shows decoded rows as the model will see them: masks and pair labels."""

    dataset: Annotated[pathlib.Path, tyro.conf.Positional]
    """Directory written by `bert-jax prepare`."""
    split: Literal["train", "validation"] = "train"
    rows: int = 3
    first_row: int = 0
    seed: int = 0
    data: DataConfig = DataConfig()
    masking: MaskingConfig = MaskingConfig()

    def run(self) -> None:
        from bert_jax.data.dataset import open_dataset
        from bert_jax.train.inspection import describe_rows

        for line in describe_rows(
            open_dataset(self.dataset),
            self.data,
            self.masking,
            split=self.split,
            first_row=self.first_row,
            num_rows=self.rows,
            seed=self.seed,
        ):
            print(line)


def _fields(command: Any) -> dict[str, Any]:
    return {f.name: getattr(command, f.name) for f in dataclasses.fields(command)}


class _Bar:
    """A tqdm bar behind the (done, total) callback that the library takes."""

    def __init__(self, what: str, *, unit_scale: bool = True) -> None:
        import tqdm

        self._bar: Any = tqdm.tqdm(
            desc=what,
            unit="B" if unit_scale else "",
            unit_scale=unit_scale,
            mininterval=1.0,
        )

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.close()

    def update(self, done: int, total: int) -> None:
        self._bar.total = total
        self._bar.update(done - self._bar.n)
