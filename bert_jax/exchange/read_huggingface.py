"""A model as transformers saves it, read whole: config, weights, names and tokenizer.

Nothing in the directory is run. Whatever would change a number or an id is an error that
names it; whatever is converted or left out without that is a note.
"""

import functools
import pathlib
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from bert_jax.config import ModelConfig
from bert_jax.exchange.families.family import Family
from bert_jax.exchange.families.registry import family_of_config
from bert_jax.exchange.huggingface_config import (
    read_config,
    read_head,
    read_labels,
    read_problem_type,
)
from bert_jax.exchange.json_files import load_json
from bert_jax.exchange.read_tokenizer import read_tokenizer
from bert_jax.exchange.read_weights import load_weights
from bert_jax.exchange.sentence_transformers_modules import MODULES, read_modules
from bert_jax.exchange.source import FLOATS, Source, note_floats
from bert_jax.exchange.tensors import Tensors, same_bits


def read_huggingface(
    directory: pathlib.Path, *, lowercase: bool | None = None
) -> Source:
    """Reads a model of a known family of transformers, with whichever head it has.

    Args:
        directory: with config.json, weights and tokenizer files.
        lowercase: whether the tokenizer folds case; needed where no file says so.

    Raises:
        ValueError: a file is missing or damaged, or this is a model whose numbers or
            ids would come out otherwise here.
    """
    notes: list[str] = []
    path = directory / "config.json"
    if not path.is_file():
        raise ValueError(
            f"{directory}: no config.json there; expected a directory that "
            "save_pretrained of transformers or `bert-jax export` wrote."
        )
    config = load_json(path)
    family = family_of_config(path, config, notes)
    model, dropout = read_config(path, config, family, notes)
    weights, raw = load_weights(directory)
    known = _known_names(family, model)
    tensors = _rename(weights, raw, family, model.num_layers, known, notes)
    head = read_head(path, config, family, model, tensors, notes)
    if head in ("pretraining", "mlm") and model.tied_decoder:
        _untie(weights, tensors, family, model, config, notes)
    num_positions = model.max_positions + model.position_offset
    _drop_positions(weights, tensors, family, num_positions, notes)
    tensors = _to_float32(weights, tensors, known, notes)
    tokenizer, max_length = read_tokenizer(
        *(directory, model.vocab_size),
        config_file=path.name,
        config=config,
        classes=family.tokenizer_classes,
        lowercase=lowercase,
        notes=notes,
    )
    pad = config.get("pad_token_id")
    if pad not in (None, tokenizer.special.pad):
        if model.position_offset:
            raise ValueError(
                f"{path} has pad_token_id={pad}, but the tokenizer's id of padding is "
                f"{tokenizer.special.pad}; this family counts the positions of all tokens "
                "but that one, so its numbers would come out otherwise. One of the two is of "
                "another model."
            )
        notes.append(
            f"{path} has pad_token_id={pad}; the vocabulary's id of [PAD], "
            f"{tokenizer.special.pad}, is used."
        )
    if (directory / MODULES).is_file() and head in ("pretraining", "mlm"):
        vectors, limit = read_modules(directory, tokenizer.lowercase, notes)
        head = vectors or head
        max_length = min(filter(None, [max_length, limit]), default=None)
    rows = functools.partial(family.rows, model)
    bias = tensors.get(rows(head)[-1].theirs)
    return Source(
        origin=f"{directory} (Hugging Face, {weights.name})",
        model=model,
        dropout=dropout,
        tokenizer=tokenizer,
        tensors=tensors,
        rows=rows,
        head=head,
        labels=read_labels(path, config, head, bias, notes),
        problem_type=read_problem_type(path, config, head, bias, notes),
        max_length=max_length,
        notes=tuple(notes),
    )


def _known_names(family: Family, model: ModelConfig) -> set[str]:
    """The names in the rows of every head, and of what the reader deals with itself."""
    names = {row.theirs for head in family.heads for row in family.rows(model, head)}
    return names.union(family.tied, [family.position_ids or ""]) - {""}


def _rename(
    path: pathlib.Path,
    raw: Tensors,
    family: Family,
    num_layers: int,
    known: Collection[str],
    notes: list[str],
) -> Tensors:
    """The table's names for the tensors that it knows; the others keep theirs.

    Writers put other prefixes before the names of the same modules: a bare encoder has
    none, a wrapped model has one more.
    """
    pattern = _module_pattern(family, known)
    layer = re.compile(re.escape(family.layer).replace(r"\{layer\}", r"(\d+)"))
    tensors: Tensors = {}
    origins: dict[str, str] = {}
    prefixes: set[str] = set()
    for theirs, tensor in raw.items():
        name = theirs
        for ending, new in family.old_suffixes.items():
            if name.endswith(ending):
                name = name.removesuffix(ending) + new
        if match := pattern.fullmatch(name):
            name = (family.prefix if match["encoder"] else "") + match["rest"]
            if (found := layer.match(name)) and int(found[1]) >= num_layers:
                raise ValueError(
                    f"{path} has {theirs!r}, but config.json num_hidden_layers="
                    f"{num_layers}; one of them is of another model."
                )
        if name not in known:
            name = theirs
        elif match and match["encoder"]:
            prefixes.add(match["prefix"])
        if name in tensors:
            raise ValueError(
                f"{path}: {origins[name]!r} and {theirs!r} are both {name!r}; expected "
                "one model. Save the one that is meant by itself."
            )
        tensors[name], origins[name] = tensor, theirs
    if len(prefixes) > 1:
        raise ValueError(
            f"{path} has encoder tensors under {sorted(prefixes)}; expected one "
            "encoder. Save the one that is meant by itself."
        )
    if other := prefixes - {"", family.prefix}:
        notes.append(f"The names of encoder tensors begin with {other.pop()!r} there.")
    endings = tuple(family.old_suffixes)
    if old := sum(theirs.endswith(endings) for theirs in raw):
        notes.append(f"{old} tensors have old names, which end in {endings}.")
    return tensors


def _module_pattern(family: Family, known: Collection[str]) -> re.Pattern[str]:
    """A name as what stands before the family's modules, and the rest."""
    encoder = {
        name.removeprefix(family.prefix).split(".")[0]
        for name in known
        if name.startswith(family.prefix)
    }
    heads = {name.split(".")[0] for name in known if not name.startswith(family.prefix)}
    either = [
        "|".join(re.escape(module) for module in sorted(modules))
        for modules in (encoder, heads)
    ]
    return re.compile(
        rf"(?P<prefix>(?:.*\.)?)(?P<rest>(?:(?P<encoder>{either[0]})|{either[1]})\..+)"
    )


def _untie(
    path: pathlib.Path,
    tensors: Tensors,
    family: Family,
    model: ModelConfig,
    config: Mapping[str, Any],
    notes: list[str],
) -> None:
    """Drops second copies of tied tensors from a pretraining model."""
    decoder = next(iter(family.tied))
    untied = config.get("tie_word_embeddings") is False
    own = {
        row.theirs for row in family.rows(model, "mlm") if row.ours.startswith("mlm/")
    }
    if untied and decoder not in tensors and own & tensors.keys():
        raise ValueError(
            f"{path} has no {decoder!r}, though config.json says tie_word_embeddings="
            "False; the file is incomplete."
        )
    for copy, name in family.tied.items():
        if copy not in tensors:
            continue
        tensor = tensors.pop(copy)
        if name not in tensors:
            tensors[name] = tensor
            notes.append(f"{copy} stands for {name}, which is tied to it.")
        elif same_bits(tensor, tensors[name]):
            notes.append(f"{copy} is left out: equal to {name} bit for bit.")
        else:
            raise ValueError(
                f"{path}: {copy!r} differs from {name!r}; here the two are one tensor, "
                "as in BERT. A model with an untied decoder cannot be imported."
            )


def _drop_positions(
    path: pathlib.Path,
    tensors: Tensors,
    family: Family,
    num_positions: int,
    notes: list[str],
) -> None:
    """Drops the buffer of position numbers; they are counted here."""
    numbers = tensors.pop(family.position_ids or "", None)
    if numbers is None:
        return
    if not np.array_equal(numbers.ravel(), np.arange(num_positions)):
        raise ValueError(
            f"{path}: {family.position_ids!r} is not 0 to {num_positions - 1}; positions are "
            "counted from 0 here, so its numbers would come out otherwise."
        )
    notes.append(f"{family.position_ids} is left out: it only counts.")


def _to_float32(
    path: pathlib.Path, tensors: Tensors, known: Collection[str], notes: list[str]
) -> Tensors:
    for name in tensors.keys() & known:
        if (kind := tensors[name].dtype.name) not in FLOATS:
            raise ValueError(
                f"{path}: {name!r} is {kind}; expected one of {list(FLOATS)}. Save "
                "the model without quantisation."
            )
    note_floats([x.dtype.name for x in tensors.values()], notes)
    with np.errstate(over="ignore"):  # what becomes infinite is refused with its name
        return {name: np.array(x, np.float32) for name, x in tensors.items()}
