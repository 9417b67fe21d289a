"""Renders the JobSet manifest of a training job on GKE.

    python -m launch.gke.render --name bert --image REGION-docker.pkg.dev/PROJECT/REPO/bert_jax:TAG \\
        --topology v5e:4x4 --slices 2 --bucket BUCKET --stage /data/wiki --service-account trainer -- \\
        pretrain --config bert_large --data.dataset /local/dataset --output /data/run >job.yaml
    kubectl apply -f job.yaml

The storage appears in every pod
at /data. bert-jax's own parser checks the command after --, so that a wrong flag is found
here and not after hours in a queue. Everything else can be edited in the manifest.
"""

import dataclasses
import math
import pathlib
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import tyro
import yaml
from jax.sharding import AbstractMesh

from bert_jax import cli
from bert_jax.config.address import address_of, map_paths
from bert_jax.topology.devices import parse_topology
from bert_jax.train.mesh import axis_sizes
from bert_jax.train.sharding import MESH_AXIS_NAMES, check_batch_size
from launch.local import COMMANDS

# Names of pods are made of it, with at most 63 characters.
_NAME = re.compile("[a-z](?:[a-z0-9-]{0,38}[a-z0-9])?")
_SHARED, _STAGED = "/data", "/local/dataset"
_STAGE = ("bash", "/opt/bert_jax/launch/stage.sh")
# Kind -> label cloud.google.com/gke-tpu-accelerator, machine type with {} for its chips.
# Source: https://docs.cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus
_TPUS = {
    "v4": ("tpu-v4-podslice", "ct4p-hightpu-{}t"),
    "v5e": ("tpu-v5-lite-podslice", "ct5lp-hightpu-{}t"),
    "v5p": ("tpu-v5p-slice", "ct5p-hightpu-{}t"),
    "v6e": ("tpu-v6e-slice", "ct6e-standard-{}t"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """One bert-jax command on TPU slices."""

    name: str
    """Name of the JobSet, with which the names of its pods begin."""
    image: str
    """Image made by launch/Dockerfile, with a fixed tag or a digest."""
    topology: str
    """Shape of one TPU slice: v5e:4x4, v6e:16x16, v5p:2x2x2, v4:2x2x4 ..."""
    slices: int = 1
    """Number of slices, each a node pool, joined by the data-center network."""
    bucket: str
    """Cloud Storage bucket to mount at /data; it needs a hierarchical namespace."""
    stage: str | None = None
    """Dataset below /data that every host copies to /local/dataset before the start."""
    service_account: str | None = None
    """Kubernetes service account that may use the bucket."""
    spot: bool = False
    """Use Spot nodes. They may be taken away; the job then starts again."""


class Pool(NamedTuple):
    """The hosts of one slice, which are a node pool of the cluster."""

    selector: dict[str, str]
    chips_per_host: int
    num_hosts: int
    create: str
    """Flags of `gcloud container node-pools create` for such a pool."""


def pool_of(options: Options) -> Pool:
    """The hosts of one slice.

    Raises:
        ValueError: GKE has no such hosts.
    """
    topology = parse_topology(options.topology, options.slices)
    if topology.kind not in _TPUS:
        raise ValueError(
            f"--topology {options.topology}: expected a TPU ({', '.join(_TPUS)})."
        )
    chips = math.prod(topology.shape)
    each = min(chips, 4)
    hosts = chips // each
    if topology.slices > 1 and hosts == 1:
        raise ValueError(
            f"--topology {topology.slice_name} --slices {topology.slices}: GKE joins "
            "slices of several hosts only; take a larger slice, or one."
        )
    accelerator, machine = _TPUS[topology.kind]
    sides = "x".join(str(side) for side in topology.shape)
    create = f"--machine-type={machine.format(each)} --num-nodes={hosts}"
    return Pool(
        selector={
            "cloud.google.com/gke-tpu-accelerator": accelerator,
            "cloud.google.com/gke-tpu-topology": sides,
        },
        chips_per_host=each,
        num_hosts=hosts,
        create=create + (f" --tpu-topology={sides}" if hosts > 1 else ""),
    )


def check(options: Options) -> None:
    """Raises ValueError where the name, the storage or the image cannot be used."""
    if not _NAME.fullmatch(options.name):
        raise ValueError(
            f"--name {options.name}: Kubernetes takes at most 40 lower-case letters, digits "
            "and hyphens, of which the first is a letter and the last is no hyphen."
        )
    if "/" in options.bucket:
        raise ValueError(f"--bucket {options.bucket}: give the bare name, no gs://.")
    if options.stage is not None and not options.stage.startswith(f"{_SHARED}/"):
        raise ValueError(f"--stage {options.stage} is not below {_SHARED}.")
    tag = options.image.rpartition("/")[2]
    if tag.endswith(":latest") or not set(tag) & set(":@"):
        raise ValueError(f"--image {options.image}: give a fixed tag or a digest.")


def checked_command(command: Sequence[str], options: Options) -> list[str]:
    """The command with the flags of its job added, after bert-jax's parser has read it.

    Raises:
        ValueError: what is wrong, and what to do.
        SystemExit: the parser refused a flag, and said why.
    """
    words = list(command)
    if not words or words[0] not in COMMANDS:
        raise ValueError(
            f"the command after -- is {words[0] if words else 'missing'}; one of "
            f"{', '.join(COMMANDS)} was expected, with its flags."
        )
    for word in words:
        if word.startswith("--cluster."):
            raise ValueError(f"{word}: leave it out; the launcher sets it.")
    words += ["--cluster.kind", "gke"]
    parsed = cli.parse(words[0], words[1:])
    _check_paths(parsed, options)
    settings = getattr(parsed, "settings", None)
    if settings is None:
        return words
    if settings.mesh.slices is None and options.slices > 1:
        words += ["--mesh.slices", str(options.slices)]
    elif settings.mesh.slices not in (None, options.slices):
        raise ValueError(
            f"--mesh.slices {settings.mesh.slices}: the job has {options.slices}."
        )
    _check_mesh(settings, options)
    return words


def _check_paths(command: Any, options: Options) -> None:
    """Raises ValueError where a path of the command cannot be right in the pods."""
    settings = getattr(command, "settings", None)
    run = command.run_dir if settings is None else command.output
    # One host alone copies its run into a bucket by itself.
    may_be_in_store = settings is not None and pool_of(options).num_hosts == 1
    in_store = address_of(run) is not None
    if not (in_store and may_be_in_store) and pathlib.Path(_SHARED) not in run.parents:
        raise ValueError(
            f"the run directory (--output) is {run}; it must lie below {_SHARED}, where the "
            "bucket is mounted, since all hosts write into it."
        )
    paths: dict[str, pathlib.Path] = {}

    def collect(path: pathlib.Path, name: str) -> pathlib.Path:
        paths[name] = path
        return path

    map_paths(command, collect)
    if settings is not None and settings.loop.mirror is not None:
        collect(pathlib.Path(settings.loop.mirror), "mirror")
    for name, path in paths.items():
        if not path.is_absolute() and address_of(path) is None:
            raise ValueError(
                f"{name} {path}: this path is relative, so the pods do not have it. Give "
                f"one below {_SHARED}, where the bucket is mounted, or an address (gs://)."
            )
    staged = pathlib.Path(_STAGED)
    if options.stage and not any(staged in (x, *x.parents) for x in paths.values()):
        raise ValueError(
            f"--stage {options.stage}: every host gets a copy at {_STAGED}, which the command "
            f"does not read. Pretraining reads it with --data.dataset {_STAGED}."
        )


def _check_mesh(settings: Any, options: Options) -> None:
    """Raises ValueError where the slices do not fit the mesh, or cannot share the rows."""
    topology = parse_topology(options.topology, options.slices)
    try:
        sizes = axis_sizes(settings.mesh, math.prod(topology.shape), topology.slices)
        mesh = AbstractMesh((topology.slices, *sizes.values()), MESH_AXIS_NAMES)
        for phase in getattr(settings, "phases", [settings]):
            micro_batches = getattr(phase, "micro_batches", 1)
            check_batch_size(mesh, phase.batch_size, micro_batches)
    except ValueError as error:
        raise ValueError(f"--topology {options.topology}: {error}") from None


def jobset(options: Options, pool: Pool, words: list[str]) -> dict[str, Any]:
    """The manifest of a job, filled into jobset.yaml."""
    manifest = yaml.safe_load(
        pathlib.Path(__file__).with_name("jobset.yaml").read_text()
    )
    manifest["metadata"]["name"] = options.name
    (job,) = manifest["spec"]["replicatedJobs"]
    job["replicas"] = options.slices
    spec = job["template"]["spec"]
    spec["parallelism"] = spec["completions"] = pool.num_hosts
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    pod["nodeSelector"] = dict(pool.selector)
    if options.spot:
        pod["nodeSelector"]["cloud.google.com/gke-spot"] = "true"
    if options.service_account:
        pod["serviceAccountName"] = options.service_account
    pod["volumes"][0]["csi"]["volumeAttributes"]["bucketName"] = options.bucket
    container["image"] = options.image
    container["command"] = ["bert-jax", *words]
    if options.stage is not None:
        stage = [*_STAGE, options.stage, _STAGED, "--"]
        container["command"] = stage + container["command"]
    resources = {"google.com/tpu": pool.chips_per_host}
    container["resources"] = {"requests": resources, "limits": dict(resources)}
    return manifest


def render(options: Options, command: Sequence[str]) -> str:
    """The manifest as YAML, below comments that say which node pools it needs."""
    check(options)
    pool = pool_of(options)
    words = checked_command(command, options)
    manifest = jobset(options, pool, words)
    lines = [
        f"# gcloud container node-pools create {options.name}-{number} "
        f"--cluster=CLUSTER {pool.create}{' --spot' if options.spot else ''}"
        for number in range(options.slices)
    ]
    lines.append(f"# runs in every pod: bert-jax {shlex.join(words)}")
    return "\n".join([*lines, yaml.safe_dump(manifest, sort_keys=False, width=10_000)])


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the manifest; options before `--`, the command of bert-jax behind it."""
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    prog = "python -m launch.gke.render"
    options = tyro.cli(Options, args=words[:end], prog=prog, description=__doc__)
    try:
        print(render(options, words[end + 1 :]), end="")
    except (ValueError, OSError) as error:
        print(f"launch.gke.render: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
