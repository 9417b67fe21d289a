"""The Beam pipeline writes what the local path writes; on Beam's local runner.

A pipeline takes a second, so tests share finished datasets and damage copies.
"""

import base64
import gzip
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import IN_CI
from hypothesis import example, given
from hypothesis import strategies as st
from prepared_corpus import (
    FRACTION,
    NUM_FILES,
    contents,
    copy_of,
    make_corpus,
    prepared,
)
from tensorflow_datasets.core import shuffle

from bert_jax import cli
from bert_jax.config import PrepareOptions
from bert_jax.data.prepared.dataset import open_dataset
from bert_jax.data.prepared.format import SPLITS
from bert_jax.data.prepared.locking import locked
from bert_jax.data.prepared.manifest import read_manifest
from bert_jax.data.prepared.stages import begin, make_plan
from bert_jax.data.text.sources import open_source
from bert_jax.data.tokenizers.saved_tokenizer import load_tokenizer

try:
    from bert_jax.data.prepared import beam
except ValueError as missing:  # Apache Beam, which the message names
    if IN_CI:
        raise
    pytest.skip(str(missing), allow_module_level=True)

# `DirectRunner` would first try to download another one.
RUNNER = "--runner=FnApiRunner"
# Sixteen of them are copies; see `corpus`.
NUM_DOCUMENTS = NUM_FILES * 15 + 16
DROP = {"duplicates": "drop", "near_threshold": 0.5}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """(source, its records, tokenizer): with copies, near copies and a repeated key."""
    made = make_corpus(tmp_path_factory.mktemp("corpus"))
    first, last = (
        pathlib.Path(made[0].removeprefix("files:")).parent / f"part-{k}.jsonl"
        for k in (0, 3)
    )
    copies = [json.loads(line) for line in first.read_text().splitlines()]
    copies += [{"text": copies[3]["text"] + " More.", "key": "near", "group": "near"}]
    with last.open("a") as file:
        file.writelines(json.dumps(copy) + "\n" for copy in copies)
    return made


def with_beam(corpus, output, *, strict=False, **settings):
    source, _, tokenizer = corpus
    options = PrepareOptions(**{"validation_fraction": FRACTION} | settings)
    return beam.prepare_with_beam(
        source, tokenizer, output, options, beam_options=[RUNNER], strict=strict
    )


@pytest.fixture(scope="module")
def local(corpus, tmp_path_factory):
    """Written without Beam, copies dropped."""
    output = tmp_path_factory.mktemp("local") / "dataset"
    prepared(corpus, output, **DROP)
    return output


@pytest.fixture(scope="module")
def dataset(corpus, tmp_path_factory):
    """The same with Beam; leave it as it is."""
    output = tmp_path_factory.mktemp("beam") / "dataset"
    with_beam(corpus, output, **DROP)
    return output


def dataset_of(directory: pathlib.Path) -> dict[str, bytes]:
    """All files but those that say how far which runner came."""
    return {
        name: content
        for name, content in contents(directory).items()
        if name not in ("plan.json", "shards/written.json", ".lock")
        and not name.endswith(".stats.json")
    }


def records(directory: pathlib.Path, split: str) -> list[tuple]:
    source = tfds.builder_from_directory(str(directory)).as_data_source(split=split)
    return [
        (r["key"], r["tokens"].tolist(), r["sentence_lengths"].tolist()) for r in source
    ]


@pytest.mark.slow(ci=False)
def test_the_files_are_those_of_the_local_path(local, dataset):
    expected, found = dataset_of(local), dataset_of(dataset)
    assert sorted(found) == sorted(expected)
    # The last file is as large as two.
    num_shards = NUM_FILES - 1
    assert len([name for name in found if "array_record" in name]) == 2 * num_shards
    for name in expected:
        assert found[name] == expected[name], name
    for name in (f"shards/{index:05d}.stats.json" for index in range(num_shards)):
        mine, its = (json.loads((d / name).read_text()) for d in (dataset, local))
        del its["files"]
        assert mine == its


@pytest.mark.slow(ci=False)
def test_copies_are_dropped(dataset):
    manifest = read_manifest(dataset)
    duplicates = manifest["audit"]["duplicates"]
    assert duplicates["dropped"]
    assert duplicates["exact"] == 15
    assert duplicates["near"] >= 1
    kept = sum(counts["documents"] for counts in manifest["splits"].values())
    assert kept == NUM_DOCUMENTS - duplicates["exact"] - duplicates["near"]


@pytest.mark.slow(ci=False)
def test_training_reads_it(local, dataset, tmp_path):
    stores = [
        open_dataset(copy_of(directory, tmp_path / name)).load_split("train")
        for name, directory in (("local", local), ("beam", dataset))
    ]
    for one, other in zip(*stores, strict=True):
        np.testing.assert_array_equal(one, other)
    assert stores[0].tokens.size > 1_000


IN_STORE = """
import json, os, pathlib, sys
import fsspec
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from bert_jax.data.prepared.beam import prepare_with_beam
from bert_jax.config import PrepareOptions


class Store(DirFileSystem):
    def __init__(self, **_):
        super().__init__(path=sys.argv[1], fs=LocalFileSystem(auto_mkdir=True))

    def _join(self, path):
        return super()._join(path.removeprefix("gs://"))


for name in ("gs", "gcs"):
    fsspec.register_implementation(name, Store, clobber=True)
source, tokenizer, runner, options = sys.argv[2:]
manifest = prepare_with_beam(
    source,
    pathlib.Path(tokenizer),
    "gs://bucket/some/dataset",
    PrepareOptions(**json.loads(options)),
    beam_options=[runner],
)
print(json.dumps([manifest, [x for x in ("tensorflow", "jax") if x in sys.modules]]))
"""


@pytest.mark.slow(ci=False)
def test_an_object_store_without_tensorflow_or_jax(corpus, local, tmp_path):
    source, _, tokenizer = corpus
    options = json.dumps({"validation_fraction": FRACTION} | DROP)
    done = subprocess.run(
        [sys.executable, "-c", IN_STORE, tmp_path, source, tokenizer, RUNNER, options],
        env=os.environ | {"EPATH_USE_TF": "false"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    manifest, imported = json.loads(done.stdout)
    assert imported == []
    assert manifest == read_manifest(local)
    assert os.listdir(tmp_path) == ["bucket"]
    # In another process, with other hash seeds.
    assert dataset_of(tmp_path / "bucket/some/dataset") == dataset_of(local)


@pytest.mark.slow(ci=False)
def test_a_shard_without_held_out_documents(tmp_path):
    (tmp_path / "corpus").mkdir()
    corpus = make_corpus(tmp_path / "corpus")
    directories = tmp_path / "local", tmp_path / "beam"
    its = prepared(corpus, directories[0], validation_fraction=0.05)
    mine = with_beam(corpus, directories[1], validation_fraction=0.05)
    lengths = [
        tfds.builder_from_directory(str(d)).info.splits["validation"].shard_lengths
        for d in directories
    ]
    assert lengths == [[1, 1, 1, 0], [1, 1, 1]]
    for split in SPLITS:
        assert records(directories[0], split) == records(directories[1], split)
    for kind in ("splits", "read", "audit"):
        assert mine[kind] == its[kind]
    assert len(mine["sha256"]) == len(its["sha256"]) - 1
    # Its hashes hold, too.
    assert open_dataset(directories[1]).load_split("validation").tokens.size


@given(st.data())
@example(None)
def test_a_shard_is_a_file(data):
    def draw(low, high, otherwise):
        return data.draw(st.integers(low, high)) if data else otherwise

    num_shards = draw(1, 10_000, 10_000)
    most = 1 << 24
    largest = (num_shards - 1) * beam._KEYS_PER_SHARD + draw(0, most, 0)
    shard = draw(0, num_shards - 1, num_shards - 1)
    key = min(shard * beam._KEYS_PER_SHARD + draw(0, most, most), largest)
    assert shuffle.get_bucket_number(key, num_shards, largest) == shard


@pytest.mark.slow(ci=False)
def test_a_stopped_run_begins_anew(corpus, tmp_path, monkeypatch):
    output = tmp_path / "dataset"
    write = beam._ShardWriter.write

    def stop(self, path, examples):
        write(self, path, examples)
        if "validation" in os.fspath(path):
            raise RuntimeError("the machine went away")

    with monkeypatch.context() as patched:
        patched.setattr(beam._ShardWriter, "write", stop)
        with pytest.raises(RuntimeError, match="the machine went away"):
            with_beam(corpus, output)
    assert not (output / "manifest.json").exists()
    # What workers that were killed leave, of another division at that.
    for name in (
        "incomplete.0123.documents-train.array_record-00000-of-00009",
        "documents-train.array_record-00008-of-00009",
        "documents-train.array_record-00008-of-00009.json",
        "documents-train.split_info.json",
        "shards/00008.counts.npy",
    ):
        (output / name).write_bytes(b"half")
    with_beam(corpus, output)
    prepared(corpus, tmp_path / "local")
    assert dataset_of(output) == dataset_of(tmp_path / "local")


@pytest.mark.slow(ci=False)
def test_only_the_audit_is_repeated_after_a_refusal(corpus, tmp_path, monkeypatch):
    output = tmp_path / "dataset"
    with pytest.raises(ValueError, match=r"--strict: .*\n.*copies of other documents"):
        with_beam(corpus, output, strict=True)
    assert not (output / "manifest.json").exists()
    monkeypatch.setattr(beam.split_builder, "SplitBuilder", None)
    manifest = with_beam(corpus, output)
    assert manifest == prepared(corpus, tmp_path / "local")
    assert sum(x["documents"] for x in manifest["splits"].values()) == NUM_DOCUMENTS
    assert dataset_of(output) == dataset_of(tmp_path / "local")
    with pytest.raises(ValueError, match="--strict: "):
        with_beam(corpus, output, strict=True)


def test_a_finished_dataset_is_not_written_again(corpus, dataset):
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    manifest = with_beam(corpus, dataset, **DROP)
    assert manifest == read_manifest(dataset)
    assert before == {p: p.stat().st_mtime_ns for p in dataset.rglob("*")}


def test_runners_do_not_mix(corpus, local, dataset):
    with pytest.raises(ValueError, match=r"other settings \(runner differ\)"):
        with_beam(corpus, local, **DROP)
    with pytest.raises(ValueError, match=r"other settings \(runner differ\)"):
        prepared(corpus, dataset, **DROP)


def test_one_run_at_a_time(corpus, tmp_path):
    output = tmp_path / "dataset"
    source, tokenizer = open_source(corpus[0]), load_tokenizer(corpus[2])
    options = PrepareOptions(validation_fraction=FRACTION)
    plan = make_plan(source, tokenizer, options, runner="beam")
    begin(output, plan, source, options)
    with locked(output), pytest.raises(ValueError, match="written by another process"):
        with_beam(corpus, output)


@pytest.mark.slow(ci=False)
def test_an_empty_split_is_an_error(corpus, tmp_path):
    with pytest.raises(ValueError, match=r"1e-12 the validation split would be empty"):
        with_beam(corpus, tmp_path / "new", validation_fraction=1e-12)
    assert not (tmp_path / "new" / "manifest.json").exists()


@pytest.mark.slow(ci=False)
def test_what_a_worker_cannot_read_is_named(corpus, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"text": "Good."}\n{"txt": "Bad."}\n')
    bad = f"files:{tmp_path}/bad.jsonl", [], corpus[2]
    with pytest.raises(ValueError, match=r"bad\.jsonl, line 2: .* has no string"):
        with_beam(bad, tmp_path / "new")


def test_workers_cannot_reach_what_is_unpacked_beside_a_store(
    corpus, tmp_path, monkeypatch
):
    noise = base64.b64encode(random.Random(0).randbytes(3 << 20))
    small = b"".join(b"River %d.\n\n" % number for number in range(200))
    (tmp_path / "one.txt.gz").write_bytes(gzip.compress(small + noise, compresslevel=1))
    large = f"files:{tmp_path}/one.txt.gz", [], corpus[2]
    monkeypatch.setattr(beam, "is_in_store", lambda folder: True)
    with pytest.raises(ValueError, match="workers could not reach"):
        with_beam(large, tmp_path / "new")


@pytest.mark.slow(ci=False)
def test_command_line_and_relative_names(corpus, tmp_path, capsys, monkeypatch):
    shutil.copytree(corpus[2].parent, tmp_path / "corpus")
    monkeypatch.chdir(tmp_path)
    work = beam.ShardRecords

    def elsewhere(*args):
        monkeypatch.chdir("/")
        return work(*args)

    monkeypatch.setattr(beam, "ShardRecords", elsewhere)
    cli.main(
        [
            *("prepare", "--source", "files:corpus/*.jsonl", "--output", "new"),
            *("--tokenizer", "corpus/tokenizer"),
            *("--validation-fraction", str(FRACTION)),
            f"--beam={RUNNER} --direct_num_workers=1",
        ]
    )
    assert "validation: " in capsys.readouterr().out
    assert json.loads((tmp_path / "new/plan.json").read_text())["runner"] == "beam"
    mine = read_manifest(tmp_path / "new")
    its = prepared(corpus, tmp_path / "local")
    for manifest in (mine, its):
        del manifest["source"], manifest["sources"][0]["source"]
    assert mine == its


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--beam="], "name no runner"),
        (["--beam=DirectRunner"], "name no runner"),
        (["--beam=--runner=Dataflw"], "Unexpected pipeline runner: Dataflw"),
        (
            [f"--beam={RUNNER}", "--num-workers", "2"],
            "--num-workers 2 sets the processes of this",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused(corpus, tmp_path, refused, flags, message):
    source, _, tokenizer = corpus
    command = ["prepare", "--source", source, "--tokenizer", str(tokenizer)]
    output = ["--output", str(tmp_path / "new")] * ("--output" not in flags)
    assert message in refused(*command, *output, *flags)
    assert not os.listdir(tmp_path)


def test_the_missing_extra_is_named(corpus, tmp_path, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.delitem(sys.modules, "bert_jax.data.prepared.beam")
    monkeypatch.delattr("bert_jax.data.prepared.beam")
    source, _, tokenizer = corpus
    command = ["prepare", "--source", source, "--tokenizer", str(tokenizer)]
    assert "pip install 'bert_jax[beam]'" in refused(
        *command, "--output", tmp_path / "new", f"--beam={RUNNER}"
    )
