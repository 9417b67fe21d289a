"""Our parameters as an ONNX model for ONNX Runtime and others like it.

Everything is float32, whatever `ModelConfig.compute_dtype` says.

A text longer than the position table and an id beyond a table end the run of the CPU
provider with an error that names the table; other providers may not look. A negative
id counts from the end of its table, as everywhere in ONNX.

Shape suffixes: B rows, T tokens.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from bert_jax.config import ModelConfig
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.data.whole_directory import whole_directory
from bert_jax.exchange import portable
from bert_jax.exchange.names import Head, Params, Tensors, to_tensors
from bert_jax.exchange.onnx_nodes import build_model, library
from bert_jax.exchange.tokenizer import save_huggingface_tokenizer

MODEL_FILE = "model.onnx"
# A protobuf file ends at 2 GiB; the nodes and their names need some of that.
EXTERNAL_BYTES = 2**31 - 2**26


def write_onnx(
    cfg: ModelConfig,
    params: Params,
    head: Head,
    tokenizer: Tokenizer,
    directory: pathlib.Path,
    *,
    labels: Sequence[str] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes model.onnx and the tokenizer; batch and length stay free.

    Weights of 2 GiB and more go to model.onnx.data beside it. Sizes, GELU and labels
    are in the model's metadata properties, as JSON each. `directory` must be absent or
    empty unless `overwrite` is set, and appears at once, complete, or not at all.

    Raises:
        ValueError: `directory` is taken, the parts do not fit each other, or the
            library is missing.
    """
    onnx = library("onnx")
    portable.check_parts(cfg, params, head, tokenizer, labels)
    tensors = to_tensors(cfg, params, head, "huggingface")
    model = build_model(cfg, head, tensors)
    properties = portable.metadata(cfg, head, tokenizer, labels)
    onnx.helper.set_model_props(
        model, {name: json.dumps(value) for name, value in properties.items()}
    )
    size = sum(array.nbytes for array in tensors.values())
    with whole_directory(directory, overwrite) as folder:
        onnx.save_model(
            model,
            folder / MODEL_FILE,
            save_as_external_data=size > EXTERNAL_BYTES,
            location=f"{MODEL_FILE}.data",
        )
        # By path: in memory it could not be larger than one protobuf file.
        onnx.checker.check_model(str(folder / MODEL_FILE), full_check=True)
        save_huggingface_tokenizer(tokenizer, folder, cfg.max_positions)


def verify_onnx(
    directory: pathlib.Path,
    head: Head,
    outputs: Sequence[Any],
    input_ids: np.ndarray,
    segment_ids: np.ndarray,
    mask: np.ndarray,
) -> float:
    """Largest difference between our logits and ONNX Runtime's, on the CPU.

    See `portable.largest_difference`: a second run of one short row shows that batch
    and length are free and that padding does not matter.

    Raises:
        ValueError: shapes disagree, or ONNX Runtime is missing.
    """
    session = library("onnxruntime").InferenceSession(
        pathlib.Path(directory) / MODEL_FILE, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]

    def run(*arrays: np.ndarray) -> Tensors:
        feeds = zip(portable.INPUTS, arrays, strict=True)
        found = session.run(names, {name: x.astype(np.int64) for name, x in feeds})
        return dict(zip(names, found, strict=True))

    return portable.largest_difference(run, head, outputs, input_ids, segment_ids, mask)
