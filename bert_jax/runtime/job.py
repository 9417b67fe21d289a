"""Which job this process belongs to, read from what its launcher left it.

JAX's own detection does the reading where it knows a launcher; added here: that a
process alone on a node keeps all its devices, Open MPI 5, JobSets without Kubernetes'
API, and errors that say what is missing.
"""

import os
import zlib
from collections.abc import Callable
from typing import NamedTuple

from jax._src import cloud_tpu_init, clusters

from bert_jax.config import ClusterConfig

# Ports of processes on one machine that agree on no other; above what systems hand out.
_FIRST_PORT, _NUM_PORTS = 61_440, 4_096
_GKE_PORT = 6_002
_GKE_COUNT = ("NNODES", "JAX_NUM_PROCESSES")
_GKE_NUMBER = ("NODE_RANK", "JAX_PROCESS_ID", "JOB_COMPLETION_INDEX")


class Job(NamedTuple):
    """A job of several processes, as one of them sees it."""

    coordinator: str
    """HOST:PORT of process 0."""
    num_processes: int
    process_id: int
    found: str
    """Where this was learnt, in words."""
    local_device_ids: tuple[int, ...] | None = None
    """GPUs of this process, where several share a machine; `None` for all."""

    def __str__(self) -> str:
        return (
            f"process {self.process_id} of {self.num_processes} ({self.found}, "
            f"coordinator {self.coordinator})"
        )


def find_job(cfg: ClusterConfig) -> Job | None:
    """The job of this process, or `None` when it is alone.

    Only on a TPU VM is anybody asked over the network: its metadata server.

    Raises:
        ValueError: the kind that `cfg` names has left nothing here to join by.
    """
    if cfg.kind == "none":
        return None
    if cfg.kind == "flags":
        assert cfg.coordinator is not None
        assert cfg.num_processes is not None
        assert cfg.process_id is not None
        job = Job(cfg.coordinator, cfg.num_processes, cfg.process_id, "flags")
        return job if job.num_processes > 1 else None
    kinds = [name for name in _KINDS if cfg.kind in (None, name)]
    for kind in kinds:
        is_here, read, how_to = _KINDS[kind]
        if is_here():
            found = _checked(kind, read)
            return found if found.num_processes > 1 else None
        if cfg.kind is not None:
            raise ValueError(f"ClusterConfig.kind={kind!r}, but {how_to}")
    return None


def _checked(kind: str, read: Callable[[], Job]) -> Job:
    try:
        job = read()
        if not 0 <= job.process_id < job.num_processes:
            raise ValueError(f"it says {job.process_id} of {job.num_processes}")
    except (KeyError, ValueError, RuntimeError, OSError) as error:
        what = f"{error} is not set" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"The job could not be read from {kind}'s environment: {what}. Start it as "
            "launch/ shows, or pass --cluster.kind flags with --cluster.coordinator, "
            "--cluster.num-processes and --cluster.process-id; --cluster.kind none runs "
            "one process alone."
        ) from error
    return job


def _own_or(address: Callable[[], str], port: int | str | None = None) -> str:
    """What `JAX_COORDINATOR_ADDRESS` says, else what the launcher does."""
    own = os.environ.get("JAX_COORDINATOR_ADDRESS")
    if not own:
        return address()
    if ":" in own:
        return own
    port = os.environ.get("JAX_COORDINATOR_PORT", port)
    if port is None:
        raise ValueError(f"JAX_COORDINATOR_ADDRESS={own} has no port (HOST:PORT)")
    return f"{own}:{port}"


def _devices_of(place: int, neighbours: int) -> tuple[int, ...] | None:
    """GPUs of the process that is number `place` of `neighbours` on a machine.

    `None` where it is alone there, or where the launcher has already shown each
    process only its own.
    """
    if neighbours == 1 or "JAX_LOCAL_DEVICE_IDS" in os.environ:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return (place,)
    each = len(visible.split(",")) // neighbours
    return tuple(range(place * each, (place + 1) * each)) or None


def _in_slurm_step() -> bool:
    return clusters.SlurmCluster.is_env_present()


def _slurm() -> Job:
    cluster = clusters.SlurmCluster
    environ = os.environ
    node = int(environ.get("SLURM_NODEID", 0))
    tasks = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ["SLURM_TASKS_PER_NODE"]
    return Job(
        _own_or(
            lambda: cluster.get_coordinator_address(
                timeout_secs=None,
                override_coordinator_port=environ.get("JAX_COORDINATOR_PORT"),
            )
        ),
        int(environ.get("SLURM_STEP_NUM_TASKS") or cluster.get_process_count()),
        cluster.get_process_id(),
        f"Slurm step {environ.get('SLURM_JOB_ID')}.{environ.get('SLURM_STEP_ID', '?')}",
        _devices_of(int(environ["SLURM_LOCALID"]), _tasks_of_node(tasks, node)),
    )


def _tasks_of_node(text: str, node: int) -> int:
    """Such as `4(x2),3`: two nodes with four tasks each, and one with three."""
    tasks: list[int] = []
    for part in text.split(","):
        number, _, times = part.partition("(x")
        tasks += [int(number)] * int(times.rstrip(")") or 1)
    if node >= len(tasks):
        raise ValueError(f"SLURM_NODEID={node} is not in SLURM_TASKS_PER_NODE={text}")
    return tasks[node]


def _under_mpirun() -> bool:
    return "OMPI_COMM_WORLD_SIZE" in os.environ


def _mpi() -> Job:
    environ = os.environ
    size, rank = (int(environ[f"OMPI_COMM_WORLD_{x}"]) for x in ("SIZE", "RANK"))
    place, neighbours = (
        int(environ[f"OMPI_COMM_WORLD_LOCAL_{x}"]) for x in ("RANK", "SIZE")
    )

    def address() -> str:
        if clusters.OmpiCluster.is_env_present():  # Open MPI 4 and older
            return clusters.OmpiCluster.get_coordinator_address(
                timeout_secs=None,
                override_coordinator_port=environ.get("JAX_COORDINATOR_PORT"),
            )
        if size == neighbours:
            name = environ.get("PMIX_NAMESPACE", "")
            port = _FIRST_PORT + zlib.crc32(name.encode()) % _NUM_PORTS
            return f"127.0.0.1:{environ.get('JAX_COORDINATOR_PORT', port)}"
        raise ValueError(
            "Open MPI 5 does not say where rank 0 runs; start with `mpirun -x "
            "JAX_COORDINATOR_ADDRESS=HOST:PORT`, HOST being the first of --host or the "
            "host file"
        )

    own_devices = _devices_of(place, neighbours)
    return Job(_own_or(address), size, rank, "Open MPI", own_devices)


def _in_jobset() -> bool:
    if "TPU_WORKER_HOSTNAMES" in os.environ and "TPU_WORKER_ID" in os.environ:
        return cloud_tpu_init.running_in_cloud_tpu_vm and _may_use_tpu()
    return "JAX_COORDINATOR_ADDRESS" in os.environ and any(
        name in os.environ for name in _GKE_COUNT
    )


def _gke() -> Job:
    if "TPU_WORKER_HOSTNAMES" in os.environ and "TPU_WORKER_ID" in os.environ:
        return _tpu_job(clusters.GkeTpuCluster, "TPU slice on GKE")
    return Job(
        _own_or(lambda: "", _GKE_PORT),
        int(_first_of(_GKE_COUNT)),
        int(_first_of(_GKE_NUMBER)),
        "JobSet on Kubernetes",
    )


def _first_of(names: tuple[str, ...]) -> str:
    for name in names:
        if os.environ.get(name):
            return os.environ[name]
    raise ValueError(f"none of {', '.join(names)} is set")


def _on_tpu_vm() -> bool:
    return _may_use_tpu() and clusters.GceTpuCluster.is_env_present()


def _tpu_vm() -> Job:
    return _tpu_job(clusters.GceTpuCluster, "TPU VM metadata")


def _may_use_tpu() -> bool:
    platforms = os.environ.get("JAX_PLATFORMS", "")
    return not platforms or "tpu" in platforms.split(",")


def _tpu_job(cluster: type[clusters.ClusterEnv], found: str) -> Job:
    count = cluster.get_process_count()
    if count == 1:
        return Job("", 1, 0, found)
    address = _own_or(
        lambda: cluster.get_coordinator_address(
            timeout_secs=300,
            override_coordinator_port=os.environ.get("JAX_COORDINATOR_PORT"),
        )
    )
    return Job(address, count, cluster.get_process_id(), found)


# The innermost launcher first: mpirun may have been called in a Slurm job, and both on a
# TPU VM. Of each: is it here, what does it say, and what to do where it is not.
_KINDS: dict[str, tuple[Callable[[], bool], Callable[[], Job], str]] = {
    "mpi": (
        _under_mpirun,
        _mpi,
        "OMPI_COMM_WORLD_SIZE is not set; start the command with Open MPI's `mpirun`.",
    ),
    "slurm": (
        _in_slurm_step,
        _slurm,
        "this is no step of a Slurm job (SLURM_STEP_NODELIST, SLURM_PROCID, ... are not "
        "set); start the command with `srun`.",
    ),
    "gke": (
        _in_jobset,
        _gke,
        "neither GKE's TPU_WORKER_ID and TPU_WORKER_HOSTNAMES (with chips that JAX sees) "
        "nor JAX_COORDINATOR_ADDRESS with NNODES and NODE_RANK are set; see launch/.",
    ),
    "tpu": (
        _on_tpu_vm,
        _tpu_vm,
        "this is no TPU VM with chips that JAX may use (libtpu installed, JAX_PLATFORMS "
        "empty or with tpu); start the command on all workers of the slice.",
    ),
}
