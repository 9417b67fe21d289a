"""Runs and their text as one page: `write_report` makes HTML and PNG files of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bert_jax.data.atomic_file import write_atomically
from bert_jax.data.prepared.dataset import open_dataset
from bert_jax.data.prepared.summary import summarize
from bert_jax.html_templates import template
from bert_jax.report import corpus, formats, pretraining, provenance
from bert_jax.report.cards import Part, Section, Table
from bert_jax.report.charts import Chart
from bert_jax.report.comparison import compare
from bert_jax.report.runs import Run, read_reference, read_run
from bert_jax.train.runs.results_file import load_results

# Parts of `goodput` in results.json.
_TIMES = {
    "train_secs": "Training",
    "input_wait_secs": "Batches",
    "compile_secs": "Compiling",
    "evaluate_secs": "Evaluating",
    "checkpoint_secs": "Saving",
    "start_up_secs": "Starting",
    "lost_secs": "Lost",
}


def write_report(
    output: Path,
    *,
    pretrain: Path | None = None,
    finetunes: Sequence[Path] = (),
    baselines: Path | None = None,
    dataset: Path | None = None,
    references: Sequence[Path] = (),
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
        references: what `read_reference` takes, to compare the curves of `pretrain` with.
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
    if references and pretrain is None:
        raise ValueError(
            f"--reference {references[0]} would be ignored: its curves are drawn beside "
            "those of a run of pretraining. Add --pretrain RUN, or leave it out."
        )
    if output.exists() and not output.is_dir():
        raise ValueError(
            f"output={output} is a file; expected a directory. Give another path."
        )
    pretrained = None if pretrain is None else read_run(pretrain, "pretrain")
    if len({path.resolve() for path in finetunes}) < len(finetunes):
        names = " ".join(map(str, finetunes))
        raise ValueError(f"--finetune {names} names a run twice; name each once.")
    tuned = [read_run(path, "finetune") for path in finetunes]
    known = None if baselines is None else _read_baselines(baselines)
    parts = compare(tuned, known, pretrained)
    texts: list[Any] = []
    if pretrained is not None:
        others = [read_reference(path) for path in references]
        parts.insert(0, pretraining.part(pretrained, others))
        texts = pretrained.results.get("corpora", [])
    foreign = []
    if dataset is not None:
        manifest = open_dataset(dataset).manifest
        texts = [summarize(manifest)]
        if pretrained and pretrained.info.data.get("sha256") != manifest["sha256"]:
            foreign.append(f"{pretrain} was not trained on the text shown here.")
    parts += [corpus.part(text, foreign) for text in texts]
    settings = [table for part in parts for table in part.settings]
    sections = [
        *(section for part in parts for section in part.sections),
        _provenance(parts, pretrained, texts),
        Section(title="Settings", cards=settings),
    ]
    page = template("bert_jax.report", "page.html.jinja")
    html = page.render(title=title, parts=parts, sections=sections)
    output.mkdir(parents=True, exist_ok=True)
    cards = [card for section in sections for card in section.cards]
    files = {"report.html": html.encode("utf-8")}
    files |= {f"{card.name}.png": card.png for card in cards if isinstance(card, Chart)}
    for name, content in files.items():
        write_atomically(output / name, content)
    return [output / name for name in files]


def _read_baselines(directory: Path) -> dict[str, Any]:
    results = load_results(directory) or {}
    if results.get("kind") != "baselines":
        raise ValueError(
            f"{directory} holds no results of baselines; expected a directory that "
            "`bert-jax baselines` has written."
        )
    return results


def _provenance(
    parts: Sequence[Part], pretrain: Run | None, texts: Sequence[Any]
) -> Section:
    """Where text, weights, labels and numbers came from, and where the time went."""
    origins = [origin for text in texts for origin in corpus.origins(text)]
    times = []
    for part in parts:
        for run_name, run in part.runs.items():
            name = f"{part.subject.split(',')[0]}: {run_name}"
            origins.append((name, *provenance.origin(run, pretrain)))
            if spent := run.results.get("goodput"):
                wall = max(spent["wall_secs"], 1e-9)
                cells = [
                    f"{formats.duration(spent[x])}\n{spent[x] / wall:.1%}"
                    for x in _TIMES
                ]
                times.append([name, formats.duration(wall), *cells])
    known = Table(
        title="Text, weights, labels and machines",
        columns=("", "From", "sha256"),
        rows=origins,
        cells="texts",
    )
    goodput = Table(
        title="Where the time went",
        columns=["Run", "Since it began", *_TIMES.values()],
        rows=times,
        caption=(
            "In hours, minutes and seconds. The share of the training steps is the "
            "goodput of a run."
        ),
    )
    cards = [table for table in (known, goodput) if table.rows]
    return Section(title="Where it came from", cards=cards)
