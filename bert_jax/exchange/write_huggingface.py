"""Our parameters as a directory that transformers' Auto classes load.

Neither PyTorch nor transformers is needed to write it;
`exchange/transformers_model.py` loads it back with them.
"""

import pathlib
from collections.abc import Mapping, Sequence

from bert_jax.config import DropoutConfig, ModelConfig
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.exchange.families.family import HeadForm
from bert_jax.exchange.families.registry import family_of_model
from bert_jax.exchange.huggingface_config import write_config
from bert_jax.exchange.json_files import save_json
from bert_jax.exchange.signature import check_parts
from bert_jax.exchange.tensors import Head, Params, to_tensors
from bert_jax.exchange.tokenizer import save_huggingface_tokenizer

CONFIG, WEIGHTS, MODEL_CARD = "config.json", "model.safetensors", "README.md"
_REGRESSION = (
    '`pipeline("text-classification", ...)` gives the score of a text, a regression.'
)


def write_huggingface(
    cfg: ModelConfig,
    params: Params,
    head: Head,
    tokenizer: Tokenizer,
    directory: pathlib.Path,
    *,
    dropout: DropoutConfig = DropoutConfig(),
    labels: Sequence[str] | None = None,
    problem_type: str | None = None,
    results: Mapping[str, Mapping[str, object]] | None = None,
) -> None:
    """Writes weights, config, tokenizer and model card.

    Args:
        cfg: of `params`.
        params: of `head` and nothing else, float32.
        head: decides which class of transformers loads the directory.
        tokenizer: what the model was trained with.
        directory: created if need be.
        dropout: the rates that config.json names.
        labels: of a classifier or tagger, in the order of its logits.
        problem_type: of a classifier, what transformers calls its loss. By default, a
            text has one of the labels.
        results: task -> metric -> value, for the model card.

    Raises:
        ValueError: the parts do not fit each other.
    """
    from safetensors.numpy import save_file

    check_parts(cfg, params, head, tokenizer, labels)
    family = family_of_model(cfg)
    tensors = to_tensors(cfg, params, family.rows(cfg, head))
    config = write_config(cfg, dropout, family, head, tokenizer, labels, problem_type)
    form = family.heads[head]
    if config.get("problem_type") == "regression":
        form = form._replace(usage=_REGRESSION)
    card = _model_card(cfg, family.model_type, tokenizer, form, results or {})
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    save_json(directory / CONFIG, config)
    save_huggingface_tokenizer(tokenizer, directory, cfg.max_positions)
    (directory / MODEL_CARD).write_text(card, encoding="utf-8")


def _model_card(
    cfg: ModelConfig,
    model_type: str,
    tokenizer: Tokenizer,
    form: HeadForm,
    results: Mapping[str, Mapping[str, object]],
) -> str:
    name, task, usage = form
    rows = [
        f"| {_cell(of)} | {_cell(metric)} | {_cell(value)} |\n"
        for of, metrics in results.items()
        for metric, value in metrics.items()
    ]
    measured = [
        "\n## Measured\n\n",
        "| task | metric | value |\n|---|---|---|\n",
        *rows,
    ]
    return f"""---
library_name: transformers
pipeline_tag: {task}
tags:
- {model_type}
- bert_jax
---

# {name}, written by bert_jax

{cfg.num_layers} layers, hidden size {cfg.hidden_size}, {cfg.num_heads} heads,
{cfg.max_positions} positions, {cfg.gelu} GELU; {tokenizer.kind} vocabulary of
{cfg.vocab_size:,} pieces, {"lower-cased" if tokenizer.lowercase else "cased"}.

Load it with `{name}.from_pretrained`, its tokenizer with
`AutoTokenizer.from_pretrained`. {usage}
""" + ("".join(measured) if rows else "")


def _cell(value: object) -> str:
    """A table's cell ends at a bar and at a line's end; those of the value do not."""
    return " ".join(str(value).split()).replace("|", "\\|")
