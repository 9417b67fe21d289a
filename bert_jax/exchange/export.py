"""A run's newest checkpoint in the form of another library, compared before it counts."""

import json
import pathlib
from typing import Any

import jax
import numpy as np

from bert_jax.batch import ClassifyBatch, PretrainBatch
from bert_jax.config import MeshConfig, ModelConfig
from bert_jax.exchange import huggingface
from bert_jax.model import classification, pretraining
from bert_jax.model.masking import MaskedBatch
from bert_jax.train import sharding
from bert_jax.train.checkpoint import Checkpoints, tensors_sha256
from bert_jax.train.evaluate import abstract_pretraining_params
from bert_jax.train.predict import Predictor
from bert_jax.train.run import load_results, load_run, load_run_tokenizer, write_text

EXPORT_MANIFEST = "bert_jax_export.json"
# Largest difference of logits between two float32 implementations.
TOLERANCE = 1e-5


def export_run(run: pathlib.Path, directory: pathlib.Path) -> str:
    """Writes a Hugging Face directory and says how far its logits lie from ours.

    Returns:
        One line for the user. Where PyTorch or transformers is missing, it says that
        nothing was compared.

    Raises:
        ValueError: the directory is in use, or the logits differ by more than
            `TOLERANCE`.
    """
    info = load_run(run)
    tokenizer = load_run_tokenizer(run)
    params, labels = _load_params(run, info.kind, info.model)
    sha256 = tensors_sha256(params)
    manifest_path = directory / EXPORT_MANIFEST
    if manifest_path.exists():
        manifest = json.loads(manifest_path.read_text())
        if manifest["params_sha256"] == sha256 and (
            manifest["max_logit_difference"] is not None
            or not huggingface.transformers_available()
        ):
            return f"{directory} holds this export already; {_verdict(manifest)}"
    results = _card_results(load_results(run))
    # An earlier export of ours may be replaced, anything else may not.
    overwrite = manifest_path.exists()
    if labels is None:
        huggingface.export_pretraining(
            info.model,
            params,
            tokenizer,
            directory,
            results=results,
            overwrite=overwrite,
        )
    else:
        huggingface.export_classifier(
            info.model,
            params,
            labels,
            tokenizer,
            directory,
            results=results,
            overwrite=overwrite,
        )
    difference = None
    if huggingface.transformers_available():
        difference = _compare(info.model, params, labels, directory)
    manifest = {
        "format": "huggingface",
        "run": str(run),
        "params_sha256": sha256,
        "max_logit_difference": difference,
        "tolerance": TOLERANCE,
    }
    if difference is not None and not difference <= TOLERANCE:
        raise ValueError(
            f"The export in {directory} gives logits that differ by {difference:.2e}, "
            f"more than {TOLERANCE:.0e}; do not use it, and report this."
        )
    write_text(manifest_path, json.dumps(manifest, indent=2) + "\n")
    return f"{directory} written; {_verdict(manifest)}"


def _verdict(manifest: dict[str, Any]) -> str:
    difference = manifest["max_logit_difference"]
    if difference is None:
        return (
            "not compared: install PyTorch and transformers (pip install "
            "'bert_jax[export]') and export again to load it back"
        )
    return f"loaded back by transformers, largest difference of logits {difference:.1e}"


def _load_params(
    run: pathlib.Path, kind: str, model: ModelConfig
) -> tuple[Any, tuple[str, ...] | None]:
    if kind == "finetune":
        predictor = Predictor(run)
        return jax.device_get(predictor.params), predictor.labels
    mesh = sharding.make_mesh(MeshConfig(), jax.local_devices()[:1])
    with Checkpoints(run, read_only=True) as checkpoints:
        params = checkpoints.restore_params(abstract_pretraining_params(model, mesh))
    return jax.device_get(params), None


def _card_results(results: dict[str, Any] | None) -> dict[str, object]:
    return {
        name: round(value, 4) for name, value in (results or {}).get("eval", {}).items()
    }


def _compare(
    model: ModelConfig,
    params: Any,
    labels: tuple[str, ...] | None,
    directory: pathlib.Path,
) -> float:
    """Logits of random ids, rows of several lengths and both segments."""
    rng = np.random.default_rng(0)
    rows, length = 4, min(model.max_positions, 128)
    shape = (rows, length)
    ids_BT = rng.integers(0, model.vocab_size, shape).astype(np.int32)
    ends_B = np.linspace(length // 4, length, rows).astype(int)
    mask_BT = (np.arange(length) < ends_B[:, None]).astype(np.int32)
    segments_BT = (np.arange(length) >= ends_B[:, None] // 2).astype(np.int32) * mask_BT

    def pretraining_logits(
        ids: np.ndarray, segments: np.ndarray, mask: np.ndarray
    ) -> tuple[Any, Any]:
        every = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
        one = np.zeros((rows, 1), np.int32)
        batch = PretrainBatch(ids, segments, mask, every, one, one, np.ones((rows, 1)))
        # All positions as slots, so that every logit is compared.
        masked = MaskedBatch(ids, every, ids, np.ones(shape, np.float32))  # type: ignore[arg-type]
        out = jax.jit(pretraining.apply, static_argnums=0)(model, params, batch, masked)
        return out.mlm_logits, out.nsp_logits[:, 0]

    def class_logits(ids: np.ndarray, segments: np.ndarray, mask: np.ndarray) -> Any:
        batch = ClassifyBatch(ids, segments, mask, np.zeros(rows), np.ones(rows))
        return jax.jit(classification.apply, static_argnums=0)(model, params, batch)

    with jax.default_matmul_precision("highest"):
        if labels is None:
            return huggingface.verify_pretraining(
                directory, pretraining_logits, ids_BT, segments_BT, mask_BT
            )
        return huggingface.verify_classifier(
            directory, class_logits, ids_BT, segments_BT, mask_BT
        )
