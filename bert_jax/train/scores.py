"""How good predictions on held-out text are: what fine-tuned models are judged by."""

from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import confusion_matrix, f1_score, matthews_corrcoef

from bert_jax.config import TaskConfig


def scores(cfg: TaskConfig, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Those of the task's kind.

    Args:
        logits: float32 [examples, outputs].
        labels: int32 [examples], or float32 [examples] of a regression.
    """
    if cfg.kind == "regression":
        return regression_scores(logits[:, 0], labels)
    return classification_scores(logits, labels)


def classification_scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, F1, Matthews correlation, and mean cross-entropy in nats as `loss`.

    `macro_f1` is the mean over classes. Where there are two, `f1` is that of the second
    one in sorted order ("1" of "0" and "1"): the positive class of MRPC. `matthews` is 0
    where labels or predictions are all of one class.

    Args:
        logits: float32 [examples, C].
        labels: int32 [examples].

    Source: Wang et al. 2019, "GLUE", section 3; Gorodkin 2004 for more than two classes.
    """
    predicted = logits.argmax(axis=1)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    found = {
        "accuracy": float((predicted == labels).mean()),
        "macro_f1": float(f1_score(labels, predicted, average="macro")),
        "matthews": float(matthews_corrcoef(labels, predicted)),
        "loss": float(-log_probs[np.arange(labels.size), labels].mean()),
    }
    if logits.shape[1] == 2:
        found["f1"] = float(f1_score(labels == 1, predicted == 1, zero_division=0.0))
    return found


def regression_scores(predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Correlations, and the mean squared error as `mse` and, for curves, `loss`.

    Args:
        predictions: float32 [examples].
        labels: float32 [examples].
    """
    x, y = predictions.astype(np.float64), labels.astype(np.float64)
    error = float(np.square(x - y).mean())
    return {
        "pearson": pearson(x, y),
        "spearman": pearson(rankdata(x), rankdata(y)),
        "mse": error,
        "loss": error,
    }


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Correlation of two float64 vectors; 0 where one is constant, and nothing known."""
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.sqrt(np.square(x).sum() * np.square(y).sum()))
    return float((x * y).sum() / norm) if norm > 0.0 else 0.0


def constant_scores(cfg: TaskConfig, labels: np.ndarray) -> dict[str, float]:
    """The best that one answer for all could score on these labels."""
    if cfg.kind == "regression":
        return {"constant_mse": float(labels.astype(np.float64).var())}
    return {"majority_accuracy": float(np.bincount(labels).max() / labels.size)}


def confusion(
    cfg: TaskConfig, logits: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """Counts by true class (rows) and predicted class; a regression has none."""
    if cfg.kind == "regression":
        return {}
    counts = confusion_matrix(
        labels, logits.argmax(axis=1), labels=range(logits.shape[1])
    )
    return {"confusion": counts.tolist()}


def show(line: dict[str, float]) -> str:
    """A line of metrics, of training or of judging, in words."""
    if "pearson" in line:
        return (
            f"MSE {line['mse']:.3f}  Pearson {line['pearson']:.3f}  Spearman "
            f"{line['spearman']:.3f}"
        )
    text = f"loss {line['loss']:.3f}"
    if "accuracy" in line:
        text += f"  accuracy {line['accuracy']:.1%}"
    if "macro_f1" in line:
        text += f"  macro-F1 {line['macro_f1']:.3f}"
    if "examples_per_sec" in line:
        text += f"  {line['examples_per_sec']:,.0f} examples/s"
    return text
