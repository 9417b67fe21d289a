"""From tagged sentences to rows of ids, several rows for a long sentence.

Shape suffixes: B rows, T tokens, W words of a sentence.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bert_jax.batch import IGNORED_LABEL
from bert_jax.data.labelled.examples import EncodedExamples, RowBuilder
from bert_jax.data.labelled.labels import numbers_of
from bert_jax.data.labelled.words import TaggedSentences
from bert_jax.data.tokenizers.tokenizer import Tokenizer


def encode_words(
    tokenizer: Tokenizer,
    examples: TaggedSentences,
    names: Sequence[str],
    sequence_length: int,
    stride: int | None = None,
) -> EncodedExamples:
    """`[CLS] words [SEP]`; a sentence that is too long has several rows that overlap.

    The first piece of a word bears its label, other tokens `IGNORED_LABEL`. A word that
    stands in several rows bears it where it is farthest from a cut, in the first of these
    if they are equal, so that each word has one label and gets one prediction. A word of
    which the tokenizer leaves nothing becomes [UNK], and one that is longer than a row is
    cut. Labels are int32 [rows, T].

    Args:
        names: the tags, in the order of the logits.
        stride: most tokens from the beginning of a row to that of the next. Default: half
            of the room in a row.

    Raises:
        ValueError: a tag is not among `names`, or the stride leaves words out.

    Source: Devlin et al. 2018, section 5.3.
    """
    every = [tag for tags in examples.tags or () for tag in tags]
    labels = numbers_of(every, names, "tag", examples.place_of_word)
    room = sequence_length - 2
    if stride is not None and stride > room:
        raise ValueError(
            f"FinetuneConfig.stride={stride} would leave gaps between rows of "
            f"{sequence_length} tokens, two of them special; give at most {room}."
        )
    every_word = [word for words in examples.words for word in words]
    pieces = [of_word[:room] for of_word in tokenizer.encode_words(every_word)]
    plan = []
    before = 0
    for number, words in enumerate(examples.words):
        own = pieces[before : before + len(words)]
        sizes = np.array([len(of_word) for of_word in own], np.int64)
        for window in windows(sizes, room, stride or max(1, room // 2)):
            plan.append((number, before, window))
        before += len(words)
    rows = RowBuilder(tokenizer, len(plan), sequence_length)
    shape = (len(plan), sequence_length)
    labels_BT = np.full(shape, IGNORED_LABEL, np.int32)
    word_BT = np.full(shape, -1, np.int32)
    for row, (_, before, window) in enumerate(plan):
        own = pieces[before + window.first : before + window.end]
        [place] = rows.put(row, [[piece for of_word in own for piece in of_word]])
        for word, of_word in enumerate(own, window.first):
            if window.decides_first <= word < window.decides_end:
                word_BT[row, place] = word
                if examples.tags is not None:
                    labels_BT[row, place] = labels[before + word]
            place += len(of_word)
    return EncodedExamples(
        rows.input_ids,
        rows.segment_ids,
        rows.input_mask,
        labels=labels_BT,
        example=np.array([number for number, *_ in plan], np.int32),
        word=word_BT,
    )


class Window(NamedTuple):
    """Words of a sentence, by number; the ends are not included."""

    first: int
    end: int
    decides_first: int
    """The words that are labelled in this window."""
    decides_end: int


def windows(sizes_W: np.ndarray, room: int, stride: int) -> list[Window]:
    """Windows of whole words that overlap, and which of them decides about each word.

    Args:
        sizes_W: int64 [W], the pieces of each word, from 1 to `room`.
        room: most pieces of a window.
        stride: most pieces from the beginning of a window to that of the next, unless a
            single word has more.
    """
    begin = np.concatenate([[0], np.cumsum(sizes_W)])
    spans = []
    first = 0
    while True:
        end = int(np.searchsorted(begin, begin[first] + room, side="right")) - 1
        spans.append((first, end))
        if end >= sizes_W.size:
            break
        following = int(np.searchsorted(begin, begin[first] + stride, side="right")) - 1
        first = min(max(following, first + 1), end)
    if len(spans) == 1:
        return [Window(0, sizes_W.size, 0, sizes_W.size)]
    margins = []
    for first, end in spans:
        margin = np.full(sizes_W.size, -1.0)
        left, right = begin[:-1] - begin[first], begin[end] - begin[1:]
        # The ends of the sentence are no cuts.
        far = np.minimum(
            left if first > 0 else np.inf, right if end < sizes_W.size else np.inf
        )
        margin[first:end] = np.broadcast_to(far, sizes_W.shape)[first:end]
        margins.append(margin)
    decider = np.argmax(margins, axis=0)
    edges = np.searchsorted(decider, np.arange(len(spans) + 1))
    return [
        Window(*span, int(start), int(stop))
        for span, start, stop in zip(spans, edges, edges[1:], strict=False)
        if start < stop
    ]
