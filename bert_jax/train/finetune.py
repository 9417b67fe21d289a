"""Fine-tuning for classification or regression: a loop of its own, from a pretraining checkpoint."""

import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.batch import ClassifyBatch
from bert_jax.config import ComputeConfig, FinetuneConfig, ModelConfig
from bert_jax.data.batches.loader import prefetched
from bert_jax.data.tasks import (
    EncodedExamples,
    encode_examples,
    epoch_order,
    label_values,
    load_examples,
    output_names,
)
from bert_jax.limits import check_ids
from bert_jax.model import classification
from bert_jax.model.isolation import prove_isolation
from bert_jax.train import sharding
from bert_jax.train.flops import counted_flops
from bert_jax.train.freezing import stop_frozen
from bert_jax.train.initial import start_encoder
from bert_jax.train.loop import Stage, run_loop
from bert_jax.train.mesh import make_mesh
from bert_jax.train.objectives import classify_objective, regress_objective
from bert_jax.train.optimizer import make_optimizer
from bert_jax.train.placement import global_batch, row_parts
from bert_jax.train.run import (
    RunInfo,
    agree_on_run,
    load_results,
    load_run,
    load_run_tokenizer,
    save_results,
    start_run,
)
from bert_jax.train.schedules import make_schedule
from bert_jax.train.scores import confusion, constant_scores, scores, show
from bert_jax.train.sinks import check_sinks
from bert_jax.train.step import TrainState, abstract_state, compile_step, init_state


class Classifier:
    """Logits of encoded examples, batch after batch."""

    def __init__(
        self,
        model: ModelConfig,
        compute: ComputeConfig,
        num_labels: int,
        mesh: Mesh,
        batch_size: int,
    ) -> None:
        self.model, self.num_labels = model, num_labels
        self.mesh, self.batch_size = mesh, batch_size

        def logits(params: Any, batch: ClassifyBatch) -> jax.Array:
            with sharding.on_mesh(mesh):
                return classification.apply(
                    model, params, batch, compute=compute.inference
                )

        self._logits = jax.jit(logits, out_shardings=sharding.replicated(mesh))

    def __call__(self, params: Any, examples: EncodedExamples) -> np.ndarray:
        """Float32 logits [examples, C]; C = 1 of a regression.

        Raises:
            ValueError: an id or a label is outside its range.
        """
        found = []
        for start in range(0, len(examples), self.batch_size):
            numbers = np.arange(start, min(start + self.batch_size, len(examples)))
            batch = examples.batch(numbers, self.batch_size)
            check_ids(self.model, batch, num_labels=self.num_labels)
            out = self._logits(params, global_batch(self.mesh, batch))
            found.append(np.asarray(out)[: numbers.size])
        return np.concatenate(found)


def finetune(cfg: FinetuneConfig, run: pathlib.Path) -> dict[str, Any]:
    """Runs, or goes on with, one fine-tuning run and returns its results.

    Raises:
        ValueError: checkpoint, task and settings do not fit, or `run` holds another
            run.
        IsolationError: attention does not keep the sequences of a row apart here.
        InterruptedRunError: a signal came; a checkpoint was written.
    """
    began = time.time()
    check_sinks(cfg.loop)
    if cfg.checkpoint is None:
        raise ValueError(
            "No checkpoint given; pass --checkpoint RUN, a run directory of "
            "`bert-jax pretrain`."
        )
    pretrained = load_run(cfg.checkpoint)
    if cfg.sequence_length > pretrained.model.max_positions:
        raise ValueError(
            f"FinetuneConfig.sequence_length={cfg.sequence_length} exceeds the "
            f"{pretrained.model.max_positions} positions of {cfg.checkpoint}; pass "
            f"--sequence-length {pretrained.model.max_positions} or less."
        )
    tokenizer = load_run_tokenizer(cfg.checkpoint)
    mesh = make_mesh(cfg.mesh)
    sharding.check_batch_size(mesh, cfg.batch_size)
    task = cfg.task
    train = load_examples(task.train, task)
    held_out = load_examples(task.validation, task, "validation")
    names = output_names(train, task)
    train_set, held_out_set = (
        encode_examples(
            tokenizer, part.texts, label_values(part, names, task), cfg.sequence_length
        )
        for part in (train, held_out)
    )
    agree_on_run(
        run,
        cfg,
        train_sha256=train.sha256(),
        validation_sha256=held_out.sha256(),
        tokenizer_sha256=tokenizer.sha256,
        task_kind=task.kind,
    )
    encoder = None if cfg.from_scratch else start_encoder(cfg.checkpoint, mesh)
    origin = "fresh random weights (--from-scratch)"
    print(f"encoder: {encoder.describe() if encoder else origin}", flush=True)
    model = pretrained.model
    info = RunInfo(
        kind="finetune",
        model=model,
        tokenizer_sha256=tokenizer.sha256,
        data={"train": train.sha256(), "validation": held_out.sha256()},
        labels=names,
        sequence_length=cfg.sequence_length,
        encoder=None if encoder is None else encoder.origin,
    )
    start_run(run, cfg, info, tokenizer)
    finished = load_results(run)
    if finished is not None:
        print(f"{run} is finished at step {finished['step']:,}; nothing to do")
        return finished

    prove_isolation(model, cfg.compute, cfg.dropout, num_tokens=cfg.sequence_length)
    steps_per_epoch = math.ceil(len(train) / cfg.batch_size)
    num_steps = cfg.num_epochs * steps_per_epoch
    rates = dataclasses.replace(
        cfg.optimizer, warmup_steps=int(cfg.warmup_share * num_steps)
    )
    schedule = make_schedule(rates, num_steps)
    optimizer = make_optimizer(rates, schedule)

    make_objective = (
        regress_objective if task.kind == "regression" else classify_objective
    )
    objective = stop_frozen(
        cfg.optimizer, make_objective(model, cfg.compute, cfg.dropout)
    )

    def make_state() -> TrainState:
        init = functools.partial(classification.init_params, model, len(names))
        return init_state(init, optimizer, cfg.seed)

    shard_update = cfg.mesh.shard_update
    abstract = abstract_state(make_state, mesh, shard_update=shard_update)
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract)

    def placed_state() -> TrainState:
        state = jax.jit(make_state, out_shardings=places)()
        if encoder is None:
            return state
        return dataclasses.replace(state, params={**state.params, **encoder.params})

    classify = Classifier(model, cfg.compute, len(names), mesh, cfg.batch_size)
    stage = Stage(
        num_steps=num_steps,
        step=compile_step(
            objective, optimizer, mesh, abstract, shard_update=shard_update
        ),
        batches=lambda step: _train_batches(cfg, mesh, train_set, step, num_steps),
        evaluate=lambda params: scores(
            task, classify(params, held_out_set), held_out_set.labels
        ),
        rates={"examples_per_sec": "sequences", "tokens_per_sec": "tokens"},
        flops=counted_flops(model, cfg.optimizer, num_classes=len(names)),
    )
    trained = run_loop(
        run=run,
        cfg=cfg.loop,
        mesh=mesh,
        stages=[stage],
        make_state=placed_state,
        abstract=abstract,
        show=show,
        learning_rate=schedule,
        began=began,
    )
    logits = classify(trained.state.params, held_out_set)
    results = {
        "kind": "finetune",
        "step": int(trained.state.step),
        "eval": trained.evaluation,
        **constant_scores(task, held_out_set.labels),
        "initial": "random" if encoder is None else "pretrained",
        "encoder": info.encoder,
        "labels": list(names),
        **confusion(task, logits, held_out_set.labels),
        "num_train": len(train),
        "num_validation": len(held_out),
        "elapsed_secs": trained.elapsed_secs,
        "goodput": trained.goodput,
    }
    save_results(run, results)
    return results


def _train_batches(
    cfg: FinetuneConfig,
    mesh: Mesh,
    examples: EncodedExamples,
    first_step: int,
    num_steps: int,
) -> Iterator[ClassifyBatch]:
    """This host's rows of steps [first_step, num_steps): pure in (seed, step)."""
    steps_per_epoch = num_steps // cfg.num_epochs
    orders = [epoch_order(len(examples), cfg.seed, n) for n in range(cfg.num_epochs)]
    parts, num_parts = row_parts(mesh)

    def of_step(step: int) -> ClassifyBatch:
        epoch, place = divmod(step, steps_per_epoch)
        chosen = orders[epoch][place * cfg.batch_size : (place + 1) * cfg.batch_size]
        batch = examples.batch(chosen, cfg.batch_size)
        return ClassifyBatch(
            *(np.concatenate([np.split(x, num_parts)[n] for n in parts]) for x in batch)
        )

    return prefetched(of_step, first_step, num_steps, num_threads=1)
