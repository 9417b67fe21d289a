"""A run's newest checkpoint in the form of another library, compared before it counts."""

import importlib.util
import pathlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from bert_jax.config import DropoutConfig, MeshConfig, ModelConfig
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.data.whole_directory import whole_directory
from bert_jax.exchange.comparison import Probe, make_probe
from bert_jax.exchange.google_files import TOKENIZER_CONFIG_FILE
from bert_jax.exchange.heads import MLM_PARTS, head_of_run, problem_type_of_run
from bert_jax.exchange.json_files import load_json, save_json
from bert_jax.exchange.read_google import read_google
from bert_jax.exchange.signature import LABELLED
from bert_jax.exchange.tensors import Head, Params, from_tensors
from bert_jax.exchange.transformers_model import verify_huggingface
from bert_jax.exchange.write_google import write_google
from bert_jax.exchange.write_huggingface import write_huggingface
from bert_jax.exchange.write_onnx import verify_onnx, write_onnx
from bert_jax.exchange.write_stablehlo import verify_stablehlo, write_stablehlo
from bert_jax.runtime.jax_settings import our_settings
from bert_jax.train.checkpoint import tensors_sha256
from bert_jax.train.initial import load_params
from bert_jax.train.mesh import make_mesh
from bert_jax.train.run import load_results, load_run_config, load_run_tokenizer

Format = Literal["huggingface", "tensorflow", "onnx", "stablehlo"]
EXPORT_MANIFEST = "bert_jax_export.json"
FORMAT_VERSION = 1
# Largest difference of logits between two float32 implementations.
TOLERANCE = 1e-5


class _Parts(NamedTuple):
    """What there is of a run to write."""

    model: tuple[ModelConfig, Params, Head, Tokenizer]
    dropout: DropoutConfig
    labels: tuple[str, ...] | None
    problem_type: str | None
    results: dict[str, dict[str, object]]
    step: int


class _Form(NamedTuple):
    """How one format is written and compared with our logits."""

    write: Callable[[_Parts, pathlib.Path], None]
    verify: Callable[[pathlib.Path, Head, Probe], float]
    verify_needs: tuple[str, ...]
    """Modules without which the export is written and not compared."""
    extra: str
    """The extra of bert_jax that installs them."""
    what: str
    """How it was compared, for the user."""


@our_settings()
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
    cfg, params = loaded.info.model, jax.device_get(loaded.params)
    head = head_of_run(loaded.info)
    if mlm_only:
        if head != "pretraining":
            raise ValueError(
                f"--mlm-only takes parts of a pretraining run; {run} is a "
                f"{loaded.info.kind} run."
            )
        head = "mlm"
        params = {part: params[part] for part in MLM_PARTS}
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
            (cfg, params, head, load_run_tokenizer(run)),
            load_run_config(run).dropout,
            loaded.info.labels if head in LABELLED else None,
            problem_type_of_run(loaded.info),
            _card_results(load_results(run)),
            loaded.step,
        )
        form.write(parts, partial)
        difference = None
        if can_verify:
            difference = form.verify(partial, head, make_probe(cfg, params, head))
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
        save_json(partial / EXPORT_MANIFEST, manifest)
    return f"{directory} written; {_verdict(manifest, form)}"


def _write_huggingface(parts: _Parts, directory: pathlib.Path) -> None:
    write_huggingface(
        *parts.model,
        directory,
        dropout=parts.dropout,
        labels=parts.labels,
        problem_type=parts.problem_type,
        results=parts.results,
    )


def _write_tensorflow(parts: _Parts, directory: pathlib.Path) -> None:
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
    settings = load_json(directory / TOKENIZER_CONFIG_FILE)
    source = read_google(directory, lowercase=settings["do_lower_case"])
    read = from_tensors(source.model, source.tensors, source.rows(head))
    if read.missing:
        raise ValueError(f"{directory} lacks {read.missing} when it is read back.")
    again = make_probe(source.model, read.params, head)
    return max(
        float(np.abs(ours - again.outputs[name]).max())
        for name, ours in probe.outputs.items()
    )


def _write_onnx(parts: _Parts, directory: pathlib.Path) -> None:
    write_onnx(
        *parts.model,
        directory,
        dropout=parts.dropout,
        labels=parts.labels,
        problem_type=parts.problem_type,
    )


def _write_stablehlo(parts: _Parts, directory: pathlib.Path) -> None:
    write_stablehlo(*parts.model, directory, labels=parts.labels)


_FORMS: dict[Format, _Form] = {
    "huggingface": _Form(
        *(_write_huggingface, verify_huggingface),
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
        *(_write_onnx, verify_onnx),
        verify_needs=("onnxruntime",),
        extra="onnx",
        what="run by ONNX Runtime",
    ),
    "stablehlo": _Form(
        *(_write_stablehlo, verify_stablehlo),
        verify_needs=(),
        extra="",
        what="loaded back from its files",
    ),
}


def _read_manifest(directory: pathlib.Path) -> dict[str, Any] | None:
    path = directory / EXPORT_MANIFEST
    return load_json(path) if path.exists() else None


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
