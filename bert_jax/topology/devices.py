"""Machines by name, such as v5e:4x4, and the JAX devices to compile for."""

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Iterator

import jax
from jax.experimental import topologies

from bert_jax.runtime import start
from bert_jax.runtime.chips import CHIPS, Chip

# The shapes of a slice that Google Cloud offers.
# Source: https://docs.cloud.google.com/tpu/docs/v5e and /v6e.
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
# Slices below 64 chips. In larger ones every side is a multiple of 4.
# Source: https://docs.cloud.google.com/tpu/docs/v4 and /v5p.
_SOLID = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
_FLAT_KINDS = ("v5e", "v6e")
# Kind -> chips of the largest slice; of v5p, of the largest job: a pod has 8,960.
_SOLID_KINDS = {"v4": 4_096, "v5p": 6_144}
# JAX makes each of them, which takes minutes for many more.
_MOST_CPUS = 4_096

_KNOWN = (
    f"Known are v5e and v6e with {', '.join(_FLAT)}; v4 and v5p with "
    f"{', '.join(_SOLID)}, or with three ascending multiples of 4 such as 4x4x8; and cpu "
    f"with a number of devices up to {_MOST_CPUS:,}, such as cpu:8. A suffix such as "
    "x2slices gives the number of slices."
)

# libtpu reads these when it is loaded.
_LIBTPU_ENVIRONMENT = {
    # Otherwise libtpu asks the metadata server of a TPU virtual machine and waits for it.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    # Any type stops a warning that no TPU was found; the topology is given separately.
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    # Compiling takes no chip, so several processes may load libtpu at once.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """The chips of one machine, in one or several slices.

    Raises:
        ValueError: there is no such machine; the message lists the known ones.
    """

    kind: str
    """v4, v5e, v5p, v6e or cpu."""
    shape: tuple[int, ...]
    """Chips along each side of a slice; for a CPU, the number of devices."""
    slices: int = 1
    """Number of slices, which the data-center network joins."""

    def __post_init__(self) -> None:
        if self.slices < 1:
            raise ValueError(f"{self.slices} slices; at least 1 was expected.")
        if not self._is_known():
            raise ValueError(f"no topology {self.slice_name!r} is known. {_KNOWN}")

    @property
    def slice_name(self) -> str:
        """The name of one slice, such as v5e:4x4."""
        return f"{self.kind}:{self._sides}"

    @property
    def num_devices(self) -> int:
        """JAX devices in all slices; each chip is one device."""
        return math.prod(self.shape) * self.slices

    @property
    def is_tpu(self) -> bool:
        return self.kind != "cpu"

    @property
    def chip(self) -> Chip | None:
        """The rates and memory of one chip; `None` for a CPU, whose rates are unknown."""
        return CHIPS.get(self.kind)

    def __str__(self) -> str:
        name = self.slice_name
        return name if self.slices == 1 else f"{name}x{self.slices}slices"

    @property
    def _sides(self) -> str:
        return "x".join(str(side) for side in self.shape)

    def _is_known(self) -> bool:
        if self.kind == "cpu":
            return len(self.shape) == 1 and 1 <= self.num_devices <= _MOST_CPUS
        if self.kind in _FLAT_KINDS:
            return self._sides in _FLAT
        if self.kind in _SOLID_KINDS and len(self.shape) == 3:
            return self._sides in _SOLID or (
                all(side > 0 and side % 4 == 0 for side in self.shape)
                and list(self.shape) == sorted(self.shape)
                and math.prod(self.shape) <= _SOLID_KINDS[self.kind]
            )
        return False


def parse_topology(text: str, slices: int | None = None) -> Topology:
    """Reads v5e:4x4, v5e:4x4x2slices or cpu:8.

    Args:
        slices: the number of slices, where `text` does not give it.

    Raises:
        ValueError: `text` is no topology, names none that is known, or gives the number
            of slices a second time.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*?)(?:x(\d+)slices?)?", text.strip())
    if match is None:
        raise ValueError(f"--topology {text}: this is not a topology. {_KNOWN}")
    kind, sides, suffix = match.groups()
    if slices is not None and suffix is not None:
        raise ValueError(
            f"--topology {text} and --slices {slices}: both give the number of slices; "
            "leave one out."
        )
    count = int(suffix) if suffix is not None else 1 if slices is None else slices
    try:
        return Topology(kind, tuple(int(side) for side in sides.split("x")), count)
    except ValueError as error:
        raise ValueError(f"--topology {text}: {error}") from None


def devices_of(topology: Topology) -> list[jax.Device]:
    """The devices to compile for: descriptions of TPU chips, or real CPU devices.

    A process keeps the number of CPU devices that JAX started with. For a CPU topology of
    several devices, call this before anything else uses JAX.

    Raises:
        ValueError: the topology is a TPU's, and libtpu is not installed or refuses it; or
            the process has too few CPU devices.
    """
    # While JAX traces it computes small constants. It shall use the CPU for them and not
    # open a TPU that this machine may have, because that would lock others out.
    jax.config.update("jax_platforms", "cpu")
    if not topology.is_tpu:
        return _cpu_devices(topology.num_devices)
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            "compiling for a TPU needs the package libtpu, which is not installed: "
            "pip install 'bert_jax[aot]' (it runs on any Linux machine; no TPU needed)."
        )
    # JAX runs the two cores of a v4 chip as one device; libtpu must be told so.
    options = {"chip_config_name": "megacore"} if topology.kind == "v4" else {}
    if topology.slices > 1:
        options["num_slices"] = topology.slices  # type: ignore[assignment]
    with _environment(_LIBTPU_ENVIRONMENT):
        try:
            description = topologies.get_topology_desc(
                platform="tpu", topology_name=topology.slice_name, **options
            )
        except jax.errors.JaxRuntimeError as error:
            raise ValueError(f"libtpu refuses {topology}: {error}") from None
        finally:
            start.catch_again()
    return list(description.devices)


def _cpu_devices(count: int) -> list[jax.Device]:
    with contextlib.suppress(RuntimeError):  # JAX has started; see how many it has
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise ValueError(
            f"--topology cpu:{count}: JAX has already started with {len(devices)} CPU "
            f"devices; start it with jax_num_cpu_devices={count}."
        )
    return devices[:count]


@contextlib.contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Sets environment variables for a while, except those that the user has set."""
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
