"""The table of compiled configs goes on where it stopped and hides no failure."""

import json
import signal

import pytest

from benchmarks import topologies
from benchmarks.topologies import (
    Options,
    pretraining_configs,
    run,
    table,
    tasks_of,
    write,
)

GIB = 2**30
MACHINE = {
    "machine": "amd-2core",
    "accelerator": None,
    "cpu": "AMD",
    "cpu_family": "26",
    "cpu_model": "2",
    "cpu_flags": ["avx2"],
    "cores": 2,
    "memory_gib": 24.0,
    "system": "Linux",
    "load_before": 0.0,
    "python": "3.11.7",
    "versions": {"jax": "0.10.2"},
    "commit": "abc",
    "date": "2026-11-24",
}


def compiled(phase, topology, *, fits=True):
    del topology
    return {
        "num_devices": 16,
        "fits": fits,
        "memory": {
            "parameters": GIB // 2,
            "optimizer": GIB,
            "temporaries": 2 * GIB if fits else None,
            "total": 4 * GIB if fits else 20 * GIB,
            "limit": 16 * GIB,
        },
        "collectives": [
            {"axes": ["data"], "moved_bytes": GIB},
            {"axes": ["data"], "moved_bytes": GIB},
            {"axes": ["slice", "data"], "moved_bytes": GIB // 4},
            {"axes": [], "moved_bytes": GIB},
        ],
        "flops": 1e12 if fits else None,
        "estimate": {"fastest": 0.01, "slowest": 0.0256} if fits else None,
        "compile_secs": 31.4,
        "micro_batches": phase.micro_batches,
    }


@pytest.fixture(scope="module")
def tasks():
    return tasks_of(
        Options(configs=("bert_large", "bert_tiny"), topologies=("v5e:4x4", "cpu:2"))
    )


def test_every_phase_of_every_config_has_its_turn(tasks):
    assert [task.describe() for task in tasks] == [
        "bert_large phase 1 for v5e:4x4",
        "bert_large phase 2 for v5e:4x4",
        "bert_tiny for v5e:4x4",
        "bert_large phase 1 for cpu:2",
        "bert_large phase 2 for cpu:2",
        "bert_tiny for cpu:2",
    ]
    assert [task.phase.data.sequence_length for task in tasks[:2]] == [128, 512]


def test_all_that_pretrain_are_there_by_default():
    configs = pretraining_configs(())
    assert {"bert_base", "bert_large", "bert_large_lamb", "quickstart"} <= set(configs)
    assert "finetune_classify" not in configs


def test_what_does_not_exist_is_named():
    with pytest.raises(ValueError, match=r"bert_larg: no such config; there are bert_"):
        tasks_of(Options(configs=("bert_larg",)))
    with pytest.raises(ValueError, match="v5e:4x5"):
        tasks_of(Options(topologies=("v5e:4x5",)))


def test_a_stopped_run_goes_on(tasks, tmp_path):
    kept, asked = tmp_path / "kept.jsonl", []

    def stopping(phase, topology):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append((phase, topology))
        return compiled(phase, topology)

    def going_on(phase, topology):
        asked.append((phase, topology))
        return compiled(phase, topology)

    results, complete = run(tasks, kept, stopping, tell=lambda line: None)
    assert (len(results), complete) == (2, False)
    with kept.open("a") as file:
        file.write('{"key": "half a l')
    results, complete = run(tasks, kept, going_on, tell=lambda line: None)
    assert complete
    assert asked == [(task.phase, task.topology) for task in tasks]
    results, _ = run(tasks, kept, going_on, tell=lambda line: None)
    assert [task for task, _ in results] == tasks
    assert len(asked) == len(tasks)


def test_a_step_that_cannot_be_compiled_is_a_row_of_the_table(tasks, tmp_path):
    def failing(phase, topology):
        if phase.data.sequence_length == 512:
            raise RuntimeError("it died | twice\nand more")
        if phase.batch_size == 64:
            raise ValueError("batch_size=64 rows cannot be shared; make it 256")
        return compiled(phase, topology, fits=False)

    results, complete = run(
        tasks[:3], tmp_path / "kept.jsonl", failing, tell=lambda line: None
    )
    assert complete
    too_large, died, refused = table(results)[2:]
    assert "20.00 of 16.00 | **no** |" in too_large
    assert "not compiled: it died / twice |" in died
    assert "not compiled: batch_size=64 rows cannot be shared |" in refused
    assert len({line.count("|") for line in table(results)}) == 1
    kept = (tmp_path / "kept.jsonl").read_text().splitlines()
    assert len(kept) == 1  # what failed is tried again


def test_the_files_hold_all_of_it(tasks, tmp_path):
    results = [(task, compiled(task.phase, task.topology)) for task in tasks]
    paths = write(tmp_path, MACHINE, results, complete=False)
    assert [path.name for path in paths] == [
        "topologies-amd-2core-2026-11-24.json",
        "topologies-amd-2core-2026-11-24.md",
    ]
    content = json.loads(paths[0].read_text())
    assert content["complete"] is False
    assert [entry["machine"] for entry in content["results"]][-1] == "cpu:2"
    text = paths[1].read_text()
    assert "**Interrupted**" in text
    assert "Compiled, not run" in text
    assert (
        "| bert_large | 512 | 256 | v5e:4x4 | 0.50 | 1.00 | 2.00 | 4.00 of 16.00 | yes "
        "| 0.016 | 10–25.6 | data 2.00, slice·data 0.25 | 31 |" in text
    )


def test_the_program_says_what_is_wrong(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["topologies", "--configs", "bert_larg"])
    assert topologies.main() == 2
    assert "no such config" in capsys.readouterr().err


def test_the_program_writes_what_it_has(monkeypatch, tmp_path):
    kept = tmp_path / "kept.jsonl"
    monkeypatch.setattr(topologies, "compile_apart", compiled)
    monkeypatch.setattr(
        "sys.argv",
        [
            "topologies",
            *("--configs", "bert_tiny", "--topologies", "v5e:2x2"),
            *("--output", str(tmp_path), "--kept", str(kept)),
        ],
    )
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert topologies.main() == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(kept.read_text().splitlines()) == 1
    assert len(list(tmp_path.glob("topologies-*"))) == 2
