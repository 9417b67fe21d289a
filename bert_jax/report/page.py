"""Runs and their text as one page: `write_report` makes HTML and PNG files of them."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from bert_jax.report import corpus, finetuning, formats, headline, masks, pretraining
from bert_jax.report.charts import Chart
from bert_jax.report.confusion import confusion_chart
from bert_jax.report.dataset import load_dataset
from bert_jax.report.inputs import Record, Run, load_baselines, load_run


def write_report(
    output: Path,
    *,
    pretrain: Path | None,
    finetunes: Sequence[Path],
    baselines: Path | None,
    dataset: Path | None,
    title: str,
) -> list[Path]:
    """Writes `report.html` and one PNG for each chart.

    The page is complete in itself: drawings are inline, nothing is loaded and nothing
    runs. The same inputs give the same bytes.

    Args:
        output: directory to write to; made where it does not exist.
        pretrain: run directory of `pretrain`.
        finetunes: run directories of `finetune`.
        baselines: directory with the `results.json` of the baselines, or that file.
        dataset: directory of `prepare`; needed only to show a dataset without its run.
        title: heading of the page.

    Returns:
        The files written, the page first.

    Raises:
        FileNotFoundError: an input or one of its files is missing.
        ValueError: an input holds something else than expected, or none was given.
    """
    if pretrain is None and not finetunes and dataset is None:
        raise ValueError(
            "A report needs a run or a dataset, but pretrain=None, "
            f"finetunes={list(finetunes)} and dataset=None; give the directory of a "
            "pretraining or fine-tuning run, or of a prepared dataset."
        )
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise ValueError(
            f"output={output} is a file; expected a directory. Give another path."
        )
    pretrained = None if pretrain is None else load_run(pretrain, "pretrain")
    tuned = [load_run(path, "finetune") for path in finetunes]
    finetuning.check_classifiers(tuned)
    compared = None if baselines is None else load_baselines(baselines)
    prepared = None if dataset is None else load_dataset(dataset)
    view, charts = _view(pretrained, tuned, compared, prepared)
    html = _template().render(title=title, **view)
    output.mkdir(parents=True, exist_ok=True)
    drawings = [_write(output / f"{chart.name}.png", chart.png) for chart in charts]
    return [_write(output / "report.html", html.encode("utf-8")), *drawings]


def _view(
    pretrained: Run | None,
    tuned: list[Run],
    compared: Record | None,
    prepared: Record | None,
) -> tuple[dict[str, Any], list[Chart]]:
    """Everything the template shows, and the charts among it."""
    text = prepared
    if text is None and pretrained is not None:
        text = corpus.run_corpus(pretrained)
    lengths = corpus.corpus_charts(text) if text else []
    text_view = _text(text, pretrained) if text else None
    rows = finetuning.scores(tuned, compared)
    names = finetuning.run_names(tuned)
    curves = pretraining.pretraining_charts(pretrained) if pretrained else []
    comparison = finetuning.comparison_chart(rows)
    tuning = finetuning.curve_charts(tuned)
    matrices = [
        confusion_chart(
            run, f"confusion-{i}", f"Confusion, {formats.inner(names[i - 1])}"
        )
        for i, run in enumerate(tuned, start=1)
    ]
    confusions = [chart for chart in matrices if chart is not None]
    examples = masks.mask_examples(pretrained) if pretrained else []
    view = {
        "lead": headline.lead(pretrained, tuned, prepared),
        "figures": headline.figures(pretrained, tuned, rows, prepared),
        "pretrained": pretrained,
        "curves": curves,
        "missing": pretraining.missing_charts(curves) if pretrained else [],
        "evaluation": pretraining.evaluation_facts(pretrained) if pretrained else [],
        "tuned": tuned,
        "comparison": comparison,
        "rows": [
            {
                "name": row.name,
                "accuracy": formats.percent(row.accuracy),
                "macro_f1": formats.percent(row.macro_f1),
                "texts": formats.count(row.num_validation),
            }
            for row in rows
        ],
        "notes": finetuning.comparison_notes(rows, tuned),
        "tuning": tuning,
        "confusions": confusions,
        "examples": examples,
        "examples_caption": masks.caption(examples),
        "provenance": finetuning.provenance(tuned, pretrained),
        "text_settings": _text_settings(text) if text else [],
        "settings": _settings(pretrained.config if pretrained else {}),
        "tuning_names": names,
        "tuning_settings": _side_by_side([run.config for run in tuned])
        if len(tuned) > 1
        else [],
        "only_tuning_settings": _settings(tuned[0].config) if len(tuned) == 1 else [],
        "text": text_view,
        "lengths": lengths,
        "task": _task_facts(tuned, names, compared),
        "time": pretraining.time_facts(pretrained) if pretrained else [],
        "hardware": pretraining.hardware_facts(pretrained) if pretrained else [],
    }
    drawn = [*curves, *([comparison] if comparison else []), *tuning, *confusions]
    return view, [*drawn, *lengths]


def _text(text: Record, pretrained: Run | None) -> dict[str, Any]:
    """What the template shows of the text, its charts and settings aside."""
    return {
        "warnings": corpus.warnings(text, pretrained),
        "verdict": corpus.verdict(text),
        "missing": corpus.missing_parts(text),
        "splits": corpus.split_rows(text),
        "repeated": corpus.repeated_lines(text),
        "repeated_caption": corpus.repeated_lines_caption(text),
        "origins": corpus.origins(text),
        "facts": (
            ("Corpus", corpus.text_facts(text)),
            ("Copies", corpus.copy_facts(text)),
            ("Reading", corpus.reading_facts(text)),
        ),
    }


def _text_settings(text: Record) -> list[tuple[str, list[tuple[str, str]]]]:
    options = text.table("options")
    return _settings(dict(options.values)) if options else []


def _settings(config: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Settings by section; those outside of any section come first."""
    sections: dict[str, list[tuple[str, str]]] = {"run": []}
    for name, value in formats.flatten(config).items():
        section, dot, rest = name.partition(".")
        key, field = (section, rest) if dot else ("run", name)
        sections.setdefault(key, []).append((field, value))
    return [(name, fields) for name, fields in sections.items() if fields]


def _side_by_side(configs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each setting of any config; `same` where all of them agree."""
    flat = [formats.flatten(config) for config in configs]
    names = list(dict.fromkeys(name for config in flat for name in config))
    rows = []
    for name in names:
        values = [config.get(name, "not set") for config in flat]
        rows.append({"name": name, "values": values, "same": len(set(values)) == 1})
    return rows


def _task_facts(
    tuned: list[Run], names: list[str], compared: Record | None
) -> list[tuple[str, str]]:
    """Sizes of the labelled data and how long each classifier took."""
    facts = []
    if tuned:
        results = tuned[0].results
        facts = [
            ("Labels", formats.count(len(results.items("labels") or ()) or None)),
            ("Training texts", formats.count(results.count("num_train"))),
            ("Validation texts", formats.count(results.count("num_validation"))),
        ]
    for name, run in zip(names, tuned, strict=True):
        seconds = formats.duration(run.results.number("elapsed_secs"))
        facts.append((f"Time, {formats.inner(name)}", seconds))
    if compared:
        facts.append(("Time, baselines", formats.duration(compared.number("seconds"))))
    return facts


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bert_jax.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html.jinja")


def _write(path: Path, content: bytes) -> Path:
    """Writes beside the file and moves it into place, so that no half file is seen."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).chmod(0o644)  # mkstemp's 0600 would hide the page from a web server
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path
