"""How often a training loop does what."""

import dataclasses

from bert_jax.config.checks import require, require_positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How often a training loop logs, evaluates and saves."""

    log_every_steps: int = 100
    """Updates between two lines of metrics."""
    eval_every_steps: int | None = 10_000
    """Updates between two evaluations on held-out data. 0: evaluate at the end only.
    None: once an epoch; for fine-tuning only."""
    checkpoint_every_steps: int = 1_000
    """Updates between two checkpoints. One is also written at the end, and when the run
    is interrupted."""
    keep_checkpoints: int = 3
    """Number of the newest checkpoints that are kept."""
    stop_check_every_steps: int = 10
    """Updates after which the hosts of a job ask each other whether one has to stop."""
    profile_at_step: int | None = None
    """Number of updates after which a trace is taken, into profile/ of the run directory,
    for xprof and TensorBoard. It is taken once a run, and never of the first update of a
    session, which compiles."""
    profile_steps: int = 5
    """Number of updates in the trace."""
    profiler_port: int | None = None
    """Port at which xprof can ask process 0 for a trace at any time. Process n listens at
    the n-th port after it."""
    wandb_project: str | None = None
    """Project of Weights & Biases that metrics are sent to as well (extra wandb)."""
    peak_tflops: float | None = None
    """Dense TFLOP/s of one device, which MFU is measured against. Default: the bfloat16
    peak of the chip, where it is known; where it is not, no MFU is logged."""

    def __post_init__(self) -> None:
        require_positive(
            self,
            "log_every_steps",
            "checkpoint_every_steps",
            "keep_checkpoints",
            "stop_check_every_steps",
            "profile_steps",
        )
        require(
            self.eval_every_steps is None or self.eval_every_steps >= 0,
            f"LoopConfig.eval_every_steps={self.eval_every_steps} is negative.",
        )
        require(
            self.profile_at_step is None or self.profile_at_step >= 0,
            f"LoopConfig.profile_at_step={self.profile_at_step} is negative.",
        )
        require(
            self.profiler_port is None or 0 < self.profiler_port < 2**16,
            f"LoopConfig.profiler_port={self.profiler_port} is no port; give one from 1 "
            f"to {2**16 - 1}.",
        )
        require(
            self.peak_tflops is None or self.peak_tflops > 0,
            f"LoopConfig.peak_tflops={self.peak_tflops} must be greater than 0.",
        )
        require(
            self.wandb_project != "",
            "LoopConfig.wandb_project is empty; give a name, or leave it out.",
        )
