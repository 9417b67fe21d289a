"""From text to token ids and back: what all kinds of tokenizers have in common.

All have the special tokens that BERT calls [PAD] [UNK] [CLS] [SEP] [MASK], under these
or other names, and know which pieces start a word. No text is encoded to a special token
other than [UNK]; the code that builds rows adds special tokens by their ids.
"""

import abc
import dataclasses
import functools
import hashlib
import itertools
import json
import pathlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bert_jax.batch import MaskVocabulary, SpecialIds
from bert_jax.data.atomic_file import write_atomically
from bert_jax.data.tokenizers.fast_encoding import CheckedEncoder, Encoder, named

FORMAT_VERSION = 2
METADATA_FILE = "bert_jax_tokenizer.json"
SPECIAL_PIECES = {name: f"[{name.upper()}]" for name in SpecialIds.__annotations__}


class PairLayout(NamedTuple):
    """How two texts share a row; the defaults are BERT's [CLS] A [SEP] B [SEP]."""

    separators: int = 1
    """Number of [SEP] between the two. RoBERTa has two."""
    second_segment: int = 1
    """Segment of B and of the [SEP] behind it; 0 where a model has one segment."""
    refused: str = ""
    """Why two texts cannot share a row, in a sentence; empty if they can."""

    def num_special(self, num_texts: int) -> int:
        """Special tokens in a row of one text or two.

        Raises:
            ValueError: there are two texts, and they cannot share a row.
        """
        if num_texts == 1:
            return 2
        if self.refused:
            raise ValueError(self.refused)
        return 2 + self.separators


class Tokenizer(abc.ABC):
    """One trained vocabulary and the rules that apply it.

    Decoding gives the text that was encoded, except that normalisation may have changed
    case, accents and widths, white space is one space, what the vocabulary cannot spell
    is [UNK], and WordPiece puts spaces around punctuation.

    Attributes:
        kind: "sentencepiece", "wordpiece" or "huggingface".
        model: the content of its file: of a SentencePiece model, a vocab.txt or a
            tokenizer.json.
        lowercase: whether text is put in lower case before it is split.
        normalization: the rules applied to text before it is split: their name
            ("rules") and their settings.
        pieces: all pieces by id, V strings.
        shown_pieces: the same as people read them: special tokens by BERT's names, a
            space as "▁". They can be equal where pieces are not.
        vocab_size: V, number of pieces.
        id_dtype: type that holds every id: uint16, or uint32 if V is over 65,536.
        special: ids of the five special tokens.
        pair: how two texts share a row.
        starts_word: bool [V], whether a piece starts a word; false for special tokens.
        mask_vocabulary: the vocabulary as masking needs it. There, [UNK] of WordPiece
            starts a word; [UNK] of SentencePiece can stand within one and does not.
        encoder: the library that encodes; it can be checked against the defining one.
        sha256: hash of everything that decides ids.
    """

    kind: str
    model_file: str

    def __init__(
        self,
        model: bytes,
        pieces: list[str],
        *,
        lowercase: bool,
        normalization: dict[str, Any],
        library: str,
        special_pieces: Mapping[str, str | None] = SPECIAL_PIECES,
        pair: PairLayout = PairLayout(),  # noqa: B008
    ) -> None:
        self.pieces = pieces
        self.shown_pieces = pieces
        self.vocab_size = len(pieces)
        self.id_dtype = np.dtype(token_dtype(self.vocab_size))
        self.lowercase = lowercase
        self.normalization = normalization
        self.model = model
        self.pair = pair
        self.special = _find_special(pieces, special_pieces)
        self._special_ids = frozenset(dataclasses.astuple(self.special)) - {None}
        self.starts_word = np.array([self._opens_word(piece) for piece in pieces])
        self.starts_word[list(self._special_ids)] = False
        starts_word = self.starts_word.copy()
        if self.special.unk is not None:
            starts_word[self.special.unk] = self._opens_word(pieces[self.special.unk])
        self.mask_vocabulary = MaskVocabulary(
            self.special, self.vocab_size, starts_word
        )
        self.encoder = CheckedEncoder(
            Encoder(named(library), lambda texts, _: self._encode(texts)),
            self._load_fast,
        )
        rules = [FORMAT_VERSION, self.kind, lowercase, normalization]
        if special_pieces is not SPECIAL_PIECES:
            rules += [dict(special_pieces), pair]
        identity = json.dumps(rules).encode() + b"\n" + model
        self.sha256 = hashlib.sha256(identity).hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process builds its own tokenizer from the model; caches are not sent.
        return functools.partial(type(self), **self._options()), (self.model,)

    @abc.abstractmethod
    def _opens_word(self, piece: str) -> bool: ...

    @abc.abstractmethod
    def _encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Does what `encode_joined` says, by the library that defines the ids."""

    @abc.abstractmethod
    def normalize(self, text: str) -> str:
        """The text after the rules that change characters, such as case and accents."""

    def _load_fast(self) -> Encoder | None:
        """A faster library that has loaded this tokenizer, or `None`."""
        return None

    @abc.abstractmethod
    def _join(self, ids: list[int]) -> str:
        """The text of one or more pieces, none of them special."""

    def _options(self) -> dict[str, Any]:
        """The arguments of the constructor besides the model."""
        return {"lowercase": self.lowercase}

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without special tokens around them.

        No special id but [UNK] can appear, whatever the text spells. Lone surrogates,
        which are not characters, count as U+FFFD.

        Raises:
            ValueError: `texts` is one string instead of a sequence of them.
        """
        joined, lengths = self.encode_joined(texts)
        ids, ends = joined.tolist(), np.cumsum(lengths).tolist()
        starts = [0, *ends[:-1]]
        return [ids[start:end] for start, end in zip(starts, ends, strict=False)]

    def encode_joined(
        self, texts: Sequence[str], uncommon: Collection[str] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ids of all texts in one array, one text behind the other; fast.

        Args:
            texts: the texts.
            uncommon: all their characters but printable ASCII, where they are known, which
                saves time; there may be others.

        Returns:
            ids: `id_dtype` [tokens]; the array may be read-only.
            lengths: int64 [texts], number of ids of each text; it can be 0.

        Raises:
            ValueError: `texts` is one string instead of a sequence of them.
        """
        if isinstance(texts, str):
            raise ValueError(
                f"The tokenizer got one string ({texts[:40]!r}); it takes a sequence of "
                "texts. Wrap it: encode([text])."
            )
        ids, lengths = self.encoder.encode(texts, uncommon)
        return ids.astype(self.id_dtype, copy=False), lengths

    def encode_documents(
        self,
        documents: Sequence[Sequence[str]],
        uncommon: Collection[str] | None = None,
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """The ids of each document's sentences, as `encode_joined` gives them.

        A sentence is encoded as it stands behind the one before it in its document. A
        call with several documents is faster than one for each.
        """
        texts = [text for document in documents for text in self._in_a_row(document)]
        ids, lengths = self.encode_joined(texts, uncommon)
        # Where documents begin among the sentences, and among the ids.
        places = np.cumsum([0, *map(len, documents)])
        starts = np.concatenate([[0], np.cumsum(lengths)])[places]
        return [
            (ids[start:end], lengths[first:last])
            for (first, last), (start, end) in zip(
                itertools.pairwise(places), itertools.pairwise(starts), strict=True
            )
        ]

    def encode_words(self, words: Sequence[str]) -> list[list[int]]:
        """The ids of words, as they stand in a sentence: at least one for each.

        A word of which nothing is left is [UNK].

        Raises:
            ValueError: there is such a word, and the tokenizer has no [UNK].
        """
        encoded = self._encode_each_word(words)
        for word, ids in zip(words, encoded, strict=True):
            if not ids:
                if self.special.unk is None:
                    raise ValueError(
                        f"The tokenizer leaves nothing of the word {word!r}, and has no "
                        "piece for what it does not know. Take the word out of the text."
                    )
                ids.append(self.special.unk)
        return encoded

    def encode_places(
        self, text: str, places: Sequence[tuple[int, int]]
    ) -> tuple[list[int], np.ndarray]:
        """The ids of a text, and to which of its words each of them belongs.

        Args:
            text: one text.
            places: where each word begins and ends in it, in characters, ascending.

        Returns:
            The ids, and int64 [tokens]: for each the number of its word, ascending, or -1
            for a token between words. A token that reaches over several words belongs to
            the first one.

        Raises:
            ValueError: as for `encode_words`.
        """
        encoded = self.encode_words([text[start:end] for start, end in places])
        numbers = np.repeat(np.arange(len(encoded)), [len(ids) for ids in encoded])
        return [index for ids in encoded for index in ids], numbers

    def encode_masked(self, text: str) -> list[int]:
        """The ids of a text in which the mask's own piece stands for the mask."""
        mask = self.special.mask
        first, *others = text.split(self.pieces[mask])
        [ids, *behind] = self.encode([first, *others])
        for part, encoded in zip(others, behind, strict=True):
            ids += [mask, *self._behind_a_mask(part, encoded)]
        return ids

    def _in_a_row(self, sentences: Sequence[str]) -> Sequence[str]:
        """The sentences, each as it is encoded when it stands behind the one before."""
        return sentences

    def _encode_each_word(self, words: Sequence[str]) -> list[list[int]]:
        return self.encode(words)

    def _behind_a_mask(self, text: str, ids: list[int]) -> list[int]:
        """The ids of a text, changed where it stands directly behind a mask."""
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Readable text; special tokens, also [UNK], are written as their pieces.

        Raises:
            ValueError: an id is outside [0, vocab_size).
        """
        parts = []
        known = [int(index) for index in ids]
        for index in known:
            if not 0 <= index < self.vocab_size:
                raise ValueError(
                    f"Token id {index} is outside [0, {self.vocab_size}); was this "
                    "text encoded with another tokenizer?"
                )
        for special, run in itertools.groupby(known, self._special_ids.__contains__):
            if special:
                parts += [self.pieces[index] for index in run]
            else:
                parts.append(self._join(list(run)))
        return " ".join(parts)

    def save(self, directory: pathlib.Path) -> None:
        """Writes the files that `load_tokenizer` reads; other files there are kept."""
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(directory / self.model_file, self.model)
        text = json.dumps(self._metadata(), indent=2) + "\n"
        write_atomically(directory / METADATA_FILE, text)

    def _metadata(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "kind": self.kind,
            "lowercase": self.lowercase,
            "normalization": self.normalization,
            "vocab_size": self.vocab_size,
            "sha256": self.sha256,
            "special": dataclasses.asdict(self.special),
        }


def token_dtype(vocab_size: int) -> type[np.unsignedinteger]:
    """The type of ids: uint16 if it holds all of them, else uint32."""
    return np.uint16 if vocab_size <= 2**16 else np.uint32


def _find_special(
    pieces: list[str], special_pieces: Mapping[str, str | None]
) -> SpecialIds:
    names = [piece for piece in special_pieces.values() if piece is not None]
    if missing := set(names).difference(pieces):
        raise ValueError(
            f"The vocabulary of {len(pieces)} pieces lacks {sorted(missing)}; BERT "
            f"needs all of {names}."
        )
    ids = {piece: index for index, piece in enumerate(pieces)}
    return SpecialIds(
        **{  # type: ignore[arg-type]
            name: None if piece is None else ids[piece]
            for name, piece in special_pieces.items()
        }
    )
