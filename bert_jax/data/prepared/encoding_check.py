"""Compares a fast library's ids with the defining one's, on text of the very source."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bert_jax.config import PrepareOptions
from bert_jax.data.text.reading import read_section
from bert_jax.data.text.sections import Section
from bert_jax.data.text.sentences import sentences
from bert_jax.data.tokenizers.tokenizer import Tokenizer

# So much text of so many sections is compared; of more sections where they are small.
_SECTIONS = 4
_CHARACTERS_PER_SECTION = 1 << 15


class Encoding(NamedTuple):
    """Which library encodes a dataset, and whether it was checked."""

    library: str
    """Name and version of the library that encodes."""
    checked_characters: int
    """How much text of the source a fast library encoded to the ids of the library that
    defines them; 0 if the latter encodes."""
    refused: str = ""
    """The fast library that gave other ids, and for which text; empty if none did."""


def check_encoding(
    tokenizer: Tokenizer, sections: Sequence[Section], options: PrepareOptions
) -> Encoding:
    """Compares ids on `read_sample`.

    If they differ, `tokenizer` uses the library that defines the ids from then on.

    Raises:
        ValueError: from `read_sample`.
    """
    encoder = tokenizer.encoder
    library = encoder.library
    if not encoder.is_fast:
        return Encoding(library, 0)
    sample = list(read_sample(sections, options))
    differing = encoder.check(sample)
    if differing is None:
        return Encoding(library, sum(map(len, sample)))
    return Encoding(encoder.library, 0, f"{library} for {differing[:80]!r}")


def read_sample(sections: Sequence[Section], options: PrepareOptions) -> Iterator[str]:
    """Sentences from the beginnings of a few sections that lie evenly in the source.

    Raises:
        ValueError: from `read_section`.
    """
    step = -(-len(sections) // _SECTIONS)
    left = len(sections[::step]) * _CHARACTERS_PER_SECTION
    for section in (x for first in range(step) for x in sections[first::step]):
        found = (
            sentence
            for document in read_section(section, None, options.read)
            for sentence in sentences(document, options.language)
        )
        size = 0
        for sentence in found:
            yield sentence
            size += len(sentence)
            if size > _CHARACTERS_PER_SECTION:
                break
        left -= size
        if left < 0:
            return
