"""BERT in NumPy and float64, written from the paper and unlike the JAX model.

It knows neither padding nor packing: the tokens of one sequence are taken out of
their row and encoded alone, one head and one query at a time. Whatever the model does
with masks, scans, einsums and kernels must come to the same numbers.

Shape suffixes: B rows, T tokens, P pairs of a row, M masked slots, L layers, D hidden,
N heads, H head width, F feed-forward, V vocabulary.
"""

import math
from typing import NamedTuple

import numpy as np

from bert_jax.config import ModelConfig


class Outputs(NamedTuple):
    """As the model's, without vocabulary padding; NaN where a token is padding."""

    hidden: np.ndarray  # [B, T, D]
    pooled: np.ndarray  # [B, P, D]
    mlm_logits: np.ndarray  # [B, M, V]
    nsp_logits: np.ndarray  # [B, P, 2]


def encoder_shapes(cfg: ModelConfig) -> dict:
    """Embeddings, layers and the pooler."""
    num, d, f = cfg.num_layers, cfg.hidden_size, cfg.mlp_size
    heads = (cfg.num_heads, cfg.hidden_size // cfg.num_heads)
    projection = {"kernel": (num, d, *heads), "bias": (num, *heads)}
    return {
        "embed": {
            "token": {"embedding": (-(-cfg.vocab_size // 128) * 128, d)},
            "position": {"embedding": (cfg.max_positions, d)},
            "segment": {"embedding": (cfg.num_segments, d)},
            "norm": {"scale": (d,), "bias": (d,)},
        },
        "layers": {
            "attention": {
                **{name: dict(projection) for name in ("query", "key", "value")},
                "out": {"kernel": (num, *heads, d), "bias": (num, d)},
                "norm": {"scale": (num, d), "bias": (num, d)},
            },
            "mlp": {
                "up": {"kernel": (num, d, f), "bias": (num, f)},
                "down": {"kernel": (num, f, d), "bias": (num, d)},
                "norm": {"scale": (num, d), "bias": (num, d)},
            },
        },
        "pooler": {"kernel": (d, d), "bias": (d,)},
    }


def pretrain_shapes(cfg: ModelConfig) -> dict:
    d = cfg.hidden_size
    return encoder_shapes(cfg) | {
        "mlm": {
            "transform": {"kernel": (d, d), "bias": (d,)},
            "norm": {"scale": (d,), "bias": (d,)},
            "output_bias": (-(-cfg.vocab_size // 128) * 128,),
        },
        "nsp": {"kernel": (d, 2), "bias": (2,)},
    }


def text_shapes(cfg: ModelConfig, head: str, num_labels: int) -> dict:
    """Of "classifier", "tokens" or "spans"; only the first has a pooler."""
    d = cfg.hidden_size
    linear = {"kernel": (d, num_labels), "bias": (num_labels,)}
    shapes = encoder_shapes(cfg) | {head: linear}
    if head != "classifier":
        del shapes["pooler"]
    return shapes


def classifier_shapes(cfg: ModelConfig, num_labels: int) -> dict:
    return text_shapes(cfg, "classifier", num_labels)


def flatten(tree: dict, prefix: str = "") -> dict:
    """Nested dicts to one dict with "a/b/c" keys."""
    flat = {}
    for name, value in tree.items():
        path = f"{prefix}/{name}" if prefix else name
        flat |= flatten(value, path) if isinstance(value, dict) else {path: value}
    return flat


def unflatten(flat: dict) -> dict:
    tree: dict = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree


def random_params(shapes: dict, seed: int = 0) -> dict:
    """Normal(0, 0.2) everywhere, norm scales around 1: zero biases hide mistakes."""
    draw = np.random.default_rng(seed).normal
    return unflatten(
        {
            path: draw(float(path.endswith("scale")), 0.2, shape).astype(np.float32)
            for path, shape in flatten(shapes).items()
        }
    )


def gelu(x: np.ndarray, kind: str) -> np.ndarray:
    """Hendrycks and Gimpel 2016: x times the normal distribution function."""

    def exact(value: float) -> float:
        return 0.5 * value * (1.0 + math.erf(value / math.sqrt(2.0)))

    def tanh(value: float) -> float:
        inner = math.sqrt(2.0 / math.pi) * (value + 0.044715 * value**3)
        return 0.5 * value * (1.0 + math.tanh(inner))

    one = {"exact": exact, "tanh": tanh}[kind]
    return np.array([one(value) for value in x.ravel().tolist()]).reshape(x.shape)


def layer_norm(x: np.ndarray, p: dict, eps: float) -> np.ndarray:
    """Over the last axis; the variance is the biased one."""
    out = np.empty_like(x)
    for index in np.ndindex(x.shape[:-1]):
        centred = x[index] - math.fsum(x[index]) / x.shape[-1]
        variance = math.fsum(centred**2) / x.shape[-1]
        out[index] = centred / math.sqrt(variance + eps) * p["scale"] + p["bias"]
    return out


def attention(x_TD: np.ndarray, p: dict) -> np.ndarray:
    """One sequence without padding; one head and one query at a time."""
    out_TD = np.tile(p["out"]["bias"], (x_TD.shape[0], 1))
    for n in range(p["query"]["kernel"].shape[1]):
        q_TH, k_TH, v_TH = (
            x_TD @ p[name]["kernel"][:, n] + p[name]["bias"][n]
            for name in ("query", "key", "value")
        )
        for t in range(x_TD.shape[0]):
            score_T = k_TH @ q_TH[t] / math.sqrt(q_TH.shape[-1])
            weight_T = np.exp(score_T - score_T.max())
            context_H = (weight_T / weight_T.sum()) @ v_TH
            out_TD[t] += context_H @ p["out"]["kernel"][n]
    return out_TD


def encode(
    cfg: ModelConfig, p: dict, ids_T: list, segments_T: list, positions_T: list
) -> np.ndarray:
    """Hidden states [T, D] of one sequence that has no padding."""
    eps, embed = cfg.layer_norm_eps, p["embed"]
    x_TD = np.stack(
        [
            embed["token"]["embedding"][token]
            + embed["position"]["embedding"][position]
            + embed["segment"]["embedding"][segment]
            for token, segment, position in zip(
                ids_T, segments_T, positions_T, strict=True
            )
        ]
    )
    x_TD = layer_norm(x_TD, embed["norm"], eps)
    flat = flatten(p["layers"])
    for index in range(cfg.num_layers):
        layer = unflatten({path: value[index] for path, value in flat.items()})
        attend, mlp = layer["attention"], layer["mlp"]
        x_TD = layer_norm(x_TD + attention(x_TD, attend), attend["norm"], eps)
        up_TF = gelu(x_TD @ mlp["up"]["kernel"] + mlp["up"]["bias"], cfg.gelu)
        down_TD = up_TF @ mlp["down"]["kernel"] + mlp["down"]["bias"]
        x_TD = layer_norm(x_TD + down_TD, mlp["norm"], eps)
    return x_TD


def encode_rows(cfg: ModelConfig, p: dict, input_ids, batch) -> np.ndarray:
    """Hidden states [B, T, D]; the sequences of a packed row never meet."""
    rows, length = np.shape(input_ids)
    hidden = np.full((rows, length, cfg.hidden_size), np.nan)
    for b in range(rows):
        sequence_T = np.asarray(batch.sequence_ids[b])
        for sequence in sorted(set(sequence_T.tolist()) - {0}):
            where = np.flatnonzero(sequence_T == sequence)
            columns = (input_ids[b], batch.segment_ids[b], batch.position_ids[b])
            hidden[b, where] = encode(cfg, p, *(np.asarray(c)[where] for c in columns))
    return hidden


def pool(p: dict, hidden_D: np.ndarray) -> np.ndarray:
    return np.tanh(hidden_D @ p["pooler"]["kernel"] + p["pooler"]["bias"])


def mlm_logits(cfg: ModelConfig, p: dict, hidden_D: np.ndarray) -> np.ndarray:
    """Logits [V] of one masked position, through the tied token table."""
    dense = p["mlm"]["transform"]
    x_D = gelu(hidden_D @ dense["kernel"] + dense["bias"], cfg.gelu)
    x_D = layer_norm(x_D, p["mlm"]["norm"], cfg.layer_norm_eps)
    table_VD = p["embed"]["token"]["embedding"][: cfg.vocab_size]
    return table_VD @ x_D + p["mlm"]["output_bias"][: cfg.vocab_size]


def to_float64(tree: dict) -> dict:
    return unflatten(
        {path: np.asarray(x, np.float64) for path, x in flatten(tree).items()}
    )


def heads(cfg: ModelConfig, params: dict, hidden, batch, masked) -> Outputs:
    """Pooled states and the logits of both heads, from given hidden states."""
    p = to_float64(params)
    hidden = np.asarray(hidden, np.float64)
    rows = range(len(hidden))
    pooled = [[pool(p, hidden[b, t]) for t in batch.cls_positions[b]] for b in rows]
    mlm = [
        [mlm_logits(cfg, p, hidden[b, t]) for t in masked.positions[b]] for b in rows
    ]
    nsp = [[x_D @ p["nsp"]["kernel"] + p["nsp"]["bias"] for x_D in b] for b in pooled]
    return Outputs(hidden, np.array(pooled), np.array(mlm), np.array(nsp))


def pretrain(cfg: ModelConfig, params: dict, batch, masked) -> Outputs:
    """Everything that the pretraining model returns."""
    hidden = encode_rows(cfg, to_float64(params), masked.input_ids, batch)
    return heads(cfg, params, hidden, batch, masked)


def text_logits(cfg: ModelConfig, head: str, params: dict, batch) -> np.ndarray:
    """Logits [B, C] over the first token, or [B, T, C] with NaN on padding."""
    p = to_float64(params)
    rows, length = np.shape(batch.input_ids)
    logits = np.full((rows, length, p[head]["bias"].size), np.nan)
    for b in range(rows):
        real = np.flatnonzero(batch.input_mask[b])
        ids, segments = batch.input_ids[b][real], batch.segment_ids[b][real]
        for t, x_D in zip(real, encode(cfg, p, ids, segments, real), strict=True):
            x_D = pool(p, x_D) if head == "classifier" else x_D
            logits[b, t] = x_D @ p[head]["kernel"] + p[head]["bias"]
    return logits[:, 0] if head == "classifier" else logits


def mean_loss(logits, labels, weights) -> tuple[float, float]:
    """(loss, accuracy): cross-entropy in nats, both weighted means; 0 without weight.

    Leading dimensions of the three agree; they are walked through one slot at a time.
    """
    loss = hits = total = 0.0
    for index in np.ndindex(np.shape(labels)):
        weight, label = float(weights[index]), int(labels[index])
        if weight == 0.0:
            continue
        scores = np.asarray(logits[index], np.float64)
        log_sum = math.log(np.exp(scores - scores.max()).sum()) + scores.max()
        loss += weight * (log_sum - scores[label])
        hits += weight * float(scores.argmax() == label)
        total += weight
    return (loss / total, hits / total) if total else (0.0, 0.0)


def losses(outputs: Outputs, batch, masked) -> dict[str, float]:
    mlm = mean_loss(outputs.mlm_logits, masked.labels, masked.weights)
    nsp = mean_loss(outputs.nsp_logits, batch.nsp_labels, batch.nsp_weights)
    return {
        "mlm_loss": mlm[0],
        "mlm_accuracy": mlm[1],
        "nsp_loss": nsp[0],
        "nsp_accuracy": nsp[1],
    }


def text_loss(head: str, logits: np.ndarray, targets: np.ndarray) -> float:
    """Mean cross-entropy in nats over what is labelled; nothing negative is.

    Args:
        targets: [B] classes, [B, T] classes of tokens, or [B, 2] places of the ends.
    """
    if head == "spans":
        ends = []
        for end in range(2):
            inside = [b for b, t in enumerate(targets[:, end]) if t < logits.shape[1]]
            found = []
            for b in inside:
                scores = logits[b, :, end]
                scores = scores[~np.isnan(scores)]  # padding is at the end of a row
                found.append(mean_loss(scores[None], targets[[b], end], np.ones(1))[0])
            ends.append(math.fsum(found) / len(found))
        return sum(ends) / 2
    return mean_loss(logits, targets, np.asarray(targets) >= 0)[0]


def pretrain_loss(cfg: ModelConfig, params: dict, batch, masked) -> float:
    named = losses(pretrain(cfg, params, batch, masked), batch, masked)
    return named["mlm_loss"] + named["nsp_loss"]


def slope(function, params: dict, path: str, direction: np.ndarray) -> float:
    """Derivative of `function(params)` along one tensor: Richardson of two steps.

    In float64 the error is about 1e-11 of the function's own size.
    """
    flat = flatten(to_float64(params))

    def central(step: float) -> float:
        plus, minus = (
            function(unflatten(flat | {path: flat[path] + sign * step * direction}))
            for sign in (1.0, -1.0)
        )
        return (plus - minus) / (2.0 * step)

    return (4.0 * central(5e-4) - central(1e-3)) / 3.0
