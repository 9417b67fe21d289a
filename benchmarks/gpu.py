"""The one command for a machine with an NVIDIA GPU: is it correct, and how fast is it?

    python -m benchmarks.gpu [--minutes 7] [--output DIR]

Correctness first, then peaks of large products, our attention kernels beside PyTorch's, and
training steps beside PyTorch's. Needs jax[cuda13], PyTorch with CUDA and transformers, but
neither TFDS nor Grain nor any text. Writes `gpu-MACHINE-DATE.md` and `.json`. Ctrl-C keeps
the tables that are complete.
"""

import dataclasses
import functools
import pathlib
import sys
from typing import Any

import tyro

from benchmarks.machine import start_report
from benchmarks.results import Report
from benchmarks.train import PLANS, correct_and_peaks, measure_models
from benchmarks.turns import (
    Candidate,
    Clock,
    RepeatedStep,
    measure,
    ratios,
)

_HERE = pathlib.Path(__file__).resolve().parent
_DROPOUT = 0.1
_HEAD_SIZE = 64
_KERNELS = ("triton", "xla")
# Rows, tokens of a row, heads: of BERT-base at 128, BERT-large at 512.
_SHAPES = ((256, 128, 12), (32, 512, 16))
_ATTENTION_ROUNDS = 5
_ATTENTION_SHARE = 0.2
_TURN_SECS = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Correctness, peaks, attention and training steps on an NVIDIA GPU."""

    minutes: float = 7.0
    """Most that the whole run takes. What does not fit is named as not measured."""
    output: pathlib.Path = _HERE / "results"
    """Folder of the two result files."""


class JaxAttention(RepeatedStep):
    """Forward and backward pass of `attend` with dropout, in bfloat16."""

    def __init__(self, kernel: str, rows: int, tokens: int, heads: int) -> None:
        """Compiles it for rows of two equal sequences and heads that are 64 wide."""
        import jax
        import jax.numpy as jnp

        from bert_jax.config import DropoutConfig
        from bert_jax.model.attention import attend
        from bert_jax.model.dropout import Dropout
        from bert_jax.model.rows import Rows

        keys = jax.random.split(jax.random.key(0), 4)
        shape = (rows, tokens, heads, _HEAD_SIZE)
        q, k, v, d_out = (jax.random.normal(key, shape, jnp.bfloat16) for key in keys)
        ids = jnp.broadcast_to(1 + jnp.arange(tokens) // (tokens // 2), shape[:2])
        attention = functools.partial(
            attend,
            rows=Rows(ids, ids),
            kernel=kernel,  # type: ignore[arg-type]
            dropout=Dropout.of(DropoutConfig(attention=_DROPOUT), keys[0], rows),
        )

        def step(*inputs: jax.Array) -> Any:
            out, vjp = jax.vjp(attention, *inputs)
            return out, vjp(d_out)

        self._step, self._inputs = jax.jit(step), (q, k, v)
        self._wait: Any = jax.block_until_ready
        self.warm_up()

    def run(self, count: int) -> None:
        results = [self._step(*self._inputs) for _ in range(count)]
        self._wait(results[-1])


class TorchAttention(RepeatedStep):
    """The same with PyTorch's scaled dot-product attention."""

    def __init__(self, rows: int, tokens: int, heads: int, packed: bool) -> None:
        """Draws the inputs. `packed` keeps the two sequences of a row apart by a mask;
        without one, PyTorch's fastest kernel can run."""
        import torch

        shape = (rows, heads, tokens, _HEAD_SIZE)

        def draw() -> torch.Tensor:
            return torch.randn(shape, device="cuda", dtype=torch.bfloat16)

        self._inputs = [draw().requires_grad_() for _ in range(3)]
        self._d_out = draw()
        ids = torch.arange(tokens, device="cuda") // (tokens // 2)
        self._mask = (ids[:, None] == ids).expand(rows, 1, -1, -1) if packed else None
        self.warm_up()

    def run(self, count: int) -> None:
        import torch

        attention = torch.nn.functional.scaled_dot_product_attention
        for _ in range(count):
            q, k, v = self._inputs
            out = attention(q, k, v, attn_mask=self._mask, dropout_p=_DROPOUT)
            torch.autograd.grad(out, (q, k, v), self._d_out)
        torch.cuda.synchronize()


def measure_attention(report: Report, clock: Clock) -> None:
    """Times our kernels and PyTorch's at each shape, in turns."""
    table = report.table(
        "Attention: forward and backward pass, dropout 0.1, bfloat16, two sequences a row",
        "Milliseconds. PyTorch without a mask does not keep the sequences apart.",
    )
    for number, (rows, tokens, heads) in enumerate(_SHAPES):
        shape = {"rows": rows, "tokens": tokens, "heads": heads}
        said = f"{rows} x {tokens} tokens, {heads} heads"
        candidates = [
            Candidate(
                name=f"{said}: {kernel}",
                runner="benchmarks.gpu:JaxAttention",
                arguments={"kernel": kernel, **shape},
            )
            for kernel in _KERNELS
        ]
        candidates += [
            Candidate(
                name=f"{said}: PyTorch{', mask' if packed else ''}",
                runner="benchmarks.gpu:TorchAttention",
                arguments={"packed": packed, **shape},
            )
            for packed in (True, False)
        ]
        part = clock.part(1.0 / (len(_SHAPES) - number))
        measured = measure(
            candidates,
            table,
            part,
            rounds=_ATTENTION_ROUNDS,
            turn_secs=_TURN_SECS,
            at_once=len(candidates),
        )
        for one in measured:
            times = (1e3 * turn["seconds"] / turn["steps"] for turn in one.turns)
            table.add(one.candidate.name, "time", "ms", *times)
        for other in measured[1:]:
            if measured[0].candidate is candidates[0]:
                values = ratios(measured[0], other, "steps")
                table.add(other.candidate.name, "triton is faster by", "x", *values)
    table.end()


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    clock = Clock.of(60.0 * options.minutes)
    with start_report("gpu", {"minutes": options.minutes}, options.output) as report:
        platform = report.machine["accelerator"]["platform"]
        if platform != "gpu":
            raise ValueError(
                f"JAX found a {platform} here, not an NVIDIA GPU. Install jax[cuda13], or "
                "measure this machine with `python -m benchmarks.train`."
            )
        peaks = correct_and_peaks(report)
        measure_attention(report, clock.part(_ATTENTION_SHARE))
        measure_models(PLANS["gpu"], platform, peaks, report, clock)
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
