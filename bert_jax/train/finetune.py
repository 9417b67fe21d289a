"""Fine-tuning: trains a pretrained encoder with a new head on a labelled task."""

import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.batch import ClassifyBatch
from bert_jax.config import FinetuneConfig, TaskConfig
from bert_jax.data.batches.loader import prefetched
from bert_jax.data.labelled.examples import EncodedExamples, Examples
from bert_jax.data.labelled.lengths import LengthBatches, epoch_batches, row_lengths
from bert_jax.limits import check_ids
from bert_jax.model.isolation import prove_for_lengths
from bert_jax.runtime.jax_settings import our_settings
from bert_jax.train import sharding
from bert_jax.train.flops import counted_flops
from bert_jax.train.freezing import stop_frozen
from bert_jax.train.initial import start_encoder
from bert_jax.train.logits import BatchedLogits, held_out_batches
from bert_jax.train.loop import Stage, run_loop
from bert_jax.train.mesh import device_name, make_mesh
from bert_jax.train.objectives import task_objective
from bert_jax.train.optimizer import make_optimizer
from bert_jax.train.placement import row_parts
from bert_jax.train.reading import show_reading, show_rows
from bert_jax.train.run import (
    RunInfo,
    agree_on_run,
    load_results,
    load_run,
    load_run_tokenizer,
    save_origin,
    save_results,
    start_run,
)
from bert_jax.train.schedules import make_schedule
from bert_jax.train.sinks import check_sinks
from bert_jax.train.step import TrainState, abstract_state, compile_step, init_state
from bert_jax.train.tasks import Task, task_named


class Judge:
    """Scores parameters on held-out examples. It keeps the logits of the last call."""

    def __init__(
        self,
        task: Task,
        logits: BatchedLogits,
        encoded: EncodedExamples,
        examples: Any,
        outputs: Sequence[str],
    ) -> None:
        self.task, self.encoded, self.examples = task, encoded, examples
        self.outputs = outputs
        self._forward = logits
        self.logits: np.ndarray | None = None

    def __call__(self, params: Any) -> dict[str, float]:
        self.logits = self._forward(params, self.encoded)
        return self.task.scores(self.logits, self.encoded, self.examples, self.outputs)


@our_settings()
def finetune(cfg: FinetuneConfig, run: pathlib.Path) -> dict[str, Any]:
    """Starts or continues one fine-tuning run and returns its results.

    Raises:
        ValueError: checkpoint, task and settings do not fit together, or `run` holds
            another run.
        IsolationError: attention does not keep the sequences of a row apart here.
        InterruptedRunError: the process got a signal. A checkpoint was written.
    """
    began = time.time()
    check_sinks(cfg.loop)
    if cfg.checkpoint is None:
        raise ValueError(
            "No checkpoint given; pass --checkpoint RUN, a run directory of "
            "`bert-jax pretrain`."
        )
    model = load_run(cfg.checkpoint, for_weights=True).model
    if cfg.sequence_length > model.max_positions:
        raise ValueError(
            f"FinetuneConfig.sequence_length={cfg.sequence_length} exceeds the "
            f"{model.max_positions} positions of {cfg.checkpoint}; pass "
            f"--sequence-length {model.max_positions} or less."
        )
    tokenizer = load_run_tokenizer(cfg.checkpoint)
    mesh = make_mesh(cfg.mesh)
    sharding.check_batch_size(mesh, cfg.batch_size)
    task = task_named(cfg.task.kind)
    whole = task.read(cfg.task.train, cfg.task, "train")
    outputs = task.outputs(whole)
    train = task.sample(whole, cfg.task.max_train)
    show_reading(task, "train", train, outputs)
    held_out = task.read(cfg.task.dev, cfg.task, "validation")
    show_reading(task, "validation", held_out, outputs)
    cfg = dataclasses.replace(cfg, task=_as_read(cfg.task, whole, held_out))
    train_rows, held_out_rows = (
        task.encode(tokenizer, part, outputs, cfg.sequence_length)
        for part in (train, held_out)
    )
    num_steps = cfg.num_epochs * math.ceil(len(train_rows) / cfg.batch_size)
    lengths = row_lengths(train_rows.num_tokens, cfg.sequence_length, num_steps)
    epochs = [
        epoch_batches(
            train_rows.num_tokens, lengths, cfg.batch_size, seed=cfg.seed, epoch=epoch
        )
        for epoch in range(cfg.num_epochs)
    ]
    show_rows(train_rows, epochs[0])
    held_out_plan = held_out_batches(held_out_rows, cfg.batch_size)
    show_rows(held_out_rows, held_out_plan)
    data = {"train": train.sha256(), "validation": held_out.sha256()}
    agree_on_run(
        run,
        cfg,
        train_sha256=data["train"],
        validation_sha256=data["validation"],
        tokenizer_sha256=tokenizer.sha256,
        task=task.name,
    )
    info = RunInfo(
        kind="finetune",
        model=model,
        tokenizer_sha256=tokenizer.sha256,
        data=data,
        task=task.name,
        labels=outputs,
        devices=device_name(mesh),
        sequence_length=cfg.sequence_length,
    )
    start_run(run, cfg, info, tokenizer)
    finished = load_results(run)
    if finished is not None:
        print(f"{run} is finished at step {finished['step']:,}; nothing to do")
        return finished

    used = {*lengths.tolist(), *held_out_plan.lengths.tolist()}
    prove_for_lengths(model, cfg.compute, cfg.dropout, used)
    schedule = make_schedule(cfg.optimizer, num_steps)
    optimizer = make_optimizer(cfg.optimizer, schedule)
    objective = stop_frozen(
        cfg.optimizer, task_objective(task, model, cfg.compute, cfg.dropout)
    )

    def fresh_state() -> TrainState:
        init = functools.partial(task.init_params, model, len(outputs))
        return init_state(init, optimizer, cfg.seed)

    shard_update = cfg.mesh.shard_update
    abstract = abstract_state(fresh_state, mesh, shard_update=shard_update)

    def make_state() -> TrainState:
        assert cfg.checkpoint is not None
        places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        state = jax.jit(fresh_state, out_shardings=places)()
        if cfg.from_scratch:
            print("encoder: fresh random weights (--from-scratch)", flush=True)
            return state
        encoder = start_encoder(cfg.checkpoint, mesh, parts=state.params.keys())
        print(f"encoder: {encoder.describe()}", flush=True)
        save_origin(run, encoder.origin)
        return dataclasses.replace(state, params={**state.params, **encoder.params})

    judge = Judge(
        task,
        BatchedLogits(task, model, cfg.compute, mesh, cfg.batch_size),
        held_out_rows,
        held_out,
        outputs,
    )
    stage = Stage(
        num_steps=num_steps,
        step=compile_step(
            objective, optimizer, mesh, abstract, shard_update=shard_update
        ),
        batches=lambda step: _train_batches(cfg, mesh, train_rows, epochs, step),
        evaluate=judge,
        rates={"examples_per_sec": "sequences", "tokens_per_sec": "tokens"},
        flops=counted_flops(
            model, cfg.optimizer, num_classes=len(outputs), pooled=task.pooled
        ),
        check=functools.partial(check_ids, model),
    )
    trained = run_loop(
        run=run,
        identity=info.identity,
        cfg=cfg.loop,
        mesh=mesh,
        stages=[stage],
        make_state=make_state,
        abstract=abstract,
        show=task.say_line,
        learning_rate=schedule,
        began=began,
    )
    assert judge.logits is not None
    results = {
        "kind": "finetune",
        "task": task.name,
        "step": int(trained.state.step),
        "eval": trained.evaluation,
        "constant": task.constant_scores(held_out),
        "initial": "random" if cfg.from_scratch else "pretrained",
        "encoder": load_run(run).encoder,
        "labels": list(outputs),
        **task.details(judge.logits, held_out_rows, outputs),
        "num_train": len(train),
        "num_validation": len(held_out),
        "elapsed_secs": trained.elapsed_secs,
        "goodput": trained.goodput,
    }
    save_results(run, results)
    return results


def _as_read(cfg: TaskConfig, train: Examples, held_out: Examples) -> TaskConfig:
    """The task with whole paths and with the columns that were found.

    `evaluate` and `predict` read files in this way, from any working directory.
    """
    cfg = dataclasses.replace(
        cfg,
        train=pathlib.Path(train.reading.path).absolute(),
        dev=pathlib.Path(held_out.reading.path).absolute(),
    )
    if not train.reading.columns:
        return cfg
    *texts, label = train.reading.columns
    *held_out_texts, held_out_label = held_out.reading.columns
    return dataclasses.replace(
        cfg,
        text=tuple(texts),
        label=label,
        dev_text=tuple(held_out_texts),
        dev_label=held_out_label,
    )


def _train_batches(
    cfg: FinetuneConfig,
    mesh: Mesh,
    examples: EncodedExamples,
    epochs: Sequence[LengthBatches],
    first_step: int,
) -> Iterator[ClassifyBatch]:
    """This host's rows of all steps from `first_step` on.

    A batch depends on the seed and the step only.
    """
    steps_per_epoch = len(epochs[0].numbers)
    num_steps = len(epochs) * steps_per_epoch
    parts, num_parts = row_parts(mesh)

    def of_step(step: int) -> ClassifyBatch:
        epoch, place = divmod(step, steps_per_epoch)
        numbers, lengths = epochs[epoch]
        batch = examples.batch(numbers[place], cfg.batch_size, lengths[place])
        return ClassifyBatch(
            *(np.concatenate([np.split(x, num_parts)[n] for n in parts]) for x in batch)
        )

    return prefetched(of_step, first_step, num_steps, num_threads=1)
