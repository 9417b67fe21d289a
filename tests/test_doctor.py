"""`bert-jax doctor`, and completion in the shell: what the first hour asks for."""

import shutil
import subprocess

import pytest

from bert_jax import cli
from bert_jax.commands import doctor


def test_the_machine_is_described(monkeypatch, capsys):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("BERT_JAX_JOB_TOKEN", "a secret")
    monkeypatch.setattr(
        doctor.importlib.metadata,
        "requires",
        lambda name: [
            'no-such-thing>=1; extra == "serve"',
            'jax>=0.1; extra == "test"',
        ],
    )
    cli.main(["doctor"])
    said = capsys.readouterr().out
    for line in (
        "variable JAX_PLATFORMS=cpu",
        "variable BERT_JAX_JOB_TOKEN=(set)",
        "extra serve: missing: no-such-thing",
        "extra test: installed",
        "device 0: cpu, cpu, ",
        "attention auto, bfloat16, 512 tokens, dropout: xla",
    ):
        assert line in said
    assert "a secret" not in said
    cli.main(["doctor", "--no-devices"])
    assert "device 0" not in capsys.readouterr().out


def test_the_overview_says_of_each_command_what_its_help_says(capsys):
    cli.main(["--help"])
    overview = " ".join(capsys.readouterr().out.split())
    for name, command in cli.COMMANDS.items():
        assert f" {name} {command.__doc__.splitlines()[0]}" in overview


def test_a_shell_completes_commands_and_flags(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--completion", "bash"])
    assert not ended.value.code
    (tmp_path / "bert-jax").write_text(capsys.readouterr().out)
    script = """
        source ./bert-jax  # without a folder, bash would look for a program first
        complete_words() {
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
            COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
            "$(complete -p bert-jax | sed 's/.*-F \\([^ ]*\\).*/\\1/')"
            echo "${COMPREPLY[@]}"
        }
        complete_words bert-jax pre
        complete_words bert-jax pretrain --optimizer.n
    """
    bash = shutil.which("bash") or pytest.skip("bash is not here")
    done = subprocess.run(
        [bash, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    commands, flags = done.stdout.splitlines()[:2]
    assert commands.split() == ["predict", "prepare", "pretrain"]
    assert flags.startswith("--optimizer.name")
    with pytest.raises(SystemExit):
        cli.main(["--completion", "fish"])
    assert "expected --completion bash or zsh" in capsys.readouterr().err
