"""Which runs a sweep of fine-tuning makes."""

import dataclasses

from bert_jax.config.checks import require, require_fitting, require_positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """The grid of a sweep: every learning rate with every number of epochs and every seed."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the runs of each setting. With --folds, each seed draws its own folds; with
    --shots, its own examples (it is --draw-seed too)."""
    learning_rates: tuple[float, ...] = ()
    """Highest learning rates to try. Default: the one of --optimizer.learning-rate."""
    epochs: tuple[int, ...] = ()
    """Numbers of epochs to try. Default: the one of --num-epochs."""
    folds: int | None = None
    """Cross-validation: the training file is cut into so many folds, each of which is
    held out once, with every class in its share. There is no --dev file then."""
    at_once: int | None = None
    """Most runs to train at once on one device, by vmap. 1: one after the other, on all
    devices. Runs at once are judged at their end only, so they need
    --loop.eval-every-steps 0. Default: with that, as many as fit the memory of a GPU or
    TPU; 1 without it, where there are several devices, and on a CPU, where several at
    once are slower than one after the other."""
    keep_weights: bool = False
    """Keep the weights of every run, so that predict, evaluate and export take it.
    Default: a run keeps its settings, its scores, its logs and its held-out logits."""

    def __post_init__(self) -> None:
        require_fitting(self)
        for name in ("seeds", "learning_rates", "epochs"):
            values = getattr(self, name)
            require(
                len(set(values)) == len(values),
                f"SweepConfig.{name}={values} names a value twice; name it once.",
            )
        require(bool(self.seeds), "SweepConfig.seeds is empty; give one seed or more.")
        require(
            self.folds is None or self.folds >= 2,
            f"SweepConfig.folds={self.folds} is too few; cross-validation needs 2 or more.",
        )
        require_positive(self, "at_once")
