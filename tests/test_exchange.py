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
from bert_jax.exchange.huggingface import write_huggingface
from bert_jax.exchange.names import from_tensors, to_tensors
from bert_jax.exchange.tokenizer import to_fast_tokenizer
from bert_jax.exchange.verify import verify_huggingface

LABELS = ("down", "level", "up")
HEADS = ("pretraining", "classifier", "tokens", "spans")


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
    return make_tokenizer(request.param)


@pytest.fixture(scope="module")
def small_tokenizer():
    """For what does not depend on its kind."""
    return make_tokenizer("wordpiece")


def make_tokenizer(kind):
    if kind == "wordpiece":
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
        model_type=kind,
    )


@pytest.fixture(scope="module")
def params(tiny, random_params):
    """Random everywhere; the vocabulary padding, which no export keeps, is zero."""
    return without_padding(tiny, random_params(tiny))


@pytest.fixture(scope="module")
def head_params(tiny, params):
    """head_params(head): the whole parameters of each head."""

    def make(head):
        if head == "pretraining":
            return params
        shapes = reference.classifier_shapes(tiny, 2 if head == "spans" else 3)
        shapes[head] = shapes.pop("classifier")
        if head != "classifier":
            del shapes["pooler"]
        return without_padding(tiny, reference.random_params(shapes, seed=1))

    return make


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


def labels_of(head):
    return LABELS if head in ("classifier", "tokens") else None


@pytest.mark.parametrize("head", HEADS)
def test_round_trip_is_bitwise(tiny, head_params, head):
    tensors = to_tensors(tiny, head_params(head), head, "huggingface")
    read = from_tensors(tiny, tensors, head, "huggingface")
    assert sorted(read.used) == sorted(tensors)
    assert (read.missing, read.new) == ((), ())
    back = reference.flatten(read.params)
    expected = reference.flatten(head_params(head))
    assert back.keys() == expected.keys()
    for path, value in expected.items():
        assert back[path].dtype == np.float32
        np.testing.assert_array_equal(back[path], value, err_msg=path)


def test_layouts_are_outputs_by_inputs(tiny, params):
    tensors = to_tensors(tiny, params, "pretraining", "huggingface")
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
        ({"nsp/bias": np.zeros(3, np.float32)}, r"nsp/bias.*\[3\].*\[2\]"),
        ({"pooler/bias": np.zeros(32)}, "float64"),
    ):
        tree = reference.unflatten(flat | change)
        with pytest.raises(ValueError, match=message):
            to_tensors(tiny, tree, "pretraining", "huggingface")
    tree = reference.unflatten({k: v for k, v in flat.items() if k != "mlm/norm/bias"})
    with pytest.raises(ValueError, match="'mlm/norm/bias' is missing"):
        to_tensors(tiny, tree, "pretraining", "huggingface")


def test_missing_left_over_and_misshapen_tensors_are_told(tiny, params):
    tensors = to_tensors(tiny, params, "pretraining", "huggingface")
    name = "bert.encoder.layer.1.output.dense.weight"
    turned = tensors | {name: tensors[name].T}
    with pytest.raises(ValueError, match=r"layer\.1\.output\.dense.*\[32, 48\]"):
        from_tensors(tiny, turned, "pretraining", "huggingface")
    some = {k: v for k, v in tensors.items() if k != name} | {"over": np.zeros(1)}
    read = from_tensors(tiny, some, "pretraining", "huggingface")
    assert (read.missing, read.new) == ((name,), ("layers/mlp/down/kernel",))
    assert set(some) - set(read.used) == {"over"}


@pytest.mark.parametrize("head", HEADS)
def test_transformers_finds_every_tensor(
    tiny, head_params, tokenizer, tmp_path, transformers, silent, head
):
    cfg, params = fitting(tiny, tokenizer, head_params(head))
    folder = tmp_path / "export"
    write_huggingface(cfg, params, head, tokenizer, folder, labels=labels_of(head))
    architecture = {
        "pretraining": "BertForPreTraining",
        "classifier": "BertForSequenceClassification",
        "tokens": "BertForTokenClassification",
        "spans": "BertForQuestionAnswering",
    }[head]
    auto = getattr(transformers, architecture.replace("Bert", "AutoModel"))
    model, info = auto.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert type(model).__name__ == architecture
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    tensors = to_tensors(cfg, params, head, "huggingface")
    for name, value in tensors.items():
        np.testing.assert_array_equal(state.pop(name), value, err_msg=name)
    # What is left is tied, or a constant.
    assert set(state) <= {
        "cls.predictions.decoder.weight",
        "cls.predictions.decoder.bias",
        "bert.embeddings.position_ids",
    }
    if head == "pretraining":
        decoder = model.cls.predictions.decoder
        assert decoder.weight is model.bert.embeddings.word_embeddings.weight
        assert decoder.bias is model.cls.predictions.bias


def our_outputs(cfg, params, head, batch):
    """Logits of every position, as `largest_difference` takes them."""
    import jax

    from bert_jax.batch import PretrainBatch
    from bert_jax.model import classification, encoder, pretraining
    from bert_jax.model.masking import MaskedBatch

    ids, segments = batch.input_ids, batch.segment_ids
    rows, length = ids.shape
    every = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    if head == "pretraining":
        one = np.zeros((rows, 1), np.int32)
        fields = (batch.sequence_ids, every, one, one, np.ones((rows, 1), np.float32))
        plain = PretrainBatch(ids, segments, *fields)
        masked = MaskedBatch(ids, every, ids, np.ones((rows, length), np.float32))
        found = pretraining.apply(cfg, params, plain, masked)
        return found.mlm_logits, found.nsp_logits[:, 0]
    if head == "classifier":
        fields = (np.zeros(rows, np.int32), np.ones(rows, np.float32))
        plain = ClassifyBatch(ids, segments, batch.sequence_ids, *fields)
        return (classification.apply(cfg, params, plain),)
    hidden = encoder.encode(
        cfg,
        jax.tree.map(np.asarray, params),
        input_ids=ids,
        segment_ids=segments,
        sequence_ids=batch.sequence_ids,
        position_ids=every,
        key=None,
    )
    kernel, bias = params[head]["kernel"], params[head]["bias"]
    return (np.asarray(hidden) @ kernel + bias,)


@pytest.mark.parametrize("gelu", ["tanh", "exact"])
@pytest.mark.parametrize("head", HEADS)
def test_logits_match(
    tiny, head_params, small_tokenizer, tmp_path, make_batch, transformers, head, gelu
):
    cfg = dataclasses.replace(tiny, gelu=gelu)
    cfg, params = fitting(cfg, small_tokenizer, head_params(head))
    batch = make_batch(pairs=1, vocab_size=cfg.vocab_size)
    outputs = our_outputs(cfg, params, head, batch)
    folder = tmp_path / "export"
    labels = labels_of(head)
    write_huggingface(cfg, params, head, small_tokenizer, folder, labels=labels)
    mask = np.sign(batch.sequence_ids)
    assert (mask == 0).any()
    ids = (batch.input_ids, batch.segment_ids, mask)
    # Two libraries sum float32 in two orders: 2.4e-6 seen. Ten times that.
    assert verify_huggingface(folder, head, outputs, *ids) < 2.5e-5

    def changed(output, where, by):
        output = np.array(output)
        output[where] += by
        return output

    # A change counts on any real position and in every output, and on no other.
    for number in range(len(outputs)):
        others = list(outputs)
        others[number] = changed(outputs[number], (0, 0), 0.5)
        assert verify_huggingface(folder, head, others, *ids) > 0.4
        others[number] = changed(outputs[number], (0, 0), np.nan)
        assert np.isnan(verify_huggingface(folder, head, others, *ids))
    if head != "classifier":
        row, position = np.argwhere(mask == 0)[0]
        others = [changed(outputs[0], (row, position), 9.0), *outputs[1:]]
        assert verify_huggingface(folder, head, others, *ids) < 2.5e-5
    other_gelu = {"tanh": "gelu", "exact": "gelu_pytorch_tanh"}[gelu]
    config = json.loads((folder / "config.json").read_text())
    config["hidden_act"] = other_gelu
    (folder / "config.json").write_text(json.dumps(config))
    assert verify_huggingface(folder, head, outputs, *ids) > 1e-4
    with pytest.raises(ValueError, match=r"are these outputs|outputs are given"):
        verify_huggingface(folder, head, [x[..., :1] for x in outputs], *ids)


@pytest.mark.parametrize("head", ["classifier", "tokens"])
def test_labels_arrive_and_must_fit(
    tiny, head_params, small_tokenizer, tmp_path, transformers, silent, head
):
    cfg, params = fitting(tiny, small_tokenizer, head_params(head))

    def write(labels):
        write_huggingface(
            cfg, params, head, small_tokenizer, tmp_path / "export", labels=labels
        )

    for wrong in (LABELS[:2], None, ("a", "b", "a")):
        with pytest.raises(ValueError, match="labels"):
            write(wrong)
    write(LABELS)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "export")
    assert config.id2label == dict(enumerate(LABELS))
    assert config.label2id == {label: index for index, label in enumerate(LABELS)}
    assert config.pad_token_id == small_tokenizer.special.pad


def test_labels_without_a_use_are_refused(tiny, head_params, small_tokenizer, tmp_path):
    cfg, params = fitting(tiny, small_tokenizer, head_params("spans"))
    with pytest.raises(ValueError, match="would be ignored"):
        write_huggingface(
            *(cfg, params, "spans", small_tokenizer, tmp_path / "x"), labels=LABELS[:2]
        )


@pytest.mark.parametrize("head", HEADS[1:3])
def test_pipelines_load_silently(
    tiny, head_params, tokenizer, tmp_path, transformers, silent, head
):
    """There is none for spans in transformers 5."""
    cfg, params = fitting(tiny, tokenizer, head_params(head))
    folder = tmp_path / "export"
    write_huggingface(cfg, params, head, tokenizer, folder, labels=LABELS)
    task = card_of(folder)["pipeline_tag"]
    found = transformers.pipeline(task, model=str(folder))("river stone, music")
    assert {x.get("label", x.get("entity")) for x in found} <= set(LABELS)


def test_fill_mask_leaves_out_the_next_sentence_head_only(
    tiny, params, tokenizer, tmp_path, transformers
):
    """BertForMaskedLM has no place for four tensors and says so; nothing else."""
    cfg, params = fitting(tiny, tokenizer, params)
    folder = tmp_path / "export"
    write_huggingface(cfg, params, "pretraining", tokenizer, folder)
    records = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: records.append(record.getMessage())
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    fill = transformers.pipeline(card_of(folder)["pipeline_tag"], model=str(folder))
    assert len(fill("a [MASK] river.")) == 5
    logger.removeHandler(handler)
    (report,) = records
    assert report.count("UNEXPECTED") == 5  # the table's four rows and its legend
    for name in ("bert.pooler.dense", "cls.seq_relationship"):
        assert f"{name}.weight" in report
        assert f"{name}.bias" in report
    assert "MISSING" not in report


def card_of(folder):
    """The front matter of the model card."""
    import yaml

    text = (folder / "README.md").read_text(encoding="utf-8")
    empty, front, _ = text.split("---\n", 2)
    assert empty == ""
    return yaml.safe_load(front)


@pytest.mark.parametrize("head", HEADS)
def test_model_card_shows_what_was_measured(
    tiny, head_params, small_tokenizer, tmp_path, transformers, head
):
    from huggingface_hub import ModelCard

    cfg, params = fitting(tiny, small_tokenizer, head_params(head))
    folder = tmp_path / "export"
    results = {"sst2 | dev": {"accuracy": 0.5, "loss": 1.25}, "mrpc": {"f1": 0.75}}
    write_huggingface(
        *(cfg, params, head, small_tokenizer, folder),
        labels=labels_of(head),
        results=results,
        origin="Fine-tuned in runs/a.",
    )
    task = {
        "pretraining": "fill-mask",
        "classifier": "text-classification",
        "tokens": "token-classification",
        "spans": "question-answering",
    }[head]
    assert card_of(folder) == {
        "library_name": "transformers",
        "pipeline_tag": task,
        "tags": ["bert", "bert_jax"],
    }
    card = ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag == task
    assert "\nFine-tuned in runs/a.\n" in card.text
    table = card.text[card.text.index("| task") :].splitlines()
    assert table == [
        "| task | metric | value |",
        "|---|---|---|",
        r"| sst2 \| dev | accuracy | 0.5 |",
        r"| sst2 \| dev | loss | 1.25 |",
        "| mrpc | f1 | 0.75 |",
    ]


def test_verification_refuses_an_incomplete_file(
    tiny, params, small_tokenizer, tmp_path, transformers
):
    from safetensors.numpy import load_file, save_file

    cfg, params = fitting(tiny, small_tokenizer, params)
    folder = tmp_path / "export"
    write_huggingface(cfg, params, "pretraining", small_tokenizer, folder)
    whole = load_file(folder / "model.safetensors")
    ids = np.ones((1, 4), np.int32)
    name = "bert.pooler.dense.bias"
    for tensors in (
        {k: v for k, v in whole.items() if k != name},
        whole | {name: np.zeros(7, np.float32)},
        {k.replace(name, "bert.pooler.dense.bios"): v for k, v in whole.items()},
    ):
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=r"bert\.pooler\.dense\.bi"):
            verify_huggingface(folder, "pretraining", (ids, ids), ids, ids, ids)


def test_exports_appear_whole_or_not_at_all(tiny, params, small_tokenizer, tmp_path):
    cfg, params = fitting(tiny, small_tokenizer, params)
    folder = tmp_path / "export"

    def write(cfg=cfg, params=params, **options):
        write_huggingface(
            cfg, params, "pretraining", small_tokenizer, folder, **options
        )

    with pytest.raises(ValueError, match="pieces"):
        write(dataclasses.replace(cfg, vocab_size=17))
    folder.mkdir()
    write()
    (folder / "mine.txt").write_text("kept")
    with pytest.raises(ValueError, match="is taken"):
        write()
    assert (folder / "mine.txt").exists()
    with pytest.raises(ValueError, match="pooler/kernel"):
        write(params={**params, "pooler": {}}, overwrite=True)
    assert (folder / "mine.txt").exists()
    write(overwrite=True)
    assert not (folder / "mine.txt").exists()
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "bert"
    assert config["architectures"] == ["BertForPreTraining"]
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    assert {path.name for path in folder.iterdir()} == {
        *("README.md", "config.json", "model.safetensors", "vocab.txt"),
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    }


def test_a_failure_while_writing_leaves_what_was_there(
    tiny, params, small_tokenizer, tmp_path, monkeypatch
):
    cfg, params = fitting(tiny, small_tokenizer, params)
    parts = (cfg, params, "pretraining", small_tokenizer, tmp_path / "export")

    def fail(*_):
        raise OSError("no space left")

    write_huggingface(*parts)
    before = (tmp_path / "export" / "config.json").stat().st_ino
    monkeypatch.setattr(huggingface, "save_huggingface_tokenizer", fail)
    with pytest.raises(OSError, match="no space"):
        write_huggingface(*parts, overwrite=True)
    assert (tmp_path / "export" / "config.json").stat().st_ino == before
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_autotokenizer_reads_the_export(
    tiny, params, tokenizer, tmp_path, transformers, silent
):
    cfg, params = fitting(tiny, tokenizer, params)
    write_huggingface(cfg, params, "pretraining", tokenizer, tmp_path / "export")
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
