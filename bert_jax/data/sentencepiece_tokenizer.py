"""Unigram or BPE pieces of the user's own text (Kudo and Richardson 2018)."""

from array import array

from bert_jax.data.sentencepiece_model import is_unigram, parse_model
from bert_jax.data.sentencepiece_words import SPACE, splits_by_word
from bert_jax.data.ties import Powers
from bert_jax.data.tokenizer import Tokenizer, without_surrogates


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model with BERT's special tokens.

    The ids of a word do not depend on the text around it, where SentencePiece's rounding
    of sums over a whole text can decide between two that are as good as equal.
    """

    kind = "sentencepiece"
    model_file = "sentencepiece.model"

    def __init__(self, model: bytes, *, lowercase: bool) -> None:
        """Takes the content of a `.model` file.

        Args:
            model: its control symbols are [PAD] [CLS] [SEP] [MASK], its unknown piece
                is [UNK].
            lowercase: whether its normalisation folds case, for the record.

        Raises:
            ValueError: not such a model.
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
        super().__init__(
            model,
            pieces,
            lowercase=lowercase,
            normalization={"rules": proto.normalizer_spec.name},
            splits_by_word=splits_by_word(proto),
        )
        # Merges know no ties of scores.
        ties = is_unigram(proto)
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
        return piece.startswith(SPACE)

    def _encode_one(self, text: str) -> bytes:
        # One at a time: the library starts a thread for a list, however short.
        ids = self._processor.encode(without_surrogates(text))
        if self._powers is not None:
            self._powers.sort_runs(ids)
        return array(self.id_dtype.char, ids).tobytes()

    def _join(self, ids: list[int]) -> str:
        return self._processor.decode(ids).strip()
