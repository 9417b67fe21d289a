"""The report refuses what it cannot read or write, and says where the fault is."""

import re
from pathlib import Path
from typing import Any

import pytest
from report_runs import (
    FINETUNE_LINES,
    finetune_results,
    put,
    put_finetunes,
    put_pretrain,
    report,
)


@pytest.fixture
def pretrain(tmp_path: Path) -> Path:
    return put_pretrain(tmp_path)


@pytest.fixture
def finetunes(tmp_path: Path) -> list[Path]:
    return put_finetunes(tmp_path)


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a run or a dataset, but pretrain=None"):
        report(tmp_path / "out")


def test_missing_inputs(tmp_path: Path, pretrain: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is not a directory"):
        report(tmp_path / "out", pretrain=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="missing"):
        report(tmp_path / "out", pretrain=pretrain, baselines=tmp_path / "nowhere")
    (pretrain / "results.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"results\.json is missing"):
        report(tmp_path / "out", pretrain=pretrain)
    assert not (tmp_path / "out").exists()


def test_a_run_in_the_wrong_place(tmp_path: Path, finetunes: list[Path]) -> None:
    with pytest.raises(ValueError, match=r"'finetune', expected 'pretrain'.*finetunes"):
        report(tmp_path / "out", pretrain=finetunes[0])


def test_an_output_that_is_a_file(pretrain: Path) -> None:
    with pytest.raises(ValueError, match="is a file; expected a directory"):
        report(pretrain / "config.json", pretrain=pretrain)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("metrics.jsonl", '{"kind": "train", "st', "line 1 is not JSON"),
        ("metrics.jsonl", "[1]", "line 1 holds a JSON list"),
        ("metrics.jsonl", '{"kind": "train"}', "step=None"),
        ("metrics.jsonl", '{"kind": "train", "step": 1.5}', "step=1.5 is not a whole"),
        (
            "metrics.jsonl",
            '{"kind": "train", "step": 1, "mlm_loss": "low"}',
            "mlm_loss='low' is not a number",
        ),
        (
            "metrics.jsonl",
            '{"kind": "train", "step": 1, "mlm_accuracy": 28.7}',
            "mlm_accuracy=28.7 is not a share",
        ),
        ("config.json", "[]", "expected an object"),
        ("config.json", "\ud800", "not UTF-8"),
        ("results.json", '{"kind": "pretrain", "eval": 3}', "eval=3 is not an object"),
        (
            "results.json",
            '{"kind": "pretrain", "mask_examples": [{"tokens": [{"text": 1}]}]}',
            "a token of a mask example",
        ),
    ],
)
def test_malformed_pretraining_files(
    tmp_path: Path, pretrain: Path, file: str, text: str, message: str
) -> None:
    (pretrain / file).write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        report(tmp_path / "out", pretrain=pretrain)
    assert str(pretrain / file) in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"confusion": [[1, 2]]}, "expected 2 rows of 2 counts"),
        ({"confusion": [[1, 2], [3, -4]]}, "expected 2 rows of 2 counts"),
        ({"labels": [{"a": 1}, 2]}, "expected a list of names"),
        ({"initial": "magic"}, "initial='magic'"),
    ],
)
def test_malformed_fine_tuning_results(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    results = finetune_results("pretrained", 0.8) | change
    run = put(tmp_path / "run", FINETUNE_LINES, results)
    with pytest.raises(ValueError, match=re.escape(message)):
        report(tmp_path / "out", finetunes=[run])


def test_a_failed_write_leaves_the_old_page(
    tmp_path: Path, pretrain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = report(tmp_path / "out", pretrain=pretrain)[0]
    before = sorted(page.parent.iterdir())

    def refuse(self: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", refuse)
    content = page.read_bytes()
    with pytest.raises(OSError, match="disk full"):
        report(tmp_path / "out", pretrain=pretrain, title="Another")
    assert page.read_bytes() == content
    assert sorted(page.parent.iterdir()) == before
