"""A tokenizer.json of Hugging Face that is kept as it is, read and written."""

import dataclasses
import json
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from bert_jax.data.tokenizers.huggingface_rules import content
from bert_jax.data.tokenizers.huggingface_tokenizer import (
    CONFIG_FILE,
    HuggingFaceTokenizer,
)
from bert_jax.data.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer
from bert_jax.data.tokenizers.tokenizer import SPECIAL_PIECES, Tokenizer
from bert_jax.exchange.json_files import load_json, save_json
from bert_jax.exchange.tokenizer_checks import (
    ANY_TOKENIZER,
    fill_table,
    refuse_rule,
    stated_limit,
)

FAST = "tokenizer.json"
# Keys of tokenizer_config.json about the machine that wrote it.
_LOCAL = {"name_or_path", "special_tokens_map_file", "tokenizer_file", "is_local"}


def keeps(directory: pathlib.Path, rules: Mapping[str, Any]) -> bool:
    """Whether the tokenizer.json of a directory is kept as it is.

    WordPiece is read by BERT's rules, which other exports need, unless tokens were added
    to it. A SentencePiece model of ours stands beside the tokenizer.json of its export.
    """
    if not rules or (directory / SentencePieceTokenizer.model_file).is_file():
        return False
    added = {token["content"] for token in rules.get("added_tokens") or ()}
    return rules["model"].get("type") != "WordPiece" or not added <= {
        *SPECIAL_PIECES.values()
    }


def read_kept_tokenizer(
    directory: pathlib.Path,
    num_rows: int,
    config_file: str,
    classes: Collection[str],
    notes: list[str],
) -> tuple[Tokenizer, int | None]:
    """The tokenizer of a directory, with as many pieces as the token table has rows.

    Args:
        directory: with tokenizer.json and what transformers writes beside it.
        num_rows: of the token table.
        config_file: name of the file that states `num_rows`.
        classes: the family's own tokenizers.
        notes: gets a sentence for each thing that was decided.

    Returns:
        The tokenizer, and the number of tokens after which texts were cut, if a file
        says so.

    Raises:
        ValueError: a file is damaged, or asks for what does not exist here.
    """
    config = _read_config(directory)
    path = directory / FAST
    if config.get("auto_map"):
        refuse_rule(directory / CONFIG_FILE, "auto_map", config["auto_map"], ({},))
    name = config.get("tokenizer_class")
    if name not in (None, *classes, *ANY_TOKENIZER):
        notes.append(
            f"{CONFIG_FILE} has tokenizer_class={name!r}, which is none of this family's "
            f"({', '.join(sorted(classes))}); {FAST} is read as it stands."
        )
    try:
        tokenizer = HuggingFaceTokenizer(path.read_bytes(), config=config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    whole = fill_table(path, tokenizer, num_rows, config_file, notes)
    notes.append(
        f"{FAST} is kept as it is. Text that spells {', '.join(tokenizer.as_text)} is "
        "text here and that token there."
    )
    if tokenizer.pair.refused:
        notes.append(tokenizer.pair.refused)
    return whole, stated_limit(directory, config)


def _read_config(directory: pathlib.Path) -> dict[str, Any]:
    """tokenizer_config.json, and special tokens that only the older file names."""
    config: dict[str, Any] = {}
    for name in ("special_tokens_map.json", CONFIG_FILE):
        if (directory / name).is_file():
            config |= load_json(directory / name)
    return {key: value for key, value in config.items() if key not in _LOCAL}


def write_kept_tokenizer(
    tokenizer: HuggingFaceTokenizer,
    directory: pathlib.Path,
    max_length: int,
    num_segments: int,
    *,
    of_words: bool,
) -> None:
    """Writes tokenizer.json, byte by byte as it was but for `of_words`, and its config.

    Args:
        tokenizer: what the model was trained with.
        directory: an existing folder.
        max_length: positions of the model.
        num_segments: rows of the model's segment table.
        of_words: whether the model was trained on single words. Where a word needs a
            space before it, as in byte-level BPE, the first one gets it there, too.
    """
    model, stated = tokenizer.model, dict(tokenizer.config)
    if of_words and tokenizer.gap:
        rules = tokenizer.rules_for_words()
        if (rules["pre_tokenizer"] or {}).get("add_prefix_space"):
            stated["add_prefix_space"] = True
        model = json.dumps(rules, ensure_ascii=False).encode()
    (directory / FAST).write_bytes(model)
    # Both names of this class read tokenizer.json; transformers 4 knows only the first.
    if stated.get("tokenizer_class") in (None, *ANY_TOKENIZER):
        stated["tokenizer_class"] = ANY_TOKENIZER[0]
    for role, index in dataclasses.asdict(tokenizer.special).items():
        piece = None if index is None else tokenizer.pieces[index]
        if piece and content(stated.get(f"{role}_token")) != piece:
            stated[f"{role}_token"] = piece
    segments = num_segments > 1 and tokenizer.pair.second_segment
    stated["model_input_names"] = [
        "input_ids",
        *(["token_type_ids"] if segments else []),
        "attention_mask",
    ]
    limit = stated.get("model_max_length")
    if isinstance(limit, int | float):
        max_length = min(int(limit), max_length)
    stated["model_max_length"] = max_length
    save_json(directory / CONFIG_FILE, stated)
