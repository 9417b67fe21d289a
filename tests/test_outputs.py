"""Where a command may write, and flags that it would ignore."""

import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from prepared_corpus import other_tokenizer

from bert_jax.config import ModelConfig, PretrainConfig
from bert_jax.data.whole_directory import whole_directory
from bert_jax.train.runs.run import RunInfo
from bert_jax.train.runs.run_start import start_run


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "run").mkdir()
    return tmp_path


@pytest.fixture
def refusal(refused):
    """What the command line says, in one line."""

    def ask(*argv: str) -> str:
        said = refused(*argv)
        assert said.count("\n") == 1
        return said

    return ask


TO_DIRECTORY = {
    "quickstart": [],
    "corpus": [],
    "tokenizer": ["train", "--source", "docs:"],
    "pretrain": ["bert_tiny"],
    "finetune": [],
    "baselines": [],
    "import": ["run"],
    "export": ["run"],
    "report": ["--pretrain", "run"],
}


@pytest.mark.parametrize("name", TO_DIRECTORY)
@pytest.mark.parametrize("output", ["file", "file/below/it"])
def test_a_file_in_the_place_of_a_directory_is_refused(refusal, name, output):
    said = refusal(name, *TO_DIRECTORY[name], "--output", output)
    there = pathlib.Path("file").absolute()
    assert (
        f"{name}: --output {output}: {there} is a file; expected a directory." in said
    )


def test_a_directory_in_the_place_of_a_file_is_refused(refusal):
    compiled = ["compile", "bert_tiny", "--topology", "cpu:1", "--output"]
    assert "--output run is a directory; expected a file" in refusal(*compiled, "run")
    assert "there is no directory nowhere" in refusal(*compiled, "nowhere/x.json")


@pytest.mark.parametrize(
    "argv",
    [
        ["finetune", "--checkpoint", "run", "--output", "./run"],
        ["import", "run", "--output", "run/"],
        ["export", "run", "--output", "run/../run"],
    ],
)
def test_an_output_that_is_also_an_input_is_refused(refusal, argv):
    assert "--output run is also what the command reads" in refusal(*argv).replace(
        "run/../run", "run"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_directory_is_refused(refusal, folder):
    folder.chmod(0o500)
    assert "cannot be written" in refusal("corpus", "--output", "new")
    folder.chmod(0o700)


def test_a_tilde_that_the_shell_has_left_is_refused(refusal, folder):
    said = refusal("corpus", "--output=~/text")
    assert "output=~/text: the shell has left ~ as it is" in said
    assert not (folder / "~").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["corpus", "--output", "new", "--max-train", "5"],
            "--max-train 5 would be ignored: it is for the labelled sentences of --task",
        ),
        (
            ["inspect", "run", "--data.dataset", "other"],
            "--data.dataset other would be ignored: inspect shows run",
        ),
        (
            ["inspect", "run", "--data.mixture", "run", "other"],
            "--data.mixture run other would be ignored: inspect shows run",
        ),
    ],
)
def test_a_flag_that_would_be_ignored_is_refused(refusal, argv, message):
    assert message in refusal(*argv)


@pytest.mark.parametrize("name", ["run[1]", "of [mine]/run"])
def test_a_run_whose_checkpoints_could_not_be_read_is_refused(tmp_path, name):
    """`checkpoints` called them whole, since all files were as they had been written."""
    tokenizer = other_tokenizer()
    info = RunInfo(
        kind="pretrain",
        model=ModelConfig(),
        tokenizer_sha256=tokenizer.sha256,
        data={},
    )
    with pytest.raises(ValueError, match=r"has the character '\['.* Choose a path"):
        start_run(tmp_path / name, PretrainConfig(), info, tokenizer)
    assert not (tmp_path / name).exists()


def test_what_a_killed_process_of_the_same_number_left_is_no_obstacle(tmp_path):
    """In a container the process that was killed often had the number of the next one."""
    with whole_directory(tmp_path / "out", overwrite=False) as first:
        (first / "half").touch()
        shutil.copytree(first, tmp_path / "left")
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "left").rename(first)
    with whole_directory(tmp_path / "out", overwrite=False) as second:
        (second / "whole").touch()
    assert second == first
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["whole"]


def test_what_a_killed_process_left_is_deleted_and_what_a_living_one_writes_is_not(
    tmp_path,
):
    killed = """
import os, pathlib, signal, sys
from bert_jax.data.whole_directory import whole_directory
with whole_directory(pathlib.Path(sys.argv[1]), overwrite=False) as partial:
    (partial / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", killed, str(tmp_path / "out")], check=False)
    (tmp_path / ".out.1.old").mkdir()  # of one that was killed between its renames
    (left,) = tmp_path.glob(".out.*.partial")
    with whole_directory(tmp_path / "out", overwrite=False) as living:
        assert not left.exists()
        in_thread = concurrent.futures.ThreadPoolExecutor().submit(_write, tmp_path)
        assert in_thread.result() == [living.name]
    assert [path.name for path in tmp_path.glob("*out*")] == ["out"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("{}/a could not be written",), "{}/a could not be written"),
        ((28, "No space left on device"), "[Errno 28] No space left on device"),
        ((28, "No space", "{}/a"), "[Errno 28] No space: '{}/a'"),
    ],
)
def test_an_error_names_the_directory_that_was_given(tmp_path, args, said):
    out = tmp_path / "out"
    whole = f"^{re.escape(said.format(out))}$"
    with (
        pytest.raises(OSError, match=whole),
        whole_directory(out, overwrite=False) as partial,
    ):
        raise OSError(*(str(x).format(partial) if x != 28 else x for x in args))


def _write(folder):
    """The names of what another thread finds beside its own hidden directory."""
    with whole_directory(folder / "out", overwrite=False) as partial:
        return [path.name for path in folder.glob(".out.*.partial") if path != partial]
