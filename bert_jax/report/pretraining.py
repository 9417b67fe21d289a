"""What the page says about a pretraining run: charts, captions and facts."""

import math
import statistics
from collections.abc import Callable

from bert_jax.report import charts, formats
from bert_jax.report.charts import Chart, Line
from bert_jax.report.inputs import Run, Series, series


def pretraining_charts(run: Run) -> list[Chart]:
    """The curves of a run, in reading order; those without a value are left out."""
    made = (
        _mlm_loss(run),
        _mlm_accuracy(run),
        _nsp_accuracy(run),
        _learning_rate(run),
        _throughput(run),
        _grad_norm(run),
    )
    return [chart for chart in made if chart is not None]


def missing_charts(drawn: list[Chart]) -> list[str]:
    """Titles of the charts that the metrics held no value for."""
    titles = {
        "pretrain-mlm-loss": "masked-token loss",
        "pretrain-mlm-accuracy": "masked-token accuracy",
        "pretrain-nsp-accuracy": "next-sentence accuracy",
        "pretrain-learning-rate": "learning rate",
        "pretrain-throughput": "throughput",
        "pretrain-grad-norm": "gradient norm",
    }
    names = {chart.name for chart in drawn}
    return [title for name, title in titles.items() if name not in names]


def evaluation_facts(run: Run) -> list[tuple[str, str]]:
    """The final evaluation, every number of it."""
    found = run.results
    return [
        ("MLM loss", formats.decimal(found.number("eval", "mlm_loss"), 3)),
        ("MLM perplexity", formats.decimal(found.number("eval", "mlm_perplexity"), 1)),
        ("MLM accuracy", formats.percent(found.rate("eval", "mlm_accuracy"))),
        ("NSP loss", formats.decimal(found.number("eval", "nsp_loss"), 3)),
        ("NSP accuracy", formats.percent(found.rate("eval", "nsp_accuracy"))),
        ("NSP majority class", formats.percent(found.rate("eval", "nsp_majority"))),
    ]


def hardware_facts(run: Run) -> list[tuple[str, str]]:
    """The machine, the time and the versions of what ran."""
    results = run.results
    versions = results.table("versions")
    names = sorted(versions.values) if versions else []
    return [
        ("Device", results.text("device") or formats.NOT_MEASURED),
        ("Pretraining time", formats.duration(results.number("elapsed_secs"))),
        *((name, formats.setting(versions.values[name])) for name in names if versions),
    ]


# Of goodput in results.json; what is 0 is not shown.
_TIMES = {
    "train": "Training steps",
    "input_wait": "Waiting for batches",
    "compile": "Compiling",
    "evaluate": "Evaluating",
    "checkpoint": "Saving checkpoints",
    "start_up": "Starting up",
    "lost": "Lost to interruptions",
}


def time_facts(run: Run) -> list[tuple[str, str]]:
    """Where the wall time went since the run began, as far as it was measured."""
    spent = run.results.table("goodput")
    wall = spent and spent.number("wall_secs")
    if not spent or not wall:
        return []
    facts = [
        ("Since the run began", formats.duration(wall)),
        ("Goodput", formats.percent(spent.rate("share"))),
    ]
    for name, label in _TIMES.items():
        seconds = spent.number(f"{name}_secs")
        if seconds:
            share = formats.percent(seconds / wall)
            facts.append((label, f"{formats.duration(seconds)} ({share})"))
    return facts


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _both(run: Run, name: str, *, rate: bool = False) -> tuple[list[Line], Series]:
    """A thin training line and the evaluation's dots, as far as they exist."""
    train = series(run, "train", name, rate=rate)
    evals = series(run, "eval", name, rate=rate)
    lines = [
        Line(label="train", data=train, color="accent"),
        Line(label="validation", data=evals, color="accent", dots=True),
    ]
    return [line for line in lines if line.data.steps], evals


def _course(evals: Series, what: str, show: Callable[[float], str]) -> str:
    """From the first evaluation to the last."""
    if not evals.steps:
        return f"{what} on the validation split was not measured"
    last = f"{show(evals.values[-1])} at step {evals.steps[-1]:,}"
    if len(evals.steps) == 1:
        return f"{what} on the validation split is {last}"
    first, final = show(evals.values[0]), evals.values[-1]
    if first == show(final):
        return f"{what} on the validation split starts and ends at {last}"
    verb = "falls" if final < evals.values[0] else "rises"
    return (
        f"{what} on the validation split {verb} from {first} at step "
        f"{evals.steps[0]:,} to {last}"
    )


def _notes(lines: list[Line]) -> str:
    """What the drawing leaves out, where it does."""
    notes = ""
    width = max((charts.bin_width(line.data) for line in lines), default=1)
    if width > 1:
        notes += f" Each point of the training line is the mean of {width} log lines."
    lost = sum(line.data.num_not_finite for line in lines)
    if lost:
        notes += f" {formats.plural(lost, 'value')} not finite and not drawn."
    return notes


def _mlm_loss(run: Run) -> Chart | None:
    lines, evals = _both(run, "mlm_loss")
    if not lines:
        return None
    entropy = _finite(run.results.number("unigram_entropy"))
    caption = _course(evals, "Loss", lambda v: f"{v:.2f} nats")
    reference = None
    if entropy is not None:
        reference = (entropy, f"unigram entropy {entropy:.2f}")
        if evals.values:
            gap = evals.values[-1] - entropy
            side = f"{abs(gap):.2f} {'below' if gap < 0 else 'above'}"
            caption += (
                f", {side if abs(gap) >= 0.005 else 'level with'} the entropy of the token frequencies, which "
                "is what guessing without context costs"
            )
    return charts.draw_curves(
        "pretrain-mlm-loss",
        "Masked-token loss (nats)",
        f"{caption}.{_notes(lines)}",
        lines,
        tick=lambda v: f"{v:g}",
        reference=reference,
    )


def _mlm_accuracy(run: Run) -> Chart | None:
    lines, evals = _both(run, "mlm_accuracy", rate=True)
    if not lines:
        return None
    caption = _course(
        evals, "The share of hidden tokens guessed right", formats.percent
    )
    return charts.draw_curves(
        "pretrain-mlm-accuracy",
        "Masked-token accuracy",
        f"{caption}.{_notes(lines)}",
        lines,
        tick=charts.percent_tick,
        from_zero=True,
    )


def _nsp_accuracy(run: Run) -> Chart | None:
    lines, evals = _both(run, "nsp_accuracy", rate=True)
    if not lines:
        return None
    majority = _finite(run.results.rate("eval", "nsp_majority"))
    caption = _course(evals, "Next-sentence accuracy", formats.percent)
    reference = None
    if majority is not None:
        reference = (majority, f"majority class {formats.percent(majority)}")
        if evals.values:
            gap = formats.gap(evals.values[-1] - majority)
            caption += f", {gap} always naming the larger class"
    return charts.draw_curves(
        "pretrain-nsp-accuracy",
        "Next-sentence accuracy",
        f"{caption}.{_notes(lines)}",
        lines,
        tick=charts.percent_tick,
        reference=reference,
    )


def _only_train(run: Run, name: str) -> list[Line]:
    data = series(run, "train", name)
    return [Line(label="", data=data, color="accent")] if data.steps else []


def _learning_rate(run: Run) -> Chart | None:
    lines = _only_train(run, "learning_rate")
    if not lines:
        return None
    data = lines[0].data
    top = max(data.values)
    caption = (
        f"The rate peaks at {formats.scientific(top)} at step "
        f"{data.steps[data.values.index(top)]:,} and is "
        f"{formats.scientific(data.values[-1])} at step {data.steps[-1]:,}"
    )
    return charts.draw_curves(
        "pretrain-learning-rate",
        "Learning rate",
        f"{caption}.{_notes(lines)}",
        lines,
        tick=formats.scientific,
        from_zero=True,
    )


def _throughput(run: Run) -> Chart | None:
    lines = _only_train(run, "tokens_per_sec")
    if not lines:
        return None
    values = lines[0].data.values
    caption = (
        f"The median is {formats.compact(statistics.median(values))} tokens a second, "
        f"between {formats.compact(min(values))} and {formats.compact(max(values))}"
    )
    rows = series(run, "train", "sequences_per_sec").values
    if rows:
        caption += (
            f"; in sequences, {formats.compact(statistics.median(rows))} a second"
        )
    mfu = series(run, "train", "mfu", rate=True).values
    if mfu:
        caption += (
            f". Model FLOP/s utilisation is {formats.percent(statistics.median(mfu))} "
            "of the devices’ peak"
        )
    return charts.draw_curves(
        "pretrain-throughput",
        "Throughput (tokens a second)",
        f"{caption}.{_notes(lines)}",
        lines,
        tick=formats.compact_tick,
        from_zero=True,
    )


def _grad_norm(run: Run) -> Chart | None:
    lines = _only_train(run, "grad_norm")
    if not lines:
        return None
    data = lines[0].data
    top = max(data.values)
    caption = (
        f"The median is {statistics.median(data.values):.2f}, the largest logged value "
        f"{top:.2f} at step {data.steps[data.values.index(top)]:,}"
    )
    return charts.draw_curves(
        "pretrain-grad-norm",
        "Gradient norm",
        f"{caption}.{_notes(lines)}",
        lines,
        tick=lambda v: f"{v:g}",
        from_zero=True,
    )
