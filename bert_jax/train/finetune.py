"""Fine-tuning: trains a pretrained encoder with a new head on a labelled task."""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.batch import ClassifyBatch
from bert_jax.config import FinetuneConfig, LoopConfig, ModelConfig
from bert_jax.data.batches.loader import prefetched
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.limits import check_ids
from bert_jax.model.isolation import prove_for_lengths
from bert_jax.runtime.jax_settings import our_settings
from bert_jax.train import sharding
from bert_jax.train.best import Best, Selection
from bert_jax.train.diagnosis import diagnose
from bert_jax.train.flops import counted_flops
from bert_jax.train.hardest import hardest
from bert_jax.train.held_out_logits import save_logits
from bert_jax.train.initial import (
    has_same_head,
    load_params,
    start_encoder,
    with_pooling,
)
from bert_jax.train.logits import BatchedLogits
from bert_jax.train.loop import Stage, Trained, run_loop
from bert_jax.train.memory import check_memory
from bert_jax.train.mesh import device_name, make_mesh
from bert_jax.train.monitoring.sinks import check_sinks
from bert_jax.train.placement import row_parts
from bert_jax.train.runs.results_file import (
    WEIGHTS_REMOVED,
    finished_results,
    save_results,
)
from bert_jax.train.runs.resumed_with import resumed_with
from bert_jax.train.runs.run import RunInfo, load_run, load_run_tokenizer
from bert_jax.train.runs.run_settings import agree_on_run
from bert_jax.train.runs.run_start import save_origin, save_session, start_run
from bert_jax.train.step import TrainState, abstract_state, compile_step
from bert_jax.train.task_data import TaskData, load_task_data
from bert_jax.train.tasks import Task
from bert_jax.train.tasks.task import Judged
from bert_jax.train.trust import WatchedStep, no_gain_over_constant
from bert_jax.train.tuning import Tuning, make_tuning


class Judge:
    """Scores parameters on held-out examples, and keeps what the last call judged."""

    def __init__(self, data: TaskData, logits: BatchedLogits) -> None:
        self._data, self._forward = data, logits
        self.judged: Judged | None = None

    def __call__(self, params: Any) -> dict[str, float]:
        self.judged = self._data.judged(self._forward(params, self._data.held_out_rows))
        return self._data.task.fitted_to(self.judged).scores(self.judged)


@our_settings()
def finetune(
    cfg: FinetuneConfig,
    run: pathlib.Path,
    data: TaskData | None = None,
    resume_with: Sequence[str] = (),
    keep_weights: bool = True,
) -> dict[str, Any]:
    """Starts or continues one fine-tuning run and returns its results.

    Args:
        cfg: settings of the run.
        run: run directory.
        data: the examples, where they are not those of the files of `cfg`, such as a fold
            of them. Default: those of the files.
        resume_with: settings to go on with, as for `resumed_with`.
        keep_weights: false: results.json says that the caller removes the weights.

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
    source = load_run(cfg.checkpoint)
    model = source.model
    if cfg.sequence_length is not None and cfg.sequence_length > model.max_positions:
        raise ValueError(
            f"FinetuneConfig.sequence_length={cfg.sequence_length} exceeds the "
            f"{model.max_positions} positions of {cfg.checkpoint}; pass "
            f"--sequence-length {model.max_positions} or less."
        )
    tokenizer = load_run_tokenizer(cfg.checkpoint)
    mesh = make_mesh(cfg.mesh)
    sharding.check_batch_size(mesh, cfg.batch_size)
    cfg = with_pooling(cfg)
    data = data or load_task_data(cfg, tokenizer, model)
    cfg = dataclasses.replace(
        cfg, task=data.as_read, sequence_length=data.sequence_length
    )
    task, outputs = data.task, data.outputs
    changed, change = resumed_with(cfg, run, resume_with)
    tuning = make_tuning(changed, model, task, len(outputs), data.num_steps)
    fresh_state = functools.partial(tuning.fresh_state, cfg.seed)
    shard_update = cfg.mesh.shard_update
    abstract = abstract_state(fresh_state, mesh, shard_update=shard_update)
    longest = max(data.lengths)
    check_memory(mesh, model, abstract, batch_size=cfg.batch_size, length=longest)
    info = begin_run(cfg, run, data, model, tokenizer, mesh)
    finished = finished_results(run)
    if finished is not None:
        print(f"{run} is finished at step {finished['step']:,}; nothing to do")
        return finished
    given, cfg = cfg, changed
    is_fresh = cfg.from_scratch or not has_same_head(source, info)

    prove_for_lengths(
        model,
        cfg.compute,
        cfg.dropout,
        data.lengths,
        splits_rows=mesh.shape["sequence"] > 1,
    )
    print(tuning.describe(), flush=True)

    def make_state() -> TrainState:
        if cfg.from_scratch:
            print("encoder: fresh random weights (--from-scratch)", flush=True)
            return _fresh(tuning, cfg.seed, abstract)
        return _with_encoder(tuning, cfg, run, mesh, abstract)

    judge = Judge(
        data,
        BatchedLogits(
            *(task, model, cfg.compute, mesh, cfg.batch_size), times=cfg.num_epochs
        ),
    )
    step = compile_step(
        tuning.objective, tuning.optimizer, mesh, abstract, shard_update=shard_update
    )
    trained = run_loop(
        run=run,
        locked=functools.partial(save_session, run, given, change),
        identity=info.identity,
        cfg=_loop_config(cfg, data),
        mesh=mesh,
        stages=[
            Stage(
                num_steps=data.num_steps,
                step=WatchedStep(
                    step, mesh, task.fresh_loss(outputs) if is_fresh else None
                ),
                batches=lambda step: _train_batches(cfg, mesh, data, step),
                evaluate=lambda params: judge(tuning.merged(params)),
                rates={"examples_per_sec": "examples", "tokens_per_sec": "tokens"},
                flops=counted_flops(
                    *(model, tuning.optimizer_cfg),
                    num_classes=len(outputs),
                    pooled=task.pooled,
                ),
                check=functools.partial(check_ids, model),
                rows=data.rows_of_batch,
                diagnose=functools.partial(diagnose, tuning.in_a_row, mesh),
            )
        ],
        make_state=make_state,
        abstract=abstract,
        show=task.say_line,
        learning_rate=tuning.schedule,
        began=began,
        selection=Selection(
            deciding=task.deciding,
            patience=cfg.patience,
            weights=tuning.merged,
        ),
    )
    best = trained.best
    assert best is not None
    if best.step != int(trained.state.step):
        judge(load_params(run, mesh, step=best.step).params)
    assert judge.judged is not None
    return finish_run(
        cfg,
        run,
        data,
        judge.judged,
        step=int(trained.state.step),
        evaluation=best.evaluation,
        **_best_and_last(task, trained, best, data),
        elapsed_secs=trained.elapsed_secs,
        goodput=trained.goodput,
        **({} if keep_weights else WEIGHTS_REMOVED),
    )


def begin_run(
    cfg: FinetuneConfig,
    run: pathlib.Path,
    data: TaskData,
    model: ModelConfig,
    tokenizer: Tokenizer,
    mesh: Mesh,
) -> RunInfo:
    """Begins a run directory, or finds the run that continues there.

    Raises:
        ValueError: hosts differ, or `run` holds another run.
    """
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
        sequence_length=data.sequence_length,
    )
    start_run(run, cfg, info, tokenizer)
    return info


def finish_run(
    cfg: FinetuneConfig,
    run: pathlib.Path,
    data: TaskData,
    judged: Judged,
    *,
    step: int,
    evaluation: dict[str, float],
    **more: Any,
) -> dict[str, Any]:
    """Writes results and held-out logits of a run, and warns if it has learned nothing.

    Args:
        judged: the held-out examples, with the logits of the parameters that count.
        step: updates of the run.
        evaluation: scores of these logits.
        more: further entries of results.json.
    """
    task = data.task.fitted_to(judged)
    constant = task.constant_scores(data.held_out)
    if warning := no_gain_over_constant(task, evaluation, constant):
        print(warning, flush=True)
    results = {
        "kind": "finetune",
        "task": task.name,
        "step": step,
        "eval": evaluation,
        "constant": constant,
        "initial": "random" if cfg.from_scratch else "pretrained",
        "encoder": load_run(run).encoder,
        "labels": list(data.outputs),
        "fitted": dict(task.fitted),
        **task.details(judged),
        "hardest": hardest(task, judged),
        "num_train": len(data.train),
        "num_validation": len(data.held_out),
        **more,
    }
    save_logits(run, judged.logits)
    save_results(run, results)
    return results


def _fresh(
    tuning: Tuning, seed: int, abstract: TrainState, without: Collection[str] = ()
) -> TrainState:
    """The state of step 0 in the places of `abstract`, without these parameters."""
    left = {name: x for name, x in abstract.params.items() if name not in without}
    places = jax.tree.map(
        lambda leaf: leaf.sharding, dataclasses.replace(abstract, params=left)
    )
    fresh_state = functools.partial(tuning.fresh_state, seed, without)
    return jax.jit(fresh_state, out_shardings=places)()


def _with_encoder(
    tuning: Tuning,
    cfg: FinetuneConfig,
    run: pathlib.Path,
    mesh: Mesh,
    abstract: TrainState,
) -> TrainState:
    """The state of step 0 with the encoder of the checkpoint, and its head where that has
    the same outputs. It is said and noted."""
    assert cfg.checkpoint is not None
    parts = abstract.params.keys()
    encoder = start_encoder(
        *(cfg.checkpoint, mesh, parts, cfg.checkpoint_step), load_run(run)
    )
    state = _fresh(tuning, cfg.seed, abstract, encoder.params.keys())
    state = dataclasses.replace(state, params={**state.params, **encoder.params})
    print(f"encoder: {encoder.describe()}", flush=True)
    save_origin(run, encoder.origin)
    return state


def _loop_config(cfg: FinetuneConfig, data: TaskData) -> LoopConfig:
    """With the number of updates between two evaluations; by default those of an epoch."""
    if cfg.loop.eval_every_steps is not None:
        return cfg.loop
    return dataclasses.replace(cfg.loop, eval_every_steps=data.steps_per_epoch)


def _best_and_last(
    task: Task, trained: Trained, best: Best, data: TaskData
) -> dict[str, Any]:
    """Which state counts, and what came out at the end, for results.json; it is said too."""
    metric, last = task.deciding(best.evaluation), int(trained.state.step)

    def at(step: int, evaluation: dict[str, float]) -> tuple[dict[str, Any], str]:
        epoch, value = step / data.steps_per_epoch, evaluation[metric.name]
        found = {"step": step, "epoch": epoch, "metric": metric.name, "value": value}
        return found, f"{metric.say(value)} at step {step:,} (epoch {epoch:.4g})"

    (best_entry, best_said), (last_entry, last_said) = (
        at(best.step, best.evaluation),
        at(last, trained.evaluation),
    )
    beside = "the last state" if best.step == last else f"the last: {last_said}"
    print(f"best state: {best_said}; {beside}", flush=True)
    return {"best": best_entry, "last": {**last_entry, "eval": trained.evaluation}}


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
