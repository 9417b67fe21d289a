"""Commands that pretrain, fine-tune and evaluate."""

import dataclasses
import os
import pathlib
from typing import Annotated

import tyro

from bert_jax.commands.addresses import on_this_machine
from bert_jax.commands.config_files import config_path
from bert_jax.commands.shared import Bar, RunDir, Step
from bert_jax.config import (
    ClusterConfig,
    FileConfig,
    FinetuneConfig,
    PretrainConfig,
    TaskConfig,
)
from bert_jax.config.flags import box

Inline = tyro.conf.arg(name="")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Pretrains a BERT or another encoder, or continues a run that was stopped.

    For example: `bert-jax pretrain bert_mini --data.dataset dataset --output encoder --minutes 60`.
    """

    output: pathlib.Path
    """Run directory to write, or its address in a bucket (gs://..., s3://...). The same
    command continues a run that was stopped."""
    config_file: Annotated[str, tyro.conf.arg(name="config")] = "bert_base"
    """Path of a Python file with get_config() (./my.py), or the bare name of a shipped config."""
    minutes: float | None = None
    """Length of the run in minutes: the number of steps is planned by a measurement of
    this machine's speed. Default: --num-steps. A run that continues keeps its steps."""
    first_phase_only: bool = False
    """Leave out the later phases of the config."""
    resume_with: tuple[str, ...] = ()
    """Settings of the optimizer to go on with, such as optimizer.learning-rate=5e-05, where
    the other flags stay as they were. They hold from the newest checkpoint on, and the run
    keeps them."""
    compile_cache: pathlib.Path | None = None
    """Directory that keeps compiled programs, so that the next start need not compile.
    `bert-jax compile` can fill it."""
    settings: Annotated[PretrainConfig, Inline] = PretrainConfig()
    cluster: ClusterConfig = ClusterConfig()
    args: tyro.conf.Suppress[tuple[str, ...]] = ()
    """The flags as they were given."""

    def run(self) -> None:
        import jax

        from bert_jax.commands.settled import settled
        from bert_jax.runtime.compile_cache import use_compile_cache
        from bert_jax.runtime.distributed import taking_part
        from bert_jax.train.planned_steps import with_planned_steps
        from bert_jax.train.pretrain import pretrain

        with taking_part(self.cluster), on_this_machine(self) as here:
            print(f"config: {config_path(self.config_file)}", flush=True)
            if self.compile_cache is not None:
                use_compile_cache(self.compile_cache, jax.devices())
            settings = settled(here)
            if self.minutes is not None:
                settings = with_planned_steps(settings, self.minutes, here.output)
            pretrain(settings, here.output, self.resume_with)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finetune:
    """Fine-tunes a pretrained encoder, `finetune RUN`, on labelled files.

    For example: `bert-jax finetune encoder --train texts.csv --dev 0.1 --output tuned`.
    """

    output: pathlib.Path
    """Run directory to write, or its address in a bucket (gs://..., s3://...). The same
    command continues a run that was stopped."""
    config_file: Annotated[str, tyro.conf.arg(name="config")] = "finetune_classify"
    """Path of a Python file with get_config() (./my.py), or the bare name of a shipped config."""
    resume_with: tuple[str, ...] = ()
    """Settings of the optimizer to go on with, such as optimizer.learning-rate=5e-05, where
    the other flags stay as they were. They hold from the newest checkpoint on, and the run
    keeps them."""
    compile_cache: pathlib.Path | None = None
    """Directory that keeps compiled programs, so that the next start need not compile."""
    settings: Annotated[FinetuneConfig, Inline] = FinetuneConfig()
    cluster: ClusterConfig = ClusterConfig()
    args: tyro.conf.Suppress[tuple[str, ...]] = ()
    """The flags as they were given."""

    def run(self) -> None:
        import jax

        from bert_jax.commands.settled import settled
        from bert_jax.exchange.families.registry import word_before_training
        from bert_jax.runtime.compile_cache import use_compile_cache
        from bert_jax.runtime.distributed import taking_part
        from bert_jax.train.finetune import finetune
        from bert_jax.train.runs.run import load_run
        from bert_jax.train.tasks import task_of

        with taking_part(self.cluster), on_this_machine(self) as here:
            print(f"config: {config_path(self.config_file)}", flush=True)
            if self.compile_cache is not None:
                use_compile_cache(self.compile_cache, jax.devices())
            settings = settled(here)
            if settings.checkpoint is not None:
                model = load_run(settings.checkpoint).model
                if word := word_before_training(model, task_of(settings).head):
                    print(word, flush=True)
            finetune(settings, here.output, resume_with=self.resume_with)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baselines:
    """Scores models without a neural network on a task, such as the majority class.

    For example: `bert-jax baselines --train texts.csv --dev 0.1 --output baselines`.
    """

    output: pathlib.Path
    """Directory for results.json. If it holds the scores already, nothing is done."""
    task: Annotated[TaskConfig, *box("labelled text")] = TaskConfig()

    def run(self) -> None:
        from bert_jax.train.baselines import baselines
        from bert_jax.train.tasks import task_named

        results = baselines(self.task, self.output)
        task = task_named(results["task"])
        for name, scores in results["baselines"].items():
            print(f"{name}: {task.say_line(scores)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Scores a run on held-out data: a fine-tuned one at its best state.

    For example: `bert-jax evaluate tuned test.csv`.
    """

    run_dir: RunDir
    """Run directory of `pretrain`, `finetune` or `import`, or its address in a bucket."""
    data: Annotated[pathlib.Path | None, tyro.conf.Positional] = None
    """Dataset written by `prepare` (for a run of `pretrain`), or labelled file (for a run
    of `finetune`). Default: the held-out data of the run itself."""
    batches: int | None = None
    """Most batches of held-out rows to judge a run of `pretrain` on. Default: what the
    run itself is evaluated on."""
    step: Step = None
    task: Annotated[FileConfig, *box("file")] = FileConfig()
    """How the labelled file is read. Default: as the run read its validation file."""
    cluster: ClusterConfig = ClusterConfig()

    def run(self) -> None:
        from bert_jax.runtime.distributed import taking_part
        from bert_jax.train.inference.evaluate import evaluate_run

        with taking_part(self.cluster), on_this_machine(self) as here:
            with Bar("batches", unit_scale=False) as bar:
                found = evaluate_run(
                    here.run_dir,
                    self.data,
                    self.task,
                    step=self.step,
                    batches=self.batches,
                    progress=bar.update,
                )
            for name, value in found.items():
                print(f"{name}: {value:.6g}")


def file_settings(
    run: pathlib.Path, given: FileConfig, command: str, file: str | pathlib.Path | None
) -> FileConfig:
    """How a run reads labelled files, as the default of the flags of `command`.

    Args:
        file: what is read, if it is one. Where its kind has no use for what the run says
            of delimiters, quotes and header, that is left out.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: the run reads no labelled files, but there are flags for them.
    """
    from bert_jax.data.labelled.tables import without_signs
    from bert_jax.train.inference.predict import prediction_file
    from bert_jax.train.runs.run import load_run_config
    from bert_jax.train.runs.run_in_store import fetch_run

    cfg = load_run_config(fetch_run(run, "none"))
    if isinstance(cfg, FinetuneConfig):
        own = cfg.task.file
        own = prediction_file(own) if command == "predict" else own
        if file is not None and os.path.exists(file):
            own = without_signs(own, pathlib.Path(file))
        return own
    if given != FileConfig():
        raise ValueError(
            f"{run} is a run of pretraining, which reads no labelled file, so the flags "
            "for reading one would be ignored; leave them out."
        )
    return given
