"""Peak arithmetic, memory and links of accelerators, as their makers state them.

All figures are for one chip. They are nominal rates: estimates and MFU (model FLOPs
utilisation) compare with them, so a measured rate is a share of what the maker promises.
"""

import dataclasses

_GIB = 2**30
_CLOUD_TPU = "https://docs.cloud.google.com/tpu/docs/"
_NVIDIA = "https://www.nvidia.com/en-us/data-center/"
_SCALING_BOOK = "https://jax-ml.github.io/scaling-book/tpus"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One kind of accelerator. Rates are per second; a link's rate is for one direction."""

    name: str
    """The name in a topology, such as v5e."""
    device_kinds: tuple[str, ...]
    """What `jax.Device.device_kind` says, exactly."""
    peak_flops: float
    """Dense matrix products with bfloat16 inputs, FLOP/s."""
    hbm_bytes: int
    """Memory on the package, as its maker gives it."""
    usable_bytes: int | None
    """Memory that XLA's compiler may plan with. None: the runtime decides, as on GPUs
    (XLA_PYTHON_CLIENT_MEM_FRACTION)."""
    hbm_bytes_per_sec: float
    link_bytes_per_sec: float
    """TPU: of one link to a neighbour. GPU: of all links to the switch of the node."""
    num_links: int
    """Number of neighbours: 4 in a 2D torus, 6 in a 3D torus, 1 at a switch."""
    network_bytes_per_sec: float
    """A chip's share of its host's network, which joins slices or nodes."""
    max_chips: int
    """Chips of the largest slice, or behind one switch."""
    devices_per_chip: int = 1
    """Number of JAX devices that share one chip and its figures."""
    source: str

    @property
    def links_bytes_per_sec(self) -> float:
        """All links of a chip together, one direction."""
        return self.num_links * self.link_bytes_per_sec

    @property
    def device_peak_flops(self) -> float:
        """`peak_flops` of one JAX device, FLOP/s."""
        return self.peak_flops / self.devices_per_chip

    @property
    def device_usable_bytes(self) -> int | None:
        """`usable_bytes` of one JAX device."""
        if self.usable_bytes is None:
            return None
        return self.usable_bytes // self.devices_per_chip


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
        hbm_bytes=32 * _GIB,
        usable_bytes=int(30.75 * _GIB),
        hbm_bytes_per_sec=1_200e9,
        link_bytes_per_sec=50e9,
        num_links=6,
        network_bytes_per_sec=6.25e9,
        max_chips=4_096,
        # The two cores of a chip are one device, which is what JAX runs with. Links:
        # Jouppi et al. 2023, table 4.
        source=f"{_CLOUD_TPU}v4; arXiv:2304.01433; {_SCALING_BOOK}",
    ),
    Chip(
        name="v5e",
        device_kinds=("TPU v5 lite", "TPU v5e"),
        peak_flops=197e12,
        hbm_bytes=16 * _GIB,
        usable_bytes=int(15.75 * _GIB),
        hbm_bytes_per_sec=819e9,
        link_bytes_per_sec=50e9,
        num_links=4,
        network_bytes_per_sec=3.125e9,  # 6.4 Tbit/s a pod of 256
        max_chips=256,
        source=f"{_CLOUD_TPU}v5e; {_SCALING_BOOK}",
    ),
    Chip(
        name="v5p",
        device_kinds=("TPU v5", "TPU v5p"),
        peak_flops=459e12,
        # The documentation says 95, the compiler more; the scaling book says 96.
        hbm_bytes=96 * _GIB,
        usable_bytes=int(95.73 * _GIB),
        hbm_bytes_per_sec=2_765e9,
        link_bytes_per_sec=100e9,
        num_links=6,
        network_bytes_per_sec=6.25e9,
        max_chips=6_144,  # the largest job; a pod has 8,960
        source=f"{_CLOUD_TPU}v5p; {_SCALING_BOOK}",
    ),
    Chip(
        name="v6e",
        device_kinds=("TPU v6 lite", "TPU v6e"),
        peak_flops=918e12,
        hbm_bytes=32 * _GIB,
        usable_bytes=int(31.24 * _GIB),
        hbm_bytes_per_sec=1_638e9,
        link_bytes_per_sec=100e9,
        num_links=4,
        network_bytes_per_sec=12.5e9,  # 25.6 Tbit/s a pod of 256
        max_chips=256,
        source=f"{_CLOUD_TPU}v6e; {_SCALING_BOOK}",
    ),
    Chip(
        name="tpu7x",
        device_kinds=("TPU7x",),
        peak_flops=2_307e12,
        hbm_bytes=192 * _GIB,
        usable_bytes=2 * int(94.74 * _GIB),
        hbm_bytes_per_sec=7_380e9,
        link_bytes_per_sec=100e9,
        num_links=6,
        network_bytes_per_sec=12.5e9,
        max_chips=9_216,
        devices_per_chip=2,
        source=f"{_CLOUD_TPU}tpu7x; {_SCALING_BOOK}",
    ),
)

# Data sheets give rates with 2:4 sparsity; these are the dense halves. Networks are
# those of NVIDIA's own DGX of the generation: one adapter a GPU, 200 Gbit/s with A100
# and 400 Gbit/s since.
_GPUS = (
    Chip(
        name="a100-40gb",
        device_kinds=("NVIDIA A100-SXM4-40GB",),
        peak_flops=312e12,
        hbm_bytes=40 * 10**9,
        usable_bytes=None,
        hbm_bytes_per_sec=1_555e9,
        link_bytes_per_sec=300e9,
        num_links=1,
        network_bytes_per_sec=25e9,
        max_chips=8,
        source=f"{_NVIDIA}a100/",
    ),
    Chip(
        name="a100-80gb",
        device_kinds=("NVIDIA A100-SXM4-80GB",),
        peak_flops=312e12,
        hbm_bytes=80 * 10**9,
        usable_bytes=None,
        hbm_bytes_per_sec=2_039e9,
        link_bytes_per_sec=300e9,
        num_links=1,
        network_bytes_per_sec=25e9,
        max_chips=8,
        source=f"{_NVIDIA}a100/",
    ),
    Chip(
        name="h100",
        device_kinds=("NVIDIA H100 80GB HBM3",),
        peak_flops=989e12,
        hbm_bytes=80 * 10**9,
        usable_bytes=None,
        hbm_bytes_per_sec=3_350e9,
        link_bytes_per_sec=450e9,
        num_links=1,
        network_bytes_per_sec=50e9,
        max_chips=8,
        source=f"{_NVIDIA}h100/",
    ),
    Chip(
        name="h200",
        device_kinds=("NVIDIA H200",),
        peak_flops=989e12,
        hbm_bytes=141 * 10**9,
        usable_bytes=None,
        hbm_bytes_per_sec=4_800e9,
        link_bytes_per_sec=450e9,
        num_links=1,
        network_bytes_per_sec=50e9,
        max_chips=8,
        source=f"{_NVIDIA}h200/",
    ),
    Chip(
        name="b200",
        device_kinds=("NVIDIA B200",),
        peak_flops=2_250e12,
        hbm_bytes=180 * 10**9,
        usable_bytes=None,
        hbm_bytes_per_sec=8_000e9,
        link_bytes_per_sec=900e9,
        num_links=1,
        network_bytes_per_sec=50e9,
        max_chips=8,
        source=f"{_NVIDIA}dgx-b200/; {_NVIDIA}hgx/",
    ),
)

CHIPS = (*_TPUS, *_GPUS)


def chip_named(name: str) -> Chip | None:
    """The chip of a topology's name (v5e), or None: this table does not know it."""
    return next((chip for chip in CHIPS if chip.name == name), None)


def chip_of(device_kind: str) -> Chip | None:
    """The chip behind `jax.Device.device_kind`, or None: unknown, as every CPU is.

    Kinds are compared whole, since a longer name means another chip: a part of one
    (MIG), a slower card, less memory.
    """
    return next((chip for chip in CHIPS if device_kind in chip.device_kinds), None)
