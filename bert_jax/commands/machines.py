"""Commands about machines that are not here."""

import dataclasses
import json
import pathlib
from typing import Annotated

import tyro

from bert_jax.config import PretrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compile:
    """Compiles a config's train step for a machine that is not here: memory, links, time.

    `bert-jax compile CONFIG --topology v5e:4x4` needs no TPU, only the extra `aot`. Every
    field of the config is a flag, as for `pretrain`. Exit status: 0 when every phase fits
    the memory, 1 when one does not (or on an error).
    """

    config_file: Annotated[str, tyro.conf.arg(name="config")] = "bert_base"
    """Python file with get_config(), or the bare name of a shipped one; may also come
    first, without the flag."""
    topology: str
    """v4:2x2x2, v5e:4x4, v5p:2x2x2, v6e:16x16 or any other of Google Cloud's; cpu:8."""
    slices: int | None = None
    """Slices of it, joined by the data-center network; v5e:4x4x2slices says it too."""
    json: pathlib.Path | None = None
    """File to write everything to."""
    compile_cache: pathlib.Path | None = None
    """Directory that keeps the compiled programs, for --compile-cache of `pretrain`. They
    serve a run of the same settings, dataset (--data.dataset) and versions."""
    settings: Annotated[PretrainConfig, tyro.conf.arg(name="")] = PretrainConfig()

    def run(self) -> None:
        from bert_jax.runtime.compile_cache import use_compile_cache
        from bert_jax.topology.compiled import compile_step, vocabulary_of
        from bert_jax.topology.devices import devices_of, parse_topology
        from bert_jax.topology.estimate import estimate
        from bert_jax.topology.sharding_table import sharding_table
        from bert_jax.topology.show import as_json, show_step
        from bert_jax.train.program import phases_schedule

        topology = parse_topology(self.topology, self.slices)
        # How many CPU devices there are is settled when JAX starts.
        devices_of(topology)
        use_compile_cache(self.compile_cache)
        vocabulary = vocabulary_of(self.settings)
        if self.compile_cache is not None and self.settings.data.dataset is None:
            print(
                "--compile-cache without --data.dataset: the ids of the special tokens "
                "are constants of the program, so only a run with the made-up ones "
                "would find it"
            )
        phases = self.settings.phases
        documents = []
        for number, phase in enumerate(phases):
            step = compile_step(
                phase,
                topology,
                vocabulary=vocabulary,
                schedule=phases_schedule(self.settings),
            )
            estimated = estimate(step)
            table = sharding_table(step.program.state)
            for line in show_step(
                step, estimated, table, num_phases=len(phases), number=number
            ):
                print(line)
            print(flush=True)
            documents.append(as_json(step, estimated, table))
        if self.json is not None:
            text = json.dumps(
                {"config": self.config_file, "phases": documents}, indent=1
            )
            self.json.write_text(text + "\n")
        if not all(document["fits"] for document in documents):
            raise SystemExit(1)
