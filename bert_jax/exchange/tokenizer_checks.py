"""What the files beside a foreign vocabulary say about ids: applied, or refused."""

import pathlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from bert_jax.data.tokenizers.huggingface_rules import content
from bert_jax.data.tokenizers.huggingface_tokenizer import (
    CONFIG_FILE,
    HuggingFaceTokenizer,
)
from bert_jax.data.tokenizers.pieces import row_name
from bert_jax.data.tokenizers.tokenizer import SPECIAL_PIECES, Tokenizer
from bert_jax.data.tokenizers.wordpiece_tokenizer import WordPieceTokenizer
from bert_jax.exchange.json_files import load_json

# Classes of transformers that read tokenizer.json as it stands.
ANY_TOKENIZER = ("PreTrainedTokenizerFast", "TokenizersBackend")
# Keys of tokenizer_config.json, or of config.json, that change ids -> the values that
# are BERT's rules, or that are applied here.
_RULES: dict[str, tuple[Any, ...]] = {
    "do_lower_case": (True, False),
    "strip_accents": (True, False),
    "tokenize_chinese_chars": (True,),
    "do_basic_tokenize": (True,),
    "clean_text": (True,),
    "wordpieces_prefix": ("##",),
    "split_special_tokens": (False,),
    "auto_map": ({},),
    # Of BertJapaneseTokenizer.
    "do_word_tokenize": (True,),
    "do_subword_tokenize": (True,),
    "word_tokenizer_type": ("basic",),
    "subword_tokenizer_type": ("wordpiece",),
}
# Keys of tokenizer_config.json that this file reads otherwise, or that change no id.
_READ = {
    *("tokenizer_class", "never_split", "added_tokens_decoder", "model_max_length"),
    *("additional_special_tokens", "extra_special_tokens", "max_len", "max_length"),
    *("name_or_path", "special_tokens_map_file", "tokenizer_file", "model_input_names"),
    *("clean_up_tokenization_spaces", "backend", "is_local", "full_tokenizer_file"),
    *("stride", "pad_to_multiple_of", "pad_token_type_id", "truncation_strategy"),
    *("init_inputs", "processor_class", "use_fast", "local_files_only"),
}
# How batches are made: it changes no id of a text.
_SIDES = {"padding_side": "right", "truncation_side": "right"}


class Settings(NamedTuple):
    """What the files beside a vocabulary say."""

    values: Mapping[str, Any]
    """The content of tokenizer_config.json and of special_tokens_map.json."""
    casing: Mapping[str, Any]
    """Which file says whether case is folded -> true, false or nothing."""
    added: Collection[tuple[int | None, str]]
    """Tokens that are said to be added, with their ids where a file gives them."""
    max_length: int | None
    """Tokens after which texts are cut, where a file says so."""


def read_settings(
    directory: pathlib.Path,
    config_file: str,
    config: Mapping[str, Any],
    classes: Collection[str],
    notes: list[str],
) -> Settings:
    """Reads every file but the vocabulary and tokenizer.json.

    Args:
        directory: of the tokenizer.
        config_file: name of the model's config, which may speak of the tokenizer too.
        config: its content.
        classes: the family's own tokenizers.
        notes: gets a sentence for each thing that was left out.

    Raises:
        ValueError: a file is damaged, or asks for other ids than ours.
    """
    values: dict[str, Any] = {}
    added: list[tuple[int | None, str]] = []
    for name in ("special_tokens_map.json", CONFIG_FILE):
        path = directory / name
        if path.is_file():
            found = load_json(path)
            added += _special_tokens(path, found)
            values |= found
    sources = {config_file: config, CONFIG_FILE: values}
    for where, stated in sources.items():
        _refuse_rules(directory / where, stated, classes)
    path = directory / "added_tokens.json"
    if path.is_file():
        added += [(index, token) for token, index in load_json(path).items()]
    refuse_added(directory, (token for _, token in added))
    for key, usual in _SIDES.items():
        if values.get(key) not in (None, usual):
            notes.append(
                f"{CONFIG_FILE} has {key}={values[key]!r}; here it is {usual!r}."
            )
    known = {*_RULES, *_READ, *_SIDES}
    if unread := sorted(
        key for key in values if key not in known and not key.endswith("_token")
    ):
        notes.append(
            f"{CONFIG_FILE} has keys that nothing here reads: {', '.join(unread)}."
        )
    casing = {
        f"{where} do_lower_case": stated.get("do_lower_case")
        for where, stated in sources.items()
    }
    path = directory / "sentence_bert_config.json"
    # False there means that the tokenizer decides.
    if path.is_file() and load_json(path).get("do_lower_case"):
        casing[f"{path.name} do_lower_case"] = True
    return Settings(values, casing, added, stated_limit(directory, values))


def stated_limit(directory: pathlib.Path, values: Mapping[str, Any]) -> int | None:
    """The number of tokens after which texts are cut, where a file says so.

    Args:
        directory: of the tokenizer.
        values: the content of tokenizer_config.json.
    """
    limits = [values.get("model_max_length"), values.get("max_len")]
    path = directory / "sentence_bert_config.json"
    if path.is_file():
        limits.append(load_json(path).get("max_seq_length"))
    # transformers writes 1e30 for "no limit".
    finite = [int(x) for x in limits if isinstance(x, int | float) and 8 <= x < 1e9]
    return min(finite, default=None)


def _special_tokens(
    path: pathlib.Path, found: Mapping[str, Any]
) -> Iterable[tuple[int | None, str]]:
    """The tokens that a file calls special or added."""
    for key, value in found.items():
        if not key.endswith("_token") or value is None or isinstance(value, bool):
            continue
        piece = SPECIAL_PIECES.get(key.removesuffix("_token"))
        said = str(content(value))
        if piece is not None and said != piece:
            raise ValueError(f"{path} has {key}={said!r}; expected {piece!r}, BERT's.")
        yield None, said
    for index, token in (found.get("added_tokens_decoder") or {}).items():
        yield int(index), str(content(token))
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more = found.get(key) or ()
        for token in more.values() if isinstance(more, dict) else more:
            yield None, str(content(token))


def _refuse_rules(
    path: pathlib.Path, found: Mapping[str, Any], classes: Collection[str]
) -> None:
    rules = _RULES | {"tokenizer_class": (*classes, *ANY_TOKENIZER)}
    for key, harmless in rules.items():
        value = found.get(key)
        if value is not None and value not in harmless:
            refuse_rule(path, key, value, harmless)
    kept = found.get("never_split") or ()
    if not {*kept} <= {*SPECIAL_PIECES.values()}:
        refuse_rule(path, "never_split", kept, ([],))


def refuse_rule(
    path: pathlib.Path, key: str, value: Any, expected: Collection[Any]
) -> None:
    """Raises ValueError: a file asks for other ids than ours."""
    choices = " or ".join(repr(x) for x in expected)
    raise ValueError(
        f"{path} has {key}={value!r}; expected {choices}. Its ids would come out "
        "otherwise here, so it cannot be imported."
    )


def refuse_added(path: pathlib.Path, added: Iterable[str]) -> None:
    """Raises ValueError where other tokens than BERT's five are added."""
    if odd := sorted({*added}.difference(SPECIAL_PIECES.values())):
        raise ValueError(
            f"{path} adds {odd[:5]} to the tokenizer: single tokens there, cut into "
            "pieces here. They cannot be imported without a tokenizer.json; "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...) writes it."
        )


def refuse_other_ids(
    path: pathlib.Path,
    added: Iterable[tuple[int | None, str]],
    tokenizer: Tokenizer,
) -> None:
    """Raises ValueError where an added token has another id than its piece."""
    ids = {piece: index for index, piece in enumerate(tokenizer.pieces)}
    for index, token in added:
        if index not in (None, ids[token]):
            raise ValueError(
                f"{path} gives {token!r} the id {index}, the vocabulary the id "
                f"{ids[token]}; one of them is of another model. Fetch both again."
            )


def agreed_casing(
    where: pathlib.Path, said: Mapping[str, Any], lowercase: bool | None
) -> bool | None:
    """Whether case is folded, by every file that says so and by the user.

    Args:
        where: for messages.
        said: who says it -> true, false or nothing.
        lowercase: what the user says.

    Returns:
        `None` when nobody says anything.

    Raises:
        ValueError: they disagree, or one says neither true nor false.
    """
    stated = {name: value for name, value in said.items() if value is not None}
    if lowercase is not None:
        stated["--lowercase" if lowercase else "--no-lowercase"] = lowercase
    for name, value in stated.items():
        if not isinstance(value, bool):
            refuse_rule(where, name, value, (True, False))
    if len(set(stated.values())) > 1:
        raise ValueError(
            f"{where}: {stated} disagree on whether the tokenizer folds case. Correct "
            "or leave out the one that is wrong."
        )
    return next(iter(stated.values())) if stated else None


def fill_table(
    where: pathlib.Path,
    tokenizer: Tokenizer,
    num_rows: int,
    config: str,
    notes: list[str],
) -> Tokenizer:
    """Names the rows of the token table that no piece has, so that none is lost.

    Args:
        where: of the vocabulary, for messages.
        tokenizer: with at most `num_rows` pieces.
        num_rows: of the table.
        config: name of the file that states `num_rows`.
        notes: gets a sentence when rows were named, and for pieces that stand on
            several lines.

    Raises:
        ValueError: there are more pieces than rows, or rows left over that a
            SentencePiece model has no way to name.
    """
    last = {piece: index for index, piece in enumerate(tokenizer.pieces)}
    doubles = [(i, p) for i, p in enumerate(tokenizer.pieces) if last[p] != i]
    if doubles:
        index, piece = doubles[0]
        notes.append(
            f"{len(doubles)} lines of the vocabulary hold a piece that stands on a later "
            f"line too, such as {piece!r} on the lines {index + 1} and "
            f"{last[piece] + 1}. Text gets the id of the last one, as in transformers."
        )
    size = tokenizer.vocab_size
    if size == num_rows:
        return tokenizer
    if size > num_rows or not isinstance(
        tokenizer, WordPieceTokenizer | HuggingFaceTokenizer
    ):
        raise ValueError(
            f"{where} has {size} pieces, {config} vocab_size={num_rows}; expected as "
            "many. Fetch the tokenizer of this model, or resize its embeddings."
        )
    rows = [row_name(index) for index in range(size, num_rows)]
    notes.append(
        f"The token table has {num_rows} rows for {size} pieces; the rows left over are "
        f"kept as the pieces {rows[0]} to {rows[-1]}, which no text contains."
    )
    if isinstance(tokenizer, HuggingFaceTokenizer):
        return HuggingFaceTokenizer(
            tokenizer.model, config=tokenizer.config, num_rows=num_rows
        )
    vocab = "\n".join([*tokenizer.pieces, *rows]).encode()
    return WordPieceTokenizer(
        vocab,
        lowercase=tokenizer.lowercase,
        strip_accents=tokenizer.strip_accents,
    )
