"""Our parameters as an ONNX model for ONNX Runtime and other runtimes.

PyTorch's exporter makes the graph from the Hugging Face export, so that every model that
goes to Hugging Face goes to ONNX too. Weights and logits are float32. Batch and length
are free.

A text longer than the position table, and an id beyond its table, are errors in ONNX
Runtime's CPU provider; other providers may not look. A negative id counts from the end of
its table, as everywhere in ONNX.
"""

import contextlib
import hashlib
import logging
import pathlib
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from bert_jax.exchange.comparison import Probe, differences
from bert_jax.exchange.families.registry import family_of_model
from bert_jax.exchange.libraries import library
from bert_jax.exchange.portable import PortableModel
from bert_jax.exchange.tensors import Tensors, to_tensors
from bert_jax.exchange.transformers_model import load_model
from bert_jax.exchange.write_huggingface import (
    MODEL_CARD,
    WEIGHTS,
    check_huggingface,
    write_huggingface,
)

MODEL_FILE = "model.onnx"
OPSET = 20  # the first with Gelu; older runtimes read it too
_WHAT, _EXTRA = "ONNX exports", "onnx"


def write_onnx(model: PortableModel, directory: pathlib.Path) -> None:
    """Writes model.onnx, and config.json and tokenizer as a Hugging Face export has them.

    config.json holds the sizes, and the names of the labels. Weights of 2 GiB and more
    go to a second file beside model.onnx.

    Args:
        model: what is written.
        directory: created if need be.

    Raises:
        ValueError: the parts do not fit each other, or a library is missing.
    """
    onnx = library("onnx", _EXTRA, _WHAT)
    library("onnxscript", _EXTRA, _WHAT)
    with tempfile.TemporaryDirectory() as name:
        source = pathlib.Path(name)
        write_huggingface(model, source)
        check_huggingface(source, model)
        # Its own attention: plain products and a softmax, for every runtime.
        module = load_model(
            source, model.head, model.outputs, attn_implementation="eager"
        )
        directory.mkdir(parents=True, exist_ok=True)
        _export(module, model, directory / MODEL_FILE)
        for path in source.iterdir():
            if path.name not in (WEIGHTS, MODEL_CARD):
                shutil.copy(path, directory)
    # By path: in memory it could not be larger than one protobuf file.
    onnx.checker.check_model(str(directory / MODEL_FILE), full_check=True)


def check_onnx(directory: pathlib.Path, model: PortableModel) -> None:
    """Whether every tensor is in the graph, as it is or transposed, bit by bit.

    Queries, keys and values that a file has in one tensor may be three in the graph, as in
    transformers' NomicBERT. Tensors of one value everywhere need not be, and only the
    outputs tell whether they are right.

    Raises:
        ValueError: one is not; the message names it.
    """
    onnx = library("onnx", _EXTRA, _WHAT)
    path = directory / MODEL_FILE
    found = {
        _hash(onnx.numpy_helper.to_array(initializer, str(directory)))
        for initializer in onnx.load(path).graph.initializer
    }
    rows = family_of_model(model.cfg, model.tokenizer).rows(model.cfg, model.head)
    for name, tensor in to_tensors(model.cfg, model.params, rows).items():
        # The exporter simplifies what zeros, or ones, are added to or multiplied with.
        if tensor.min() == tensor.max():
            continue
        whole, thirds = [tensor], np.array_split(tensor, 3)
        if not any(
            all({_hash(part), _hash(part.T)} & found for part in parts)
            for parts in (whole, thirds)
        ):
            raise ValueError(
                f"{path} does not hold the tensor {name!r} as it should. Please report "
                "this."
            )


def _hash(array: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    return array.shape, hashlib.sha256(array.tobytes()).digest()


def verify_onnx(directory: pathlib.Path, probe: Probe) -> dict[str, float]:
    """Largest differences between our outputs and ONNX Runtime's, on the CPU.

    See `comparison.differences`: a second run of one short row shows that batch
    and length are free and that padding does not matter.

    Raises:
        ValueError: shapes disagree, or ONNX Runtime is missing.
    """
    session = library("onnxruntime", _EXTRA, _WHAT).InferenceSession(
        directory / MODEL_FILE, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]

    def run(*arrays: np.ndarray) -> Tensors:
        feeds = zip(probe.inputs, arrays, strict=False)
        found = session.run(names, {name: x.astype(np.int64) for name, x in feeds})
        return dict(zip(names, found, strict=True))

    return differences(run, probe)


def _export(module: Any, model: PortableModel, path: pathlib.Path) -> None:
    torch = library("torch", _EXTRA, _WHAT)
    # A tensor each: the exporter takes one tensor given twice for one input. Sizes of 1
    # would become constants of the graph.
    example = {name: torch.ones((2, 4), dtype=torch.int64) for name in model.inputs}
    with torch.no_grad(), _quiet():
        torch.onnx.export(
            module,
            kwargs=example,
            f=str(path),
            input_names=list(model.inputs),
            output_names=[output.name for output in model.outputs],
            dynamic_shapes={name: {0: "batch", 1: "length"} for name in model.inputs},
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides what PyTorch's exporter says of itself and not of the model."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    no_torchvision = lambda record: "torchvision is not" not in record.getMessage()  # noqa: E731
    logger.addFilter(no_torchvision)
    try:
        with warnings.catch_warnings():
            for category, start in (
                # A class of torch's own that it looks at while it copies.
                (FutureWarning, r"`isinstance\(treespec, LeafSpec\)` is deprecated"),
                # The inputs share their axes on purpose.
                (UserWarning, r"# The axis name: (batch|length) will not be used"),
            ):
                warnings.filterwarnings("ignore", start, category)
            yield
    finally:
        logger.removeFilter(no_torchvision)
