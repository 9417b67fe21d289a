"""The report: what appears, what it computes, and that it stands on its own."""

import csv
import dataclasses
import re
from pathlib import Path

import pytest
from report_page import Page
from report_runs import (
    EVALS,
    HOSTILE,
    MODEL,
    PRETRAIN_LINES,
    PRETRAIN_RESULTS,
    origin,
    put_baselines,
    put_finetune,
    put_pretrain,
    report,
)

from bert_jax.report import charts, formats, masks, pretraining
from bert_jax.report.provenance import origin as origin_of
from bert_jax.report.provenance import start_of
from bert_jax.report.runs import Run, Series, read_run
from bert_jax.train.runs.results_file import load_results


@pytest.fixture
def pretrain(tmp_path: Path) -> Path:
    return put_pretrain(tmp_path / "runs/p")


@pytest.fixture
def tuned(tmp_path: Path, pretrain: Path) -> Path:
    return put_finetune(tmp_path / "tuned", encoder=origin(pretrain))


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The report of one run of each kind."""
    folder = tmp_path_factory.mktemp("everything")
    pretrain = put_pretrain(folder / "pretrain")
    tuned = put_finetune(folder / "tuned", encoder=origin(pretrain))
    scratch = put_finetune(folder / "scratch", accuracy=0.741)
    return report(
        folder / "out",
        pretrain=pretrain,
        finetunes=[tuned, scratch],
        baselines=put_baselines(folder / "baselines"),
        title=HOSTILE,
    )


def text_of(written: list[Path]) -> str:
    return Page(written[0]).text


def test_the_numbers_of_every_input_appear(everything: list[Path]) -> None:
    text = text_of(everything)
    for shown in (
        "masked-token loss, nats5.87unigram entropy 6.21",
        "next-sentence accuracy65.3%larger class 51.2%",
        "accuracy with pretraining83.5%",
        "accuracy without pretraining74.1%",
        "accuracy without a neural network80.2%TF-IDF",
        # scipy.stats.binomtest(167, 200).proportion_ci(0.95, method="wilson")
        "83.5% 77.7% to 88.0%",
        "0.797",  # macro-F1 of a baseline
        "parameters5.31 M",
        "0.12.8",
        "9f" * 32,
        "0:02:30 15.0%",  # lost to interruptions
        "cpu x1, 41.3% of its",  # of the devices' peak
        "num_layers",
        "Weights drawn at random",
    ):
        assert shown in text, shown


def test_each_chart_is_drawn_in_the_page_and_as_png(everything: list[Path]) -> None:
    page, *drawings = everything
    assert page.name == "report.html"
    # Six of pretraining, three of scores, a matrix and a calibration of both runs.
    assert Page(page).tags.count("svg") == len(set(drawings)) == 13
    for path in drawings:
        assert path.read_bytes().startswith(b"\x89PNG")
    assert sorted(page.parent.iterdir()) == sorted(everything), "a file was left over"


def test_the_page_stands_on_its_own(everything: list[Path]) -> None:
    page, source = Page(everything[0]), everything[0].read_text(encoding="utf-8")
    assert not {"script", "link"} & set(page.tags)
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "action", "poster"):
            assert value.startswith("#"), (name, value)
    assert "http" not in source
    assert "@import" not in source
    assert len(page.ids) == len(set(page.ids))
    used = re.findall(r'(?:href="|url\()#([^")]+)', source)
    used += [value for name, value in page.attributes if name == "aria-labelledby"]
    assert used
    assert set(used) <= set(page.ids)


def test_hostile_titles_and_labels_stay_text(everything: list[Path]) -> None:
    source = everything[0].read_text(encoding="utf-8")
    assert "<script" not in source
    assert "<i>/*.txt" not in source
    assert text_of(everything).count(HOSTILE) >= 3  # title, heading, repeated line
    # Isolated, or the line would turn around what stands after it.
    assert "<bdi>\u202egnidaer</bdi>" in source


def test_of_many_classes_a_matrix_has_those_with_the_most_mistakes(monkeypatch):
    """A cell for each two of 500 classes took a quarter of an hour and 100 MB."""
    monkeypatch.setattr(charts, "_MOST_CLASSES", 2)
    results = {
        "confusion": [[7, 0, 2], [1, 93, 0], [5, 0, 8]],
        "labels": ["first", "other", "last"],
    }
    chart = charts.matrix("m", "run", results)
    shown = re.findall(r"<text[^>]*>([^<]+)</text>", chart.svg)
    assert [x for x in shown if x != "predicted"] == [
        *(["first", "last"] * 2),
        *["truth", "7", "2", "5", "8"],
    ]
    assert chart.caption.endswith("The 2 of 3 classes with the most mistakes.")


def test_charts_take_their_colours_from_the_page(everything: list[Path]) -> None:
    source = everything[0].read_text(encoding="utf-8")
    drawings = re.findall(r"<svg.*?</svg>", source, flags=re.DOTALL)
    styles = [style for svg in drawings for style in re.findall('style="[^"]*"', svg)]
    assert any("var(--accent)" in style for style in styles)
    assert not [style for style in styles if re.search("#[0-9a-f]{6}", style)]
    for role in charts.PALETTE:
        assert source.count(f"--{role}: ") == 2 + (role == "surface")  # light and dark


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, tuned: Path) -> None:
    first, second = (report(tmp_path / x, finetunes=[tuned]) for x in "ab")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


@pytest.mark.parametrize(
    ("task", "shown"),
    [
        ("regression", ("Pearson", "0.712 0.636 to 0.774", "Lower is better: MSE")),
        ("tokens", ("F1 on the held-out examples", "Accuracy of the words", "93.0%")),
        ("spans", ("F1 with pretraining0.610", "Best constant answer0.0000.000")),
        ("glue/cola", ("Matthews with pretraining0.321", "Accuracy")),
    ],
)
def test_every_task_has_its_page(tmp_path: Path, task: str, shown: tuple) -> None:
    """The interval is tanh(atanh(0.712) -+ 1.96 / sqrt(197))."""
    run = put_finetune(tmp_path / "run", task, encoder=origin(tmp_path))
    text = text_of(report(tmp_path / "out", finetunes=[run]))
    for part in (*shown, f"{task.capitalize()} of dev.tsv, 200 held-out examples"):
        assert part in text, part
    assert "Confusion" not in text


def test_a_held_out_share_is_named_by_its_training_file(tmp_path: Path) -> None:
    """`--dev 0.1` is a number where others have a file."""
    run = put_finetune(tmp_path / "run", dev=0.1)
    text = text_of(report(tmp_path / "out", finetunes=[run]))
    assert "Classification of a share of 0.1 of train.tsv, 200 held-out" in text
    assert "Held out: a share of 0.1 of the training file" in text


def test_tasks_and_data_are_not_mixed(tmp_path: Path, tuned: Path) -> None:
    encoder = origin(tmp_path / "runs/p")
    other = put_finetune(tmp_path / "o", encoder=encoder, data="v2", accuracy=0.99)
    spans = put_finetune(tmp_path / "s", "spans", encoder=encoder)
    written = report(
        tmp_path / "out",
        finetunes=[tuned, other, spans],
        baselines=put_baselines(tmp_path / "b"),
    )
    text = text_of(written)
    headings = re.findall(r"<h2>(.*?)</h2>", written[0].read_text())
    assert [x.split(",")[0] for x in headings[:3]] == [
        *["Classification of dev.tsv"] * 2,
        "Spans of dev.tsv",
    ]
    # Shares in each headline: the baselines were judged on the first data alone.
    headlines = [
        re.findall(r"[\d.]+%", x) for x in text.split("held-out examples")[1:4]
    ]
    assert headlines == [["83.5%", "80.2%"], ["99.0%", "50.5%"], []]
    assert len(set(written)) == len(written), "two charts share a file"


def test_a_foreign_encoder_is_named(tmp_path: Path, pretrain: Path) -> None:
    """Its score is beside the pretraining run, and not credited to it."""
    run = put_finetune(tmp_path / "moved", encoder=origin(Path("/other/p")))
    early = put_finetune(tmp_path / "early", encoder=origin(pretrain, 200))
    given = {"pretrain": pretrain, "finetunes": [run, early]}
    text = text_of(report(tmp_path / "out", **given))
    assert f"{run} began with a foreign encoder, from /other/p" in text
    assert "Foreign: this is not the encoder" in text
    assert "accuracy with another encoder" in text
    assert "With pretraining to step 200" in text
    assert "This page shows step 300." in text


@pytest.mark.parametrize(
    ("encoder", "layers", "start"),
    [
        ({}, 4, "pretrained"),
        # Another folder may hold a run of the same name.
        ({"run": "runs/p"}, 4, "foreign"),
        ({"run": "/other/runs/p"}, 4, "foreign"),
        ({"step": 200}, 4, "earlier"),
        ({"step": 301}, 4, "foreign"),
        ({}, 5, "foreign"),
        (None, 4, "random"),
    ],
)
def test_what_a_run_began_with(
    tmp_path: Path, pretrain: Path, encoder: dict | None, layers: int, start: str
) -> None:
    recorded = None if encoder is None else origin(pretrain) | encoder
    model = dataclasses.replace(MODEL, num_layers=layers)
    run = put_finetune(tmp_path / "run", encoder=recorded, model=model)
    shown = read_run(pretrain, "pretrain")
    assert start_of(read_run(run, "finetune"), shown) == start


@pytest.mark.parametrize(
    ("given", "kept", "start"),
    [
        # A run that was moved or copied is known by its weights.
        ({"run": "/before/it/was/moved"}, {37: "9f" * 32}, "pretrained"),
        # A run that another one has replaced is foreign, though the path is the same.
        ({}, {37: "00" * 32}, "foreign"),
        # A model without a pooler took fewer tensors.
        ({"num_tensors": 35}, {37: "00" * 32, 35: "9f" * 32}, "pretrained"),
    ],
)
def test_weights_tell_more_than_paths(
    tmp_path: Path, pretrain: Path, monkeypatch, given: dict, kept: dict, start: str
) -> None:
    monkeypatch.setattr(Run, "encoder_hashes", lambda self, step: kept)
    run = put_finetune(tmp_path / "run", encoder=origin(pretrain) | given)
    shown = read_run(pretrain, "pretrain")
    assert start_of(read_run(run, "finetune"), shown) == start


def test_a_score_told_by_a_path_alone_says_so(
    tmp_path: Path, pretrain: Path, tuned: Path
) -> None:
    text = text_of(report(tmp_path / "out", pretrain=pretrain, finetunes=[tuned]))
    assert "The path tells so; " in text


def test_weights_of_unknown_origin_are_not_called_random(tuned: Path) -> None:
    run = read_run(tuned, "finetune")
    unknown = dataclasses.replace(run, info=dataclasses.replace(run.info, encoder=None))
    assert origin_of(unknown, None)[0].startswith("Origin of weights not recorded.")


def test_an_encoder_that_was_replaced_is_pointed_out(
    tmp_path: Path, tuned: Path
) -> None:
    encoder = origin(tmp_path / "runs/p", sha256="00" * 32)
    other = put_finetune(tmp_path / "other", encoder=encoder)
    text = text_of(report(tmp_path / "out", finetunes=[tuned, other]))
    assert "at step 300, but their encoders have different hashes" in text
    assert "With pretraining (tuned)" in text
    assert "With pretraining (other)" in text


def test_a_pretraining_run_without_results(tmp_path: Path) -> None:
    run = put_pretrain(tmp_path / "run", PRETRAIN_LINES[:3], None)
    text = text_of(report(tmp_path / "out", pretrain=run))
    assert "step 200 of 20,000" in text
    assert "masked-token loss, nats6.90" in text
    assert "not measured" not in text.split("Settings")[0]


def test_a_run_that_was_made_longer_has_no_results_yet(tmp_path: Path) -> None:
    """results.json is that of the shorter run."""
    lines = [*PRETRAIN_LINES, {"kind": "eval", "step": 400, "mlm_loss": 4.8}]
    run = put_pretrain(tmp_path / "run", lines, num_steps=500)
    assert load_results(run) is None
    text = text_of(report(tmp_path / "out", pretrain=run))
    assert "step 400 of 500 so far" in text
    assert "masked-token loss, nats4.80" in text


def test_a_fine_tuned_run_without_results(tmp_path: Path) -> None:
    run = put_finetune(tmp_path / "run", finished=False)
    text = text_of(report(tmp_path / "out", finetunes=[run]))
    assert "Without pretraining, step 40 so far" in text
    assert "83.5%" in text


@pytest.mark.parametrize("task", EVALS)
def test_runs_that_have_logged_nothing_yet(tmp_path: Path, task: str) -> None:
    """Before the first line of a fine-tuning, and beside one that has ended."""
    run = put_finetune(tmp_path / "run", task, finished=False)
    (run / "metrics.jsonl").unlink()
    text = text_of(report(tmp_path / "out", finetunes=[run]))
    assert "Without pretraining, step 0 so far" in text
    ended = put_finetune(tmp_path / "ended", task, encoder=origin(tmp_path))
    text = text_of(report(tmp_path / "both", finetunes=[run, ended]))
    assert "step 0 so far" in text
    assert "With pretraining" in text
    bare = put_pretrain(tmp_path / "bare", [], None)
    (bare / "metrics.jsonl").unlink()
    text = text_of(report(tmp_path / "three", pretrain=bare, finetunes=[run]))
    assert "The run has logged too little for a curve yet." in text


@pytest.mark.parametrize("name", ["run.json", "results.json", "config.json"])
def test_a_damaged_file_of_a_run_is_a_sentence(
    tmp_path: Path, pretrain: Path, name: str
) -> None:
    (pretrain / name).write_text('{"kind"\n')
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        report(tmp_path / "out", pretrain=pretrain)


def test_a_damaged_line_of_metrics_is_left_out_and_said(
    tmp_path: Path, pretrain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (pretrain / "metrics.jsonl").read_bytes().splitlines()
    (pretrain / "metrics.jsonl").write_bytes(b"\n".join([b"\xff", *lines, b""]))
    report(tmp_path / "out", pretrain=pretrain)
    assert "metrics.jsonl is damaged: 1 of its lines" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pairs", "title"),
    [
        ("next_sentence", "next-sentence accuracy"),
        ("none", "parameters"),
        ("sentence_order", "sentence-order accuracy"),
    ],
)
def test_sentence_tasks_have_their_names(
    tmp_path: Path, pairs: str, title: str
) -> None:
    run = put_pretrain(tmp_path / "run", PRETRAIN_LINES[:2], pairs=pairs)
    part = pretraining.part(read_run(run, "pretrain"))
    assert part.figures[2].label == title
    titles = [card.title for card in part.sections[0].cards]
    assert (formats.heading(title) in titles) == (pairs != "none")


def test_refusals(tmp_path: Path, pretrain: Path, tuned: Path) -> None:
    for inputs, message in (
        ({}, "nothing to report on"),
        ({"pretrain": tuned}, "is a finetune run; expected a pretrain run"),
        ({"pretrain": tmp_path / "nowhere"}, "nowhere is not a run directory"),
        ({"finetunes": [tuned, tuned / "."]}, "names a run twice; name each once"),
        ({"baselines": tmp_path / "nowhere"}, "holds no results of baselines"),
        ({"baselines": tuned}, "holds no results of baselines"),
        ({"dataset": tmp_path}, r"manifest\.json is missing"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            report(tmp_path / "out", **inputs)
        assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="is a file; expected a directory"):
        report(pretrain / "config.json", pretrain=pretrain)


def test_values_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    lines = [{"kind": "train", "step": n, "grad_norm": float(x)} for n, x in
             ((1, "nan"), (2, "3"), (3, "inf"))]  # fmt: skip
    run = read_run(put_pretrain(tmp_path / "run", lines, None), "pretrain")
    assert run.series("train", "grad_norm") == Series([2], [3.0])


def test_curves_of_many_lines_stay_small(tmp_path: Path) -> None:
    lines = [
        {"kind": "train", "step": n, "grad_norm": (n * 7919 % 1000) / 1000}
        for n in range(20_000)
    ]
    page, *_ = report(tmp_path / "out", pretrain=put_pretrain(tmp_path / "run", lines))
    assert page.stat().st_size < 500_000


def test_masks_become_text_with_verdicts() -> None:
    (example,) = PRETRAIN_RESULTS["mask_examples"]
    pieces = masks.pieces(example["tokens"])
    assert "".join(x.space + x.text for x in pieces) == "the array multiplies soon"
    hidden = [piece for piece in pieces if piece.guesses]
    assert [piece.verdict for piece in hidden] == ["right", "near", "wrong"]
    assert [text for text, _, _ in hidden[1].guesses] == ["…ply", "…plies"]


def test_wordpiece_masks_become_text() -> None:
    words = ["[CLS]", "a", "(", "multi", "##ply", ")", ",", "b", ".", "[SEP]", "c"]
    tokens = [{"text": word, "guesses": None} for word in words]
    shown = "".join(piece.space + piece.text for piece in masks.pieces(tokens))
    assert shown == "a (multiply), b. [SEP] c"


def test_numbers_are_written_for_people() -> None:
    shown = [formats.compact(x) for x in (0.25, 950, 26_000, 5_312_640, 999_999)]
    assert [x.replace("\u00a0", " ") for x in shown] == [
        *("0.25", "950", "26 k", "5.31 M", "1 M")
    ]
    assert formats.compact(12, "B").replace("\u00a0", " ") == "12 B"
    assert formats.compact(12_440, "B").replace("\u00a0", " ") == "12.4 kB"
    assert formats.duration(3_725.4) == "1:02:05"


def test_curves_of_other_runs_are_drawn_beside(pretrain: Path, tmp_path: Path) -> None:
    other = put_pretrain(tmp_path / "runs/earlier")
    logged = tmp_path / "published.csv"
    logged.write_text("kind,step,mlm_loss\neval,0,9.1\neval,2000,6.46\ntrain,2000,\n")
    written = report(
        tmp_path / "out", pretrain=pretrain, references=[other, logged], title="x"
    )
    shown = text_of(written)
    assert "reference earlier" in shown
    assert "reference published 6.46" in shown
    logged.write_text("step,loss\n1,2\n")
    with pytest.raises(ValueError, match="expected kind, step and names of figures"):
        report(tmp_path / "out", pretrain=pretrain, references=[logged], title="x")
    limit = csv.field_size_limit(1_000)  # it is the whole process's, and may be larger
    for row in ("eval,1,2.0,3.0", "eval", f"eval,1,{'2' * 2_000}"):
        logged.write_text(f"kind,step,mlm_loss\neval,0\n{row}\n")
        with pytest.raises(ValueError, match=r"published.csv, line [23]: "):
            report(tmp_path / "out", pretrain=pretrain, references=[logged], title="x")
    csv.field_size_limit(limit)
    with pytest.raises(ValueError, match="would be ignored"):
        report(tmp_path / "out", references=[logged], dataset=tmp_path, title="x")


def test_a_run_is_placed_in_the_range_of_a_references_seeds(
    pretrain: Path, tmp_path: Path
) -> None:
    losses = read_run(pretrain, "pretrain").series("eval", "mlm_loss")
    (first, *_, last), (start, *_, end) = losses
    ranges = [(first, start, 1.0), (last, end + 2, 1.0), (999_999, 1.0, 0.5)]
    columns = "kind,step,mlm_loss,mlm_loss_low,mlm_loss_high"
    rows = [f"eval,{step},{x},{x - half},{x + half}" for step, x, half in ranges]
    logged = tmp_path / "seeds.csv"
    logged.write_text("\n".join([columns, *rows]))
    written = report(tmp_path / "out", pretrain=pretrain, references=[logged])
    card = text_of(written).partition("Beside the seeds of seeds")[2]
    table, rest = card.split("The range is", 1)
    assert rest
    assert re.findall("within|below|above", table) == ["within", "below"]
    with_band = written[0].read_text()
    logged.write_text(logged.read_text().replace("_low", "_lo").replace("_high", "_hi"))
    without = report(tmp_path / "out2", pretrain=pretrain, references=[logged])
    assert with_band.count("<path") > without[0].read_text().count("<path")
    logged.write_text(f"{columns}\neval,0,2,1,\n")
    with pytest.raises(ValueError, match="expected both at the same steps"):
        report(tmp_path / "out", pretrain=pretrain, references=[logged])
