"""Pretraining: MLM and a sentence-pair task, from a prepared dataset to a run directory."""

import dataclasses
import functools
import importlib.metadata
import pathlib
import platform
import time
from typing import Any

import jax
from jax.sharding import Mesh

import bert_jax
from bert_jax.config import PretrainConfig
from bert_jax.data.batches.loader import train_batches
from bert_jax.data.batches.rows import open_rows
from bert_jax.data.prepared.dataset import PreparedDataset, open_dataset
from bert_jax.data.prepared.summary import summarize
from bert_jax.limits import check_ids
from bert_jax.model.isolation import prove_for_lengths
from bert_jax.model.products_fp8 import multiplies_fp8
from bert_jax.runtime.jax_settings import our_settings
from bert_jax.train.averaging import averaged
from bert_jax.train.flops import counted_flops
from bert_jax.train.held_out import (
    PretrainEvaluator,
    check_held_out,
    check_vocabulary,
    held_out_rows,
    mask_examples,
)
from bert_jax.train.initial import check_start, start_pretraining
from bert_jax.train.loop import Stage, run_loop
from bert_jax.train.mesh import device_name, make_mesh
from bert_jax.train.moments import with_moments
from bert_jax.train.placement import row_parts
from bert_jax.train.program import Program, phases_schedule, pretrain_program
from bert_jax.train.run import (
    RunInfo,
    agree_on_run,
    is_new_run,
    load_results,
    load_run,
    save_origin,
    save_results,
    start_run,
)
from bert_jax.train.sinks import check_sinks
from bert_jax.train.step import TrainState

# The papers' abbreviations of the tasks of `DataConfig.pairs`; "none" has no task.
_SENTENCE_TASKS = {"next_sentence": "NSP", "sentence_order": "SOP"}
_VERSIONS = ("jax", "flax", "optax", "orbax-checkpoint")


@our_settings()
def pretrain(cfg: PretrainConfig, run: pathlib.Path) -> dict[str, Any]:
    """Starts or continues one pretraining run and returns its results.

    Raises:
        ValueError: dataset, model and mesh do not fit together, or `run` holds another
            run.
        IsolationError: attention does not keep the sequences of a row apart here.
        InterruptedRunError: the process got a signal. A checkpoint was written.
    """
    began = time.time()
    cfg.check()
    check_sinks(cfg.loop)
    dataset = open_dataset(cfg.data.dataset)
    tokenizer = dataset.tokenizer
    check_vocabulary(cfg.model, tokenizer, dataset.directory)
    agree_on_run(
        run,
        cfg,
        dataset_sha256=dataset.manifest["sha256"],
        tokenizer_sha256=tokenizer.sha256,
    )
    mesh = make_mesh(cfg.mesh)
    programs = [
        pretrain_program(phase, mesh, tokenizer.mask_vocabulary, cfg)
        for phase in cfg.phases
    ]
    abstract = programs[0].state

    def make_state() -> TrainState:
        state = programs[0].make_state()
        if cfg.checkpoint is None:
            return state
        start = start_pretraining(cfg, tokenizer, mesh)
        print(f"weights: {start.describe()}", flush=True)
        save_origin(run, start.origin)
        opt_state = state.opt_state
        if start.moments is not None:
            opt_state = with_moments(opt_state, start.moments)
        return dataclasses.replace(state, params=start.params, opt_state=opt_state)

    info = RunInfo(
        kind="pretrain",
        model=cfg.model,
        tokenizer_sha256=tokenizer.sha256,
        data={"sha256": dataset.manifest["sha256"]},
        devices=device_name(mesh),
        sequence_length=max(phase.data.sequence_length for phase in cfg.phases),
    )
    for phase in cfg.phases:
        check_held_out(dataset, phase.data)
    if is_new_run(run) and cfg.checkpoint is not None:
        check_start(cfg, tokenizer, mesh)  # an error must leave no run directory behind
    start_run(run, cfg, info, tokenizer)
    finished = load_results(run)
    if finished is not None and finished["step"] >= cfg.all_steps:
        print(f"{run} is finished at step {finished['step']:,}; nothing to do")
        return finished

    prove_for_lengths(cfg.model, cfg.compute, cfg.dropout, _row_lengths(cfg))
    device = mesh.devices.flat[0]
    if cfg.compute.fp8 and not multiplies_fp8(device):
        print(
            f"note: {device.device_kind} does not multiply 8-bit floats; --compute.fp8 "
            "gives the same numbers as on a device that does, and makes steps slower",
            flush=True,
        )
    num_parameters = sum(x.size for x in jax.tree.leaves(abstract.params))
    splits = dataset.manifest["splits"]
    print(
        f"{num_parameters:,} parameters on {device_name(mesh)}; "
        f"{splits['train']['documents']:,} documents, "
        f"{splits['train']['tokens']:,} tokens",
        flush=True,
    )
    trained = run_loop(
        run=run,
        identity=info.identity,
        cfg=cfg.loop,
        mesh=mesh,
        stages=[
            _stage(cfg, number, program, dataset, mesh)
            for number, program in enumerate(programs)
        ],
        make_state=make_state,
        abstract=abstract,
        show=functools.partial(show_pretraining, cfg.data.pairs),
        learning_rate=phases_schedule(cfg),
        began=began,
        judge_first=True,
    )
    state, evaluation = trained.state, trained.evaluation
    last = cfg.phases[-1]
    held_out = held_out_rows(dataset, last.data)
    results = {
        "kind": "pretrain",
        "step": int(state.step),
        "eval": evaluation,
        "unigram_entropy": splits["train"]["unigram_entropy"],
        "num_parameters": num_parameters,
        "num_documents": splits["train"]["documents"],
        "num_tokens": splits["train"]["tokens"],
        "corpus": summarize(dataset.manifest),
        "vocab_size": cfg.model.vocab_size,
        "device": device_name(mesh),
        "versions": {
            "python": platform.python_version(),
            "bert_jax": bert_jax.__version__,
            **{name: importlib.metadata.version(name) for name in _VERSIONS},
        },
        "elapsed_secs": trained.elapsed_secs,
        "goodput": trained.goodput,
        "encoder": load_run(run).encoder,
        "sequences_per_sec": trained.last_line.get("sequences_per_sec"),
        "mask_examples": mask_examples(
            last, averaged(state).params, held_out, tokenizer
        ),
    }
    save_results(run, results)
    text = (
        f"held-out MLM loss {evaluation['mlm_loss']:.3f} nats{_masked(evaluation)}, "
        f"unigram entropy of the corpus {results['unigram_entropy']:.3f}"
    )
    task = _SENTENCE_TASKS.get(cfg.data.pairs)
    if task:
        text += (
            f"; {task} accuracy {evaluation['nsp_accuracy']:.1%}, majority "
            f"{evaluation['nsp_majority']:.1%}"
        )
    print(text, flush=True)
    return results


def _row_lengths(cfg: PretrainConfig) -> set[int]:
    """The lengths of all rows in all phases."""
    lengths: set[int] = set()
    for data in (phase.data for phase in cfg.phases):
        buckets = data.buckets if data.layout == "buckets" else ()
        lengths.update(buckets or (data.sequence_length,))
    return lengths


def _stage(
    whole: PretrainConfig,
    number: int,
    program: Program,
    dataset: PreparedDataset,
    mesh: Mesh,
) -> Stage:
    """Makes one phase a stage of the loop, and prints its length in steps and epochs.

    A phase whose rows are those of earlier phases begins behind the rows that they took.
    """
    cfg = whole.phases[number]
    taken = sum(
        phase.batch_size * phase.num_steps
        for phase in whole.phases[:number]
        if phase.data == cfg.data
    )
    rows = open_rows(
        dataset, "train", cfg.data, seed=cfg.seed, batch_size=cfg.batch_size
    )
    epoch = rows.size(0)
    steps_per_epoch = rows.steps_per_epoch(cfg.batch_size)
    print(
        f"{cfg.num_steps:,} steps: {epoch.num_pairs:,} "
        f"{'pairs' if cfg.data.has_labels else 'segments'} in {epoch.num_rows:,} rows of "
        f"{cfg.data.sequence_length} an epoch ({cfg.data.layout}, "
        f"{epoch.num_tokens / epoch.num_places:.1%} full); "
        f"{cfg.num_steps / steps_per_epoch:.2f} epochs",
        flush=True,
    )
    return Stage(
        num_steps=cfg.num_steps,
        step=program.step,
        batches=lambda step: train_batches(
            rows,
            batch_size=cfg.batch_size,
            first_step=step,
            num_steps=cfg.num_steps,
            first_row=taken,
            **row_parts(mesh)._asdict(),
        ),
        evaluate=PretrainEvaluator(
            cfg,
            held_out_rows(dataset, cfg.data),
            dataset.tokenizer.mask_vocabulary,
            mesh,
        ),
        rates={"sequences_per_sec": "sequences", "tokens_per_sec": "tokens"},
        flops=counted_flops(cfg.model, cfg.optimizer),
        check=functools.partial(check_ids, cfg.model),
    )


def show_pretraining(pairs: str, line: dict[str, float]) -> str:
    """One line of metrics as text.

    Args:
        pairs: `DataConfig.pairs`, which decides the name of the sentence-pair task.
        line: metrics of training or evaluation.
    """
    text = (
        f"MLM loss {line['mlm_loss']:.3f} accuracy {line['mlm_accuracy']:.1%}"
        f"{_masked(line)}"
    )
    task = _SENTENCE_TASKS.get(pairs)
    if task:
        text += (
            f"  {task} loss {line['nsp_loss']:.3f} accuracy {line['nsp_accuracy']:.1%}"
        )
    if "sequences_per_sec" in line:
        text += f"  {line['sequences_per_sec']:,.0f} sequences/s"
    if "mfu" in line:
        text += f"  MFU {line['mfu']:.1%}"
    return text


def _masked(line: dict[str, float]) -> str:
    """How many tokens were hidden, where training and evaluation differ in it."""
    share = line.get("masked_share")
    return "" if share is None else f" at {share:.1%} masked"
