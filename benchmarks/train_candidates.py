"""Who takes part: a candidate trains one task with one library, in one way."""

import dataclasses
from typing import Any, Literal

from benchmarks.train_models import Task

Library = Literal["bert_jax", "PyTorch"]
# How options that are only on or off stand in a name.
_SWITCHES = {
    "scan_layers": ("scanned", "unrolled"),
    "gather": ("gathered head", ""),
    "fused": ("fused AdamW", ""),
    "compile": ("compiled", ""),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way of training a task."""

    library: Library
    dtype: Literal["float32", "bfloat16", "fp8"]
    """Of matrix products, with fp8 of the layers' weights alone and bfloat16 for all
    else; weights are float32 with every candidate."""
    rows: int
    """Of a batch."""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """bert_jax: fields of ModelConfig. PyTorch: see `train_torch.Options`."""

    @property
    def name(self) -> str:
        """As it stands in the tables; all that tells candidates of a task apart."""
        said = (_said(option, value) for option, value in self.options.items())
        parts = [self.library, self.dtype, *filter(None, said), f"{self.rows} rows"]
        return ", ".join(parts)

    @property
    def ours(self) -> bool:
        return self.library == "bert_jax"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """What a worker process is asked to train, as JSON can hold it."""

    task: Task
    candidate: Candidate
    platform: str
    """Of JAX: "cpu", "gpu" or "tpu"; a library that cannot use it is not measured."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Order":
        return cls(
            task=Task(**values["task"]),
            candidate=Candidate(**values["candidate"]),
            platform=values["platform"],
        )


def _said(option: str, value: Any) -> str:
    if option in _SWITCHES:
        return _SWITCHES[option][0 if value else 1]
    return {"remat": f"remat {value}", "mlm_logits": f"{value} logits"}.get(
        option, str(value)
    )
