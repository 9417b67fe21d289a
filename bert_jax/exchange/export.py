"""A run's newest checkpoint in the form of another library, compared before it counts."""

import functools
import importlib.util
import json
import pathlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from bert_jax.batch import ClassifyBatch, PretrainBatch
from bert_jax.config import DropoutConfig, MeshConfig, ModelConfig
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.data.whole_directory import whole_directory
from bert_jax.exchange.names import Head, Params
from bert_jax.model import classification, pretraining
from bert_jax.model.masking import MaskedBatch
from bert_jax.train.checkpoint import tensors_sha256
from bert_jax.train.initial import load_params
from bert_jax.train.mesh import make_mesh
from bert_jax.train.run import (
    load_results,
    load_run_config,
    load_run_tokenizer,
    write_text,
)

Format = Literal["huggingface", "tensorflow", "onnx", "stablehlo"]
EXPORT_MANIFEST = "bert_jax_export.json"
FORMAT_VERSION = 1
# Largest difference of logits between two float32 implementations.
TOLERANCE = 1e-5


class Probe(NamedTuple):
    """Ids to compare on, and our logits of them."""

    outputs: tuple[np.ndarray, ...]
    input_ids: np.ndarray  # int32 [B, T]
    segment_ids: np.ndarray  # int32 [B, T]
    mask: np.ndarray  # int32 [B, T], 1 on real tokens


class _Parts(NamedTuple):
    """What there is of a run to write."""

    model: tuple[ModelConfig, Params, Head, Tokenizer]
    dropout: DropoutConfig
    labels: tuple[str, ...] | None
    results: dict[str, dict[str, object]]
    step: int


class _Form(NamedTuple):
    """How one format is written and held against ours."""

    write: Callable[[_Parts, pathlib.Path], None]
    verify: Callable[[pathlib.Path, Head, Probe], float]
    verify_needs: tuple[str, ...]
    """Modules without which the export is written and not compared."""
    extra: str
    what: str


def export_run(
    run: pathlib.Path, directory: pathlib.Path, to: Format, *, mlm_only: bool = False
) -> str:
    """Writes a run for another library and says how far its logits lie from ours.

    Args:
        run: of `pretrain`, `finetune` or `import`.
        directory: absent, empty, or an earlier export, which is replaced. It appears
            complete or not at all.
        to: the format.
        mlm_only: of a pretraining run, leave out the pooler and the next-sentence head.

    Returns:
        One line for the user. Where the library to compare with is missing, it says
        that nothing was compared.

    Raises:
        ValueError: the directory is in use, the format cannot express the model, its
            library is missing, or the logits differ by more than `TOLERANCE`.
    """
    form = _FORMS[to]
    loaded = load_params(run, make_mesh(MeshConfig(), jax.local_devices()[:1]))
    params = jax.device_get(loaded.params)
    head: Head = "pretraining" if loaded.info.kind == "pretrain" else "classifier"
    probe = functools.partial(make_probe, loaded.info.model, params, head)
    if mlm_only:
        if (to, head) != ("huggingface", "pretraining"):
            raise ValueError(
                f"--mlm-only takes parts of a pretraining run for huggingface; {run} is "
                f"a {loaded.info.kind} run and goes to {to}."
            )
        head = "mlm"
        params = {part: params[part] for part in ("embed", "layers", "mlm")}
    sha256 = tensors_sha256(params)
    can_verify = all(importlib.util.find_spec(name) for name in form.verify_needs)
    earlier = _read_manifest(directory)
    if (
        earlier is not None
        and (earlier["params_sha256"], earlier["format"]) == (sha256, to)
        and (earlier["max_logit_difference"] is not None or not can_verify)
    ):
        return f"{directory} holds this export already; {_verdict(earlier, form)}"
    with whole_directory(directory, overwrite=earlier is not None) as partial:
        parts = _Parts(
            (loaded.info.model, params, head, load_run_tokenizer(run)),
            load_run_config(run).dropout,
            loaded.info.labels,
            _card_results(load_results(run)),
            loaded.step,
        )
        form.write(parts, partial)
        difference = None
        if can_verify:
            ours = probe()
            if head == "mlm":
                ours = ours._replace(outputs=ours.outputs[:1])
            difference = form.verify(partial, head, ours)
            if not difference <= TOLERANCE:
                raise ValueError(
                    f"The export gives logits that differ by {difference:.2e}, more "
                    f"than {TOLERANCE:.0e}; nothing was written. Please report this."
                )
        manifest = {
            "format_version": FORMAT_VERSION,
            "format": to,
            "run": str(run),
            "step": loaded.step,
            "head": head,
            "params_sha256": sha256,
            "max_logit_difference": difference,
            "tolerance": TOLERANCE,
            "dtype": "float32",
        }
        write_text(partial / EXPORT_MANIFEST, json.dumps(manifest, indent=2) + "\n")
    return f"{directory} written; {_verdict(manifest, form)}"


def make_probe(model: ModelConfig, params: Params, head: Head) -> Probe:
    """Random ids, rows of several lengths and both segments, with our logits."""
    rng = np.random.default_rng(0)
    rows, length = 4, min(model.max_positions, 128)
    shape = (rows, length)
    ids_BT = rng.integers(0, model.vocab_size, shape).astype(np.int32)
    ends_B = np.linspace(length // 4, length, rows).astype(int)
    mask_BT = (np.arange(length) < ends_B[:, None]).astype(np.int32)
    segments_BT = (np.arange(length) >= ends_B[:, None] // 2).astype(np.int32)
    segments_BT = segments_BT * mask_BT * (model.num_segments > 1)

    outputs: tuple[np.ndarray, ...]
    with jax.default_matmul_precision("highest"):
        if head == "pretraining":
            every = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
            one = np.zeros((rows, 1), np.int32)
            batch = PretrainBatch(
                *(ids_BT, segments_BT, mask_BT, every, one, one, np.ones((rows, 1)))
            )
            # All positions as slots, so that every logit is compared.
            masked = MaskedBatch(ids_BT, every, ids_BT, np.ones(shape, np.float32))  # type: ignore[arg-type]
            apply = jax.jit(pretraining.apply, static_argnums=0)
            out = apply(model, params, batch, masked)
            outputs = (np.asarray(out.mlm_logits), np.asarray(out.nsp_logits)[:, 0])
        else:
            labelled = ClassifyBatch(
                *(ids_BT, segments_BT, mask_BT, np.zeros(rows, np.int32), np.ones(rows))
            )
            classify = jax.jit(classification.apply, static_argnums=0)
            outputs = (np.asarray(classify(model, params, labelled)),)
    return Probe(outputs, ids_BT, segments_BT, mask_BT)


def _write_huggingface(parts: _Parts, directory: pathlib.Path) -> None:
    from bert_jax.exchange.huggingface import write_huggingface

    write_huggingface(
        *parts.model,
        directory,
        dropout=parts.dropout,
        labels=parts.labels,
        results=parts.results,
    )


def _verify_huggingface(directory: pathlib.Path, head: Head, probe: Probe) -> float:
    from bert_jax.exchange.verify import verify_huggingface

    return verify_huggingface(directory, head, *probe)


def _write_tensorflow(parts: _Parts, directory: pathlib.Path) -> None:
    from bert_jax.exchange.write_google import write_google

    for note in write_google(
        *parts.model,
        directory,
        dropout=parts.dropout,
        labels=parts.labels,
        step=parts.step,
    ):
        print(f"note: {note}")


def _verify_tensorflow(directory: pathlib.Path, head: Head, probe: Probe) -> float:
    """Through our own reader: no library runs these models any more."""
    from bert_jax.exchange import names
    from bert_jax.exchange.read_google import read_google

    lowercase = json.loads((directory / "tokenizer_config.json").read_text())
    source = read_google(directory, lowercase=lowercase["do_lower_case"])
    read = names.from_tensors(source.model, source.tensors, head, "google")
    if read.missing:
        raise ValueError(f"{directory} lacks {read.missing} when it is read back.")
    again = make_probe(source.model, read.params, head)
    gaps = zip(probe.outputs, again.outputs, strict=True)
    return max(float(np.abs(ours - theirs).max()) for ours, theirs in gaps)


def _write_onnx(parts: _Parts, directory: pathlib.Path) -> None:
    from bert_jax.exchange.onnx_graph import write_onnx

    write_onnx(*parts.model, directory, labels=parts.labels)


def _verify_onnx(directory: pathlib.Path, head: Head, probe: Probe) -> float:
    from bert_jax.exchange.onnx_graph import verify_onnx

    return verify_onnx(directory, head, *probe)


def _write_stablehlo(parts: _Parts, directory: pathlib.Path) -> None:
    from bert_jax.exchange.stablehlo import write_stablehlo

    write_stablehlo(*parts.model, directory, labels=parts.labels)


def _verify_stablehlo(directory: pathlib.Path, head: Head, probe: Probe) -> float:
    from bert_jax.exchange.stablehlo import verify_stablehlo

    return verify_stablehlo(directory, head, *probe)


_FORMS: dict[Format, _Form] = {
    "huggingface": _Form(
        *(_write_huggingface, _verify_huggingface),
        verify_needs=("torch", "transformers"),
        extra="export",
        what="loaded back by transformers",
    ),
    "tensorflow": _Form(
        *(_write_tensorflow, _verify_tensorflow),
        verify_needs=("tensorflow",),
        extra="tf",
        what="read back through TensorFlow",
    ),
    "onnx": _Form(
        *(_write_onnx, _verify_onnx),
        verify_needs=("onnxruntime",),
        extra="onnx",
        what="run by ONNX Runtime",
    ),
    "stablehlo": _Form(
        *(_write_stablehlo, _verify_stablehlo),
        verify_needs=(),
        extra="",
        what="loaded back from its files",
    ),
}


def _read_manifest(directory: pathlib.Path) -> dict[str, Any] | None:
    path = directory / EXPORT_MANIFEST
    return json.loads(path.read_text()) if path.exists() else None


def _verdict(manifest: dict[str, Any], form: _Form) -> str:
    difference = manifest["max_logit_difference"]
    if difference is None:
        return (
            f"not compared: {' and '.join(form.verify_needs)} are needed for that (pip "
            f"install 'bert_jax[{form.extra}]'); export again to compare"
        )
    return f"{form.what}, largest difference of logits {difference:.1e}"


def _card_results(results: dict[str, Any] | None) -> dict[str, dict[str, object]]:
    found = (results or {}).get("eval", {})
    return {"held-out data": {k: round(v, 4) for k, v in found.items()}}
