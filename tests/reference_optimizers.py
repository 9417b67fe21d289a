"""The optimizers in NumPy float64, one layer and one tensor at a time.

Written from the papers and from google-research/bert's optimization.py, without JAX
and without stacked arrays: a layer of a stack is a tensor of its own here.
"""

import math

import numpy as np


def by_layer(tree, prefix=""):
    """Nested dict -> {name: float64 array}; `layers/...` becomes `layers/0/...` etc."""
    found = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found.update(by_layer(value, f"{prefix}{key}/"))
        elif prefix.startswith("layers/"):
            for n in range(value.shape[0]):
                name = f"layers/{n}/{prefix.removeprefix('layers/')}{key}"
                found[name] = np.array(value[n], np.float64)
        else:
            found[f"{prefix}{key}"] = np.array(value, np.float64)
    return found


def is_frozen(name, parts, num_layers):
    """Whether a tensor of `by_layer` is frozen."""
    part, number, *_ = name.split("/")
    return part in parts or (part == "layers" and int(number) < num_layers)


def trained_by_layer(tree, num_frozen):
    """`by_layer` of a tree that has only the trained tensors and layers."""

    def filled(value):
        if isinstance(value, dict):
            return {k: filled(v) for k, v in value.items() if not isinstance(v, tuple)}
        return value

    tensors = by_layer(filled(tree))
    names = {}
    for name, tensor in tensors.items():
        part, number, *rest = name.split("/")
        if part == "layers":
            number = str(int(number) + num_frozen)
        names["/".join([part, number, *rest])] = tensor
    return names


def plain_rate(cfg, num_steps, step):
    """Learning rate of one phase, in Python's floats."""
    if step < cfg.warmup_steps:
        return cfg.learning_rate * step / cfg.warmup_steps
    share = min(step / num_steps, 1.0)
    decay = cfg.decay_steps or 0.2
    decay = decay if decay >= 1 else int(decay * num_steps)
    part = min(max(step - (num_steps - decay), 0) / decay, 1.0)
    falls = {
        "trapezoidal": 1.0 - (math.sqrt(part) if cfg.decay_shape == "sqrt" else part),
        "linear": 1.0 - share,
        "polynomial": math.pow(1.0 - share, cfg.decay_power),
        "cosine": 0.5 + 0.5 * math.cos(math.pi * share),
        "constant": 1.0,
    }
    return cfg.end_rate + (cfg.learning_rate - cfg.end_rate) * falls[cfg.schedule]


class Optimizer:
    """Tensors that change with every call of `step`."""

    def __init__(self, cfg, params):
        self.cfg = cfg
        self.tensors = by_layer(params)
        self.m = {name: 0.0 * w for name, w in self.tensors.items()}
        self.v = {name: 0.0 * w for name, w in self.tensors.items()}
        self.seen = 0
        self.num_clipped = 0
        self.num_slowed = 0  # by the update clipping of StableAdamW
        self.sums = {}
        self.ratios = {}

    def step(self, grads, rate):
        cfg, grads = self.cfg, by_layer(grads)
        length = math.sqrt(math.fsum((g.ravel() @ g.ravel()) for g in grads.values()))
        shrink = 1.0
        if length > cfg.clip_norm:
            shrink = cfg.clip_norm / length
            self.num_clipped += 1
        self.seen += 1
        for name, w in self.tensors.items():
            g = shrink * grads[name]
            self.m[name] += (1.0 - cfg.b1) * (g - self.m[name])
            self.v[name] += (1.0 - cfg.b2) * (g**2 - self.v[name])
            m, v = self.m[name], self.v[name]
            if self.corrected():
                m = m / (1.0 - cfg.b1**self.seen)
                v = v / (1.0 - cfg.b2**self.seen)
            u = m / (np.sqrt(v) + cfg.eps)
            is_matrix = name.startswith("layers/") and name.endswith("/kernel")
            if cfg.name == "muon" and is_matrix:
                u = self.orthogonal(name, g)
            if name.split("/")[-1] not in ("bias", "scale", "output_bias"):
                u = u + cfg.weight_decay * w
                if cfg.name == "lamb":
                    u = u * self.ratio(name, w, u)
            slower = 1.0
            if cfg.name == "stable_adamw":
                surprise = np.mean(g**2 / np.maximum(v, cfg.eps**2))
                slower = max(1.0, math.sqrt(surprise))
                self.num_slowed += slower > 1.0
            self.tensors[name] = w - rate / slower * u

    def corrected(self):
        if self.cfg.bias_correction is None:
            return self.cfg.name != "adamw"
        return self.cfg.bias_correction

    def orthogonal(self, name, g):
        """Muon's direction, from the singular values and Jordan's sum of gradients."""
        momentum = self.cfg.muon_momentum
        self.sums[name] = momentum * self.sums.get(name, 0.0) + g
        ahead = g + momentum * self.sums[name]
        inputs = g.shape[:-1] if "/out/" in name else g.shape[:1]
        matrix = ahead.reshape(math.prod(inputs), -1)
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        values = values / (math.sqrt((values**2).sum()) + 1e-8)
        for _ in range(5):
            values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
        scale = self.cfg.muon_rms * math.sqrt(max(matrix.shape))
        return scale * (left * values @ right).reshape(g.shape)

    def ratio(self, name, w, u):
        of_w, of_u = math.sqrt((w**2).sum()), math.sqrt((u**2).sum())
        ratio = of_w / of_u if of_w > 0.0 and of_u > 0.0 else 1.0
        self.ratios.setdefault(name, []).append(ratio)
        return ratio
