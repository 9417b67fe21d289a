"""What the sections of `benchmarks.run` need to know, and how much time they have."""

import dataclasses
import time

from benchmarks.measure import read_findings
from benchmarks.sections import Settings

PEAK = "peak"
"""Section that measures large products; shares are stated against its figures."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings(Settings):
    """What all sections of `benchmarks.run` need to know."""

    platform: str
    """Of JAX: "cpu", "gpu" or "tpu"."""
    device_kind: str
    """As JAX names it, such as "NVIDIA H200"."""
    memory_bytes: float
    """Of the device, or of the host where that is the device."""
    quick: bool = False
    """Whether only the most important candidates take part."""
    ends_at: float = float("inf")
    """`time.time()` at which a section should have written all that it has."""

    def seconds_left(self) -> float:
        return self.ends_at - time.time()

    def peak_flops(self, dtype: str) -> float | None:
        """FLOP/s of the fastest large product with such inputs, or None: not measured."""
        figures, _ = read_findings(self.findings(PEAK))
        found = [max(f.values) for f in figures if f.of.endswith(dtype)]
        return 1e9 * max(found) if found else None
