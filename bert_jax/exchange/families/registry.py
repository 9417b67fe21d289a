"""The families that are known, by the name that config.json gives them."""

import pathlib
from collections.abc import Mapping
from typing import Any

from bert_jax.config import ModelConfig
from bert_jax.data.tokenizers.huggingface_tokenizer import HuggingFaceTokenizer
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.exchange.config_fields import fields_without_words
from bert_jax.exchange.families.bert import BERT
from bert_jax.exchange.families.distilbert import DISTILBERT
from bert_jax.exchange.families.electra import ELECTRA
from bert_jax.exchange.families.eurobert import EUROBERT
from bert_jax.exchange.families.family import Family
from bert_jax.exchange.families.modernbert import MODERNBERT
from bert_jax.exchange.families.nomic_bert import NOMIC_BERT
from bert_jax.exchange.families.roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA
from bert_jax.exchange.json_files import load_json, of_form

FAMILIES: Mapping[str, Family] = {
    family.model_type: family
    for family in (
        *(BERT, ROBERTA, XLM_ROBERTA, CAMEMBERT, DISTILBERT),
        *(MODERNBERT, NOMIC_BERT, EUROBERT, ELECTRA),
    )
}
"""In the order in which exports try them."""
# Of keys whose content is read by more than its value.
_FORMS: dict[str, tuple[type, str]] = {
    "model_type": (str, "a name"),
    "architectures": (list, "a list of names"),
    "rope_parameters": (dict, "an object"),
}


def family_of_config(
    path: pathlib.Path, config: Mapping[str, Any], notes: list[str]
) -> Family:
    """The family that a config.json names.

    Files from before there were several families name none; they are BERT's.

    Args:
        path: of the file, for messages.
        config: its content.
        notes: gets a sentence where the file names no family.

    Raises:
        ValueError: the family is not known here, or a key has another form.
    """
    for key, (form, name) in _FORMS.items():
        of_form(path, config, key, form, name)
    model_type = config.get("model_type")
    if model_type is None:
        notes.append(f"{path} has no model_type; taken for {BERT.model_type!r}.")
        return BERT
    if model_type not in FAMILIES:
        raise ValueError(
            f"{path} has model_type={model_type!r}; expected one of {[*FAMILIES]}. "
            "Models of other families cannot be imported."
        )
    return FAMILIES[model_type]


def family_in(directory: pathlib.Path) -> Family:
    """The family of a directory that was written here."""
    path = directory / "config.json"
    return family_of_config(path, load_json(path), [])


def word_before_training(cfg: ModelConfig, head: str) -> str | None:
    """What to know before a head is trained that no class of transformers can hold.

    Returns:
        A sentence, or `None` where an export will find its class.
    """
    try:
        family = family_of_model(cfg)
    except ValueError:
        what = "no family of transformers computes this architecture"
    else:
        if head in family.heads:
            return None
        what = (
            f"transformers has no class of the family {family.model_type!r} for the head "
            f"{head!r}"
        )
    return f"note: {what}, so the result can be exported to StableHLO only"


def family_of_model(cfg: ModelConfig, tokenizer: Tokenizer | None = None) -> Family:
    """The first family whose config has a word for every value of `cfg`, for exports.

    Of several, such as RoBERTa and XLM-RoBERTa, it is the one whose tokenizer this is.

    Raises:
        ValueError: there is none.
    """
    problems, fitting = [], []
    for name, family in FAMILIES.items():
        wordless = fields_without_words(cfg, family.fields, family.fixed)
        if not wordless:
            fitting.append(family)
        problems.append(f"{name} has no word for {', '.join(wordless)}")
    if isinstance(tokenizer, HuggingFaceTokenizer):
        kind = tokenizer.config.get("tokenizer_class")
        fitting.sort(key=lambda family: kind not in family.tokenizer_classes)
    if fitting:
        return fitting[0]
    raise ValueError(
        f"No family of transformers computes this ModelConfig: {'; '.join(problems)}. "
        "Export it to StableHLO, which carries the computation itself."
    )
