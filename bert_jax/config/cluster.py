"""How the processes of one job find each other."""

import dataclasses
from typing import Literal

from bert_jax.config.checks import (
    require,
    require_fitting,
    require_positive,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Which job this process belongs to. It changes no number of a run."""

    kind: Literal["none", "tpu", "gke", "slurm", "mpi", "flags"] | None = None
    """Where a process learns which job it belongs to. none: it is alone. tpu: from the
    metadata of a TPU VM. gke: from GKE's environment variables. slurm: from Slurm's. mpi:
    from Open MPI's. flags: from the three fields below. Default: what the environment
    shows."""
    coordinator: str | None = None
    """HOST:PORT of process 0, for --cluster.kind flags."""
    num_processes: int | None = None
    """Number of processes of the job, for --cluster.kind flags."""
    process_id: int | None = None
    """Number of this process, from 0, for --cluster.kind flags."""
    timeout_secs: int = 300
    """Seconds to wait at the start until all processes have reported."""

    def __post_init__(self) -> None:
        require_fitting(self)
        given = [
            name
            for name in ("coordinator", "num_processes", "process_id")
            if getattr(self, name) is not None
        ]
        require(
            self.kind == "flags" or not given,
            f"ClusterConfig.{', '.join(given)} would be ignored: kind={self.kind!r}. "
            "Set kind='flags' or leave it out.",
        )
        require(
            self.kind != "flags" or len(given) == 3,
            "ClusterConfig.kind='flags' needs coordinator, num_processes and process_id; "
            f"given: {', '.join(given) or 'none'}.",
        )
        require_positive(self, "timeout_secs")
        if self.num_processes is not None and self.process_id is not None:
            require(
                0 <= self.process_id < self.num_processes,
                f"ClusterConfig.process_id={self.process_id} is not one of "
                f"num_processes={self.num_processes}; they are numbered from 0.",
            )
