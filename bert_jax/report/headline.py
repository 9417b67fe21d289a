"""The top of the page: what was made, in a sentence, and the figures that count."""

import dataclasses
from collections.abc import Sequence

from bert_jax.report import formats
from bert_jax.report.corpus import near_copies, total
from bert_jax.report.finetuning import Score
from bert_jax.report.inputs import Record, Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """One of the key figures at the top."""

    value: str
    label: str
    note: str = ""


def lead(pretrained: Run | None, tuned: list[Run], dataset: Record | None) -> str:
    """A sentence or two on what was made, as far as the inputs say it."""
    sentences = []
    if dataset and not pretrained:
        documents, tokens = total(dataset, "documents"), total(dataset, "tokens")
        held_out = formats.count(dataset.count("splits", "validation", "documents"))
        if documents is not None:
            sentences.append(
                f"{formats.plural(documents, 'document')} ({formats.compact(tokens)} "
                f"tokens), {held_out} of them held out."
            )
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


def figures(
    pretrained: Run | None,
    tuned: list[Run],
    rows: Sequence[Score],
    dataset: Record | None,
) -> list[Figure]:
    """Five at most: what the model learned, then what that is worth."""
    if dataset and not pretrained and not tuned:
        return _dataset_figures(dataset)
    made = []
    if pretrained:
        found = pretrained.results
        entropy = found.number("unigram_entropy")
        perplexity = found.number("eval", "mlm_perplexity")
        majority = found.rate("eval", "nsp_majority")
        made = [
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
            made.append(
                Figure(
                    value=formats.percent(row.accuracy),
                    label=label,
                    note=f"macro-F1 {formats.percent(row.macro_f1)}",
                )
            )
    if tuned and not pretrained:
        found = tuned[0].results
        made += [
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
    if pretrained and len(made) < 5:
        size = pretrained.results.count("num_parameters")
        seconds = pretrained.results.number("elapsed_secs")
        made += [
            Figure(value=formats.compact(size), label="parameters"),
            Figure(value=formats.duration(seconds), label="pretraining time"),
        ]
    return made[:5]


def _dataset_figures(corpus: Record) -> list[Figure]:
    """How much text there is, and how sound it is."""
    documents, tokens = total(corpus, "documents"), total(corpus, "tokens")
    each = tokens / documents if documents and tokens is not None else None
    entropy = corpus.number("splits", "train", "unigram_entropy")
    near = formats.count(corpus.count("audit", "duplicates", "near"))
    problems = corpus.items("problems")
    return [
        Figure(
            value=formats.compact(documents),
            label="documents",
            note=f"{formats.decimal(each, 1)} tokens each",
        ),
        Figure(
            value=formats.compact(tokens),
            label="tokens",
            note=f"unigram entropy {formats.decimal(entropy)}",
        ),
        Figure(
            value=formats.rare(corpus.rate("audit", "unk_share")),
            label="[UNK] among the tokens",
        ),
        Figure(
            value=formats.compact(corpus.count("audit", "duplicates", "exact")),
            label="copies of documents",
            note=f"near copies: {near_copies(corpus, near)}",
        ),
        Figure(
            value=formats.count(None if problems is None else len(problems)),
            label="problems found",
        ),
    ]
