"""Which job a process belongs to, from environments as launchers leave them."""

import os

import pytest

from bert_jax.config import ClusterConfig
from bert_jax.runtime import job as job_module
from bert_jax.runtime.job import Job, find_job

SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "gpu[012-013,020]",
    "SLURM_NTASKS": "3",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_TASKS_PER_NODE": "1(x3)",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "2",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}
HNP_URI = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"}
JOBSET = {
    "JAX_COORDINATOR_ADDRESS": "bert-node-0-0.bert:6002",
    "JAX_NUM_PROCESSES": "2",
    "JOB_COMPLETION_INDEX": "1",
}
GKE_TPU = {
    "TPU_WORKER_ID": "1",
    "TPU_WORKER_HOSTNAMES": "localhost,worker-1,worker-2,worker-3",
}
TPU_METADATA = {
    "agent-worker-number": "1",
    "worker-network-endpoints": "::127.0.0.1,::10.0.0.2",
    "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-8'\nMEGASCALE_NUM_SLICES: '2'\n"
    "MEGASCALE_SLICE_ID: '1'\nMEGASCALE_COORDINATOR_ADDRESS: '127.0.0.1'\n",
}


@pytest.fixture
def environment(monkeypatch):
    """environment({...}): what a launcher sets, and nothing of this machine's own."""
    for name in os.environ:
        if name.startswith(("SLURM", "OMPI", "PMIX", "TPU_", "JAX_", "CUDA", "JOB_")):
            monkeypatch.delenv(name)

    def use(variables: dict[str, str]) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return use


@pytest.fixture
def tpu_vm(monkeypatch, libtpu):
    """A machine with TPU chips, and the metadata server of a slice of two slices."""
    monkeypatch.setattr(job_module, "_sees_chips", lambda: True)
    monkeypatch.setattr(job_module, "_metadata", TPU_METADATA.__getitem__)


def test_a_laptop_is_alone(environment):
    assert find_job(ClusterConfig()) is None


def test_flags(environment):
    environment(SLURM)  # what is asked for by name goes first
    cfg = ClusterConfig(
        kind="flags", coordinator="10.0.0.1:1234", num_processes=2, process_id=1
    )
    assert find_job(cfg) == Job("10.0.0.1:1234", 2, 1, "flags")


def test_a_slurm_step_with_one_process_a_node_keeps_all_devices(environment):
    environment(SLURM)
    # 4711 in the last 4,096 ports, as JAX chooses it on every node alike.
    expected = Job(f"gpu012:{61_440 + 4_711 % 4_096}", 3, 2, "Slurm step 4711.0")
    assert find_job(ClusterConfig()) == expected
    assert find_job(ClusterConfig(kind="slurm")) == expected
    assert find_job(ClusterConfig(kind="none")) is None


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, (1,)),  # as JAX does: one device a process
        ("0,1,2,3,4,5,6,7", (2, 3)),
        ("0", None),  # --gpus-per-task=1: Slurm shows each its own
    ],
)
def test_slurm_processes_that_share_a_node_share_its_gpus(
    environment, visible, expected
):
    shared = {"SLURM_STEP_TASKS_PER_NODE": "4(x2),1", "SLURM_LOCALID": "1"}
    environment({**SLURM, **shared, "SLURM_NODEID": "1"})
    if visible is not None:
        environment({"CUDA_VISIBLE_DEVICES": visible})
    assert find_job(ClusterConfig()).local_device_ids == expected


def test_an_allocation_without_srun_is_no_job(environment):
    environment({k: v for k, v in SLURM.items() if not k.startswith("SLURM_STEP")})
    assert find_job(ClusterConfig()) is None
    with pytest.raises(ValueError, match="start the command with `srun`"):
        find_job(ClusterConfig(kind="slurm"))


def test_open_mpi_4_says_where_its_launcher_runs(environment):
    environment(SLURM | OPEN_MPI | HNP_URI)  # mpirun within a Slurm job
    job = find_job(ClusterConfig())
    assert job.coordinator.startswith("10.96.0.1:")
    assert job[1:] == (4, 3, "Open MPI", (1,))


def test_open_mpi_5_on_one_machine_agrees_on_a_port(environment):
    local = {"OMPI_COMM_WORLD_LOCAL_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "3"}
    environment(OPEN_MPI | local | {"PMIX_NAMESPACE": "prterun-vm-32311@1"})
    host, port = find_job(ClusterConfig()).coordinator.split(":")
    assert host == "127.0.0.1"
    assert 61_440 <= int(port) < 65_536


def test_open_mpi_5_on_several_machines_must_be_told(environment):
    environment(OPEN_MPI)
    with pytest.raises(ValueError, match="mpirun -x JAX_COORDINATOR_ADDRESS=HOST:PORT"):
        find_job(ClusterConfig())
    environment({"JAX_COORDINATOR_ADDRESS": "node1:5000"})
    assert find_job(ClusterConfig()).coordinator == "node1:5000"


def test_a_jobset(environment):
    environment(JOBSET)
    expected = Job("bert-node-0-0.bert:6002", 2, 1, "JobSet on Kubernetes")
    assert find_job(ClusterConfig()) == expected
    environment({"JAX_COORDINATOR_ADDRESS": "first", "JAX_COORDINATOR_PORT": "99"})
    assert find_job(ClusterConfig(kind="gke")).coordinator == "first:99"


def test_a_jobset_that_gives_no_number(environment):
    environment({k: v for k, v in JOBSET.items() if k != "JOB_COMPLETION_INDEX"})
    with pytest.raises(ValueError, match=r"gke's environment.*JOB_COMPLETION_INDEX"):
        find_job(ClusterConfig())


def test_a_tpu_slice_on_gke(environment, tpu_vm):
    environment(GKE_TPU | {"MEGASCALE_COORDINATOR_ADDRESS": "localhost"})
    environment({"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1"})
    assert find_job(ClusterConfig())[:3] == ("localhost:8482", 8, 5)
    environment({"JAX_PLATFORMS": "cpu"})  # the chips are not wanted
    assert find_job(ClusterConfig()) is None


def test_a_tpu_vm_of_two_slices(environment, tpu_vm):
    expected = Job("127.0.0.1:8482", 4, 3, "TPU VM metadata")
    assert find_job(ClusterConfig()) == expected
    assert find_job(ClusterConfig(kind="tpu")) == expected


def test_a_tpu_vm_that_is_its_whole_slice(environment, tpu_vm, monkeypatch):
    monkeypatch.setitem(TPU_METADATA, "agent-worker-number", "0")
    monkeypatch.setitem(TPU_METADATA, "worker-network-endpoints", "::10.0.0.2")
    monkeypatch.setitem(TPU_METADATA, "tpu-env", "ACCELERATOR_TYPE: 'v5litepod-4'\n")
    assert find_job(ClusterConfig()) is None


def test_a_machine_with_chips_and_no_metadata_is_alone(
    environment, tpu_vm, monkeypatch
):
    def unreachable(key: str) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(job_module, "_metadata", unreachable)
    assert find_job(ClusterConfig()) is None


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("node001", "node001"),
        ("node001,host2", "node001"),
        ("node[001-0015],host2", "node001"),
        ("node[007,011-015]-ib,host2", "node007-ib"),
    ],
)
def test_the_first_node_of_a_slurm_step(environment, text, node):
    environment(SLURM | {"SLURM_STEP_NODELIST": text, "JAX_COORDINATOR_PORT": "1"})
    assert find_job(ClusterConfig()).coordinator == f"{node}:1"


@pytest.mark.parametrize("kind", ["tpu", "gke", "slurm", "mpi"])
def test_a_kind_that_is_not_here(environment, kind):
    with pytest.raises(ValueError, match=f"kind='{kind}', but .*(start|launch/)"):
        find_job(ClusterConfig(kind=kind))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coordinator": "a:1"}, "would be ignored: kind=None"),
        ({"kind": "flags", "process_id": 0}, "given: process_id"),
        (
            {
                "kind": "flags",
                "coordinator": "a:1",
                "num_processes": 2,
                "process_id": 2,
            },
            "numbered from 0",
        ),
        ({"timeout_secs": 0}, "timeout_secs=0 must be greater than 0"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        ClusterConfig(**settings)
