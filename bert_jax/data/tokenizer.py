"""Text to token ids and back, for SentencePiece and for BERT's own WordPiece.

Both kinds share one interface, carry [PAD] [UNK] [CLS] [SEP] [MASK] and a table of the
pieces that start a word. No text can spell a special token: whoever assembles rows
puts the special ids in by number.
"""

import abc
import dataclasses
import hashlib
import itertools
import json
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bert_jax.batch import MaskVocabulary, SpecialIds
from bert_jax.data.sentencepiece_model import is_unigram, parse_model
from bert_jax.data.ties import Powers

FORMAT_VERSION = 1
METADATA_FILE = "bert_jax_tokenizer.json"
SPECIAL_PIECES = {name: f"[{name.upper()}]" for name in SpecialIds.__annotations__}

# google-research/bert, tokenization.py; longer words are [UNK].
WORDPIECE_MAX_CHARS_PER_WORD = 200

_SURROGATE = re.compile("[\ud800-\udfff]")


class Tokenizer(abc.ABC):
    """One trained vocabulary and the rules that apply it.

    Attributes:
        kind: "sentencepiece" or "wordpiece".
        lowercase: whether text is folded to lower case before it is split.
        pieces: id -> piece, V strings.
        vocab_size: V.
        special: ids of the five special tokens.
        starts_word: bool [V], true where a piece opens a word; false for specials.
        mask_vocabulary: the same for masking, where [UNK] of WordPiece is a word; that
            of SentencePiece may stand within one.
        sha256: hash of everything that decides ids.
    """

    kind: str
    model_file: str

    def __init__(self, pieces: list[str], lowercase: bool, model: bytes) -> None:
        self.pieces = pieces
        self.vocab_size = len(pieces)
        self.lowercase = lowercase
        self._model = model
        self.special = _find_special(pieces)
        self._special_ids = frozenset(dataclasses.astuple(self.special))
        self.starts_word = np.array([self._opens_word(piece) for piece in pieces])
        self.starts_word[list(self._special_ids)] = False
        starts_word = self.starts_word.copy()
        starts_word[self.special.unk] = self._opens_word(SPECIAL_PIECES["unk"])
        self.mask_vocabulary = MaskVocabulary(
            self.special, self.vocab_size, starts_word
        )
        rules = json.dumps([FORMAT_VERSION, self.kind, lowercase]).encode()
        self.sha256 = hashlib.sha256(rules + b"\n" + model).hexdigest()

    @staticmethod
    @abc.abstractmethod
    def _opens_word(piece: str) -> bool: ...

    @abc.abstractmethod
    def _encode(self, texts: list[str]) -> list[list[int]]: ...

    @abc.abstractmethod
    def _join(self, ids: list[int]) -> str:
        """Text of ordinary pieces, of which there is at least one."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without special tokens.

        Apart from [UNK] no special id can appear, whatever the text spells. Lone
        surrogates, which are no characters, count as U+FFFD.

        Raises:
            ValueError: `texts` is one string instead of a sequence of them.
        """
        if isinstance(texts, str):
            raise ValueError(
                f"Tokenizer.encode got one string ({texts[:40]!r}); it takes a "
                "sequence of texts. Wrap it: encode([text])."
            )
        return self._encode([without_surrogates(text) for text in texts])

    def decode(self, ids: Iterable[int]) -> str:
        """Readable text; special tokens, [UNK] among them, show as their piece.

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
        """Writes what `load_tokenizer` reads; the directory may hold other files."""
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / self.model_file).write_bytes(self._model)
        metadata = {
            "format_version": FORMAT_VERSION,
            "kind": self.kind,
            "lowercase": self.lowercase,
            "vocab_size": self.vocab_size,
            "sha256": self.sha256,
            "special": dataclasses.asdict(self.special),
        }
        text = json.dumps(metadata, indent=2) + "\n"
        (directory / METADATA_FILE).write_text(text, encoding="utf-8")


class SentencePieceTokenizer(Tokenizer):
    """Unigram or BPE pieces trained on the user's own text (Kudo and Richardson 2018).

    `model` is the content of a `.model` file whose control symbols are [PAD] [CLS]
    [SEP] [MASK] and whose unknown piece is [UNK].
    """

    kind = "sentencepiece"
    model_file = "sentencepiece.model"

    def __init__(self, model: bytes, *, lowercase: bool) -> None:
        import sentencepiece

        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise ValueError(
                f"These {len(model)} bytes are not a SentencePiece model; the file is "
                f"damaged or of another kind ({error})."
            ) from error
        size = self._processor.get_piece_size()
        pieces = [self._processor.id_to_piece(index) for index in range(size)]
        super().__init__(pieces, lowercase, model)
        # Merges know no ties of scores.
        ties = is_unigram(parse_model(model))
        self._powers = Powers(pieces, self._special_ids) if ties else None
        for index in self._special_ids - {self.special.unk}:
            if not self._processor.is_control(index):
                raise ValueError(
                    f"Piece {pieces[index]!r} of this SentencePiece model is not a "
                    "control symbol, so text could spell it; train the model with "
                    "`train_sentencepiece`."
                )

    @property
    def model(self) -> bytes:
        """The serialised SentencePiece model."""
        return self._model

    @staticmethod
    def _opens_word(piece: str) -> bool:
        return piece.startswith("▁")

    def _encode(self, texts: list[str]) -> list[list[int]]:
        # Whoever prepares data already runs one process a core.
        encoded = self._processor.encode(texts, num_threads=1)
        if self._powers is not None:
            for ids in encoded:
                self._powers.sort_runs(ids)
        return encoded

    def _join(self, ids: list[int]) -> str:
        return self._processor.decode(ids).strip()


class WordPieceTokenizer(Tokenizer):
    """BERT's tokenizer over a given vocabulary (google-research/bert, tokenization.py).

    `vocab` is the content of a `vocab.txt`: UTF-8, one piece a line, id = line number.
    Encoding uses the cores that TOKENIZERS_PARALLELISM allows.
    """

    kind = "wordpiece"
    model_file = "vocab.txt"

    def __init__(self, vocab: bytes, *, lowercase: bool) -> None:
        from tokenizers import Tokenizer as FastTokenizer
        from tokenizers import models, normalizers, pre_tokenizers

        pieces = vocab.decode("utf-8").replace("\r\n", "\n").rstrip("\n").split("\n")
        # Rebuilt from the pieces, so that line endings do not change the hash.
        canonical = "".join(f"{piece}\n" for piece in pieces).encode()
        super().__init__(pieces, lowercase, canonical)
        ids = {piece: index for index, piece in enumerate(pieces)}
        if len(ids) < len(pieces):
            double = next(p for i, p in enumerate(pieces) if ids[p] != i)
            raise ValueError(
                f"The vocabulary of {len(pieces)} lines holds {double!r} twice; every "
                "piece needs one id. Remove the second line."
            )
        self._fast = FastTokenizer(
            models.WordPiece(
                ids,
                unk_token=SPECIAL_PIECES["unk"],
                max_input_chars_per_word=WORDPIECE_MAX_CHARS_PER_WORD,
            )
        )
        # strip_accents follows lowercase, as in BERT.
        self._fast.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
        self._fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()

    @classmethod
    def from_vocab(cls, path: pathlib.Path, *, lowercase: bool) -> "WordPieceTokenizer":
        """Reads a `vocab.txt`, for example the published one of BERT.

        Raises:
            ValueError: no such file, a special token is missing, or a piece is double.
        """
        path = pathlib.Path(path)
        if not path.is_file():
            raise ValueError(f"vocab={path}: no such file; expected a vocab.txt.")
        return cls(path.read_bytes(), lowercase=lowercase)

    @staticmethod
    def _opens_word(piece: str) -> bool:
        return not piece.startswith("##")

    def _encode(self, texts: list[str]) -> list[list[int]]:
        encodings = self._fast.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def to_json(self) -> str:
        """These rules as a tokenizer.json, without special tokens."""
        return self._fast.to_str()

    def _join(self, ids: list[int]) -> str:
        return " ".join(self.pieces[index] for index in ids).replace(" ##", "")


_KINDS = {cls.kind: cls for cls in (SentencePieceTokenizer, WordPieceTokenizer)}


def load_tokenizer(directory: pathlib.Path) -> Tokenizer:
    """Reads what `Tokenizer.save` wrote.

    Raises:
        ValueError: a file is missing, of unknown format, or not what was saved.
    """
    directory = pathlib.Path(directory)
    path = directory / METADATA_FILE
    if not path.is_file():
        raise ValueError(
            f"tokenizer={directory}: no {METADATA_FILE} there; expected a directory "
            "that `bert-jax prepare` or Tokenizer.save wrote."
        )
    try:
        metadata: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version, kind = metadata["format_version"], metadata["kind"]
        lowercase, sha256 = metadata["lowercase"], metadata["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); copy it again.") from error
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}; this bert_jax reads "
            f"{FORMAT_VERSION}. Install the one that wrote it."
        )
    if kind not in _KINDS:
        raise ValueError(f"{path}: kind {kind!r} is not one of {sorted(_KINDS)}.")
    model_path = directory / _KINDS[kind].model_file
    if not model_path.is_file():
        raise ValueError(f"{model_path} is missing; copy the whole directory.")
    tokenizer = _KINDS[kind](model_path.read_bytes(), lowercase=lowercase)
    if tokenizer.sha256 != sha256:
        raise ValueError(
            f"{model_path} has hash {tokenizer.sha256[:12]}, but {METADATA_FILE} "
            f"expects {sha256[:12]}; one of them was changed. Copy the directory again."
        )
    return tokenizer


def without_surrogates(text: str) -> str:
    """Lone surrogates, which are no characters, become U+FFFD."""
    # isascii is a stored flag, so ordinary text pays nothing for the search.
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _find_special(pieces: list[str]) -> SpecialIds:
    if missing := set(SPECIAL_PIECES.values()).difference(pieces):
        raise ValueError(
            f"The vocabulary of {len(pieces)} pieces lacks {sorted(missing)}; BERT "
            f"needs all of {list(SPECIAL_PIECES.values())}."
        )
    return SpecialIds(**{n: pieces.index(piece) for n, piece in SPECIAL_PIECES.items()})
