"""Runs and datasets in object stores, with the store that fsspec keeps in memory.

`test_object_store_servers.py` does it with servers, over the network of this machine.
"""

import json
import pathlib
import shutil
import time

import fsspec
import numpy as np
import prepared_corpus
import pytest
from small_pretraining import SMALL, one_device  # noqa: F401
from small_states import small_state

from benchmarks.same_run import differences
from bert_jax import cli, config_json
from bert_jax.config import DataConfig, LoopConfig
from bert_jax.config.address import address_of
from bert_jax.data import object_store
from bert_jax.data.object_store import StoreFolder
from bert_jax.data.prepared.dataset import open_dataset
from bert_jax.runtime import start
from bert_jax.train import loop
from bert_jax.train.runs import run_in_store, store_lock
from bert_jax.train.runs.checkpoint import Checkpoints
from bert_jax.train.runs.checkpoint_files import MANIFEST_FILE
from bert_jax.train.runs.checkpoint_fit import Identity
from bert_jax.train.runs.checkpoint_in_store import steps_in_store
from bert_jax.train.runs.checkpoint_mirror import mirror_of, steps_in
from bert_jax.train.runs.run_in_store import fetch_run, trained_in_store
from bert_jax.train.stop_request import InterruptedRunError

RUN = "memory://bucket/runs/one"
DATASET = "memory://bucket/dataset"


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    """An empty store and an empty cache; returns the store's files by their paths."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(object_store, "_PAUSES_SECS", (0.01,))
    monkeypatch.setattr(run_in_store, "_POLL_SECS", 0.05)
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    yield memory.store
    memory.store.clear()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache/bert_jax/buckets"


@pytest.fixture(scope="module")
def local(corpus, tmp_path_factory):
    """A dataset on this machine."""
    directory = tmp_path_factory.mktemp("local") / "dataset"
    prepared_corpus.prepared(corpus, directory)
    return directory


def names(folder: str) -> set[str]:
    return set(StoreFolder(folder).sizes())


def change(path: str) -> None:
    """Changes one byte of a file in the store."""
    memory = fsspec.filesystem("memory")
    content = bytearray(memory.cat_file(path))
    content[len(content) // 2] ^= 1
    memory.pipe_file(path, bytes(content))


def test_addresses_are_known_behind_the_single_slash_of_a_path():
    assert address_of(pathlib.Path("gs://b/run/")) == "gs://b/run"
    assert address_of("s3://b") == "s3://b"
    assert [address_of(x) for x in ("gs:", "/gs:/b", "a/b", ".")] == [None] * 4
    data = DataConfig(dataset=pathlib.Path("gs://b/data"))
    absolute = config_json.with_absolute_paths(data)
    assert address_of(absolute.dataset) == "gs://b/data"


# --- datasets


def upload(local, address=DATASET):
    sizes = {
        path.relative_to(local).as_posix(): path.stat().st_size
        for path in local.rglob("*")
        if path.is_file() and "index" not in path.parts
    }
    StoreFolder(address).put(local, sizes)


def fetched(monkeypatch) -> list[str]:
    """The names of all files that are fetched from now on."""
    found, get = [], StoreFolder._get_whole

    def counting(self, name, *args):
        found.append(name)
        get(self, name, *args)

    monkeypatch.setattr(StoreFolder, "_get_whole", counting)
    return found


def test_a_dataset_is_copied_once_and_opened_from_there(local, cache, monkeypatch):
    upload(local)
    found = fetched(monkeypatch)
    dataset = open_dataset(pathlib.Path(DATASET))
    assert dataset.directory == cache / "datasets/memory/bucket/dataset"
    ours, theirs = (x.load_split("train") for x in (dataset, open_dataset(local)))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)
    assert found
    found.clear()
    open_dataset(pathlib.Path(DATASET))
    assert not found
    # Another dataset at the same address.
    change("/bucket/dataset/manifest.json")
    # Which one it is depends on where the middle of the file falls.
    said = f"{DATASET}/manifest.json (is damaged|was changed)"
    with pytest.raises(ValueError, match=said):
        open_dataset(pathlib.Path(DATASET))


def test_an_interrupted_copy_of_a_dataset_goes_on(local, monkeypatch):
    upload(local)
    found, get = fetched(monkeypatch), StoreFolder._get_whole

    def breaking(self, name, *args):
        if len(found) == 5:
            raise KeyboardInterrupt
        get(self, name, *args)

    monkeypatch.setattr(object_store, "_AT_ONCE", 1)
    with monkeypatch.context() as patch:
        patch.setattr(StoreFolder, "_get_whole", breaking)
        with pytest.raises(KeyboardInterrupt):
            open_dataset(pathlib.Path(DATASET))
    assert len(found) == 5
    open_dataset(pathlib.Path(DATASET))
    assert (
        len(found)
        == len(set(found))
        == len(names(DATASET) - {"manifest.json", ".lock"})
    )


def test_a_dataset_that_is_damaged_or_absent_is_named(local, cache):
    with pytest.raises(FileNotFoundError, match=f"{DATASET} holds no finished dataset"):
        open_dataset(pathlib.Path(DATASET))
    upload(local)
    [shard, *_] = sorted(x for x in names(DATASET) if "array_record" in x)
    change(f"/bucket/dataset/{shard}")
    with pytest.raises(ValueError, match=f"{DATASET}/{shard} is missing, or does not"):
        open_dataset(pathlib.Path(DATASET))
    assert not (cache / "datasets/memory/bucket/dataset/manifest.json").exists()
    upload(local)  # as it should be
    open_dataset(pathlib.Path(DATASET))


def test_prepare_writes_into_a_store_its_manifest_last(corpus, local, cache, store):
    source, _, tokenizer = corpus
    command = ["prepare", "--source", source, "--tokenizer", str(tokenizer)]
    command += [
        "--output",
        DATASET,
        "--num-workers",
        "1",
        "--validation-fraction",
        "0.3",
    ]
    cli.main(command)
    written = {path: store[path].modified for path in store}
    assert max(written, key=written.get) == "/bucket/dataset/manifest.json"
    expected = prepared_corpus.contents(local)
    shutil.rmtree(cache)  # another machine
    directory = open_dataset(pathlib.Path(DATASET)).directory
    mine = prepared_corpus.contents(directory)
    assert {x: mine[x] for x in mine if "array_record" in x} == {
        x: expected[x] for x in expected if "array_record" in x
    }
    cli.main(command)  # it is finished
    assert {path: store[path].modified for path in store} == written


# --- runs


@pytest.fixture(scope="module")
def identity(tiny):
    return Identity(tiny, "a" * 64)


def train(identity, *steps, keep=2, address=RUN, then=None):
    """Saves checkpoints of small states in a run of a store; returns its last step."""
    cfg = LoopConfig(keep_checkpoints=keep)
    with trained_in_store(address, cfg) as run:
        run.mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "run.json"):
            (run / name).write_text("{}")
        with Checkpoints(run, identity, keep=keep) as checkpoints:
            last = checkpoints.newest_whole()
            for step in steps:
                checkpoints.save(small_state(step))
                checkpoints.wait()
                (run / "metrics.jsonl").write_text(f"{step}")
            if then is not None:
                then(run)
    return last


def test_a_run_goes_on_from_its_store_on_another_machine(identity, cache, capsys):
    assert train(identity, 1, 2, 3) is None
    assert f"{RUN} holds the run" in capsys.readouterr().out
    run = cache / "training/memory/bucket/runs/one"
    before = {path.relative_to(run): path.read_bytes() for path in run.rglob("*/d/*")}
    shutil.rmtree(cache)
    assert train(identity) == 3
    fresh = {path.relative_to(run): path.read_bytes() for path in run.rglob("*/d/*")}
    assert fresh.items() <= before.items()
    assert steps_in(run / "checkpoints") == [3]  # only what is needed
    assert (run / "metrics.jsonl").read_text() == "3"
    # The store keeps as many as the run.
    train(identity, 4)
    assert steps_in(fetch_run(RUN, "all") / "checkpoints") == [4, 3]
    assert not {
        x for x in names(RUN) if x.startswith(("checkpoints/1/", "checkpoints/2/"))
    }
    assert ".lock" not in names(RUN)


def test_the_local_folder_counts_while_nobody_else_has_trained_the_run(
    identity, cache, tmp_path, monkeypatch
):
    train(identity, 1)
    found = fetched(monkeypatch)
    train(identity, 2)
    assert not found
    shutil.move(cache, tmp_path / "elsewhere")  # another machine goes on
    train(identity, 3)
    shutil.rmtree(cache)
    shutil.move(tmp_path / "elsewhere", cache)
    assert train(identity) == 3


def test_a_killed_run_leaves_no_half_checkpoint(identity, cache, monkeypatch):
    """The kill comes while step 2 is copied; nothing more is copied after it."""

    def killed(run):
        while not any(x.startswith("checkpoints/2/rest") for x in names(RUN)):
            time.sleep(0.01)
        raise KeyboardInterrupt

    train(identity, 1)
    write = StoreFolder.write

    def stuck(self, name, *args, **options):
        if str(self).endswith("/2") and name == "manifest/metadata":
            raise ConnectionError
        write(self, name, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(StoreFolder, "write", stuck)
        with pytest.raises(KeyboardInterrupt):
            train(identity, 2, then=killed)
    assert any(x.startswith("checkpoints/2/") for x in names(RUN))
    shutil.rmtree(cache)
    assert steps_in(fetch_run(RUN, "all") / "checkpoints") == [1]
    assert train(identity, 3) == 1
    assert not any(x.startswith("checkpoints/2/") for x in names(RUN))


def test_what_cannot_be_copied_is_an_error_at_the_end(
    identity, cache, monkeypatch, capsys
):
    def refused(*args, **options):
        raise OSError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(run_in_store, "put_checkpoint", refused)
        with pytest.raises(OSError, match=rf"{RUN} does not hold all.*All of it is in"):
            train(identity, 1)
        assert not start._has_work  # so a signal ends what follows
        out = capsys.readouterr().out
        assert "warning: the store is away The run goes on." in out or not out
        # A stop by a signal ends in the same way.
        with pytest.raises(OSError, match="does not hold all"):
            train(identity, 2, then=stopped)
        # Of another error, the first one is told.
        with pytest.raises(ZeroDivisionError):
            train(identity, then=lambda run: 1 / 0)
        assert "note: memory://" in capsys.readouterr().out
    with pytest.raises(InterruptedRunError):
        train(identity, then=stopped)
    shutil.rmtree(cache)
    assert train(identity) == 2


def test_work_that_never_reached_the_store_is_not_lost(identity, cache, monkeypatch):
    write = StoreFolder.write

    def away(self, name, *args, **options):
        if name not in (".lock", "session"):
            raise OSError("the store is away")
        write(self, name, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(StoreFolder, "write", away)
        with pytest.raises(OSError, match="goes on from there"):
            train(identity, 1)
    assert names(RUN) == {"session"}
    assert train(identity) == 1
    assert "checkpoints/1/manifest/metadata" in names(RUN)
    # Whoever deletes the run in the store begins anew.
    StoreFolder(RUN).delete(names(RUN))
    assert train(identity, 5) is None
    assert steps_in(fetch_run(RUN, "all") / "checkpoints") == [5]


def stopped(run):
    raise InterruptedRunError("stopped at step 2")


def test_two_runs_in_one_place_are_noticed(identity, monkeypatch, capsys):
    for name, secs in (("_STALE_SECS", 0.4), ("_LOOK_SECS", 0.05), ("_BEAT_SECS", 0.1)):
        monkeypatch.setattr(store_lock, name, secs)
    store = StoreFolder(RUN)
    other = {"host": "elsewhere", "pid": 7, "since": "noon", "id": "x", "beat": 0}

    def second(run):
        lock = json.loads(store.read(".lock"))
        store.write(".lock", json.dumps({**lock, "host": "elsewhere"}).encode())

    # Taken away while it trains: the loop is asked to stop, and the end is an error.
    killed = []
    monkeypatch.setattr(run_in_store.os, "kill", lambda *args: killed.append(args))

    def until_noticed(run):
        store.write(".lock", json.dumps(other).encode())
        for _ in range(200):
            if killed:
                return
            time.sleep(0.05)

    with pytest.raises(OSError, match="taken over by process 7 on elsewhere"):
        train(identity, 1, then=until_noticed)
    assert killed
    # The other one still gives signs: refused. It gives none: its lock is removed.
    beats = iter(range(1, 100))
    read = StoreFolder.read

    def beating(self, name):
        if name == ".lock":
            self.write(name, json.dumps({**other, "beat": next(beats)}).encode())
        return read(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(StoreFolder, "read", beating)
        with pytest.raises(
            ValueError, match="is being trained by process 7 on elsewhere"
        ):
            train(identity, 2)
    train(identity, 2)
    assert "waiting up to" in capsys.readouterr().out


def test_only_the_step_that_is_needed_is_fetched(identity, cache, monkeypatch):
    train(identity, 1, 2, 3, keep=3)
    found = fetched(monkeypatch)
    for step, expected in ((None, 3), (2, 2)):
        found.clear()
        run = fetch_run(RUN, step=step)
        assert steps_in(run / "checkpoints") == [expected]
        with Checkpoints(run, identity, read_only=True) as checkpoints:
            restored = checkpoints.restore(small_state(0))
        np.testing.assert_array_equal(
            restored.params["a"], small_state(expected).params["a"]
        )
        assert "params/manifest.ocdbt" in found
        found.clear()
        fetch_run(RUN, step=step)
        assert not found
    with pytest.raises(
        FileNotFoundError, match=r"no whole checkpoint of step 7; .*\[1, 2"
    ):
        fetch_run(RUN, step=7)
    with pytest.raises(FileNotFoundError, match="memory://bucket/no holds nothing"):
        fetch_run("memory://bucket/no")


def test_a_run_to_go_on_from_is_fetched_without_its_best_state(identity, cache):
    train(identity, 1, 2, keep=2)
    memory, home = fsspec.filesystem("memory"), "/bucket/runs/one"
    memory.mv(f"{home}/checkpoints/1", f"{home}/best/1", recursive=True)
    for which, place, step in (("one", "best", 1), ("newest", "checkpoints", 2)):
        run = fetch_run(RUN, which)
        assert [path.name for path in run.glob(f"{place}/*")] == [str(step)]
        assert len([*run.glob("*/*/params")]) == 1


def test_a_damaged_checkpoint_of_a_store_is_named_and_passed_over(
    identity, cache, capsys
):
    train(identity, 1, 2)
    [file] = (x for x in names(RUN) if x.startswith("checkpoints/2/params/d/"))
    change(f"/bucket/runs/one/{file}")
    with pytest.raises(ValueError, match=f"{RUN}/{file} is not what was saved"):
        fetch_run(RUN)
    shutil.rmtree(cache)
    assert train(identity) == 1
    assert f"step 2 is passed over: {RUN}/{file}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["../../stolen", "/etc/stolen", "a/../../stolen"])
def test_no_name_leads_out_of_the_folder(monkeypatch, name):
    files = dict.fromkeys(("", "checkpoints/", "run.json"), 3)
    listed = lambda *_, **__: {  # noqa: E731
        f"/bucket/runs/one/{x}": {"size": size, "type": "file"}
        for x, size in files.items()
    }
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "find", listed)
    # Consoles make empty objects to show folders.
    assert StoreFolder(RUN).sizes() == {"run.json": 3}
    files[name] = 3
    with pytest.raises(ValueError, match="stolen: a file of this name cannot be"):
        StoreFolder(RUN).sizes()


def test_checkpoints_without_their_run_are_no_new_run(identity, cache):
    train(identity, 1)
    store = StoreFolder(RUN)
    store.delete([name for name in store.sizes() if name.endswith("run.json")])
    with pytest.raises(
        FileNotFoundError, match=r"step 1, but its run\.json is missing"
    ):
        train(identity, 2)


def test_a_place_with_other_files_is_refused(identity, cache):
    StoreFolder(RUN).write("a/thesis.tex", b"years")
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        train(identity, 1)
    assert names(RUN) == {"a/thesis.tex"}


def test_a_mirror_in_a_store(identity, cache, tmp_path, capsys):
    cfg = LoopConfig(mirror="memory://bucket/mirror", keep_checkpoints=2)
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text("{}\n")
    for step in (1, 2, 3):
        mirror = mirror_of(run, cfg)
        with Checkpoints(run, identity, keep=2, mirror=mirror) as checkpoints:
            checkpoints.save(small_state(step))
    assert mirror.steps() == [3, 2]
    assert (mirror.small_files() / "metrics.jsonl").read_text() == "{}\n"
    [file] = (x for x in names(cfg.mirror) if x.startswith("checkpoints/3/params/d/"))
    change(f"/bucket/mirror/{file}")
    shutil.rmtree(run)
    with Checkpoints(run, identity, mirror=mirror_of(run, cfg)) as checkpoints:
        assert checkpoints.newest_whole() == 2
        restored = checkpoints.restore(small_state(0), 2)
    np.testing.assert_array_equal(restored.params["a"], small_state(2).params["a"])
    told = capsys.readouterr().out
    assert (
        f"copy of step 3 in memory://bucket/mirror cannot be used ({cfg.mirror}" in told
    )


# --- commands


@pytest.mark.slow(ci=False)
def test_pretrain_in_a_store_ends_like_a_local_run(
    local, cache, tmp_path, capsys, monkeypatch
):
    """Two sessions, the second one on another machine, with the dataset in the store."""
    upload(local)
    flags = [*SMALL, "--num-steps", "8", "--loop.checkpoint-every-steps", "4"]

    def pretrain(output, dataset):
        places = ["--data.dataset", str(dataset), "--output", str(output)]
        cli.main(["pretrain", *flags, *places])

    pretrain(tmp_path / "run", local)
    with monkeypatch.context() as patch:
        patch.setattr(loop._Loop, "_must_stop", lambda self: self.done == 4)
        with pytest.raises(SystemExit) as stopped:
            pretrain(RUN, DATASET)
    assert stopped.value.code == 130
    shutil.rmtree(cache)
    pretrain(RUN, DATASET)
    shutil.rmtree(cache)
    StoreFolder(RUN).get(tmp_path / "all", StoreFolder(RUN).sizes())
    (tmp_path / "all/session").unlink()
    (tmp_path / "run/.lock").unlink()
    assert differences(tmp_path / "all", tmp_path / "run", limit=0) == []
    stored = json.loads((fetch_run(RUN) / "config.json").read_text())
    assert address_of(stored["data"]["dataset"]) == DATASET
    capsys.readouterr()
    cli.main(["evaluate", RUN])
    in_store = capsys.readouterr().out
    cli.main(["evaluate", str(tmp_path / "run")])
    assert in_store == capsys.readouterr().out
    cli.main(["checkpoints", RUN])
    assert capsys.readouterr().out.count("whole") == 2


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            ["export", "run", "--output", "gs://b/out"],
            "--output gs://b/out: this is read",
        ),
        (["replay", "gs://b/run"], "--run-dir gs://b/run: this is read"),
        (["evaluate", "abc://b/run"], "bert_jax reads and writes gs:// and s3://"),
        (["evaluate", "memory://b/run"], "memory://b/run holds nothing"),
    ],
    ids=str,
)
def test_what_cannot_be_in_a_store_is_refused(command, said, refused):
    assert said in refused(*command)


def test_other_objects_are_no_checkpoints():
    names = ["checkpoints", "checkpoints/7", f"checkpoints/x/{MANIFEST_FILE}"]
    names += [
        f"{place}/{step}/{MANIFEST_FILE}"
        for place, step in (
            ("checkpoints", 3),
            ("checkpoints", 12),
            ("best", 5),
        )
    ]
    assert steps_in_store(dict.fromkeys(names, 1), "checkpoints") == [12, 3]
