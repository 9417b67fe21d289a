"""Pretraining: MLM and a sentence-pair task, from a prepared dataset to a run directory."""

import dataclasses
import functools
import importlib.metadata
import pathlib
import platform
import time
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

import bert_jax
from bert_jax.config import PretrainConfig
from bert_jax.data.batches.documents import documents_of_batch
from bert_jax.data.batches.loader import train_batches
from bert_jax.data.hashes import json_sha256
from bert_jax.data.prepared.corpus import Corpus, open_corpus
from bert_jax.data.prepared.leaks import describe_leaks
from bert_jax.data.prepared.summary import summarize
from bert_jax.limits import check_ids
from bert_jax.model.isolation import prove_for_lengths
from bert_jax.model.products_fp8 import multiplies_fp8
from bert_jax.runtime.jax_settings import our_settings
from bert_jax.train.averaging import averaged
from bert_jax.train.best import Selection
from bert_jax.train.flops import counted_flops
from bert_jax.train.held_out import (
    check_held_out,
    check_vocabulary,
    held_out_rows,
    mask_examples,
    open_evaluator,
)
from bert_jax.train.initial import check_start, start_pretraining
from bert_jax.train.loop import Stage, run_loop
from bert_jax.train.memory import check_memory
from bert_jax.train.mesh import device_name, make_mesh
from bert_jax.train.moments import with_moments
from bert_jax.train.monitoring.sinks import check_sinks
from bert_jax.train.placement import row_parts
from bert_jax.train.program import Program, phases_schedule, pretrain_program
from bert_jax.train.runs.results_file import finished_results, save_results
from bert_jax.train.runs.resumed_with import resumed_with
from bert_jax.train.runs.run import RunInfo, is_new_run, load_run
from bert_jax.train.runs.run_settings import agree_on_run
from bert_jax.train.runs.run_start import save_origin, save_session, start_run
from bert_jax.train.step import TrainState
from bert_jax.train.tasks.task import Metric
from bert_jax.train.train_rows import open_train_rows

# The papers' abbreviations of the tasks of `DataConfig.pairs`; "none" has no task.
_SENTENCE_TASKS = {"next_sentence": "NSP", "sentence_order": "SOP"}
_LOSS = Metric("mlm_loss", "held-out MLM loss", larger_is_better=False)
_VERSIONS = ("jax", "flax", "optax", "orbax-checkpoint")


@our_settings()
def pretrain(
    cfg: PretrainConfig, run: pathlib.Path, resume_with: Sequence[str] = ()
) -> dict[str, Any]:
    """Starts or continues one pretraining run and returns its results.

    Args:
        cfg: settings of the run, the same in every session.
        run: run directory.
        resume_with: settings to go on with, as for `resumed_with`.

    Raises:
        ValueError: dataset, model and mesh do not fit together, or `run` holds another
            run.
        IsolationError: attention does not keep the sequences of a row apart here.
        InterruptedRunError: the process got a signal. A checkpoint was written.
    """
    began = time.time()
    cfg.check()
    check_sinks(cfg.loop)
    given, (cfg, change) = cfg, resumed_with(cfg, run, resume_with)
    cfg.check()
    corpus = open_corpus(cfg.data)
    tokenizer = corpus.tokenizer
    check_vocabulary(cfg, tokenizer, corpus.datasets[0].directory)
    agree_on_run(
        run,
        cfg,
        dataset_sha256=json_sha256(corpus.identity),
        tokenizer_sha256=tokenizer.sha256,
    )
    mesh = make_mesh(cfg.mesh)
    programs = [
        pretrain_program(phase, mesh, tokenizer.mask_vocabulary, cfg)
        for phase in cfg.phases
    ]
    abstract = programs[0].state
    for phase in cfg.phases:
        check_memory(
            mesh,
            cfg.model,
            abstract,
            batch_size=phase.batch_size,
            length=phase.data.sequence_length,
            micro_batches=phase.micro_batches,
        )

    def make_state() -> TrainState:
        origin = load_run(run).encoder
        if cfg.checkpoint is None and origin is not None:
            raise ValueError(
                f"{run} began from the weights of {origin['run']} and has no checkpoint of "
                f"its own to go on from. Give --checkpoint {origin['run']} again."
            )
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
        data=corpus.identity,
        devices=device_name(mesh),
        sequence_length=max(phase.data.sequence_length for phase in cfg.phases),
    )
    for phase in cfg.phases:
        for dataset in corpus.datasets:
            check_held_out(dataset, phase.data)
    is_new = is_new_run(run)
    if is_new and cfg.checkpoint is not None:
        check_start(cfg, tokenizer, mesh)  # an error must leave no run directory behind
    start_run(run, given, info, tokenizer)
    finished = finished_results(run)
    if finished is not None:
        print(f"{run} is finished at step {finished['step']:,}; nothing to do")
        return finished

    prove_for_lengths(
        cfg.model,
        cfg.compute,
        cfg.dropout,
        _row_lengths(cfg),
        splits_rows=mesh.shape["sequence"] > 1,
    )
    device = mesh.devices.flat[0]
    if cfg.compute.fp8 and not multiplies_fp8(device):
        print(
            f"note: {device.device_kind} does not multiply 8-bit floats; --compute.fp8 "
            "gives the same numbers as on a device that does, and makes steps slower",
            flush=True,
        )
    num_parameters = sum(x.size for x in jax.tree.leaves(abstract.params))
    num_documents, num_tokens = map(sum, map(corpus.of_train, ("documents", "tokens")))
    print(
        f"{num_parameters:,} parameters on {device_name(mesh)}; "
        f"{num_documents:,} documents, {num_tokens:,} tokens",
        flush=True,
    )
    if is_new and jax.process_index() == 0:
        for line in describe_leaks(corpus.datasets):
            print(line, flush=True)
    trained = run_loop(
        run=run,
        locked=functools.partial(save_session, run, given, change),
        identity=info.identity,
        cfg=cfg.loop,
        mesh=mesh,
        stages=[
            _stage(cfg, number, program, corpus, mesh)
            for number, program in enumerate(programs)
        ],
        make_state=make_state,
        abstract=abstract,
        show=functools.partial(show_pretraining, cfg.data.pairs),
        learning_rate=phases_schedule(cfg),
        began=began,
        judge_first=True,
        selection=Selection(deciding=lambda _: _LOSS) if cfg.keep_best else None,
    )
    state, best = trained.state, trained.best
    evaluation = best.evaluation if best else trained.evaluation
    last = cfg.phases[-1]
    held_out = held_out_rows(corpus.datasets[0], last.data)
    results = {
        "kind": "pretrain",
        "step": int(state.step),
        "eval": evaluation,
        **(
            {"best": {"step": best.step}, "last": {"eval": trained.evaluation}}
            if best
            else {}
        ),
        "unigram_entropy": _unigram_entropy(corpus, last),
        "num_parameters": num_parameters,
        "num_documents": num_documents,
        "num_tokens": num_tokens,
        "corpora": [summarize(dataset.manifest) for dataset in corpus.datasets],
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
    if best is not None and best.step != results["step"]:
        text += (
            f"; that is the best state, of step {best.step:,}, and the last one has "
            f"{trained.evaluation['mlm_loss']:.3f} nats"
        )
    print(text, flush=True)
    return results


def _unigram_entropy(corpus: Corpus, cfg: PretrainConfig) -> float:
    """Nats a token of guessing from each dataset's own frequencies, by their shares."""
    entropies = corpus.of_train("unigram_entropy")
    shares = corpus.shares(cfg.data.weights)
    return float(sum(s * x for s, x in zip(shares, entropies, strict=True)))


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
    corpus: Corpus,
    mesh: Mesh,
) -> Stage:
    """Makes one phase a stage of the loop, and prints its length in steps and epochs."""
    cfg = whole.phases[number]
    rows, first_row, lines = open_train_rows(corpus, whole, number)
    for line in lines:
        print(f"{cfg.num_steps:,} steps: {line}", flush=True)
    return Stage(
        num_steps=cfg.num_steps,
        step=program.step,
        batches=lambda step: train_batches(
            rows,
            batch_size=cfg.batch_size,
            first_step=step,
            num_steps=cfg.num_steps,
            first_row=first_row,
            **row_parts(mesh)._asdict(),
        ),
        evaluate=open_evaluator(cfg, corpus, mesh),
        rates={"sequences_per_sec": "sequences", "tokens_per_sec": "tokens"},
        flops=counted_flops(cfg.model, cfg.optimizer),
        check=functools.partial(check_ids, cfg.model),
        rows=functools.partial(
            documents_of_batch,
            corpus.datasets,
            rows,
            batch_size=cfg.batch_size,
            first_row=first_row,
        ),
        diagnose=program.diagnose,
    )


def show_pretraining(pairs: str, line: dict[str, float]) -> str:
    """One line of metrics as text.

    Args:
        pairs: `DataConfig.pairs`, which decides the name of the sentence-pair task.
        line: metrics of training or evaluation.
    """
    text = f"MLM loss {line['mlm_loss']:.3f}"
    if "mlm_accuracy" not in line:  # the score by which a state is the best
        return text
    text += f" accuracy {line['mlm_accuracy']:.1%}{_masked(line)}"
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
