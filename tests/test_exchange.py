"""Exports: names, layouts and tokenizers as transformers reads them."""

import dataclasses
import json
import logging
import os
import tarfile
import warnings

import numpy as np
import pytest
import reference

from bert_jax.batch import ClassifyBatch
from bert_jax.data.tokenizer import WordPieceTokenizer, train_sentencepiece
from bert_jax.exchange import huggingface
from bert_jax.exchange.tokenizer import to_fast_tokenizer

LABELS = ("down", "level", "up")


@pytest.fixture(scope="module")
def transformers():
    """The library, with its warnings as errors."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's own
            import torch  # noqa: F401
            import transformers
    except ModuleNotFoundError as missing:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"{missing}; install .[export]")
    return transformers


@pytest.fixture
def silent(transformers):
    """Fails the test when transformers logs a warning: it does not raise them."""
    records: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: records.append(record.getMessage())
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)
    assert not records


@pytest.fixture(scope="module", params=["wordpiece", "unigram", "bpe"])
def tokenizer(request):
    if request.param == "wordpiece":
        pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "[", "]"]
        pieces += [
            prefix + c for c in "abcdefghijklmnopqrstuvwxyz" for prefix in ("", "##")
        ]
        return WordPieceTokenizer("\n".join(pieces).encode(), lowercase=True)
    rng = np.random.default_rng(0)
    words = ["river", "Stone", "window", "école", "teach", "music", "[x]", "."]
    words += [word + ending for word in words for ending in ("s", "ing", "ed")]
    lines = [" ".join(rng.choice(words, 9)) for _ in range(300)]
    return train_sentencepiece(
        lines,
        vocab_size=42,
        lowercase=True,
        model_type=request.param,
    )


@pytest.fixture(scope="module")
def params(tiny, random_params):
    """Random everywhere; the vocabulary padding, which no export keeps, is zero."""
    return without_padding(tiny, random_params(tiny))


@pytest.fixture(scope="module")
def classifier_params(tiny):
    shapes = reference.classifier_shapes(tiny, len(LABELS))
    return without_padding(tiny, reference.random_params(shapes, seed=1))


def without_padding(cfg, params):
    flat = reference.flatten(params)
    for name in ("embed/token/embedding", "mlm/output_bias"):
        if name in flat:
            flat[name][cfg.vocab_size :] = 0.0
    return reference.unflatten(flat)


def fitting(cfg, tokenizer, params):
    """The same parameters under a vocabulary as large as the tokenizer's."""
    cfg = dataclasses.replace(cfg, vocab_size=tokenizer.vocab_size)
    return cfg, without_padding(cfg, params)


@pytest.mark.parametrize("head", ["pretraining", "classifier"])
def test_round_trip_is_bitwise(tiny, params, classifier_params, head):
    tree = params if head == "pretraining" else classifier_params
    tensors = huggingface.to_huggingface(tiny, tree, head)
    back = reference.flatten(huggingface.from_huggingface(tiny, tensors))
    expected = reference.flatten(tree)
    assert back.keys() == expected.keys()
    for path, value in expected.items():
        assert back[path].dtype == np.float32
        np.testing.assert_array_equal(back[path], value, err_msg=path)


def test_layouts_are_outputs_by_inputs(tiny, params):
    tensors = huggingface.to_huggingface(tiny, params, "pretraining")
    x = np.random.default_rng(3).normal(size=tiny.hidden_size).astype(np.float32)
    attention = params["layers"]["attention"]
    theirs = tensors["bert.encoder.layer.2.attention.self.key.weight"] @ x
    ours = np.einsum("d,dnh->nh", x, attention["key"]["kernel"][2])
    # One float32 sum of 32 products of size 0.2: errors of some 1e-7.
    np.testing.assert_allclose(theirs, ours.ravel(), atol=2e-6, rtol=0)
    theirs = tensors["bert.encoder.layer.1.attention.output.dense.weight"] @ x
    heads = x.reshape(tiny.num_heads, tiny.head_size)
    ours = np.einsum("nh,nhd->d", heads, attention["out"]["kernel"][1])
    np.testing.assert_allclose(theirs, ours, atol=2e-6, rtol=0)
    assert tensors["bert.embeddings.word_embeddings.weight"].shape == (61, 32)
    assert tensors["cls.predictions.bias"].shape == (61,)


def test_missing_left_over_and_misshapen_parameters_are_errors(tiny, params):
    flat = reference.flatten(params)
    for change, message in (
        ({"adapter/kernel": np.zeros(3, np.float32)}, "adapter/kernel"),
        ({"nsp/bias": np.zeros(3, np.float32)}, "nsp/kernel"),
        ({"pooler/bias": np.zeros(32)}, "float64"),
    ):
        tree = reference.unflatten(flat | change)
        with pytest.raises(ValueError, match=message):
            huggingface.to_huggingface(tiny, tree, "pretraining")
    tree = reference.unflatten({k: v for k, v in flat.items() if k != "mlm/norm/bias"})
    with pytest.raises(ValueError, match="'mlm/norm/bias' is missing"):
        huggingface.to_huggingface(tiny, tree, "pretraining")


def test_missing_left_over_and_misshapen_tensors_are_errors(tiny, params):
    tensors = huggingface.to_huggingface(tiny, params, "pretraining")
    name = "bert.encoder.layer.1.output.dense.weight"
    with pytest.raises(ValueError, match="left_over"):
        huggingface.from_huggingface(tiny, tensors | {"left_over": np.zeros(1)})
    with pytest.raises(ValueError, match=r"layer\.1\.output\.dense.*\[32, 48\]"):
        huggingface.from_huggingface(tiny, tensors | {name: tensors[name].T})
    with pytest.raises(ValueError, match="is missing"):
        huggingface.from_huggingface(
            tiny, {k: tensors[k] for k in tensors if k != name}
        )
    shallow = dataclasses.replace(tiny, num_layers=2)
    with pytest.raises(ValueError, match="no place"):
        huggingface.from_huggingface(shallow, tensors)


def test_transformers_finds_every_tensor(
    tiny, params, tokenizer, tmp_path, transformers, silent
):
    cfg, params = fitting(tiny, tokenizer, params)
    folder = tmp_path / "export"
    huggingface.export_pretraining(cfg, params, tokenizer, folder)
    model, info = transformers.AutoModelForPreTraining.from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(info.values()), info
    assert type(model).__name__ == "BertForPreTraining"
    assert model.cls.predictions.decoder.weight is (
        model.bert.embeddings.word_embeddings.weight
    )
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    tensors = huggingface.to_huggingface(cfg, params, "pretraining")
    for name, value in tensors.items():
        np.testing.assert_array_equal(state.pop(name), value, err_msg=name)
    # What is left is tied, or a constant.
    assert set(state) <= {
        "cls.predictions.decoder.weight",
        "cls.predictions.decoder.bias",
        "bert.embeddings.position_ids",
    }


@pytest.mark.parametrize("gelu", ["tanh", "exact"])
def test_pretraining_logits_match(
    tiny, params, tokenizer, tmp_path, make_batch, transformers, silent, gelu
):
    from bert_jax.model import pretraining
    from bert_jax.model.masking import MaskedBatch

    cfg, params = fitting(dataclasses.replace(tiny, gelu=gelu), tokenizer, params)
    batch = make_batch(pairs=1, vocab_size=cfg.vocab_size)

    def outputs(input_ids, segment_ids, mask):
        rows, length = input_ids.shape
        slots = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))
        weights = np.ones((rows, length), np.float32)
        masked = MaskedBatch(input_ids, slots, input_ids, weights)
        found = pretraining.apply(cfg, params, batch, masked)
        return found.mlm_logits, found.nsp_logits[:, 0]

    folder = tmp_path / "export"
    huggingface.export_pretraining(cfg, params, tokenizer, folder)
    ids = (batch.input_ids, batch.segment_ids, np.sign(batch.sequence_ids))
    # Two libraries sum float32 in two orders: 2.4e-6 seen. Ten times that.
    assert huggingface.verify_pretraining(folder, outputs, *ids) < 2.5e-5

    def other(*ids):
        mlm, nsp = outputs(*ids)
        return mlm, nsp + 0.5

    assert huggingface.verify_pretraining(folder, other, *ids) > 0.4


def test_classifier_logits_and_labels_match(
    tiny, classifier_params, tokenizer, tmp_path, make_batch, transformers, silent
):
    from bert_jax.model import classification

    cfg, params = fitting(tiny, tokenizer, classifier_params)
    batch = make_batch(pairs=1, vocab_size=cfg.vocab_size)

    def logits(input_ids, segment_ids, mask):
        rows = len(input_ids)
        labels, weights = np.zeros(rows, np.int32), np.ones(rows, np.float32)
        fields = (input_ids, segment_ids, mask, labels, weights)
        return classification.apply(cfg, params, ClassifyBatch(*fields))

    folder = tmp_path / "export"
    huggingface.export_classifier(cfg, params, LABELS, tokenizer, folder)
    ids = (batch.input_ids, batch.segment_ids, np.sign(batch.sequence_ids))
    # As above.
    assert huggingface.verify_classifier(folder, logits, *ids) < 2.5e-5
    config = transformers.AutoConfig.from_pretrained(folder)
    assert config.id2label == dict(enumerate(LABELS))
    assert config.pad_token_id == tokenizer.special.pad
    with pytest.raises(ValueError, match="labels"):
        huggingface.export_classifier(
            cfg, params, LABELS[:2], tokenizer, tmp_path / "x"
        )


def test_verification_refuses_an_incomplete_file(
    tiny, params, tokenizer, tmp_path, transformers
):
    from safetensors.numpy import load_file, save_file

    cfg, params = fitting(tiny, tokenizer, params)
    folder = tmp_path / "export"
    huggingface.export_pretraining(cfg, params, tokenizer, folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["bert.pooler.dense.bias"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    ids = np.ones((1, 4), np.int32)
    with pytest.raises(ValueError, match=r"bert\.pooler\.dense\.bias"):
        huggingface.verify_pretraining(folder, lambda *_: (ids, ids), ids, ids, ids)


def test_exports_appear_whole_or_not_at_all(tiny, params, tokenizer, tmp_path):
    cfg, params = fitting(tiny, tokenizer, params)
    folder = tmp_path / "export"
    with pytest.raises(ValueError, match="pieces"):
        huggingface.export_pretraining(
            dataclasses.replace(cfg, vocab_size=17), params, tokenizer, folder
        )
    folder.mkdir()
    results = {"MLM accuracy": 0.5}
    huggingface.export_pretraining(cfg, params, tokenizer, folder, results=results)
    assert "| MLM accuracy | 0.5 |" in (folder / "README.md").read_text()
    (folder / "mine.txt").write_text("kept")
    with pytest.raises(ValueError, match="is taken"):
        huggingface.export_pretraining(cfg, params, tokenizer, folder)
    assert (folder / "mine.txt").exists()
    bad = {**params, "pooler": {}}
    with pytest.raises(ValueError, match="pooler/kernel"):
        huggingface.export_pretraining(cfg, bad, tokenizer, folder, overwrite=True)
    assert (folder / "mine.txt").exists()
    huggingface.export_pretraining(cfg, params, tokenizer, folder, overwrite=True)
    assert not (folder / "mine.txt").exists()
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "bert"
    assert config["architectures"] == ["BertForPreTraining"]
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_autotokenizer_reads_the_export(
    tiny, params, tokenizer, tmp_path, transformers, silent
):
    cfg, params = fitting(tiny, tokenizer, params)
    huggingface.export_pretraining(cfg, params, tokenizer, tmp_path / "export")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "export")
    assert theirs.is_fast
    assert len(theirs) == tokenizer.vocab_size
    assert theirs.model_max_length == tiny.max_positions
    special = tokenizer.special
    assert theirs.pad_token_id == special.pad
    assert theirs.mask_token_id == special.mask
    a, b = tokenizer.encode(["River stone.", "music é"])
    pair = theirs("River stone.", "music é")
    assert pair["input_ids"] == [special.cls, *a, special.sep, *b, special.sep]
    assert pair["token_type_ids"] == [0] * (len(a) + 2) + [1] * (len(b) + 1)
    one = theirs(["River", "River stone [MASK]"], padding=True)
    assert one["input_ids"][0][-1] == special.pad
    assert one["input_ids"][1][-2:] == [special.mask, special.sep]
    assert one["attention_mask"][0][-1] == 0


AWKWARD = [
    *("", " ", "\r\n", "  two  spaces  ", "\x00x", "x\x00", "a\x01b\x7fc", "\x85"),
    *("\u00a0Cuba.", "\u200bzero\u200bwidth\u200b", "\ufeffstart", "soft\u00adhyphen"),
    *("E\u0301cole", "e\u0301", "A\u030angstro\u0308m", "a\u0323\u0302", "\u0301alone"),
    *(
        "👩‍👩‍👧‍👦 family",
        "🇩🇪",
        "👍🏽",
        "▁the▁river",
        "▁▁",
        "ﬁ ① ～ Ǆ ﷺ",
        "İstanbul ſ ß ς",
    ),
    *(
        "［ＭＡＳＫ］ river",
        "日本語テスト",
        "한국어",
        "हिन्दी",
        "a" * 300,
        "[ MASK ]",
        "word [x]",
    ),
]


def test_awkward_text_gets_equal_ids(tokenizer):
    fast = to_fast_tokenizer(tokenizer)
    for text, ours in zip(AWKWARD, tokenizer.encode(AWKWARD), strict=True):
        theirs = fast.encode(text, add_special_tokens=False).ids
        assert theirs == ours, ascii(text)


@pytest.mark.parametrize("rare", ["", "[ ] [MASK] [SEP] [PAD]"])
def test_full_width_text_spells_no_special_token(rare):
    """Only a cased vocabulary can spell one: folded text has no capitals."""
    lines = ["the MASK and SEP of a river", "CLS PAD UNK", rare] * 50
    cased = train_sentencepiece(lines, vocab_size=31 if rare else 28, lowercase=False)
    assert ("[" in cased.pieces) == bool(rare)
    texts = ["［ＭＡＳＫ］ river", "［ＳＥＰ］", "［ＰＡＤ］"]
    found = to_fast_tokenizer(cased).encode_batch(texts, add_special_tokens=False)
    assert [encoding.ids for encoding in found] == cased.encode(texts)


def test_known_differences_are_still_there(tokenizer):
    """When one of these goes, the module's docstring has to change."""
    fast = to_fast_tokenizer(tokenizer)
    (ours,) = tokenizer.encode(["[MASK]"])
    theirs = fast.encode("[MASK]", add_special_tokens=False).ids
    assert theirs == [tokenizer.special.mask] != ours


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "bpe"])
def test_real_text_gets_equal_ids(kind, shared_data):
    text = (shared_data / "wikitext" / "valid.txt").read_text(encoding="utf-8")
    lines = text.split("\n")
    with tarfile.open(shared_data / "enwiki" / "enwiki-2014-open.tar.xz") as archive:
        first = next(member for member in archive if member.isfile())
        lines += archive.extractfile(first).read().decode().split("\n")[:4_000]
    if kind == "wordpiece":
        path = shared_data / "vocab" / "bert-base-uncased-vocab.txt"
        tokenizer = WordPieceTokenizer.from_vocab(path, lowercase=True)
    else:
        tokenizer = train_sentencepiece(
            lines[:1_500], vocab_size=3_000, lowercase=False, model_type=kind
        )
    fast = to_fast_tokenizer(tokenizer)
    theirs = fast.encode_batch_fast(lines, add_special_tokens=False)
    expected = tokenizer.encode(lines)
    assert sum(map(len, expected)) > 300_000
    assert sum(a.ids != b for a, b in zip(theirs, expected, strict=True)) == 0
