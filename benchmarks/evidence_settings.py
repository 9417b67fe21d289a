"""What `benchmarks.evidence` trains: sizes, rates and time, by model and machine."""

import dataclasses
from typing import Any, Literal

from bert_jax.config import (
    DataConfig,
    LoopConfig,
    MaskingConfig,
    OptimizerConfig,
    PretrainConfig,
)
from bert_jax.family import model_config

Model = Literal["tiny", "mini", "small", "base"]
# Held-out evaluations of pretraining, evenly spaced; also of the calibration.
NUM_EVALS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of one size; the same for the pretrained and the random arm."""

    minutes: float
    """Of pretraining by default."""
    vocab_size: int | None
    """Of a WordPiece vocabulary trained on the text; None takes BERT's own."""
    sequence_length: int
    batch_size: int
    """Packed rows a step."""
    learning_rate: float
    b2: float
    warmup_share: float
    mask_rate: float
    dropout_rate: float
    init_std: float
    scan_layers: bool
    calibration_steps: int
    tune_sequence_length: int
    tune_batch_size: int
    tune_epochs: int
    tune_learning_rate: float
    tune_b2: float
    max_train: int | None
    """Labelled examples of a task, at most."""

    def __post_init__(self) -> None:
        if self.minutes <= 0.0:
            raise ValueError(f"--minutes {self.minutes}: must be greater than 0.")
        if self.calibration_steps < 10:
            raise ValueError(
                f"--calibration-steps {self.calibration_steps}: 10 are the fewest that "
                "measure anything."
            )


# Of small models: a vocabulary that does not outweigh the layers, many small updates, no
# dropout, a larger initial scale and a shorter memory of the second moment, as in
# configs/quickstart.py, which says why.
_SMALL = Recipe(
    minutes=16.0,
    vocab_size=8_192,
    sequence_length=64,
    batch_size=32,
    learning_rate=2e-3,
    b2=0.99,
    warmup_share=0.03,
    mask_rate=0.2,
    dropout_rate=0.0,
    init_std=0.06,
    scan_layers=False,
    calibration_steps=300,
    tune_sequence_length=64,
    tune_batch_size=32,
    tune_epochs=4,
    tune_learning_rate=5e-4,
    tune_b2=0.98,
    max_train=4_000,
)
RECIPES: dict[str, Recipe] = {
    "tiny": _SMALL,
    "mini": dataclasses.replace(
        _SMALL, learning_rate=1e-3, init_std=0.04, tune_learning_rate=3e-4
    ),
    "small": dataclasses.replace(
        _SMALL, learning_rate=7e-4, init_std=0.03, tune_learning_rate=2e-4
    ),
    # As BERT had it, but for a rate and a batch that fit thousands of steps, not a million.
    "base": Recipe(
        minutes=20.0,
        vocab_size=None,
        sequence_length=128,
        batch_size=512,
        learning_rate=3e-4,
        b2=0.98,
        warmup_share=0.08,
        mask_rate=0.15,
        dropout_rate=0.1,
        init_std=0.02,
        scan_layers=True,
        calibration_steps=60,
        tune_sequence_length=128,
        tune_batch_size=32,
        tune_epochs=4,
        tune_learning_rate=5e-5,
        tune_b2=0.999,
        max_train=None,
    ),
}


def default_model(platform: str) -> Model:
    """What a machine of this JAX platform can pretrain in minutes."""
    return "tiny" if platform == "cpu" else "base"


def recipe_of(model: str, changes: dict[str, Any]) -> Recipe:
    """The recipe of a size, with those of `changes` that are not None.

    Raises:
        ValueError: a value is refused.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    return dataclasses.replace(RECIPES[model], **given)


def pretrain_config(
    recipe: Recipe,
    model: str,
    *,
    vocab_size: int,
    platform: str,
    peak_tflops: float,
    num_steps: int,
    seed: int,
) -> PretrainConfig:
    """Of the pretraining run, or of its calibration: only their lengths differ.

    Args:
        platform: float32 on "cpu", where JAX's compile cache cannot keep what has
            bfloat16 products; bfloat16 on all others.
        peak_tflops: measured, of one device.

    Raises:
        ValueError: the settings do not fit each other.
    """
    return PretrainConfig(
        model=model_config(
            model,
            vocab_size=vocab_size,
            max_positions=max(recipe.sequence_length, recipe.tune_sequence_length),
            dropout_rate=recipe.dropout_rate,
            attention_dropout_rate=recipe.dropout_rate,
            init_std=recipe.init_std,
            scan_layers=recipe.scan_layers,
            compute_dtype="float32" if platform == "cpu" else "bfloat16",
        ),
        data=DataConfig(sequence_length=recipe.sequence_length),
        masking=MaskingConfig(rate=recipe.mask_rate),
        optimizer=OptimizerConfig(
            learning_rate=recipe.learning_rate,
            warmup_steps=int(recipe.warmup_share * num_steps),
            b2=recipe.b2,
        ),
        loop=LoopConfig(
            log_every_steps=max(1, min(10, num_steps // 5), num_steps // 100),
            # The last evaluation is that of the end.
            eval_every_steps=-(-num_steps // NUM_EVALS),
            checkpoint_every_steps=max(1, num_steps // 2),
            keep_checkpoints=1,
            peak_tflops=peak_tflops,
        ),
        batch_size=recipe.batch_size,
        num_steps=num_steps,
        eval_batches=16,
        seed=seed,
    )


def finetune_flags(
    recipe: Recipe, *, num_steps: int, peak_tflops: float, seed: int
) -> list[str]:
    """Of `bert-jax finetune`, but for task, checkpoint and run directory."""
    settings = {
        "sequence-length": recipe.tune_sequence_length,
        "batch-size": recipe.tune_batch_size,
        "num-epochs": recipe.tune_epochs,
        "dropout-rate": recipe.dropout_rate,
        "optimizer.learning-rate": recipe.tune_learning_rate,
        "optimizer.b2": recipe.tune_b2,
        "loop.log-every-steps": max(1, num_steps // 20),
        "loop.eval-every-steps": -(-num_steps // 4),
        "loop.keep-checkpoints": 1,
        "loop.peak-tflops": peak_tflops,
        "seed": seed,
    }
    return [text for name, x in settings.items() for text in (f"--{name}", str(x))]


def fitting_steps(
    minutes: float, *, overhead_secs: float, step_secs: float, num_calibration: int
) -> int:
    """Updates that end within `minutes`, all else that a run does included.

    Raises:
        ValueError: there is no time for as many as were used to measure.
    """
    # Two percent for what a short run does not show.
    room = 0.98 * 60.0 * minutes - overhead_secs
    steps = int(room / step_secs)
    if steps < num_calibration:
        least = (overhead_secs + num_calibration * step_secs) / 60.0 / 0.98
        raise ValueError(
            f"--minutes {minutes:g} leaves time for {max(steps, 0)} steps of "
            f"{step_secs:.3g} s beside {overhead_secs:.0f} s of start-up, compiling and "
            f"judging; give {least:.1f} or more, or a smaller --model."
        )
    return steps
