"""A model as transformers saves it, read whole: config, weights, names and tokenizer.

Nothing in the directory is run: safetensors is plain data, and a pytorch_model.bin goes
through torch's loader of tensors only. Whatever would change a number or an id is an
error that names it; whatever is converted or left out without that is a note.
"""

import pathlib
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from pickle import UnpicklingError
from typing import Any

import ml_dtypes  # NumPy knows bfloat16 by its import, and so does safetensors.
import numpy as np

from bert_jax.exchange.huggingface import read_config, read_head, read_labels
from bert_jax.exchange.names import TABLES, Head, Tensors
from bert_jax.exchange.read_tokenizer import read_tokenizer
from bert_jax.exchange.reading import load_json
from bert_jax.exchange.source import Source

Json = dict[str, Any]

_NAME = re.compile(
    r"((?:.*?\.)??)((embeddings|encoder|pooler)|cls|classifier|qa_outputs)(\..+)"
)
_LAYER = re.compile(r"bert\.encoder\.layer\.(\d+)\.")
_WORDS = "bert.embeddings.word_embeddings.weight"
_POSITION_IDS = "bert.embeddings.position_ids"
# What transformers ties together -> where the table keeps it.
_TIED = {
    "cls.predictions.decoder.weight": _WORDS,
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
# Element types that are read -> how they become float32.
_FLOATS = {
    "float32": "",
    "float16": "exactly",
    "bfloat16": "exactly",
    "float64": "rounded",
}


def read_huggingface(
    directory: pathlib.Path, *, lowercase: bool | None = None
) -> Source:
    """Reads a BERT of transformers, with whichever head it has.

    Args:
        directory: with config.json, weights and tokenizer files.
        lowercase: whether the tokenizer folds case; needed where no file says so.

    Raises:
        ValueError: a file is missing or damaged, or this is a model whose numbers or
            ids would come out otherwise here.
    """
    directory = pathlib.Path(directory)
    notes: list[str] = []
    path = directory / "config.json"
    if not path.is_file():
        raise ValueError(
            f"{directory}: no config.json there; expected a directory that "
            "save_pretrained of transformers or `bert-jax export` wrote."
        )
    config = load_json(path)
    model, dropout = read_config(path, config, notes)
    weights, raw = _load_weights(directory)
    tensors = _rename(weights, raw, model.num_layers, notes)
    head = read_head(path, config, tensors, notes)
    _untie(weights, tensors, head, config, notes)
    _drop_positions(weights, tensors, model.max_positions, notes)
    tensors = _to_float32(weights, tensors, model.num_layers, notes)
    tokenizer = read_tokenizer(directory, model.vocab_size, lowercase, notes)
    pad = config.get("pad_token_id")
    if pad not in (None, tokenizer.special.pad):
        notes.append(
            f"{path} has pad_token_id={pad}; the vocabulary's id of [PAD], "
            f"{tokenizer.special.pad}, is used."
        )
    return Source(
        origin=f"{directory} (Hugging Face, {weights.name})",
        model=model,
        dropout=dropout,
        tokenizer=tokenizer,
        tensors=tensors,
        dialect="huggingface",
        head=head,
        labels=read_labels(path, config, head, tensors.get("classifier.bias"), notes),
        notes=tuple(notes),
    )


def _load_weights(directory: pathlib.Path) -> tuple[pathlib.Path, Tensors]:
    readers = {
        "model.safetensors": _load_safetensors,
        "pytorch_model.bin": _load_torch,
    }
    for name, load in readers.items():
        path, index = directory / name, directory / f"{name}.index.json"
        if path.is_file():
            return path, load(path)
        if index.is_file():
            return index, _load_shards(index, load)
    raise ValueError(
        f"{directory}: no weights there; expected one of {list(readers)}, or the index "
        "and the shards of one."
    )


def _load_shards(
    index: pathlib.Path, load: Callable[[pathlib.Path], Tensors]
) -> Tensors:
    shards = load_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(
        isinstance(name, str) and pathlib.PurePath(name).name == name
        for name in shards.values()
    ):
        raise ValueError(f"{index} names no shard files beside it; fetch it again.")
    tensors: Tensors = {}
    for shard in sorted(set(shards.values())):
        path = index.with_name(shard)
        if not path.is_file():
            raise ValueError(
                f"{path} is missing, but {index.name} names it; fetch every shard."
            )
        found = load(path)
        expected = {name for name, of in shards.items() if of == shard}
        if odd := sorted(found.keys() ^ expected):
            raise ValueError(
                f"{path} and {index.name} disagree on {odd[:3]} ({len(odd)} tensors in "
                "all); fetch both again."
            )
        tensors |= found
    return tensors


def _load_safetensors(path: pathlib.Path) -> Tensors:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read as tensors ({error}); fetch it again."
        ) from error


def _load_torch(path: pathlib.Path) -> Tensors:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path} needs PyTorch to be read: pip install 'bert_jax[export]'. A "
            "model.safetensors in its place needs nothing."
        ) from error
    # Before 2.6 its loader of tensors only could be made to run code (CVE-2025-32434).
    if tuple(int(x) for x in torch.__version__.split(".")[:2]) < (2, 6):
        raise ValueError(
            f"PyTorch {torch.__version__} cannot read {path} safely; expected 2.6 or "
            "newer: pip install -U 'bert_jax[export]'."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # hints to the loader's programmers
            loaded = torch.load(
                path,
                map_location="cpu",
                weights_only=True,
                mmap=zipfile.is_zipfile(path),
            )
    except UnpicklingError as error:
        raise ValueError(
            f"PyTorch's loader of tensors only refuses {path}; reading it otherwise "
            "could run code, so it was not read. Ask for a model.safetensors of it."
        ) from error
    except Exception as error:  # as many kinds as there are ways to be damaged
        raise ValueError(
            f"{path} is damaged ({error!r:.200}); fetch it again."
        ) from error
    if not isinstance(loaded, Mapping) or not all(
        isinstance(tensor, torch.Tensor) for tensor in loaded.values()
    ):
        raise ValueError(
            f"{path} is no table of named tensors; expected the state_dict of a model."
        )
    return {str(name): _to_numpy(path, name, x) for name, x in loaded.items()}


def _to_numpy(path: pathlib.Path, name: str, tensor: Any) -> np.ndarray:
    import torch

    try:
        plain = tensor.detach().contiguous()
        if plain.dtype == torch.bfloat16:  # unknown to NumPy by itself
            return plain.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return plain.numpy()
    except (TypeError, RuntimeError) as error:  # sparse, quantised, without data …
        raise ValueError(
            f"{path}: {name!r} is no plain tensor of numbers ({error}). Save the model "
            "without quantisation."
        ) from error


def _known_names(num_layers: int) -> set[str]:
    return {
        row.huggingface.format(layer=layer)
        for table in TABLES.values()
        for row in table
        for layer in range(num_layers)
    }.union(_TIED, [_POSITION_IDS])


def _rename(
    path: pathlib.Path, raw: Tensors, num_layers: int, notes: list[str]
) -> Tensors:
    """The table's names for the tensors that it knows; the others keep theirs."""
    known = _known_names(num_layers)
    tensors: Tensors = {}
    origins: dict[str, str] = {}
    prefixes: set[str] = set()
    for theirs, tensor in raw.items():
        name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", theirs))
        if match := _NAME.fullmatch(name):
            name = ("bert." if match[3] else "") + match[2] + match[4]
            if (layer := _LAYER.match(name)) and int(layer[1]) >= num_layers:
                raise ValueError(
                    f"{path} has {theirs!r}, but config.json num_hidden_layers="
                    f"{num_layers}; one of them is of another model."
                )
        if name not in known:
            name = theirs
        elif match and match[3]:
            prefixes.add(match[1])
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
    if other := prefixes - {"", "bert."}:
        notes.append(f"The names of encoder tensors begin with {other.pop()!r} there.")
    if old := sum(theirs.endswith((".gamma", ".beta")) for theirs in raw):
        notes.append(f"{old} tensors bear the old names gamma and beta.")
    return tensors


def _untie(
    path: pathlib.Path, tensors: Tensors, head: Head, config: Json, notes: list[str]
) -> None:
    """Drops second copies of tied tensors from a pretraining model."""
    if head != "pretraining":
        return
    mlm = "cls.predictions.transform.dense.weight" in tensors
    decoder = next(iter(_TIED))
    if mlm and config.get("tie_word_embeddings") is False and decoder not in tensors:
        raise ValueError(
            f"{path} has no {decoder!r}, though config.json says tie_word_embeddings="
            "False; the file is incomplete."
        )
    for copy, name in _TIED.items():
        if copy not in tensors:
            continue
        tensor = tensors.pop(copy)
        if name not in tensors:
            tensors[name] = tensor
            notes.append(f"{copy} stands for {name}, which is tied to it.")
        elif _same_bits(tensor, tensors[name]):
            notes.append(f"{copy} is left out: equal to {name} bit for bit.")
        else:
            raise ValueError(
                f"{path}: {copy!r} differs from {name!r}; here the two are one tensor, "
                "as in BERT. A model with an untied decoder cannot be imported."
            )


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return (a.shape, a.dtype) == (b.shape, b.dtype) and a.tobytes() == b.tobytes()


def _drop_positions(
    path: pathlib.Path, tensors: Tensors, num_positions: int, notes: list[str]
) -> None:
    """Drops the buffer of position numbers; they are counted here."""
    numbers = tensors.pop(_POSITION_IDS, None)
    if numbers is None:
        return
    if not np.array_equal(numbers.ravel(), np.arange(num_positions)):
        raise ValueError(
            f"{path}: {_POSITION_IDS!r} is not 0 to {num_positions - 1}; positions are "
            "counted from 0 here, so its numbers would come out otherwise."
        )
    notes.append(f"{_POSITION_IDS} is left out: it only counts.")


def _to_float32(
    path: pathlib.Path, tensors: Tensors, num_layers: int, notes: list[str]
) -> Tensors:
    kinds = Counter(tensor.dtype.name for tensor in tensors.values())
    for name in tensors.keys() & _known_names(num_layers):
        if (kind := tensors[name].dtype.name) not in _FLOATS:
            raise ValueError(
                f"{path}: {name!r} is {kind}; expected one of {list(_FLOATS)}. Save "
                "the model without quantisation."
            )
    for kind, how in _FLOATS.items():
        if kinds[kind] and how:
            notes.append(f"{kinds[kind]} tensors were {kind}: float32 now, {how}.")
    return {name: np.array(x, np.float32) for name, x in tensors.items()}
