"""Taggers, models that answer questions, and sentence-transformers, as runs of a task."""

import dataclasses
import json

import numpy as np
import pytest
from huggingface_models import SIZES, edit_json, make_random, save

from bert_jax.commands.exchange import Import
from bert_jax.config import FinetuneConfig, OptimizerConfig, SweepConfig, TaskConfig
from bert_jax.data.labelled.word_places import places_of_words
from bert_jax.exchange.importing import import_run, source_sha256
from bert_jax.exchange.sentence_transformers_modules import read_modules
from bert_jax.train.finetune import finetune
from bert_jax.train.inference.embed import Embedder
from bert_jax.train.inference.evaluate import evaluate_run
from bert_jax.train.inference.predict import Predictor
from bert_jax.train.initial import with_pooling
from bert_jax.train.runs.run import load_run
from bert_jax.train.sweeps.sweep import sweep
from bert_jax.train.tasks.embeddings import normalised

TAGS = ("O", "B-PER", "I-PER", "B-LOC")
TEXTS = ["ab cd, efg hi.", "a", "zyx wv"]


def softmax(logits):
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def encoded(hf, folder, *texts):
    """A text or a pair, as transformers encodes it, and where its tokens are."""
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    rows = tokenizer(*texts, return_tensors="pt", return_offsets_mapping=True)
    return rows, rows.pop("offset_mapping")[0].tolist()


@pytest.fixture
def tagger(hf, tmp_path):
    names = dict(enumerate(TAGS))
    numbers = {tag: number for number, tag in names.items()}
    kind = "BertForTokenClassification"
    model = make_random(hf, kind, id2label=names, label2id=numbers)
    return model, save(model, tmp_path / "hf")


def test_a_tagger_predicts_at_once(tagger, hf, tmp_path):
    model, folder = tagger
    done = import_run(folder, tmp_path / "run")
    assert (done.kind, done.new, done.unused) == ("finetune", (), ())
    assert any("tokens, outputs O, B-PER, I-PER, B-LOC." in note for note in done.notes)
    predictor = Predictor(tmp_path / "run")
    assert predictor.outputs == TAGS
    for text, found in zip(TEXTS, predictor([(x,) for x in TEXTS]), strict=True):
        rows, places = encoded(hf, folder, text)
        with hf.torch.no_grad():
            shares = softmax(model(**rows).logits[0].numpy())
        begins = [
            places.index([start, start + 1]) for start, _ in places_of_words(text)
        ]
        assert found["tags"] == [TAGS[n] for n in shares[begins].argmax(axis=1)]
        expected = pytest.approx(shares[begins].max(axis=1).tolist(), abs=1e-5)
        assert found["probabilities"] == expected


def test_a_tag_without_a_letter_makes_no_types_of_the_others(hf, tmp_path):
    names = dict(enumerate(("[CLS]", "I-PER", "O")))
    numbers = {tag: number for number, tag in names.items()}
    model = make_random(
        hf, "BertForTokenClassification", id2label=names, label2id=numbers
    )
    hf.torch.nn.init.constant_(model.classifier.bias[1], 100.0)
    import_run(save(model, tmp_path / "hf"), tmp_path / "run")
    [found] = Predictor(tmp_path / "run")([("ab cd",)])
    assert found["tags"] == ["I-PER", "I-PER"]
    assert [(x["type"], x["text"]) for x in found["entities"]] == [("PER", "ab cd")]


def test_what_only_a_classifier_has_is_refused(tagger, tmp_path):
    with pytest.raises(ValueError, match="--num-texts 2 would be ignored"):
        Import(source=tagger[1], output=tmp_path / "run", num_texts=2).run()
    assert not (tmp_path / "run").exists()


def test_of_a_tagger_the_encoder_alone_can_be_taken(tagger, tmp_path):
    done = import_run(tagger[1], tmp_path / "run", encoder_only=True)
    assert done.kind == "pretrain"
    assert done.unused == ("classifier.bias", "classifier.weight")


def test_a_model_answers_questions_at_once(hf, tmp_path):
    model = make_random(hf, "BertForQuestionAnswering")
    done = import_run(save(model, tmp_path / "hf"), tmp_path / "run")
    assert (done.kind, done.new, done.unused) == ("finetune", (), ())
    assert any("Every question gets an answer" in note for note in done.notes)
    question, passage = "ab cd", "e f g h i j k"
    [found] = Predictor(tmp_path / "run")([(question, passage)])
    rows, places = encoded(hf, tmp_path / "hf", question, passage)
    with hf.torch.no_grad():
        logits = model(**rows)
    start, end = (x[0].numpy() for x in (logits.start_logits, logits.end_logits))
    tokens = [n for n, part in enumerate(rows.sequence_ids(0)) if part == 1]
    pairs = [(a, b) for a in tokens for b in tokens if a <= b]
    first, last = max(pairs, key=lambda pair: start[pair[0]] + end[pair[1]])
    assert found["answer"] == passage[places[first][0] : places[last][1]]
    assert found["nbest"][0]["score"] == pytest.approx(
        start[first] + end[last], abs=1e-5
    )


def test_a_model_for_multiple_choice_becomes_a_pretraining_run(hf, tmp_path):
    model = make_random(hf, "BertForMultipleChoice")
    assert import_run(save(model, tmp_path / "hf"), tmp_path / "run").kind == "pretrain"


def test_electra_alone_has_no_use_for_the_summary_of_its_choices(hf, tmp_path):
    kind = hf.ElectraForTokenClassification
    sizes = SIZES | {"summary_type": "cls_index", "summary_use_proj": False}
    save(kind(hf.ElectraConfig(**sizes)), tmp_path / "hf")
    assert import_run(tmp_path / "hf", tmp_path / "run").unused == ()


@pytest.fixture
def make_vectors(hf, tmp_path):
    """make_vectors(pooling of config.json, module, …, **of sentence_bert_config.json)"""

    def make(pooling, *more, **config):
        folder = tmp_path / "st"
        save(make_random(hf, "BertModel"), folder)
        kinds = ("Transformer", "Pooling", *more)
        modules = [
            {
                "name": str(number),
                "path": f"{number}_{kind}" if number else "",
                "type": f"sentence_transformers.models.{kind}",
            }
            for number, kind in enumerate(kinds)
        ]
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
        if "Dropout" in more:
            (folder / "2_Dropout").mkdir()
            (folder / "2_Dropout/config.json").write_text('{"dropout": 0.5}')
        (folder / "sentence_bert_config.json").write_text(json.dumps(config))
        return folder

    return make


@pytest.mark.parametrize(
    ("pooling", "more", "way"),
    [
        ({"pooling_mode": "cls"}, (), "cls"),
        ({"pooling_mode": ["mean"]}, ("Normalize",), "mean"),
        (
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
            (),
            "cls",
        ),
        ({"pooling_mode_mean_tokens": True}, ("Normalize",), "mean"),
        ({"pooling_mode": "mean"}, ("Dropout", "Normalize"), "mean"),
    ],
)
def test_vectors_are_those_of_sentence_transformers(
    make_vectors, tmp_path, silent, pooling, more, way
):
    package = pytest.importorskip(
        "sentence_transformers", reason="install .[export]", exc_type=ImportError
    )
    folder = make_vectors(pooling, *more, max_seq_length=8)
    done = import_run(folder, tmp_path / "run")
    assert done.kind == "finetune"
    assert load_run(tmp_path / "run").task == "embeddings"
    embedder = Embedder(tmp_path / "run")
    assert (embedder.pooling, embedder.sequence_length) == (way, 8)
    found = embedder(TEXTS)
    assert any("--normalise" in note for note in done.notes) == bool(more)
    if more:
        found = normalised(found)
    # Its dimension stands in the file, where a library without a default needs it.
    edit_json(folder / "1_Pooling/config.json", word_embedding_dimension=32)
    model = package.SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(found, model.encode(TEXTS), atol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "more", "said"),
    [
        ({"pooling_mode": "max"}, (), "its pooling is max"),
        (
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
            *((), "its pooling is cls, mean"),
        ),
        (
            {"pooling_mode": "mean"},
            ("Dense",),
            "modules Transformer, Pooling, Dense",
        ),
    ],
)
def test_of_other_vectors_the_encoder_alone_is_taken(
    make_vectors, tmp_path, pooling, more, said
):
    folder = make_vectors(pooling, *more)
    done = import_run(folder, tmp_path / "run")
    assert done.kind == "pretrain"
    assert any(said in note for note in done.notes)


def test_letters_that_the_tokenizer_does_not_fold_are_told(make_vectors):
    folder = make_vectors({"pooling_mode": "mean"}, do_lower_case=True)
    for folds, expected in ((True, "mean_vector"), (False, None)):
        notes = []
        assert read_modules(folder, folds, notes) == (expected, None)
        assert any("in lower case" in note for note in notes) != folds


def test_words_before_texts_are_told(make_vectors, tmp_path):
    folder = make_vectors({"pooling_mode": "mean"})
    prompts = {"query": "query: ", "document": ""}
    settings = {"prompts": prompts, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    done = import_run(folder, tmp_path / "run")
    said = "{'query': 'query: '}, by default 'query: '"
    assert any(said in note for note in done.notes)


def test_a_pooling_that_leaves_words_out_gives_no_vectors_here(make_vectors, tmp_path):
    folder = make_vectors({"pooling_mode": "mean", "include_prompt": False})
    assert read_modules(folder, True, [])[0] == "mean_vector"
    settings = {"prompts": {"query": "query: "}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    done = import_run(folder, tmp_path / "run")
    assert done.kind == "pretrain"
    assert any("leaves out the words before a text" in note for note in done.notes)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("sentence_bert_config.json", {"max_seq_length": "8"}, "max_seq_length='8'; "),
        (
            "config_sentence_transformers.json",
            {"prompts": ["a"]},
            "prompts=\\['a'\\]; ",
        ),
        ("1_Pooling/config.json", None, "the module Pooling, .*fetch the whole model"),
    ],
)
def test_damaged_settings_are_named(make_vectors, file, content, said):
    folder = make_vectors({"pooling_mode": "mean"})
    (folder / file).unlink(missing_ok=True)
    if content:
        (folder / file).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=said):
        read_modules(folder, True, [])


def test_of_an_old_directory_it_is_said_how_to_write_it_anew(make_vectors, tmp_path):
    folder = make_vectors({"pooling_mode": "mean"})
    (folder / "0_Transformer").mkdir()
    (folder / "config.json").rename(folder / "0_Transformer/config.json")
    with pytest.raises(FileNotFoundError, match=r"`SentenceTransformer\(DIR\)\.save"):
        import_run(folder, tmp_path / "run")


def test_another_pooling_is_another_source(make_vectors):
    folder = make_vectors({"pooling_mode": "mean"})
    before = source_sha256(folder)
    edit_json(folder / "1_Pooling/config.json", pooling_mode="cls")
    assert source_sha256(folder) != before


def test_a_limit_below_the_shortest_rows_is_named(make_vectors, tmp_path):
    folder = make_vectors({"pooling_mode": "mean"}, max_seq_length=4)
    with pytest.raises(
        ValueError, match=r"sentence_bert_config\.json has max_seq_length"
    ):
        import_run(folder, tmp_path / "run")


@pytest.mark.parametrize("content", ["{", '{"0": "Pooling"}', '["Pooling"]'])
def test_a_damaged_list_of_modules_is_named(make_vectors, tmp_path, content):
    folder = make_vectors({"pooling_mode": "mean"})
    (folder / "modules.json").write_text(content)
    with pytest.raises(ValueError, match=r"modules\.json .*fetch it again"):
        import_run(folder, tmp_path / "run")


def test_fine_tuning_goes_on_with_the_pooling_of_a_run(make_vectors, tmp_path):
    """The mean of tokens' vectors is not what a model of [CLS] has learned."""
    run, data = tmp_path / "run", tmp_path / "pairs.tsv"
    import_run(make_vectors({"pooling_mode": "cls"}), run)
    rows = [f"{a} {b}\t{b}\t{len(a) % 5}" for a in TEXTS for b in TEXTS]
    data.write_text("\n".join(["sentence1\tsentence2\tscore", *rows]) + "\n")
    cfg = FinetuneConfig(
        checkpoint=run,
        task=TaskConfig(kind="embeddings", train=data, dev=data),
        # At this rate nothing changes, so that the scores are those of the checkpoint.
        optimizer=OptimizerConfig(learning_rate=1e-9, warmup_steps=0.1),
        num_epochs=1,
    )
    ten = tmp_path / "ten.tsv"
    ten.write_text("sentence1\tsentence2\tscore\na\tb\t10\n")
    with pytest.raises(ValueError, match=r"Bring all scores to numbers from 0 to 5\.$"):
        evaluate_run(run, ten)
    with pytest.raises(ValueError, match=r"pass a file of labelled text\.$"):
        evaluate_run(run, None)
    before = pytest.approx(evaluate_run(run, data), abs=1e-4)
    assert finetune(cfg, tmp_path / "tuned")["eval"] == before
    assert Embedder(tmp_path / "tuned").pooling == "cls"
    grid = SweepConfig(seeds=(1,), keep_weights=True)
    [found] = sweep(grid, cfg, tmp_path / "grid")["runs"]
    assert found["eval"] == before
    mean = dataclasses.replace(cfg.task, pooling="mean")
    assert with_pooling(dataclasses.replace(cfg, task=mean)).task.pooling == "mean"
