"""The tokenizer of a foreign model, or why its ids would not be ours."""

import json
import pathlib
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from bert_jax.data.tokenizers.huggingface_rules import load_fast
from bert_jax.data.tokenizers.pieces import row_name
from bert_jax.data.tokenizers.sentencepiece_model import parse_model
from bert_jax.data.tokenizers.sentencepiece_tokenizer import (
    FOLDS_CASE,
    SentencePieceTokenizer,
)
from bert_jax.data.tokenizers.tokenizer import SPECIAL_PIECES, Tokenizer
from bert_jax.data.tokenizers.wordpiece_tokenizer import (
    WORDPIECE_MAX_CHARS_PER_WORD,
    WordPieceTokenizer,
    bert_rules,
)
from bert_jax.exchange.kept_tokenizer import keeps, read_kept_tokenizer
from bert_jax.exchange.tokenizer_checks import (
    Settings,
    agreed_casing,
    fill_table,
    read_settings,
    refuse_added,
    refuse_other_ids,
    refuse_rule,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer as FastTokenizer

Json = dict[str, Any]

VOCABULARY, FAST, SENTENCEPIECE = "vocab.txt", "tokenizer.json", "sentencepiece.model"
# transformers' limit where no file states one.
_THEIR_MAX_CHARS = 100
# Case, accents, other scripts, punctuation, brackets, control and full-width characters.
_PROBES = (
    "The River of Stones, 1984: it's [x]!",
    "\u00c9cole ALT\u00c9R\u00c9E na\u00efve \u65e5\u672c\u8a9e \ud55c\uad6d\uc5b4 "
    "stra\u00dfe \u0439",
    "tab\there zero\u200bwidth \u00a0two  spaces\u0001 \ufb01 \uff21 e\u0301",
)


def read_tokenizer(
    directory: pathlib.Path,
    num_rows: int,
    *,
    config_file: str,
    config: Mapping[str, Any],
    classes: Collection[str],
    lowercase: bool | None,
    notes: list[str],
    named: tuple[str, bool] | None = None,
    max_chars: int = _THEIR_MAX_CHARS,
) -> tuple[Tokenizer, int | None]:
    """The tokenizer of the directory, with as many pieces as the token table has rows.

    Args:
        directory: with the files of a tokenizer of transformers.
        num_rows: of the token table.
        config_file: name of the model's config.
        config: its content, which may speak of the tokenizer too.
        classes: the family's own tokenizers.
        lowercase: whether it folds case; needed where no file says so.
        notes: gets a sentence for each thing that was decided.
        named: the directory's name and the casing that it tells, where no file does.
        max_chars: longest word that the source's library cuts into pieces, where no
            file states it.

    Returns:
        The tokenizer, and the number of tokens after which texts were cut, if a file
        says so.

    Raises:
        ValueError: a file is missing or damaged, or ids would come out otherwise here.
    """
    fast = _load_fast(directory / FAST)
    rules = json.loads(fast.to_str()) if fast else {}
    if keeps(directory, rules):
        return read_kept_tokenizer(directory, num_rows, config_file, classes, notes)
    vocabularies = (SENTENCEPIECE, VOCABULARY)
    if not rules and not any((directory / x).is_file() for x in vocabularies):
        raise ValueError(
            f"{directory} holds no tokenizer; expected tokenizer.json, vocab.txt or "
            "sentencepiece.model. AutoTokenizer.from_pretrained(...).save_pretrained(...) "
            "of transformers writes tokenizer.json."
        )
    settings = read_settings(directory, config_file, config, classes, notes)
    tokenizer: Tokenizer
    if (directory / SENTENCEPIECE).is_file():
        tokenizer = _sentencepiece(directory, settings, lowercase)
    else:
        if rules:
            _refuse_fast_rules(directory / FAST, rules)
        stated = (rules.get("model") or {}).get("max_input_chars_per_word")
        if (stated or max_chars) != WORDPIECE_MAX_CHARS_PER_WORD:
            notes.append(
                f"Words of more than {stated or max_chars} characters are [UNK] there, of "
                f"more than {WORDPIECE_MAX_CHARS_PER_WORD} here."
            )
        by_rules = _bert_normalizer(rules).get("lowercase")
        said = {**settings.casing, f"{FAST} lowercase": by_rules}
        folds = _casing(directory, said, lowercase, named, notes)
        tokenizer = _wordpiece(directory, settings, rules, folds)
    refuse_other_ids(directory, settings.added, tokenizer)
    if fast:
        _compare(directory / FAST, fast, tokenizer)
    whole = fill_table(directory, tokenizer, num_rows, config_file, notes)
    return whole, settings.max_length


def _sentencepiece(
    directory: pathlib.Path, settings: Settings, lowercase: bool | None
) -> Tokenizer:
    path = directory / SENTENCEPIECE
    try:
        proto = parse_model(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error} Fetch it again.") from error
    folds = FOLDS_CASE.get(proto.normalizer_spec.name)
    said = {**settings.casing, f"{SENTENCEPIECE} normalizer": folds}
    folds = _casing(directory, said, lowercase, None, [])
    return SentencePieceTokenizer(path.read_bytes(), lowercase=folds)


def _wordpiece(
    directory: pathlib.Path, settings: Settings, rules: Json, folds: bool
) -> Tokenizer:
    normalizer = _bert_normalizer(rules)
    path = directory / VOCABULARY
    if path.is_file():
        vocab = path.read_bytes()
    else:
        path = directory / FAST
        ids = rules["model"]["vocab"]
        # An id that no piece has keeps its place, so that the others keep theirs.
        pieces = [row_name(index) for index in range(max(ids.values()) + 1)]
        for piece, index in ids.items():
            pieces[index] = piece
        vocab = "\n".join(pieces).encode()
    # transformers lets the first of these overrule the second.
    accents = settings.values.get("strip_accents")
    if accents is None:
        accents = normalizer.get("strip_accents")
    try:
        return WordPieceTokenizer(vocab, lowercase=folds, strip_accents=accents)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _load_fast(path: pathlib.Path) -> "FastTokenizer | None":
    if not path.is_file():
        return None
    try:
        return load_fast(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _casing(
    directory: pathlib.Path,
    said: Json,
    lowercase: bool | None,
    named: tuple[str, bool] | None,
    notes: list[str],
) -> bool:
    folds = agreed_casing(directory, said, lowercase)
    name, by_name = named or ("", None)
    if folds is None:
        if by_name is None:
            raise ValueError(
                f"{directory}: no file says whether the tokenizer folds case; pass "
                "--lowercase (an uncased model) or --no-lowercase (a cased one)."
            )
        folds = by_name
        notes.append(
            f"Case is {'' if folds else 'not '}folded, by the name of the directory, "
            f"{name!r}."
        )
    elif by_name not in (None, folds):
        notes.append(
            f"Case is {'' if folds else 'not '}folded, though the directory is called "
            f"{name!r}."
        )
    return folds


def _bert_normalizer(rules: Json) -> Json:
    """The normalizer of a tokenizer.json, as if `BertNormalizer` did what ours does."""
    normalizer = rules.get("normalizer") or {}
    parts = normalizer.get("normalizers") or [{}]
    ours = json.loads(bert_rules(True, None)[0].__getstate__())["normalizers"]
    if parts[:-1] == ours[:-1] and parts[-1].get("clean_text") is False:
        return parts[-1] | {"clean_text": True}
    return normalizer


def _refuse_fast_rules(path: pathlib.Path, rules: Json) -> None:
    """Raises ValueError where tokenizer.json asks for other ids than ours."""
    model, normalizer = rules.get("model") or {}, _bert_normalizer(rules)
    pre = rules.get("pre_tokenizer") or {}
    limits = (_THEIR_MAX_CHARS, WORDPIECE_MAX_CHARS_PER_WORD)
    checks: list[tuple[str, Any, tuple[Any, ...]]] = [
        ("model", model.get("type", ""), ("WordPiece",)),
        ("normalizer", normalizer.get("type", ""), ("BertNormalizer",)),
        ("pre_tokenizer", pre.get("type", ""), ("BertPreTokenizer",)),
        ("clean_text", normalizer.get("clean_text"), (True,)),
        ("handle_chinese_chars", normalizer.get("handle_chinese_chars"), (True,)),
        ("unk_token", model.get("unk_token"), (SPECIAL_PIECES["unk"],)),
        ("continuing_subword_prefix", model.get("continuing_subword_prefix"), ("##",)),
        ("max_input_chars_per_word", model.get("max_input_chars_per_word"), limits),
    ]
    for key, value, expected in checks:
        if value is not None and value not in expected:
            refuse_rule(path, key, value, expected)


def _compare(path: pathlib.Path, fast: "FastTokenizer", tokenizer: Tokenizer) -> None:
    """Raises ValueError unless tokenizer.json and what was read give the same ids."""
    refuse_added(path, [x.content for x in fast.get_added_tokens_decoder().values()])
    ours = {piece: index for index, piece in enumerate(tokenizer.pieces)}
    theirs = fast.get_vocab(with_added_tokens=True)
    odd = sorted(
        piece
        for piece, index in ours.items() ^ theirs.items()
        if piece in theirs or piece != row_name(index)
    )
    if odd:
        raise ValueError(
            f"{path} and the vocabulary beside it differ in {odd[:3]} ({len(odd)} "
            "pieces in all); one of them is of another model. Fetch both again."
        )
    if not isinstance(tokenizer, WordPieceTokenizer):
        return  # exchange/tokenizer.py says where the two may differ
    a, b = tokenizer.encode(["river stone", "water"])
    special = tokenizer.special
    first = [special.cls, *a, special.sep]
    one, pair = fast.encode("river stone"), fast.encode("river stone", "water")
    if (one.ids, one.type_ids) != (first, [0] * len(first)) or (
        (pair.ids, pair.type_ids)
        != ([*first, *b, special.sep], [0] * len(first) + [1] * (len(b) + 1))
    ):
        raise ValueError(
            f"{path} makes {one.tokens} of a text and {pair.tokens} of a pair; expected "
            "[CLS] A [SEP] and [CLS] A [SEP] B [SEP], the first three in segment 0."
        )
    for text, ids in zip(_PROBES, tokenizer.encode(_PROBES), strict=True):
        if fast.encode(text, add_special_tokens=False).ids != ids:
            raise ValueError(
                f"{path} and the tokenizer here give different ids for {text!r}; its "
                "rules are not BERT's, so it cannot be imported."
            )
