"""How gradients become updates."""

import dataclasses
from typing import Literal

from bert_jax.config.checks import (
    require,
    require_fitting,
    require_not_negative,
    require_positive,
    require_rate,
    require_used,
)

_DECAY_STEPS = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Update rule, learning rates and frozen parameters of a run.

    Defaults are those of BERT (google-research/bert, optimization.py).
    """

    name: Literal["adamw", "stable_adamw", "lamb", "muon"] = "adamw"
    """Update rule. adamw: Adam with decoupled weight decay. stable_adamw: adamw with a
    lower rate for each layer whose gradients are larger than expected (Wortsman et al.
    2023). lamb: adamw whose update of each layer is scaled to the norm of the layer's
    weights (You et al. 2020). muon: an orthogonal update for each matrix of the layers
    (Jordan et al. 2024), and adamw for all other parameters."""
    learning_rate: float = 1e-4
    """Highest learning rate, reached at the end of the warm-up."""
    warmup_steps: float = 0.01
    """How long the learning rate rises linearly from 0: a number of updates, or below 1
    the share of all updates. The decay that follows is counted from update 0, so the
    rate drops where the two meet: by a tenth, if a tenth of all updates warm up and the
    schedule is linear."""
    schedule: Literal["linear", "polynomial", "cosine", "constant", "trapezoidal"] = (
        "linear"
    )
    """How the learning rate falls after the warm-up. linear: on a straight line.
    polynomial: on a power of that line, see decay_power. cosine: on half a cosine
    wave. constant: not at all. trapezoidal: not before the last decay_steps (also
    called warm-up, stable, decay)."""
    decay_steps: float | None = None
    """How long the learning rate of schedule trapezoidal falls: a number of updates, or
    below 1 the share of all updates. Default: 0.2."""
    decay_shape: Literal["linear", "sqrt"] = "linear"
    """How it falls there. linear: on a straight line. sqrt: with 1 - sqrt(share of the
    decay done), fast at first (Hägele et al. 2024)."""
    decay_power: float = 1.0
    """Exponent of schedule polynomial: the rate falls with (1 - share of the updates
    done) ** decay_power."""
    end_rate: float = 0.0
    """Learning rate at which the decay ends."""
    weight_decay: float = 0.01
    """Share of each weight that an update subtracts, times the learning rate. Biases
    and the scales of norms do not decay; under lamb they are not scaled either."""
    b1: float = 0.9
    """Share of the first moment (mean of the gradients) that an update keeps."""
    b2: float = 0.999
    """Share of the second moment (mean of their squares) that an update keeps."""
    eps: float = 1e-6
    """Added to the root of the second moment before dividing by it."""
    bias_correction: bool | None = None
    """Divide the moments after t updates by 1 - b ** t (Adam's bias correction).
    Default: off for adamw, as in BERT; on for the other rules."""
    muon_momentum: float = 0.95
    """Share of the mean of the gradients that an update of muon keeps, in the matrices
    of the layers; b1 and b2 are for the other parameters."""
    muon_rms: float = 0.2
    """Size of an update of muon before it is multiplied by the learning rate: the root
    mean square of its entries. With 0.2, it is about as large as one of adamw, so that
    the same learning rate suits both (Liu et al. 2025). A larger value gives the
    matrices of the layers a higher rate than the other parameters."""
    clip_norm: float = 1.0
    """Largest global norm of the gradients; larger ones are scaled down to it. The
    gradients of frozen parameters do not count."""
    layer_decay: float = 1.0
    """Factor between the learning rates of a layer and of the one below it. Of L layers,
    counted from 0 at the embeddings, layer i has the rate times layer_decay ** (L - i), the
    embeddings have it times layer_decay ** (L + 1), and pooler and heads have it whole
    (Howard & Ruder 2018; Clark et al. 2020). 1: one rate for all."""
    ema_decay: float | None = None
    """Share of an exponential average of the parameters that an update keeps, such as
    0.999. The run is judged with the average, and other commands take it from the run;
    only a pretraining run that goes on from it takes the parameters themselves.
    Default: no average."""
    freeze: tuple[str, ...] = ()
    """Parts of the model that are not trained: embed, layers, pooler, or a head (mlm
    and nsp, or classifier). The masked-LM head shares the token table of embed, which
    is frozen for both."""
    freeze_layers: int = 0
    """Number of encoder layers that are not trained, counted from the embeddings. The
    embeddings themselves are frozen by naming embed in freeze."""

    def __post_init__(self) -> None:
        require_fitting(self)
        require_positive(
            self, "learning_rate", "eps", "clip_norm", "decay_power", "muon_rms"
        )
        require_positive(self, "decay_steps")
        require_rate(self, "b1", "b2", "muon_momentum")
        require(
            self.ema_decay is None or 0.0 < self.ema_decay < 1.0,
            f"OptimizerConfig.ema_decay={self.ema_decay} is not between 0 and 1; give a "
            "share such as 0.999, or leave it out for no average.",
        )
        require_not_negative(
            self, "warmup_steps", "weight_decay", "end_rate", "freeze_layers"
        )
        require(
            0.0 < self.layer_decay <= 1.0,
            f"OptimizerConfig.layer_decay={self.layer_decay} is not in (0, 1]; give a "
            "factor such as 0.9, or 1 for one rate in all layers.",
        )
        for name in ("warmup_steps", "decay_steps"):
            value = getattr(self, name) or 0
            require(
                value < 1 or float(value).is_integer(),
                f"OptimizerConfig.{name}={value} is neither a whole number of updates nor "
                "a share of them below 1.",
            )
        for name, is_used, needs in (
            ("decay_steps", self.schedule == "trapezoidal", "schedule='trapezoidal'"),
            ("decay_shape", self.schedule == "trapezoidal", "schedule='trapezoidal'"),
            ("decay_power", self.schedule == "polynomial", "schedule='polynomial'"),
            ("end_rate", self.schedule != "constant", "a schedule that falls"),
            ("muon_momentum", self.name == "muon", "name='muon'"),
            ("muon_rms", self.name == "muon", "name='muon'"),
        ):
            why = f"it needs {needs}. Set that, or leave it out."
            require_used(self, is_used, why, name)
        require(
            self.end_rate <= self.learning_rate,
            f"OptimizerConfig.end_rate={self.end_rate} exceeds learning_rate="
            f"{self.learning_rate}; the rate falls from learning_rate to end_rate, so "
            "choose an end_rate below it.",
        )
        require(
            len(set(self.freeze)) == len(self.freeze),
            f"OptimizerConfig.freeze={self.freeze} names a part twice; name it once.",
        )
        require_used(
            self,
            "layers" not in self.freeze,
            "freeze names 'layers', which are all layers. Leave one of the two out.",
            *("freeze_layers", "layer_decay"),
        )

    @property
    def corrects_bias(self) -> bool:
        """Whether Adam's moments are corrected, by `bias_correction` or its default."""
        if self.bias_correction is None:
            return self.name != "adamw"
        return self.bias_correction

    def warmup_updates(self, num_steps: int) -> int:
        """The number of updates of the warm-up in a run or phase of `num_steps`."""
        return _updates(self.warmup_steps, num_steps)

    def decay_updates(self, num_steps: int) -> int:
        """The number of updates in which the rate of schedule trapezoidal falls."""
        return max(1, _updates(self.decay_steps or _DECAY_STEPS, num_steps))

    def check_steps(self, num_steps: int) -> None:
        """Checks that the schedule has room in a run or phase of `num_steps`.

        Raises:
            ValueError: the warm-up is as long, or overlaps with a trapezoidal decay.
        """
        warmup, decay = self.warmup_updates(num_steps), self.decay_updates(num_steps)
        require(
            warmup < num_steps,
            f"OptimizerConfig.warmup_steps={self.warmup_steps:g} is not less than the "
            f"{num_steps:,} steps; the rate would never reach its top. A value below 1 "
            "is a share of the steps, such as 0.1.",
        )
        require(
            self.schedule != "trapezoidal" or warmup + decay <= num_steps,
            f"OptimizerConfig.warmup_steps={self.warmup_steps:g} ({warmup:,} updates) and "
            f"decay_steps={self.decay_steps} ({decay:,} updates) overlap in {num_steps:,} "
            "steps; make one of them shorter.",
        )


def _updates(steps: float, num_steps: int) -> int:
    """A number of updates, from that number or from a share of `num_steps`."""
    # A share such as 10_000 / 900_000 must give 10,000 again.
    return int(steps) if steps >= 1 else int(steps * num_steps + 1e-6)
