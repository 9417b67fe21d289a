"""The text in the report: its audit, from a run or a dataset, whole, old or damaged."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
from prepared_corpus import make_corpus, prepared
from report_page import Page
from report_runs import (
    HOSTILE,
    MANIFEST,
    PRETRAIN_RESULTS,
    pretrain_line,
    put,
    put_dataset,
    put_finetunes,
    put_pretrain,
    report,
)

from bert_jax.cli import main
from bert_jax.data.prepared.summary import summarize
from bert_jax.report import corpus, formats
from bert_jax.report.dataset import load_dataset
from bert_jax.report.inputs import Record
from bert_jax.report.lengths import length_bins, length_chart


def changed(path: str, value: Any) -> dict[str, Any]:
    """The manifest with another value at a path of names; without it where `None`."""
    manifest = copy.deepcopy(MANIFEST)
    *names, last = path.split(".")
    table = manifest
    for name in names:
        table = table[name]
    if value is None:
        del table[last]
    else:
        table[last] = value
    return manifest


def run_of(tmp_path: Path, kept: dict[str, Any] | None) -> Path:
    """A pretraining run that keeps this of its corpus; `None` for one of before."""
    results = {k: v for k, v in PRETRAIN_RESULTS.items() if k != "corpus"}
    if kept is not None:
        results["corpus"] = kept
    return put(tmp_path / "run", [pretrain_line(100)], results)


def facts(rows: list[tuple[str, str]]) -> dict[str, str]:
    return {name: value.replace("\u00a0", " ") for name, value in rows}


def table() -> Record:
    return Record(summarize(MANIFEST), "results.json")


def test_a_run_shows_its_text(tmp_path: Path) -> None:
    page, *drawings = report(tmp_path / "out", pretrain=put_pretrain(tmp_path))
    text = Page(page).text
    for shown in (
        "files:<i>/*.txt",
        f"sha256 {summarize(MANIFEST)['sha256']}",
        "sentencepiece, lower case, 8,192 pieces",
        "5c" * 32,
        "held-out documents that also stand in the training split: 10.00%",
        "shards with the same content: [[0, 4], [1, 5]]",
        "Of 31,411 lines.",
        "2,400 documents, of 1,887.6 tokens in the mean and 1,024 to 2,047 in the "
        "median; the longest have 4,096 to 8,191.",
        "24,000 sentences, of 188.8 tokens in the mean and 2 to 3 in the median; the "
        "longest have 8 to 15.",
        "near_threshold",
    ):
        assert shown in text, shown
    names = [path.stem for path in drawings]
    assert {"corpus-documents", "corpus-sentences"} < set(names)
    assert "Not measured" not in text.split("What it was made from")[1]


def test_facts_are_computed_from_the_counts() -> None:
    assert facts(corpus.text_facts(table())) == {
        "Tokens per document": "1,953.4",  # 4,512,345 / 2,310
        "Tokens per sentence": "195.3",
        "Bytes per token": "0.41",  # 2,310 * 800 / 4,512,345
        "[UNK] among the tokens": "0.27 %",
        "Documents of one sentence": "24 (1.0 %)",  # of 2,400
        "Documents without tokens": "7",
    }
    assert facts(corpus.copy_facts(table())) == {
        "Copies of documents": "19 (0.79 %)",  # of 2,407 read
        "Near copies": "37 (1.5 %)",
        "Held out and in training": "9 (10.0 %)",  # of 90
        "Copies were": "kept",
        "Shards with the same content": "0 = 4, 1 = 5",
    }
    assert facts(corpus.reading_facts(table())) == {
        "Files": "7.12 MB",
        "Text": "18.1 MB",
        "Characters": "17,900,000",
        "Documents": "2,407",
        "Documents with markup": "12, kept",
        "Tags, entities, wiki markup": "85",
        "Giant documents, cut": "3",
        "Empty documents, left out": "41",
        "Bytes not UTF-8": "1,234",
        "Control characters, removed": "55",
    }
    assert [row["numbers"][0] for row in corpus.split_rows(table())] == ["2,310", "90"]


@pytest.mark.parametrize(
    ("path", "value", "name", "shown"),
    [
        ("options.near_threshold", 0.0, "Near copies", "not looked for"),
        ("audit.duplicate_shards", [], "Shards with the same content", "none"),
        (
            "audit.duplicate_shards",
            [[0, n] for n in range(1, 8)],
            "Shards with the same content",
            "0 = 1, 0 = 2, 0 = 3, 0 = 4, 0 = 5, …",
        ),
        ("options.read.markup", "strip", "Documents with markup", "12, removed"),
        ("read.markup_documents", 0, "Documents with markup", "0"),
        ("audit.duplicates.dropped", True, "Copies were", "dropped"),
        # Of the 90 that stayed, no copies are part.
        ("audit.duplicates.dropped", True, "Held out and in training", "9"),
    ],
)
def test_settings_decide_the_wording(
    path: str, value: Any, name: str, shown: str
) -> None:
    found = Record(summarize(changed(path, value)), "results.json")
    rows = facts([*corpus.copy_facts(found), *corpus.reading_facts(found)])
    assert rows[name] == shown


@pytest.mark.parametrize("whole", [True, False], ids=["dataset", "run"])
def test_hostile_lines_stay_text(tmp_path: Path, whole: bool) -> None:
    inputs = (
        {"dataset": put_dataset(tmp_path)}
        if whole
        else {"pretrain": put_pretrain(tmp_path)}
    )
    page = report(tmp_path / "out", **inputs)[0]
    source = page.read_text(encoding="utf-8")
    assert "<script" not in source
    assert "<i>/*.txt" not in source
    assert HOSTILE in Page(page).text
    # Isolated, or the line would turn around what stands after it.
    assert "<bdi>\u202egnidaer</bdi>" in source
    assert source.count("\u202e") == 1


def test_problems_with_markup_stay_text(tmp_path: Path) -> None:
    manifest = changed("audit.most_repeated_lines", [[HOSTILE, 31_000]])
    source = report(tmp_path / "out", dataset=put_dataset(tmp_path, manifest))[0]
    assert "one line, " in Page(source).text
    warned = re.findall(r'<p class="warning">(.*?)</p>', source.read_text())
    assert len(warned) == 3
    assert "&lt;script&gt;" in warned[2]


def test_a_dataset_alone(tmp_path: Path) -> None:
    page, *drawings = report(tmp_path / "out", dataset=put_dataset(tmp_path))
    parsed = Page(page)
    assert [path.stem for path in drawings] == ["corpus-documents", "corpus-sentences"]
    assert parsed.tags.count("svg") == 2
    assert "2,400 documents (4.53 M tokens), 90 of them held out." in parsed.text
    for shown in ("[UNK] among the tokens", "problems found", "near copies: 37"):
        assert shown in parsed.text
    for absent in ("pretraining", "fine-tuning", "Pretraining", "not measured"):
        assert absent not in parsed.text, absent


def test_a_sound_dataset_says_so(tmp_path: Path) -> None:
    manifest = changed("audit.duplicate_shards", [])
    manifest["audit"]["duplicates"]["leaked"] = 0
    page = report(tmp_path / "out", dataset=put_dataset(tmp_path, manifest))[0]
    assert "found nothing that would spoil training" in Page(page).text
    assert 'class="warning"' not in page.read_text()


def test_a_dataset_beside_its_run_is_shown_once(tmp_path: Path) -> None:
    inputs = {"pretrain": put_pretrain(tmp_path), "dataset": put_dataset(tmp_path)}
    both = report(tmp_path / "both", **inputs)
    alone = report(tmp_path / "alone", pretrain=inputs["pretrain"])
    assert both[0].read_bytes() == alone[0].read_bytes()


def test_a_dataset_beside_fine_tuning(tmp_path: Path) -> None:
    inputs = {"finetunes": put_finetunes(tmp_path), "dataset": put_dataset(tmp_path)}
    text = Page(report(tmp_path / "out", **inputs)[0]).text
    assert "2,400 documents (4.53 M tokens)" in text
    assert "2 fine-tuning runs" in text


@pytest.mark.parametrize("old", [True, False])
def test_another_dataset_than_the_runs_is_pointed_out(
    tmp_path: Path, old: bool
) -> None:
    run = run_of(tmp_path, None if old else summarize(MANIFEST))
    other = (
        changed("splits.train.documents", 2_311)
        if old
        else changed("sha256", {"a": "b"})
    )
    dataset = put_dataset(tmp_path, other)
    text = Page(report(tmp_path / "out", pretrain=run, dataset=dataset)[0]).text
    assert "The pretraining run read another dataset than the one described" in text


def test_a_run_of_before_the_audit_says_what_is_missing(tmp_path: Path) -> None:
    page, *drawings = report(tmp_path / "out", pretrain=run_of(tmp_path, None))
    text = Page(page).text.split("What it was made from")[1].split("Settings")[0]
    assert "4,512,345" in text
    assert "6.21" in text
    assert (
        "Not measured: length of documents, length of sentences, repeated lines, "
        "problems of the text."
    ) in text
    assert re.search(r"\[UNK\] among the tokens ?not measured", text)
    assert text.count("not measured") > 15
    assert not [path for path in drawings if path.stem.startswith("corpus")]
    assert "nothing that would spoil" not in text


def test_histograms_hold_every_document_and_sentence(tmp_path: Path) -> None:
    """Through `prepare`, on text whose lengths are counted here anew."""
    made = make_corpus(tmp_path)
    manifest = prepared(made, tmp_path / "dataset")
    kept = load_dataset(tmp_path / "dataset")
    for plural in ("documents", "sentences"):
        bins = length_bins(kept, f"{plural}_by_length")
        assert bins is not None
        number = sum(split[plural] for split in manifest["splits"].values())
        assert sum(count for _, count in bins) == number > 10
        tokens = sum(split["tokens"] for split in manifest["splits"].values())
        assert sum(least * count for least, count in bins) <= tokens
        assert sum((2 * least - 1) * count for least, count in bins) >= tokens
    main(
        [
            *("report", "--dataset", str(tmp_path / "dataset")),
            *("--output", str(tmp_path / "out")),
        ]
    )
    text = Page(tmp_path / "out/report.html").text
    assert f"{formats.count(corpus.total(kept, 'documents'))} documents" in text
    assert "Text for a BERT of your own" in text
    assert "No line was seen to repeat within a shard." in text


@pytest.mark.parametrize("powers", [(0, 1), (3, 12), (0, 22)])
def test_charts_of_any_range_have_a_few_labels(powers: tuple[int, int]) -> None:
    bins = [(1 << power, 5) for power in range(*powers)]
    chart = length_chart(bins, None, name="x", title="t", noun="document")
    assert chart is not None
    labels = re.findall(r">([\d,]+)</text>", chart.svg)
    shown = [int(label.replace(",", "")) for label in labels]
    edges = [n for n in shown if n >= bins[0][0] and n.bit_count() == 1]
    assert 2 <= len(set(edges)) <= 8 + 3  # the vertical axis has 1, 2 and 4
    assert "mean" not in chart.caption


def test_an_empty_histogram_has_no_chart() -> None:
    assert length_chart([(1, 0)], 0, name="x", title="t", noun="document") is None


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("audit.unk_share", 27, "audit.unk_share=27.0 is not a share"),
        ("audit.unk_share", "low", "audit.unk_share='low' is not a number"),
        ("audit.duplicates.dropped", 1, "dropped=1 is not true, false"),
        ("audit.documents_by_length", [1], "documents_by_length=[1] is not an object"),
        ("audit.documents_by_length", {"3": 1}, "has the bins 3; expected powers of"),
        ("audit.documents_by_length", {"1": 1, "4": 2}, "has the bins 1, 4; expected"),
        ("audit.documents_by_length", {"2": -1}, "documents_by_length: 2=-1.0 is not"),
        ("audit.most_repeated_lines", [["a"]], "most_repeated_lines holds ['a']"),
        ("audit.most_repeated_lines", [["a", True]], "holds ['a', True]"),
        ("audit.most_repeated_lines", [[3, 3]], "holds [3, 3]"),
        ("audit.duplicate_shards", [0], "duplicate_shards holds 0; expected the"),
        ("read.undecodable_bytes", 1.5, "undecodable_bytes=1.5 is not a whole"),
        ("splits.train.tokens", "x", "splits.train.tokens='x' is not a number"),
        ("splits", 3, "splits=3 is not an object"),
        ("tokenizer", "x", "tokenizer='x' is not an object"),
        ("source", 1, "source=1 is not a string"),
    ],
)
@pytest.mark.parametrize("whole", [True, False], ids=["dataset", "run"])
def test_wrong_types_are_refused_by_name(
    tmp_path: Path, path: str, value: Any, message: str, whole: bool
) -> None:
    if whole:
        given = {"dataset": put_dataset(tmp_path, changed(path, value))}
        file = tmp_path / "dataset/manifest.json"
    else:
        kept = changed(path, value) | {"problems": [], "sha256": "0" * 64}
        given = {"pretrain": run_of(tmp_path, kept)}
        file = tmp_path / "run/results.json"
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        report(tmp_path / "out", **given)
    assert str(file) in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format_version", 1, "has format version 1; this version"),
        ("audit.lines", None, "audit.lines is missing"),
        ("audit.duplicates", None, "audit.duplicates.dropped is missing"),
        ("options", None, "options.read.markup is missing"),
        ("sha256", None, "sha256 is missing"),
        ("splits.test", {}, "has the splits train, validation, test"),
    ],
)
def test_damaged_manifests(tmp_path: Path, path: str, value: Any, message: str) -> None:
    dataset = put_dataset(tmp_path, changed(path, value))
    with pytest.raises(ValueError, match=re.escape(message)):
        report(tmp_path / "out", dataset=dataset)


def test_problems_that_are_no_texts(tmp_path: Path) -> None:
    run = run_of(tmp_path, summarize(MANIFEST) | {"problems": ["a", 3]})
    with pytest.raises(ValueError, match=r"problems=\['a', 3\] is not a list of texts"):
        report(tmp_path / "out", pretrain=run)


def test_no_finished_dataset(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"manifest\.json is missing"):
        report(tmp_path / "out", dataset=tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        report(tmp_path / "out", dataset=tmp_path)


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.0, "0 %"), (3e-5, "< 0.01 %"), (0.0027, "0.27 %"), (0.123, "12.3 %")],
)
def test_rare_shares_do_not_round_to_nothing(share: float, shown: str) -> None:
    assert formats.rare(share).replace("\u00a0", " ") == shown


@pytest.mark.parametrize(
    ("number", "shown"), [(12, "12 B"), (12_440, "12.4 kB"), (5_312_640, "5.31 MB")]
)
def test_sizes_have_their_unit(number: int, shown: str) -> None:
    assert formats.size(number).replace("\u00a0", " ") == shown
