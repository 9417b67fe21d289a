"""A run to plan, a made-up compiler, and the config that comes of it."""

import dataclasses
import math

from bert_jax.config import DataConfig, MeshConfig, PhaseConfig, PretrainConfig
from bert_jax.family import model_config
from bert_jax.runtime.chips import chip_named
from bert_jax.topology.candidates import Measured
from bert_jax.topology.choices import (
    kernels_of,
    layouts,
    micro_batch_counts,
)
from bert_jax.topology.plan import plan
from bert_jax.topology.predict import predict
from bert_jax.topology.write_config import config_text, write_config

V5E = chip_named("v5e")
RUN = PretrainConfig(
    model=model_config("mini", compute_dtype="bfloat16"),
    data=DataConfig(sequence_length=128),
    batch_size=256,
    num_steps=900_000,
    next_phases=(PhaseConfig(batch_size=128),),
)
# Which fields a choice may set, as paths into the JSON of a config.
MAY_CHANGE = {
    "model.remat",
    "model.attention",
    "model.mlm_logits",
    "micro_batches",
    "next_phases.0.micro_batches",
    *(f"mesh.{field.name}" for field in dataclasses.fields(MeshConfig)),
}


class Machine:
    """A compiler that knows how far the predictions are off."""

    def __init__(self, limit, *, memory=1.0, time=1.3, says_bytes=True):
        self.limit, self.memory, self.time = limit, memory, time
        self.says_bytes = says_bytes
        self.asked = []

    def __call__(self, phase):
        self.asked.append(phase)
        predicted = predict(phase, phase.mesh, V5E)
        needed = int(predicted.state_bytes + self.memory * predicted.activation_bytes)
        fits = needed <= self.limit
        return Measured(
            needed if fits or self.says_bytes else None,
            self.limit,
            fits,
            self.time * predicted.seconds if fits else None,
        )


def all_layouts(cfg=RUN, num_devices=8, num_slices=1):
    return list(
        layouts(
            cfg,
            num_devices=num_devices,
            num_slices=num_slices,
            kernels=kernels_of(cfg),
        )
    )


def fastest(cfg, machine):
    """By trying every layout with every number of micro-batches."""
    best = math.inf
    for layout in all_layouts(cfg):
        total = 0.0
        for number, phase in enumerate(layout.apply(cfg).phases):
            results = [
                machine(dataclasses.replace(phase, micro_batches=count))
                for count in micro_batch_counts(cfg.phases[number], layout.mesh)
            ]
            total += phase.num_steps * min(
                (r.seconds for r in results if r.fits), default=math.inf
            )
        best = min(best, total)
    return best


def quiet(line):
    del line


LIMIT = V5E.device_usable_bytes
BASE = """from bert_jax import cli
from bert_jax.config import DataConfig, PhaseConfig, PretrainConfig
from bert_jax.family import model_config


def get_config():
    return PretrainConfig(
        model=model_config("mini", compute_dtype="bfloat16"),
        data=DataConfig(sequence_length=128),
        batch_size=256,
        num_steps=900_000,
        next_phases=(PhaseConfig(batch_size=128),),
    )
"""


def planned(machine, **changes):
    settings = {
        "topology": "v5e:2x4",
        "num_devices": 8,
        "num_slices": 1,
        "chip": V5E,
        "measure": machine,
        "max_compiles": 60,
        "tell": quiet,
    }
    return plan(RUN, **settings | changes)


def write(base, output, result):
    text = config_text(
        RUN,
        result.choice,
        base=base,
        output=output,
        title='Planned, with a "name" \\n of its own.',
        command=f'bert-jax plan {base} --output "{output}"',
        report=result.report,
        date="2026-11-24",
    )
    write_config(output, text, result.choice.apply(RUN))
