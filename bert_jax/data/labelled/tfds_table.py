"""Labelled text in a dataset of TFDS that is prepared on this machine, as a table.

Nothing is downloaded, no code of the dataset is run, and TensorFlow is not needed.
"""

import contextlib
import pathlib
from typing import Any

from bert_jax.config.finetune import Split
from bert_jax.data.labelled.tables import Row, Table
from bert_jax.data.tfds_datasets import INFO, find_dataset, load_builder, records_of


def is_tfds(path: pathlib.Path) -> bool:
    """Whether `path` is the directory of one version of a dataset."""
    return (path / INFO).is_file()


def tfds_directory(name: str) -> pathlib.Path:
    """Where the newest version of a dataset is, such as glue/sst2.

    Raises:
        ValueError: it is not prepared on this machine; the message says how it would be.
    """
    return find_dataset(name, "", f"tfds:{name}")


def read_tfds_table(path: pathlib.Path, split: Split) -> Table:
    """All records of a split, whose features are the columns.

    A class is its number, as it stands in the dataset. The records that are judged on are
    those of the first split whose name begins with "validation".

    Raises:
        ValueError: the dataset is damaged, has no such split, or its format has no random
            access.
    """
    builder = load_builder(str(path))
    features, splits = builder.info.features, builder.info.splits
    name = next((name for name in splits if name.startswith(split)), split)
    rows = [
        Row(f"record {number}", _fields(features.deserialize_example_np(record)))
        for number, record in enumerate(records_of(builder, name, str(path)))
    ]
    return Table(path, tuple(features), rows, f"TFDS {builder.info.full_name}, {name}")


def _fields(record: dict[str, Any]) -> dict[str, Any]:
    return {name: _plain(value) for name, value in record.items()}


def _plain(value: Any) -> Any:
    """UTF-8 as text, and NumPy's numbers and arrays as Python's numbers and lists."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(x) for x in value]
    if isinstance(value, bytes):
        with contextlib.suppress(UnicodeDecodeError):  # such as an image
            return value.decode()
    return value
