"""The `replay` command."""

import dataclasses

from bert_jax.commands.shared import RunDir


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replay:
    """Repeats the step at which a run stopped because of bad numbers, and finds the cause.

    For example: `bert-jax replay run`.
    """

    run_dir: RunDir
    """Run directory of `pretrain` or `finetune` that has stopped with a diagnosis."""

    devices: int = 1
    """Number of this machine's devices that the model and the batch are split over."""

    def run(self) -> None:
        from bert_jax.train.bad_step import replay

        number, diagnosis = replay(self.run_dir, self.devices)
        print(f"batch {number:,} of {self.run_dir}: {diagnosis}")
