"""Whether a training step computes the right thing on this machine, before its speed counts.

Two whole models on packed rows, each kernel and type of ours, against Hugging Face's BERT
and ModernBERT in float32 on the CPU with the same weights: losses and gradients.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.results import Table
from benchmarks.turns import Candidate, ask
from benchmarks.workload import Task, mask_rows, synthetic_batch
from bert_jax.config import ComputeConfig
from bert_jax.exchange.families.bert import BERT
from bert_jax.exchange.families.modernbert import MODERNBERT
from bert_jax.exchange.tensors import Row, to_tensors
from bert_jax.model import pretraining
from bert_jax.model.masking import MaskedBatch
from bert_jax.train.losses import pretrain_loss

KERNELS: dict[str, tuple[Any, ...]] = {
    "cpu": ("xla",),
    "gpu": ("xla", "triton", "cudnn"),
    "tpu": ("xla", "fused"),
}
"""Values of `ComputeConfig.attention` that each platform can run."""
TASKS = (
    Task(size="mini", length=128, packed=True, vocab_size=1_000),
    # Longer than the window of its layers, which is 128 tokens wide.
    Task(size="small", length=256, packed=True, vocab_size=1_000, modern=True),
)
_NUM_ROWS = 4
# cuDNN's attention takes no float32.
_TYPES = {"cudnn": ("bfloat16",)}
_SPREAD = 0.05  # of the weights: every tensor then has some influence
# In float32 as tests/test_parity_torch.py has them, where they come from ten draws. In
# bfloat16 the loss was seen to differ by 2e-4, the mean gradient by 1.2e-2 (on a CPU).
_BOUNDS = {"float32": (1e-6, 1e-4), "bfloat16": (1e-3, 5e-2)}
# A kernel of an accelerator may round float32 factors, to bfloat16 at the coarsest.
_KERNEL_ROUNDING = 4 * 2.0**-8


class Results(NamedTuple):
    """What a model computes for one batch."""

    loss: float
    gradients: dict[str, np.ndarray]
    """By Hugging Face's names."""


def compare(kernel: Any, task: dict[str, Any]) -> list[tuple[str, str, float, float]]:
    """Differences of a kernel in the types that it takes, each with its bound.

    Args:
        kernel: value of `ComputeConfig.attention`.
        task: fields of a `Task`.

    Returns:
        What was compared, the quantity, its value, and the largest that is correct.
    """
    shape = Task(**task)
    cfg = shape.model()
    params = random_params(cfg)
    tensors = to_tensors(cfg, params, rows_of(shape))
    expected = torch_results(shape, tensors)
    results = []
    for dtype in _TYPES.get(kernel, tuple(_BOUNDS)):
        compute = ComputeConfig(attention=kernel, dtype=dtype)  # type: ignore[arg-type]
        found = jax_results(shape, params, compute)
        rounding = 0.0 if kernel == "xla" else _KERNEL_ROUNDING
        mean = dtype == "bfloat16" or kernel != "xla"
        loss, gradient = differences(found, expected, mean=mean)
        loss_bound, gradient_bound = _BOUNDS[dtype]
        of = f'{shape.title}, attention "{kernel}", {dtype}'
        bound = max(gradient_bound, rounding)
        results += [
            (of, "loss, relative difference", loss, loss_bound + rounding),
            (of, "gradients, worst difference", gradient, bound),
        ]
    return results


def check(platform: str, table: Table, seconds: float) -> None:
    """Adds the differences of every kernel of a platform with their bounds.

    Args:
        platform: as JAX names it.
        table: told too which kernels fail, and which are not done after so many `seconds`.
    """
    # A process each: a kernel that fails takes no other one with it.
    candidates = [
        Candidate(
            name=f'correctness of {task.title}, attention "{kernel}"',
            runner="benchmarks.correctness:compare",
            arguments={"kernel": kernel, "task": dataclasses.asdict(task)},
        )
        for kernel in KERNELS[platform]
        for task in TASKS
    ]
    # A TPU belongs to one process at a time.
    groups = [[one] for one in candidates] if platform == "tpu" else [candidates]
    for group in groups:
        for found in ask(group, table, seconds / len(groups)):
            for of, what, value, bound in found:
                table.add(of, what, "", value, at_most=bound)
    table.end()


def differences(
    found: Results, expected: Results, *, mean: bool
) -> tuple[float, float]:
    """(relative difference of the losses, worst difference of a gradient tensor).

    Args:
        mean: the difference of a tensor is the mean over its entries; else it is the
            largest. Either is divided by the largest entry.
    """

    def error(name: str) -> float:
        difference = np.abs(found.gradients[name] - expected.gradients[name])
        size = np.abs(expected.gradients[name]).max()
        return float((difference.mean() if mean else difference.max()) / size)

    # Softmax does not see the bias of the keys: both sides hold rounding only.
    names = [name for name in expected.gradients if not name.endswith("self.key.bias")]
    worst = max(map(error, names))
    return abs(found.loss / expected.loss - 1.0), worst


def jax_results(task: Task, params: Any, compute: ComputeConfig) -> Results:
    """Ours, without dropout; float32 products are true ones on every device."""
    cfg = task.model()
    batch = synthetic_batch(task, _NUM_ROWS)
    masked = MaskedBatch(*map(jnp.asarray, mask_rows(task, batch)))

    def loss_of(params: Any) -> jax.Array:
        outputs = pretraining.apply(cfg, params, batch, masked, compute=compute)
        return pretrain_loss(outputs, batch, masked, has_labels=not task.modern)[0]

    precision = "highest" if compute.dtype == "float32" else "default"
    with jax.default_matmul_precision(precision):
        loss, grads = jax.jit(jax.value_and_grad(loss_of))(params)
    grads = jax.tree.map(np.asarray, grads)
    return Results(float(loss), to_tensors(cfg, grads, rows_of(task)))


def torch_results(task: Task, tensors: dict[str, np.ndarray]) -> Results:
    """Hugging Face's, in float32 on the CPU, without dropout."""
    import torch

    from benchmarks.step_torch import inputs_of, loss_of, make_model

    model = make_model(task).eval()
    weights = {name: torch.from_numpy(x.copy()) for name, x in tensors.items()}
    # The decoder's weights are tied to others. Any other name would show in the loss.
    model.load_state_dict(weights, strict=False)
    loss = loss_of(model, inputs_of(task, _NUM_ROWS, torch.device("cpu")))
    loss.backward()
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters()}
    return Results(loss.item(), gradients)


def rows_of(task: Task) -> tuple[Row, ...]:
    """Hugging Face's names and layouts of the tensors of a model."""
    cfg = task.model()
    return MODERNBERT.rows(cfg, "mlm") if task.modern else BERT.rows(cfg, "pretraining")


def random_params(cfg: Any) -> Any:
    """Weights of which no tensor is zero or one throughout, which would hide mistakes."""
    rng = np.random.default_rng(0)
    params = pretraining.init_params(cfg, jax.random.key(0))
    return jax.tree.map(
        lambda x: x + rng.normal(0.0, _SPREAD, x.shape).astype(np.float32), params
    )
