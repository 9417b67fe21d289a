"""What a service needs to know of a run: a task's predictor, or a model that fills masks."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from bert_jax.data.labelled.examples import Text
from bert_jax.train.inference.fill import Filler
from bert_jax.train.inference.predict import Predictor
from bert_jax.train.runs.run import RunInfo, load_run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Served:
    """A model that answers."""

    name: str
    task: str
    """Name of the task in `train.tasks`, or "fill" for a run that has an MLM head."""
    text_names: tuple[str, ...]
    """What people call each text of an example; two for pairs."""
    fewest_texts: int
    """How many of them an example must have; all but for choices."""
    outputs: tuple[str, ...]
    """Names of the task's logits; none for "fill"."""
    mask: str | None
    """What stands for a hidden token in a text; `None` for all but "fill"."""
    about: dict[str, Any]
    """Sizes and origin, for those who ask what this is."""
    check: Callable[[Text, str], None]
    """Raises a ValueError where a text, which the second argument names, cannot be taken."""
    compute: Callable[[Sequence[Text]], list[dict[str, Any]]]
    """Predictions of texts that were checked."""

    @property
    def example(self) -> Text:
        """A text that the model takes."""
        return tuple(self.mask or "text" for _ in self.text_names)


def load_served(
    run: pathlib.Path, *, step: int | None = None, batch_size: int, top: int = 5
) -> Served:
    """Loads a run: its task if it is a fine-tuned one, else its MLM head.

    Args:
        run: run directory of `pretrain`, `finetune` or `import`.
        step: step of the checkpoint. Default: the best one that the run keeps, else the
            newest one.
        batch_size: most texts that are computed at once.
        top: number of guesses for a mask.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: the run cannot be read.
    """
    name = run.resolve().name
    if load_run(run).kind == "pretrain":
        filler = Filler(run, step=step, top=top)
        return Served(
            name=name,
            task=filler.task,
            text_names=("Text",),
            fewest_texts=1,
            outputs=(),
            mask=filler.mask,
            about=_about(filler.info),
            check=filler.check,
            compute=filler,
        )
    predictor = Predictor(run, step=step, batch_size=batch_size)
    names = predictor.task.text_names(predictor.cfg.task, predictor.outputs)
    return Served(
        name=name,
        task=predictor.task.name,
        text_names=names,
        # Where examples differ in it: a text and two choices.
        fewest_texts=3 if predictor.num_texts is None else len(names),
        outputs=predictor.outputs,
        mask=None,
        about=_about(predictor.info),
        check=predictor.check,
        compute=predictor,
    )


def _about(info: RunInfo) -> dict[str, Any]:
    sizes = ("num_layers", "hidden_size", "num_heads", "vocab_size")
    return {
        **{name: getattr(info.model, name) for name in sizes},
        "sequence_length": info.sequence_length,
    }
