"""Our parameters as a directory that transformers' Auto classes load.

Neither PyTorch nor transformers is needed to write it;
`exchange/transformers_model.py` loads it back with them.
"""

import dataclasses
import pathlib

from bert_jax.exchange.config_fields import same_numbers
from bert_jax.exchange.families.family import Family, HeadForm
from bert_jax.exchange.families.registry import family_of_model
from bert_jax.exchange.huggingface_config import read_architecture, write_config
from bert_jax.exchange.json_files import load_json, save_json
from bert_jax.exchange.portable import VECTORS, PortableModel
from bert_jax.exchange.read_weights import load_weights
from bert_jax.exchange.tensors import check_bits, to_tensors
from bert_jax.exchange.tokenizer import save_huggingface_tokenizer

CONFIG, WEIGHTS, MODEL_CARD = "config.json", "model.safetensors", "README.md"
_REGRESSION = (
    '`pipeline("text-classification", ...)` gives the score of a text, a regression.'
)

# What becomes of texts that do not fit a row, beside what a tokenizer can do.
_LONG_TEXTS = {
    "cut": "cut texts to rows of {length} tokens; give the tokenizer `truncation=True, "
    "max_length={length}` for the same.",
    "head-tail": "leave out the middle of a text of more than {length} tokens; the "
    "tokenizer's truncation would leave out its end.",
    "windows": "make several rows of at most {length} tokens, which overlap, of a longer "
    "text; the tokenizer's truncation would leave out its end.",
}


def write_huggingface(model: PortableModel, directory: pathlib.Path) -> None:
    """Writes weights, config, tokenizer and model card.

    Args:
        model: what is written; its head decides which class of transformers loads it.
        directory: created if need be.

    Raises:
        ValueError: the parts do not fit each other.
    """
    from safetensors.numpy import save_file

    family = family_of_model(model.cfg, model.tokenizer)
    form = _form_of(family, model)
    tensors = to_tensors(model.cfg, model.params, family.rows(model.cfg, model.head))
    config = write_config(model, family)
    if config.get("problem_type") == "regression":
        form = form._replace(usage=_REGRESSION)
    card = _model_card(model, family.model_type, form)
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    save_json(directory / CONFIG, config)
    save_huggingface_tokenizer(
        *(model.tokenizer, directory, model.cfg.max_positions, model.cfg.num_segments),
        of_words=model.head == "tokens",
    )
    (directory / MODEL_CARD).write_text(card, encoding="utf-8")


def _form_of(family: Family, model: PortableModel) -> HeadForm:
    if model.head in family.heads:
        return family.heads[model.head]
    advice = "Export to StableHLO instead."
    if model.head == "pretraining":
        advice = "Export the masked-word head alone, with --mlm-only."
    raise ValueError(
        f"transformers has no class of the family {family.model_type!r} for the head "
        f"{model.head!r}, only for {', '.join(family.heads)}. {advice}"
    )


def check_huggingface(directory: pathlib.Path, model: PortableModel) -> None:
    """Whether config and weights on disk are those of the model, bit by bit.

    Raises:
        ValueError: they are not.
    """
    path = directory / CONFIG
    family = family_of_model(model.cfg, model.tokenizer)
    found = read_architecture(path, load_json(path), family)
    # A rate that the family has no word for is one of training only.
    rates = [
        (getattr(found[1], field.name), getattr(model.dropout, field.name))
        for field in dataclasses.fields(model.dropout)
        if f"dropout.{field.name}" in family.fields
    ]
    if not same_numbers(found[0], model.cfg) or any(x != y for x, y in rates):
        raise ValueError(
            f"{path} says {found}; expected {(model.cfg, model.dropout)}. Please report "
            "this."
        )
    weights, tensors = load_weights(directory)
    rows = family.rows(model.cfg, model.head)
    check_bits(weights, to_tensors(model.cfg, model.params, rows), tensors)


def _model_card(model: PortableModel, model_type: str, form: HeadForm) -> str:
    name, task, usage, library = form
    cfg, tokenizer = model.cfg, model.tokenizer
    rows = [
        f"| {_cell(of)} | {_cell(metric)} | {_cell(value)} |\n"
        for of, metrics in model.results.items()
        for metric, value in metrics.items()
    ]
    length, cut = model.sequence_length or cfg.max_positions, ""
    # sentence-transformers has a file that says it.
    is_told = model.head not in ("pretraining", "mlm", *VECTORS)
    if is_told and length < cfg.max_positions:
        several_rows = model.head in ("tokens", "spans")
        how = _LONG_TEXTS["windows" if several_rows else model.long_texts]
        cut = f"\nTraining and `bert-jax predict` {how.format(length=length)}\n"
    measured = [
        "\n## Measured\n\n",
        "| task | metric | value |\n|---|---|---|\n",
        *rows,
    ]
    return f"""---
library_name: {library}
pipeline_tag: {task}
tags:
- {model_type}
- bert_jax
---

# {name}, written by bert_jax

{cfg.num_layers} layers, hidden size {cfg.hidden_size}, {cfg.num_heads} heads,
{cfg.max_positions} positions; {tokenizer.kind} vocabulary of
{cfg.vocab_size:,} pieces, {"lower-cased" if tokenizer.lowercase else "cased"}.

Load it with `{name}.from_pretrained`, its tokenizer with
`AutoTokenizer.from_pretrained`. {usage}
""" + "".join([cut, *(measured if rows else ())])


def _cell(value: object) -> str:
    """A table's cell ends at a bar and at a line's end; those of the value do not."""
    return " ".join(str(value).split()).replace("|", "\\|")
