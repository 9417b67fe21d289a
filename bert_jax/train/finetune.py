"""Fine-tuning: trains a pretrained encoder with a new head on a labelled task."""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.batch import ClassifyBatch
from bert_jax.config import FinetuneConfig
from bert_jax.data.batches.loader import prefetched
from bert_jax.data.labelled.examples import EncodedExamples
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.limits import check_ids
from bert_jax.model.isolation import prove_for_lengths
from bert_jax.runtime.jax_settings import our_settings
from bert_jax.train import sharding
from bert_jax.train.flops import counted_flops
from bert_jax.train.freezing import stop_frozen
from bert_jax.train.held_out_logits import save_logits
from bert_jax.train.initial import start_encoder
from bert_jax.train.logits import BatchedLogits
from bert_jax.train.loop import Stage, run_loop
from bert_jax.train.mesh import device_name, make_mesh
from bert_jax.train.objectives import task_objective
from bert_jax.train.optimizer import make_optimizer
from bert_jax.train.placement import row_parts
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
from bert_jax.train.task_data import TaskData, load_task_data
from bert_jax.train.tasks import Task


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
def finetune(
    cfg: FinetuneConfig, run: pathlib.Path, data: TaskData | None = None
) -> dict[str, Any]:
    """Starts or continues one fine-tuning run and returns its results.

    Args:
        cfg: settings of the run.
        run: run directory.
        data: the examples, where they are not those of the files of `cfg`, such as a fold
            of them. Default: those of the files.

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
    tokenizer = load_run_tokenizer(cfg.checkpoint)
    mesh = make_mesh(cfg.mesh)
    sharding.check_batch_size(mesh, cfg.batch_size)
    data = data or load_task_data(cfg, tokenizer)
    cfg = dataclasses.replace(cfg, task=data.as_read)
    task, outputs = data.task, data.outputs
    info = begin_run(cfg, run, data, tokenizer, mesh)
    model = info.model
    finished = load_results(run)
    if finished is not None:
        print(f"{run} is finished at step {finished['step']:,}; nothing to do")
        return finished

    prove_for_lengths(model, cfg.compute, cfg.dropout, data.lengths)
    schedule = make_schedule(cfg.optimizer, data.num_steps)
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
        data.held_out_rows,
        data.held_out,
        outputs,
    )
    stage = Stage(
        num_steps=data.num_steps,
        step=compile_step(
            objective, optimizer, mesh, abstract, shard_update=shard_update
        ),
        batches=lambda step: _train_batches(cfg, mesh, data, step),
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
    return finish_run(
        cfg,
        run,
        data,
        judge.logits,
        step=int(trained.state.step),
        evaluation=trained.evaluation,
        elapsed_secs=trained.elapsed_secs,
        goodput=trained.goodput,
    )


def begin_run(
    cfg: FinetuneConfig,
    run: pathlib.Path,
    data: TaskData,
    tokenizer: Tokenizer,
    mesh: Mesh,
) -> RunInfo:
    """Begins a run directory, or finds the run that continues there.

    Raises:
        ValueError: the rows are longer than the model allows, hosts differ, or `run`
            holds another run.
    """
    assert cfg.checkpoint is not None
    model = load_run(cfg.checkpoint, for_weights=True).model
    if cfg.sequence_length > model.max_positions:
        raise ValueError(
            f"FinetuneConfig.sequence_length={cfg.sequence_length} exceeds the "
            f"{model.max_positions} positions of {cfg.checkpoint}; pass "
            f"--sequence-length {model.max_positions} or less."
        )
    hashes = {"train": data.train.sha256(), "validation": data.held_out.sha256()}
    agree_on_run(
        run,
        cfg,
        train_sha256=hashes["train"],
        validation_sha256=hashes["validation"],
        tokenizer_sha256=tokenizer.sha256,
        task=data.task.name,
    )
    info = RunInfo(
        kind="finetune",
        model=model,
        tokenizer_sha256=tokenizer.sha256,
        data=hashes,
        task=data.task.name,
        labels=data.outputs,
        devices=device_name(mesh),
        sequence_length=cfg.sequence_length,
    )
    start_run(run, cfg, info, tokenizer)
    return info


def finish_run(
    cfg: FinetuneConfig,
    run: pathlib.Path,
    data: TaskData,
    logits: np.ndarray,
    *,
    step: int,
    evaluation: dict[str, float],
    **more: Any,
) -> dict[str, Any]:
    """Writes the results of a run, and the logits of its held-out examples.

    Args:
        logits: of the held-out rows, from the parameters that were judged last.
        step: updates of the run.
        evaluation: scores of these logits.
        more: further entries of results.json.
    """
    task = data.task
    results = {
        "kind": "finetune",
        "task": task.name,
        "step": step,
        "eval": evaluation,
        "constant": task.constant_scores(data.held_out),
        "initial": "random" if cfg.from_scratch else "pretrained",
        "encoder": load_run(run).encoder,
        "labels": list(data.outputs),
        **task.details(logits, data.held_out_rows, data.outputs),
        "num_train": len(data.train),
        "num_validation": len(data.held_out),
        **more,
    }
    save_logits(run, logits)
    save_results(run, results)
    return results


def _train_batches(
    cfg: FinetuneConfig,
    mesh: Mesh,
    data: TaskData,
    first_step: int,
) -> Iterator[ClassifyBatch]:
    """This host's rows of all steps from `first_step` on.

    A batch depends on the seed and the step only.
    """
    parts, num_parts = row_parts(mesh)

    def of_step(step: int) -> ClassifyBatch:
        batch = data.batch(step, cfg.batch_size)
        return ClassifyBatch(
            *(np.concatenate([np.split(x, num_parts)[n] for n in parts]) for x in batch)
        )

    return prefetched(of_step, first_step, data.num_steps, num_threads=1)
