"""The report: what appears, what it computes, and that it stands on its own."""

import re
from pathlib import Path
from typing import Any

import pytest
from report_page import Page
from report_runs import (
    FINETUNE_LINES,
    HOSTILE,
    PRETRAIN_RESULTS,
    finetune_results,
    pretrain_line,
    put,
    put_finetunes,
    put_pretrain,
    report,
)

from bert_jax.report import charts, finetuning, formats, masks
from bert_jax.report.inputs import Series, load_run, series


@pytest.fixture
def pretrain(tmp_path: Path) -> Path:
    return put_pretrain(tmp_path)


@pytest.fixture
def finetunes(tmp_path: Path) -> list[Path]:
    return put_finetunes(tmp_path)


@pytest.fixture
def baselines(tmp_path: Path) -> Path:
    results = {
        "kind": "baselines",
        "majority": {"accuracy": 0.505, "macro_f1": 0.333},
        "tfidf_logistic_regression": {"accuracy": 0.802, "macro_f1": 0.797},
        "num_train": 4_000,
        "num_validation": 200,
        "seconds": 2.3,
    }
    return put(tmp_path / "baselines", [], results)


@pytest.fixture
def everything(
    tmp_path: Path, pretrain: Path, finetunes: list[Path], baselines: Path
) -> list[Path]:
    return report(
        tmp_path / "out",
        pretrain=pretrain,
        finetunes=finetunes,
        baselines=baselines,
        title=HOSTILE,
    )


def test_the_numbers_of_every_input_appear(everything: list[Path]) -> None:
    text = Page(everything[0]).text
    for shown in (
        "5.87",  # MLM loss, headline
        "28.7 %",
        "unigram entropy 6.21",
        "0.34 below the entropy",  # 6.214 - 5.871
        "14.1 points above always naming the larger class",  # 0.653 - 0.512
        "9.4 points above without pretraining",  # 0.835 - 0.741
        "3.3 points above TF-IDF",
        "79.7 %",  # macro-F1 of a baseline
        "takes “<script>",  # most frequent mistake, 23 times
        "(23 times)",
        "4,512,345",
        "5.31 M parameters",
        "cpu x1",
        "0.12.8",
        "9f" * 32,
        "12 min 11 s",
        "Goodput70.0 %",
        "Lost to interruptions2 min 30 s (15.0 %)",
        "utilisation is 41.3 % of",
        "num_layers",
    ):
        assert shown in text, shown
    assert "Evaluating" not in text  # took no time


def test_each_chart_is_drawn_in_the_page_and_as_png(everything: list[Path]) -> None:
    page, *drawings = everything
    assert page.name == "report.html"
    assert Page(page).tags.count("svg") == len(drawings) == 13
    for path in drawings:
        assert path.read_bytes().startswith(b"\x89PNG")
    assert sorted(page.parent.iterdir()) == sorted(everything), "a file was left over"


def test_the_page_loads_nothing_and_runs_nothing(everything: list[Path]) -> None:
    page = Page(everything[0])
    assert "script" not in page.tags
    assert "link" not in page.tags
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "action", "poster"):
            assert value.startswith("#"), (name, value)
    source = everything[0].read_text(encoding="utf-8")
    assert "http" not in source
    assert "@import" not in source
    for target in re.findall(r"url\(([^)]*)\)", source):
        assert target.startswith("#")


def test_ids_are_unique_and_every_reference_has_one(everything: list[Path]) -> None:
    page = Page(everything[0])
    assert len(page.ids) == len(set(page.ids))
    source = everything[0].read_text(encoding="utf-8")
    used = re.findall(r'(?:href="|url\()#([^")]+)', source)
    used += [value for name, value in page.attributes if name == "aria-labelledby"]
    assert used
    assert set(used) <= set(page.ids)


def test_hostile_titles_and_labels_stay_text(everything: list[Path]) -> None:
    source = everything[0].read_text(encoding="utf-8")
    assert "<script" not in source
    assert Page(everything[0]).text.count(HOSTILE) >= 3  # title, heading, caption


def test_charts_take_their_colours_from_the_page(everything: list[Path]) -> None:
    source = everything[0].read_text(encoding="utf-8")
    drawings = re.findall(r"<svg.*?</svg>", source, flags=re.DOTALL)
    styles = [style for svg in drawings for style in re.findall('style="[^"]*"', svg)]
    assert any("var(--accent)" in style for style in styles)
    assert not [style for style in styles if re.search("#[0-9a-f]{6}", style)]
    for role in charts.PALETTE:
        assert source.count(f"--{role}: ") == 2 + (role == "surface")  # light and dark


def test_the_same_inputs_give_the_same_bytes(
    tmp_path: Path, pretrain: Path, finetunes: list[Path]
) -> None:
    first = report(tmp_path / "a", pretrain=pretrain, finetunes=finetunes)
    second = report(tmp_path / "b", pretrain=pretrain, finetunes=finetunes)
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_pretraining_alone(tmp_path: Path, pretrain: Path) -> None:
    text = Page(report(tmp_path / "out", pretrain=pretrain)[0]).text
    assert "How pretraining went" in text
    assert "fine-tuning" not in text.lower()


def test_fine_tuning_alone(tmp_path: Path, finetunes: list[Path]) -> None:
    text = Page(report(tmp_path / "out", finetunes=finetunes[:1])[0]).text
    assert "With pretraining ends at 83.5 %" in text
    assert "How pretraining went" not in text
    assert "Without pretraining" not in text


def test_baselines_are_shown_beside_pretraining(
    tmp_path: Path, pretrain: Path, baselines: Path
) -> None:
    inputs = {"pretrain": pretrain, "baselines": baselines / "results.json"}
    text = Page(report(tmp_path / "out", **inputs)[0]).text
    assert "TF-IDF + logistic regression ends at 80.2 %" in text


def test_what_is_missing_is_said_and_never_made_up(tmp_path: Path) -> None:
    lines = [{"kind": "train", "step": 1, "mlm_loss": 9.0, "grad_norm": float("nan")}]
    run = put(tmp_path / "run", lines, {"kind": "pretrain", "versions": None})
    text = Page(report(tmp_path / "out", pretrain=run)[0]).text
    assert "Loss on the validation split was not measured." in text
    assert "Not measured: masked-token accuracy, next-sentence accuracy" in text
    assert "gradient norm." in text
    assert text.count("not measured") > 10
    assert "None" not in text


def test_a_resumed_run_shows_each_step_once(tmp_path: Path) -> None:
    lines = [pretrain_line(step, mlm_loss=8.0) for step in (100, 200, 300, 350)]
    lines += [pretrain_line(step, mlm_loss=5.0) for step in (200, 300, 400)]
    run = load_run(put(tmp_path / "run", lines, {"kind": "pretrain"}), "pretrain")
    # 350 was undone by going back to 200: the line belongs to no step that counts.
    assert series(run, "train", "mlm_loss") == Series(
        [100, 200, 300, 400], [8.0, 5.0, 5.0, 5.0]
    )


def test_an_evaluation_curve_ends_with_the_final_result(pretrain: Path) -> None:
    curve = series(load_run(pretrain, "pretrain"), "eval", "mlm_loss")
    assert curve == Series([200, 300], [6.9, 5.871])


def test_values_that_are_not_finite_are_left_out_and_counted(tmp_path: Path) -> None:
    lines = [pretrain_line(1), pretrain_line(2, grad_norm=float("inf"))]
    run = put(tmp_path / "run", lines, PRETRAIN_RESULTS)
    text = Page(report(tmp_path / "out", pretrain=run)[0]).text
    assert "1 value not finite and not drawn." in text


def test_long_curves_are_drawn_as_means() -> None:
    steps = list(range(1, 1_501))
    drawn = charts.thin(Series(steps, [float(step) for step in steps]))
    assert len(drawn.steps) == 500
    assert drawn.steps[:2] == [3, 6]
    assert drawn.values[:2] == [2.0, 5.0]


def test_masks_become_text_with_verdicts(pretrain: Path) -> None:
    (example,) = masks.mask_examples(load_run(pretrain, "pretrain"))
    shown = "".join(piece.space + piece.text for piece in example.pieces)
    assert shown == "the array multiplies soon"
    assert [piece.verdict for piece in example.hidden] == ["right", "near", "wrong"]
    assert [guess.text for guess in example.hidden[1].guesses] == ["…ply", "…plies"]
    assert masks.caption([example]) == (
        "Of the 3 hidden pieces below, the first guess is right for 1, and a later one "
        "for 1 more."
    )


def test_wordpiece_masks_become_text(tmp_path: Path) -> None:
    words = ["[CLS]", "a", "(", "multi", "##ply", ")", ",", "b", ".", "[SEP]", "c"]
    tokens: list[dict[str, Any]] = [{"text": w, "guesses": None} for w in words]
    tokens[4]["guesses"] = [["##ply", 0.5]]
    results = {"kind": "pretrain", "mask_examples": [{"tokens": tokens}]}
    run = load_run(put(tmp_path / "run", [], results), "pretrain")
    (example,) = masks.mask_examples(run)
    shown = "".join(piece.space + piece.text for piece in example.pieces)
    assert shown == "a (multiply), b. [SEP] c"
    assert example.hidden[0].verdict == "right"


def test_the_interval_is_wilsons() -> None:
    row = finetuning.Score(
        name="", color="plain", accuracy=0.835, macro_f1=None, num_validation=200
    )
    # scipy.stats.binomtest(167, 200).proportion_ci(0.95, method="wilson")
    assert row.interval == pytest.approx((0.777342, 0.880031), abs=1e-6)


def test_runs_that_begin_alike_are_told_apart(
    tmp_path: Path, finetunes: list[Path]
) -> None:
    results = finetune_results("pretrained", 0.9) | {"num_validation": 100}
    other = put(tmp_path / "second", FINETUNE_LINES, results)
    page = Page(report(tmp_path / "out", finetunes=[*finetunes, other])[0])
    assert "With pretraining (pretrained)" in page.text
    assert "With pretraining (second)" in page.text
    assert "validation sets of different sizes (100, 200)" in page.text


def test_an_encoder_of_another_step_is_pointed_out(
    tmp_path: Path, pretrain: Path
) -> None:
    results = finetune_results("pretrained", 0.9)
    results["encoder"]["step"] = 200
    run = put(tmp_path / "old", FINETUNE_LINES, results)
    page = Page(report(tmp_path / "out", pretrain=pretrain, finetunes=[run])[0])
    assert "This page shows step 300." in page.text


def test_differences_that_read_as_nothing_say_level() -> None:
    assert formats.gap(0.0004) == "level with"
    assert formats.gap(-0.0006).replace("\u00a0", " ") == "0.1 points below"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(950, "950"), (26_000, "26.0 k"), (5_312_640, "5.31 M"), (999_999, "1.00 M")],
)
def test_compact_numbers_have_three_digits(value: float, shown: str) -> None:
    assert formats.compact(value).replace("\u00a0", " ") == shown


def test_a_share_rounded_above_one_is_one(tmp_path: Path) -> None:
    results = finetune_results("random", 1.0 + 1e-7)
    run = put(tmp_path / "run", FINETUNE_LINES, results)
    text = Page(report(tmp_path / "out", finetunes=[run])[0]).text
    assert "Without pretraining ends at 100.0 %" in text
