"""Which job this process belongs to, read from what its launcher left it.

JAX reads the same environments, but only within `jax.distributed.initialize`. The roll
call comes before that, and needs the address of process 0 and the number of processes.
"""

import glob
import importlib.util
import os
import re
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from bert_jax.config import ClusterConfig

# The port of process 0 on hosts that run one job only; JAX takes the same.
_HOST_PORT = 8_482
# Jobs that may share a machine choose among these ports by their number, as JAX does.
_FIRST_PORT, _NUM_PORTS = 61_440, 4_096
_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes"
_GKE_TPU = ("TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES")
_GKE_GPU = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JOB_COMPLETION_INDEX")


class Job(NamedTuple):
    """A job of several processes, as one of them sees it."""

    coordinator: str
    """HOST:PORT of process 0."""
    num_processes: int
    process_id: int
    found: str
    """What told so, in words."""
    local_device_ids: tuple[int, ...] | None = None
    """The GPUs of this process, where several processes share a machine; `None`: all."""

    def __str__(self) -> str:
        return (
            f"process {self.process_id} of {self.num_processes} ({self.found}, "
            f"coordinator {self.coordinator})"
        )


def find_job(cfg: ClusterConfig) -> Job | None:
    """The job of this process, or `None` when it is alone.

    On a machine with TPU chips this asks Google Cloud's metadata server; elsewhere it
    only reads the environment.

    Raises:
        ValueError: the launcher that `cfg.kind` names did not start this process, or has
            left something that cannot be read.
    """
    if cfg.kind == "none":
        return None
    if cfg.kind == "flags":
        assert cfg.coordinator is not None
        assert cfg.num_processes is not None
        assert cfg.process_id is not None
        job = Job(cfg.coordinator, cfg.num_processes, cfg.process_id, "flags")
        return job if job.num_processes > 1 else None
    for kind in (name for name in _KINDS if cfg.kind in (None, name)):
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
    except (KeyError, ValueError, OSError) as error:
        what = f"{error} is not set" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"The job could not be read from {kind}'s environment: {what}. Start it as "
            "launch/ shows, or pass --cluster.kind flags with --cluster.coordinator, "
            "--cluster.num-processes and --cluster.process-id; --cluster.kind none runs "
            "one process alone."
        ) from error
    return job


def _address(host: str, port: int) -> str:
    """HOST:PORT of process 0; JAX_COORDINATOR_ADDRESS and _PORT go first."""
    own = os.environ.get("JAX_COORDINATOR_ADDRESS") or host
    return (
        own if ":" in own else f"{own}:{os.environ.get('JAX_COORDINATOR_PORT', port)}"
    )


def _port_of(job_number: int) -> int:
    return _FIRST_PORT + job_number % _NUM_PORTS


def _devices_of(place: int, neighbours: int) -> tuple[int, ...] | None:
    """The GPUs of process number `place` among `neighbours` processes on a machine.

    `None` where the process is alone there, or where the launcher shows each process only
    its own GPUs.
    """
    if neighbours == 1 or "JAX_LOCAL_DEVICE_IDS" in os.environ:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return (place,)
    each = len(visible.split(",")) // neighbours
    return tuple(range(place * each, (place + 1) * each)) or None


def _in_slurm_step() -> bool:
    needed = ("JOB_ID", "STEP_NODELIST", "NTASKS", "PROCID", "LOCALID")
    return all(f"SLURM_{name}" in os.environ for name in needed)


def _slurm() -> Job:
    environ = os.environ
    tasks = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ["SLURM_TASKS_PER_NODE"]
    neighbours = _tasks_of_node(tasks, int(environ.get("SLURM_NODEID", 0)))
    number = environ["SLURM_JOB_ID"]
    return Job(
        _address(_first_node(environ["SLURM_STEP_NODELIST"]), _port_of(int(number))),
        int(environ.get("SLURM_STEP_NUM_TASKS") or environ["SLURM_NTASKS"]),
        int(environ["SLURM_PROCID"]),
        f"Slurm step {number}.{environ.get('SLURM_STEP_ID', '?')}",
        _devices_of(int(environ["SLURM_LOCALID"]), neighbours),
    )


def _first_node(text: str) -> str:
    """The first node of a list: `gpu012` of `gpu[012-013,020],login`."""
    match = re.match(r"([^,\[]+)(?:\[(\w+)[^\]]*\]([^,\[]*))?", text)
    if match is None:
        raise ValueError(f"SLURM_STEP_NODELIST={text} names no node")
    return "".join(part or "" for part in match.groups())


def _tasks_of_node(text: str, node: int) -> int:
    """The tasks of a node. `4(x2),3` means: two nodes with four tasks, one with three."""
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
    # Open MPI 4 says where mpirun, and with it rank 0, runs: "123.0;tcp://10.0.0.1,…:99".
    launcher = environ.get("OMPI_MCA_orte_hnp_uri", "")
    match = re.search(r"tcp://([^,:]+)", launcher)
    host = match.group(1) if match else "127.0.0.1" if size == neighbours else ""
    if not host and not environ.get("JAX_COORDINATOR_ADDRESS"):
        raise ValueError(
            "Open MPI 5 does not say where rank 0 runs; start with `mpirun -x "
            "JAX_COORDINATOR_ADDRESS=HOST:PORT`, HOST being the first of --host or the "
            "host file"
        )
    same_for_all = launcher or environ.get("PMIX_NAMESPACE", "")
    port = _port_of(zlib.crc32(same_for_all.encode()))
    own_devices = _devices_of(place, neighbours)
    return Job(_address(host, port), size, rank, "Open MPI", own_devices)


def _on_gke() -> bool:
    if all(name in os.environ for name in _GKE_TPU):
        return _may_use_tpu()
    return all(name in os.environ for name in _GKE_GPU[:2])


def _gke() -> Job:
    environ = os.environ
    if all(name in environ for name in _GKE_TPU):
        workers = (
            environ.get("TPU_PROCESS_ADDRESSES") or environ["TPU_WORKER_HOSTNAMES"]
        )
        number = int(environ["TPU_WORKER_ID"])
        return _tpu_job(workers.split(","), number, environ, "TPU slice on GKE")
    host, count, place = (environ[name] for name in _GKE_GPU)
    address = _address(host, _HOST_PORT)
    return Job(address, int(count), int(place), "JobSet on Kubernetes")


def _on_tpu_vm() -> bool:
    if not _may_use_tpu() or "TPU_SKIP_MDS_QUERY" in os.environ or not _sees_chips():
        return False
    try:
        return bool(_metadata("agent-worker-number"))
    except OSError:
        return False


def _tpu_vm() -> Job:
    # One worker is NAME:NUMBER:ADDRESS or ADDRESS.
    endpoints = _metadata("worker-network-endpoints").split(",")
    workers = [endpoint.split(":")[-1] for endpoint in endpoints]
    lines = (line.partition(":") for line in _metadata("tpu-env").splitlines())
    settings = {name.strip(): value.strip().strip("'") for name, _, value in lines}
    number = int(_metadata("agent-worker-number"))
    return _tpu_job(workers, number, {**settings, **os.environ}, "TPU VM metadata")


def _may_use_tpu() -> bool:
    platforms = os.environ.get("JAX_PLATFORMS", "")
    asked_for = not platforms or "tpu" in platforms.split(",")
    return asked_for and importlib.util.find_spec("libtpu") is not None


def _sees_chips() -> bool:
    return bool(glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"))


def _metadata(key: str) -> str:
    """An attribute of this machine, from Google Cloud's metadata server.

    Source: https://docs.cloud.google.com/compute/docs/metadata/querying-metadata
    """
    request = urllib.request.Request(
        f"{_METADATA}/{key}", headers={"Metadata-Flavor": "Google"}
    )
    no_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with no_proxy.open(request, timeout=10) as answer:
        return answer.read().decode()


def _tpu_job(
    workers: list[str], number: int, settings: Mapping[str, str], found: str
) -> Job:
    """The job of one slice, or of several that libtpu joins (MEGASCALE_*)."""
    num_slices = int(settings.get("MEGASCALE_NUM_SLICES") or 1)
    slice_number = int(settings.get("MEGASCALE_SLICE_ID") or 0)
    first = settings.get("MEGASCALE_COORDINATOR_ADDRESS") or workers[0]
    return Job(
        _address(first.split(":")[0], _HOST_PORT),
        num_slices * len(workers),
        slice_number * len(workers) + number,
        found,
    )


# By kind: whether its launcher started this process, what it says, and what to do where it
# did not. The innermost launcher comes first: a Slurm job may call mpirun.
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
        _on_gke,
        _gke,
        f"neither {' and '.join(_GKE_TPU)} (with libtpu installed) nor "
        f"{', '.join(_GKE_GPU)} are set; start TPU pods as launch/gke does, and set "
        "the latter in GPU pods.",
    ),
    "tpu": (
        _on_tpu_vm,
        _tpu_vm,
        "this is no TPU VM with chips that JAX may use (libtpu installed, JAX_PLATFORMS "
        "empty or with tpu); start the command on all workers of the slice.",
    ),
}
