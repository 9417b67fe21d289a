"""The step at which a run stopped because of bad numbers: kept, and replayed.

bad_step/ of the run directory holds the batch as batch.npz, and the state before its step as
a checkpoint. It is no checkpoint that a run goes on from.
"""

import bisect
import functools
import itertools
import pathlib
import shutil
from typing import Any

import jax

from bert_jax.batch import ClassifyBatch, PretrainBatch
from bert_jax.config import MeshConfig, PretrainConfig
from bert_jax.runtime.agreement import on_first_host
from bert_jax.runtime.distributed import fetch
from bert_jax.runtime.jax_settings import our_settings
from bert_jax.train import sharding
from bert_jax.train.arrays_file import load_arrays, save_arrays
from bert_jax.train.diagnosis import diagnose
from bert_jax.train.mesh import make_mesh
from bert_jax.train.placement import global_batch
from bert_jax.train.program import pretrain_program
from bert_jax.train.runs.checkpoint import Checkpoints, Identity
from bert_jax.train.runs.run import load_run, load_run_config, load_run_tokenizer
from bert_jax.train.step import TrainState, abstract_state
from bert_jax.train.tasks import task_of
from bert_jax.train.tuning import make_tuning

PLACE = "bad_step"
_STATE, _BATCH = "state", "batch.npz"
# So many that shares of it are exact in float64: 0.1 and 0.9 of it must not overlap.
_MANY_STEPS = 2**40


def save_bad_step(
    run: pathlib.Path, identity: Identity, state: TrainState, batch: Any
) -> None:
    """Keeps a batch and the state before its step, in place of those kept before.

    All processes of a job call it.
    """
    folder = run / PLACE
    on_first_host(f"clearing of {folder}", lambda: shutil.rmtree(folder, True))
    with Checkpoints(run, identity, place=f"{PLACE}/{_STATE}") as checkpoints:
        checkpoints.save(state)
        checkpoints.wait()
    arrays = fetch(batch)._asdict()
    on_first_host(
        f"the batch in {folder}", lambda: save_arrays(folder / _BATCH, arrays)
    )


@our_settings()
def replay(run: pathlib.Path, num_devices: int = 1) -> tuple[int, str]:
    """Repeats the step at which a run stopped, and says what goes wrong in it.

    Args:
        run: run directory.
        num_devices: number of this machine's devices that the model is split over.

    Returns:
        The number of the step's batch, counted from 0, and the diagnosis.

    Raises:
        FileNotFoundError: there is no run, or it keeps no such step.
        ValueError: the batch or the state is damaged, or there are fewer devices.
    """
    info, cfg = load_run(run), load_run_config(run)
    path = run / PLACE / _BATCH
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: {run} has not stopped because of bad numbers. A run that "
            "stops so keeps the batch there, and the state before its step."
        )
    mesh = make_mesh(
        MeshConfig(data=1, fsdp=num_devices), jax.local_devices()[:num_devices]
    )
    place = f"{PLACE}/{_STATE}"
    with Checkpoints(run, info.identity, read_only=True, place=place) as checkpoints:
        step = checkpoints.latest_step() or 0
        if isinstance(cfg, PretrainConfig):
            ends = itertools.accumulate(phase.num_steps for phase in cfg.phases)
            phase = cfg.phases[bisect.bisect_right(list(ends), step)]
            vocabulary = load_run_tokenizer(run).mask_vocabulary
            program = pretrain_program(phase, mesh, vocabulary, cfg)
            abstract, find = program.state, program.diagnose
        else:
            assert info.labels is not None
            task = task_of(cfg)
            # Nothing is updated here, so the rates do not matter; a warm-up must fit.
            tuning = make_tuning(cfg, info.model, task, len(info.labels), _MANY_STEPS)
            fresh = functools.partial(tuning.fresh_state, cfg.seed)
            abstract = abstract_state(fresh, mesh)
            find = functools.partial(diagnose, tuning.in_a_row, mesh)
        state = checkpoints.restore(abstract)
    kind: Any = PretrainBatch if isinstance(cfg, PretrainConfig) else ClassifyBatch
    way_out = (
        "Start the run's command again: it stops at the same batch and keeps it anew."
    )
    batch = kind(**load_arrays(path, kind._fields, way_out))
    sharding.check_batch_size(mesh, batch.input_ids.shape[0])
    return step, find(state, global_batch(mesh, batch))
