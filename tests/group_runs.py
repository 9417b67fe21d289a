"""Small runs of the tasks whose examples are groups of rows, on synthetic files."""

import json

import numpy as np
from prepared_corpus import WORDS

from bert_jax.config import (
    DropoutConfig,
    FinetuneConfig,
    LoopConfig,
    OptimizerConfig,
    TaskConfig,
)
from bert_jax.train.finetune import finetune

EARLY = [word for word in WORDS if word < "n"]
LATE = [word for word in WORDS if word >= "n"]


def write_task(folder, name):
    """Files to train on and to judge on, and the settings that read them.

    choice: the right one is of words from the first half of the alphabet. scored: how
    many words of both texts are of the same half. matching: both are of the same half.
    """
    rng = np.random.default_rng(0)

    def words(half):
        return " ".join(rng.choice(half, rng.integers(1, 4)))

    def row():
        if name == "choice":
            right, size = int(rng.integers(3)), int(rng.integers(2, 4))
            right = min(right, size - 1)
            choices = [words(EARLY if n == right else LATE) for n in range(size)]
            return {"question": rng.choice(WORDS), "choices": choices, "answer": right}
        halves = [(EARLY, LATE)[n] for n in rng.integers(0, 2, 2)]
        if name == "matching":
            return {"anchor": words(halves[0]), "positive": words(halves[0])}
        score = 5.0 * (halves[0] is halves[1])
        texts = {f"sentence{n}": words(half) for n, half in enumerate(halves, 1)}
        return {**texts, "score": score}

    paths = {}
    for split, count in (("train", 192), ("dev", 48)):
        lines = [json.dumps(row()) for _ in range(count)]
        paths[split] = folder / f"{name}-{split}.jsonl"
        paths[split].write_text("\n".join(lines) + "\n")
    return TaskConfig(kind="choice" if name == "choice" else "embeddings", **paths)


def tuned(folder, checkpoint, name, **fields):
    """(run directory, its config, its results) of a run from random weights."""
    cfg = FinetuneConfig(
        checkpoint=checkpoint,
        from_scratch=True,
        task=write_task(folder, name),
        optimizer=OptimizerConfig(learning_rate=5e-3, warmup_steps=0.1, b2=0.98),
        loop=LoopConfig(log_every_steps=8, eval_every_steps=0),
        dropout=DropoutConfig(hidden=0.0, attention=0.0),
        sequence_length=16,
        batch_size=32,
        num_epochs=6,
        **fields,
    )
    return folder / name, cfg, finetune(cfg, folder / name)
