"""Manifests for GKE: valid by Kubernetes' schemas, and right in what they say."""

import copy
import json
import pathlib

import pytest
import yaml

from launch.gke import render

IN_IMAGE = "/opt/bert_jax/launch/stage.sh"
IMAGE = "us-docker.pkg.dev/project/repo/bert_jax:1"
KUBERNETES = "1.35.0"
TPU = ["--topology", "v5e:4x4"]
BUCKET = ["--bucket", "runs"]
PRETRAIN = ["pretrain", "--config", "bert_tiny", "--output", "/data/run"]
# Rows that all the slices here share evenly.
PRETRAIN += ["--batch-size", "768"]


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


MANIFESTS = {
    "one slice": {},
    "two slices": {"options": ("--slices", "2", "--stage", "/data/wiki")},
    "one host": {"where": ("--topology", "v6e:2x2", *BUCKET)},
    "spot": {"options": ("--spot", "--service-account", "trainer")},
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
    ("topology", "hosts", "chips", "label"),
    [
        ("v5e:4x4", 4, 4, "tpu-v5-lite-podslice"),
        ("v5e:1x1", 1, 1, "tpu-v5-lite-podslice"),
        ("v6e:16x16", 64, 4, "tpu-v6e-slice"),
        ("v5p:2x2x2", 2, 4, "tpu-v5p-slice"),
        ("v4:4x4x8", 32, 4, "tpu-v4-podslice"),
    ],
)
def test_a_pod_is_a_host_of_the_slice(capsys, topology, hosts, chips, label):
    manifest = rendered(capsys, where=("--topology", topology, *BUCKET))
    spec = replicated(manifest)["template"]["spec"]
    assert spec["parallelism"] == spec["completions"] == hosts
    resources = pod(manifest)["containers"][0]["resources"]
    assert resources["limits"] == resources["requests"] == {"google.com/tpu": chips}
    assert pod(manifest)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": label,
        "cloud.google.com/gke-tpu-topology": topology.partition(":")[2],
    }


def test_slices_are_jobs_on_pools_of_their_own_and_the_mesh_knows_them(capsys):
    manifest = rendered(capsys, "--slices", "3")
    assert replicated(manifest)["replicas"] == 3
    command = pod(manifest)["containers"][0]["command"]
    assert command == [
        "bert-jax",
        *PRETRAIN,
        *("--cluster.kind", "gke"),
        *("--mesh.slices", "3"),
    ]
    assert "--mesh.slices" not in pod(rendered(capsys))["containers"][0]["command"]


def test_a_stop_with_a_checkpoint_is_not_counted_as_a_crash(capsys):
    manifest = rendered(capsys)
    rule, _ = replicated(manifest)["template"]["spec"]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [130]  # InterruptedRunError, cli.main
    (container,) = pod(manifest)["containers"]
    assert rule["onExitCodes"]["containerName"] == container["name"]


def test_storage_is_mounted_and_a_dataset_is_staged(capsys):
    manifest = of_case(capsys, MANIFESTS["two slices"])
    (container,) = pod(manifest)["containers"]
    assert container["command"][:5] == [
        *("bash", IN_IMAGE, "/data/wiki", "/local/dataset", "--")
    ]
    assert {"name": "JAX_PLATFORMS", "value": "tpu,cpu"} in container["env"]
    shared = pod(manifest)["volumes"][0]["csi"]["volumeAttributes"]
    assert shared["bucketName"] == "runs"
    mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    assert mounts == {"shared": "/data", "local": "/local", "memory": "/dev/shm"}
    assert mounts.keys() == {volume["name"] for volume in pod(manifest)["volumes"]}


def test_one_host_may_write_its_run_into_a_bucket(capsys):
    places = ["--data.dataset", "gs://runs/data", "--output", "gs://runs/one"]
    pretrain = ["pretrain", "--config", "bert_tiny", *places]
    where = ["--topology", "v5e:2x2", *BUCKET]
    manifest = rendered(capsys, command=pretrain, where=where)
    command = pod(manifest)["containers"][0]["command"]
    assert command[:-2] == ["bert-jax", *pretrain]
    # Several hosts read their dataset there, and write by path.
    assert "must lie below /data" in refusal(capsys, command=pretrain)
    pretrain[-1] = "/data/run"
    rendered(capsys, command=pretrain)


def test_a_run_that_only_the_cluster_has_is_evaluated(capsys):
    manifest = rendered(capsys, command=["evaluate", "/data/run"])
    command = pod(manifest)["containers"][0]["command"]
    assert command == ["bert-jax", "evaluate", "/data/run", "--cluster.kind", "gke"]
    # A value of a flag is not taken for the run.
    rendered(capsys, command=["evaluate", "--batches", "5", "/data/run"])


def test_staged_files_may_be_labelled_text(capsys):
    files = ["--train", "/local/dataset/train.tsv", "--dev", "/local/dataset/dev.tsv"]
    where = ["--topology", "v6e:2x2", *BUCKET, "--stage", "/data/texts"]
    flags = ["--checkpoint", "/data/run", "--output", "/data/tuned"]
    rendered(capsys, command=["finetune", *flags, *files], where=where)


def test_spot_nodes_and_the_account_that_may_use_the_bucket(capsys):
    spec = pod(of_case(capsys, MANIFESTS["spot"]))
    assert spec["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert spec["serviceAccountName"] == "trainer"


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ({"where": ["--topology", "v5e:3x3", *BUCKET]}, "no topology 'v5e:3x3'"),
        ({"where": ["--topology", "cpu:8", *BUCKET]}, "expected a TPU"),
        (
            {"where": ["--topology", "v6e:2x2", *BUCKET, "--slices", "2"]},
            "several hosts",
        ),
        ({"where": [*TPU, "--bucket", "gs://runs"]}, "no gs://"),
        ({"options": ["--name", "Bert_1"]}, "--name Bert_1: Kubernetes takes at most"),
        ({"options": ["--name", "b" * 41]}, "at most 40 lower-case letters"),
        ({"options": ["--image", "repo/bert_jax"]}, "fixed tag or a digest"),
        ({"options": ["--image", "repo/bert_jax:latest"]}, "fixed tag or a digest"),
        ({"options": ["--stage", "/elsewhere/wiki"]}, "not below /data"),
        ({"options": ["--stage", "/data/wiki"]}, "which the command does not read"),
        ({"command": []}, "missing; one of pretrain"),
        ({"command": ["prepare"]}, "prepare; one of pretrain"),
        ({"command": ["pretrain", "--output", "gs://b/run"]}, "must lie below /data"),
        ({"command": ["pretrain", "--output", "/tmp/run"]}, "must lie below /data"),
        ({"command": ["pretrain"]}, "--output"),
        ({"command": [*PRETRAIN, "--cluster.kind", "tpu"]}, "leave it out"),
        ({"command": [*PRETRAIN, "--mesh.slices", "2"]}, "the job has 1"),
        ({"command": [*PRETRAIN, "--mesh.fsdp", "3"]}, "fsdp=3 "),
        ({"command": [*PRETRAIN[:-1], "24"]}, "make it a multiple of 16"),
        ({"command": [*PRETRAIN, "--data.dataset", "wiki"]}, "dataset wiki: this path"),
        ({"command": [*PRETRAIN, "--loop.mirror", "copy"]}, "mirror copy: this path"),
        ({"command": [*PRETRAIN, "--batch-sise", "2"]}, "batch-sise"),
        ({"command": [*PRETRAIN, "--config", "unknown"]}, "--config is given twice"),
        (
            {"command": ["pretrain", "unknown", "--output", "/data/run"]},
            "no config of this name is shipped",
        ),
    ],
    ids=str,
)
def test_what_cannot_run_is_refused_here(capsys, case, message):
    error = " ".join(refusal(capsys, *case.pop("options", ()), **case).split())
    assert message in error


@pytest.mark.parametrize(
    "command", [(*PRETRAIN, "--checkpoint", "/data/base"), ("evaluate", "/data/run")]
)
def test_flags_are_checked_though_the_files_are_in_the_cluster(capsys, command):
    options = ("--name", "b", "--image", IMAGE, *TPU, *BUCKET, "--", *command)
    render.main(options)
    assert command[-1] in capsys.readouterr().out
    with pytest.raises(SystemExit):
        render.main([*options, "--no-such-flag", "5"])


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
