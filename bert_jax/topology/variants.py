"""The same run with other remat policies and other numbers of micro-batches."""

import dataclasses
import itertools
from collections.abc import Sequence

from bert_jax.config import PretrainConfig
from bert_jax.config.compute import Remat
from bert_jax.topology.compiled import mesh_of
from bert_jax.topology.devices import Topology
from bert_jax.train.sharding import check_batch_size


def variants_of(
    cfg: PretrainConfig,
    topology: Topology,
    *,
    remats: Sequence[Remat] = (),
    micro_batches: Sequence[int] = (),
) -> list[PretrainConfig]:
    """Every combination of the given values, each as the config of the whole run.

    Args:
        cfg: all phases of the run.
        topology: the machine whose devices share the rows.
        remats: remat policies; empty: only the config's own.
        micro_batches: numbers of micro-batches, each for all phases; empty: only what the
            config says for each phase.

    Raises:
        ValueError: a value is given twice, or a phase's rows cannot be shared evenly by
            the devices in as many micro-batches; all combinations are checked before
            anything is compiled.
    """
    for flag, values in (("remat", remats), ("micro-batches", micro_batches)):
        for value in values:
            if values.count(value) > 1:
                raise ValueError(
                    f"--try-{flag} has {value} twice; give each value once, because one "
                    "program would be compiled again."
                )
    counts: Sequence[int | None] = micro_batches or (None,)
    variants = []
    for remat, count in itertools.product(remats or (cfg.compute.remat,), counts):
        variant = dataclasses.replace(
            cfg, compute=dataclasses.replace(cfg.compute, remat=remat)
        )
        if count is not None:
            variant = _with_micro_batches(variant, count)
        variants.append(variant)
    mesh = mesh_of(cfg, topology)
    for variant in variants:
        for phase in variant.phases:
            check_batch_size(mesh, phase.batch_size, phase.micro_batches)
    return variants


def _with_micro_batches(cfg: PretrainConfig, count: int) -> PretrainConfig:
    try:
        return dataclasses.replace(
            cfg,
            micro_batches=count,
            next_phases=tuple(
                dataclasses.replace(phase, micro_batches=count)
                for phase in cfg.next_phases
            ),
        )
    except ValueError as error:
        raise ValueError(f"--try-micro-batches {count}: {error}") from None
