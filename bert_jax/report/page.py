"""Runs and their text as one page: `write_report` makes HTML and PNG files of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from bert_jax.data.atomic_file import write_atomically
from bert_jax.data.prepared.dataset import open_dataset
from bert_jax.data.prepared.summary import summarize
from bert_jax.report import corpus, finetuning, formats, pretraining, provenance
from bert_jax.report.charts import Chart
from bert_jax.report.comparison import Comparison, compare
from bert_jax.report.runs import Run, read_run
from bert_jax.report.sections import (
    Facts,
    Headline,
    Origins,
    Section,
    settings_card,
    settings_table,
)
from bert_jax.train.run import load_results


def write_report(
    output: Path,
    *,
    pretrain: Path | None = None,
    finetunes: Sequence[Path] = (),
    baselines: Path | None = None,
    dataset: Path | None = None,
    title: str,
) -> list[Path]:
    """Writes `report.html` and one PNG for each chart.

    The page is complete in itself: drawings are inline, nothing is loaded and nothing
    runs. The same inputs give the same bytes.

    Args:
        output: directory to write to; made where it does not exist.
        pretrain: run directory of `pretrain`; the run may still be on its way.
        finetunes: run directories of `finetune`, of any tasks.
        baselines: directory that `baselines` has written.
        dataset: directory of `prepare`; needed only to show a dataset without its run.
        title: heading of the page.

    Returns:
        The files written, the page first.

    Raises:
        FileNotFoundError: an input is missing.
        ValueError: an input is of another kind or format than expected, or none was
            given.
    """
    if pretrain is None and not finetunes and baselines is None and dataset is None:
        raise ValueError(
            "There is nothing to report on. Pass a run with --pretrain or --finetune, "
            "or a prepared dataset with --dataset."
        )
    if output.exists() and not output.is_dir():
        raise ValueError(
            f"output={output} is a file; expected a directory. Give another path."
        )
    pretrained = None if pretrain is None else read_run(pretrain, "pretrain")
    tuned = [read_run(path, "finetune") for path in finetunes]
    known = None if baselines is None else _read_baselines(baselines)
    comparisons = compare(tuned, known, pretrained)
    manifest = None if dataset is None else open_dataset(dataset).manifest
    text = None if pretrained is None else pretrained.results.get("corpus")
    foreign = []
    if manifest is not None:
        text = summarize(manifest)
        if pretrained and pretrained.info.data.get("sha256") != manifest["sha256"]:
            foreign.append(f"{pretrain} was not trained on the text shown here.")
    sections = [
        *(pretraining.sections(pretrained) if pretrained else ()),
        *(finetuning.section(comparison) for comparison in comparisons),
        *([corpus.section(text, foreign)] if text else ()),
        _provenance(pretrained, comparisons, text),
        _settings(pretrained, comparisons, text),
    ]
    leads = [
        pretraining.lead(pretrained) if pretrained else "",
        corpus.lead(text) if text and not pretrained else "",
        _tuning_lead(comparisons),
    ]
    html = _template().render(
        title=title,
        lead=" ".join(filter(None, leads)),
        headlines=_headlines(pretrained, comparisons, text),
        sections=sections,
        absent=formats.NOT_MEASURED,
    )
    output.mkdir(parents=True, exist_ok=True)
    cards = [card for section in sections for card in section.cards]
    drawings = [
        _write(output / f"{card.name}.png", card.png)
        for card in cards
        if isinstance(card, Chart)
    ]
    return [_write(output / "report.html", html.encode("utf-8")), *drawings]


def _tuning_lead(comparisons: Sequence[Comparison]) -> str:
    number = sum(len(comparison.runs) for comparison in comparisons)
    if not number:
        return ""
    tasks = list(dict.fromkeys(comparison.task.name for comparison in comparisons))
    runs = formats.plural(number, "fine-tuning run")
    return f"{runs} for {formats.listed(tasks)}."


def _read_baselines(directory: Path) -> dict[str, Any]:
    results = load_results(directory)
    if results is None:
        raise FileNotFoundError(
            f"{directory} holds no results.json; expected a directory that "
            "`bert-jax baselines` has written."
        )
    if results.get("kind") != "baselines":
        raise ValueError(
            f"{directory} holds the results of a {results.get('kind')} run; expected "
            "a directory that `bert-jax baselines` has written."
        )
    return results


def _headlines(
    pretrained: Run | None, comparisons: Sequence[Comparison], text: Any
) -> list[Headline]:
    """One for each subject, so that no number stands under another run than its own."""
    made = [
        *([pretraining.headline(pretrained)] if pretrained else ()),
        *map(finetuning.headline, comparisons),
    ]
    if text and not made:
        made = [corpus.headline(text)]
    return [headline for headline in made if headline.figures]


def _provenance(
    pretrained: Run | None, comparisons: Sequence[Comparison], text: Any
) -> Section:
    """Where everything came from, and every number that has no chart."""
    tuned = [
        (f"{comparison.subject}: {name}" if len(comparisons) > 1 else name, run)
        for comparison in comparisons
        for name, run in zip(comparison.names(), comparison.runs, strict=True)
    ]
    runs = [("Pretraining", pretrained), *tuned] if pretrained else tuned
    origins = provenance.origins(tuned, pretrained)
    origins = corpus.origins(text) + origins if text else origins
    lists = [
        *(corpus.facts(text) if text else ()),
        *((f"Labels, {x.subject}", finetuning.data_facts(x)) for x in comparisons),
        *((f"Machine, {name}", provenance.hardware_facts(run)) for name, run in runs),
    ]
    cards = [
        Origins(rows=origins) if origins else None,
        provenance.time_table(runs),
        Facts(lists=[entry for entry in lists if entry[1]]),
    ]
    return Section(
        title="Where it came from", cards=[card for card in cards if card is not None]
    )


def _settings(
    pretrained: Run | None, comparisons: Sequence[Comparison], text: Any
) -> Section:
    cards: list[Any] = []
    if text:
        cards.append(settings_card(text["options"], "Preparation of the text"))
    if pretrained:
        cards.append(settings_card(pretrained.config, "Pretraining"))
    for comparison in comparisons:
        configs = [run.config for run in comparison.runs]
        if len(configs) == 1:
            cards.append(settings_card(configs[0], comparison.title))
        elif configs:
            names = comparison.names()
            cards.append(settings_table(configs, names, comparison.title))
    return Section(title="Settings", cards=cards)


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
    write_atomically(path, content)
    return path
