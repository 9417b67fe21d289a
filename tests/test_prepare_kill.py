"""A kill at any moment leaves nothing half-written that counts.

Ten times the whole process group, or the parent alone, is killed at a random
moment; then the same command finishes to the bytes of a run that was let alone.
"""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from prepared_corpus import contents
from small_tokenizers import wordpiece

from bert_jax.data.prepared.dataset import open_dataset

KILLS = 10
SCRIPT = """
import pathlib, sys
from bert_jax.data.prepared.prepare import prepare
from bert_jax.config import PrepareOptions

if __name__ == "__main__":
    source, tokenizer, output, num_workers = sys.argv[1:]
    prepare(
        source,
        pathlib.Path(tokenizer),
        pathlib.Path(output),
        PrepareOptions(validation_fraction=0.1, duplicates="drop"),
        num_workers=int(num_workers),
    )
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> tuple[pathlib.Path, ...]:
    """(script, source, tokenizer): 12 MB in one file and one archive, some of it twice."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghij"), 6)) for _ in range(2_000)]
    records = []
    for number in range(6_000):
        text = " ".join(rng.choice(words, 280)).replace("a ", "a. ")
        records.append(json.dumps({"text": text, "key": f"{number}"}))
    records += records[:100]
    (folder / "one.jsonl").write_text("\n".join(records) + "\n")
    part = folder / "two.jsonl"
    part.write_text("\n".join(records[1_000:1_500]).replace('"key": "', '"key": "t'))
    subprocess.run(["tar", "-cJf", "two.tar.xz", part.name], cwd=folder, check=True)
    part.unlink()
    letters = [*"abcdefghij", *(f"##{x}" for x in "abcdefghij")]
    wordpiece(".", *letters, *words[:500]).save(folder / "tokenizer")
    (folder / "run.py").write_text(SCRIPT)
    return folder / "run.py", f"files:{folder}/[ot][nw][eo].*", folder / "tokenizer"


def start(corpus, output: pathlib.Path, num_workers: int) -> subprocess.Popen:
    script, source, tokenizer = corpus
    return subprocess.Popen(
        [sys.executable, script, source, tokenizer, output, str(num_workers)],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )


def wait_for_plan(running: subprocess.Popen, output: pathlib.Path) -> None:
    while not (output / "plan.json").exists() and running.poll() is None:
        time.sleep(0.01)


@pytest.mark.slow
def test_kills_change_no_byte(corpus, tmp_path):
    running = start(corpus, tmp_path / "expected", 1)
    wait_for_plan(running, tmp_path / "expected")
    began = time.monotonic()
    assert running.wait() == 0
    window = time.monotonic() - began  # As long as this machine takes.
    expected = contents(tmp_path / "expected")
    output = tmp_path / "dataset"
    rng = random.Random(0)
    kills = 0
    moments = set()
    while kills < KILLS:
        num_workers = 1 + kills % 2
        running = start(corpus, output, num_workers)
        wait_for_plan(running, output)
        time.sleep(rng.uniform(0.0, window))
        if running.poll() is not None:
            # Finished before its time came: all over again.
            assert contents(output) == expected
            output = output.with_name(f"{output.name}+")
            continue
        moments.add(len(list(output.rglob("*"))))
        if kills % 4 == 3:
            os.kill(running.pid, signal.SIGKILL)
        else:
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        kills += 1
    assert len(moments) > KILLS // 4, "killed at the same moment over and over"
    deadline = time.monotonic() + 30
    while (code := start(corpus, output, 2).wait()) and time.monotonic() < deadline:
        time.sleep(0.2)  # A worker whose parent was killed may hold the lock a moment.
    assert code == 0
    assert contents(output) == expected
    assert open_dataset(output).load_split("train").tokens.size
