"""Datasets of TFDS that are prepared on this machine: where they are, and their records.

Nothing is downloaded, the code that made a dataset is not run, and TensorFlow is not
needed.
"""

import os
import pathlib
import re
from typing import Any

from bert_jax.data.tfds_builder import INFO, MetadataError, open_builder

VERSION = re.compile(r"\d+\.\d+\.\d+")


def find_dataset(name: str, version: str, spec: str) -> pathlib.Path:
    """The directory of a version of a dataset, of the newest one by default.

    Args:
        name: such as glue/sst2.
        version: such as 2.0.0, or "".
        spec: what the user gave, for messages.

    Raises:
        ValueError: it is not prepared on this machine; the message says how it would be.
    """
    parent = data_dir() / name
    versions = versions_in(parent)
    if version:
        versions = [path for path in versions if path.name == version]
    if versions:
        return versions[-1]
    if (parent / INFO).is_file():
        return parent
    full_name = f"{name}:{version}" if version else name
    prepare = prepare_command(full_name)
    if parent.is_dir():
        configs = [path.name for path in sorted(parent.iterdir()) if versions_in(path)]
        if configs:
            raise ValueError(
                f"{spec} has configurations; prepared here are {', '.join(configs)}. "
                f"Name one: tfds:{name}/{configs[0]}."
            )
    raise ValueError(
        f"{spec} is not prepared in {data_dir()}, and nothing is downloaded here. "
        f"Prepare it once with\n  {prepare}\nor set TFDS_DATA_DIR to where it is."
    )


def data_dir() -> pathlib.Path:
    home = pathlib.Path("~/tensorflow_datasets")
    return pathlib.Path(os.environ.get("TFDS_DATA_DIR") or home).expanduser()


def versions_in(parent: pathlib.Path) -> list[pathlib.Path]:
    """The directories of all finished versions, the newest last."""
    if not parent.is_dir():
        return []
    found = [
        path
        for path in parent.iterdir()
        if VERSION.fullmatch(path.name) and (path / INFO).is_file()
    ]
    return sorted(found, key=lambda path: [int(n) for n in path.name.split(".")])


def prepare_command(full_name: str) -> str:
    return (
        'python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{full_name}', file_format='array_record')"
        '.download_and_prepare()"'
    )


def load_builder(directory: str) -> Any:
    """The builder of the dataset in a directory.

    Raises:
        ValueError: the directory holds none, or its metadata is damaged or names foreign
            classes.
    """
    try:
        return open_builder(directory)
    except MetadataError:
        raise
    except Exception as error:  # protobuf, JSON and TFDS raise errors of many kinds
        raise ValueError(
            f"{directory} holds no readable TFDS dataset ({error}); prepare it again."
        ) from error


def records_of(builder: Any, split: str, spec: str) -> Any:
    """The raw records of a split, with random access.

    Raises:
        ValueError: there is no such split, or the format has no random access.
    """
    from tensorflow_datasets.core import decode

    try:
        source = builder.as_data_source(
            split, deserialize_method=decode.DeserializeMethod.RAW_BYTES
        )
        len(source)
    except NotImplementedError:
        full_name = builder.info.full_name.rpartition("/")[0]
        raise ValueError(
            f"{spec} is stored as {builder.info.file_format.value}, which has no random "
            "access; expected array_record. Convert it (with TensorFlow and mlcroissant "
            f"installed) with\n  tfds convert_format --dataset_version_dir="
            f"{builder.data_path} --out_file_format=array_record\nor prepare it again "
            f"elsewhere, with TFDS_DATA_DIR set, with\n  {prepare_command(full_name)}"
        ) from None
    except ValueError as error:
        listed = ", ".join(builder.info.splits)
        raise ValueError(
            f"{spec} has no split {split!r} ({error}); there are {listed}."
        ) from None
    return source
