"""Our tokenizers as the files that transformers' AutoTokenizer reads.

WordPiece and SentencePiece both become one fast tokenizer of the `tokenizers` library
that gives the same ids as `Tokenizer.encode`, and adds [CLS] A [SEP] B [SEP]. A
tokenizer.json that was kept as it is goes out as it came in (`kept_tokenizer`).

Where the exported tokenizer differs, knowingly:

- Text that spells a special token, such as "[MASK]", becomes that token, as with
  every tokenizer of transformers. `Tokenizer.encode` keeps it text.
- SentencePiece looks at combining characters in the order they stand in; `tokenizers`
  cannot, and reads them in canonical (NFC) order. What can differ: two or more
  combining marks out of that order on one base, a full-width or half-width base with
  a mark, and U+0344.
- SentencePiece BPE breaks ties between equal merges by position, `tokenizers` by rank.
"""

import pathlib
from typing import TYPE_CHECKING, Any

from bert_jax.data.tokenizers.huggingface_rules import load_fast
from bert_jax.data.tokenizers.huggingface_tokenizer import HuggingFaceTokenizer
from bert_jax.data.tokenizers.sentencepiece_model import is_unigram, parse_model
from bert_jax.data.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer
from bert_jax.data.tokenizers.tokenizer import SPECIAL_PIECES, Tokenizer
from bert_jax.data.tokenizers.wordpiece_tokenizer import WordPieceTokenizer
from bert_jax.exchange.json_files import save_json
from bert_jax.exchange.kept_tokenizer import write_kept_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer as FastTokenizer

# Far below any trained piece, so that full-width text such as "［ＭＡＳＫ］", which
# normalises to a special token's spelling, is still cut into ordinary pieces.
_SPECIAL_SCORE = -1_000.0

# What SentencePiece's nmt rules delete (found by normalising every code point).
_DELETED = r"[\x{01}-\x{08}\x{0b}\x{0e}-\x{1f}\x{7f}\x{8f}\x{9f}]"
# One of them.
_BREAK = "\x01"


def save_huggingface_tokenizer(
    tokenizer: Tokenizer,
    directory: pathlib.Path,
    max_length: int,
    num_segments: int = 2,
    *,
    of_words: bool = False,
) -> None:
    """Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json.

    A WordPiece vocabulary is written as vocab.txt too, for readers without the fast
    format, and a SentencePiece model as sentencepiece.model.

    Args:
        tokenizer: what the model was trained with.
        directory: created if need be; other files there stay.
        max_length: positions of the model; transformers cuts there when asked to.
        num_segments: of the model; one that has less than two gets no token_type_ids.
        of_words: whether the model was trained on single words, as taggers are.

    Raises:
        ValueError: `max_length` leaves no room for text, or the kind is unknown.
    """
    if max_length < 3:
        raise ValueError(
            f"max_length={max_length} leaves no room between [CLS] and [SEP]; give "
            "the number of positions of the model."
        )
    directory.mkdir(parents=True, exist_ok=True)
    if isinstance(tokenizer, HuggingFaceTokenizer):
        write_kept_tokenizer(
            tokenizer, directory, max_length, num_segments, of_words=of_words
        )
        return
    fast = to_fast_tokenizer(tokenizer)
    (directory / "tokenizer.json").write_text(fast.to_str(), encoding="utf-8")
    special = {f"{name}_token": piece for name, piece in SPECIAL_PIECES.items()}
    save_json(directory / "special_tokens_map.json", special)
    config: dict[str, Any] = {
        # The one class name that reads tokenizer.json as it stands, in transformers
        # 4 and 5; "BertTokenizer" would rebuild another tokenizer from the vocabulary.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "model_input_names": [
            "input_ids",
            *(["token_type_ids"] if num_segments > 1 else []),
            "attention_mask",
        ],
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        **special,
    }
    save_json(directory / "tokenizer_config.json", config)
    if isinstance(tokenizer, WordPieceTokenizer):
        text = "".join(f"{piece}\n" for piece in tokenizer.pieces)
        (directory / "vocab.txt").write_text(text, encoding="utf-8", newline="\n")
    elif isinstance(tokenizer, SentencePieceTokenizer):
        (directory / "sentencepiece.model").write_bytes(tokenizer.model)


def to_fast_tokenizer(tokenizer: Tokenizer) -> "FastTokenizer":
    """A `tokenizers` tokenizer with equal ids and BERT's special tokens.

    Raises:
        ValueError: the kind is unknown.
    """
    from tokenizers import AddedToken, processors

    if isinstance(tokenizer, HuggingFaceTokenizer):
        return load_fast(tokenizer.model.decode("utf-8"))
    if isinstance(tokenizer, WordPieceTokenizer):
        fast = _from_wordpiece(tokenizer)
    elif isinstance(tokenizer, SentencePieceTokenizer):
        fast = _from_sentencepiece(tokenizer)
    else:
        raise ValueError(
            f"Tokenizer kind {tokenizer.kind!r} has no Hugging Face form; expected "
            "'wordpiece' or 'sentencepiece'."
        )
    fast.add_special_tokens(
        [
            AddedToken(piece, special=True, normalized=False)
            for piece in SPECIAL_PIECES.values()
        ]
    )
    cls, sep = SPECIAL_PIECES["cls"], SPECIAL_PIECES["sep"]
    fast.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, tokenizer.special.cls), (sep, tokenizer.special.sep)],
    )
    if fast.get_vocab_size() != len(set(tokenizer.pieces)):
        raise AssertionError("special tokens were added a second time")
    return fast


def _from_wordpiece(tokenizer: WordPieceTokenizer) -> "FastTokenizer":
    from tokenizers import Tokenizer as FastTokenizer
    from tokenizers import decoders

    fast = FastTokenizer.from_str(tokenizer.to_json())
    fast.decoder = decoders.WordPiece(prefix="##")
    return fast


def _from_sentencepiece(tokenizer: SentencePieceTokenizer) -> "FastTokenizer":
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as FastTokenizer

    proto = parse_model(tokenizer.model)
    if is_unigram(proto):
        fast = FastTokenizer(_unigram(proto, tokenizer))
    else:
        fast = FastTokenizer(_bpe(proto))
    # `Precompiled` asks for whole grapheme clusters and drops the marks of those whose
    # base it maps ("A" + accent becomes "a"). So marks are composed first, and a
    # character that ends a cluster, which the rules delete, goes before every
    # non-ASCII character: from there on it works on single characters.
    fast.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(Regex(r"(?=[^\x{00}-\x{7f}])"), _BREAK),
            normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap),
            # It does not delete at the very start of a text.
            normalizers.Replace(Regex(_DELETED), ""),
            normalizers.Replace(Regex(" {2,}"), " "),
            # `Strip` would also take U+0085, which SentencePiece keeps.
            normalizers.Replace(Regex(r"\A +| +\z"), ""),
            *(normalizers.Replace(*spelling) for spelling in _unspelled(tokenizer)),
        ]
    )
    # "always": text after a special token starts a word again.
    fast.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    fast.decoder = decoders.Metaspace(prepend_scheme="always")
    return fast


def _unspelled(tokenizer: SentencePieceTokenizer) -> list[tuple[str, str]]:
    """What to put for a special token's spelling whose characters are not all known.

    An unknown character costs more than any piece, the special one included; another
    unknown character in its place gives the same ids and no longer spells the token.
    """
    known = set(tokenizer.pieces)
    return [
        (piece, piece.replace(char, "\ufffe"))
        for piece in SPECIAL_PIECES.values()
        for char in piece
        if char not in known
    ]


def _unigram(proto: Any, tokenizer: SentencePieceTokenizer) -> Any:
    from tokenizers import models

    special = set(SPECIAL_PIECES.values())
    scores = [
        (piece.piece, _SPECIAL_SCORE if piece.piece in special else piece.score)
        for piece in proto.pieces
    ]
    return models.Unigram(scores, unk_id=tokenizer.special.unk, byte_fallback=False)


def _bpe(proto: Any) -> Any:
    """Merges in the order of the pieces that they make: earlier pieces merge first."""
    from tokenizers import models

    vocab = {piece.piece: index for index, piece in enumerate(proto.pieces)}
    special = set(SPECIAL_PIECES.values())
    merges = [
        (piece[:cut], piece[cut:])
        for piece in vocab
        if piece not in special
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    return models.BPE(vocab, merges, unk_token=SPECIAL_PIECES["unk"], fuse_unk=True)
