"""The tokenizer of a Hugging Face directory, or why its ids would not be ours."""

import json
import pathlib
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

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
from bert_jax.exchange.json_files import load_json
from bert_jax.exchange.tokenizer_checks import agreed_casing, fill_table

if TYPE_CHECKING:
    from tokenizers import Tokenizer as FastTokenizer

Json = dict[str, Any]

# Classes of transformers that read tokenizer.json as it stands.
_ANY_TOKENIZER = ("PreTrainedTokenizerFast", "TokenizersBackend")
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
    classes: Collection[str],
    lowercase: bool | None,
    notes: list[str],
) -> Tokenizer:
    """The tokenizer of the directory, with as many pieces as the token table has rows.

    Args:
        directory: with the files of a tokenizer of transformers.
        num_rows: of the token table.
        classes: the family's own tokenizers.
        lowercase: whether it folds case; needed where no file says so.
        notes: gets a sentence for each thing that was decided.

    Raises:
        ValueError: a file is missing or damaged, or ids would come out otherwise here.
    """
    model_path, vocab_path = directory / "sentencepiece.model", directory / "vocab.txt"
    fast = _load_fast(directory / "tokenizer.json")
    rules = json.loads(fast.to_str()) if fast else {}
    config = _tokenizer_config(directory)
    kind = (rules.get("model") or {}).get("type")
    folding = {"tokenizer_config.json do_lower_case": config.get("do_lower_case")}
    tokenizer: Tokenizer
    if model_path.is_file():
        folding["sentencepiece.model normalizer"] = _sentencepiece_folding(model_path)
        folds = _casing(directory, folding, lowercase)
        tokenizer = SentencePieceTokenizer(model_path.read_bytes(), lowercase=folds)
    elif vocab_path.is_file() or kind == "WordPiece":
        normalizer = _bert_normalizer(rules)
        folding["tokenizer.json lowercase"] = normalizer.get("lowercase")
        folds = _casing(directory, folding, lowercase)
        _check_rules(directory, rules, config, classes)
        max_chars = (rules.get("model") or {}).get("max_input_chars_per_word")
        if (max_chars or _THEIR_MAX_CHARS) != WORDPIECE_MAX_CHARS_PER_WORD:
            notes.append(
                f"Words of more than {_THEIR_MAX_CHARS} characters are [UNK] there, of "
                f"more than {WORDPIECE_MAX_CHARS_PER_WORD} here."
            )
        if vocab_path.is_file():
            vocab = vocab_path.read_bytes()
        else:
            ids = rules["model"]["vocab"]
            vocab = "\n".join(sorted(ids, key=ids.__getitem__)).encode()
        # transformers lets the first of these overrule the second.
        accents = config.get("strip_accents")
        if accents is None:
            accents = normalizer.get("strip_accents")
        tokenizer = WordPieceTokenizer(vocab, lowercase=folds, strip_accents=accents)
    else:
        found = f"tokenizer.json with a {kind} model" if kind else "none of them"
        raise ValueError(
            f"{directory} holds {found}; expected vocab.txt, a WordPiece "
            "tokenizer.json or sentencepiece.model. No other tokenizer exists here."
        )
    if fast:
        _compare(directory / "tokenizer.json", fast, tokenizer)
    return fill_table(directory, tokenizer, num_rows, "config.json", notes)


def _load_fast(path: pathlib.Path) -> "FastTokenizer | None":
    from tokenizers import Tokenizer as FastTokenizer

    if not path.is_file():
        return None
    try:
        fast = FastTokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ValueError(
            f"{path} is no tokenizer ({error}); fetch it again."
        ) from error
    fast.no_truncation()
    fast.no_padding()
    return fast


def _tokenizer_config(directory: pathlib.Path) -> Json:
    """tokenizer_config.json and what older files beside it say, special tokens checked."""
    config: Json = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = directory / name
        if not path.is_file():
            continue
        values = load_json(path)
        for special, piece in SPECIAL_PIECES.items():
            given = values.get(f"{special}_token")
            if isinstance(given, dict):
                given = given.get("content")
            if given not in (None, piece):
                raise ValueError(
                    f"{path} has {special}_token={given!r}; expected {piece!r}, BERT's."
                )
        config |= values
    added = [_content(x) for x in (config.get("added_tokens_decoder") or {}).values()]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more = config.get(key) or ()
        added += [
            _content(x) for x in (more.values() if isinstance(more, dict) else more)
        ]
    path = directory / "added_tokens.json"
    _check_added(directory, [*added, *(load_json(path) if path.is_file() else ())])
    return config


def _content(token: Any) -> str:
    return str(token.get("content")) if isinstance(token, dict) else str(token)


def _check_added(path: pathlib.Path, added: Iterable[str]) -> None:
    if odd := sorted({*added}.difference(SPECIAL_PIECES.values())):
        raise ValueError(
            f"{path} adds {odd[:5]} to the tokenizer: single tokens there, cut into "
            "pieces here. A tokenizer with added tokens cannot be imported."
        )


def _sentencepiece_folding(path: pathlib.Path) -> bool | None:
    try:
        proto = parse_model(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error} Fetch it again.") from error
    return FOLDS_CASE.get(proto.normalizer_spec.name)


def _bert_normalizer(rules: Json) -> Json:
    """The normalizer of a tokenizer.json, as if `BertNormalizer` did what ours does."""
    normalizer = rules.get("normalizer") or {}
    parts = normalizer.get("normalizers") or [{}]
    ours = json.loads(bert_rules(True, None)[0].__getstate__())["normalizers"]
    if parts[:-1] == ours[:-1] and parts[-1].get("clean_text") is False:
        return parts[-1] | {"clean_text": True}
    return normalizer


def _casing(directory: pathlib.Path, said: Json, lowercase: bool | None) -> bool:
    folds = agreed_casing(directory, said, lowercase)
    if folds is None:
        raise ValueError(
            f"{directory}: no file says whether the tokenizer folds case; pass "
            "--lowercase (an uncased model) or --no-lowercase (a cased one)."
        )
    return folds


def _check_rules(
    directory: pathlib.Path, rules: Json, config: Json, classes: Collection[str]
) -> None:
    """Raises ValueError where a setting asks for other ids than ours."""
    model, normalizer = rules.get("model") or {}, _bert_normalizer(rules)
    pre = rules.get("pre_tokenizer") or {}
    slow = "tokenizer_config.json"
    checks: list[tuple[str, Any, tuple[Any, ...]]] = [
        (
            f"{slow} tokenizer_class",
            config.get("tokenizer_class"),
            (*classes, *_ANY_TOKENIZER),
        ),
        (
            f"{slow} tokenize_chinese_chars",
            config.get("tokenize_chinese_chars"),
            (True,),
        ),
        (f"{slow} do_basic_tokenize", config.get("do_basic_tokenize"), (True,)),
        (f"{slow} never_split", config.get("never_split"), ([],)),
    ]
    if rules:
        limits = (_THEIR_MAX_CHARS, WORDPIECE_MAX_CHARS_PER_WORD)
        checks += [
            (f"tokenizer.json {name}", value, expected)
            for name, value, expected in (
                ("model", model.get("type", ""), ("WordPiece",)),
                ("normalizer", normalizer.get("type", ""), ("BertNormalizer",)),
                ("pre_tokenizer", pre.get("type", ""), ("BertPreTokenizer",)),
                ("clean_text", normalizer.get("clean_text"), (True,)),
                (
                    "handle_chinese_chars",
                    normalizer.get("handle_chinese_chars"),
                    (True,),
                ),
                (
                    "continuing_subword_prefix",
                    model.get("continuing_subword_prefix"),
                    ("##",),
                ),
                (
                    "max_input_chars_per_word",
                    model.get("max_input_chars_per_word"),
                    limits,
                ),
            )
        ]
    for where, value, expected in checks:
        if value is not None and value not in expected:
            choices = " or ".join(repr(x) for x in expected if x is not None)
            raise ValueError(
                f"{directory}: {where}={value!r}; expected {choices}. Its ids would "
                "come out otherwise here, so it cannot be imported."
            )


def _compare(path: pathlib.Path, fast: "FastTokenizer", tokenizer: Tokenizer) -> None:
    """Raises ValueError unless tokenizer.json and what was read give the same ids."""
    _check_added(path, [x.content for x in fast.get_added_tokens_decoder().values()])
    ours = {piece: index for index, piece in enumerate(tokenizer.pieces)}
    theirs = fast.get_vocab(with_added_tokens=True)
    if odd := sorted(dict(ours.items() ^ theirs.items())):
        raise ValueError(
            f"{path} and the vocabulary beside it differ in {odd[:3]} ({len(odd)} "
            "pieces in all); one of them is of another model. Fetch both again."
        )
    if not isinstance(tokenizer, WordPieceTokenizer):
        return  # exchange/tokenizer.py says where the two may differ
    a, b = tokenizer.encode(["river stone", "water"])
    special = tokenizer.special
    pair = fast.encode("river stone", "water")
    expected = [special.cls, *a, special.sep, *b, special.sep]
    if pair.ids != expected or pair.type_ids != [0] * (len(a) + 2) + [1] * (len(b) + 1):
        raise ValueError(
            f"{path} makes {pair.tokens} of a pair of texts; expected [CLS] A [SEP] B "
            "[SEP], the first three in segment 0."
        )
    for text, ids in zip(_PROBES, tokenizer.encode(_PROBES), strict=True):
        if fast.encode(text, add_special_tokens=False).ids != ids:
            raise ValueError(
                f"{path} and the tokenizer here give different ids for {text!r}; its "
                "rules are not BERT's, so it cannot be imported."
            )
