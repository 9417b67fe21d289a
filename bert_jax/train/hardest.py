"""The held-out examples that a fine-tuned model is most wrong about."""

from typing import Any

import numpy as np

from bert_jax.train.tasks.task import Judged, Task

_COUNT = 20
_MOST_CHARACTERS = 400


def hardest(task: Task, judged: Judged) -> list[dict[str, Any]]:
    """The 20 examples with the largest loss, the largest first.

    Wrong labels in the file are often among them.

    Returns:
        Dicts of `number` (of the example among those that are judged on, from 1), `text`, `truth`, `said`
        (the prediction in words) and `loss`. Long texts are cut at 400 characters.
    """
    losses = task.example_losses(judged)
    numbers = np.argsort(-losses, kind="stable")[:_COUNT]
    predictions = task.predictions(judged)
    shown = list(judged.examples.shown())
    found = []
    for number in numbers.tolist():
        text, truth = shown[number]
        if len(text) > _MOST_CHARACTERS:
            text = f"{text[:_MOST_CHARACTERS]}…"
        found.append(
            {
                "number": number + 1,
                "text": text,
                "truth": truth,
                "said": task.say(predictions[number], 2),
                "loss": float(losses[number]),
            }
        )
    return found
