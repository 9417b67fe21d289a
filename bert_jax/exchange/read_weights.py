"""The tensors of a Hugging Face directory, whichever file format they are in.

Nothing is run: safetensors is plain data, and a pytorch_model.bin goes through torch's
loader of tensors only.
"""

import pathlib
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pickle import UnpicklingError
from typing import Any

import ml_dtypes  # NumPy knows bfloat16 by its import, and so does safetensors.
import numpy as np

from bert_jax.exchange.json_files import load_json
from bert_jax.exchange.libraries import library
from bert_jax.exchange.tensors import Tensors

# What a file begins with whose content Git LFS keeps elsewhere.
_POINTER = b"version https://git-lfs"


def load_weights(directory: pathlib.Path) -> tuple[pathlib.Path, Tensors]:
    """The file that was read, or the index of its shards, and the tensors by name.

    Raises:
        ValueError: a file is missing or damaged, is no table of tensors, could run code
            when it is read, or needs a PyTorch that is not there.
    """
    readers = {
        "model.safetensors": _load_safetensors,
        "pytorch_model.bin": _load_torch,
    }
    for name, load in readers.items():
        path, index = directory / name, directory / f"{name}.index.json"
        if path.is_file():
            return path, _load(path, load)
        if index.is_file():
            return index, _load_shards(index, load)
    other = sorted(
        path.name
        for path in directory.iterdir()
        if path.suffix in (".h5", ".msgpack", ".ckpt", ".bin", ".safetensors", ".onnx")
    )
    found = f"Of {other}, none can be read. " if other else ""
    raise ValueError(
        f"{directory}: no weights there; expected one of {list(readers)}, or the index "
        f"and the shards of one. {found}Fetch model.safetensors of this model."
    )


def _load(path: pathlib.Path, load: Callable[[pathlib.Path], Tensors]) -> Tensors:
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise ValueError(
                f"{path} is a pointer of Git LFS and not the weights themselves; run "
                "`git lfs pull` in its repository, or fetch it again."
            )
    return load(path)


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
        found = _load(path, load)
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
    except AttributeError as error:  # a type such as float8, by its name in NumPy
        raise ValueError(
            f"{path} has numbers of a type that cannot be read ({error}). Save the model "
            "without quantisation."
        ) from error


def _load_torch(path: pathlib.Path) -> Tensors:
    torch = library("torch", "export", f"Weights in the form of {path}")
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
