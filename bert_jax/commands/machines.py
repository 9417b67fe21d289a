"""Commands about machines that are not here."""

import dataclasses
import datetime
import json
import pathlib
import shlex
from typing import Annotated, Any

import tyro

from bert_jax.commands.config_files import config_path, load_config
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
    serve a run of the same settings, dataset (--data.dataset) and versions, of libtpu
    too; proven on one CPU device, untried on a TPU."""
    advice: bool = True
    """Where a phase does not fit: compile what might, and say the smallest changes."""
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
        use_compile_cache(self.compile_cache, devices_of(topology))
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
            if self.advice and not step.fits:
                _advise(phase, topology, step)
            documents.append(as_json(step, estimated, table))
        if self.json is not None:
            text = json.dumps(
                {"config": self.config_file, "phases": documents}, indent=1
            )
            self.json.write_text(text + "\n")
        if not all(document["fits"] for document in documents):
            raise SystemExit(1)


def _advise(phase: PretrainConfig, topology: Any, step: Any) -> None:
    """Prints what would make a phase fit."""
    from bert_jax.topology.advice import advise
    from bert_jax.topology.apart import measure_apart
    from bert_jax.topology.candidates import Measured

    if topology.chip is None:
        return
    print(
        "what would fit (compiling it, a minute or more each; --no-advice leaves it):"
    )
    advice = advise(
        phase,
        num_devices=topology.num_devices,
        num_slices=topology.slices,
        chip=topology.chip,
        failed=Measured(step.memory.total, step.memory.limit, False, None),
        measure=measure_apart(str(topology)),
        tell=lambda line: print(f"  {line}", flush=True),
    )
    for one in advice:
        print(one.describe())
    print(flush=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Finds the fastest mesh, remat and micro-batches that fit a machine; writes a config.

    `bert-jax plan CONFIG --topology v5e:4x4` needs no TPU, only the extra `aot`. Rows of
    the batch, rates, masks and dropout stay as CONFIG says, so the run is the same run.
    Stopped, the same command goes on.
    """

    config: Annotated[str, tyro.conf.Positional]
    """Python file with get_config(), or the bare name of a shipped one."""
    topology: str
    """v4:2x2x2, v5e:4x4, v5p:2x2x2, v6e:16x16 or any other of Google Cloud's."""
    slices: int | None = None
    """Slices of it, joined by the data-center network; v5e:4x4x2slices says it too."""
    output: pathlib.Path | None = None
    """Config file to write, which reads CONFIG and changes it; by default both names, in
    the current folder."""
    force: bool = False
    """Overwrite `output`."""
    max_compiles: int = 24
    """Of phases, a minute or more each; those done before count too."""

    def run(self) -> None:
        from bert_jax.topology.apart import measure_apart
        from bert_jax.topology.devices import parse_topology
        from bert_jax.topology.plan import plan
        from bert_jax.topology.remembered import Remembered
        from bert_jax.topology.write_config import (
            check_output,
            config_text,
            write_config,
        )

        topology = parse_topology(self.topology, self.slices)
        base = config_path(self.config)
        cfg = load_config(self.config, PretrainConfig)
        machine = str(topology).replace(":", "_")
        output = self.output or pathlib.Path(f"{base.stem}_{machine}.py")
        check_output(output, base, force=self.force)
        kept = output.with_suffix(".compiles.jsonl")
        result = plan(
            cfg,
            topology=str(topology),
            num_devices=topology.num_devices,
            num_slices=topology.slices,
            chip=topology.chip,
            measure=Remembered(measure_apart(str(topology)), kept, str(topology)),
            max_compiles=self.max_compiles,
            tell=lambda line: print(line, flush=True),
        )
        text = config_text(
            cfg,
            result.choice,
            base=base,
            output=output,
            title=f"{base.stem}, laid out for {topology} by `bert-jax plan`.",
            command=f"bert-jax plan {shlex.quote(self.config)} --topology {topology} "
            f"--output {shlex.quote(str(output))}",
            report=result.report,
            date=datetime.date.today().isoformat(),
        )
        write_config(output, text, result.choice.apply(cfg))
        print("\n".join(result.report))
        print(f"{output} written; what was compiled is kept in {kept}")
