"""The JobSet manifest of a job, as plain Python data.

One Job is one slice, one pod one host; GKE's webhook gives the pods of a slice their
TPU_WORKER_* variables and several slices their MEGASCALE_* ones, which bert_jax reads.

Source: JobSet API v1alpha2, https://jobset.sigs.k8s.io/docs/reference/jobset.v1alpha2;
Multislice, https://docs.cloud.google.com/kubernetes-engine/docs/how-to/tpu-multislice.
"""

import dataclasses
import pathlib
from typing import Any

from launch.gke.pools import Pool

CONTAINER = "bert-jax"
STAGED = "/local/dataset"
"""Where a dataset lies that was copied to the host's own disk."""
_LAUNCH = "/opt/bert_jax/launch"
# bert-jax's own code for: stopped by a signal, checkpoint written.
_INTERRUPTED = 130
_COORDINATOR_PORT = 6002
# No host may work with an older listing than another, such as one without the newest
# checkpoint.
_MOUNT_OPTIONS = (
    "implicit-dirs",
    "metadata-cache:ttl-secs:0",
    "metadata-cache:negative-ttl-secs:0",
)
_GPU_SETTINGS = {
    # Without a usable GPU, JAX would go on with the CPU.
    "JAX_PLATFORMS": "cuda,cpu",
    "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9",
    "XLA_FLAGS": "--xla_gpu_enable_latency_hiding_scheduler=true",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Volume:
    """Storage that all hosts see, at one place in every pod."""

    mount: str
    bucket: str | None = None
    """Cloud Storage bucket, through GKE's FUSE driver."""
    claim: str | None = None
    """PersistentVolumeClaim, ReadWriteMany: Filestore, Lustre, any NFS."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What a manifest is made of; the values are checked already."""

    name: str
    namespace: str
    image: str
    arguments: tuple[str, ...]
    """Of bert-jax."""
    pool: Pool
    slices: int
    volume: Volume
    stage: str | None
    """Dataset to copy to the host's own disk before the start."""
    disk: str
    """Room for it there, such as 50Gi."""
    service_account: str | None
    queue: str | None
    spot: bool
    max_restarts: int
    grace_secs: int
    host_network: bool
    privileged: bool

    @property
    def is_tpu(self) -> bool:
        return self.pool.resource == "google.com/tpu"

    @property
    def replicated_job(self) -> str:
        """Its name, which is part of every pod's host name."""
        return "slice" if self.is_tpu else "node"


def jobset(job: Job) -> dict[str, Any]:
    """The manifest. Kueue, if a queue is given, starts it when there is room."""
    metadata: dict[str, Any] = {"name": job.name, "namespace": job.namespace}
    if job.queue:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": job.queue}
    if job.is_tpu:
        # A slice is a node pool: no two Jobs may share one, none may be spread.
        metadata["annotations"] = {
            "alpha.jobset.sigs.k8s.io/exclusive-topology": (
                "cloud.google.com/gke-nodepool"
            )
        }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "failurePolicy": {
                "maxRestarts": job.max_restarts,
                # No new pod may read the run directory while an old one saves into it.
                "restartStrategy": "BlockingRecreate",
                "rules": [
                    {
                        "name": "interrupted",
                        "action": "RestartJobSetAndIgnoreMaxRestarts",
                        "onJobFailureReasons": ["PodFailurePolicy"],
                    }
                ],
            },
            "replicatedJobs": [
                {
                    "name": job.replicated_job,
                    "replicas": job.slices,
                    "template": {"spec": _job_spec(job)},
                }
            ],
        },
    }


def _job_spec(job: Job) -> dict[str, Any]:
    annotations = {"gke-gcsfuse/volumes": "true"} if job.volume.bucket else {}
    return {
        "parallelism": job.pool.num_hosts,
        "completions": job.pool.num_hosts,
        "completionMode": "Indexed",
        # One lost host loses the step of all: the JobSet starts every one anew.
        "backoffLimit": 0,
        # What is no crash must not count as one: see the JobSet's rule.
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": CONTAINER,
                        "operator": "In",
                        "values": [_INTERRUPTED],
                    },
                },
                {
                    "action": "FailJob",
                    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                },
            ]
        },
        "template": {
            **({"metadata": {"annotations": annotations}} if annotations else {}),
            "spec": _pod_spec(job),
        },
    }


def _pod_spec(job: Job) -> dict[str, Any]:
    selector = dict(job.pool.selector)
    if job.spot:
        selector["cloud.google.com/gke-spot"] = "true"
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": job.grace_secs,
        "nodeSelector": selector,
        "containers": [_container(job)],
        "volumes": _volumes(job),
    }
    if job.service_account:
        spec["serviceAccountName"] = job.service_account
    if job.host_network:
        spec["hostNetwork"] = True
        spec["dnsPolicy"] = "ClusterFirstWithHostNet"
    return spec


def _container(job: Job) -> dict[str, Any]:
    command = ["bert-jax", *job.arguments]
    if job.stage:
        staging = ["bash", f"{_LAUNCH}/stage.sh", job.stage, STAGED, "--"]
        command = staging + command
    settings = {"JAX_PLATFORMS": "tpu,cpu"} if job.is_tpu else dict(_GPU_SETTINGS)
    settings["PYTHONUNBUFFERED"] = "1"
    if not job.is_tpu and job.pool.num_hosts > 1:
        first = f"{job.name}-{job.replicated_job}-0-0.{job.name}"
        settings["JAX_COORDINATOR_ADDRESS"] = f"{first}:{_COORDINATOR_PORT}"
        settings["JAX_NUM_PROCESSES"] = str(job.pool.num_hosts)
    resources: dict[str, Any] = {job.pool.resource: job.pool.devices_per_host}
    mounts = {"shared": job.volume.mount, "memory": "/dev/shm"}
    if job.stage:
        resources["ephemeral-storage"] = job.disk
        mounts["local"] = str(pathlib.PurePosixPath(STAGED).parent)
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": job.image,
        "command": command,
        "env": [{"name": n, "value": v} for n, v in sorted(settings.items())],
        "resources": {"requests": dict(resources), "limits": dict(resources)},
        "volumeMounts": [{"name": n, "mountPath": m} for n, m in mounts.items()],
    }
    if job.is_tpu:
        # libtpu of one host to the others', and of one slice to the others'.
        container["ports"] = [{"containerPort": 8471}, {"containerPort": 8080}]
    if job.privileged:
        container["securityContext"] = {"privileged": True}
    return container


def _volumes(job: Job) -> list[dict[str, Any]]:
    if job.volume.bucket:
        attributes = {
            "bucketName": job.volume.bucket,
            "mountOptions": ",".join(_MOUNT_OPTIONS),
        }
        if job.host_network:
            attributes["hostNetworkPodKSA"] = "true"
        driver = "gcsfuse.csi.storage.gke.io"
        shared: dict[str, Any] = {
            "csi": {"driver": driver, "volumeAttributes": attributes}
        }
    else:
        shared = {"persistentVolumeClaim": {"claimName": job.volume.claim}}
    volumes = [
        {"name": "shared", **shared},
        # Workers of the loader hand batches over here; a container's own has 64 MiB.
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
    ]
    if job.stage:
        volumes.append({"name": "local", "emptyDir": {"sizeLimit": job.disk}})
    return volumes
