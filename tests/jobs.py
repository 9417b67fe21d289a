"""Jobs of several processes for the tests, and the small corpus that they train on."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import prepared_corpus

from bert_jax.config import (
    ComputeConfig,
    DataConfig,
    FinetuneConfig,
    LoopConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    TaskConfig,
)
from bert_jax.train import pretrain
from launch import local

NUM_STEPS = 24
LOOP = LoopConfig(
    log_every_steps=1, checkpoint_every_steps=10, stop_check_every_steps=2
)
CONFIG_FILE = """
import sys

sys.path.insert(0, {tests!r})
from jobs import {name} as get_config
"""


def pretrain_config() -> PretrainConfig:
    """The config of all pretraining jobs here; dropout is on."""
    return PretrainConfig(
        model=ModelConfig(
            vocab_size=44,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            mlp_size=64,
            max_positions=32,
        ),
        compute=ComputeConfig(dtype="float32"),
        data=DataConfig(sequence_length=32),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=4),
        loop=LOOP,
        batch_size=16,
        num_steps=NUM_STEPS,
        eval_batches=2,
    )


def spoiled(make: Callable[..., Any]) -> Callable[..., Any]:
    """The same `pretrain_program`, whose batches 13, 14 and 15 make the loss NaN."""

    @jax.jit
    def spoil(batch: Any) -> Any:
        return batch._replace(nsp_weights=batch.nsp_weights * jnp.nan)

    def spoiling(*args: Any) -> Any:
        program = make(*args)

        def step(state: Any, batch: Any) -> Any:
            is_bad = int(state.step) in (13, 14, 15)
            return program.step(state, spoil(batch) if is_bad else batch)

        return program._replace(step=step)

    return spoiling


def spoiled_config() -> PretrainConfig:
    """`pretrain_config`, for a process of its own, in which three batches are bad."""
    pretrain.pretrain_program = spoiled(pretrain.pretrain_program)
    return pretrain_config()


def finetune_config() -> FinetuneConfig:
    return FinetuneConfig(
        task=TaskConfig(
            train=pathlib.Path("train.tsv"), dev=pathlib.Path("validation.tsv")
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=0.1),
        loop=LOOP,
        mesh=MeshConfig(fsdp=2),
        sequence_length=32,
        batch_size=8,
        num_epochs=1,
    )


def make_folder(folder: pathlib.Path) -> None:
    """The dataset, labelled text and config files of the jobs."""
    corpus = prepared_corpus.make_corpus(folder)
    prepared_corpus.prepared(corpus, folder / "dataset")
    prepared_corpus.prepared(corpus, folder / "other", validation_fraction=0.5)
    rows = [
        f"{'long' if len(record['text']) > 250 else 'short'}\t{record['text']}\n"
        for record in corpus[1]
        if record["text"].strip("\u200b")
    ]
    for name, part in (("train", rows[:44]), ("validation", rows[44:])):
        (folder / f"{name}.tsv").write_text("label\ttext\n" + "".join(part))
    tests = str(pathlib.Path(__file__).parent)
    for name in ("pretrain_config", "spoiled_config", "finetune_config"):
        text = CONFIG_FILE.format(tests=tests, name=name)
        (folder / f"{name}.py").write_text(text)


def pretrain_args(
    output: str,
    *more: object,
    dataset: str = "dataset",
    config: str = "pretrain_config",
) -> list[str]:
    args = ("pretrain", "--config", f"{config}.py", "--output", output)
    return [*args, "--data.dataset", dataset, *map(str, more)]


def finetune_args(output: str, checkpoint: str) -> list[str]:
    args = ("finetune", "--config", "finetune_config.py", "--output", output)
    return [*args, "--checkpoint", checkpoint]


def launched(
    folder: pathlib.Path, num_processes: int, devices: int, args: list[str]
) -> subprocess.CompletedProcess[str]:
    """Runs a command through the local launcher."""
    root = str(pathlib.Path(__file__).parents[1])
    return subprocess.run(
        [
            *(sys.executable, "-m", "launch.local"),
            *("--processes", str(num_processes), "--devices", str(devices), "--"),
            *args,
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=600,
    )


def hosts(
    folder: pathlib.Path, commands: list[list[str]], devices: int = 1
) -> list[subprocess.Popen[str]]:
    """Starts the processes of a job one by one, each with a command of its own."""
    port = local.free_port()
    return [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "bert_jax.cli", *command),
                *local.cluster_flags(port, len(commands), number),
            ],
            cwd=folder,
            env=local.environment(port, devices),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, command in enumerate(commands)
    ]


def losses(run: pathlib.Path) -> dict[int, float]:
    """Step -> loss, as logged."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}
