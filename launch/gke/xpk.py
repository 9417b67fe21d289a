"""Starts a training job on a GKE cluster that is managed with xpk (`pip install xpk`).

    xpk storage attach runs --cluster CLUSTER --type gcsfuse --bucket BUCKET --size 1000 \\
        --mount-point /data --auto-mount false --readonly false \\
        --mount-options implicit-dirs,metadata-cache:ttl-secs:0,metadata-cache:negative-ttl-secs:0
    python -m launch.gke.xpk --name bert --cluster CLUSTER --project PROJECT --zone us-west4-a \\
        --image REGION-docker.pkg.dev/PROJECT/REPO/bert_jax:TAG --topology v5e:4x4 --slices 2 \\
        --storage runs --stage /data/wiki -- \\
        pretrain --config bert_large --data.dataset /tmp/dataset --workdir /data/run

xpk makes a JobSet of its own and queues it with Kueue. It counts every restart, one after
a lost node too, so --max-restarts is generous; `xpk workload delete --workload bert` sends
SIGTERM, and the run writes a checkpoint. The same command, under a new name or after the
delete, goes on with the run.
"""

import dataclasses
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence

from bert_jax.topology.devices import parse_topology
from launch.command import checked_command, parsed
from launch.gke.pools import tpu_pool

# Kind -> how xpk begins a device type; the shape follows.
_XPK_NAMES = {"v4": "v4", "v5e": "v5litepod", "v5p": "v5p", "v6e": "v6e"}
_STAGED = "/tmp/dataset"
_STAGE = ("bash", "/opt/bert_jax/launch/stage.sh")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """One bert-jax command as an xpk workload on TPU slices."""

    name: str
    cluster: str
    image: str
    """Made by launch/docker/Dockerfile, with a tag or digest."""
    topology: str
    """One slice: v5e:4x4, v6e:16x16, v5p:2x2x2, v4:2x2x4 ..."""
    slices: int = 1
    project: str | None = None
    zone: str | None = None
    storage: str
    """Name under which `xpk storage attach` knows the shared storage."""
    mount: str = "/data"
    """Its mount point."""
    stage: str | None = None
    """A dataset below the mount, copied to /tmp/dataset on each host first."""
    max_restarts: int = 50
    grace_secs: int = 300
    """Between SIGTERM and the end, for a checkpoint."""
    dry_run: bool = False
    """Print the command, run nothing."""


def workload_command(options: Options, command: Sequence[str]) -> list[str]:
    """`xpk workload create` with all its arguments.

    Raises:
        ValueError: a value that GKE or bert-jax would refuse.
        SystemExit: bert-jax's parser refused the command, and said why.
    """
    slices = None if "slice" in options.topology else options.slices
    topology = parse_topology(options.topology, slices)
    tpu_pool(topology)  # refuses what GKE has not
    words = checked_command(
        command,
        shared=options.mount,
        staged=_STAGED if options.stage else None,
        kind="gke",
        slices=topology.slices,
    )
    # exec: xpk signals the shell around this command, which must not stay in between.
    remote = ["exec", "env", "JAX_PLATFORMS=tpu,cpu", "PYTHONUNBUFFERED=1"]
    if options.stage:
        remote += [*_STAGE, options.stage, _STAGED, "--"]
    remote += ["bert-jax", *words]
    sides = topology.slice_name.partition(":")[2]
    arguments = {
        "workload": options.name,
        "cluster": options.cluster,
        "project": options.project,
        "zone": options.zone,
        "tpu-type": f"{_XPK_NAMES[topology.kind]}-{sides}",
        "num-slices": topology.slices,
        "docker-image": options.image,
        "storage": options.storage,
        "max-restarts": options.max_restarts,
        # bert-jax's code for an error; xpk's own list has those of aborts and signals.
        "restart-on-exit-codes": 1,
        "termination-grace-period-seconds": options.grace_secs,
        "command": shlex.join(remote),
    }
    given = [f"--{n}={v}" for n, v in arguments.items() if v is not None]
    return ["xpk", "workload", "create", *given]


def main(argv: Sequence[str] | None = None) -> None:
    options, words = parsed(
        Options, argv, prog="python -m launch.gke.xpk", description=f"{__doc__}"
    )
    try:
        command = workload_command(options, words)
        if not options.dry_run and shutil.which("xpk") is None:
            raise FileNotFoundError("xpk is not installed here: pip install xpk")
    except (ValueError, OSError) as error:
        print(f"launch.gke.xpk: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    print(shlex.join(command), flush=True)
    if not options.dry_run:
        raise SystemExit(subprocess.run(command).returncode)


if __name__ == "__main__":
    main()
