"""The weights of another run: to start from, to judge, to predict with, to export."""

import dataclasses
import functools
import pathlib
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from bert_jax.config import PretrainConfig
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.model import classification, pretraining
from bert_jax.runtime.distributed import fetch
from bert_jax.train import sharding
from bert_jax.train.checkpoint import Checkpoints, tensors_sha256
from bert_jax.train.run import RunInfo, load_run


class LoadedRun(NamedTuple):
    """All parameters of a run's newest checkpoint."""

    info: RunInfo
    step: int
    params: Any


class Start(NamedTuple):
    """What a new run takes over, and where it came from."""

    params: dict[str, Any]
    """Whole parts of the tree, such as `embed`; the others stay fresh."""
    origin: dict[str, Any]
    moments: Any = None
    """A whole `OptimizerState`, of which only the moments count."""

    def describe(self) -> str:
        """One line for the top of the run."""
        origin = self.origin
        moments = "" if self.moments is None else " and the moments"
        return (
            f"{origin['num_tensors']} tensors of {origin['run']} at step "
            f"{origin['step']:,}{moments}, sha256 {origin['sha256'][:16]}"
        )


def abstract_params(info: RunInfo, mesh: Mesh) -> Any:
    """Shapes and placements of the parameters of a run."""
    if info.kind == "pretrain":
        init = functools.partial(pretraining.init_params, info.model)
    else:
        num_labels = len(info.labels or ())
        init = functools.partial(classification.init_params, info.model, num_labels)
    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=place
        ),
        shapes,
        sharding.shardings(mesh, shapes),
    )


def load_params(run: pathlib.Path, mesh: Mesh, kind: str | None = None) -> LoadedRun:
    """Reads the newest checkpoint's parameters onto `mesh`.

    Raises:
        FileNotFoundError: no run, or no complete checkpoint in it.
        ValueError: the run is not of `kind`, or its checkpoint does not fit it.
    """
    info = load_run(run, kind=kind)
    with Checkpoints(run, info.identity, read_only=True) as checkpoints:
        step = checkpoints.latest_step()
        params = checkpoints.restore_params(abstract_params(info, mesh), step)
    return LoadedRun(info, step or 0, params)


def start_encoder(run: pathlib.Path, mesh: Mesh) -> Start:
    """Encoder and pooler of a run, to fine-tune."""
    loaded = load_params(run, mesh)
    parts = {name: loaded.params[name] for name in classification.ENCODER_PARTS}
    return Start(parts, _origin(run, loaded.step, parts))


def start_pretraining(
    cfg: PretrainConfig, tokenizer: Tokenizer, mesh: Mesh, opt_state: Any
) -> Start | None:
    """What `cfg.checkpoint` gives to a pretraining run, or `None` without one.

    Args:
        cfg: its model must be that of the checkpoint.
        tokenizer: of the data; must be the checkpoint's.
        mesh: to place everything on.
        opt_state: abstract, of the new run.

    Raises:
        FileNotFoundError: no run, or no complete checkpoint in it.
        ValueError: model, tokenizer or optimizer state do not fit.
    """
    if cfg.checkpoint is None:
        return None
    info = load_run(cfg.checkpoint, kind="pretrain")
    wanted = dataclasses.replace(
        info, model=cfg.model, tokenizer_sha256=tokenizer.sha256
    )
    with Checkpoints(cfg.checkpoint, wanted.identity, read_only=True) as checkpoints:
        step = checkpoints.latest_step()
        params = checkpoints.restore_params(abstract_params(wanted, mesh), step)
        moments = None
        if cfg.moments == "keep":
            moments = checkpoints.restore_opt_state(opt_state, step)
    return Start(params, _origin(cfg.checkpoint, step or 0, params), moments)


def with_moments(opt_state: Any, moments: Any) -> Any:
    """A fresh optimizer state with the moments of another, and their age."""
    return opt_state._replace(age=moments.age, mu=moments.mu, nu=moments.nu)


def _origin(run: pathlib.Path, step: int, params: Any) -> dict[str, Any]:
    return {
        "run": str(run),
        "step": step,
        "num_tensors": len(jax.tree.leaves(params)),
        "sha256": tensors_sha256(fetch(params)),
    }
