"""`bert-jax compile`: what a train step needs on a machine that is not here."""

import dataclasses
import json
import pathlib
from typing import Annotated

import tyro

from bert_jax.commands.config_files import config_path
from bert_jax.config import PretrainConfig
from bert_jax.config.compute import Remat


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compile:
    """Compiles a config's train step for a machine that is not here: memory, links, time.

    For example: `bert-jax compile bert_base --topology v5e:4x4`.

    This needs no TPU, only the extra `aot`. Every field of the config is a flag, as for
    `pretrain`. Exit status: 0 when every phase fits
    the memory, 1 when one does not or on an error. With --try-remat or
    --try-micro-batches it is 0 when at least one combination fits in every phase.
    """

    topology: str
    """The machine: v4:2x2x2, v5e:4x4, v5p:2x2x2, v6e:16x16 or another shape that Google
    Cloud offers; cpu:8 for eight CPU devices."""
    config_file: Annotated[str, tyro.conf.arg(name="config")] = "bert_base"
    """Path of a Python file with get_config() (./my.py), or the bare name of a shipped
    config. It may also come first, without the flag."""
    output: pathlib.Path | None = None
    """File to write all results to, as JSON."""
    try_remat: tuple[Remat, ...] = ()
    """Remat policies to try, such as: none dots full. With several values one row is
    printed for each combination and phase. Default: the config's compute.remat."""
    try_micro_batches: tuple[int, ...] = ()
    """Numbers of micro-batches to try, such as: 1 2 4. Each applies to all phases. Default:
    the config's micro_batches."""
    slices: int | None = None
    """Number of such slices, joined by the data-center network. v5e:4x4x2slices says the
    same as v5e:4x4 with --slices 2. Default: one."""
    first_phase_only: bool = False
    """Leave out the later phases of the config."""
    compile_cache: pathlib.Path | None = None
    """Directory that keeps the compiled programs for --compile-cache of `pretrain`. A run
    finds them if it has the same settings, dataset (--data.dataset) and versions of JAX
    and libtpu. This is tested on one CPU device, and untested on a TPU."""
    settings: Annotated[PretrainConfig, tyro.conf.arg(name="")] = PretrainConfig()
    args: tyro.conf.Suppress[tuple[str, ...]] = ()
    """The flags as they were given."""

    def run(self) -> None:
        from bert_jax.commands.settled import settled
        from bert_jax.data.atomic_file import write_atomically
        from bert_jax.runtime.compile_cache import use_compile_cache
        from bert_jax.topology.compiled import compile_step, vocabulary_of
        from bert_jax.topology.devices import devices_of, parse_topology
        from bert_jax.topology.sharding_table import sharding_table
        from bert_jax.topology.show import (
            as_json,
            show_sharding,
            show_step,
            show_variant,
            show_variants_header,
            show_variants_notes,
        )
        from bert_jax.topology.variants import variants_of

        settings = settled(self)
        topology = parse_topology(self.topology, self.slices)
        # JAX must not start earlier: its start fixes the number of CPU devices.
        use_compile_cache(self.compile_cache, devices_of(topology))
        vocabulary = vocabulary_of(settings)
        if self.compile_cache is not None and not settings.data.datasets:
            print(
                "--compile-cache without --data.dataset: the ids of the special tokens are "
                "constants of the program, so only a run with the same made-up ids would "
                "find it."
            )
        print(f"config: {config_path(self.config_file)}", flush=True)
        variants = variants_of(
            settings,
            topology,
            remats=self.try_remat,
            micro_batches=self.try_micro_batches,
        )
        is_table = len(variants) > 1
        if is_table:
            print(show_variants_header(), flush=True)
        steps = []
        some_variant_fits = False
        for variant in variants:
            phases = variant.phases
            all_fit = True
            for number, phase in enumerate(phases, start=1):
                step = compile_step(
                    phase,
                    topology,
                    vocabulary=vocabulary,
                    whole=variant,
                )
                if is_table:
                    print(show_variant(step, number=number), flush=True)
                else:
                    lines = show_step(step, number=number, num_phases=len(phases))
                    print("\n".join([*lines, ""]), flush=True)
                steps.append((number, step))
                all_fit = all_fit and step.fits
            some_variant_fits = some_variant_fits or all_fit
        sharding = sharding_table(steps[0][1].program.state)
        notes = show_variants_notes([step for _, step in steps])
        print("\n".join(notes if is_table else show_sharding(sharding)))
        if self.output is not None:
            document = {"config": self.config_file, **as_json(steps, sharding)}
            write_atomically(self.output, json.dumps(document) + "\n")
        if not some_variant_fits:
            raise SystemExit(1)
