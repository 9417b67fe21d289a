"""Commands that pretrain, fine-tune, evaluate and predict."""

import dataclasses
import pathlib
from typing import Annotated

import tyro

from bert_jax.commands.config_files import config_path
from bert_jax.commands.shared import Bar, RunDir
from bert_jax.config import (
    ClusterConfig,
    FileConfig,
    FinetuneConfig,
    PretrainConfig,
    TaskConfig,
)

Inline = tyro.conf.arg(name="")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Pretrains a BERT with MLM + NSP, or continues a run that was stopped."""

    config_file: Annotated[str, tyro.conf.arg(name="config")] = "bert_base"
    """Path of a Python file with get_config() (./my.py), or the bare name of a shipped config."""
    output: pathlib.Path
    """Run directory to write. The same command continues a run that was stopped."""
    first_phase_only: bool = False
    """Leave out the later phases of the config."""
    minutes: float | None = None
    """Length of the run in minutes: the number of steps is planned by a measurement of
    this machine's speed. Default: --num-steps. A run that continues keeps its steps."""
    cluster: ClusterConfig = ClusterConfig()
    compile_cache: pathlib.Path | None = None
    """Directory that keeps compiled programs, so that the next start need not compile.
    `bert-jax compile` can fill it."""
    settings: Annotated[PretrainConfig, Inline] = PretrainConfig()
    args: tyro.conf.Suppress[tuple[str, ...]] = ()
    """The flags as they were given."""

    def run(self) -> None:
        import jax

        from bert_jax.commands.settled import settled
        from bert_jax.runtime.compile_cache import use_compile_cache
        from bert_jax.runtime.distributed import taking_part
        from bert_jax.train.planned_steps import with_planned_steps
        from bert_jax.train.pretrain import pretrain

        with taking_part(self.cluster):
            print(f"config: {config_path(self.config_file)}", flush=True)
            if self.compile_cache is not None:
                use_compile_cache(self.compile_cache, jax.devices())
            settings = settled(self)
            if self.minutes is not None:
                settings = with_planned_steps(settings, self.minutes, self.output)
            pretrain(settings, self.output)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finetune:
    """Fine-tunes a pretrained encoder, `finetune RUN`, on labelled files."""

    config_file: Annotated[str, tyro.conf.arg(name="config")] = "finetune_classify"
    """Path of a Python file with get_config() (./my.py), or the bare name of a shipped config."""
    output: pathlib.Path
    """Run directory to write. The same command continues a run that was stopped."""
    cluster: ClusterConfig = ClusterConfig()
    compile_cache: pathlib.Path | None = None
    """Directory that keeps compiled programs, so that the next start need not compile."""
    settings: Annotated[FinetuneConfig, Inline] = FinetuneConfig()
    args: tyro.conf.Suppress[tuple[str, ...]] = ()
    """The flags as they were given."""

    def run(self) -> None:
        import jax

        from bert_jax.commands.settled import settled
        from bert_jax.runtime.compile_cache import use_compile_cache
        from bert_jax.runtime.distributed import taking_part
        from bert_jax.train.finetune import finetune

        with taking_part(self.cluster):
            print(f"config: {config_path(self.config_file)}", flush=True)
            if self.compile_cache is not None:
                use_compile_cache(self.compile_cache, jax.devices())
            finetune(settled(self), self.output)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baselines:
    """Scores models without a neural network on a task, such as the majority class."""

    task: Annotated[TaskConfig, Inline] = TaskConfig()
    output: pathlib.Path
    """Directory for results.json. If it holds the scores already, nothing is done."""

    def run(self) -> None:
        from bert_jax.train.baselines import baselines
        from bert_jax.train.tasks import task_named

        results = baselines(self.task, self.output)
        task = task_named(results["task"])
        for name, scores in results["baselines"].items():
            print(f"{name}: {task.say_line(scores)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Scores a run on held-out data: a fine-tuned one at its best state."""

    run_dir: RunDir
    """Run directory of `pretrain`, `finetune` or `import`."""
    data: Annotated[pathlib.Path | None, tyro.conf.Positional] = None
    """Dataset written by `prepare` (for a run of `pretrain`), or labelled file (for a run
    of `finetune`). Default: the held-out data of the run itself."""
    task: Annotated[FileConfig, Inline] = FileConfig()
    """How the labelled file is read. Default: as the run read its validation file."""
    batches: int | None = None
    """Most batches of held-out rows to judge a run of `pretrain` on. Default: what the
    run itself is evaluated on."""
    cluster: ClusterConfig = ClusterConfig()

    def run(self) -> None:
        from bert_jax.runtime.distributed import taking_part
        from bert_jax.train.evaluate import evaluate_run

        with taking_part(self.cluster):
            with Bar("batches", unit_scale=False) as bar:
                found = evaluate_run(
                    self.run_dir,
                    self.data,
                    self.task,
                    batches=self.batches,
                    progress=bar.update,
                )
            for name, value in found.items():
                print(f"{name}: {value:.6g}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predict:
    """Predicts with a fine-tuned run, on texts, on a file or on lines of standard input."""

    run_dir: RunDir
    """Run directory of `finetune`."""
    texts: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """The texts, one argument each; a pair is two arguments, or one with a tab between A
    and B; a question with its choices is one argument with tabs. Or one file (.tsv, .csv,
    .txt, .jsonl, .parquet; .conll for tags, .json for spans)."""
    output: pathlib.Path | None = None
    """File that gets one JSON object per text (.jsonl), with the text, its id if the file
    has one, and all numbers in full precision. Default: short lines on the screen."""
    top: int | None = None
    """Number of labels to show on the screen for each text, the most probable first.
    Default: 3."""
    task: Annotated[FileConfig, Inline] = FileConfig()
    """How the file is read. Default: as the run read its validation file. With
    --label, the output holds the label of the file as given_label."""

    def run(self) -> None:
        from bert_jax.commands.prediction import predict

        predict(self.run_dir, self.texts, self.output, self.top, self.task)


def file_settings(run: pathlib.Path, given: FileConfig, command: str) -> FileConfig:
    """How a run reads labelled files, as the default of the flags of `command`.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: the run reads no labelled files, but there are flags for them.
    """
    from bert_jax.train.predict import prediction_file
    from bert_jax.train.run import load_run_config

    cfg = load_run_config(run)
    if isinstance(cfg, FinetuneConfig):
        return prediction_file(cfg.task.file) if command == "predict" else cfg.task.file
    if given != FileConfig():
        raise ValueError(
            f"{run} is a run of pretraining, which reads no labelled file, so the flags "
            "for reading one would be ignored; leave them out."
        )
    return given
