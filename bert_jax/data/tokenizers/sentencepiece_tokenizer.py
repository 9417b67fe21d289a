"""A tokenizer with a unigram or BPE model of SentencePiece (Kudo and Richardson 2018)."""

import functools
from array import array
from collections.abc import Callable, Collection, Sequence

import numpy as np

from bert_jax.data.tokenizers.fast_encoding import (
    Encoder,
    Joined,
    fast_encoder,
)
from bert_jax.data.tokenizers.fast_normalization import (
    FastNormalization,
    without_surrogates,
)
from bert_jax.data.tokenizers.interchangeable_pieces import InterchangeablePieces
from bert_jax.data.tokenizers.pieces import SPACE
from bert_jax.data.tokenizers.sentencepiece_model import (
    is_unigram,
    parse_model,
    rules_by_word,
    splits_by_word,
)
from bert_jax.data.tokenizers.tokenizer import Tokenizer

# SentencePiece's sets of normalisation rules -> whether they put text in lower case.
FOLDS_CASE = {
    "identity": False,
    "nfkc": False,
    "nfkc_cf": True,
    "nmt_nfkc": False,
    "nmt_nfkc_cf": True,
}
# The library starts a thread for a list of texts, which takes as long as so many calls.
_FEW_TEXTS = 20
# So many words are remembered, about 130 MB, and none of a longer text, which could be one
# long word.
_WORDS = 1 << 19
_MOST_CHARACTERS = 1_000


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model with BERT's special tokens.

    Ids are SentencePiece's own, except for the order of neighbours that can change
    places (see `interchangeable_pieces`), and for splits of a word that are nearly as likely
    in a long text (see `splits_by_word`).
    """

    kind = "sentencepiece"
    model_file = "sentencepiece.model"

    def __init__(self, model: bytes, *, lowercase: bool) -> None:
        """Takes the content of a `.model` file.

        Args:
            model: a model whose control symbols are [PAD] [CLS] [SEP] [MASK] and whose
                unknown piece is [UNK].
            lowercase: whether its rules put text in lower case; only checked here.

        Raises:
            ValueError: it is not such a model, or its rules contradict `lowercase`.
        """
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
        proto = parse_model(model)
        rules = proto.normalizer_spec.name
        if FOLDS_CASE.get(rules, lowercase) != lowercase:
            raise ValueError(
                f"lowercase={lowercase}, but this SentencePiece model normalises with "
                f"{rules!r}, which {'keeps' if lowercase else 'folds'} case; pass "
                f"lowercase={not lowercase}."
            )
        super().__init__(
            model,
            pieces,
            lowercase=lowercase,
            normalization={"rules": rules},
            library="sentencepiece",
        )
        self._ids_of_word: Callable[[str], bytes] | None = None
        self._interchangeable: InterchangeablePieces | None = None
        if is_unigram(proto):
            # A BPE model applies its merges in one order, so it needs no sorting.
            self._interchangeable = InterchangeablePieces(pieces, self._special_ids)
        elif splits_by_word(proto):
            # Most words of a text cost one look-up.
            self._ids_of_word = functools.lru_cache(_WORDS)(self._encode_word)
        for index in self._special_ids - {self.special.unk}:
            if not self._processor.is_control(index):
                raise ValueError(
                    f"Piece {pieces[index]!r} of this SentencePiece model is not a "
                    "control symbol, so text could spell it; train the model with "
                    "`train_sentencepiece`."
                )

    def normalize(self, text: str) -> str:
        return str(self._processor.normalize(text)).replace(SPACE, " ")

    def _opens_word(self, piece: str) -> bool:
        return piece.startswith(SPACE)

    def _load_fast(self) -> Encoder | None:
        proto = parse_model(self.model)
        fast = fast_encoder(rules_by_word(proto)) if splits_by_word(proto) else None
        if fast is None:
            return None

        normalization = FastNormalization(
            self.normalize, lowercase=self.lowercase, drops_spaces=True
        )

        def encode(texts: Sequence[str], uncommon: Collection[str] | None) -> Joined:
            ids, lengths = fast.encode(normalization(texts, uncommon), None)
            if self._interchangeable is not None:
                self._interchangeable.sort_runs(ids, lengths)
                return ids, lengths
            return self._without_bytes(ids, lengths)

        return fast._replace(encode=encode)

    def _without_bytes(self, ids: np.ndarray, lengths: np.ndarray) -> Joined:
        """With one unknown piece for each run of the bytes of unknown characters."""
        is_byte = ids >= self.vocab_size
        if not is_byte.any():
            return ids, lengths
        # No run reaches from one text into the next, because texts begin with a space.
        is_kept = ~(is_byte & np.roll(is_byte, 1))
        num_kept = np.cumsum(np.append(0, is_kept))
        ends = num_kept[np.cumsum(lengths)]
        ids = np.where(is_byte, self._processor.unk_id(), ids)[is_kept]
        return ids, np.diff(ends, prepend=0)

    def _encode(self, texts: Sequence[str]) -> Joined:
        if self._ids_of_word is not None:
            return self._encode_by_word(texts, self._ids_of_word)
        texts = [without_surrogates(text) for text in texts]
        encode = functools.partial(self._processor.encode, return_type="numpy")
        if len(texts) < _FEW_TEXTS:
            encoded = [encode(text) for text in texts]
        else:
            # Preparing data runs one process per core already.
            encoded = encode(texts, num_threads=1)
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        ids = np.concatenate([np.empty(0, np.int32), *encoded])
        if self._interchangeable is not None:
            self._interchangeable.sort_runs(ids, lengths)
        return ids.astype(self.id_dtype), lengths

    def _encode_by_word(
        self, texts: Sequence[str], ids_of_word: Callable[[str], bytes]
    ) -> Joined:
        found = [
            b"".join(map(ids_of_word, text.split(" ")))
            if len(text) <= _MOST_CHARACTERS
            else self._encode_word(text)
            for text in texts
        ]
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        ids = np.frombuffer(b"".join(found), self.id_dtype)
        return ids, lengths // self.id_dtype.itemsize

    def _encode_word(self, word: str) -> bytes:
        """The ids of a word, or of any text, as the bytes of an array."""
        ids = self._processor.encode(without_surrogates(word))
        return array(self.id_dtype.char, ids).tobytes()

    def _behind_a_mask(self, text: str, ids: list[int]) -> list[int]:
        # The beginning of every text is taken for that of a word.
        if not ids or text[:1].isspace():
            return ids
        piece = self.pieces[ids[0]]
        if piece == SPACE:
            return ids[1:]
        within = self._processor.piece_to_id(piece.removeprefix(SPACE))
        return [ids[0] if within == self.special.unk else within, *ids[1:]]

    def _join(self, ids: list[int]) -> str:
        return self._processor.decode(ids).strip()
