"""What a tokenizer.json says about special tokens, pairs and the beginnings of words."""

import json
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from bert_jax.data.tokenizers.pieces import CONTINUES, SPACE
from bert_jax.data.tokenizers.tokenizer import SPECIAL_PIECES, PairLayout

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as FastTokenizer

Json = Mapping[str, Any]

# What special tokens are called where no file says it.
_USUAL = {
    "pad": ("[PAD]", "<pad>", "<|pad|>", "<|padding|>"),
    "unk": ("[UNK]", "<unk>", "<|unk|>"),
    "mask": ("[MASK]", "<mask>", "<|mask|>"),
}


def load_fast(rules: str) -> "FastTokenizer":
    """The library's tokenizer of a tokenizer.json, which neither cuts nor pads.

    Raises:
        ValueError: the library cannot read it.
    """
    from tokenizers import Tokenizer as FastTokenizer

    try:
        fast = FastTokenizer.from_str(rules)
    except Exception as error:  # tokenizers raises nothing narrower
        raise ValueError(
            f"This is no tokenizer.json that the library tokenizers reads ({error}); "
            "fetch it again."
        ) from error
    fast.no_truncation()
    fast.no_padding()
    return fast


def spelled_as_text(special: Mapping[str, str | None], config: Json) -> list[str]:
    """The tokens that a text cannot hold: those that stand around texts, pad and hide.

    Other special tokens, such as the marks of entities, are there to be put into texts.

    Args:
        special: of `special_pieces`.
        config: may name tokens that begin and end a text by other names than [CLS], [SEP].
    """
    ends = (content(config.get(f"{name}_token")) for name in ("bos", "eos"))
    found = {piece for piece in (*special.values(), *ends) if piece is not None}
    return sorted(found - {special["unk"]})


def load_for_text(rules: Json, as_text: Collection[str]) -> "FastTokenizer":
    """The same tokenizer, to which these special tokens in a text are text."""
    special = {
        token["content"]
        for token in rules.get("added_tokens") or ()
        if token["special"] and token["content"] in as_text
    }
    model = dict(rules["model"])
    known = {x if isinstance(x, str) else x[0] for x in model["vocab"]}
    added = [
        # The library counts the ids of added tokens that the model lacks, so each of these
        # keeps its place, under a name that no text holds.
        x | {"content": f"\ufffe{x['content']}", "normalized": False}
        if x["content"] in special
        else x
        for x in rules.get("added_tokens") or ()
        if x["content"] not in special & known
    ]
    if isinstance(model["vocab"], list):
        # A unigram model would find them itself. No part of a text that reaches the model
        # holds a space.
        model["vocab"] = [
            (f" {piece}" if piece in special else piece, score)
            for piece, score in model["vocab"]
        ]
    parts = {"added_tokens": added, "model": model, "post_processor": None}
    return load_fast(json.dumps({**rules, **parts}))


def content(token: Any) -> str | None:
    """The text of a token in a config: a text, or an object that has it."""
    found = token.get("content") if isinstance(token, Mapping) else token
    return None if found is None else str(found)


def special_pieces(
    fast: "FastTokenizer", rules: Json, config: Json
) -> dict[str, str | None]:
    """The pieces of the five special tokens, by their names in `SpecialIds`.

    The post-processor says which stand around a text, the config what the others are
    called.

    Raises:
        ValueError: one is missing, or two are the same. [UNK] may be missing.
    """
    around = fast.encode("").tokens
    if len(around) != 2:
        raise ValueError(
            f"The post-processor makes {around} of an empty text; expected two special "
            "tokens, such as [CLS] and [SEP]. Models without them cannot be used here."
        )
    known = fast.get_vocab(with_added_tokens=True)
    model = rules["model"]
    stated = {name: content(config.get(f"{name}_token")) for name in _USUAL}
    if stated["unk"] is None:
        unk_id = model.get("unk_id")
        by_id = None if unk_id is None else model["vocab"][unk_id][0]
        stated["unk"] = model.get("unk_token") or by_id
    for name, usual in _USUAL.items():
        if stated[name] is None:
            stated[name] = next((piece for piece in usual if piece in known), None)
    if stated["unk"] not in known:
        stated["unk"] = None
    stated |= {"cls": around[0], "sep": around[1]}
    found = {name: stated[name] for name in SPECIAL_PIECES}
    for name in ("pad", "mask"):
        if found[name] not in known:
            raise ValueError(
                f"The vocabulary has no {name} token ({found[name] or 'none is named'}); "
                f'expected "{name}_token" in tokenizer_config.json, and its piece in '
                "tokenizer.json."
            )
    if len({*found.values()}) < len(found):
        raise ValueError(
            f"The special tokens are {found}; expected five that differ. Give the "
            "tokenizer a token of its own for each."
        )
    return found


def pair_layout(fast: "FastTokenizer", config: Json) -> PairLayout:
    """How the post-processor lays out two texts.

    Anything but [CLS] A [SEP] B [SEP], with one [SEP] or two between them and one segment
    for each text, is refused when two texts come.
    """
    cls, sep = fast.encode("").ids
    a, b = (fast.encode(x, add_special_tokens=False).ids for x in ("a", "b"))
    pair = fast.encode("a", "b")
    for separators in (1, 2):
        first = [cls, *a, *[sep] * separators]
        before, behind = pair.type_ids[: len(first)], pair.type_ids[len(first) :]
        if (
            pair.ids == [*first, *b, sep]
            and set(before) == {0}
            and set(behind) in ({0}, {1})
        ):
            # transformers passes on no segments to a model that takes none.
            inputs = config.get("model_input_names") or ("token_type_ids",)
            return PairLayout(separators, behind[0] * ("token_type_ids" in inputs))
    return PairLayout(
        refused=f"The tokenizer makes {pair.tokens} of a pair, in the segments "
        f"{pair.type_ids}; only [CLS] A [SEP] B [SEP] exists here, with one [SEP] or two "
        "between the texts, A in segment 0 and B in one segment. Give it single texts."
    )


class WordMarks(NamedTuple):
    """How pieces show that they begin a word."""

    style: Literal["bytes", "space", "continues"]
    """bytes: a space is a byte of the piece, as in byte-level BPE. space: by "▁" in front.
    continues: by the absence of "##"."""
    added: Mapping[str, "AddedToken"]
    """Tokens that are cut out of the text as they are."""

    def opens(self, piece: str) -> bool:
        """Whether a piece begins a word."""
        if token := self.added.get(piece):
            # A space before it is a piece of its own in byte-level BPE, and else nothing.
            return self.style != "bytes" or token.lstrip or piece[:1].isspace()
        if self.style == "bytes":
            return _from_bytes(piece)[:1].isspace()
        if self.style == "space":
            return piece.startswith(SPACE)
        return not piece.startswith(CONTINUES)

    def shown(self, piece: str) -> str:
        """A piece as people read it, with "▁" for a space in front."""
        text = piece
        if self.style == "bytes" and piece not in self.added:
            text = _from_bytes(piece)
        return SPACE + text[1:] if text.startswith(" ") else text


def word_marks(fast: "FastTokenizer", rules: Json) -> WordMarks:
    """Finds out how the pieces of a tokenizer show that they begin a word.

    Raises:
        ValueError: by none of the known ways.
    """
    added = {x.content: x for x in fast.get_added_tokens_decoder().values()}
    parts = list(_parts([rules.get("normalizer"), rules.get("pre_tokenizer")]))
    kinds = {part["type"] for part in parts}
    written = {part.get("content") for part in parts if part["type"] == "Replace"}
    model = rules["model"]
    if "ByteLevel" in kinds:
        return WordMarks("bytes", added)
    if "Metaspace" in kinds or SPACE in written:
        return WordMarks("space", added)
    if model.get("continuing_subword_prefix") == CONTINUES:
        return WordMarks("continues", added)
    raise ValueError(
        f"Nothing tells which pieces begin a word: the model is {model.get('type')}, the "
        f"rules before it are {sorted(kinds)}; expected ByteLevel, Metaspace or pieces "
        f"with {CONTINUES!r}."
    )


def _parts(rules: Any) -> Iterator[Json]:
    """All rules of a normalizer or pre-tokenizer, those within sequences too."""
    if isinstance(rules, list):
        for part in rules:
            yield from _parts(part)
    elif rules:
        yield rules
        yield from _parts(
            [*rules.get("normalizers", ()), *rules.get("pretokenizers", ())]
        )


def _from_bytes(piece: str) -> str:
    """The text of a piece of byte-level BPE; U+FFFD for parts of a character."""
    from tokenizers import decoders

    return str(decoders.ByteLevel().decode([piece]))
