"""How often a training loop does what."""

import dataclasses
import pathlib

from bert_jax.config.checks import (
    require,
    require_fitting,
    require_not_negative,
    require_positive,
    require_used,
)


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
    keep_every_steps: int | None = None
    """Checkpoints of the multiples of this step are kept for ever, beside the newest
    ones. Give it to every session of a run: one without it deletes them. None: only the
    newest ones are kept."""
    mirror: str | None = None
    """Second directory that checkpoints are copied to in the background, on another disk
    or in a bucket (gs://, s3://). When the run has no whole checkpoint, it goes on from
    the newest copy. Each run needs a mirror of its own."""
    mirror_every_steps: int = 1
    """Least number of updates between two checkpoints that are copied to the mirror. 1:
    each checkpoint is copied, except those that come while one is being copied."""
    stop_check_every_steps: int = 10
    """Updates after which the hosts of a job ask each other whether one has to stop."""
    stop_file: pathlib.Path | None = None
    """A file that stops the run with a checkpoint when it appears or is written again, as
    SIGTERM does. It is for schedulers and hooks that announce the end of a machine with a
    file. In a job, one process that sees it is enough."""
    max_skipped: int = 3
    """Number of updates in a row that are skipped, because loss or gradients were NaN or
    infinite, with which the run goes back to its last checkpoint. It then passes those
    batches by, and as many before them. Skipped updates are logged."""
    spike_deviations: float | None = None
    """Number of deviations above the median of the last spike_window losses from which a
    loss counts as a spike. The run then goes back to its last checkpoint and passes that
    batch and the one before it by. A deviation is 1.4826 times the median distance from
    the median. Default: no loss counts as a spike."""
    spike_window: int = 100
    """Number of losses that a spike is measured against; fewer are never judged. With each
    phase it begins anew."""
    max_rollbacks: int = 3
    """How often a run goes back before it stops with a diagnosis."""
    verify_every: int = 0
    """Updates between two that are computed twice and compared bit by bit, which finds
    faults of memory and processors. It takes room for another two copies of the state.
    0: none."""
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
        require_fitting(self)
        require_positive(
            self,
            "log_every_steps",
            "checkpoint_every_steps",
            "keep_checkpoints",
            "mirror_every_steps",
            "stop_check_every_steps",
            "max_skipped",
            "spike_window",
            "profile_steps",
            "spike_deviations",
            "peak_tflops",
        )
        require_not_negative(
            self,
            *("max_rollbacks", "verify_every", "eval_every_steps", "profile_at_step"),
        )
        every = self.keep_every_steps
        require(
            every is None or (every > 0 and every % self.checkpoint_every_steps == 0),
            f"LoopConfig.keep_every_steps={every} must be a multiple of "
            f"checkpoint_every_steps={self.checkpoint_every_steps}: other steps have no "
            "checkpoint to keep.",
        )
        require_used(
            self,
            self.mirror is not None,
            "there is no mirror. Give one with --loop.mirror DIR.",
            "mirror_every_steps",
        )
        require(
            self.mirror != "",
            "LoopConfig.mirror is empty; give a directory, or leave it out.",
        )
        require(
            self.profiler_port is None or 0 < self.profiler_port < 2**16,
            f"LoopConfig.profiler_port={self.profiler_port} is no port; give one from 1 "
            f"to {2**16 - 1}.",
        )
        require(
            self.wandb_project != "",
            "LoopConfig.wandb_project is empty; give a name, or leave it out.",
        )
