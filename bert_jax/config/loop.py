"""How often a training loop does what."""

import dataclasses

from bert_jax.config.checks import require, require_positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How often a training loop logs, evaluates and saves."""

    log_every_steps: int = 100
    eval_every_steps: int = 10_000
    """0 evaluates at the end only."""
    checkpoint_every_steps: int = 1_000
    """A checkpoint is also written at the end and when the run is interrupted."""
    keep_checkpoints: int = 3
    stop_check_every_steps: int = 10
    """With several hosts: how often they ask each other whether one has to stop."""
    profile_at_step: int | None = None
    """Trace from this step on, for xprof and TensorBoard; the trace is kept in the run
    directory."""
    profile_steps: int = 5
    """Steps of the trace."""
    wandb_project: str | None = None
    """Log to Weights & Biases too (extra wandb)."""

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
            self.eval_every_steps >= 0,
            f"LoopConfig.eval_every_steps={self.eval_every_steps} is negative.",
        )
