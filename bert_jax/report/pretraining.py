"""What the page says about a pretraining run."""

from bert_jax.config import PretrainConfig
from bert_jax.report import formats, masks
from bert_jax.report.charts import Chart
from bert_jax.report.curves import Curve, Reference, Shown, curve_chart
from bert_jax.report.runs import Run
from bert_jax.report.sections import Figure, Headline, Section

# What the sentence pairs of `DataConfig.pairs` are learnt for.
_SENTENCE_TASKS = {"next_sentence": "next-sentence", "sentence_order": "sentence-order"}


def lead(run: Run) -> str:
    """A sentence on what was made, as far as it is known."""
    found = run.results
    what = f"A {run.info.model.num_layers}-layer encoder"
    if not found:
        if not run.lines and run.info.encoder:
            return f"{what}, taken over from {run.info.encoder['run']}."
        assert isinstance(run.cfg, PretrainConfig)
        total = sum(phase.num_steps for phase in run.cfg.phases)
        return (
            f"{what} on its way: step {run.step:,} of {total:,}. The run has no results "
            "yet, and this page shows its course so far."
        )
    return (
        f"{what} of {formats.compact(found['num_parameters'])} parameters, pretrained "
        f"for {formats.plural(found['step'], 'step')} on "
        f"{formats.plural(found['num_documents'], 'document')} "
        f"({formats.compact(found['num_tokens'])} tokens) in "
        f"{formats.duration(found['elapsed_secs'])}."
    )


def headline(run: Run) -> Headline:
    """The numbers of the newest evaluation, then the size and the time."""
    scores, found = run.scores, run.results
    figures = [
        Figure(
            formats.number(scores.get("mlm_loss"), ".2f"),
            "masked-token loss, nats",
            _note("unigram entropy", found.get("unigram_entropy"), ".2f"),
        ),
        Figure(
            formats.number(scores.get("mlm_accuracy"), ".1%"),
            "hidden tokens guessed right",
            _note("perplexity", scores.get("mlm_perplexity"), ",.1f"),
        ),
    ]
    if task := _sentence_task(run):
        figures.append(
            Figure(
                formats.number(scores.get("nsp_accuracy"), ".1%"),
                f"{task} accuracy",
                _note("larger class", scores.get("nsp_majority"), ".1%"),
            )
        )
    figures += [
        Figure(formats.compact(found.get("num_parameters")), "parameters"),
        Figure(formats.duration(run.elapsed_secs), "pretraining time"),
    ]
    # What an unfinished run cannot say yet is left out.
    known = [figure for figure in figures if figure.value != formats.NOT_MEASURED]
    return Headline(f"Pretraining, {run.path} at step {run.step:,}", known)


def _note(name: str, value: float | None, form: str) -> str:
    return "" if value is None else f"{name} {formats.number(value, form)}"


def sections(run: Run) -> list[Section]:
    """The curves, and what the model puts in the place of hidden tokens."""
    drawn = _charts(run)
    warnings = [] if drawn else ["The run has logged nothing yet."]
    made = [Section(title="How pretraining went", cards=drawn, warnings=warnings)]
    if stored := run.results.get("mask_examples"):
        card = masks.mask_examples(stored)
        title = "What it puts in the gaps"
        made.append(Section(title=title, intro=card.caption, cards=[card]))
    return made


def _sentence_task(run: Run) -> str | None:
    assert isinstance(run.cfg, PretrainConfig)
    return _SENTENCE_TASKS.get(run.cfg.data.pairs)


def _charts(run: Run) -> list[Chart]:
    """Those that the run has values for, in reading order."""
    entropy = run.results.get("unigram_entropy")
    majority = run.scores.get("nsp_majority")
    guessing: dict[str, Reference] = {}
    if entropy is not None:
        guessing["mlm_loss"] = Reference(
            entropy,
            f"unigram entropy {entropy:.2f}",
            "the entropy of the token frequencies, which is what guessing without "
            "context costs",
        )
    if majority is not None:
        guessing["nsp_accuracy"] = Reference(
            majority, f"larger class {majority:.1%}", "always naming the larger class"
        )
    curves = [
        Curve(metric="mlm_loss", title="Masked-token loss (nats)", from_zero=False),
        Curve(metric="mlm_accuracy", title="Masked-token accuracy", form=".1%"),
    ]
    if task := _sentence_task(run):
        title = f"{formats.heading(task)} accuracy"
        curves.append(
            Curve(metric="nsp_accuracy", title=title, form=".1%", from_zero=False)
        )
    curves += [
        Curve(
            metric="learning_rate",
            title="Learning rate",
            say=formats.scientific,
            ticks=formats.scientific,
        ),
        Curve(
            metric="tokens_per_sec",
            title="Throughput (tokens a second)",
            say=formats.compact,
        ),
        Curve(metric="grad_norm", title="Gradient norm"),
    ]
    shown = [Shown(run, "", "accent")]
    made = (
        curve_chart(
            curve,
            shown,
            f"pretrain-{curve.metric.replace('_', '-')}",
            guessing.get(curve.metric),
        )
        for curve in curves
    )
    return [chart for chart in made if chart is not None]
