"""Pretraining: MLM + NSP from a prepared dataset into a run directory."""

import dataclasses
import functools
import importlib.metadata
import pathlib
import platform
from typing import Any

import jax

import bert_jax
from bert_jax.batch import MaskVocabulary, PretrainBatch
from bert_jax.config import PretrainConfig
from bert_jax.data.dataset import open_dataset
from bert_jax.data.loader import PretrainRows, train_batches
from bert_jax.data.summary import summarize
from bert_jax.model import pretraining
from bert_jax.model.masking import mask_tokens
from bert_jax.train import sharding
from bert_jax.train.evaluate import (
    EVALUATION_SEED,
    PretrainEvaluator,
    check_vocabulary,
    mask_examples,
)
from bert_jax.train.initial import start_pretraining, with_moments
from bert_jax.train.loop import run_loop
from bert_jax.train.losses import Mean, pretrain_loss
from bert_jax.train.metrics import read_metrics
from bert_jax.train.optimizer import make_optimizer, make_schedule
from bert_jax.train.run import RunInfo, load_results, save_results, start_run
from bert_jax.train.step import abstract_state, compile_step, init_state

_VERSIONS = ("jax", "flax", "optax", "orbax-checkpoint")


def pretrain_objective(
    cfg: PretrainConfig,
    vocabulary: MaskVocabulary,
    params: Any,
    batch: PretrainBatch,
    key: jax.Array,
) -> tuple[jax.Array, dict[str, Mean]]:
    """Masks a batch and returns the loss of both heads, dropout on.

    Args:
        cfg: static, as is `vocabulary`.
        key: of the masks and of dropout.
    """
    mask_key, dropout_key = jax.random.split(key)
    masked = mask_tokens(cfg.masking, batch, vocabulary, mask_key)
    outputs = pretraining.apply(cfg.model, params, batch, masked, key=dropout_key)
    return pretrain_loss(outputs, batch, masked)


def pretrain(cfg: PretrainConfig, run: pathlib.Path) -> dict[str, Any]:
    """Runs, or goes on with, one pretraining run and returns its results.

    Raises:
        ValueError: dataset, model and mesh do not fit, or `run` holds another run.
        InterruptedRunError: a signal came; a checkpoint was written.
    """
    dataset = open_dataset(cfg.data.dataset)
    tokenizer, special = dataset.tokenizer, dataset.tokenizer.special
    check_vocabulary(cfg.model, tokenizer, dataset.directory)
    mesh = sharding.make_mesh(cfg.mesh)
    sharding.check_batch_size(mesh, cfg.batch_size)
    optimizer = make_optimizer(cfg.optimizer, cfg.num_steps)
    objective = functools.partial(pretrain_objective, cfg, tokenizer.mask_vocabulary)

    def make_state():  # type: ignore[no-untyped-def]
        init = functools.partial(pretraining.init_params, cfg.model)
        return init_state(init, optimizer, cfg.seed)

    abstract = abstract_state(make_state, mesh)
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    start = start_pretraining(cfg, tokenizer, mesh, abstract.opt_state)
    if start is not None:
        print(f"weights: {start.describe()}", flush=True)

    def placed_state():  # type: ignore[no-untyped-def]
        state = jax.jit(make_state, out_shardings=places)()
        if start is None:
            return state
        opt_state = state.opt_state
        if start.moments is not None:
            opt_state = with_moments(opt_state, start.moments)
        return dataclasses.replace(state, params=start.params, opt_state=opt_state)

    info = RunInfo(
        kind="pretrain",
        model=cfg.model,
        tokenizer_sha256=tokenizer.sha256,
        data={"sha256": dataset.manifest["sha256"]},
        sequence_length=cfg.data.sequence_length,
        encoder=None if start is None else start.origin,
    )
    start_run(run, cfg, info, tokenizer)
    finished = load_results(run)
    if finished is not None:
        print(f"{run} is finished at step {finished['step']:,}; nothing to do")
        return finished

    train_rows = PretrainRows(
        dataset.load_split("train"), cfg.data, special, seed=cfg.seed
    )
    held_out_rows = PretrainRows(
        dataset.load_split("validation"), cfg.data, special, seed=EVALUATION_SEED
    )
    num_parameters = sum(x.size for x in jax.tree.leaves(abstract.params))
    epoch = train_rows.epoch(0)
    splits = dataset.manifest["splits"]
    tokens_per_row = float(epoch.pairs.num_tokens().sum()) / len(epoch.rows)
    print(
        f"{num_parameters:,} parameters on {device_name(mesh)}; "
        f"{splits['train']['documents']:,} documents, "
        f"{splits['train']['tokens']:,} tokens, {len(epoch.pairs):,} pairs in "
        f"{len(epoch.rows):,} rows of {cfg.data.sequence_length} an epoch "
        f"({tokens_per_row / cfg.data.sequence_length:.1%} full); "
        f"{cfg.num_steps * cfg.batch_size / len(epoch.rows):.2f} epochs",
        flush=True,
    )
    state, evaluation, elapsed = run_loop(
        run=run,
        cfg=cfg.loop,
        mesh=mesh,
        step=compile_step(objective, optimizer, mesh, abstract),
        make_state=placed_state,
        abstract=abstract,
        batches=lambda step: train_batches(
            train_rows,
            batch_size=cfg.batch_size,
            first_step=step,
            num_steps=cfg.num_steps,
            host=jax.process_index(),
            num_hosts=jax.process_count(),
        ),
        num_steps=cfg.num_steps,
        evaluate=PretrainEvaluator(cfg, held_out_rows, tokenizer.mask_vocabulary, mesh),
        per_step={
            "sequences_per_sec": cfg.batch_size * len(epoch.pairs) / len(epoch.rows),
            "tokens_per_sec": cfg.batch_size * tokens_per_row,
        },
        show=show_pretraining,
        learning_rate=make_schedule(cfg.optimizer, cfg.num_steps),
    )
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
        "elapsed_secs": elapsed,
        "sequences_per_sec": read_metrics(run)[-2].get("sequences_per_sec"),
        "mask_examples": mask_examples(cfg, state.params, held_out_rows, tokenizer),
    }
    save_results(run, results)
    print(
        f"held-out MLM loss {evaluation['mlm_loss']:.3f} nats, unigram entropy of the "
        f"corpus {results['unigram_entropy']:.3f}; NSP accuracy "
        f"{evaluation['nsp_accuracy']:.1%}, majority {evaluation['nsp_majority']:.1%}",
        flush=True,
    )
    return results


def show_pretraining(line: dict[str, float]) -> str:
    """One line of metrics in words."""
    text = (
        f"MLM loss {line['mlm_loss']:.3f} accuracy {line['mlm_accuracy']:.1%}  "
        f"NSP loss {line['nsp_loss']:.3f} accuracy {line['nsp_accuracy']:.1%}"
    )
    if "sequences_per_sec" in line:
        text += f"  {line['sequences_per_sec']:,.0f} sequences/s"
    return text


def device_name(mesh: jax.sharding.Mesh) -> str:
    """Such as `cpu x 8`."""
    return f"{mesh.devices.flat[0].device_kind} x {mesh.size}"
