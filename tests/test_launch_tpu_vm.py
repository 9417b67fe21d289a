"""TPU VMs: what gcloud is asked for, and what a worker does, with gcloud a stand-in."""

import http.server
import os
import pathlib
import re
import shlex
import shutil
import signal
import threading

import pytest
from launch_tools import LAUNCH, SAVES_WHEN_STOPPED, Tools, program, run, wait_for

TPU, WORKER = LAUNCH / "tpu_vm/tpu.sh", LAUNCH / "tpu_vm/worker.sh"
SHARED = (LAUNCH / "supervise.sh", LAUNCH / "stage.sh")


@pytest.fixture
def tools(tmp_path):
    return Tools(tmp_path)


# --- tpu_vm/worker.sh


@pytest.fixture
def worker(tmp_path):
    """worker(*arguments, code=0) on a "TPU VM": a home directory of its own."""
    home = tmp_path / "home"
    folder = home / "bert-jax"
    folder.mkdir(parents=True)
    for script in (WORKER, *SHARED):
        shutil.copy(script, folder)
    program(
        folder / "venv/bin/bert-jax", f'echo "on $JAX_PLATFORMS"{SAVES_WHEN_STOPPED}'
    )

    def call(*arguments, code=0):
        env = {
            "HOME": str(home),
            "JAX_PLATFORMS": "",
            "MAINTENANCE_SECS": "0.1",
            "GCE_METADATA_HOST": call.metadata,
        }
        return run(folder / "worker.sh", *arguments, env=env, code=code)

    call.log, call.metadata = folder / "log", "127.0.0.1:9"  # nobody listens there
    yield call
    call("stop")


def test_a_run_on_a_worker_is_detached_followed_and_stopped(worker, tmp_path):
    assert worker("status").stdout == "never started\n"
    (tmp_path / "wiki").mkdir()
    (tmp_path / "wiki/a").write_text("1")
    stage = ("--stage", tmp_path / "wiki", tmp_path / "disk")
    started = worker("start", *stage, "--", "pretrain", "--x", "a b")
    assert started.stdout == "running\n"
    wait_for(lambda: "started" in worker.log.read_text(), "the start")
    assert (tmp_path / "disk/a").exists()
    assert "runs already" in worker("start", "--", "pretrain", code=1).stderr
    assert worker("stop").stdout == "stopped\n"
    log = worker.log.read_text()
    assert "on tpu,cpu\nstarted pretrain --x a b\nTERM 1\nsaved\n" in log
    assert worker("status").stdout == "stopped\n"


def test_a_worker_says_that_its_run_was_killed(worker):
    worker("start", "--", "pretrain")
    status = worker.log.with_name("status")
    number = int(status.read_text().split()[1])
    os.killpg(number, signal.SIGKILL)
    wait_for(lambda: worker("status").stdout.startswith("failed (killed"), "its end")
    # After a restart of the VM, the number may be another program's.
    status.write_text(f"running {os.getpid()}\n")
    assert worker("status").stdout.startswith("failed (killed")
    status.write_text("exited 1\n")
    assert worker("status").stdout == "failed (exit code 1)\n"
    status.write_text("exited 0\n")
    assert worker("status").stdout == "finished\n"


@pytest.mark.parametrize(
    ("name", "said"),
    [("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE"), ("preempted", "TRUE")],
)
def test_announced_maintenance_stops_the_run_with_a_checkpoint(worker, name, said):
    answers = {"maintenance-event": "NONE", "preempted": "FALSE"}
    asked = []

    class Metadata(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.headers["Metadata-Flavor"] == "Google"
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answers[self.path.rpartition("/")[2]].encode())

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        worker.metadata = f"127.0.0.1:{server.server_port}"
        worker("start", "--", "pretrain")
        wait_for(lambda: len(asked) > 4, "the questions")
        assert worker("status").stdout == "running\n"
        answers[name] = said
        wait_for(lambda: worker("status").stdout == "stopped\n", "the stop")
        server.shutdown()
    assert f"{name} is {said}: the run stops" in worker.log.read_text()
    assert "saved" in worker.log.read_text()


def test_workers_install_the_packages_of_one_day(worker, tools, monkeypatch, tmp_path):
    tools.add("python3")
    home = tmp_path / "home/bert-jax"
    program(home / "venv/bin/python", "")
    (home / "bert_jax-0.1.0-py3-none-any.whl").touch()
    monkeypatch.setenv("PATH", tools.env["PATH"])
    worker("install", "git+https://host/bert_jax@abc")
    worker("install", "bert_jax-0.1.0-py3-none-any.whl")
    installs = [call for call in tools.calls() if call[2:5] == ["uv", "pip", "install"]]
    assert [call[-1] for call in installs] == [
        "bert_jax[tpu,buckets] @ git+https://host/bert_jax@abc",
        f"bert_jax[tpu,buckets] @ file://{home}/bert_jax-0.1.0-py3-none-any.whl",
    ]
    for call in installs:
        assert re.fullmatch(
            r"20\d\d-\d\d-\d\d", call[call.index("--exclude-newer") + 1]
        )


# --- tpu_vm/tpu.sh

AT = ("--name", "bert", "--zone", "us-west4-a")
GET = (*AT, "--accelerator", "v5litepod-16")
SOURCE = ("--source", "git+https://host/org/bert_jax@abc")
RUN = ("--", "pretrain", "--config", "bert_tiny", "--output", "/mnt/runs/a b")
UP = (*GET, *SOURCE, "--bucket", "runs")


def planned(*arguments) -> list[list[str]]:
    """What a dry run prints, without `gcloud compute tpus`."""
    lines = run(TPU, *arguments, env={"PATH": "/usr/bin:/bin"}).stdout.splitlines()
    words = [shlex.split(line) for line in lines]
    assert all(line[:3] == ["gcloud", "compute", "tpus"] for line in words)
    return [line[3:] for line in words]


def command_of(call: list[str]) -> list[str]:
    (command,) = (word for word in call if word.startswith("--command="))
    return shlex.split(command.removeprefix("--command="))


@pytest.mark.parametrize(
    ("accelerator", "runtime"),
    [
        ("v4-8", "tpu-ubuntu2204-base"),
        ("v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v5p-16", "v2-alpha-tpuv5"),
        ("v6e-256", "v2-alpha-tpuv6e"),
    ],
)
def test_one_slice_is_asked_for(accelerator, runtime):
    options = (*AT, "--accelerator", accelerator, *SOURCE, "--dry-run")
    create = planned(
        "up", *options, "--project", "p", "--create-flag", "--tags=a", *RUN
    )
    assert create[0] == [
        *("queued-resources", "create", "bert", "--zone=us-west4-a", "--project=p"),
        *(f"--accelerator-type={accelerator}", f"--runtime-version={runtime}"),
        *("--node-id=bert", "--tags=a"),
    ]


def test_several_slices_are_nodes_of_one_request_and_every_worker_gets_the_run():
    calls = planned("up", *UP, "--slices", "2", "--spot", "--dry-run", *RUN)
    assert calls[0][-3:] == ["--node-count=2", "--node-prefix=bert", "--spot"]
    assert [call[1] for call in calls[1:]] == ["ssh", "scp", "ssh", "ssh", "ssh"] * 2
    for call in calls[1:]:
        assert "--worker=all" in call
    for node, call in zip(("bert-0", "bert-1"), (calls[5], calls[10]), strict=True):
        assert call[2] == node
        assert command_of(call) == [
            *("bert-jax/worker.sh", "start", *RUN),
            *("--cluster.kind", "tpu", "--mesh.slices", "2"),
        ]
    assert command_of(calls[4]) == ["bert-jax/worker.sh", "mount", "runs", "/mnt/runs"]


def test_what_is_copied_to_the_workers_is_there(tmp_path):
    wheel = tmp_path / "bert_jax-0.1.0-py3-none-any.whl"
    wheel.touch()
    calls = planned("up", *GET, "--source", wheel, "--dry-run", *RUN)
    copied = [word for word in calls[2] if word.startswith("/")]
    assert [pathlib.Path(path).name for path in copied] == [
        *("worker.sh", "supervise.sh", "stage.sh", wheel.name)
    ]
    assert all(pathlib.Path(path).is_file() for path in copied)
    assert command_of(calls[3]) == ["bert-jax/worker.sh", "install", wheel.name]


def test_stopping_and_giving_back():
    (stop,) = planned("stop", *AT, "--internal-ip", "--dry-run")
    assert command_of(stop) == ["bert-jax/worker.sh", "stop"]
    assert "--internal-ip" in stop
    (delete,) = planned("delete", *AT, "--dry-run")
    assert delete[1:] == ["delete", "bert", "--zone=us-west4-a", "--force", "--quiet"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["destroy", *AT], "'destroy' is no command"),
        (["stop", "--name", "bert"], "needs --zone"),
        (["up", *AT, *SOURCE, *RUN], "--accelerator ''"),
        (["up", *AT, "--accelerator", "v5e:4x4", *SOURCE, *RUN], "expected v4-N"),
        (["stop", *AT, "--slices", "0"], "not a number from 1"),
        (["stop", *AT, "--name", "Bert"], "lower-case"),
        (["stop", *AT, "--sporty"], "--sporty: unknown option"),
        (["stop", *AT, "--zone"], "--zone needs a value"),
        (["up", *AT, "--create-flag"], "tpu.sh: --create-flag needs a value"),
        (["stop", *AT, *RUN], "takes no command"),
        (["up", *GET, *RUN], "--source ''"),
        (["up", *GET, "--source", "git+https://host/bert_jax", *RUN], "add @COMMIT"),
        (["up", *GET, "--source", "none.whl", *RUN], "no such file"),
        (["up", *GET, *SOURCE, "--bucket", "gs://runs", *RUN], "no gs://"),
        (["up", *GET, *SOURCE, "--bucket", "runs/mine", *RUN], "no folder"),
        (["up", *GET, *SOURCE], "needs a command of bert-jax"),
        (["up", *GET, *SOURCE, "--", "prepare"], "needs a command of bert-jax"),
        (["up", *GET, *SOURCE, "--", "pretrain"], "no --output"),
        (["up", *GET, *SOURCE, "--", "pretrain", "--output", "run"], "absolute path"),
        (
            ["up", *GET, *SOURCE, "--", "pretrain", "--output", "gs://b/r"],
            "all workers write the run",
        ),
        (["up", *GET, "--stage", "wiki", "/disk", *RUN], "two absolute paths"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_tpu_refuses_before_anything_is_asked_for(tools, arguments, message):
    tools.add("gcloud")
    assert message in run(TPU, *arguments, env=tools.env, code=2).stderr
    assert tools.calls() == []


def gcloud(tools, tmp_path, states, worker="running") -> None:
    """Describes the queued resource by one state after the other, the last for ever."""
    (tmp_path / "states").write_text("\n".join(states) + "\n")
    tools.add("sleep")
    tools.add(
        "gcloud",
        f"""
        case "$*" in
          *"queued-resources describe"*)
            state=$(head -1 {tmp_path}/states)
            (($(wc -l <{tmp_path}/states) == 1)) || sed -i 1d {tmp_path}/states
            [[ $state != ABSENT ]] || {{ echo "ERROR: NOT_FOUND: no bert" >&2; exit 1; }}
            [[ $state != BROKEN ]] || {{ echo "ERROR: no network" >&2; exit 1; }}
            echo "$state" ;;
          *--worker=0*status*) echo "{worker}" ;;
        esac""",
    )


def actions(tools) -> list[str]:
    """The calls in short, looks at the state left out."""
    found = []
    for call in tools.calls():
        match call[3:]:
            case ["queued-resources", "describe", *_]:
                pass
            case ["queued-resources", action, *_]:
                found.append(action)
            case ["tpu-vm", "scp", *_]:
                found.append("scp")
            case ["tpu-vm", "ssh", *_]:
                found.append(command_of(call)[1])
    return found


SET_UP = ["-p", "scp", "install", "mount", "start"]  # -p is the flag of mkdir


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (
            ["ABSENT", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"],
            ["create", "status", *SET_UP],
        ),
        (["ACTIVE"], ["status", *SET_UP]),
        (
            ["SUSPENDING", "SUSPENDED", "PROVISIONING", "ACTIVE"],
            ["delete", "create", "status", *SET_UP],
        ),
        (["FAILED", "ACTIVE"], ["delete", "create", "status", *SET_UP]),
    ],
    ids=lambda value: "-".join(value),
)
def test_up_does_what_is_missing(tools, tmp_path, states, expected):
    gcloud(tools, tmp_path, states, worker="never started")
    run(TPU, "up", *UP, *RUN, env=tools.env)
    assert actions(tools) == expected


def test_up_leaves_a_run_alone_that_is_under_way(tools, tmp_path):
    gcloud(tools, tmp_path, ["ACTIVE"])
    done = run(TPU, "up", *UP, *RUN, env=tools.env)
    assert actions(tools) == ["status"]
    assert "'stop' it everywhere, then type this command again" in done.stderr


def test_no_network_is_no_absence(tools, tmp_path):
    gcloud(tools, tmp_path, ["BROKEN"])
    assert "no network" in run(TPU, "up", *UP, *RUN, env=tools.env, code=2).stderr
    assert actions(tools) == []


def test_a_slice_that_fails_is_named(tools):
    tools.add("gcloud", '[[ "$*" != *bert-1* ]]')
    shown = run(TPU, "stop", *AT, "--slices", "3", env=tools.env, code=2)
    assert "stop failed on bert-1;" in shown.stderr
