"""Node pools: what a slice or a GPU node is called on GKE, and how many hosts it has.

Source: https://docs.cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus, and for
the GPUs .../docs/concepts/gpus.
"""

import dataclasses
import math

from bert_jax.topology.devices import Topology

# Kind -> value of the label cloud.google.com/gke-tpu-accelerator, machine type with {}
# for its chips.
_TPUS = {
    "v4": ("tpu-v4-podslice", "ct4p-hightpu-{}t"),
    "v5e": ("tpu-v5-lite-podslice", "ct5lp-hightpu-{}t"),
    "v5p": ("tpu-v5p-slice", "ct5p-hightpu-{}t"),
    "v6e": ("tpu-v6e-slice", "ct6e-standard-{}t"),
}
# Name here -> value of the label cloud.google.com/gke-accelerator.
_GPUS = {
    "a100": "nvidia-tesla-a100",
    "a100-80gb": "nvidia-a100-80gb",
    "h100": "nvidia-h100-80gb",
    "h100-mega": "nvidia-h100-mega-80gb",
    "h200": "nvidia-h200-141gb",
    "b200": "nvidia-b200",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pool:
    """Equal hosts that make one slice of TPUs, or all GPU nodes of a job."""

    selector: dict[str, str]
    """Labels of its nodes."""
    resource: str
    """google.com/tpu or nvidia.com/gpu."""
    devices_per_host: int
    num_hosts: int
    create: str
    """Flags of `gcloud container node-pools create` for such a pool; empty for GPUs,
    whose machines are a choice of their own."""


def tpu_pool(topology: Topology, chips_per_host: int | None = None) -> Pool:
    """The pool of one slice.

    Args:
        chips_per_host: 4 by default, 1 for a single chip; 8 puts 2x4 on one host.

    Raises:
        ValueError: GKE has no such hosts.
    """
    if topology.kind not in _TPUS:
        raise ValueError(f"--topology {topology}: {topology.kind} is no TPU.")
    chips = math.prod(topology.shape)
    each = chips_per_host or min(chips, 4)
    known = {4} if len(topology.shape) == 3 else {1: {1}, 4: {4}, 8: {4, 8}}.get(chips)
    if each not in (known or {4}):
        raise ValueError(
            f"--chips-per-host {each}: a slice {topology.slice_name} has "
            f"{' or '.join(str(n) for n in sorted(known or {4}))} chips a host."
        )
    hosts = chips // each
    if topology.slices > 1 and hosts == 1:
        raise ValueError(
            f"--topology {topology.slice_name} --slices {topology.slices}: GKE joins "
            "slices of several hosts only; take a larger slice, or one."
        )
    accelerator, machine = _TPUS[topology.kind]
    sides = "x".join(str(side) for side in topology.shape)
    return Pool(
        selector={
            "cloud.google.com/gke-tpu-accelerator": accelerator,
            "cloud.google.com/gke-tpu-topology": sides,
        },
        resource="google.com/tpu",
        devices_per_host=each,
        num_hosts=hosts,
        create=f"--machine-type={machine.format(each)} --num-nodes={hosts}"
        + (f" --tpu-topology={sides}" if hosts > 1 else ""),
    )


def gpu_pool(gpu: str, nodes: int) -> Pool:
    """The pool of `nodes` machines.

    Args:
        gpu: kind and number a node, such as h100:8.

    Raises:
        ValueError: it is not read, or the kind is not known.
    """
    kind, _, number = gpu.partition(":")
    if kind not in _GPUS or not number.isdigit() or not 1 <= int(number) <= 16:
        raise ValueError(
            f"--gpu {gpu}: expected KIND:NUMBER, such as h100:8, with KIND one of "
            f"{', '.join(_GPUS)}."
        )
    if nodes < 1:
        raise ValueError(f"--nodes {nodes}: at least 1 was expected.")
    return Pool(
        selector={"cloud.google.com/gke-accelerator": _GPUS[kind]},
        resource="nvidia.com/gpu",
        devices_per_host=int(number),
        num_hosts=nodes,
        create="",
    )
