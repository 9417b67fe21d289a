"""Models of Hugging Face whose tokenizer.json is kept: imported, exported, refused."""

import json
import shutil

import numpy as np
import pytest
from huggingface_models import edit_json, make_random, save
from huggingface_tokenizers import FORMATS, save_tokenizer

from bert_jax.data.labelled.question_rows import encode_questions
from bert_jax.data.labelled.questions import Answer, Questions
from bert_jax.data.tokenizers.huggingface_tokenizer import HuggingFaceTokenizer
from bert_jax.data.tokenizers.saved_tokenizer import open_tokenizer
from bert_jax.exchange.importing import import_run
from bert_jax.exchange.read_huggingface import read_huggingface
from bert_jax.exchange.tokenizer import save_huggingface_tokenizer
from bert_jax.train.inference.fill import Filler
from bert_jax.train.runs.run import load_run_tokenizer
from bert_jax.train.tasks.best_spans import best_spans

TEXTS = ["The river is long.", "Stones, <unk> and  rivers\n", "École 日本"]
SMALL = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}


@pytest.fixture(scope="module")
def folders(hf, tmp_path_factory):
    """Small BERT models, with tokenizers of other families."""
    home = tmp_path_factory.mktemp("models")
    lines = ["the river and the sea, the stones of a river", "Rivers are long."] * 20
    made = {}
    for kind in FORMATS:
        model = make_random(hf, "BertForPreTraining", vocab_size=288, **SMALL)
        model.save_pretrained(home / kind)
        made[kind] = save_tokenizer(kind, lines, home / kind, _SIZES[kind])
    return made


_SIZES = {"roberta": 288, "modernbert": 286, "xlm-roberta": 28}


def test_positions_that_are_counted_from_another_id_of_padding_are_refused(
    hf, folders, tmp_path
):
    """RoBERTa gives no position of its own to tokens of the id that config.json names."""
    config = hf.RobertaConfig(
        vocab_size=288, max_position_embeddings=26, pad_token_id=1, **SMALL
    )
    folder = shutil.copytree(folders["roberta"], tmp_path / "copy")
    hf.RobertaForMaskedLM(config).save_pretrained(folder)
    assert read_huggingface(folder).model.position_offset == 2
    edit_json(folder / "config.json", pad_token_id=0)
    with pytest.raises(
        ValueError, match=r"pad_token_id=0, but the tokenizer's id .* 1"
    ):
        read_huggingface(folder)


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_imported_goes_out_as_it_came(kind, folders, transformers, tmp_path):
    folder = folders[kind]
    run = tmp_path / "run"
    imported = import_run(folder, run)
    assert any("tokenizer.json is kept as it is" in note for note in imported.notes)
    tokenizer = load_run_tokenizer(run)
    assert isinstance(tokenizer, HuggingFaceTokenizer)
    assert tokenizer.vocab_size == 288
    assert any("rows left over" in x for x in imported.notes) == (kind != "roberta")

    save_huggingface_tokenizer(tokenizer, tmp_path / "out", 24, num_segments=2)
    for name in ("tokenizer.json",):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
    before, after = (
        transformers.AutoTokenizer.from_pretrained(path)
        for path in (folder, tmp_path / "out")
    )
    assert type(before) is type(after)
    assert before(TEXTS)["input_ids"] == after(TEXTS)["input_ids"]
    assert before(*TEXTS[:2])["input_ids"] == after(*TEXTS[:2])["input_ids"]
    assert before.special_tokens_map == after.special_tokens_map
    assert after.model_max_length == 24
    # transformers passes no segments to a model that knows none.
    assert ("token_type_ids" in after("a")) == ("token_type_ids" in before("a"))
    again = HuggingFaceTokenizer.read(tmp_path / "out" / "tokenizer.json")
    assert again.special == tokenizer.special
    assert again.pair == tokenizer.pair


def read_config(folder):
    return json.loads((folder / "tokenizer_config.json").read_text())


def test_a_model_without_segments_gets_none(folders, tmp_path):
    tokenizer = HuggingFaceTokenizer(
        (folders["modernbert"] / "tokenizer.json").read_bytes()
    )
    assert tokenizer.pair.second_segment == 1
    for num_segments, names in ((2, ["token_type_ids"]), (1, []), (0, [])):
        save_huggingface_tokenizer(tokenizer, tmp_path, 24, num_segments)
        config = read_config(tmp_path)
        assert config["model_input_names"] == ["input_ids", *names, "attention_mask"]
        assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert config["mask_token"] == "[MASK]"
        assert config["cls_token"] == "[CLS]"
        assert config["model_max_length"] == 24


def split_as_llama(folder, target):
    """The same byte-level BPE with the pre-tokenizer of Llama 3, which EuroBERT has."""
    shutil.copytree(folder, target)
    word = (
        r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+"
    )
    split = {"type": "Split", "pattern": {"Regex": word}, "behavior": "Isolated"}
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    parts = [split | {"invert": False}, bytes_ | {"use_regex": False}]
    splitting = {"type": "Sequence", "pretokenizers": parts}
    edit_json(target / "tokenizer.json", pre_tokenizer=splitting)
    return target


@pytest.mark.parametrize("added", [[], ["Sea", "ver"]])
@pytest.mark.parametrize("kind", [*FORMATS, "llama"])
def test_the_tokenizer_of_a_tagger_takes_words(
    kind, added, folders, transformers, tmp_path
):
    """A token that was added has no space before it, and what is behind it has one."""
    if kind == "llama":
        folder = split_as_llama(folders["modernbert"], tmp_path / "llama")
    else:
        folder = shutil.copytree(folders[kind], tmp_path / "copy")
    if added:
        more = transformers.AutoTokenizer.from_pretrained(folder)
        more.add_tokens(added)
        more.save_pretrained(folder)
    tokenizer = open_tokenizer(folder)
    save_huggingface_tokenizer(tokenizer, tmp_path, 24, of_words=True)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    words = ["The", "river", "(", "is", ")", "long", *(["Sea", "rivers"] * bool(added))]
    expected = [index for ids in tokenizer.encode_words(words) for index in ids]
    cls, sep = tokenizer.special.cls, tokenizer.special.sep
    rows = theirs(words, is_split_into_words=True)
    assert rows["input_ids"] == [cls, *expected, sep]
    assert added or theirs(" ".join(words))["input_ids"] == rows["input_ids"]
    again = open_tokenizer(tmp_path)
    assert again.encode_words(words) == tokenizer.encode_words(words)
    assert added or again.encode_documents([words])[0][0].tolist() == expected


def test_tokens_added_to_wordpiece_are_kept(hf, tmp_path):
    """As people extend a BERT: add_tokens, and resize_token_embeddings."""
    model = make_random(hf, "BertForPreTraining", vocab_size=64)
    folder = save(model, tmp_path / "theirs")
    theirs = hf.AutoTokenizer.from_pretrained(folder)
    theirs.add_tokens(["covid", "ri-ver"])
    theirs.add_special_tokens({"additional_special_tokens": ["[E1]"]})
    theirs.save_pretrained(folder)
    source = read_huggingface(folder)
    tokenizer = source.tokenizer
    assert tokenizer.pieces[61:] == ["covid", "ri-ver", "[E1]"]
    texts = ["the covid river , covid-ri-ver .", "uncovid Covid", "ri-vers", "a [E1]a"]
    expected = theirs(texts, add_special_tokens=False)["input_ids"]
    assert tokenizer.encode(texts) == expected
    assert {61, 62} <= {*expected[0]}
    assert 63 in expected[-1]
    assert tokenizer.starts_word[[61, 62]].all()
    assert tokenizer.mask_vocabulary.starts_word[tokenizer.special.unk]
    assert tokenizer.lowercase
    assert tokenizer.pair.second_segment == 1
    save_huggingface_tokenizer(tokenizer, tmp_path / "ours", 24)
    ours = hf.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert ours(texts)["input_ids"] == theirs(texts)["input_ids"]


def test_what_is_beside_a_kept_tokenizer_is_read(folders, tmp_path):
    folder = shutil.copytree(folders["roberta"], tmp_path / "copy")
    config = folder / "tokenizer_config.json"
    found = read_huggingface(folder)
    assert found.max_length == 512
    assert any(
        "tokenizer_class='RobertaTokenizer', which is none" in x for x in found.notes
    )
    edit_json(config, auto_map={"AutoTokenizer": ["x.Y", None]})
    with pytest.raises(ValueError, match="auto_map"):
        read_huggingface(folder)
    config.unlink()
    (folder / "special_tokens_map.json").write_text('{"pad_token": {"content": "<p>"}}')
    with pytest.raises(
        ValueError, match=r"tokenizer\.json: The vocabulary has no pad token"
    ):
        read_huggingface(folder)
    (folder / "special_tokens_map.json").unlink()
    assert read_huggingface(folder).tokenizer.special == found.tokenizer.special


def test_masks_are_filled_in_with_words(folders, tmp_path):
    import_run(folders["roberta"], tmp_path / "run")
    fill = Filler(tmp_path / "run", top=288)
    with pytest.raises(ValueError, match="Write <mask>, the mask of this run's"):
        fill([("the [MASK] river",)])
    [found] = fill([("The <mask> is long.",)])
    texts = {guess["piece"]: guess["text"] for guess in found["masks"][0]}
    assert texts["Ġriver"] == "river"
    assert texts["<mask>"] == "[MASK]"
    index = fill.tokenizer.pieces.index
    for text, piece, filled in (
        ("a <mask> b", "Ġriver", "a river b"),
        ("a <mask> b", "s", "as b"),
        ("a<mask>b", "Ġriver", "a riverb"),
    ):
        row = fill._row((text,), "Text 1")
        assert fill._filled(text, row, [index(piece)]) == filled


@pytest.mark.parametrize("kind", FORMATS)
def test_all_flags_of_added_tokens_count(kind, folders, transformers, tmp_path):
    from tokenizers import AddedToken

    theirs = transformers.AutoTokenizer.from_pretrained(folders[kind])
    words = AddedToken("cov", single_word=True)
    theirs.add_tokens([words, AddedToken("Zü", lstrip=True, rstrip=True)])
    theirs.add_special_tokens({"additional_special_tokens": ["[E1]"]})
    theirs.save_pretrained(tmp_path)
    texts = ["covid cov 1cov cov_ .cov.", "a Zü b Zürich", "[E1] Zürich [E1]s <E1>"]
    expected = theirs(texts, add_special_tokens=False)["input_ids"]
    assert open_tokenizer(tmp_path).encode(texts) == expected


@pytest.mark.parametrize("kind", FORMATS)
def test_an_answer_ends_where_its_last_token_ends(
    kind, folders, transformers, tmp_path
):
    theirs = transformers.AutoTokenizer.from_pretrained(folders[kind])
    theirs.add_tokens(["covid-19"])
    theirs.save_pretrained(tmp_path)
    passage = "The river of covid-19 is the river"
    asked = Questions(("the",), (passage,), ((Answer("covid-19", 13),),))
    rows = encode_questions(open_tokenizer(tmp_path), asked, 32)
    logits = np.zeros((1, 32, 2), np.float32)
    logits[0, rows.labels[0], [0, 1]] = 1.0
    [found] = best_spans(logits, rows, num_best=1, max_tokens=9)
    start, end = asked.place_of(0, *found.spans[0][1:])
    assert passage[start:end] == "covid-19"
