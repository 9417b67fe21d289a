"""What holds for all of launch/: clean scripts, help, commands that are not stale."""

import os
import pathlib
import re
import shlex
import shutil
import sys

import pytest
from conftest import IN_CI
from launch_tools import LAUNCH, ROOT, run

from bert_jax import cli
from launch import local
from launch.gke import render

SCRIPTS = sorted([*LAUNCH.rglob("*.sh"), *LAUNCH.rglob("*.sbatch")])
DOCKERFILE = LAUNCH / "Dockerfile"


def tool(name: str) -> str:
    """The path of a program that is installed beside Python."""
    found = shutil.which(name, path=pathlib.Path(sys.executable).parent)
    if found is None:
        (pytest.fail if IN_CI else pytest.skip)(f"no {name}; install .[test]")
    return found


def test_shellcheck_has_nothing_to_say():
    assert len(SCRIPTS) == 5
    scripts = (*SCRIPTS, ROOT / ".ci/run")
    run(tool("shellcheck"), "--external-sources", *scripts, cwd=ROOT)


def test_hadolint_has_nothing_to_say():
    run(tool("hadolint"), DOCKERFILE)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_says_how_it_is_called(script):
    assert os.access(script, os.X_OK)
    shown = run(script, "--help").stdout
    assert script.name in shown
    assert len(shown.splitlines()) > 5
    assert not any(line.startswith("#") for line in shown.splitlines())


def unwrapped(path: pathlib.Path) -> str:
    """The text without comment signs, continued lines joined."""
    text = re.sub(r"(?m)^# ?", "", path.read_text())
    return re.sub(r"[ \t]+", " ", re.sub(r"\\+\n", " ", text))


def commands_in(path: pathlib.Path) -> list[list[str]]:
    """Every bert-jax command that a file tells to type, directly or behind a launcher."""
    text = unwrapped(path)
    direct = re.findall(
        r"(?m)(?:bert-jax|--) ((?:pretrain|finetune|evaluate) .*)$", text
    )
    scripted = re.findall(r"(?m)pretrain\.(?:sh|sbatch) (--.*)$", text)
    lines = [*direct, *(f"pretrain {flags}" for flags in scripted)]
    lines = [line for line in lines if not re.search(r"[\"$…]|\.\.\.", line)]
    return [shlex.split(re.split(r"\s[>`]", line)[0].rstrip("`.")) for line in lines]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("README.md", 4),
        ("tpu_vm/tpu.sh", 1),
        ("slurm/pretrain.sbatch", 1),
        ("gke/render.py", 1),
        ("local.py", 1),
    ],
)
def test_no_command_in_launch_is_stale(name, number):
    commands = commands_in(LAUNCH / name)
    assert len(commands) >= number
    for command in commands:
        cli.parse(command[0], command[1:])


def launchers_in(path: pathlib.Path, what: str) -> list[list[str]]:
    """The arguments of every call of a launcher that a file tells to type."""
    lines = re.findall(rf"(?m)^ ?{re.escape(what)} (.+)$", unwrapped(path))
    # Upper case is for the reader to replace.
    named = [re.sub(r"\b[A-Z]+\b", "x1x", line.split(" >")[0]) for line in lines]
    return [shlex.split(line) for line in named]


@pytest.mark.parametrize(
    ("what", "source", "number"),
    [
        ("python -m launch.gke.render", "gke/render.py", 1),
        ("launch/tpu_vm/tpu.sh", "tpu_vm/tpu.sh", 4),
    ],
)
def test_launchers_take_what_their_documentation_types(capsys, what, source, number):
    calls = launchers_in(LAUNCH / "README.md", what)
    assert len(calls) == number
    for call in calls + launchers_in(LAUNCH / source, what):
        at = call.index("--") if "--" in call else len(call)
        if source == "gke/render.py":
            render.main(call)
            assert "kind: JobSet" in capsys.readouterr().out
        else:
            dry = [*call[:at], "--dry-run", *call[at:]]
            assert "gcloud" in run(LAUNCH / source, *dry).stdout


def test_the_image_is_made_of_what_is_here():
    lines = DOCKERFILE.read_text().splitlines()
    copied = [
        w for line in lines if line.startswith("COPY") for w in line.split()[1:-1]
    ]
    assert {"setup.cfg", "constraints.txt", "bert_jax", "configs", "launch"} <= set(
        copied
    )
    kept = pathlib.Path(f"{DOCKERFILE}.dockerignore").read_text().splitlines()
    for name in copied:
        assert (ROOT / name).exists()
        assert f"!{name}" in kept


def test_the_local_launcher_asks_for_the_dashes_before_a_command(capsys):
    with pytest.raises(SystemExit):
        local.main(["pretrain", "--config", "bert_tiny"])
    assert "write -- before the command" in capsys.readouterr().err
