"""ONNX exports in 8 bits, and what that costs on the run's own held-out examples.

ONNX Runtime's quantiser turns the weights of matrix products and the embedding tables into
int8, each output channel with a scale of its own; activations become uint8 while the model
runs (dynamic quantisation). Norms, softmax and biases stay float32.

Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

import logging
import pathlib
import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from bert_jax.batch import ClassifyBatch
from bert_jax.config import FinetuneConfig
from bert_jax.data.labelled.examples import EncodedExamples
from bert_jax.exchange.libraries import library
from bert_jax.exchange.portable import HIDDEN_STATES, INPUTS
from bert_jax.exchange.write_onnx import MODEL_FILE
from bert_jax.model.rows import MASKED_SCORE
from bert_jax.train.inference.predict import Predictor
from bert_jax.train.logits import Part, held_out_batches, in_order
from bert_jax.train.runs.run import load_run_config
from bert_jax.train.task_files import read_held_out
from bert_jax.train.tasks.task import Judged

QUANTIZED_FILE = "model_int8.onnx"
_BATCH_SIZE = 32
_TURNS = 3


def quantize_onnx(directory: pathlib.Path) -> dict[str, int]:
    """Writes model_int8.onnx beside model.onnx.

    Returns:
        The sizes of both in bytes, by file name.

    Raises:
        ValueError: ONNX Runtime or its quantiser is missing.
        OSError: there is no room for the files.
    """
    protobuf = library("google.protobuf.message", "onnx", "Quantised exports")
    quantization = library("onnxruntime.quantization", "onnx", "Quantised exports")
    advice = lambda record: "pre-processing" not in record.getMessage()  # noqa: E731
    root = logging.getLogger()
    root.addFilter(advice)  # PyTorch's exporter has done what it advises
    try:
        quantization.quantize_dynamic(
            directory / MODEL_FILE,
            directory / QUANTIZED_FILE,
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            # Not the products of two activations, as in attention.
            extra_options={"MatMulConstBOnly": True},
        )
    except protobuf.DecodeError:
        # It writes the graph with its shapes beside this one, and looks at no error.
        raise OSError(
            f"{directory}: ONNX Runtime could not read back what it wrote there, which "
            "was cut short. Make room for a file as large as model.onnx, then start the "
            "same command again."
        ) from None
    finally:
        root.removeFilter(advice)
    return {
        name: sum(x.stat().st_size for x in directory.glob(f"{name}*"))
        for name in (MODEL_FILE, QUANTIZED_FILE)
    }


def measure_quantized(
    run: pathlib.Path, directory: pathlib.Path, step: int | None = None
) -> dict[str, Any]:
    """Scores and speeds of both models on the examples that the run was judged on.

    Args:
        run: run directory of `finetune`.
        directory: an export with both files.
        step: step of the weights that were exported. Default: the best one.

    Returns:
        `scores` and `rows_per_sec` by file name; the speed is the median of three turns
        that alternate, on the CPU. Empty where the run has no held-out examples.

    Raises:
        FileNotFoundError, ValueError: the held-out file cannot be read any more, or has
            changed.
    """
    cfg = load_run_config(run)
    if not isinstance(cfg, FinetuneConfig) or cfg.task.dev is None:
        return {}
    predictor = Predictor(run, step=step)
    task = predictor.task
    held_out = read_held_out(task, cfg.task, predictor.info.data["validation"])
    encoded = predictor.encode(held_out)
    sessions = {
        name: library("onnxruntime", "onnx", "Quantised exports").InferenceSession(
            directory / name, providers=["CPUExecutionProvider"]
        )
        for name in (MODEL_FILE, QUANTIZED_FILE)
    }
    scores, seconds = {}, {name: [] for name in sessions}  # type: ignore[var-annotated]
    for _ in range(_TURNS):
        for name, session in sessions.items():
            began = time.perf_counter()
            logits = _logits(session, encoded)
            seconds[name].append(time.perf_counter() - began)
            judged = Judged(logits, encoded, held_out, predictor.outputs)
            scores[name] = task.scores(judged)
    speeds = {
        name: len(encoded) / statistics.median(found) for name, found in seconds.items()
    }
    return {"scores": scores, "rows_per_sec": speeds}


def describe_quantized(sizes: dict[str, int], measured: dict[str, Any]) -> str:
    """One line for the user."""
    whole, small = (sizes[name] for name in (MODEL_FILE, QUANTIZED_FILE))
    said = (
        f"{QUANTIZED_FILE} has {small / 1e6:.1f} MB where {MODEL_FILE} has "
        f"{whole / 1e6:.1f} MB"
    )
    if not measured:
        return (
            f"{said}; its scores were not measured, since the run has no held-out file"
        )
    before, after = (measured["scores"][x] for x in (MODEL_FILE, QUANTIZED_FILE))
    changes = ", ".join(f"{x} {before[x]:.4f} -> {after[x]:.4f}" for x in before)
    slow, fast = (measured["rows_per_sec"][x] for x in (MODEL_FILE, QUANTIZED_FILE))
    return (
        f"{said}, on the run's held-out examples: {changes}; {fast / slow:.2f} times as "
        "many rows a second on this CPU"
    )


def _logits(session: Any, encoded: EncodedExamples) -> np.ndarray:
    """Logits of all rows, in the form of `BatchedLogits`."""

    def parts() -> Iterator[Part]:
        plan = held_out_batches(encoded, _BATCH_SIZE, 0.0)
        for numbers, length in zip(*plan, strict=True):
            batch = encoded.batch(numbers, numbers.size, length)
            yield numbers, length, _of_batch(session, batch)

    return in_order(encoded, parts())


def _of_batch(session: Any, batch: ClassifyBatch) -> np.ndarray:
    """What a task's `apply` gives, by a graph that takes the rows of groups one by one."""
    *groups, length = batch.input_ids.shape
    given = (batch.input_ids, batch.input_mask, batch.segment_ids)
    feeds = [np.int64(x).reshape(-1, length) for x in given]
    there = feeds[1].any(axis=1)  # a group may lack rows
    taken = {given.name for given in session.get_inputs()}
    fed = {name: x[there] for name, x in zip(INPUTS, feeds, strict=True)}
    names = [x.name for x in session.get_outputs() if x.name != HIDDEN_STATES.name]
    found = session.run(names, {name: x for name, x in fed.items() if name in taken})
    # The ends of a span come apart.
    out = found[0] if len(found) == 1 else np.stack(found, axis=-1)
    if len(groups) == 1:
        return out
    every = np.full((there.size, *out.shape[1:]), MASKED_SCORE, out.dtype)
    every[there] = out
    # Each choice has one logit; vectors keep their axis.
    return every.reshape(*groups, *(size for size in out.shape[1:] if size > 1))
