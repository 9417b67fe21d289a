"""Tests of `own_process/`: JAX's profiler, in a process where no other library ran.

Starting a trace was seen to end a process that had run half of the other tests (several
libraries bring native code of their own) with a segmentation fault.
"""

import os
import pathlib
import re
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parent / "own_process"


@pytest.mark.slow
def test_they_pass():
    environment = {
        name: value for name, value in os.environ.items() if "PYTEST" not in name
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", FOLDER],
        env={**environment, "BERT_JAX_OWN_PROCESS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # What is not collected cannot fail.
    files = list(FOLDER.glob("test_*.py"))
    defined = sum(len(re.findall(r"^def test_", f.read_text(), re.M)) for f in files)
    dots = re.search(r"^(\.+) +\[100%\]", done.stdout, re.M)
    assert dots, done.stdout
    assert len(dots[1]) >= defined > 0, done.stdout
