"""Manifests and commands for GKE: valid by Kubernetes' schemas, and right in what they say."""

import copy
import json
import pathlib
import shlex
import sys

import pytest
import yaml

from launch.gke import render, xpk
from launch.gke.pools import tpu_pool

IN_IMAGE = "/opt/bert_jax/launch/stage.sh"
IMAGE = "us-docker.pkg.dev/project/repo/bert_jax:1"
KUBERNETES = "1.35.0"
TPU = ["--topology", "v5e:4x4"]
BUCKET = ["--bucket", "runs"]
PRETRAIN = ["pretrain", "--config", "bert_tiny", "--workdir", "/data/run"]


def rendered(capsys, *options, command=PRETRAIN, where=(*TPU, *BUCKET)):
    render.main(["--name", "bert", "--image", IMAGE, *where, *options, "--", *command])
    return yaml.safe_load(capsys.readouterr().out)


def refusal(capsys, *options, command=PRETRAIN, where=(*TPU, *BUCKET)) -> str:
    with pytest.raises(SystemExit) as end:
        rendered(capsys, *options, command=command, where=where)
    assert end.value.code in (1, 2)
    return capsys.readouterr().err


def pod(manifest):
    return replicated(manifest)["template"]["spec"]["template"]["spec"]


def replicated(manifest):
    (job,) = manifest["spec"]["replicatedJobs"]
    return job


@pytest.fixture(scope="module")
def check():
    """check(manifest): raises where it breaks the schema; every unknown field does."""
    import importlib.resources

    import jsonschema
    import referencing

    schemas = (
        importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema"
    )
    strict = schemas / f"v{KUBERNETES}-local-strict" / "_definitions.json"
    definitions = referencing.Resource.from_contents(json.loads(strict.read_text()))
    own = pathlib.Path(__file__).with_name("jobset-v1alpha2.schema.json")
    return jsonschema.Draft202012Validator(
        json.loads(own.read_text()), registry=definitions @ referencing.Registry()
    ).validate


GPU = ("--gpu", "h100:8", "--nodes", "4", *BUCKET)
MANIFESTS = {
    "one slice": {},
    "two slices": {"options": ("--slices", "2", "--stage", "/data/wiki")},
    "one host": {"where": ("--topology", "v6e:2x2", *BUCKET)},
    "claim": {"where": ("--topology", "v5p:2x2x2", "--claim", "filestore")},
    "gpus": {"where": GPU},
    "one gpu node": {"where": ("--gpu", "b200:8", *BUCKET)},
    "everything": {
        "options": shlex.split(
            "--slices 2 --stage /data/wiki --disk 9Gi --queue q --spot --host-network "
            "--service-account trainer --namespace ml --no-privileged --max-restarts 0"
        )
    },
}


def of_case(capsys, case, command=PRETRAIN):
    options = case.get("options", ())
    if "--stage" in options:
        command = [*command, "--data.dataset", "/local/dataset"]
    where = case.get("where", (*TPU, *BUCKET))
    return rendered(capsys, *options, where=where, command=command)


@pytest.mark.parametrize("case", MANIFESTS.values(), ids=MANIFESTS)
def test_manifests_keep_the_schemas(capsys, check, case):
    check(of_case(capsys, case))


def test_the_schemas_see_a_misspelt_field_at_every_depth(capsys, check):
    import jsonschema

    whole = rendered(capsys)
    check(whole)
    places = [
        lambda m: m,
        lambda m: m["spec"],
        lambda m: m["spec"]["failurePolicy"]["rules"][0],
        lambda m: replicated(m),
        lambda m: replicated(m)["template"]["spec"],
        lambda m: replicated(m)["template"]["spec"]["podFailurePolicy"]["rules"][0],
        lambda m: pod(m),
        lambda m: pod(m)["containers"][0],
        lambda m: pod(m)["volumes"][0]["csi"],
    ]
    for place in places:
        broken = copy.deepcopy(whole)
        place(broken)["misspelt"] = 1
        with pytest.raises(jsonschema.ValidationError, match="misspelt"):
            check(broken)


@pytest.mark.parametrize(
    ("topology", "options", "hosts", "chips", "label", "shape"),
    [
        ("v5e:4x4", [], 4, 4, "tpu-v5-lite-podslice", "4x4"),
        ("v5e:1x1", [], 1, 1, "tpu-v5-lite-podslice", "1x1"),
        ("v6e:16x16", [], 64, 4, "tpu-v6e-slice", "16x16"),
        ("v6e:2x4", [], 2, 4, "tpu-v6e-slice", "2x4"),
        ("v6e:2x4", ["--chips-per-host", "8"], 1, 8, "tpu-v6e-slice", "2x4"),
        ("v5p:2x2x2", [], 2, 4, "tpu-v5p-slice", "2x2x2"),
        ("v4:4x4x8", [], 32, 4, "tpu-v4-podslice", "4x4x8"),
    ],
)
def test_a_pod_is_a_host_of_the_slice(
    capsys, topology, options, hosts, chips, label, shape
):
    manifest = rendered(capsys, *options, where=("--topology", topology, *BUCKET))
    spec = replicated(manifest)["template"]["spec"]
    assert spec["parallelism"] == spec["completions"] == hosts
    resources = pod(manifest)["containers"][0]["resources"]
    assert resources["limits"] == resources["requests"] == {"google.com/tpu": chips}
    assert pod(manifest)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": label,
        "cloud.google.com/gke-tpu-topology": shape,
    }


def test_slices_are_jobs_on_pools_of_their_own_and_the_mesh_knows_them(capsys):
    manifest = rendered(capsys, "--slices", "3")
    assert replicated(manifest)["replicas"] == 3
    topology = "alpha.jobset.sigs.k8s.io/exclusive-topology"
    assert manifest["metadata"]["annotations"] == {
        topology: "cloud.google.com/gke-nodepool"
    }
    command = pod(manifest)["containers"][0]["command"]
    assert command == [
        "bert-jax",
        *PRETRAIN,
        *("--cluster.kind", "gke"),
        *("--mesh.slices", "3"),
    ]
    assert "--mesh.slices" not in pod(rendered(capsys))["containers"][0]["command"]


def test_a_stop_with_a_checkpoint_starts_again_and_is_not_counted_as_a_crash(capsys):
    manifest = rendered(capsys, "--max-restarts", "7", "--grace-secs", "99")
    policy = manifest["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 7
    assert policy["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert policy["rules"][0]["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    spec = replicated(manifest)["template"]["spec"]
    codes, conditions = spec["podFailurePolicy"]["rules"]
    assert codes["onExitCodes"]["values"] == [130]  # InterruptedRunError, cli.main
    assert (
        codes["onExitCodes"]["containerName"] == pod(manifest)["containers"][0]["name"]
    )
    assert conditions["onPodConditions"][0]["type"] == "DisruptionTarget"
    assert spec["backoffLimit"] == 0
    assert pod(manifest)["restartPolicy"] == "Never"  # a podFailurePolicy demands it
    assert pod(manifest)["terminationGracePeriodSeconds"] == 99


def test_storage_is_mounted_and_a_dataset_is_staged(capsys):
    manifest = of_case(capsys, MANIFESTS["two slices"])
    assert replicated(manifest)["template"]["spec"]["template"]["metadata"] == {
        "annotations": {"gke-gcsfuse/volumes": "true"}
    }
    (container,) = pod(manifest)["containers"]
    assert container["command"][:5] == [
        *("bash", IN_IMAGE, "/data/wiki", "/local/dataset", "--")
    ]
    mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    assert mounts == {"shared": "/data", "local": "/local", "memory": "/dev/shm"}
    assert mounts.keys() == {volume["name"] for volume in pod(manifest)["volumes"]}

    claimed = of_case(capsys, MANIFESTS["claim"])
    assert "metadata" not in replicated(claimed)["template"]["spec"]["template"]
    assert pod(claimed)["volumes"][0]["persistentVolumeClaim"] == {
        "claimName": "filestore"
    }


def test_gpu_nodes_find_their_first(capsys):
    manifest = rendered(capsys, where=GPU)
    (container,) = pod(manifest)["containers"]
    settings = {entry["name"]: entry["value"] for entry in container["env"]}
    # <jobset>-<job>-<number of the job>-<number of the pod>.<headless service>
    assert settings["JAX_COORDINATOR_ADDRESS"] == "bert-node-0-0.bert:6002"
    assert settings["JAX_NUM_PROCESSES"] == "4"
    assert replicated(manifest)["template"]["spec"]["completionMode"] == "Indexed"
    assert container["command"][-2:] == ["--cluster.kind", "gke"]
    assert "annotations" not in manifest["metadata"]

    alone = rendered(capsys, where=("--gpu", "h100:8", *BUCKET))
    assert pod(alone)["containers"][0]["command"][-2:] == ["--cluster.kind", "none"]


def test_gpu_nodes_are_read_by_bert_jax_as_they_are_rendered(capsys, monkeypatch):
    from bert_jax.config import ClusterConfig
    from bert_jax.runtime.job import find_job

    (container,) = pod(rendered(capsys, where=GPU))["containers"]
    for entry in container["env"]:
        monkeypatch.setenv(entry["name"], entry["value"])
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")  # Kubernetes, for an Indexed Job
    job = find_job(ClusterConfig(kind="gke"))
    assert (job.coordinator, job.num_processes, job.process_id) == (
        "bert-node-0-0.bert:6002",
        4,
        3,
    )


def test_options_arrive(capsys):
    manifest = of_case(capsys, MANIFESTS["everything"])
    spec = pod(manifest)
    assert manifest["metadata"]["namespace"] == "ml"
    assert manifest["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "q"}
    assert manifest["spec"]["failurePolicy"]["maxRestarts"] == 0
    assert spec["serviceAccountName"] == "trainer"
    assert spec["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert (spec["hostNetwork"], spec["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
    assert spec["volumes"][0]["csi"]["volumeAttributes"]["hostNetworkPodKSA"] == "true"
    assert "securityContext" not in spec["containers"][0]
    assert spec["containers"][0]["resources"]["limits"]["ephemeral-storage"] == "9Gi"


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ({"where": BUCKET}, "one of --topology and --gpu"),
        ({"where": ["--topology", "v5e:3x3", *BUCKET]}, "no topology 'v5e:3x3'"),
        ({"where": ["--topology", "cpu:8", *BUCKET]}, "cpu is no TPU"),
        (
            {"where": ["--topology", "v6e:2x2", *BUCKET, "--slices", "2"]},
            "several hosts",
        ),
        ({"options": ["--chips-per-host", "8"]}, "v5e:4x4 has 4 chips a host"),
        ({"options": ["--nodes", "2"]}, "--nodes belongs to --gpu"),
        ({"where": [*GPU, "--slices", "2"]}, "belong to --topology"),
        ({"where": ["--gpu", "h100", *BUCKET]}, "KIND:NUMBER"),
        ({"where": TPU}, "give --bucket or --claim"),
        ({"where": [*TPU, *BUCKET, "--claim", "x"]}, "give --bucket or --claim"),
        ({"where": [*TPU, "--bucket", "gs://runs"]}, "without gs://"),
        ({"options": ["--image", "repo/bert_jax"]}, "neither tag nor digest"),
        ({"options": ["--image", "repo/bert_jax:latest"]}, "fixed tag"),
        ({"options": ["--name", "Bert_1"]}, "lower-case"),
        ({"options": ["--name", "b" * 50]}, "too long"),
        ({"options": ["--mount", "data"]}, "--mount data"),
        ({"options": ["--stage", "/elsewhere/wiki"]}, "not below --mount"),
        ({"options": ["--stage", "/data/wiki"]}, "the staged copy lies at"),
        ({"options": ["--disk", "50GB"]}, "such as 50Gi"),
        ({"options": ["--max-restarts", "-1"]}, "less than 0"),
        ({"command": []}, "nothing; one of pretrain"),
        ({"command": ["prepare"]}, "prepare; one of pretrain"),
        ({"command": ["pretrain", "--workdir", "gs://b/run"]}, "opens files by path"),
        ({"command": ["pretrain", "--workdir", "/tmp/run"]}, "not below /data"),
        ({"command": ["pretrain"]}, "no --workdir"),
        ({"command": [*PRETRAIN, "--cluster.kind", "tpu"]}, "leave it out"),
        ({"command": [*PRETRAIN, "--mesh.slices", "2"]}, "the job has 1"),
        ({"command": [*PRETRAIN, "--batch-sise", "2"]}, "batch-sise"),
        ({"command": [*PRETRAIN, "--config", "unknown"]}, "no such file"),
    ],
    ids=str,
)
def test_what_cannot_run_is_refused_here(capsys, case, message):
    error = " ".join(refusal(capsys, *case.pop("options", ()), **case).split())
    assert message in error


def test_a_checkpoint_that_only_the_cluster_has_leaves_flags_unchecked_and_says_so(
    capsys,
):
    options = ("--name", "b", "--image", IMAGE, *TPU, *BUCKET)
    render.main([*options, "--", *PRETRAIN, "--checkpoint", "/data/base"])
    assert "flags not checked: /data/base" in capsys.readouterr().err


def test_the_pools_to_create_stand_above_the_manifest(capsys):
    options = (
        "--name",
        "b",
        "--image",
        IMAGE,
        *TPU,
        *BUCKET,
        "--slices",
        "2",
        "--spot",
    )
    render.main([*options, "--", *PRETRAIN])
    comments = [x for x in capsys.readouterr().out.splitlines() if x.startswith("# gc")]
    assert comments == [
        f"# gcloud container node-pools create b-{n} --cluster=CLUSTER "
        "--machine-type=ct5lp-hightpu-4t --num-nodes=4 --tpu-topology=4x4 --spot"
        for n in (0, 1)
    ]


XPK = ["--name", "b", "--cluster", "c", "--image", IMAGE, "--storage", "runs"]


def test_xpk_gets_one_workload(capsys, monkeypatch, tmp_path):
    record = tmp_path / "arguments"
    fake = tmp_path / "xpk"
    fake.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        f"json.dump(sys.argv[1:], open({str(record)!r}, 'w'))\nsys.exit(3)\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    slices = ("--topology", "v5p:2x2x2", "--slices", "2", "--stage", "/data/wiki")
    with pytest.raises(SystemExit) as end:
        xpk.main([*XPK, *slices, "--", *PRETRAIN, "--data.dataset", "/tmp/dataset"])
    assert end.value.code == 3  # xpk's own
    workload, create, *flags = json.loads(record.read_text())
    assert (workload, create) == ("workload", "create")
    given = dict(flag[2:].split("=", 1) for flag in flags)
    assert given.pop("command") == (
        f"exec env JAX_PLATFORMS=tpu,cpu PYTHONUNBUFFERED=1 bash {IN_IMAGE} /data/wiki "
        f"/tmp/dataset -- bert-jax {shlex.join(PRETRAIN)} --data.dataset /tmp/dataset "
        "--cluster.kind gke --mesh.slices 2"
    )
    assert given == {
        "workload": "b",
        "cluster": "c",
        "tpu-type": "v5p-2x2x2",
        "num-slices": "2",
        "docker-image": IMAGE,
        "storage": "runs",
        "max-restarts": "50",
        "restart-on-exit-codes": "1",
        "termination-grace-period-seconds": "300",
    }


def test_xpk_that_is_missing_is_said(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit):
        xpk.main([*XPK, *TPU, "--", *PRETRAIN])
    assert "pip install xpk" in capsys.readouterr().err


def test_hosts_times_chips_is_the_slice():
    from bert_jax.topology.devices import parse_topology

    for name in ("v5e:1x1", "v5e:2x2", "v6e:2x4", "v6e:8x16", "v4:2x2x1", "v5p:4x8x8"):
        topology = parse_topology(name)
        pool = tpu_pool(topology)
        assert pool.num_hosts * pool.devices_per_host == topology.num_devices
