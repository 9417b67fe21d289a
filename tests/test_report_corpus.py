"""The text in the report: of a run, of a dataset, and of both."""

import copy
import re
from pathlib import Path

import pytest
from prepared_corpus import make_corpus, prepared
from report_page import Page
from report_runs import HOSTILE, MANIFEST, put_dataset, put_pretrain, report

from bert_jax.cli import main
from bert_jax.data.prepared.summary import summarize


def test_a_run_shows_its_text(tmp_path: Path) -> None:
    page, *_ = report(tmp_path / "out", pretrain=put_pretrain(tmp_path / "run"))
    text = Page(page).text
    for shown in (
        "files:<i>/*.txt",
        summarize(MANIFEST)["sha256"],
        "sentencepiece, lower case, 8,192 pieces",
        "5c" * 32,
        "held-out documents that also stand in the training split: 10.00%",
        "shards with the same content: [[0, 4], [1, 5]]",
        "4,512,345",
        "314" + "1.00%",  # of 31,411 lines
        "files:<i>/*.txt3200",  # files and documents of the source
        "Undecodable bytes1.23 kB",
        "Duplicates: leaked9",
        "near_threshold",
    ):
        assert shown in text, shown


def test_a_dataset_alone(tmp_path: Path) -> None:
    page, *drawings = report(tmp_path / "out", dataset=put_dataset(tmp_path / "d"))
    text = Page(page).text
    assert drawings == []
    assert "documents2.4 k90 held out" in text
    assert "tokens4.53 M" in text
    assert "problems found2" in text
    for absent in ("retraining", "ine-tuning", "not measured"):
        assert absent not in text, absent


def test_problems_stay_text_and_a_sound_dataset_has_none(tmp_path: Path) -> None:
    manifest = copy.deepcopy(MANIFEST)
    manifest["audit"]["most_repeated_lines"] = [[HOSTILE, 31_000]]
    page = report(tmp_path / "out", dataset=put_dataset(tmp_path / "bad", manifest))[0]
    warned = re.findall(r'<p class="warning">(.*?)</p>', page.read_text())
    assert len(warned) == 3
    assert "&lt;script&gt;" in warned[2]
    manifest["audit"] |= {"most_repeated_lines": [], "duplicate_shards": []}
    manifest["audit"]["duplicates"]["leaked"] = 0
    page = report(tmp_path / "out", dataset=put_dataset(tmp_path / "ok", manifest))[0]
    assert "found nothing that would spoil training" in Page(page).text
    assert "repeat at least" not in Page(page).text
    assert 'class="warning"' not in page.read_text()


@pytest.mark.parametrize("same", [True, False])
def test_another_dataset_than_the_runs_is_pointed_out(
    tmp_path: Path, same: bool
) -> None:
    other = MANIFEST if same else {**MANIFEST, "sha256": {"a": "b"}}
    run, dataset = put_pretrain(tmp_path / "run"), put_dataset(tmp_path / "d", other)
    text = Page(report(tmp_path / "out", pretrain=run, dataset=dataset)[0]).text
    assert (f"{run} was not trained on the text shown here." in text) is not same


def test_every_document_is_counted(tmp_path: Path) -> None:
    """Through `prepare` and the command line."""
    manifest = prepared(make_corpus(tmp_path), tmp_path / "dataset")
    given = ("--dataset", tmp_path / "dataset", "--output", tmp_path / "out")
    main(["report", *map(str, given)])
    text = Page(tmp_path / "out/report.html").text
    for split, counts in manifest["splits"].items():
        assert f"{split}{counts['documents']:,}{counts['sentences']:,}" in text
    assert "Text for a BERT of your own" in text
