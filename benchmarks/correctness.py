"""Whether training computes the right thing on this machine, before its speed counts.

Ours against PyTorch on the same weights and rows, and packed rows against the same
sequences alone, through the whole model: losses, logits, gradients.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.correctness_rows import Rows, changed, packed_rows, unpacked
from benchmarks.measure import Findings
from benchmarks.peers import MissingPeerError, require
from benchmarks.run_settings import RunSettings
from benchmarks.train_models import Task
from bert_jax.config import ModelConfig
from bert_jax.exchange.families.bert import BERT
from bert_jax.exchange.tensors import to_tensors
from bert_jax.model import pretraining
from bert_jax.model.isolation import IsolationError, prove_isolation
from bert_jax.train.losses import pretrain_loss

_TASK = Task(size="mini", length=128, packed=True, vocab_size=1_000)
_NUM_ROWS = 4
_SPREAD = 0.05  # of weights: leaves every tensor with some influence
KERNELS: dict[str, tuple[Any, ...]] = {
    "cpu": ("xla",),
    "gpu": ("xla", "triton"),
    "tpu": ("xla", "fused", "splash"),
}
"""Values of ModelConfig.attention that each platform can run."""
_LENGTHS = (128, 512)
_DROPOUT = 0.1

# As tests/test_parity_torch.py has them for float32, where they come from ten draws.
_LOGITS, _LOSS, _GRADIENTS = 1e-5, 1e-6, 1e-4
# What kernels of an accelerator may round float32 factors to: bfloat16 at the coarsest.
_KERNEL_FACTORS = 2.0**-8
# Of bfloat16 as tests/test_model.py has it, 2e-2 in the mean over values of unit variance.
# Loss and gradients: seen were 4e-5 and 1.2e-2 (a bias of two entries) on a CPU.
_BFLOAT16_LOGITS, _BFLOAT16_LOSS, _BFLOAT16_GRADIENTS = 2e-2, 1e-3, 5e-2


class _Computed(NamedTuple):
    loss: float
    mlm_logits: np.ndarray  # [B, M, V]
    nsp_logits: np.ndarray  # [B, P, 2]
    gradients: dict[str, np.ndarray]


def check(settings: RunSettings, findings: Findings) -> None:
    """Everything; a figure that misses its bound means that speeds say nothing."""
    cfg = _TASK.model()
    params = _random_params(cfg)
    rows = packed_rows(_TASK, _NUM_ROWS)
    apart = unpacked(rows)
    for kernel in KERNELS[settings.platform]:
        with_kernel = dataclasses.replace(
            cfg,
            attention=kernel,
            # It cannot drop weights.
            attention_dropout_rate=0.0 if kernel == "splash" else _DROPOUT,
        )
        try:
            _prove_kernel(findings, with_kernel)
            _compare_packed(findings, with_kernel, params, rows, apart)
        except ValueError as error:
            findings.left_out(f'attention "{kernel}"', error)
    try:
        require("torch", "transformers")
    except MissingPeerError as error:
        findings.left_out("ours against PyTorch", error)
    else:
        _compare_with_torch(findings, cfg, params, apart)


def _prove_kernel(findings: Findings, cfg: ModelConfig) -> None:
    """The proof that every run makes, for both types and lengths."""
    failures, note = 0, ""
    dtypes: tuple[Any, ...] = ("float32", "bfloat16")
    for dtype in dtypes:
        for length in _LENGTHS:
            typed = dataclasses.replace(cfg, compute_dtype=dtype)
            try:
                prove_isolation(typed, num_tokens=length)
            except IsolationError as error:
                failures, note = failures + 1, str(error)
    findings.figure(
        f'attention "{cfg.attention}" alone, T={" and ".join(map(str, _LENGTHS))}, both '
        "types, with dropout and without: proofs of isolation that failed",
        "",
        failures,
        at_most=0,
        note=note,
    )


def _compare_packed(
    findings: Findings, cfg: ModelConfig, params: Any, rows: Rows, apart: Rows
) -> None:
    what = f'attention "{cfg.attention}", whole model, float32'
    whole, alone = _run(cfg, params, rows), _run(cfg, params, apart)
    # Slots out of use predict something too; it counts nowhere.
    used = apart.masked.weights[..., None] > 0
    alone = alone._replace(mlm_logits=np.where(used, alone.mlm_logits, 0.0))
    factors = 0.0 if cfg.attention == "xla" else _KERNEL_FACTORS
    bounds = (bound + 4 * factors for bound in (_LOSS, _LOGITS, _GRADIENTS))
    _report(
        findings, f"{what}: packed and unpacked", _aligned(whole, apart), alone, *bounds
    )
    other = _run(cfg, params, changed(rows))
    kept = [number for number, (_, pair) in enumerate(apart.origin) if pair != 0]
    before, after = (_aligned(one, apart).mlm_logits[kept] for one in (whole, other))
    moved = _aligned(whole, apart).mlm_logits != _aligned(other, apart).mlm_logits
    if not moved.any():
        raise RuntimeError(
            "the change of a sequence did not even change its own logits"
        )
    findings.figure(
        f"{what}: logits of others that change with a sequence",
        "",
        float((before != after).sum()),
        at_most=0,
    )


def _compare_with_torch(
    findings: Findings, cfg: ModelConfig, params: Any, rows: Rows
) -> None:
    from benchmarks.correctness_torch import run_torch

    tensors = to_tensors(cfg, params, BERT.rows(cfg, "pretraining"))
    theirs = _Computed(*run_torch(_TASK, tensors, rows))
    # Softmax does not see a key bias: both sides hold rounding only.
    names = [name for name in theirs.gradients if not name.endswith("self.key.bias")]
    theirs = theirs._replace(gradients={n: theirs.gradients[n] for n in names})
    both: tuple[tuple[Any, tuple[float, float, float]], ...] = (
        ("float32", (_LOSS, _LOGITS, _GRADIENTS)),
        ("bfloat16", (_BFLOAT16_LOSS, _BFLOAT16_LOGITS, _BFLOAT16_GRADIENTS)),
    )
    for dtype, bounds in both:
        mine = _run(dataclasses.replace(cfg, compute_dtype=dtype), params, rows)
        gradients = {name: mine.gradients[name] for name in names}
        _report(
            findings,
            f"ours, {dtype}, and PyTorch, float32",
            mine._replace(gradients=gradients),
            theirs,
            *bounds,
            mean=dtype == "bfloat16",
        )


def _report(
    findings: Findings,
    what: str,
    found: _Computed,
    expected: _Computed,
    loss: float = _LOSS,
    logits: float = _LOGITS,
    gradients: float = _GRADIENTS,
    *,
    mean: bool = False,
) -> None:
    """Differences and their bounds.

    Args:
        mean: of logits and of each gradient, bound the mean difference; else the largest.
    """
    reduce = np.mean if mean else np.max
    kind = "mean" if mean else "largest"
    findings.figure(
        f"{what}: loss",
        "relative",
        abs(found.loss / expected.loss - 1.0),
        at_most=loss,
    )
    findings.figure(
        f"{what}: logits, {kind} difference",
        "",
        max(
            float(reduce(np.abs(getattr(found, name) - getattr(expected, name))))
            for name in ("mlm_logits", "nsp_logits")
        ),
        at_most=logits,
    )

    def error(name: str) -> float:
        difference = np.abs(found.gradients[name] - expected.gradients[name])
        return float(reduce(difference) / np.abs(expected.gradients[name]).max())

    worst = max(expected.gradients, key=error)
    findings.figure(
        f"{what}: gradients, {kind} difference over the largest entry",
        "",
        error(worst),
        at_most=gradients,
        note=worst,
    )


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.value_and_grad, argnums=1, has_aux=True)
def _compute(cfg: ModelConfig, params: Any, rows: Any, masked: Any) -> Any:
    outputs = pretraining.apply(cfg, params, rows, masked)
    return pretrain_loss(outputs, rows, masked)[0], outputs


def _run(cfg: ModelConfig, params: Any, rows: Rows) -> _Computed:
    """Loss, logits and gradients without dropout; float32 products are true ones."""
    precision = "highest" if cfg.compute_dtype == "float32" else "default"
    with jax.default_matmul_precision(precision):
        (loss, outputs), grads = _compute(cfg, params, rows.batch, rows.masked)
    grads = jax.tree.map(np.asarray, grads)
    gradients = to_tensors(cfg, grads, BERT.rows(cfg, "pretraining"))
    return _Computed(
        float(loss),
        np.asarray(outputs.mlm_logits)[..., : cfg.vocab_size],
        np.asarray(outputs.nsp_logits),
        {
            name: x
            for name, x in gradients.items()
            if not name.endswith("self.key.bias")
        },
    )


def _aligned(whole: _Computed, apart: Rows) -> _Computed:
    """Results of packed rows in the order of the same sequences alone."""
    weights = apart.masked.weights
    mlm = np.zeros((*weights.shape, whole.mlm_logits.shape[-1]), np.float32)
    nsp = np.zeros((len(weights), 1, 2), np.float32)
    for number, (b, p) in enumerate(apart.origin):
        slots = apart.slots[number]
        mlm[number, : len(slots)] = whole.mlm_logits[b, slots]
        nsp[number, 0] = whole.nsp_logits[b, p]
    return whole._replace(mlm_logits=mlm, nsp_logits=nsp)


def _random_params(cfg: ModelConfig) -> Any:
    """No tensor is zero or one throughout, which would hide mistakes."""
    shapes = jax.eval_shape(
        functools.partial(pretraining.init_params, cfg), jax.random.key(0)
    )
    rng = np.random.default_rng(0)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        centre = float(jax.tree_util.keystr(path).endswith("['scale']"))
        return rng.normal(centre, _SPREAD, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)
