"""Reads documents from text datasets of TFDS that are prepared on this machine.

    tfds:NAME[/CONFIG][:VERSION][:SPLIT][:FIELD]     tfds:wikipedia/20230601.en:train
    tfds:DIRECTORY[:SPLIT][:FIELD]                   tfds:/data/c4/en/3.1.0::text

SPLIT is "train" by default, and can be a slice such as train[:10%]. Nothing is
downloaded, the code that made the dataset is not run, and TensorFlow is not needed.
"""

import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from bert_jax.config import ReadOptions
from bert_jax.data.text.formats import Record
from bert_jax.data.text.sections import Request, Section, Source
from bert_jax.data.text.splitting import split_text
from bert_jax.data.tfds_datasets import (
    INFO,
    VERSION,
    find_dataset,
    load_builder,
    records_of,
)

_RECORDS_AT_ONCE = 64
# A colon outside of the brackets of a slice such as train[:10%].
_COLON = re.compile(r":(?![^\[]*\])")


class _Named(NamedTuple):
    name: str
    version: str
    split: str
    field: str


def open_tfds(request: Request) -> Source:
    """A source `tfds:...`, which is one section; reads no record.

    Raises:
        ValueError: the dataset is not prepared on this machine, its format has no
            random access, it has no such split or field of text, or its metadata names
            classes that are not TFDS's own. The message says what to do.
    """
    spec = request.spec
    named = _parse(spec)
    directory = _find(spec, named)
    builder = load_builder(str(directory))
    source = records_of(builder, named.split, spec)
    text_field(builder.info.features, named.field, default="", spec=spec)
    size_bytes = 0
    for shard in builder.info.splits[named.split].file_instructions:
        file = pathlib.Path(shard.filename)
        if not file.is_file():
            raise ValueError(
                f"{spec}: {file} is missing; copy it back, or prepare the dataset again."
            )
        size_bytes += (
            file.stat().st_size * shard.take // max(shard.examples_in_shard, 1)
        )
    name = f"{builder.info.full_name}/{named.split}"
    section = Section(
        str(directory),
        name,
        size_bytes,
        kind="tfds",
        end=len(source),
        split=named.split,
        field=named.field,
    )
    return Source((spec,), (section,))


def read_tfds(section: Section, options: ReadOptions) -> Iterator[Record]:
    """Yields the records [start, end) of a section.

    Their keys are `NAME/VERSION/SPLIT#number`.

    Raises:
        ValueError: there is no such field of text, or a file is damaged.
    """
    import tensorflow_datasets as tfds

    builder = load_builder(section.path)
    features = builder.info.features
    field = text_field(features, section.field, options.text_field, spec=section.name)
    # Only this feature is decoded; others can be slow or need TensorFlow.
    decoder = tfds.features.FeaturesDict({field: features[field]})
    source = records_of(builder, section.split, section.name)
    end = len(source) if section.end is None else section.end
    for first in range(section.start, end, _RECORDS_AT_ONCE):
        numbers = range(first, min(first + _RECORDS_AT_ONCE, end))
        try:
            texts = [
                decoder.deserialize_example_np(record)[field]
                for record in source.__getitems__(list(numbers))
            ]
        except Exception as error:  # array_record and protobuf have no common class
            raise ValueError(
                f"Cannot read {section.path}, records from {first} on: {error}. Prepare "
                "the dataset again."
            ) from error
        for number, text in zip(numbers, texts, strict=True):
            key = f"{section.name}#{number}"
            fraction = (number + 1 - section.start) / (end - section.start)
            fragments = split_text(text, options.max_document_bytes)
            for cut, fragment in enumerate(fragments):
                yield Record(fragment, key, key, cut, fraction=fraction)


def text_field(features: Any, field: str, default: str, *, spec: str) -> str:
    """The name of the feature that holds the text.

    Args:
        features: all features of the dataset.
        field: the name that the source gives, or "".
        default: the name to look for if the source gives none. If there is no such
            feature but exactly one other with text, that one is taken.
        spec: name of the source, for messages.

    Raises:
        ValueError: there is no such feature, or it holds no text.
    """
    texts = [
        name
        for name, feature in features.items()
        if feature.shape == () and feature.np_dtype == np.dtype(object)
    ]
    wanted = field or default
    if wanted in texts:
        return wanted
    if not field and (len(texts) == 1 or (texts and not default)):
        return texts[0]
    problem = f"has no field {wanted!r} of text" if wanted else "has no field of text"
    listed = ", ".join(
        f"{name} ({type(feature).__name__})"
        for name, feature in sorted(features.items())
    )
    raise ValueError(
        f"{spec} {problem}; its features are {listed}. Name one at the end: "
        "tfds:NAME:SPLIT:FIELD."
    )


def _parse(spec: str) -> _Named:
    name, *rest = _COLON.split(spec.removeprefix("tfds:"))
    version = rest.pop(0) if rest and VERSION.fullmatch(rest[0]) else ""
    if not name or len(rest) > 2:
        raise ValueError(
            f"Source {spec!r} is not understood; expected "
            "tfds:NAME[/CONFIG][:VERSION][:SPLIT][:FIELD] or "
            "tfds:DIRECTORY[:SPLIT][:FIELD]."
        )
    split, field = (*rest, "", "")[:2]
    return _Named(name, version, split or "train", field)


def _find(spec: str, named: _Named) -> pathlib.Path:
    """The directory of the named version, or of the newest one."""
    if named.name.startswith((".", "/", "~")):
        directory = pathlib.Path(named.name).expanduser()
        if not (directory / INFO).is_file():
            raise ValueError(
                f"{spec}: {directory} holds no prepared dataset ({INFO} is missing); "
                "name the directory of one version, for example "
                "tfds:/data/wikipedia/20230601.en/1.0.0."
            )
        return directory
    return find_dataset(named.name, named.version, spec)
