"""`benchmarks.kills`: killed commands end like untouched ones, and the comparison can fail."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import same_run
from benchmarks.same_run import differences_of_datasets


def test_datasets_differ_in_bytes_and_in_names(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name / "shards").mkdir(parents=True)
        (tmp_path / name / "shards" / "0").write_bytes(b"same")
        (tmp_path / name / "manifest.json").write_text(name)
    (tmp_path / "one" / "left.partial-7").touch()
    found = differences_of_datasets(tmp_path / "one", tmp_path / "other")
    assert found == ["file left.partial-7", "file manifest.json"]
    assert not differences_of_datasets(tmp_path / "one", tmp_path / "one")


@pytest.mark.parametrize(("limit", "is_same"), [(0.0, False), (1e-6, True)])
def test_tensors_are_equal_bit_by_bit_or_within_the_limit(limit, is_same):
    one = np.array([1.0, 0.0], np.float32)
    other = np.nextafter(one, 2.0, dtype=np.float32)
    assert same_run._equal(one, other, limit) is is_same
    assert same_run._equal(one, one, limit)
    assert not same_run._equal(one, one.astype(np.float64), limit)
    assert not same_run._equal(one, np.array([1.0, 0.1], np.float32), limit)


def test_times_are_left_out_and_nothing_else():
    def facts(**more):
        line = {"loss": 1.5, "deep": [{"accuracy": 0.5}], "crc32": "0"}
        return dict(same_run._flat("line", {**line, **more}))

    timed = facts(elapsed_secs=2.0, tokens_per_sec=3.0, goodput={"share": 0.1})
    assert timed == facts() == {"line loss": 1.5, "line deep 0 accuracy": 0.5}
    [said] = same_run._compare("metrics", facts(loss=1.25), facts(), 0.0)
    assert said == "metrics: line loss is 1.25, not 1.5"


@pytest.mark.slow(ci=False)
def test_commands_that_are_killed_end_like_untouched_ones(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.kills", "--kills", "6"),
            *("--parts", "prepare", "pretrain", "--output", str(tmp_path)),
        ],
        cwd=pathlib.Path(__file__).parents[1],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [path] = tmp_path.glob("kills-*.json")
    [table] = json.loads(path.read_text())["tables"]
    counts = {(x["of"], x["what"]): x["values"][0] for x in table["figures"]}
    assert sum(counts[name, "kills"] for name in ("prepare", "pretrain")) >= 6
    assert counts["prepare", "differences"] == counts["pretrain", "differences"] == 0
