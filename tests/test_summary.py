"""What a run keeps of a manifest, and its one hash, which a shell can compute too."""

import copy
import subprocess
from typing import Any

import pytest
from report_runs import MANIFEST

from bert_jax.data.file_hash import file_sha256
from bert_jax.data.prepared.summary import summarize


@pytest.fixture
def manifest() -> dict[str, Any]:
    return copy.deepcopy(MANIFEST)


def test_everything_but_the_list_of_files_is_kept(manifest):
    kept = summarize(manifest)
    for name in ("source", "options", "tokenizer", "splits", "read", "audit"):
        assert kept[name] == MANIFEST[name]
    assert len(kept["sha256"]) == 64


def test_the_verdict_is_part_of_it(manifest):
    found = summarize(manifest)["problems"]
    assert [problem.split(":")[0] for problem in found] == [
        "held-out documents that also stand in the training split",
        "shards with the same content",
    ]
    manifest["audit"]["duplicates"]["leaked"] = 0
    manifest["audit"]["duplicate_shards"] = []
    assert summarize(manifest)["problems"] == []


def test_the_hash_is_that_of_the_shell(manifest, tmp_path):
    names = [
        f"documents-{split}.array_record-0000{number}-of-00002"
        for split in ("validation", "train")
        for number in (1, 0)
    ]
    for name in names:
        (tmp_path / name).write_text(f"the content of {name}")
    manifest["sha256"] = {name: file_sha256(tmp_path / name) for name in names}
    printed = subprocess.run(
        "sha256sum *.array_record-* | sha256sum",
        shell=True,
        cwd=tmp_path,
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert summarize(manifest)["sha256"] == printed.stdout.split()[0]


def test_the_hash_knows_files_and_names_but_no_order(manifest):
    before = summarize(manifest)["sha256"]
    backwards = dict(reversed(manifest["sha256"].items()))
    assert summarize(manifest | {"sha256": backwards})["sha256"] == before
    one, other, *_ = backwards
    swapped = backwards | {one: backwards[other], other: backwards[one]}
    assert summarize(manifest | {"sha256": swapped})["sha256"] != before
