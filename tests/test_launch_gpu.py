"""GPU nodes under Slurm, with srun a stand-in, and the settings for GPUs."""

import os
import pathlib
import re
import signal
import subprocess
import time

import pytest
from launch_tools import LAUNCH, ROOT, Tools, run

SLURM, SETTINGS = LAUNCH / "slurm/pretrain.sbatch", LAUNCH / "gpu.env"


@pytest.fixture
def tools(tmp_path):
    return Tools(tmp_path)


@pytest.fixture
def slurm(tools, tmp_path):
    """slurm(body of srun): the environment of a batch job in this clone."""

    def make(srun: str, **env: str) -> dict[str, str]:
        tools.add("srun", srun)
        tools.add("scontrol")
        tools.add("scancel")
        job = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(ROOT), "RESTART_DELAY": "0"}
        return {**os.environ, **tools.env, **job, "XLA_FLAGS": "", **env}

    return make


JOB = ("--config", "bert_tiny", "--output", "/scratch/a b")


def test_srun_starts_one_task_a_gpu_which_all_see_their_node(slurm, tools):
    run(SLURM, *JOB, env=slurm("", BERT_JAX="/opt/bert-jax"))
    (call,) = tools.calls()
    assert call[1:] == [
        *("--label", "--gpu-bind=none", "--kill-on-bad-exit=0", "--wait=300"),
        *("/opt/bert-jax", "pretrain", *JOB, "--cluster.kind", "slurm"),
    ]


def test_a_container_is_an_option(slurm, tools):
    image = {"CONTAINER_IMAGE": "image.sqsh", "CONTAINER_MOUNTS": "/a:/a"}
    run(SLURM, *JOB, env=slurm("", **image))
    (call,) = tools.calls()
    assert [word for word in call if "container" in word or word == "bert-jax"] == [
        "--container-image=image.sqsh",
        "--container-mounts=/a:/a",
        "bert-jax",
    ]


def test_the_end_of_the_time_limit_puts_the_job_back_into_the_queue(slurm, tools):
    run(SLURM, *JOB, env=slurm("exit 130"))
    assert tools.calls()[-1] == ["scontrol", "requeue", "7"]


def test_crashes_are_forgiven_within_the_allocation_and_never_requeued(slurm, tools):
    run(SLURM, *JOB, env=slurm("exit 134", MAX_RESTARTS="2"), code=134)
    assert [call[0] for call in tools.calls()] == ["srun"] * 3


@pytest.mark.parametrize(
    ("number", "tells_the_tasks"), [(signal.SIGTERM, False), (signal.SIGUSR1, True)]
)
def test_a_cancelled_job_waits_for_its_checkpoint_and_is_not_requeued(
    slurm, tools, tmp_path, number, tells_the_tasks
):
    # Slurm itself signals the tasks, once; srun here stands for them.
    job = subprocess.Popen(
        [SLURM, *JOB],
        env=slurm(
            "trap 'echo second >&2' TERM; echo started; "
            f"until [[ -e {tmp_path}/saved ]]; do sleep 0.05; done; exit 130"
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert job.stdout.readline() == "started\n"
    job.send_signal(number)
    time.sleep(0.3)  # room for a second signal, which must not come
    (tmp_path / "saved").touch()
    said = job.communicate(timeout=20)[1]
    assert job.returncode == 130
    assert "second" not in said
    others = [call for call in tools.calls() if call[0] != "srun"]
    assert others == [["scancel", "--signal=TERM", "7"]] * tells_the_tasks


def test_slurm_refuses_what_would_fail_later(slurm, tmp_path):
    env = slurm("")
    assert "no --output" in run(SLURM, "--config", "x", env=env, code=2).stderr
    elsewhere = {**env, "SLURM_SUBMIT_DIR": str(tmp_path)}
    assert "no clone" in run(SLURM, *JOB, env=elsewhere, code=2).stderr
    no_job = {**env, "SLURM_JOB_ID": ""}
    assert "sbatch" in run(SLURM, *JOB, env=no_job, code=2).stderr


def test_settings_for_gpus_leave_what_is_set():
    names = ("JAX_PLATFORMS", "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_FLAGS")
    shows = f"source {SETTINGS}; echo {' '.join(f'${name}' for name in names)}"
    clean = {name: value for name, value in os.environ.items() if name not in names}
    for own, expected in (
        ({}, "cuda,cpu 0.9 --xla_gpu_enable_latency_hiding_scheduler=true\n"),
        (dict(zip(names, ("cpu", ".5", ""), strict=True)), "cpu .5\n"),
    ):
        shown = subprocess.check_output(["bash", "-uc", shows], env={**clean, **own})
        assert shown.decode() == expected


def test_the_xla_flag_is_known_to_the_installed_xla():
    import jaxlib

    flag = re.search(r"XLA_FLAGS---(\w+)=", SETTINGS.read_text()).group(1)
    library = pathlib.Path(jaxlib.__file__).with_name("libjax_common.so")
    assert flag.encode() in library.read_bytes()
