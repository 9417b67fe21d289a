"""A run's weights in the form of another library, compared before it counts."""

import dataclasses
import importlib.util
import pathlib
from collections.abc import Callable
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np

from bert_jax.config import FinetuneConfig
from bert_jax.config.checks import require_type
from bert_jax.data.whole_directory import whole_directory
from bert_jax.exchange.comparison import (
    ALLOWED,
    Probe,
    allowed_differences,
    make_probe,
)
from bert_jax.exchange.heads import MLM_PARTS, head_of_run, problem_type_of_run
from bert_jax.exchange.json_files import load_json, save_json
from bert_jax.exchange.portable import LABELLED, VECTORS, PortableModel
from bert_jax.exchange.quantized import (
    describe_quantized,
    measure_quantized,
    quantize_onnx,
)
from bert_jax.exchange.sentence_transformers_model import (
    verify_sentence_transformers,
    write_sentence_transformers,
)
from bert_jax.exchange.tensors import Head
from bert_jax.exchange.transformers_model import verify_huggingface
from bert_jax.exchange.write_google import check_google, write_google
from bert_jax.exchange.write_huggingface import check_huggingface, write_huggingface
from bert_jax.exchange.write_onnx import check_onnx, verify_onnx, write_onnx
from bert_jax.exchange.write_stablehlo import (
    check_stablehlo,
    verify_stablehlo,
    write_stablehlo,
)
from bert_jax.runtime.explanations import naming
from bert_jax.runtime.jax_settings import our_settings
from bert_jax.train.initial import load_params
from bert_jax.train.mesh import one_device
from bert_jax.train.runs.results_file import load_results
from bert_jax.train.runs.run import load_run_config, load_run_tokenizer
from bert_jax.train.tensors import tensors_sha256

Format = Literal["huggingface", "tensorflow", "onnx", "stablehlo"]
Quantize = Literal["none", "int8"]
EXPORT_MANIFEST = "bert_jax_export.json"
FORMAT_VERSION = 2


class _Form(NamedTuple):
    """How one format is written and compared with our model."""

    write: Callable[[PortableModel, pathlib.Path], tuple[str, ...] | None]
    """Writes a directory; returns sentences for the user."""
    check: Callable[[pathlib.Path, PortableModel], None]
    """Raises ValueError unless every weight is in the files, bit by bit."""
    verify: Callable[[pathlib.Path, Probe], dict[str, float]] | None
    """Runs what was written: output -> its largest difference from ours. `None` where no
    library runs it."""
    verify_needs: tuple[str, ...]
    """Modules without which the export is not run."""
    extra: str
    """The extra of bert_jax that installs them."""
    what: str
    """How it was compared, for the user."""


_FORMS: dict[Format, _Form] = {
    "huggingface": _Form(
        *(write_huggingface, check_huggingface, verify_huggingface),
        verify_needs=("torch", "transformers"),
        extra="export",
        what="loaded back by transformers",
    ),
    "tensorflow": _Form(
        *(write_google, check_google, None),
        verify_needs=(),
        extra="",
        what="read back through TensorFlow",
    ),
    "onnx": _Form(
        *(write_onnx, check_onnx, verify_onnx),
        verify_needs=("onnxruntime",),
        extra="onnx",
        what="run by ONNX Runtime",
    ),
    "stablehlo": _Form(
        *(write_stablehlo, check_stablehlo, verify_stablehlo),
        verify_needs=(),
        extra="",
        what="loaded back from its files",
    ),
}


# What "huggingface" is for a model that gives vectors: the same files, and some more.
_SENTENCE_TRANSFORMERS = _Form(
    *(write_sentence_transformers, check_huggingface, verify_sentence_transformers),
    verify_needs=("torch", "transformers", "sentence_transformers"),
    extra="export",
    what="loaded back by sentence-transformers",
)


def _form_of(to: Format, head: Head) -> _Form:
    if to == "huggingface" and head in VECTORS:
        return _SENTENCE_TRANSFORMERS
    return _FORMS[to]


@our_settings()
def export_run(
    run: pathlib.Path,
    directory: pathlib.Path,
    to: Format,
    *,
    step: int | None = None,
    mlm_only: bool = False,
    hidden_states: bool = False,
    quantize: Quantize = "none",
) -> str:
    """Writes a run for another library and says how far its logits lie from ours.

    Args:
        run: of `pretrain`, `finetune` or `import`.
        directory: absent, empty, or an earlier export, which is replaced. It appears
            complete or not at all.
        to: the format.
        step: step of the weights. Default: the best one that the run keeps, else that of
            the newest checkpoint.
        mlm_only: of a pretraining run, leave out the pooler and the next-sentence head.
        hidden_states: the encoder's last hidden states become an output, too. For
            "onnx" and "stablehlo"; the other formats give them anyway.
        quantize: for "onnx", "int8" adds a second graph in 8 bits, and measures both on
            the run's held-out examples.

    Returns:
        One line for the user. Where the library to compare with is missing, it says
        that nothing was run.

    Raises:
        ValueError: the directory is in use, the format cannot express the model, its
            library is missing, a weight is not in the files as it is here, or the
            outputs differ by more than rounding explains.
    """
    for name, given, known in (
        ("to", to, tuple(_FORMS)),
        ("quantize", quantize, get_args(Quantize)),
    ):
        if given not in known:
            raise ValueError(f"{name}={given!r} is not one of {', '.join(known)}.")
    require_type("step", step, int, np.integer, NoneType)
    require_type("mlm_only", mlm_only, bool)
    require_type("hidden_states", hidden_states, bool)
    if hidden_states and to not in ("onnx", "stablehlo"):
        raise ValueError(
            f"--hidden-states would be ignored: a {to} export holds the whole encoder, "
            "whose hidden states its library returns on request. Leave the flag out."
        )
    if quantize != "none" and to != "onnx":
        raise ValueError(
            f"--quantize {quantize} would be ignored: only ONNX exports are quantised. Add "
            "--to onnx, or leave the flag out."
        )
    model = dataclasses.replace(
        _portable(run, step, mlm_only=mlm_only), hidden_states=hidden_states
    )
    manifest: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "format": to,
        "run": str(run),
        "step": model.step,
        "head": model.head,
        "outputs": [output.name for output in model.outputs],
        "params_sha256": tensors_sha256(model.params),
        "dtype": "float32",
    }
    earlier = _read_manifest(directory)
    with (
        whole_directory(directory, overwrite=earlier is not None) as partial,
        naming(directory),
    ):
        manifest |= export_model(model, partial, to)
        said = f"{directory} written; {_verdict(manifest, _form_of(to, model.head))}"
        if quantize == "int8":
            sizes = quantize_onnx(partial)
            measured = measure_quantized(run, partial, step)
            manifest["int8"] = {"bytes": sizes, **measured}
            said += f". {describe_quantized(sizes, measured)}"
        save_json(partial / EXPORT_MANIFEST, manifest)
    return said


def export_model(
    model: PortableModel, directory: pathlib.Path, to: Format
) -> dict[str, Any]:
    """Writes a model, reads every weight back, and runs what was written.

    Args:
        model: what is written.
        directory: created if need be.
        to: the format.

    Returns:
        How the comparison came out, for the manifest; empty where the library that runs
        the export is missing.

    Raises:
        ValueError: as for `export_run`.
    """
    form = _form_of(to, model.head)
    for note in form.write(model, directory) or ():
        print(f"note: {note}")
    form.check(directory, model)
    if not all(importlib.util.find_spec(name) for name in form.verify_needs):
        return {}
    return _compare(form, model, directory)


def _portable(run: pathlib.Path, step: int | None, *, mlm_only: bool) -> PortableModel:
    mesh = one_device()
    loaded = load_params(run, mesh, step=step)
    params = jax.device_get(loaded.params)
    cfg = load_run_config(run)
    head = head_of_run(cfg)
    if mlm_only:
        if head != "pretraining":
            raise ValueError(
                f"--mlm-only takes parts of a pretraining run; {run} is a "
                f"{loaded.info.kind} run."
            )
        head = "mlm"
        params = {part: params[part] for part in MLM_PARTS if part in params}
    # The results are those of the default.
    scores = (load_results(run) or {}).get("eval", {}) if step is None else {}
    return PortableModel(
        *(loaded.info.model, params, head, load_run_tokenizer(run)),
        dropout=cfg.dropout,
        labels=loaded.info.labels if head in LABELLED else None,
        problem_type=problem_type_of_run(loaded.info),
        results={"held-out data": {k: round(v, 4) for k, v in scores.items()}},
        step=loaded.step,
        sequence_length=loaded.info.sequence_length or None,
        long_texts=cfg.long_texts if isinstance(cfg, FinetuneConfig) else "cut",
    )


def _compare(
    form: _Form, model: PortableModel, directory: pathlib.Path
) -> dict[str, Any]:
    """What the manifest says about the comparison.

    Raises:
        ValueError: the outputs differ by more than rounding explains.
    """
    if form.verify is None:
        return {
            "differences": {},
            "rule": "every weight is read back and equal bit by bit; no outputs are "
            "compared, because no library runs such a model",
        }
    probe = make_probe(model)
    allowed = allowed_differences(model, probe)
    found = form.verify(directory, probe)
    for output in probe.signature:
        name, reach = output.name, probe.largest(output)
        if not found[name] <= allowed[name]:
            raise ValueError(
                f"The {name} of the export differ from ours by {found[name]:.1e}; "
                f"rounding explains {allowed[name]:.1e} in this model, where they reach "
                f"{reach:.3g}. Nothing was written. Please report this."
            )
    return {
        "differences": {
            output.name: {
                "largest": found[output.name],
                "allowed": allowed[output.name],
                "largest_output": probe.largest(output),
            }
            for output in probe.signature
        },
        "rule": f"allowed is {ALLOWED:g} times the largest change of our own outputs when "
        "every weight is moved to a neighbouring float32 number",
    }


def _read_manifest(directory: pathlib.Path) -> dict[str, Any] | None:
    path = directory / EXPORT_MANIFEST
    return load_json(path) if path.exists() else None


def _verdict(manifest: dict[str, Any], form: _Form) -> str:
    if "differences" not in manifest:
        return (
            "every weight was read back, but nothing was compared: "
            f"{' and '.join(form.verify_needs)} are needed to run it (pip install "
            f"'bert_jax[{form.extra}]'); export again to compare"
        )
    said = (
        f"{name} (to {x['largest_output']:.3g}) differ by at most {x['largest']:.1e} "
        f"where rounding explains {x['allowed']:.1e}"
        for name, x in manifest["differences"].items()
    )
    return "; ".join([f"{form.what}: every weight bit by bit", *said])
