"""Peak arithmetic of accelerators, and memory and links of TPUs, as their makers state them.

They are nominal rates: estimates and MFU (model FLOPs utilisation) compare with them, so
a measured rate is a share of what the maker promises.
"""

import dataclasses
from collections.abc import Mapping

_GIB = 2**30
_CLOUD_TPU = "https://docs.cloud.google.com/tpu/docs/"
_SCALING_BOOK = "https://jax-ml.github.io/scaling-book/tpus"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One kind of TPU that programs can be compiled for without having it.

    All figures are for one chip, which is one JAX device. Rates are per second; a link's
    rate is for one direction.
    """

    name: str
    """The name in a topology, such as v5e."""
    device_kinds: tuple[str, ...]
    """What `jax.Device.device_kind` says, exactly."""
    peak_flops: float
    """Dense matrix products with bfloat16 inputs, FLOP/s."""
    usable_bytes: int
    """Memory that XLA's compiler may plan with."""
    hbm_bytes_per_sec: float
    link_bytes_per_sec: float
    """Of one link to a neighbour."""
    num_links: int
    """Number of neighbours: 4 in a 2D torus, 6 in a 3D torus."""
    network_bytes_per_sec: float
    """A chip's share of its host's network, which joins slices."""
    source: str

    @property
    def links_bytes_per_sec(self) -> float:
        """All links of a chip together, one direction."""
        return self.num_links * self.link_bytes_per_sec


# usable_bytes: the limit in the compiler's own message when a program asks for too
# much, seen with libtpu 0.0.52 for every kind below.
# Links: the documentation gives both directions of all links of a chip together. v4's
# network is from the scaling book, which expects about nine tenths of these link rates
# in practice.
_TPUS = (
    Chip(
        name="v4",
        device_kinds=("TPU v4",),
        peak_flops=275e12,
        usable_bytes=int(30.75 * _GIB),
        hbm_bytes_per_sec=1_200e9,
        link_bytes_per_sec=50e9,
        num_links=6,
        network_bytes_per_sec=6.25e9,
        # The two cores of a chip are one device, which is what JAX runs with. Links:
        # Jouppi et al. 2023, table 4.
        source=f"{_CLOUD_TPU}v4; arXiv:2304.01433; {_SCALING_BOOK}",
    ),
    Chip(
        name="v5e",
        device_kinds=("TPU v5 lite", "TPU v5e"),
        peak_flops=197e12,
        usable_bytes=int(15.75 * _GIB),
        hbm_bytes_per_sec=819e9,
        link_bytes_per_sec=50e9,
        num_links=4,
        network_bytes_per_sec=3.125e9,  # 6.4 Tbit/s a pod of 256
        source=f"{_CLOUD_TPU}v5e; {_SCALING_BOOK}",
    ),
    Chip(
        name="v5p",
        device_kinds=("TPU v5", "TPU v5p"),
        peak_flops=459e12,
        usable_bytes=int(95.73 * _GIB),
        hbm_bytes_per_sec=2_765e9,
        link_bytes_per_sec=100e9,
        num_links=6,
        network_bytes_per_sec=6.25e9,
        source=f"{_CLOUD_TPU}v5p; {_SCALING_BOOK}",
    ),
    Chip(
        name="v6e",
        device_kinds=("TPU v6 lite", "TPU v6e"),
        peak_flops=918e12,
        usable_bytes=int(31.24 * _GIB),
        hbm_bytes_per_sec=1_638e9,
        link_bytes_per_sec=100e9,
        num_links=4,
        network_bytes_per_sec=12.5e9,  # 25.6 Tbit/s a pod of 256
        source=f"{_CLOUD_TPU}v6e; {_SCALING_BOOK}",
    ),
)
CHIPS: Mapping[str, Chip] = {chip.name: chip for chip in _TPUS}
"""The chips by the name in a topology."""

PEAK_FLOPS: Mapping[str, float] = {
    **{kind: chip.peak_flops for chip in _TPUS for kind in chip.device_kinds},
    # Two devices share a chip. Source: https://docs.cloud.google.com/tpu/docs/tpu7x
    "TPU7x": 2_307e12 / 2,
    # NVIDIA's data sheets give rates with 2:4 sparsity; these are the dense halves.
    # Sources: https://www.nvidia.com/en-us/data-center/ and then a100/, h100/, h200/, and
    # dgx-b200/ and hgx/ for B200.
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2_250e12,
}
"""Dense matrix products with bfloat16 inputs of one JAX device, FLOP/s, by its
`jax.Device.device_kind`. No CPU is among them.

Kinds are compared whole, since a longer name means another chip: a part of one (MIG), a
slower card, less memory."""
