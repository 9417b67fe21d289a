"""The tasks of GLUE by name: where their files are, and their official metrics first.

Source: Wang et al. 2019, "GLUE: A Multi-Task Benchmark and Analysis Platform", table 1.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from bert_jax.config import TaskConfig
from bert_jax.data.labelled.tfds_table import is_tfds, tfds_directory
from bert_jax.train.tasks.classification import Classification
from bert_jax.train.tasks.regression import Regression
from bert_jax.train.tasks.task import Task

# A row of MNLI's mismatched part is judged with `evaluate RUN dev_mismatched.tsv`.
_DEV = {"glue/mnli": "dev_matched.tsv"}
# The official files are cut at tabs; quotes are part of their text. CoLA's have no line
# that names the columns, and some rows of QQP lack a question.
_READ: Mapping[str, Mapping[str, Any]] = {
    "glue/cola": {"header": False, "text": ("4",), "label": "2"},
    "glue/qqp": {"skip_incomplete": True},
}


class GlueClassification(Classification):
    """A task of GLUE that has classes; its labels are those of its files."""

    def __init__(self, name: str, *official: str) -> None:
        """Puts the metrics named `official` before the others."""
        self.name = f"glue/{name}"
        rest = [x for x in Classification.metrics if x.name not in official]
        by_name = {x.name: x for x in Classification.metrics}
        self.metrics = (*(by_name[x] for x in official), *rest)

    def settled(self, cfg: TaskConfig) -> TaskConfig:
        return _settled(self.name, cfg)


class GlueRegression(Regression):
    """The similarity of two texts, from 0 to 5: STS-B."""

    name = "glue/stsb"

    def settled(self, cfg: TaskConfig) -> TaskConfig:
        return _settled(self.name, cfg)


def _settled(name: str, cfg: TaskConfig) -> TaskConfig:
    """With the files of a directory, or with the dataset of TFDS."""
    train, dev = cfg.train, cfg.dev
    if train is None:
        try:
            train = tfds_directory(name)
        except ValueError as error:
            raise ValueError(
                f"--task {name} has no files: {error}\nOr pass --train DIR, the directory "
                "of its official files."
            ) from None
    if is_tfds(train):
        return dataclasses.replace(cfg, train=train, dev=train if dev is None else dev)
    if train.is_dir():
        dev = train / _DEV.get(name, "dev.tsv") if dev is None else dev
        train = train / "train.tsv"
    known = {"quotes": "text", **_READ.get(name, {})}
    default = TaskConfig()
    left = {k: v for k, v in known.items() if getattr(cfg, k) == getattr(default, k)}
    return dataclasses.replace(cfg, train=train, dev=dev, **left)


GLUE: tuple[Task, ...] = (
    GlueClassification("cola", "matthews"),
    GlueClassification("sst2", "accuracy"),
    GlueClassification("mrpc", "f1", "accuracy"),
    GlueClassification("qqp", "f1", "accuracy"),
    GlueRegression(),
    *(GlueClassification(name, "accuracy") for name in ("mnli", "qnli", "rte", "wnli")),
)
