"""One pretraining run."""

import dataclasses
import itertools
import pathlib
from typing import Literal

from bert_jax.config.checks import (
    require,
    require_fitting,
    require_positive,
    require_seed,
    require_step,
    require_used,
)
from bert_jax.config.compute import ComputeConfig
from bert_jax.config.data import DataConfig, MaskingConfig
from bert_jax.config.dropout import DropoutConfig
from bert_jax.config.loop import LoopConfig
from bert_jax.config.mesh import MeshConfig
from bert_jax.config.model import ModelConfig
from bert_jax.config.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhaseConfig:
    """A later phase of the same run: other rows, batches or rates, the same moments.

    Defaults are BERT's second phase (Devlin et al. 2018, appendix A.2).
    """

    sequence_length: int = 512
    """Tokens of a row."""
    batch_size: int = 256
    """Rows of the global batch."""
    num_steps: int = 100_000
    """Updates of this phase."""
    learning_rate: float | None = 1e-4
    """Learning rate at the top of this phase's own warm-up. None: the schedule of the phase
    before goes on, with one warm-up and one decay over the updates of both."""
    warmup_steps: float = 0.1
    """Updates of this phase's own warm-up, or below 1 their share of all its updates."""
    micro_batches: int = 1
    """Parts of a batch whose gradients are added up before the one update."""
    masking_rate: float | None = None
    """Fraction of a row's tokens that are masked in this phase. Default: as in the phase
    before."""
    weights: tuple[float, ...] = ()
    """Weights of the datasets of DataConfig.mixture in this phase. Default: as in the phase
    before."""

    def __post_init__(self) -> None:
        require_fitting(self)
        require_positive(
            self, "batch_size", "num_steps", "micro_batches", "learning_rate"
        )
        require_used(
            self,
            self.learning_rate is not None,
            "with learning_rate=None the schedule of the phase before goes on. Leave it "
            "out, or give the phase a learning rate of its own.",
            "warmup_steps",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One pretraining run. Defaults are BERT-Base, phase 1 (Devlin et al. 2018)."""

    num_steps: int = 900_000
    """Updates of the first phase."""
    batch_size: int = 256
    """Rows of the global batch. With buckets, rows of a batch of the longest rows."""
    checkpoint: pathlib.Path | None = None
    """Run directory of `pretrain` or `import` whose checkpoint gives the weights; it may be
    in a bucket (gs://..., s3://...). The command `pretrain` also takes a model of Hugging
    Face or Google, which it imports into OUTPUT-checkpoint. Default: random weights."""
    moments: Literal["fresh", "keep"] = "fresh"
    """The optimizer's moments at a start from a checkpoint. fresh: zeros. keep: those of
    the checkpoint, as in BERT's second phase."""
    seed: int = 0
    """Seed of every random choice: initial parameters, sentence pairs, masks, dropout."""
    eval_batches: int = 64
    """Batches of held-out rows that an evaluation looks at. Their masks never change."""
    checkpoint_step: int | None = None
    """Step of that run's checkpoint. Default: the newest one."""
    keep_best: bool = False
    """Keeps the weights with the lowest held-out masked-word loss, beside the newest
    checkpoints. Commands that take the weights of this run then take these; the run
    itself, and pretraining from it, go on from the newest."""
    micro_batches: int = 1
    """Parts of a batch whose gradients are added up before the one update."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    masking: MaskingConfig = MaskingConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    next_phases: tuple[PhaseConfig, ...] = ()
    """Phases that follow the first one, which the other fields describe. With each phase
    the learning rate starts again, unless its learning_rate is None; the moments are
    kept."""
    loop: LoopConfig = LoopConfig()
    dropout: DropoutConfig = DropoutConfig()
    compute: ComputeConfig = ComputeConfig()
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self) -> None:
        require_fitting(self)
        require_positive(
            self, "batch_size", "micro_batches", "num_steps", "eval_batches"
        )
        require_seed(self)
        require(
            self.model.next_sentence or self.data.pairs == "none",
            f"DataConfig.pairs={self.data.pairs!r} has labels that nothing here learns: "
            "ModelConfig.next_sentence=False. Set data.pairs='none'.",
        )
        require(
            self.moments == "fresh" or self.checkpoint is not None,
            "PretrainConfig.moments='keep' needs a checkpoint to keep them from.",
        )
        require_step(self)
        require(
            not (self.keep_best and self.next_phases),
            "PretrainConfig.keep_best=True with next_phases would compare losses on rows of "
            "different phases; leave one of them out.",
        )
        require(
            self.loop.eval_every_steps is not None,
            "LoopConfig.eval_every_steps=None means once an epoch, which is for "
            "fine-tuning; give pretraining a number of updates, or 0.",
        )
        require(
            self.batch_size % self.micro_batches == 0,
            f"PretrainConfig.batch_size={self.batch_size} is not a multiple of "
            f"micro_batches={self.micro_batches}; every micro-batch has as many rows.",
        )

    def check(self) -> None:
        """Checks that model, data and steps fit together.

        The parts of a config may be set one after the other, by a file, a checkpoint and
        flags, so this is called when all of them are known.

        Raises:
            ValueError: rows are longer than the table of positions, a warm-up is as long
                as its phase, or two settings say how the masking rate changes. The
                message names the phase.
        """
        phase = dataclasses.replace(self, next_phases=())
        phase._check_alone(self.scheduled_steps[0])
        for number, later in enumerate(self.next_phases):
            try:
                require(
                    later.masking_rate is None or self.masking.end_rate is None,
                    f"PhaseConfig.masking_rate={later.masking_rate} and "
                    f"MaskingConfig.end_rate={self.masking.end_rate} both say how the "
                    "masking rate changes; leave one of them out.",
                )
                phase = phase._then(later)
                phase._check_alone(self.scheduled_steps[number + 1])
            except ValueError as error:
                raise ValueError(f"next_phases[{number}]: {error}") from None

    def _check_alone(self, scheduled_steps: int) -> None:
        require(
            self.data.sequence_length <= self.model.max_positions,
            f"DataConfig.sequence_length={self.data.sequence_length} exceeds "
            f"ModelConfig.max_positions={self.model.max_positions}; shorten the "
            "sequences or enlarge the table.",
        )
        if scheduled_steps:
            self.optimizer.check_steps(scheduled_steps)

    @property
    def phases(self) -> tuple["PretrainConfig", ...]:
        """Every phase as a config of its own, without phases after it."""
        first = dataclasses.replace(self, next_phases=())
        return tuple(
            itertools.accumulate(self.next_phases, PretrainConfig._then, initial=first)
        )

    @property
    def all_steps(self) -> int:
        """Number of updates of all phases together."""
        return self.num_steps + sum(phase.num_steps for phase in self.next_phases)

    @property
    def scheduled_steps(self) -> tuple[int, ...]:
        """For each phase, the updates of the learning-rate schedule that begins with it.

        It is 0 where the schedule of the phase before goes on.
        """
        steps = [self.num_steps]
        begun = 0
        for number, phase in enumerate(self.next_phases, start=1):
            steps.append(0)
            if phase.learning_rate is not None:
                begun = number
            steps[begun] += phase.num_steps
        return tuple(steps)

    def _then(self, phase: PhaseConfig) -> "PretrainConfig":
        """The settings of the phase that follows the one that these settings describe."""
        optimizer, masking = self.optimizer, self.masking
        if phase.learning_rate is not None:
            optimizer = dataclasses.replace(
                optimizer,
                learning_rate=phase.learning_rate,
                warmup_steps=phase.warmup_steps,
            )
        if phase.masking_rate is not None:
            masking = dataclasses.replace(
                masking, rate=phase.masking_rate, end_rate=None
            )
        return dataclasses.replace(
            self,
            data=dataclasses.replace(
                self.data,
                sequence_length=phase.sequence_length,
                bucket_lengths=(),
                weights=phase.weights or self.data.weights,
            ),
            optimizer=optimizer,
            masking=masking,
            batch_size=phase.batch_size,
            micro_batches=phase.micro_batches,
            num_steps=phase.num_steps,
        )
