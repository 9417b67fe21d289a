"""Who is measured on which platform, the most important first, and what is promised."""

import dataclasses
from typing import Any

from benchmarks.train_candidates import Candidate
from benchmarks.train_models import Task

_FLOAT32, _BFLOAT16 = ("float32",), ("bfloat16",)
# What a careful user makes of the library; the "best that a user could make".
_BEST = {"attention": "sdpa", "gather": True, "fused": True}
_COMPILED = {**_BEST, "compile": True}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ratio:
    """Our fastest with one of these types over the fastest peer with one of those."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    at_least: float
    note: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """One task and its candidates."""

    task: Task
    candidates: tuple[Candidate, ...]
    num_quick: int
    """Of them, those of a quick run."""
    ratios: tuple[Ratio, ...] = ()
    devices: tuple[str, ...] = ()
    """Words of the kinds of device that `sequences_per_sec` is promised for."""
    sequences_per_sec: dict[str, float] = dataclasses.field(default_factory=dict)
    """By type of ours."""

    def promised(self, device_kind: str, dtype: str) -> float | None:
        """Sequences a second, or None: nothing is promised for this device and type."""
        if not any(word in device_kind for word in self.devices):
            return None
        return self.sequences_per_sec.get(dtype)


def _ours(dtype: Any, rows: int, **options: Any) -> Candidate:
    return Candidate(library="bert_jax", dtype=dtype, rows=rows, options=options)


def _peer(dtype: Any, rows: int, **options: Any) -> Candidate:
    return Candidate(library="PyTorch", dtype=dtype, rows=rows, options=options)


_CPU_RATIOS = (
    Ratio(ours=_FLOAT32, theirs=_FLOAT32, at_least=1.0, note="The aim is 1.3."),
    Ratio(ours=_BFLOAT16, theirs=_BFLOAT16, at_least=1.0, note="The aim is level."),
)


def _cpu(size: str, length: int, rows: int, *more: Candidate) -> Plan:
    """Both types, ours and the best ways of the peer, then `more`.

    The peer's compiled step comes after them: it takes as long to be warm as all others,
    and is measured where there is time for that.
    """
    return Plan(
        task=Task(size=size, length=length),
        candidates=(
            _ours("float32", rows, scan_layers=False),
            _peer("float32", rows, **_BEST),
            _ours("bfloat16", rows, scan_layers=False),
            _peer("bfloat16", rows, **_BEST),
            _peer("float32", rows, **_COMPILED),
            _peer("bfloat16", rows, **_COMPILED),
            *more,
        ),
        num_quick=4,
        ratios=_CPU_RATIOS,
    )


_GPU_RATIOS = (
    Ratio(ours=_BFLOAT16, theirs=(*_FLOAT32, *_BFLOAT16), at_least=1.5),
    Ratio(ours=("fp8",), theirs=(*_FLOAT32, *_BFLOAT16), at_least=1.5),
    Ratio(ours=_FLOAT32, theirs=_FLOAT32, at_least=1.0),
)


def _gpu(
    size: str, length: int, rows: int, *, packed: bool = False, **promised: float
) -> Plan:
    """bfloat16 first; then other ways of ours and other sizes of batch."""
    many = 2 * rows
    ours: dict[str, Any] = {"attention": "triton"}
    unrolled = {**ours, "scan_layers": False}
    return Plan(
        task=Task(size=size, length=length, packed=packed),
        candidates=(
            _ours("bfloat16", rows, **ours),
            _peer("bfloat16", rows, **_COMPILED),
            _ours("bfloat16", rows, attention="xla"),
            _ours("bfloat16", rows, **unrolled),
            _ours("fp8", rows, **unrolled),
            _peer("bfloat16", rows, **_BEST),
            _ours("bfloat16", many, **ours),
            _ours("bfloat16", many, **unrolled),
            _ours("fp8", many, **unrolled),
            _peer("bfloat16", many, **_COMPILED),
            _ours("bfloat16", many, **ours, mlm_logits="chunked"),
            _ours("bfloat16", many, attention="xla", remat="attention"),
            _ours("bfloat16", many, **ours, remat="dots"),
            _peer("bfloat16", rows, **_COMPILED, mode="reduce-overhead"),
            _peer("bfloat16", rows, **_COMPILED, mode="max-autotune-no-cudagraphs"),
            *(() if packed else (_peer("bfloat16", rows, attention="eager"),)),
            _ours("float32", rows // 2, **ours),
            _peer("float32", rows // 2, **_COMPILED),
        ),
        num_quick=2,
        ratios=_GPU_RATIOS,
        devices=("H200", "H100"),
        sequences_per_sec=promised,
    )


def _tpu(size: str, length: int, rows: int, *, packed: bool = False) -> Plan:
    """Ours alone: the peers have no build for TPUs."""
    return Plan(
        task=Task(size=size, length=length, packed=packed),
        candidates=(
            _ours("bfloat16", rows),
            _ours("bfloat16", rows, scan_layers=False),
            _ours("bfloat16", rows, attention="xla"),
            _ours("bfloat16", 2 * rows, remat="dots"),
        ),
        num_quick=1,
    )


PLANS: dict[str, tuple[Plan, ...]] = {
    "cpu": (
        _cpu(
            "mini",
            128,
            32,
            _ours("float32", 32, scan_layers=True),
            _peer("float32", 32, attention="eager"),
        ),
        _cpu("small", 128, 16, _ours("float32", 16, scan_layers=True)),
        _cpu("base", 128, 8),
        _cpu("base", 512, 2),
    ),
    "gpu": (
        _gpu("large", 512, 32, packed=True, bfloat16=1_000.0, fp8=1_300.0),
        _gpu("large", 128, 128, bfloat16=1_900.0),
        _gpu("base", 128, 256, bfloat16=5_500.0),
    ),
    "tpu": (
        _tpu("large", 512, 8, packed=True),
        _tpu("large", 128, 32),
        _tpu("base", 128, 64),
    ),
}
