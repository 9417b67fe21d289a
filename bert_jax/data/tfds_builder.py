"""Opens TFDS datasets without importing modules that their metadata names.

`features.json`, and `dataset_info.json` too, name the Python class of every feature, and TFDS
imports that class's module. So a dataset could run any code that can be imported. Here a
name in these files only chooses among TFDS's own feature classes, which are loaded already.
"""

import contextlib
import os
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

from bert_jax.data.json_text import loads

_OWN = "tensorflow_datasets.core.features"
INFO = "dataset_info.json"  # in the directory of every version
_lock = threading.Lock()


class MetadataError(ValueError):
    """A file of a dataset is no JSON, or names a class that is not part of TFDS."""


def open_builder(directory: str | os.PathLike[str]) -> Any:
    """What `tfds.builder_from_directory` returns, for a dataset of TFDS's own features.

    Raises:
        MetadataError: a file of the metadata is damaged, or names another class, which has
            not been imported.
    """
    # Absolute, because TFDS expands "~", and would then read another file.
    directory = pathlib.Path(directory).absolute()
    for path in (directory / "features.json", directory / INFO):
        try:
            loads(path.read_text(encoding="utf-8") if path.is_file() else "{}")
        except (ValueError, RecursionError) as error:
            raise MetadataError(
                f"{path} is damaged ({error}); copy it again, or prepare the dataset again."
            ) from None
    import tensorflow_datasets as tfds

    with _only_own_features(directory):
        return tfds.builder_from_directory(str(directory))


@contextlib.contextmanager
def _only_own_features(directory: pathlib.Path) -> Iterator[None]:
    """Replaces the one function of TFDS that makes a class of a name."""
    from tensorflow_datasets.core import features

    base = features.FeatureConnector
    own = {
        name: kind
        for name, kind in base._registered_features.items()
        if kind.__module__.startswith(f"{_OWN}.")
    }

    def find(_: Any, name: str) -> Any:
        if name in own:
            return own[name]
        raise MetadataError(
            f"The metadata of the dataset in {directory} names the class {name!r}, which is "
            f"not one of TFDS's own features ({_OWN}.*). TFDS would import its module and "
            "run the code in it, so the dataset is refused."
        )

    with _lock:
        imports = vars(base)["cls_from_name"]
        base.cls_from_name = classmethod(find)
        try:
            yield
        finally:
            base.cls_from_name = imports
