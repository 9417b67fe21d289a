"""Machines by name, such as v5e:4x4, and the devices to compile for them."""

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
import sys
import tempfile
from collections.abc import Iterator

import jax
from jax.experimental import topologies

from bert_jax.runtime.chips import Chip, chip_named

# The shapes that Google Cloud gives, https://docs.cloud.google.com/tpu/docs/v5e and /v6e.
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
# Below 64 chips; from there on every side is a multiple of 4 (/tpu/docs/v4 and /v5p).
_SOLID = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
_TPU_KINDS = ("v4", "v5e", "v5p", "v6e")

# What libtpu reads when it is loaded. It would ask the metadata server of the virtual
# machine, which this one may not have, and wait for it.
_LIBTPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "",
    # Compiling takes no chip, so several may compile at once, or beside a training.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# Said at each load where no TPU is; the topology is given, so nothing follows from it.
_HARMLESS = "Failed to find host bounds for accelerator type"


class MissingLibtpuError(ValueError):
    """Compiling for a TPU needs the package `libtpu`, which is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "compiling for a TPU needs the package libtpu, which is not installed: "
            "pip install 'bert_jax[aot]' (it runs on any Linux machine; no TPU needed)."
        )


@dataclasses.dataclass(frozen=True)
class Topology:
    """The chips of one machine, in one or several slices.

    Raises:
        ValueError: no such machine; the known ones are listed.
    """

    kind: str
    """v4, v5e, v5p or v6e; or cpu."""
    shape: tuple[int, ...]
    """Chips along each side of a slice; of a CPU, the number of devices."""
    slices: int = 1
    """Joined by the data-center network; of a CPU, groups of devices."""

    def __post_init__(self) -> None:
        if self.slices < 1:
            raise ValueError(f"{self.slices} slices; at least 1 was expected.")
        if not self._is_known():
            raise ValueError(f"no topology {self.slice_name!r} is known. {_known()}")

    @property
    def slice_name(self) -> str:
        """Such as v5e:4x4."""
        return f"{self.kind}:{'x'.join(str(side) for side in self.shape)}"

    @property
    def num_devices(self) -> int:
        """Of all slices; a chip is one device."""
        return math.prod(self.shape) * self.slices

    @property
    def is_tpu(self) -> bool:
        return self.kind != "cpu"

    @property
    def chip(self) -> Chip | None:
        """Peaks, memory and links; `None` for a CPU, of which nothing is known."""
        return chip_named(self.kind)

    def __str__(self) -> str:
        name = self.slice_name
        return name if self.slices == 1 else f"{name}x{self.slices}slices"

    def _is_known(self) -> bool:
        if min(self.shape) < 1:
            return False
        if self.kind == "cpu":
            return len(self.shape) == 1
        chip = self.chip
        if self.kind not in _TPU_KINDS or chip is None:
            return False
        if len(self.shape) == 3:
            large = all(side % 4 == 0 for side in self.shape)
            listed = large or self._sides() in _SOLID
            ascending = large is False or list(self.shape) == sorted(self.shape)
            fits = math.prod(self.shape) <= chip.max_chips
            return self.kind in ("v4", "v5p") and listed and ascending and fits
        return self.kind in ("v5e", "v6e") and self._sides() in _FLAT

    def _sides(self) -> str:
        return "x".join(str(side) for side in self.shape)


def parse_topology(text: str, slices: int | None = None) -> Topology:
    """Reads v5e:4x4, v5e:4x4x2slices or cpu:8.

    Args:
        slices: as the suffix `x2slices`; not both.

    Raises:
        ValueError: it is no topology, or none that is known.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*?)(?:x(\d+)slices?)?", text.strip())
    if match is None:
        raise ValueError(f"--topology {text}: not read. {_known()}")
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
    """The devices to compile for: of a TPU descriptions only, of a CPU real ones.

    Must come before any other use of JAX where `topology` is a CPU of several devices,
    since a process has as many CPU devices as it started with.

    Raises:
        MissingLibtpuError: a TPU, and libtpu is not installed.
        ValueError: libtpu refuses the topology, or the process has too few CPU devices.
    """
    # What JAX itself computes while it traces is for the CPU, not for a TPU that may be
    # here: opening that would take it from others.
    jax.config.update("jax_platforms", "cpu")
    if not topology.is_tpu:
        return _cpu_devices(topology.num_devices)
    if importlib.util.find_spec("libtpu") is None:
        raise MissingLibtpuError
    # Not for the v4 alone: two cores of a chip are one device, as JAX runs them.
    options = {"chip_config_name": "megacore"} if topology.kind == "v4" else {}
    if topology.slices > 1:
        options["num_slices"] = topology.slices  # type: ignore[assignment]
    with _environment(_LIBTPU_ENVIRONMENT), _without_noise():
        try:
            description = topologies.get_topology_desc(
                platform="tpu", topology_name=topology.slice_name, **options
            )
        except jax.errors.JaxRuntimeError as error:
            raise ValueError(f"libtpu refuses {topology}: {error}") from None
    return list(description.devices)


def _cpu_devices(count: int) -> list[jax.Device]:
    with contextlib.suppress(RuntimeError):  # JAX runs already; see how many it has
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise ValueError(
            f"--topology cpu:{count}: JAX runs already, with {len(devices)} CPU devices; "
            f"start it with jax_num_cpu_devices={count}."
        )
    return devices[:count]


def _known() -> str:
    return (
        f"Known are v5e and v6e with {', '.join(_FLAT)}; v4 and v5p with "
        f"{', '.join(_SOLID)} and with three ascending multiples of 4, such as 4x4x8; "
        "cpu with a number of devices, such as cpu:8; each with x2slices behind it for "
        "two slices."
    )


@contextlib.contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """The variables for a while; what the user has set stays."""
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
    """Leaves one harmless line of libtpu out of stderr; all others pass."""
    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(real, 2)
            os.close(real)
            caught.seek(0)
            for line in caught.read().decode(errors="replace").splitlines():
                if _HARMLESS not in line:
                    print(line, file=sys.stderr)
