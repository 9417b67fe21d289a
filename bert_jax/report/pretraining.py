"""What the page says about a pretraining run."""

from collections.abc import Iterator, Sequence
from typing import Any

from bert_jax.config import PretrainConfig
from bert_jax.report import charts, formats, masks
from bert_jax.report.cards import Figure, Part, Section, Table, settings_table
from bert_jax.report.runs import Log, Run, Score
from bert_jax.train.tasks.task import Metric

_COURSE = (
    Metric("learning_rate", "learning rate", ".2g"),
    Metric("tokens_per_sec", "throughput, tokens a second", ",.0f"),
    Metric("grad_norm", "gradient norm", ".2f"),
)


def part(run: Run, references: Sequence[Log] = ()) -> Part:
    """The newest evaluation, the curves, and what the model puts in the place of masks.

    What an unfinished run cannot say yet is left out.

    Args:
        run: of pretraining.
        references: other runs, whose curves are drawn beside those of this one.
    """
    assert isinstance(run.cfg, PretrainConfig)
    subject = f"Pretraining, {run.path}: {run.info.model.num_layers} layers"
    if run.info.encoder and not run.lines:
        subject += f", taken over from {run.info.encoder['run']}"
    else:
        subject += f", step {run.step:,} of {run.cfg.all_steps:,}"
        subject += "" if run.results else " so far"
    judged = ""
    if not all(phase.masking.is_judged_alike for phase in run.cfg.phases):
        judged = f" (held out: {run.cfg.masking.eval_rate:.0%} masked)"
    metrics = [
        Metric("mlm_loss", f"masked-token loss, nats{judged}", ".2f"),
        Metric("mlm_accuracy", "hidden tokens guessed right", ".1%"),
    ]
    if run.cfg.data.has_labels:
        pairs = run.cfg.data.pairs.replace("_", "-")
        metrics.append(Metric("nsp_accuracy", f"{pairs} accuracy", ".1%"))
    scores = [
        Score("held out", "", "accent", run.scores, run=run),
        *(
            Score(f"reference {log.path.stem}", "", "other", {}, reference=log)
            for log in references
        ),
        *_guesses(run),
    ]
    drawn = [
        charts.curves(f"pretrain-{metric.name.replace('_', '-')}", metric, scores)
        for metric in (*metrics, *_COURSE)
    ]
    cards: list[Any] = [chart for chart in drawn if chart is not None]
    cards += _beside_seeds(run, references, metrics)
    warnings = [] if cards else ["The run has logged too little for a curve yet."]
    sections = [Section(title="How pretraining went", cards=cards, warnings=warnings)]
    if stored := run.results.get("mask_examples"):
        card = masks.Examples([masks.pieces(example["tokens"]) for example in stored])
        sections.append(Section(title="What it puts in the gaps", cards=[card]))
    return Part(
        subject=subject,
        figures=_figures(run, metrics),
        sections=sections,
        settings=[settings_table("Pretraining", {"": run.config})],
        runs={"Encoder": run},
    )


def _figures(run: Run, metrics: list[Metric]) -> list[Figure]:
    figures = []
    for metric in metrics:
        if metric.name in run.scores:
            notes = [
                f"{guess.name} {guess.values[metric.name]:{metric.form}}"
                for guess in _guesses(run)
                if metric.name in guess.values
            ]
            value = f"{run.scores[metric.name]:{metric.form}}"
            figures.append(Figure(value, metric.title, " ".join(notes)))
    if run.results:
        number = formats.compact(run.results["num_parameters"])
        figures.append(Figure(number, "parameters"))
    if run.elapsed_secs is not None:
        time = formats.duration(run.elapsed_secs)
        figures.append(Figure(time, "hours, minutes and seconds of pretraining"))
    return figures


def _beside_seeds(
    run: Run, references: Sequence[Log], metrics: Sequence[Metric]
) -> list[Table]:
    """Where the run's held-out figures lie in the ranges that the references know."""
    tables = []
    for log in references:
        rows = [row for metric in metrics for row in _rows_beside(run, log, metric)]
        if rows:
            tables.append(
                Table(
                    title=f"Beside the seeds of {log.path.stem}",
                    columns=["held out", "this run", "range of the seeds", "it lies"],
                    rows=rows,
                    caption="The range is what the same settings gave with other seeds. On "
                    "other text all figures differ.",
                )
            )
    return tables


def _rows_beside(run: Run, log: Log, metric: Metric) -> Iterator[list[str]]:
    """A row for each step at which both were judged."""
    ours, form = dict(zip(*run.series("eval", metric.name), strict=True)), metric.form
    for step, low, high in zip(*log.band(metric.name), strict=True):
        if step not in ours:
            continue
        value = ours[step]
        place = "below" if value < low else "above" if value > high else "within"
        yield [
            f"{metric.title}, step {step:,}",
            f"{value:{form}}",
            f"{low:{form}} to {high:{form}}",
            place,
        ]


def _guesses(run: Run) -> list[Score]:
    """What guessing without a look at the text achieves."""
    known: dict[str, dict[str, Any]] = {
        "unigram entropy": {"mlm_loss": run.results.get("unigram_entropy")},
        "larger class": {"nsp_accuracy": run.scores.get("nsp_majority")},
    }
    return [
        Score(name, "", "ink", values)
        for name, values in known.items()
        if None not in values.values()
    ]
