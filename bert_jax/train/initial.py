"""Reads the weights of another run: to start from, evaluate, predict with or export."""

import dataclasses
import functools
import pathlib
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from bert_jax.config import (
    EXTENDABLE,
    FinetuneConfig,
    MeshConfig,
    ModelConfig,
    PretrainConfig,
)
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.model import pretraining
from bert_jax.runtime.distributed import fetch
from bert_jax.train import sharding
from bert_jax.train.lora import PART
from bert_jax.train.mesh import make_mesh
from bert_jax.train.moments import Moments, moments_of
from bert_jax.train.optimizer import make_optimizer
from bert_jax.train.runs.checkpoint import BEST, Checkpoints, open_weights
from bert_jax.train.runs.run import RunInfo, load_run, load_run_config
from bert_jax.train.tasks import task_named
from bert_jax.train.tensors import tensors_sha256

ENCODER = ("embed", "layers", "final", "pooler")
"""The parts of a model that fine-tuning takes from a checkpoint."""


class LoadedRun(NamedTuple):
    """All parameters of a run, at the step that others take from it."""

    info: RunInfo
    step: int
    params: Any


class Start(NamedTuple):
    """What a new run takes over from another run, and which run that was."""

    params: dict[str, Any]
    """Parts of the parameters, such as `embed`. The new run draws the other parts."""
    origin: dict[str, Any]
    """Run directory, step, number of tensors and their SHA-256."""
    moments: Moments | None = None
    """Moments of the optimizer. With `None`, the new run begins with moments of zero."""
    head: str = ""
    """What becomes of the head of a run of the same task. It is among the parameters if
    it has the same outputs; `origin` does not count it."""

    def describe(self) -> str:
        """Says in one line what is taken over."""
        origin = self.origin
        moments = "" if self.moments is None else " and the moments"
        return (
            f"{origin['num_tensors']} tensors of {origin['run']} at step "
            f"{origin['step']:,}{moments}, sha256 {origin['sha256'][:16]}{self.head}"
        )


def abstract_params(info: RunInfo, mesh: Mesh) -> Any:
    """Shapes and placements of the parameters of a run."""
    if info.task is None:
        init = functools.partial(pretraining.init_params, info.model)
    else:
        outputs = len(info.labels or ())
        init = functools.partial(task_named(info.task).init_params, info.model, outputs)
    shapes = jax.eval_shape(init, jax.random.key(0))
    return sharding.abstract(shapes, sharding.shardings(mesh, shapes))


def load_params(
    run: pathlib.Path,
    mesh: Mesh,
    kind: str | None = None,
    *,
    step: int | None = None,
) -> LoadedRun:
    """Reads the parameters of a run and places them on `mesh`.

    Args:
        run: run directory.
        mesh: devices to place the parameters on.
        kind: kind that the run must have, "pretrain" or "finetune". Default: either.
        step: step that they must be of. Default: the best one that the run keeps, else
            that of the newest checkpoint (`open_weights`).

    Raises:
        FileNotFoundError: there is no run, or no complete checkpoint in it.
        ValueError: the run has another kind, its checkpoint does not fit it, or it is one
            of LoRA that has not been evaluated yet.
    """
    info = load_run(run, kind=kind)
    with open_weights(run, info.identity, step) as checkpoints:
        if checkpoints.directory.name != BEST and _has_lora(run):
            if step is not None:
                raise ValueError(
                    f"{run} keeps LoRA's changes apart from the weights in all its "
                    "checkpoints but the best one. Leave the step out."
                )
            raise ValueError(
                f"{run} was stopped before its first evaluation, so it has no weights yet "
                "that LoRA's changes were added to. Start its command again."
            )
        step = checkpoints.latest_step() if step is None else step
        params = checkpoints.restore_params(abstract_params(info, mesh), step)
    return LoadedRun(info, step or 0, params)


def _has_lora(run: pathlib.Path) -> bool:
    if load_run(run).kind != "finetune":
        return False
    cfg = load_run_config(run)
    return isinstance(cfg, FinetuneConfig) and cfg.lora.rank > 0


def start_encoder(
    run: pathlib.Path,
    mesh: Mesh,
    parts: Collection[str],
    step: int | None = None,
    new: RunInfo | None = None,
) -> Start:
    """The encoder and the pooler of a run, as far as the new model has these `parts`.

    They are of `step`; by default of the step that `load_params` takes. Of a run with the
    task and the outputs of the `new` one, the head is taken too.
    """
    loaded = load_params(run, mesh, step=step)
    found = _encoder_of(loaded)
    parts = {name: part for name, part in found.items() if name in parts}
    head, note = ({}, "") if new is None else _head_of(loaded, new)
    origin = _origin(run, loaded.step, parts)
    return Start({**parts, **head}, origin, head=note)


def with_pooling(cfg: FinetuneConfig) -> FinetuneConfig:
    """The settings, with the checkpoint's pooling where they name none for vectors."""
    if cfg.task.kind != "embeddings" or cfg.task.pooling or cfg.checkpoint is None:
        return cfg
    there = load_run_config(cfg.checkpoint)
    known = there.task.pooling if isinstance(there, FinetuneConfig) else None
    task = dataclasses.replace(cfg.task, pooling=known or "mean")
    return dataclasses.replace(cfg, task=task)


def has_same_head(there: RunInfo, new: RunInfo) -> bool:
    """Whether two runs learn the same outputs, in whatever order, by the same task."""
    same = sorted(there.labels or ()) == sorted(new.labels or ())
    return bool(new.labels) and there.task == new.task and same


def _head_of(loaded: LoadedRun, new: RunInfo) -> tuple[dict[str, Any], str]:
    """The head with the outputs of the new run, or none, and what is said about it."""
    there = loaded.info
    if there.task != new.task or not there.labels or not new.labels:
        return {}, ""
    if not has_same_head(there, new):
        return {}, f"; a new head, since {_difference(there.labels, new.labels)}"
    order = tuple(map(there.labels.index, new.labels))
    rest = {k: v for k, v in loaded.params.items() if k not in (*ENCODER, PART)}
    head = jax.tree.map(functools.partial(_in_order, order), rest)
    return head, "; its head too, which has the same outputs"


def _difference(before: Sequence[str], now: Sequence[str]) -> str:
    """Which outputs of a head the examples do not have, and which they have besides."""
    lacking = [x for x in before if x not in now]
    more = [x for x in now if x not in before]
    said = {"lack": lacking, "also have": more}
    told = " and ".join(
        f"{word} {', '.join(found[:4])}{', ...' if found[4:] else ''}"
        for word, found in said.items()
        if found
    )
    return f"the examples {told}"


def _in_order(order: tuple[int, ...], leaf: jax.Array) -> jax.Array:
    """A part of a head with its outputs, the last axis, in this order."""
    if leaf.shape[-1] != len(order):  # one logit for each choice
        return leaf
    take = jax.jit(lambda x: x[..., jnp.array(order)], out_shardings=leaf.sharding)
    return take(leaf)


def _encoder_of(loaded: LoadedRun) -> dict[str, Any]:
    """The parts `ENCODER` of a run, as far as it has them."""
    there = dict(loaded.params)
    if loaded.info.model.pooler == "mlm_transform" and "mlm" in there:
        there["pooler"] = {name: there["mlm"][name] for name in ("transform", "norm")}
    return {name: there[name] for name in ENCODER if name in there}


def encoder_hashes(run: pathlib.Path, step: int) -> dict[int, str]:
    """Hashes of a run's encoder, with and without its pooler, as `Start.origin` has them.

    The weights are read to the CPU, since training may hold all accelerators.

    Returns:
        A dict from the number of tensors to their hash. It is empty where the run has no
        whole checkpoint of that step.
    """
    jax.config.update("jax_platforms", "cpu")
    mesh = make_mesh(MeshConfig(), jax.devices("cpu")[:1])
    try:
        whole = _encoder_of(load_params(run, mesh, step=step))
    except (ValueError, OSError):
        return {}
    bare = {name: part for name, part in whole.items() if name != "pooler"}
    return {len(jax.tree.leaves(x)): tensors_sha256(fetch(x)) for x in (whole, bare)}


def check_start(cfg: PretrainConfig, tokenizer: Tokenizer, mesh: Mesh) -> None:
    """Checks by its manifest that the checkpoint of `cfg` fits. It reads no tensor.

    Raises:
        FileNotFoundError: there is no run, or no complete checkpoint in it.
        ValueError: model or tokenizer do not fit, or there are no moments to keep.
    """
    checkpoints, wanted = _source(cfg, tokenizer, mesh)
    with checkpoints:
        checkpoints.check(cfg.checkpoint_step, **wanted)


def start_pretraining(cfg: PretrainConfig, tokenizer: Tokenizer, mesh: Mesh) -> Start:
    """Reads what a pretraining run takes over from `cfg.checkpoint`.

    Args:
        cfg: settings of the new run. Its model must be that of the checkpoint, but for
            the fields `EXTENDABLE`; its optimizer may differ.
        tokenizer: tokenizer of the data; must be the tokenizer of the checkpoint.
        mesh: devices to place everything on.

    Raises:
        FileNotFoundError, ValueError: as for `check_start`.
    """
    assert cfg.checkpoint is not None
    checkpoints, wanted = _source(cfg, tokenizer, mesh)
    moments = None
    with checkpoints:
        step = cfg.checkpoint_step
        step = checkpoints.latest_step() if step is None else step
        params = checkpoints.restore_params(wanted["params"], step, averaged=False)
        if "opt_state" in wanted:
            moments = moments_of(
                checkpoints.restore_opt_state(wanted["opt_state"], step)
            )
    origin = _origin(cfg.checkpoint, step or 0, params)
    return Start(_extended(cfg.model, params), origin, moments)


def _extended(model: ModelConfig, params: Any) -> Any:
    """The parameters with as many learned positions as `model` has.

    The further rows repeat those that there are, as Beltagy et al. 2020 (Longformer,
    section 5) begin.
    """
    if model.positions != "learned":
        return params
    table = params["embed"]["position"]["embedding"]
    offset, wanted = model.position_offset, model.max_positions + model.position_offset
    if table.shape[0] == wanted:
        return params

    def longer(table: jax.Array) -> jax.Array:
        known = table.shape[0] - offset
        rows = jnp.arange(wanted - offset) % known + offset
        return jnp.concatenate([table[:offset], table[rows]])

    table = jax.jit(longer, out_shardings=table.sharding)(table)
    embed = {**params["embed"], "position": {"embedding": table}}
    return {**params, "embed": embed}


def _there(cfg: PretrainConfig, info: RunInfo) -> ModelConfig:
    """The architecture that the checkpoint must have: that of `cfg`, not yet extended.

    Raises:
        ValueError: positions would be lost, or their moments would be missing.
    """
    own = {name: getattr(info.model, name) for name in EXTENDABLE}
    wanted, known = cfg.model.max_positions, info.model.max_positions
    if wanted < known:
        raise ValueError(
            f"ModelConfig.max_positions={wanted} is less than the {known} of the "
            f"checkpoint {cfg.checkpoint}; a run may have more, not fewer."
        )
    is_learned = cfg.model.positions == "learned"
    if wanted > known and is_learned and cfg.moments == "keep":
        raise ValueError(
            f"ModelConfig.max_positions={wanted} adds rows to the position table, which "
            "have no moments; start with PretrainConfig.moments='fresh'."
        )
    return dataclasses.replace(cfg.model, **own)


def _source(
    cfg: PretrainConfig, tokenizer: Tokenizer, mesh: Mesh
) -> tuple[Checkpoints, dict[str, Any]]:
    """The checkpoints that a run starts from, with the identity that they must have.

    Returns:
        Also shapes and placements of the items that the run takes over, by name.
    """
    run = cfg.checkpoint
    assert run is not None
    info = load_run(run, kind="pretrain")
    there = dataclasses.replace(
        info, model=_there(cfg, info), tokenizer_sha256=tokenizer.sha256
    )
    wanted = {"params": abstract_params(there, mesh)}
    if cfg.moments == "keep":
        state = _abstract_opt_state(run, wanted["params"], cfg, mesh)
        wanted["opt_state"] = state
    return Checkpoints(run, there.identity, read_only=True), wanted


def _abstract_opt_state(
    run: pathlib.Path, params: Any, cfg: PretrainConfig, mesh: Mesh
) -> Any:
    """Shapes and placements of the optimizer state that `run` saved.

    Args:
        run: directory of that run; its config.json names the optimizer.
        params: abstract parameters of that run.
        cfg: settings of the new run, which decide how the moments are placed.
        mesh: devices of the new run.
    """
    optimizer = make_optimizer(
        load_run_config(run).optimizer,
        optax.constant_schedule(0.0),  # the rate does not change the state's shapes
    )
    shapes = jax.eval_shape(optimizer.init, params)
    place = sharding.update_shardings if cfg.mesh.shard_update else sharding.shardings
    return sharding.abstract(shapes, place(mesh, shapes))


def _origin(run: pathlib.Path, step: int, params: Any) -> dict[str, Any]:
    return {
        "run": str(run.resolve()),
        "step": step,
        "num_tensors": len(jax.tree.leaves(params)),
        "sha256": tensors_sha256(fetch(params)),
    }
