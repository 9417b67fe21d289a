"""Runs and datasets behind servers of object stores, with kills, faults and two processes."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import fsspec
import jobs
import prepared_corpus
import pytest
import stores
from small_pretraining import SMALL

from benchmarks.same_run import differences
from bert_jax.data import object_store
from bert_jax.data.object_store import StoreFolder

pytestmark = pytest.mark.slow(ci=False)
ROOT = pathlib.Path(__file__).parents[1]
# A machine makes some hundred steps a second; one of them must be killed on the way.
STEPS = ("--num-steps", "600", "--loop.checkpoint-every-steps", "60")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus, a dataset, labelled text, and a local run to compare with."""
    folder = tmp_path_factory.mktemp("local")
    jobs.make_folder(folder)
    pretrain = ["pretrain", *SMALL, *STEPS, "--data.dataset", "dataset"]
    done(command([*pretrain, "--output", "run"], folder, {}))
    return folder


@pytest.fixture(scope="module", params=stores.SCHEMES)
def scheme(request):
    return request.param


@pytest.fixture(scope="module")
def url(scheme):
    with stores.server(scheme) as url:
        yield url


@pytest.fixture
def variables(scheme, url, tmp_path, monkeypatch):
    """The environment of a machine with an empty cache; also for this process."""
    found = {**stores.variables(scheme, url), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    fresh_clients()
    yield found
    fresh_clients()


def fresh_clients():
    """The next client asks the server that the environment names then."""
    for scheme in stores.SCHEMES:
        fsspec.get_filesystem_class(scheme).clear_instance_cache()


def command(args, folder, variables, **options) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bert_jax.cli", *args],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "OPENBLAS_NUM_THREADS": "1",
            **variables,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def done(process: subprocess.Popen[str], code: int = 0) -> str:
    out, _ = process.communicate(timeout=600)
    assert process.returncode == code, out
    return out


def until_there_is_a_checkpoint(store, process):
    while not any(name.endswith("manifest/metadata") for name in store.sizes()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


def scores(out: str) -> dict[str, str]:
    """What `evaluate` printed, by name."""
    return dict(re.findall(r"^(\w+): ([-+.\de]+)$", out, re.MULTILINE))


def test_a_killed_run_goes_on_elsewhere_and_serves_all_commands(
    scheme, variables, folder, tmp_path
):
    home = f"{scheme}://{stores.BUCKET}"

    def bert_jax(*args, code=0):
        return done(command(args, folder, variables), code)

    source, tokenizer = f"files:{folder}/*.jsonl", str(folder / "tokenizer")
    flags = [
        "--validation-fraction",
        str(prepared_corpus.FRACTION),
        "--num-workers",
        "1",
    ]
    prepare = ["prepare", "--source", source, "--tokenizer", tokenizer, *flags]
    bert_jax(*prepare, "--output", f"{home}/data")
    pretrain = ["pretrain", *SMALL, *STEPS, "--data.dataset", f"{home}/data"]
    pretrain += ["--output", f"{home}/run"]

    process = command(pretrain, folder, variables)
    store = StoreFolder(f"{home}/run")
    until_there_is_a_checkpoint(store, process)
    process.send_signal(signal.SIGKILL)
    assert "600/600" not in done(process, -signal.SIGKILL)
    assert ".lock" in store.sizes()
    shutil.rmtree(tmp_path / "cache")

    out = bert_jax(*pretrain)
    assert "going on from step" in out
    shutil.rmtree(tmp_path / "cache")
    assert ".lock" not in store.sizes()
    store.get(tmp_path / "all", store.sizes())
    (tmp_path / "all/session").unlink()
    shutil.copytree(
        *(folder / "run", tmp_path / "local"), ignore=shutil.ignore_patterns(".lock")
    )
    assert differences(tmp_path / "all", tmp_path / "local", limit=0) == []

    assert scores(bert_jax("evaluate", f"{home}/run")) == scores(
        bert_jax("evaluate", "run")
    )
    tuned = ["--train", "train.tsv", "--dev", "validation.tsv", "--num-epochs", "1"]
    tuned += ["--sequence-length", "16", "--batch-size", "8"]
    bert_jax("finetune", f"{home}/run", *tuned, "--output", f"{home}/tuned")
    shutil.rmtree(tmp_path / "cache")
    found = scores(bert_jax("evaluate", f"{home}/tuned"))
    results = json.loads(StoreFolder(f"{home}/tuned").read("results.json"))["eval"]
    assert found
    assert {name: f"{results[name]:.6g}" for name in found} == found
    # The best state alone is fetched.
    [run] = (tmp_path / f"cache/bert_jax/buckets/runs/{scheme}/runs").glob("tuned@*")
    assert run.name.startswith("tuned@best-")
    assert sorted(x.name for x in run.iterdir() if x.is_dir()) == ["best", "tokenizer"]
    assert "the garden" in bert_jax("predict", f"{home}/tuned", "the garden")
    page = ["--pretrain", f"{home}/run", "--finetune", f"{home}/tuned"]
    page += ["--dataset", f"{home}/data", "--output", str(tmp_path / "page")]
    bert_jax("report", *page)
    assert list((tmp_path / "page").glob("*.html"))
    for kind, run in (("ours", f"{home}/run"), ("theirs", "run")):
        bert_jax("export", run, "--output", str(tmp_path / kind))
    name = "model.safetensors"
    ours, theirs = ((tmp_path / x / name).read_bytes() for x in ("ours", "theirs"))
    assert ours == theirs
    assert "has no whole checkpoint of step 7" in bert_jax(
        *("evaluate", f"{home}/run", "--step", "7"), code=1
    )
    missing = f"{scheme}://nobody/run"
    assert "no such bucket" in bert_jax("evaluate", missing, code=1)


def test_two_runs_into_one_place_are_noticed(scheme, variables, folder):
    home = f"{scheme}://{stores.BUCKET}"
    pretrain = [
        "pretrain",
        *SMALL,
        "--num-steps",
        "100000",
        "--data.dataset",
        "dataset",
    ]
    pretrain += ["--loop.checkpoint-every-steps", "50", "--output", f"{home}/twice"]
    first = command(pretrain, folder, variables)
    store = StoreFolder(f"{home}/twice")
    until_there_is_a_checkpoint(store, first)
    out = done(command(pretrain, folder, variables), 1)
    assert f"{home}/twice is being trained by process {first.pid} on" in out
    first.send_signal(signal.SIGTERM)
    assert "stopped at step" in done(first, 130)
    names = store.sizes()
    assert ".lock" not in names
    assert any(name.endswith("manifest/metadata") for name in names)


@pytest.mark.parametrize("fault", ["503", "429", "cut", "silent", "gone"])
def test_faults_that_pass_are_not_seen_and_others_are_named(
    scheme, url, variables, tmp_path, monkeypatch, fault
):
    monkeypatch.setattr(object_store, "_SILENT_SECS", 1.0)
    home = f"{scheme}://{stores.BUCKET}/{fault}"
    content = {f"f/{n}": os.urandom(100_000 + n) for n in range(3)}
    for name, data in content.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    with stores.Proxy(url, silent_secs=2.0) as proxy:
        for name, value in stores.variables(scheme, proxy.url).items():
            monkeypatch.setenv(name, value)
        fresh_clients()
        store = StoreFolder(home)
        proxy.faults += [fault] * 2
        store.put(tmp_path, content)
        assert proxy.met == [fault] * 2
        proxy.faults += [fault] * 2
        store.get(tmp_path / "back", {name: len(x) for name, x in content.items()})
        assert proxy.met == [fault] * 4
        for name, data in content.items():
            assert (tmp_path / "back" / name).read_bytes() == data
        assert store.sizes() == {name: len(x) for name, x in content.items()}
        monkeypatch.setattr(object_store, "_PAUSES_SECS", ())
        proxy.faults += [fault] * 1_000
        with pytest.raises(OSError, match=f"{home}/f/0: the store did not do it"):
            store.get(tmp_path / "not", {"f/0": 100_000})
        assert not (tmp_path / "not/f/0").exists()


@pytest.mark.parametrize("fault", ["401", "403"])
def test_refused_credentials_are_named_at_once(
    scheme, url, variables, tmp_path, monkeypatch, fault
):
    (tmp_path / "a").write_text("x")
    with stores.Proxy(url, silent_secs=2.0) as proxy:
        for name, value in stores.variables(scheme, proxy.url).items():
            monkeypatch.setenv(name, value)
        fresh_clients()
        store = StoreFolder(f"{scheme}://{stores.BUCKET}/{fault}")
        for act in (
            store.sizes,
            lambda: store.read("a"),
            lambda: store.write("a", b"x"),
            lambda: store.put(tmp_path, ["a"]),
            lambda: store.get(tmp_path / "back", {"a": 1}),
        ):
            proxy.faults[:] = [fault] * 100
            began = time.monotonic()
            with pytest.raises(
                OSError, match=r"the store refuses .* log in with"
            ) as found:
                act()
            assert f"{scheme}://{stores.BUCKET}/{fault}" in str(found.value)
            assert time.monotonic() - began < 10.0  # it is not tried again for long
        proxy.faults.clear()
    fresh_clients()


def test_a_server_that_is_not_there_is_named(scheme, monkeypatch, tmp_path):
    for name, value in stores.variables(scheme, "http://127.0.0.1:9").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(object_store, "_PAUSES_SECS", ())
    fresh_clients()
    with pytest.raises(OSError, match=f"{scheme}://b/run: the store did not do it"):
        StoreFolder(f"{scheme}://b/run").sizes()
    fresh_clients()


def test_two_processes_with_one_cache_train_into_a_store(
    scheme, variables, folder, tmp_path, monkeypatch
):
    output = f"{scheme}://{stores.BUCKET}/job"
    found = jobs.launched(folder, 2, 1, jobs.pretrain_args(output))
    assert found.returncode == 0, found.stdout + found.stderr
    expected = jobs.launched(folder, 2, 1, jobs.pretrain_args(str(tmp_path / "job")))
    assert expected.returncode == 0, expected.stdout + expected.stderr
    store = StoreFolder(output)
    store.get(tmp_path / "all", store.sizes())
    for name in ("all/session", "job/.lock"):
        (tmp_path / name).unlink()
    assert differences(tmp_path / "all", tmp_path / "job", limit=0) == []
