"""The files of a Google checkpoint directory, for its reader and its writer.

A directory of google-research/bert holds bert_config.json, vocab.txt and the files of
one checkpoint, `bert_model.ckpt.*`. Source: its README.
"""

from typing import Any

from bert_jax.exchange.libraries import library

CONFIG_FILE = "bert_config.json"
CHECKPOINT = "bert_model.ckpt"
# The variable that counts updates.
STEP = "global_step"
# Ours: nothing of Google's keeps the names of a classifier's classes.
LABELS_FILE = "bert_jax_labels.json"


def tensorflow() -> Any:
    """The library, which reads and writes checkpoints.

    Raises:
        ValueError: it is not installed.
    """
    return library("tensorflow", "tf", "Google's checkpoints")
