"""What a directory of sentence-transformers adds to an encoder: how texts become vectors.

Source: sentence-transformers 6.2, base/model.py, base/modules/ and
sentence_transformer/modules/pooling.py.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from bert_jax.exchange.json_files import load_any_json, load_json, of_form
from bert_jax.exchange.portable import VECTORS
from bert_jax.exchange.tensors import Head

MODULES = "modules.json"
_KNOWN = ("Transformer", "Pooling", "Normalize")
_SHORTEST_ROW = 8
_OLD_MODE = "pooling_mode_"
_OLD_ENDS = ("_tokens", "_token")


def read_modules(
    directory: pathlib.Path, lowercase: bool, notes: list[str]
) -> tuple[Head | None, int | None]:
    """How a directory with modules.json makes a vector of a text.

    Args:
        directory: with config.json, weights and modules.json.
        lowercase: whether the tokenizer folds case.
        notes: gets a sentence about what is left out.

    Returns:
        The head that gives the vectors, or `None` if no head here gives them; and the
        number of tokens that a text is cut to, where the directory says it.

    Raises:
        ValueError: a file is damaged or missing.
    """
    path = directory / MODULES
    modules = _list_of_modules(path)
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    head, left_out = None, f"it has the modules {', '.join(kinds)}"
    prompts = _note_prompts(directory, notes)
    if tuple(kinds) in (_KNOWN[:2], _KNOWN):
        file = directory / str(modules[1].get("path")) / "config.json"
        if not file.is_file():
            raise ValueError(
                f"{path} names the module {kinds[1]}, but there is no {file}; fetch the "
                "whole model."
            )
        pooling = load_json(file)
        mode = _mode(pooling)
        head = next((head for head, name in VECTORS.items() if name == mode), None)
        left_out = f"its pooling is {mode}"
        if prompts and pooling.get("include_prompt") is False:
            head, left_out = None, "its pooling leaves out the words before a text"
    length, folds = None, False
    for file in sorted(directory.glob("sentence_*_config.json")):
        config = load_json(file)
        length = of_form(file, config, "max_seq_length", int, "a whole number")
        if length is not None and length < _SHORTEST_ROW:
            raise ValueError(
                f"{file} has max_seq_length={length}; expected {_SHORTEST_ROW} tokens or "
                "more, the shortest rows here. Correct it; null stands for no limit."
            )
        folds = bool(config.get("do_lower_case"))
    if folds and not lowercase:
        head, left_out = (
            None,
            "it puts texts in lower case, which its tokenizer does not",
        )
    if head is None:
        notes.append(
            f"{directory} is a model of sentence-transformers; {left_out}, so no vectors "
            "here are those of the model, and its encoder alone is taken."
        )
    elif len(kinds) == len(_KNOWN):
        notes.append(
            "Vectors have length 1 there; here `embed --normalise` makes it so."
        )
    return head, length


def _list_of_modules(path: pathlib.Path) -> list[Mapping[str, Any]]:
    """Without those that do nothing where nothing is trained."""
    found = load_any_json(path)
    if not isinstance(found, list) or not all(isinstance(x, dict) for x in found):
        raise ValueError(f"{path} holds no list of modules; fetch it again.")
    return [x for x in found if not str(x.get("type", "")).endswith(".Dropout")]


def _mode(pooling: Mapping[str, Any]) -> str:
    """The way of pooling, or several with commas between them, as files new or old say."""
    mode = pooling.get("pooling_mode")
    if mode is None:
        mode = [
            key.removeprefix(_OLD_MODE)
            for key, is_on in pooling.items()
            if key.startswith(_OLD_MODE) and is_on
        ]
        for end in _OLD_ENDS:
            mode = [name.removesuffix(end) for name in mode]
    return mode if isinstance(mode, str) else ", ".join(map(str, mode)) or "mean"


def _note_prompts(directory: pathlib.Path, notes: list[str]) -> Mapping[str, Any]:
    """The words before texts, by their names; without those that are empty."""
    path = directory / "config_sentence_transformers.json"
    config = load_json(path) if path.is_file() else {}
    given = of_form(path, config, "prompts", dict, "an object of names and words")
    prompts = {name: text for name, text in (given or {}).items() if text}
    if prompts:
        default = config.get("default_prompt_name")
        said = f", by default {prompts[default]!r}" if default in prompts else ""
        notes.append(
            f"It was trained with words before texts: {prompts}{said}. Write them before "
            "your texts; here no words are added."
        )
    return prompts
