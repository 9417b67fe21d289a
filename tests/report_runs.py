"""Small runs and datasets for the report to read, and the report of some of them."""

import json
from pathlib import Path
from typing import Any

from bert_jax.data.prepared.format import FORMAT_VERSION
from bert_jax.data.prepared.summary import summarize
from bert_jax.report.page import write_report

HOSTILE = '<script>alert("x")</script> & $\\frac{1}$ 日本 #2a5db0'


def put(path: Path, metrics: list[dict[str, Any]], results: dict[str, Any]) -> Path:
    path.mkdir()
    config = {"model": {"num_layers": 4, "gelu": "tanh"}, "seed": 17}
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    lines = "".join(json.dumps(line) + "\n" for line in metrics)
    (path / "metrics.jsonl").write_text(lines, encoding="utf-8")
    (path / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return path


def pretrain_line(step: int, **values: float) -> dict[str, Any]:
    return {
        "kind": "train",
        "step": step,
        "mlm_loss": 9.0 - step / 100,
        "mlm_accuracy": step / 1000,
        "nsp_accuracy": 0.5 + step / 1000,
        "learning_rate": 1e-4,
        "grad_norm": 1.25,
        "sequences_per_sec": 410.0,
        "tokens_per_sec": 26_000.0,
        "mfu": 0.413,
        **values,
    }


def split(documents: int, **values: float) -> dict[str, float]:
    """Of ten sentences a document, 20 tokens a sentence, four bytes a token."""
    return {
        "documents": documents,
        "sentences": 10 * documents,
        "tokens": 200 * documents,
        "bytes": 800 * documents,
        **values,
    }


MANIFEST: dict[str, Any] = {
    "format_version": FORMAT_VERSION,
    "source": "files:<i>/*.txt",
    "options": {
        "validation_fraction": 0.05,
        "duplicates": "keep",
        "near_threshold": 0.8,
        "read": {"markup": "keep", "text_field": "text"},
    },
    "tokenizer": {
        "kind": "sentencepiece",
        "lowercase": True,
        "sha256": "5c" * 32,
        "vocab_size": 8_192,
    },
    "splits": {
        "train": split(2_310, tokens=4_512_345, unigram_entropy=6.214),
        "validation": split(90, unigram_entropy=6.1),
    },
    "read": {
        "documents": 2_407,
        "disk_bytes": 7_123_456,
        "characters": 17_900_000,
        "text_bytes": 18_100_000,
        "cut_documents": 3,
        "empty_documents": 41,
        "undecodable_bytes": 1_234,
        "control_characters": 55,
        "markup_documents": 12,
        "markup_elements": 85,
    },
    "audit": {
        "unk_share": 0.0027,
        "lines": 31_411,
        "one_sentence_documents": 24,
        "documents_without_tokens": 7,
        "documents_by_length": {"512": 300, "1024": 1_500, "2048": 0, "4096": 600},
        "sentences_by_length": {"1": 2_000, "2": 10_000, "4": 8_000, "8": 4_000},
        "most_repeated_lines": [[HOSTILE, 314], ["\u202egnidaer", 2]],
        "duplicate_shards": [[0, 4], [1, 5]],
        "duplicates": {"exact": 19, "near": 37, "leaked": 9, "dropped": False},
    },
    "sha256": {
        "documents-train.array_record-00001-of-00002": "1b" * 32,
        "documents-train.array_record-00000-of-00002": "1a" * 32,
        "documents-validation.array_record-00000-of-00001": "2a" * 32,
    },
}

PRETRAIN_RESULTS: dict[str, Any] = {
    "kind": "pretrain",
    "step": 300,
    "eval": {
        "mlm_loss": 5.871,
        "mlm_accuracy": 0.287,
        "mlm_perplexity": 354.6,
        "nsp_loss": 0.61,
        "nsp_accuracy": 0.653,
        "nsp_majority": 0.512,
    },
    "unigram_entropy": 6.214,
    "num_parameters": 5_312_640,
    "num_documents": 2_310,
    "num_tokens": 4_512_345,
    "vocab_size": 8_192,
    "device": "cpu x1",
    "versions": {"jax": "0.10.2", "flax": "0.12.8"},
    "elapsed_secs": 731.4,
    "goodput": {
        "wall_secs": 1_000.0,
        "share": 0.7,
        "train_secs": 700.0,
        "input_wait_secs": 31.4,
        "compile_secs": 90.0,
        "evaluate_secs": 0.0,
        "checkpoint_secs": 8.6,
        "start_up_secs": 20.0,
        "lost_secs": 150.0,
    },
    "corpus": summarize(MANIFEST),
    "mask_examples": [
        {
            "tokens": [
                {"text": "[CLS]", "guesses": None},
                {"text": "▁the", "guesses": None},
                {"text": "▁array", "guesses": [["▁array", 0.61], ["▁matrix", 0.1]]},
                {"text": "▁multi", "guesses": None},
                {"text": "plies", "guesses": [["ply", 0.4], ["plies", 0.3]]},
                {"text": "▁soon", "guesses": [["▁now", 0.9]]},
            ]
        }
    ],
}


def put_pretrain(tmp_path: Path) -> Path:
    lines = [pretrain_line(step) for step in (100, 200, 300)]
    lines.insert(
        2,
        {
            "kind": "eval",
            "step": 200,
            "mlm_loss": 6.9,
            "mlm_accuracy": 0.2,
            "nsp_accuracy": 0.6,
        },
    )
    return put(tmp_path / "pretrain", lines, PRETRAIN_RESULTS)


def finetune_results(initial: str, accuracy: float) -> dict[str, Any]:
    encoder = {"run": "runs/p", "step": 300, "num_tensors": 37, "sha256": "9f" * 32}
    return {
        "kind": "finetune",
        "step": 40,
        "eval": {"accuracy": accuracy, "macro_f1": accuracy - 0.031, "loss": 0.5},
        "initial": initial,
        "encoder": encoder if initial == "pretrained" else None,
        "labels": ["jax", HOSTILE],
        "confusion": [[90, 10], [23, 77]],
        "num_train": 4_000,
        "num_validation": 200,
        "elapsed_secs": 66.0,
    }


FINETUNE_LINES: list[dict[str, Any]] = [
    {"kind": "train", "step": 20, "loss": 0.9, "accuracy": 0.4},
    {"kind": "train", "step": 40, "loss": 0.6, "accuracy": 0.7},
]


def put_finetunes(tmp_path: Path) -> list[Path]:
    return [
        put(tmp_path / kind, FINETUNE_LINES, finetune_results(kind, accuracy))
        for kind, accuracy in (("pretrained", 0.835), ("random", 0.741))
    ]


def put_dataset(tmp_path: Path, manifest: dict[str, Any] = MANIFEST) -> Path:
    path = tmp_path / "dataset"
    path.mkdir()
    (path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return path


def report(output: Path, **inputs: Any) -> list[Path]:
    given: dict[str, Any] = dict.fromkeys(("pretrain", "baselines", "dataset"))
    given |= {"finetunes": [], "title": "T"}
    return write_report(output, **{**given, **inputs})
