"""Our forward pass as a serialised computation that JAX runs without bert_jax.

`model.stablehlo` holds what `jax.export` serialises: the computation alone, for CPU,
CUDA and TPU, with batch and length open (length <= max_positions) and for one device.
The weights are its first argument, a flat dict, and lie in `model.safetensors`, under
our paths and in our layouts, rows of vocabulary padding included. `meta.json` says how
to call it, and `run.py` does so in ten lines. It cuts a text to the rows of the model's
training.

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

import dataclasses
import pathlib
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

import bert_jax
from bert_jax.exchange.comparison import Probe, differences
from bert_jax.exchange.json_files import save_json
from bert_jax.exchange.logits import PLAIN, forward, param_shapes
from bert_jax.exchange.portable import INPUTS, PortableModel
from bert_jax.exchange.tensors import (
    Params,
    check_bits,
    check_shapes,
    flatten,
    unflatten,
)
from bert_jax.exchange.tokenizer import save_huggingface_tokenizer

MODEL_FILE, WEIGHTS_FILE, META_FILE = (
    "model.stablehlo",
    "model.safetensors",
    "meta.json",
)
PLATFORMS = ("cpu", "cuda", "tpu")

_RUN = """\
# Runs the exported model on a text, or two.
# Needs jax, flatbuffers, safetensors and tokenizers; meta.json says what goes in and out.
import json, pathlib, sys, jax.export, numpy as np, safetensors.numpy, tokenizers
if not 2 <= len(sys.argv) <= 3: sys.exit("usage: python run.py TEXT [TEXT]")
here = pathlib.Path(__file__).resolve().parent
tokenizer = tokenizers.Tokenizer.from_file(str(here / "tokenizer.json"))
tokenizer.enable_truncation({length})
text = tokenizer.encode(*sys.argv[1:])
ids = [np.array([x], np.int32) for x in (text.ids, text.attention_mask, text.type_ids)]
model = jax.export.deserialize(bytearray((here / "model.stablehlo").read_bytes()))
found = model.call(safetensors.numpy.load_file(here / "model.safetensors"), *ids)
"""
_LABELS = 'json.loads((here / "meta.json").read_text(encoding="utf-8"))["labels"]'
_SHOW = {
    "mlm": 'print(tokenizer.decode(found["logits"][0].argmax(-1).tolist()))',
    "pretraining": 'print(tokenizer.decode(found["prediction_logits"][0].argmax(-1).tolist()), '
    'found["seq_relationship_logits"][0].tolist(), sep="\\n")',
    "classifier": f'print({_LABELS}[found["logits"][0].argmax()], '
    'found["logits"][0].tolist(), sep="\\n")',
    # Of several labels those with a probability above one half.
    "multilabel": f'print([label for label, x in zip({_LABELS}, found["logits"][0]) if x > 0], '
    'found["logits"][0].tolist(), sep="\\n")',
    "tokens": f'print(*(token + "\\t" + {_LABELS}[best] for token, best '
    'in zip(text.tokens, found["logits"][0].argmax(-1))), sep="\\n")',
    "spans": "print(*(text.tokens[found[name][0].argmax()] "
    'for name in ("start_logits", "end_logits")), sep="\\n")',
    "choice": 'print(found["logits"][0, 0].tolist())',
    "mean_vector": 'print(found["sentence_embedding"][0].tolist())',
    "cls_vector": 'print(found["sentence_embedding"][0].tolist())',
}


def write_stablehlo(model: PortableModel, directory: pathlib.Path) -> None:
    """Writes computation, weights, meta.json, tokenizer and run.py.

    Args:
        model: what is written. Masked-word logits are those of every position.
        directory: created if need be.

    Raises:
        ValueError: the parts do not fit each other.
    """
    from safetensors.numpy import save_file

    cfg, head = model.cfg, model.head
    weights = flatten(model.params)
    num_outputs = np.shape(weights.get(f"{head}/bias", [()]))[-1]
    check_shapes(weights, param_shapes(cfg, head, num_outputs))
    exported = _export(model, weights)
    meta = _metadata(model) | {
        "jax": jax.__version__,
        "calling_convention_version": exported.calling_convention_version,
        "platforms": list(exported.platforms),
        "dtype": PLAIN.dtype,
        "arguments": {
            "weights": f"dict: {WEIGHTS_FILE}",
            **dict.fromkeys(INPUTS, "int32 [batch, length]"),
        },
        "returns": {
            name: f"float32 [{', '.join(shape)}]" for name, shape in model.outputs
        },
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MODEL_FILE).write_bytes(exported.serialize())
    contiguous = {path: np.ascontiguousarray(array) for path, array in weights.items()}
    save_file(contiguous, directory / WEIGHTS_FILE)
    save_json(directory / META_FILE, meta)
    length = model.sequence_length or cfg.max_positions
    has_several = model.problem_type == "multi_label_classification"
    shown = _SHOW["multilabel" if has_several else head]
    program = _RUN.format(length=length) + shown + "\n"
    (directory / "run.py").write_text(program, encoding="utf-8")
    save_huggingface_tokenizer(
        *(model.tokenizer, directory, cfg.max_positions, cfg.num_segments),
        of_words=head == "tokens",
    )


def check_stablehlo(directory: pathlib.Path, model: PortableModel) -> None:
    """Raises ValueError unless the weights on disk are ours, bit by bit."""
    from safetensors.numpy import load_file

    check_bits(directory, flatten(model.params), load_file(directory / WEIGHTS_FILE))


def verify_stablehlo(directory: pathlib.Path, probe: Probe) -> dict[str, float]:
    """Largest differences between our outputs and those of the files on disk.

    See `comparison.differences`: a second run of one short row shows that batch
    and length are free and that padding does not matter.

    Raises:
        ValueError: shapes disagree, or a platform is missing from the computation.
    """
    from safetensors.numpy import load_file

    exported = jax.export.deserialize(bytearray((directory / MODEL_FILE).read_bytes()))
    if missing := set(PLATFORMS) - set(exported.platforms):
        raise ValueError(
            f"{directory / MODEL_FILE} was not lowered for {sorted(missing)}, only for "
            f"{list(exported.platforms)}; write it again."
        )
    weights = load_file(directory / WEIGHTS_FILE)

    def run(*arrays: np.ndarray) -> dict[str, jax.Array]:
        return exported.call(weights, *(x.astype(np.int32) for x in arrays))

    return differences(run, probe)


def _export(model: PortableModel, weights: Params) -> jax.export.Exported:
    cfg = model.cfg

    def program(
        weights: Params,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        token_type_ids: jax.Array,
    ) -> dict[str, jax.Array]:
        # One past its table is where the model finds NaN; -1 would be the last row.
        return forward(
            cfg,
            unflatten(weights),
            model.head,
            model.hidden_states,
            _or(input_ids, cfg.vocab_size, cfg.padded_vocab_size),
            _or(token_type_ids, cfg.num_segments, cfg.num_segments),
            (attention_mask != 0).astype(jnp.int32),
        )

    shape = jax.export.symbolic_shape(
        "batch, length", constraints=[f"length <= {cfg.max_positions}"]
    )
    ids = jax.ShapeDtypeStruct(shape, jnp.int32)
    described = {
        path: jax.ShapeDtypeStruct(array.shape, array.dtype)
        for path, array in weights.items()
    }
    with jax.default_matmul_precision("highest"):
        export = jax.export.export(jax.jit(program), platforms=PLATFORMS)
        exported = export(described, ids, ids, ids)
    assert exported.nr_devices == 1, "exported under a mesh"
    return exported


def _or(ids: jax.Array, limit: int, otherwise: int) -> jax.Array:
    return jnp.where((ids >= 0) & (ids < limit), ids, otherwise)


def _metadata(model: PortableModel) -> dict[str, Any]:
    """What a program needs to know about the model, ready for JSON."""
    return {
        "bert_jax": bert_jax.__version__,
        "head": model.head,
        "problem_type": model.problem_type,
        "labels": None if model.labels is None else list(model.labels),
        "pad_id": model.tokenizer.special.pad,
        **dataclasses.asdict(model.cfg),
    }
