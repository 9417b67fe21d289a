"""A checkpoint of google-research/bert, or of the TF2 model garden, read whole.

Variables are read by name, no graph is built and nothing is run. Whatever would change
a number or an id is an error that names it; what is converted or left out is a note.

The casing of a vocabulary has no place in bert_config.json: it is taken from the user,
from a file that states it, or from the directory's name, as Google's own tools do.
"""

import functools
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from bert_jax.config import ModelConfig
from bert_jax.data.tokenizers.saved_tokenizer import load_tokenizer
from bert_jax.data.tokenizers.tokenizer import METADATA_FILE, Tokenizer
from bert_jax.data.tokenizers.wordpiece_tokenizer import (
    WORDPIECE_MAX_CHARS_PER_WORD,
)
from bert_jax.exchange.families.bert import BERT
from bert_jax.exchange.families.family import head_of_tensors
from bert_jax.exchange.families.google_bert import config_from_google, google_rows
from bert_jax.exchange.google_files import (
    CONFIG_FILE,
    LABELS_FILE,
    STEP,
    tensorflow,
)
from bert_jax.exchange.google_variables import (
    WORDS,
    complete_slots,
    load_variables,
    sort_variables,
)
from bert_jax.exchange.json_files import load_json
from bert_jax.exchange.portable import LABELLED
from bert_jax.exchange.read_tokenizer import VOCABULARY, read_tokenizer
from bert_jax.exchange.source import Source
from bert_jax.exchange.tensors import Head, Tensors
from bert_jax.exchange.tokenizer_checks import agreed_casing, fill_table

# Folded without saying so in their names (google-research/bert, tokenization.py).
_LOWER_MODELS = ("multilingual_L-12_H-768_A-12", "chinese_L-12_H-768_A-12")


def read_google(path: pathlib.Path, *, lowercase: bool | None = None) -> Source:
    """Reads a BERT of Google's, with the optimizer's moments where they are complete.

    Args:
        path: a directory with one checkpoint, or a checkpoint's prefix such as
            `.../bert_model.ckpt`. bert_config.json and vocab.txt lie beside the
            checkpoint or one directory up.
        lowercase: whether the tokenizer folds case; needed where neither a file nor
            the directory's name says so.

    Raises:
        ValueError: TensorFlow or a file is missing, or this is a model whose numbers
            or ids would come out otherwise here.
    """
    notes: list[str] = []
    prefix = _find_checkpoint(path, notes)
    config_path = _find_beside(prefix, CONFIG_FILE)
    config = load_json(config_path)
    model, dropout = config_from_google(config_path, config, notes)
    variables = load_variables(prefix, model, notes)
    step = int(variables.pop(STEP, np.int64(0)))
    tensors, slots = sort_variables(prefix, variables, model, notes)
    _check_words(prefix, tensors, model)
    rows = functools.partial(google_rows, model)
    head = head_of_tensors(rows, BERT.heads, tensors)
    if slots is not None:
        slots = complete_slots(slots, tensors, head, model, notes)
    return Source(
        origin=f"{prefix} (Google)",
        model=model,
        dropout=dropout,
        tokenizer=_read_tokenizer(prefix, config, model.vocab_size, lowercase, notes),
        tensors=tensors,
        rows=rows,
        head=head,
        labels=_read_labels(prefix, head, tensors, notes),
        problem_type=_read_problem_type(prefix) if head == "classifier" else None,
        step=step,
        slots=slots,
        notes=tuple(notes),
    )


def _find_checkpoint(path: pathlib.Path, notes: list[str]) -> pathlib.Path:
    """The prefix that names the files of one checkpoint."""
    if not path.is_dir():
        if path.with_name(f"{path.name}.index").is_file():
            return path
        raise ValueError(
            f"{path}: no such checkpoint; expected a directory, or a prefix such as "
            "bert_model.ckpt beside whose files one ends in .index."
        )
    found = sorted(
        file.with_suffix("") for file in path.glob("*.index") if file.is_file()
    )
    if not found:
        raise ValueError(
            f"{path} holds no checkpoint: no file there ends in .index. Expected "
            "bert_model.ckpt.index and bert_model.ckpt.data-* in it."
        )
    if len(found) == 1:
        return found[0]
    # The state file may name a path on the machine that wrote it.
    state = tensorflow().train.get_checkpoint_state(str(path))
    named = pathlib.PurePath(state.model_checkpoint_path).name if state else None
    for prefix in found:
        if prefix.name == named:
            notes.append(f"Of {len(found)} checkpoints, the newest is read: {named}.")
            return prefix
    names = [prefix.name for prefix in found]
    raise ValueError(
        f"{path} holds {len(names)} checkpoints, {names}, and its file 'checkpoint' "
        f"names {named or 'none'}; give one of them, such as {found[-1]}."
    )


def _find_beside(prefix: pathlib.Path, name: str) -> pathlib.Path:
    """A file of the checkpoint's directory, or of the one above."""
    homes = _homes(prefix)
    for home in homes:
        if (home / name).is_file():
            return home / name
    raise ValueError(
        f"{prefix}: no {name} in {homes[0]} or {homes[1]}; put the model's there."
    )


def _homes(prefix: pathlib.Path) -> list[pathlib.Path]:
    home = prefix.absolute().parent
    return [home, home.parent]


def _check_words(prefix: pathlib.Path, tensors: Tensors, model: ModelConfig) -> None:
    words = tensors.get(WORDS)
    if words is not None and len(words) != model.vocab_size:
        raise ValueError(
            f"{prefix}: {WORDS!r} has {len(words)} rows, {CONFIG_FILE} vocab_size="
            f"{model.vocab_size}; one of them is of another model."
        )


def _read_labels(
    prefix: pathlib.Path, head: Head, tensors: Tensors, notes: list[str]
) -> tuple[str, ...] | None:
    if head not in LABELLED:
        return None
    weights = tensors["output_weights"]
    if len(weights) == 1:
        raise ValueError(
            f"{prefix}: output_weights of one row is a regression; expected two "
            "classes or more. A regression is imported from Hugging Face's format only."
        )
    path = prefix.with_name(LABELS_FILE)
    if path.is_file():
        labels = tuple(load_json(path).get("labels", ()))
        if len(labels) != len(weights) or len(set(labels)) != len(labels):
            raise ValueError(
                f"{path} names {list(labels)}; expected one name of its own for each "
                f"of the {len(weights)} rows of output_weights."
            )
        return labels
    notes.append(
        f"The classes have no names in a checkpoint of Google's; they are called 0 to "
        f"{len(weights) - 1}."
    )
    return tuple(str(index) for index in range(len(weights)))


def _read_problem_type(prefix: pathlib.Path) -> str:
    path = prefix.with_name(LABELS_FILE)
    given = load_json(path).get("problem_type") if path.is_file() else None
    return given or "single_label_classification"


def _read_tokenizer(
    prefix: pathlib.Path,
    config: Mapping[str, Any],
    num_rows: int,
    lowercase: bool | None,
    notes: list[str],
) -> Tokenizer:
    """The vocabulary, with as many pieces as the token table has rows."""
    home = next((x for x in _homes(prefix) if _has_vocabulary(x)), None)
    if home is not None and (home / METADATA_FILE).is_file():
        ours = load_tokenizer(home)
        agreed_casing(home, {METADATA_FILE: ours.lowercase}, lowercase)
        return fill_table(home, ours, num_rows, CONFIG_FILE, notes)
    path = _find_beside(prefix, VOCABULARY)
    tokenizer, _ = read_tokenizer(
        *(path.parent, num_rows),
        config_file=CONFIG_FILE,
        config=config,
        classes=BERT.tokenizer_classes,
        lowercase=lowercase,
        notes=notes,
        named=_named_casing([home.name for home in _homes(prefix)]),
        max_chars=WORDPIECE_MAX_CHARS_PER_WORD,
    )
    _check_capitals(path, tokenizer, lowercase, notes)
    return tokenizer


def _has_vocabulary(home: pathlib.Path) -> bool:
    return any((home / name).is_file() for name in (METADATA_FILE, VOCABULARY))


def _named_casing(names: list[str]) -> tuple[str, bool] | None:
    """The nearest directory whose name tells the casing, and which."""
    for name in names:
        if name in _LOWER_MODELS:
            return name, True
        if match := re.search(r"(?<![a-z])(un)?cased(?![a-z])", name.lower()):
            return name, match[1] is not None
    return None


def _check_capitals(
    path: pathlib.Path,
    tokenizer: Tokenizer,
    lowercase: bool | None,
    notes: list[str],
) -> None:
    """A folding tokenizer can never reach pieces with capital letters."""
    capitals = [
        piece
        for piece in tokenizer.pieces
        if re.search("[A-Z]", piece) and not re.fullmatch(r"\[.+\]", piece)
    ]
    if not (tokenizer.lowercase and capitals):
        return
    found = f"{path} has {len(capitals)} pieces with capital letters, such as "
    found += f"{capitals[0]!r}, which a tokenizer that folds case never reaches"
    if lowercase is None:
        raise ValueError(
            f"{found}; pass --no-lowercase, or --lowercase if this is meant."
        )
    notes.append(f"{found}.")
