"""The kinds of text sources, by the word before the colon.

To add one, write its file here and one line below.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from bert_jax.config import ReadOptions
from bert_jax.data.text.docs import open_docs
from bert_jax.data.text.files_source import open_files
from bert_jax.data.text.formats import Record
from bert_jax.data.text.sections import Request, Section, Source
from bert_jax.data.text.tfds_source import open_tfds, read_tfds


class Kind(NamedTuple):
    """One kind of text source."""

    form: str
    """How such a source is written, for messages."""
    open: Callable[[Request], Source]
    """Finds its sections, without reading text."""
    read: Callable[[Section, ReadOptions], Iterator[Record]] | None = None
    """Reads a section whose `kind` is the word before the colon, in bounded memory.
    Each record says its `fraction`. `None`: all sections are files or archives."""


KINDS: Mapping[str, Kind] = {
    "files": Kind("files:GLOB", open_files),
    "tfds": Kind("tfds:NAME", open_tfds, read_tfds),
    "docs": Kind("docs:", open_docs),
}
