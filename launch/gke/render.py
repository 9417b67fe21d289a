"""Renders the JobSet manifest of a training job on GKE.

    python -m launch.gke.render --name bert --image REGION-docker.pkg.dev/PROJECT/REPO/bert_jax:TAG \\
        --topology v5e:4x4 --slices 2 --bucket BUCKET --stage /data/wiki --service-account trainer -- \\
        pretrain --config bert_large --data.dataset /local/dataset --workdir /data/run >job.yaml
    kubectl apply -f job.yaml

GPU nodes: `--gpu h100:8 --nodes 4` in place of --topology. The bucket (or --claim) appears
in every pod at /data (--mount); with --stage, a dataset below it is copied to every host's
own disk, /local/dataset, before the start. The command after -- is checked by bert-jax's
own parser, so that a wrong flag is found here and not after hours in a queue.
"""

import dataclasses
import pathlib
import re
import shlex
import sys
from collections.abc import Sequence

import yaml

from bert_jax.topology.devices import parse_topology
from launch.command import checked_command, parsed
from launch.gke.jobset import STAGED, Job, Volume, jobset
from launch.gke.pools import Pool, gpu_pool, tpu_pool

# Kubernetes' limit for the names of pods and hosts, and what it adds to a pod's.
_LONGEST_NAME, _SUFFIX = 63, len("-12345")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """A JobSet of TPU slices or GPU nodes that run one bert-jax command."""

    name: str
    """Of the JobSet, and the beginning of its pods' names."""
    image: str
    """Made by launch/docker/Dockerfile, with a tag or digest."""
    topology: str | None = None
    """One slice: v5e:4x4, v6e:16x16, v5p:2x2x2, v4:2x2x4 ..."""
    slices: int = 1
    """Node pools of that topology, joined by the data-center network."""
    chips_per_host: int | None = None
    """Of TPU hosts, as the pool's machine type has them; 4 by default."""
    gpu: str | None = None
    """In place of a topology: kind and number a node, such as h100:8."""
    nodes: int = 1
    """GPU nodes."""
    bucket: str | None = None
    """Cloud Storage bucket to mount, with a hierarchical namespace."""
    claim: str | None = None
    """PersistentVolumeClaim to mount (ReadWriteMany), in place of a bucket."""
    mount: str = "/data"
    """Where it appears in every pod."""
    stage: str | None = None
    """A dataset below the mount, to be copied to each host's own disk first."""
    disk: str = "50Gi"
    """Room for it there."""
    namespace: str = "default"
    service_account: str | None = None
    """Kubernetes service account that may use the bucket."""
    queue: str | None = None
    """Kueue's local queue."""
    spot: bool = False
    """Nodes that may be taken away; the job then starts again."""
    max_restarts: int = 10
    """After crashes; taken nodes and stopped runs do not count."""
    grace_secs: int = 300
    """Between SIGTERM and the end, for a checkpoint."""
    host_network: bool = False
    """Pods use the host's network itself: faster between slices."""
    privileged: bool = True
    """TPUs need it on some GKE versions; with False, see GKE's notes on memory locks."""


def job_of(options: Options, command: Sequence[str]) -> Job:
    """The job that the options and the command after -- describe.

    Raises:
        ValueError: a value that GKE or bert-jax would refuse, or ignore.
        SystemExit: bert-jax's parser refused the command, and said why.
    """
    pool, slices = _pool_of(options)
    _check_names(options, pool, slices)
    volume = Volume(mount=options.mount, bucket=options.bucket, claim=options.claim)
    if (volume.bucket is None) == (volume.claim is None):
        raise ValueError(
            "give --bucket or --claim: the run directory must lie on storage that all "
            "hosts see."
        )
    if not re.fullmatch(r"(/[\w.-]+)+", options.mount) or options.mount == "/local":
        raise ValueError(f"--mount {options.mount}: not an absolute path of its own.")
    if options.stage and not _is_below(options.stage, options.mount):
        raise ValueError(
            f"--stage {options.stage} is not below --mount {options.mount}."
        )
    single_gpu_node = options.gpu is not None and pool.num_hosts == 1
    arguments = checked_command(
        command,
        shared=options.mount,
        staged=STAGED if options.stage else None,
        kind="none" if single_gpu_node else "gke",
        slices=slices,
    )
    return Job(
        name=options.name,
        namespace=options.namespace,
        image=options.image,
        arguments=tuple(arguments),
        pool=pool,
        slices=slices,
        volume=volume,
        stage=options.stage,
        disk=options.disk,
        service_account=options.service_account,
        queue=options.queue,
        spot=options.spot,
        max_restarts=options.max_restarts,
        grace_secs=options.grace_secs,
        host_network=options.host_network,
        privileged=options.privileged and options.gpu is None,
    )


def _pool_of(options: Options) -> tuple[Pool, int]:
    if (options.topology is None) == (options.gpu is None):
        raise ValueError("give one of --topology and --gpu.")
    if options.gpu is not None:
        if options.slices != 1 or options.chips_per_host is not None:
            raise ValueError("--slices and --chips-per-host belong to --topology.")
        return gpu_pool(options.gpu, options.nodes), 1
    assert options.topology is not None
    if options.nodes != 1:
        raise ValueError("--nodes belongs to --gpu; a topology says its own hosts.")
    slices = None if "slice" in options.topology else options.slices
    topology = parse_topology(options.topology, slices)
    return tpu_pool(topology, options.chips_per_host), topology.slices


def _check_names(options: Options, pool: Pool, slices: int) -> None:
    for field in ("name", "namespace", "claim", "service_account", "queue"):
        value = getattr(options, field)
        if value is not None and not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", value):
            raise ValueError(
                f"--{field.replace('_', '-')} {value}: lower-case letters, digits and "
                "hyphens were expected, a letter first."
            )
    longest = f"{options.name}-slice-{slices - 1}-{pool.num_hosts - 1}"
    if len(longest) + _SUFFIX > _LONGEST_NAME:
        raise ValueError(
            f"--name {options.name} is too long: the pod {longest} would have "
            f"{len(longest) + _SUFFIX} letters, {_LONGEST_NAME} are allowed."
        )
    tag = options.image.rpartition("/")[2]
    if not re.fullmatch(r"[\w./:@-]+", options.image) or tag.endswith(":latest"):
        raise ValueError(f"--image {options.image}: give a fixed tag or a digest.")
    if ":" not in tag and "@" not in tag:
        raise ValueError(f"--image {options.image} has neither tag nor digest.")
    bucket = options.bucket
    if bucket is not None and not re.fullmatch(
        r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]", bucket
    ):
        raise ValueError(
            f"--bucket {bucket}: the bare name was expected, without gs://."
        )
    if not re.fullmatch(r"[1-9]\d*[GT]i", options.disk):
        raise ValueError(f"--disk {options.disk}: expected a size such as 50Gi.")
    for field in ("max_restarts", "grace_secs"):
        if getattr(options, field) < 0:
            raise ValueError(f"--{field.replace('_', '-')} is less than 0.")


def _is_below(path: str, folder: str) -> bool:
    return pathlib.PurePosixPath(folder) in pathlib.PurePosixPath(path).parents


def render(job: Job) -> str:
    """The manifest as YAML, below the pools that it needs, as comments."""
    lines = []
    for number in range(job.slices if job.pool.create else 0):
        spot = " --spot" if job.spot else ""
        lines.append(
            f"# gcloud container node-pools create {job.name}-{number} "
            f"--cluster=CLUSTER {job.pool.create}{spot}"
        )
    lines.append(f"# runs in every pod: bert-jax {shlex.join(job.arguments)}")
    manifest = yaml.safe_dump(jobset(job), sort_keys=False, width=10_000)
    return "\n".join([*lines, manifest])


def main(argv: Sequence[str] | None = None) -> None:
    options, words = parsed(
        Options, argv, prog="python -m launch.gke.render", description=f"{__doc__}"
    )
    try:
        job = job_of(options, words)
    except (ValueError, OSError) as error:
        print(f"launch.gke.render: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    print(render(job), end="")


if __name__ == "__main__":
    main()
