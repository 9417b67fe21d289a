"""Opens TFDS datasets without importing modules that their metadata names.

`features.json` names the Python class of every feature, and TFDS imports that class's
module. So a dataset could run any code that can be imported; here only TFDS's own
feature classes are let through.
"""

import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

_ALLOWED = "tensorflow_datasets.core.features."
_FEATURES_FILE = "features.json"
# TFDS reads the file as a protobuf, whose fields may be written in both ways, or in its
# older format with "type".
_CLASS_KEYS = ("pythonClassName", "python_class_name", "type")


class ForeignClassError(ValueError):
    """The metadata of a dataset names a class that is not part of TFDS."""


def open_builder(directory: str | os.PathLike[str]) -> Any:
    """What `tfds.builder_from_directory` returns, for a dataset of TFDS's own features.

    Raises:
        ForeignClassError: `features.json` names another class; it has not been imported.
    """
    # Absolute, because TFDS expands "~", and would then read another file.
    directory = pathlib.Path(directory).absolute()
    path = directory / _FEATURES_FILE
    if path.is_file():
        for name in _class_names(json.loads(path.read_text(encoding="utf-8"))):
            if not name.startswith(_ALLOWED):
                raise ForeignClassError(
                    f"{path} names the class {name!r}, which is not one of TFDS's own "
                    f"features ({_ALLOWED}*). Reading the dataset would import its "
                    "module and run the code in it, so the dataset is refused."
                )
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(str(directory))


def _class_names(value: Any) -> Iterator[str]:
    """All class names in the content of a features.json, of whatever TFDS version."""
    if isinstance(value, list):
        for item in value:
            yield from _class_names(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(item, str):
                # Not by its key: a feature may be called "type".
                yield from _class_names(item)
            elif key in _CLASS_KEYS:
                yield item
            elif key == "json":
                yield from _class_names(json.loads(item))
