"""A run as one page: `write_report` turns run directories into HTML and PNG files."""

import dataclasses
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from bert_jax.report import finetuning, formats, masks, pretraining
from bert_jax.report.charts import Chart
from bert_jax.report.confusion import confusion_chart
from bert_jax.report.finetuning import Score
from bert_jax.report.inputs import Record, Run, load_baselines, load_run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """One of the key figures at the top."""

    value: str
    label: str
    note: str = ""


def write_report(
    output: Path,
    *,
    pretrain: Path | None,
    finetunes: Sequence[Path],
    baselines: Path | None,
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
        title: heading of the page.

    Returns:
        The files written, the page first.

    Raises:
        FileNotFoundError: an input or one of its files is missing.
        ValueError: an input holds something else than expected, or none was given.
    """
    if pretrain is None and not finetunes:
        raise ValueError(
            f"A report needs a run, but pretrain=None and finetunes={list(finetunes)}; "
            "give the directory of a pretraining or a fine-tuning run."
        )
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise ValueError(
            f"output={output} is a file; expected a directory. Give another path."
        )
    pretrained = None if pretrain is None else load_run(pretrain, "pretrain")
    tuned = [load_run(path, "finetune") for path in finetunes]
    compared = None if baselines is None else load_baselines(baselines)
    view, charts = _view(pretrained, tuned, compared)
    html = _template().render(title=title, **view)
    output.mkdir(parents=True, exist_ok=True)
    drawings = [_write(output / f"{chart.name}.png", chart.png) for chart in charts]
    return [_write(output / "report.html", html.encode("utf-8")), *drawings]


def _view(
    pretrained: Run | None, tuned: list[Run], compared: Record | None
) -> tuple[dict[str, Any], list[Chart]]:
    """Everything the template shows, and the charts among it."""
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
        "lead": _lead(pretrained, tuned),
        "figures": _figures(pretrained, tuned, rows),
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
        "settings": _settings(pretrained.config if pretrained else {}),
        "tuning_names": names,
        "tuning_settings": _side_by_side([run.config for run in tuned])
        if len(tuned) > 1
        else [],
        "only_tuning_settings": _settings(tuned[0].config) if len(tuned) == 1 else [],
        "corpus": pretraining.corpus_facts(pretrained) if pretrained else [],
        "task": _task_facts(tuned, names, compared),
        "hardware": pretraining.hardware_facts(pretrained) if pretrained else [],
    }
    drawn = [*curves, *([comparison] if comparison else []), *tuning, *confusions]
    return view, drawn


def _lead(pretrained: Run | None, tuned: list[Run]) -> str:
    """One or two sentences on what was run, as far as the inputs say it."""
    sentences = []
    if pretrained:
        results = pretrained.results
        layers = Record(pretrained.config, "config.json").count("model", "num_layers")
        size = results.count("num_parameters")
        what = f"{layers}-layer encoder" if layers is not None else "encoder"
        if size is not None:
            what += f" of {formats.compact(size)} parameters"
        article = "An" if what[0] in "e8" else "A"
        sentence = f"{article} {what}, pretrained"
        if (step := results.count("step")) is not None:
            sentence += f" for {formats.plural(step, 'step')}"
        if (documents := results.count("num_documents")) is not None:
            sentence += f" on {formats.plural(documents, 'document')}"
            if (tokens := results.count("num_tokens")) is not None:
                sentence += f" ({formats.compact(tokens)} tokens)"
        if (seconds := results.number("elapsed_secs")) is not None:
            sentence += f" in {formats.duration(seconds)}"
        sentences.append(f"{sentence}.")
    if tuned:
        results = tuned[0].results
        sentence = f"{formats.plural(len(tuned), 'fine-tuning run')}"
        classes = len(results.items("labels") or ())
        if classes:
            sentence += f" on {classes} {'class' if classes == 1 else 'classes'}"
        if (number := results.count("num_train")) is not None:
            sentence += f" with {formats.plural(number, 'training text')}"
        sentences.append(f"{sentence}.")
    return " ".join(sentences)


def _figures(
    pretrained: Run | None, tuned: list[Run], rows: Sequence[Score]
) -> list[Figure]:
    """Five at most: what the model learned, then what that is worth."""
    figures = []
    if pretrained:
        found = pretrained.results
        entropy = found.number("unigram_entropy")
        perplexity = found.number("eval", "mlm_perplexity")
        majority = found.rate("eval", "nsp_majority")
        figures = [
            Figure(
                value=formats.decimal(found.number("eval", "mlm_loss")),
                label="masked-token loss, nats",
                note=f"unigram entropy {formats.decimal(entropy)}",
            ),
            Figure(
                value=formats.percent(found.rate("eval", "mlm_accuracy")),
                label="hidden tokens guessed right",
                note=f"perplexity {formats.decimal(perplexity, 1)}",
            ),
            Figure(
                value=formats.percent(found.rate("eval", "nsp_accuracy")),
                label="next sentences told apart",
                note=f"majority class {formats.percent(majority)}",
            ),
        ]
    top = {row.color: row for row in sorted(rows, key=lambda r: r.accuracy or 0.0)}
    for color, label in (
        ("accent", "accuracy with pretraining"),
        ("other", "accuracy without pretraining"),
        ("plain", "accuracy of the best baseline"),
    ):
        if color in top:
            row = top[color]
            figures.append(
                Figure(
                    value=formats.percent(row.accuracy),
                    label=label,
                    note=f"macro-F1 {formats.percent(row.macro_f1)}",
                )
            )
    if tuned and not pretrained:
        found = tuned[0].results
        figures += [
            Figure(
                value=formats.decimal(found.number("eval", "loss")),
                label="validation loss, nats",
            ),
            Figure(
                value=formats.count(found.count("num_train")),
                label="training texts",
                note=f"{formats.count(found.count('num_validation'))} to validate",
            ),
            Figure(
                value=formats.duration(found.number("elapsed_secs")),
                label="fine-tuning time",
            ),
        ]
    if pretrained and len(figures) < 5:
        size = pretrained.results.count("num_parameters")
        seconds = pretrained.results.number("elapsed_secs")
        figures += [
            Figure(value=formats.compact(size), label="parameters"),
            Figure(value=formats.duration(seconds), label="pretraining time"),
        ]
    return figures[:5]


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
