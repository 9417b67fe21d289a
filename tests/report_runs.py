"""Small runs and datasets for the report to read, and the report of some of them."""

import json
from pathlib import Path
from typing import Any

from bert_jax import config_json
from bert_jax.config import (
    DataConfig,
    FinetuneConfig,
    ModelConfig,
    PretrainConfig,
    TaskConfig,
)
from bert_jax.data.json_file import write_json
from bert_jax.data.prepared.format import FORMAT_VERSION
from bert_jax.data.prepared.manifest import write_manifest
from bert_jax.data.prepared.summary import summarize
from bert_jax.data.tokenizers.wordpiece_tokenizer import WordPieceTokenizer
from bert_jax.report.page import write_report
from bert_jax.train.runs.run import RunInfo

HOSTILE = '<script>alert("x")</script> & $\\frac{1}$ 日本 #2a5db0'
MODEL = ModelConfig(
    vocab_size=8_192, hidden_size=256, num_layers=4, num_heads=4, mlp_size=1_024
)


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
    "sources": [
        {
            "source": "files:<i>/*.txt",
            "files": 3,
            "documents": 200,
            "text_bytes": 72_000,
            "disk_bytes": 40_000,
        }
    ],
    "files_named_again": 0,
    "options": {
        "validation_fraction": 0.005,
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
        "paragraph_documents": 0,
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
    "encoder": None,
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
    "corpora": [summarize(MANIFEST)],
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


PRETRAIN_LINES: list[dict[str, Any]] = [
    {
        "kind": "train",
        "step": step,
        "mlm_loss": 9.0 - step / 100,
        "mlm_accuracy": step / 1000,
        "nsp_accuracy": 0.5 + step / 1000,
        "learning_rate": 1e-4,
        "grad_norm": 1.25,
        "tokens_per_sec": 26_000.0,
        "mfu": 0.413,
        "elapsed_secs": 2.0 * step,
    }
    for step in (100, 200, 300)
]
PRETRAIN_LINES.insert(
    2,
    {
        "kind": "eval",
        "step": 200,
        "mlm_loss": 6.9,
        "mlm_accuracy": 0.2,
        "nsp_accuracy": 0.6,
        "nsp_majority": 0.512,
    },
)
PRETRAIN_LINES.append({"kind": "eval", "step": 300, **PRETRAIN_RESULTS["eval"]})


def put(
    path: Path,
    info: RunInfo,
    cfg: PretrainConfig | FinetuneConfig,
    lines: list[dict[str, Any]],
    results: dict[str, Any] | None,
) -> Path:
    """A run directory without checkpoints; unfinished where there are no results."""
    path.mkdir(parents=True)
    write_json(path / "run.json", config_json.to_values(info))
    write_json(path / "config.json", config_json.to_values(cfg))
    written = "".join(json.dumps(line) + "\n" for line in lines)
    (path / "metrics.jsonl").write_text(written)
    if results is not None:
        write_json(path / "results.json", results)
    return path


def put_pretrain(
    path: Path,
    lines: list[dict[str, Any]] = PRETRAIN_LINES,
    results: dict[str, Any] | None = PRETRAIN_RESULTS,
    pairs: Any = "next_sentence",
    num_steps: int | None = None,
) -> Path:
    """A finished run has all its steps; `num_steps` says that more are planned."""
    info = RunInfo(
        kind="pretrain",
        model=MODEL,
        tokenizer_sha256="5c" * 32,
        data={"sha256": MANIFEST["sha256"]},
    )
    num_steps = num_steps or (results["step"] if results else 20_000)
    cfg = PretrainConfig(model=MODEL, num_steps=num_steps, data=DataConfig(pairs=pairs))
    return put(path, info, cfg, lines, results)


# What each task of `train.tasks` leaves in results.json, by its name.
EVALS: dict[str, dict[str, float]] = {
    "classification": {"accuracy": 0.835, "macro_f1": 0.804, "matthews": 0.6},
    "regression": {"pearson": 0.712, "spearman": 0.69, "mse": 1.25},
    "tokens": {"f1": 0.45, "precision": 0.5, "recall": 0.41, "accuracy": 0.93},
    "spans": {"f1": 0.61, "exact_match": 0.52},
    "glue/cola": {"matthews": 0.321, "accuracy": 0.71},
}
CONSTANTS: dict[str, dict[str, float]] = {
    "classification": {"accuracy": 0.505},
    "regression": {"mse": 2.2},
    "tokens": {"accuracy": 0.92},
    "spans": {"f1": 0.0, "exact_match": 0.0},
    "glue/cola": {"accuracy": 0.69},
}


def put_finetune(
    path: Path,
    task: str = "classification",
    *,
    encoder: dict[str, Any] | None = None,
    finished: bool = True,
    model: ModelConfig = MODEL,
    data: str = "v1",
    dev: Path | float = Path("dev.tsv"),
    **scores: float,
) -> Path:
    """A fine-tuned run of 200 held-out examples; from scratch without an encoder."""
    found = {**EVALS[task], **scores, "loss": 0.5}
    lines: list[dict[str, Any]] = [
        {"kind": "train", "step": 20, "loss": 0.9, "accuracy": 0.4},
        {"kind": "eval", "step": 20, **found, "loss": 0.8},
        {"kind": "train", "step": 40, "loss": 0.6, "accuracy": 0.7},
        {"kind": "eval", "step": 40, **found},
    ]
    labels = ("jax", HOSTILE) if task == "classification" else ("x",)
    results = {
        "kind": "finetune",
        "task": task,
        "step": 40,
        "eval": found,
        "constant": CONSTANTS[task],
        "initial": "random" if encoder is None else "pretrained",
        "encoder": encoder,
        "labels": labels,
        "num_train": 4_000,
        "num_validation": 200,
        "elapsed_secs": 66.0,
        "goodput": PRETRAIN_RESULTS["goodput"],
    }
    if task == "classification":
        results |= {
            "confusion": [[90, 10], [23, 77]],
            "per_label": [
                {
                    "label": label,
                    "precision": 0.8,
                    "recall": 0.9,
                    "f1": 0.847,
                    "support": 100,
                }
                for label in labels
            ],
            "calibration": {
                "bins": [[40, 0.62, 0.55], [160, 0.95, 0.91]],
                "ece": 0.046,
                "temperature": 1.31,
                "ece_at_temperature": 0.012,
            },
            "hardest": [
                {
                    "number": 17,
                    "text": HOSTILE,
                    "truth": HOSTILE,
                    "said": "jax 99.1%",
                    "loss": 4.71,
                }
            ],
        }
    info = RunInfo(
        kind="finetune",
        model=model,
        tokenizer_sha256="5c" * 32,
        data={"train": "t", "validation": data},
        task=task,
        labels=labels,
        encoder=encoder,
    )
    cfg = FinetuneConfig(
        checkpoint=Path("runs/p"),
        from_scratch=encoder is None,
        task=TaskConfig(kind=task, train=Path("train.tsv"), dev=dev),
    )
    return put(path, info, cfg, lines, results if finished else None)


def origin(run: Path, step: int = 300, sha256: str = "9f" * 32) -> dict[str, Any]:
    """What a run that starts from `run` notes of it."""
    return {"run": str(run), "step": step, "num_tensors": 37, "sha256": sha256}


def put_baselines(path: Path, data: str = "v1") -> Path:
    path.mkdir()
    results = {
        "kind": "baselines",
        "task": "classification",
        "data": {"train": "t", "validation": data},
        "baselines": {
            "majority": {"accuracy": 0.505, "macro_f1": 0.333},
            "tfidf_logistic_regression": {"accuracy": 0.802, "macro_f1": 0.797},
        },
        "num_train": 4_000,
        "num_validation": 200,
        "seconds": 2.3,
    }
    write_json(path / "results.json", results)
    return path


def put_dataset(path: Path, manifest: dict[str, Any] = MANIFEST) -> Path:
    """A prepared dataset whose shards are empty: the report reads the manifest only."""
    path.mkdir()
    vocabulary = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n"
    tokenizer = WordPieceTokenizer(vocabulary, lowercase=True)
    tokenizer.save(path / "tokenizer")
    about = {**manifest["tokenizer"], "sha256": tokenizer.sha256}
    write_manifest(path, {**manifest, "tokenizer": about})
    for name in manifest["sha256"]:
        (path / name).touch()
    return path


def report(output: Path, **inputs: Any) -> list[Path]:
    return write_report(output, **{"title": "T", **inputs})
