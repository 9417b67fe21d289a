"""Our forward pass as a serialised computation that JAX runs without bert_jax.

`model.stablehlo` holds what `jax.export` serialises: the computation alone, for CPU,
CUDA and TPU, with batch and length open (length <= max_positions) and for one device.
The weights are its first argument, a flat dict, and lie in `model.safetensors`, under
our paths and in our layouts, rows of vocabulary padding included. `meta.json` says how
to call it, and `run.py` does so in ten lines.

How long a file stays good: JAX promises to run it in versions up to 6 months newer, and
3 weeks older, than the one that wrote it (docs.jax.dev, "Exporting and serializing
staged-out computations", compatibility guarantees). `meta.json` names that version.

Float32 products are exported at the highest precision, so that GPU and TPU give the
CPU's numbers instead of rounding to TensorFloat-32 or bfloat16 on their own; a model
that was trained with compute_dtype="bfloat16" runs as it was trained.

An id outside its table gives NaN, never another row; a text longer than max_positions
is refused when the call is compiled ("symbolic shape constraint length <= ...").

Shape suffixes: B rows, T tokens.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from bert_jax.batch import ClassifyBatch, PretrainBatch
from bert_jax.config import ComputeConfig, ModelConfig
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.data.whole_directory import whole_directory
from bert_jax.exchange import portable
from bert_jax.exchange.names import Head, Params, flatten, to_tensors, unflatten
from bert_jax.exchange.tokenizer import save_huggingface_tokenizer
from bert_jax.model import (
    classification,
    pretraining,
    question_answering,
    token_classification,
)
from bert_jax.model.masking import MaskedBatch

MODEL_FILE, WEIGHTS_FILE, META_FILE = (
    "model.stablehlo",
    "model.safetensors",
    "meta.json",
)
PLATFORMS = ("cpu", "cuda", "tpu")

_RUN = """\
# Runs the exported model on a text, or two:  python run.py TEXT [TEXT]
# Needs jax, flatbuffers, safetensors and tokenizers; meta.json says what goes in and out.
import json, pathlib, sys, jax.export, numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer
here = pathlib.Path(__file__).resolve().parent
tokenizer = Tokenizer.from_file(str(here / "tokenizer.json"))
text = tokenizer.encode(*sys.argv[1:3])
ids = [np.array([x], np.int32) for x in (text.ids, text.attention_mask, text.type_ids)]
model = jax.export.deserialize(bytearray((here / "model.stablehlo").read_bytes()))
found = model.call(load_file(here / "model.safetensors"), *ids)
"""
# For every platform at once, so without the kernels of one.
_COMPUTE = ComputeConfig(attention="xla", products="xla", scan_layers=True)
_LABELS = 'json.loads((here / "meta.json").read_text(encoding="utf-8"))["labels"]'
_SHOW: dict[Head, str] = {
    "pretraining": 'print(tokenizer.decode(found["prediction_logits"][0].argmax(-1).tolist()), '
    'found["seq_relationship_logits"][0].tolist(), sep="\\n")',
    "classifier": f'print({_LABELS}[found["logits"][0].argmax()], '
    'found["logits"][0].tolist(), sep="\\n")',
    "tokens": f'print(*(token + "\\t" + {_LABELS}[best] for token, best '
    'in zip(text.tokens, found["logits"][0].argmax(-1))), sep="\\n")',
    "spans": "print(*(text.tokens[found[name][0].argmax()] "
    'for name in ("start_logits", "end_logits")), sep="\\n")',
}


def write_stablehlo(
    cfg: ModelConfig,
    params: Params,
    head: Head,
    tokenizer: Tokenizer,
    directory: pathlib.Path,
    *,
    labels: Sequence[str] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes computation, weights, meta.json, tokenizer and run.py.

    Pretraining gives MLM logits of all positions. `directory` must be absent or empty
    unless `overwrite` is set, and appears at once, complete, or not at all.

    Raises:
        ValueError: `directory` is taken, or the parts do not fit each other.
    """
    from safetensors.numpy import save_file

    portable.check_parts(cfg, params, head, tokenizer, labels)
    to_tensors(cfg, params, head, "huggingface")  # for what it refuses
    weights = flatten(params)
    exported = _export(cfg, head, weights)
    meta = portable.metadata(cfg, head, tokenizer, labels) | {
        "jax": jax.__version__,
        "calling_convention_version": exported.calling_convention_version,
        "platforms": list(exported.platforms),
        "dtype": _COMPUTE.dtype,
        "arguments": {
            "weights": f"dict: {WEIGHTS_FILE}",
            **dict.fromkeys(portable.INPUTS, "int32 [batch, length]"),
        },
        "returns": {
            name: f"float32 [{', '.join(shape)}]"
            for name, shape in portable.OUTPUTS[head]
        },
    }
    with whole_directory(directory, overwrite) as folder:
        (folder / MODEL_FILE).write_bytes(exported.serialize())
        contiguous = {
            path: np.ascontiguousarray(array) for path, array in weights.items()
        }
        save_file(contiguous, folder / WEIGHTS_FILE)
        text = json.dumps(meta, indent=2) + "\n"
        (folder / META_FILE).write_text(text, encoding="utf-8")
        program = f"{_RUN}{_SHOW[head]}\n"
        (folder / "run.py").write_text(program, encoding="utf-8")
        save_huggingface_tokenizer(tokenizer, folder, cfg.max_positions)


def verify_stablehlo(
    directory: pathlib.Path,
    head: Head,
    outputs: Sequence[Any],
    input_ids: np.ndarray,
    segment_ids: np.ndarray,
    mask: np.ndarray,
) -> float:
    """Largest difference between our logits and those of the files on disk.

    See `portable.largest_difference`: a second run of one short row shows that batch
    and length are free and that padding does not matter.

    Raises:
        ValueError: shapes disagree, or a platform is missing from the computation.
    """
    from safetensors.numpy import load_file

    directory = pathlib.Path(directory)
    exported = jax.export.deserialize(bytearray((directory / MODEL_FILE).read_bytes()))
    if missing := set(PLATFORMS) - set(exported.platforms):
        raise ValueError(
            f"{directory / MODEL_FILE} was not lowered for {sorted(missing)}, only for "
            f"{list(exported.platforms)}; write it again."
        )
    weights = load_file(directory / WEIGHTS_FILE)

    def run(*arrays: np.ndarray) -> dict[str, jax.Array]:
        return exported.call(weights, *(x.astype(np.int32) for x in arrays))

    return portable.largest_difference(run, head, outputs, input_ids, segment_ids, mask)


def _export(cfg: ModelConfig, head: Head, weights: Params) -> jax.export.Exported:
    def model(
        weights: Params,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        token_type_ids: jax.Array,
    ) -> dict[str, jax.Array]:
        batch = ClassifyBatch(
            # One past its table is where the model finds NaN; -1 would be the last row.
            _or(input_ids, cfg.vocab_size, cfg.padded_vocab_size),
            _or(token_type_ids, cfg.num_segments, cfg.num_segments),
            (attention_mask != 0).astype(jnp.int32),
            labels=None,
            weights=None,
        )
        return _outputs(cfg, unflatten(weights), head, batch)

    shape = jax.export.symbolic_shape(
        "batch, length", constraints=[f"length <= {cfg.max_positions}"]
    )
    ids = jax.ShapeDtypeStruct(shape, jnp.int32)
    described = {
        path: jax.ShapeDtypeStruct(array.shape, array.dtype)
        for path, array in weights.items()
    }
    with jax.default_matmul_precision("highest"):
        export = jax.export.export(jax.jit(model), platforms=PLATFORMS)
        exported = export(described, ids, ids, ids)
    assert exported.nr_devices == 1, "exported under a mesh"
    return exported


def _or(ids: jax.Array, limit: int, otherwise: int) -> jax.Array:
    return jnp.where((ids >= 0) & (ids < limit), ids, otherwise)


def _outputs(
    cfg: ModelConfig, params: Params, head: Head, batch: ClassifyBatch
) -> dict[str, jax.Array]:
    """Float32 logits under the names of `portable.OUTPUTS`."""
    if head == "pretraining":
        return _pretraining(cfg, params, batch)
    if head == "classifier":
        return {"logits": classification.apply(cfg, params, batch, compute=_COMPUTE)}
    if head == "tokens":
        return {
            "logits": token_classification.apply(cfg, params, batch, compute=_COMPUTE)
        }
    ends_BT2 = question_answering.apply(cfg, params, batch, compute=_COMPUTE)
    return {"start_logits": ends_BT2[..., 0], "end_logits": ends_BT2[..., 1]}


def _pretraining(
    cfg: ModelConfig, params: Params, batch: ClassifyBatch
) -> dict[str, jax.Array]:
    ids_BT = batch.input_ids
    every_BT = jnp.broadcast_to(
        jnp.arange(ids_BT.shape[1], dtype=jnp.int32)[None], ids_BT.shape
    )
    first_B1 = jnp.zeros((ids_BT.shape[0], 1), jnp.int32)
    rows = PretrainBatch(
        ids_BT,
        batch.segment_ids,
        batch.input_mask,
        every_BT,
        cls_positions=first_B1,
        nsp_labels=None,
        nsp_weights=None,
    )
    # Every position is a slot, so that all have logits.
    slots = MaskedBatch(ids_BT, every_BT, ids_BT, batch.input_mask)
    out = pretraining.apply(cfg, params, rows, slots, compute=_COMPUTE)
    return {
        "prediction_logits": out.mlm_logits[..., : cfg.vocab_size],
        "seq_relationship_logits": out.nsp_logits[:, 0],
    }
