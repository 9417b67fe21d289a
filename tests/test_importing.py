"""Imported models as run directories: every tensor accounted for, or refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import reference
from safetensors.numpy import load_file, save_file
from small_tokenizers import wordpiece

from bert_jax.config import MeshConfig, PretrainConfig
from bert_jax.exchange.imported import describe
from bert_jax.exchange.importing import import_run
from bert_jax.exchange.portable import PortableModel
from bert_jax.exchange.tensors import flatten, unflatten
from bert_jax.exchange.write_huggingface import write_huggingface
from bert_jax.train.inference.predict import Predictor
from bert_jax.train.initial import (
    check_start,
    load_params,
    start_encoder,
    start_pretraining,
)
from bert_jax.train.mesh import make_mesh
from bert_jax.train.runs.run import load_run
from bert_jax.train.tensors import tensors_sha256

LABELS = ("down", "level", "up")
PIECES = (".", ",", "b", "##b")


@pytest.fixture(scope="module")
def tokenizer():
    return wordpiece(*PIECES)


@pytest.fixture(scope="module")
def cfg(tiny, tokenizer):
    return dataclasses.replace(tiny, vocab_size=tokenizer.vocab_size)


def without_padding(cfg, params):
    flat = flatten(params)
    for path in ("embed/token/embedding", "mlm/output_bias"):
        if path in flat:
            flat[path][cfg.vocab_size :] = 0.0
    return unflatten(flat)


@pytest.fixture(scope="module")
def params(cfg):
    shapes = reference.pretrain_shapes(cfg)
    return without_padding(cfg, reference.random_params(shapes, seed=2))


@pytest.fixture(scope="module")
def classifier(cfg):
    shapes = reference.classifier_shapes(cfg, len(LABELS))
    return without_padding(cfg, reference.random_params(shapes, seed=3))


@pytest.fixture
def mesh():
    return make_mesh(MeshConfig(), jax.devices()[:1])


@pytest.fixture
def published(cfg, params, tokenizer, tmp_path):
    """A Hugging Face directory with both pretraining heads."""
    write_huggingface(
        PortableModel(cfg, params, "pretraining", tokenizer), tmp_path / "hf"
    )
    return tmp_path / "hf"


def without(directory, *wanted: str) -> None:
    """Deletes the tensors whose names hold one of `wanted`."""
    path = directory / "model.safetensors"
    left = {
        name: array
        for name, array in load_file(path).items()
        if not any(part in name for part in wanted)
    }
    save_file(left, path, metadata={"format": "pt"})


def test_a_whole_model_arrives_bit_by_bit(published, params, tmp_path, mesh, cfg):
    result = import_run(published, tmp_path / "run")
    assert result.new == ()
    assert result.unused == ()
    assert set(result.used) == set(load_file(published / "model.safetensors"))
    loaded = load_params(tmp_path / "run", mesh, kind="pretrain")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
    assert loaded.info.model == cfg
    manifest = json.loads((tmp_path / "run/import.json").read_text())
    assert manifest["sha256"] == tensors_sha256(params)


def test_missing_heads_are_drawn_afresh_and_named(published, params, tmp_path, mesh):
    without(published, "cls.", "pooler")
    result = import_run(published, tmp_path / "run")
    assert {path.split("/")[0] for path in result.new} == {"pooler", "mlm", "nsp"}
    loaded = load_params(tmp_path / "run", mesh)
    for part in ("embed", "layers"):
        jax.tree.map(np.testing.assert_array_equal, loaded.params[part], params[part])
    kernel = np.asarray(loaded.params["pooler"]["kernel"])
    assert 0.01 < kernel.std() < 0.03
    said = "\n".join(describe(result))
    assert "pooler/kernel" in said
    assert "expect a loss near ln(9) = 2.2" in said


def test_an_incomplete_encoder_is_refused_unless_told(published, tmp_path):
    without(published, "encoder.layer.1.output.dense.weight")
    with pytest.raises(ValueError, match=r"layers/mlp/down/kernel.*--allow-incomplete"):
        import_run(published, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    result = import_run(published, tmp_path / "run", allow_incomplete=True)
    assert result.new == ("layers/mlp/down/kernel",)


@pytest.mark.parametrize(
    ("problem_type", "task", "labels"),
    [
        ("multi_label_classification", "multilabel", LABELS),
        ("regression", "regression", ("closeness",)),
    ],
)
def test_other_classifiers_arrive_as_their_task(
    cfg, tokenizer, tmp_path, hf, silent, problem_type, task, labels
):
    """Predictions are those of transformers' own pipeline."""
    shapes = reference.classifier_shapes(cfg, len(labels))
    head = without_padding(cfg, reference.random_params(shapes, seed=4))
    model = PortableModel(
        *(cfg, head, "classifier", tokenizer), labels=labels, problem_type=problem_type
    )
    write_huggingface(model, tmp_path / "hf")
    import_run(tmp_path / "hf", tmp_path / "run")
    predictor = Predictor(tmp_path / "run")
    assert (predictor.task.name, predictor.outputs) == (task, labels)
    texts = ["b b, bb.", "bbb"]
    found = predictor([(text,) for text in texts])
    theirs = hf.pipeline(
        "text-classification",
        model=hf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf"),
        tokenizer=hf.AutoTokenizer.from_pretrained(tmp_path / "hf"),
        top_k=None,
    )(texts)
    for ours, of_text in zip(found, theirs, strict=True):
        expected = {entry["label"]: entry["score"] for entry in of_text}
        ours = ours.get("probabilities") or {"closeness": ours["score"]}
        assert ours == pytest.approx(expected, abs=1e-5)


def test_a_classifier_predicts_at_once(cfg, classifier, tokenizer, tmp_path):
    write_huggingface(
        PortableModel(cfg, classifier, "classifier", tokenizer, labels=LABELS),
        tmp_path / "hf",
    )
    result = import_run(tmp_path / "hf", tmp_path / "run")
    assert result.kind == "finetune"
    with pytest.raises(
        ValueError, match=r"finetune run; .*import` with --encoder-only"
    ):
        load_run(tmp_path / "run", kind="pretrain")
    predictor = Predictor(tmp_path / "run")
    assert predictor.outputs == LABELS
    (found,) = predictor([("b b.",)])
    assert found["label"] in LABELS
    assert found["probabilities"].keys() == set(LABELS)
    assert sum(found["probabilities"].values()) == pytest.approx(1.0)


@pytest.mark.parametrize(("positions", "taken"), [(200, 200), (600, 512)])
def test_a_classifier_takes_as_long_texts_as_there(
    cfg, tokenizer, tmp_path, positions, taken
):
    cfg = dataclasses.replace(cfg, max_positions=positions)
    params = reference.random_params(reference.classifier_shapes(cfg, len(LABELS)), 3)
    write_huggingface(
        PortableModel(
            cfg, without_padding(cfg, params), "classifier", tokenizer, labels=LABELS
        ),
        tmp_path / "hf",
    )
    result = import_run(tmp_path / "hf", tmp_path / "run")
    assert load_run(tmp_path / "run").sequence_length == taken
    assert any("takes 600 tokens" in x for x in result.notes) == (taken < positions)


def test_of_a_classifier_the_encoder_alone_can_be_taken(
    cfg, classifier, tokenizer, tmp_path, mesh
):
    write_huggingface(
        PortableModel(cfg, classifier, "classifier", tokenizer, labels=LABELS),
        tmp_path / "hf",
    )
    result = import_run(tmp_path / "hf", tmp_path / "run", encoder_only=True)
    assert result.kind == "pretrain"
    assert result.unused == ("classifier.bias", "classifier.weight")
    loaded = load_params(tmp_path / "run", mesh)
    jax.tree.map(
        np.testing.assert_array_equal, loaded.params["layers"], classifier["layers"]
    )


@pytest.mark.parametrize("encoder_only", [True, False])
def test_fine_tuning_starts_from_either_kind(
    cfg, classifier, tokenizer, tmp_path, mesh, encoder_only
):
    write_huggingface(
        PortableModel(cfg, classifier, "classifier", tokenizer, labels=LABELS),
        tmp_path / "hf",
    )
    import_run(tmp_path / "hf", tmp_path / "run", encoder_only=encoder_only)
    start = start_encoder(tmp_path / "run", mesh, classifier)
    parts = {name: classifier[name] for name in ("embed", "layers", "pooler")}
    assert start.origin["sha256"] == tensors_sha256(parts)
    assert start.origin["num_tensors"] == len(jax.tree.leaves(parts))


def test_a_taken_directory_is_left_alone(published, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is taken"):
        import_run(published, tmp_path / "run")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["notes.txt"]


BELOW = {
    "run": "run.json",
    "hub": "snapshots/abc/config.json",
    "sbert": "0_BERT/config.json",
    "lora": "adapter_config.json",
}


def test_what_is_no_model_is_named(tmp_path):
    for place, message in (
        ("", "is no model: expected"),
        ("bert-base-uncased", r"no such file .*hf download NAME"),
        ("run", "a run directory already"),
        ("hub", r"the one in .*hub/snapshots/abc\?"),
        ("sbert", r"the one in .*sbert/0_BERT\?"),
        ("lora", "it is an adapter"),
    ):
        if place in BELOW:
            path = tmp_path / place / BELOW[place]
            path.parent.mkdir(parents=True)
            path.write_text("{}")
        with pytest.raises(FileNotFoundError, match=message):
            import_run(tmp_path / place, tmp_path / "out")


def test_pretraining_goes_on_from_it(published, params, tokenizer, tmp_path, mesh, cfg):
    run = tmp_path / "run"
    import_run(published, run)
    settings = PretrainConfig(model=cfg, checkpoint=run, data=_data())
    check_start(settings, tokenizer, mesh)
    start = start_pretraining(settings, tokenizer, mesh)
    jax.tree.map(np.testing.assert_array_equal, start.params, params)
    assert start.origin["sha256"] == tensors_sha256(params)
    assert f"{len(jax.tree.leaves(params))} tensors of {run}" in start.describe()

    other = dataclasses.replace(cfg, gelu="exact")
    with pytest.raises(ValueError, match="gelu is 'tanh' in the checkpoint"):
        check_start(dataclasses.replace(settings, model=other), tokenizer, mesh)
    cased = wordpiece(*PIECES, lowercase=False)
    with pytest.raises(ValueError, match="trained with tokenizer"):
        check_start(settings, cased, mesh)
    # It has no moments.
    kept = dataclasses.replace(settings, moments="keep")
    with pytest.raises(ValueError, match=r"weights alone.* --moments fresh"):
        check_start(kept, tokenizer, mesh)


def _data():
    return dataclasses.replace(PretrainConfig().data, sequence_length=16)


def test_adams_slots_are_kept(tf, cfg, params, tokenizer, tmp_path, mesh):
    """From a TensorFlow checkpoint into the second phase of pretraining."""
    from bert_jax.exchange.write_google import write_google

    shapes = reference.pretrain_shapes(cfg)
    moments = tuple(
        without_padding(cfg, reference.random_params(shapes, seed=n)) for n in (5, 6)
    )
    folder = tmp_path / "tf"
    write_google(
        PortableModel(cfg, params, "pretraining", tokenizer, moments=moments, step=77),
        folder,
    )
    result = import_run(folder, tmp_path / "run")
    assert result.moments
    assert "with moments" in "\n".join(describe(result))
    settings = PretrainConfig(
        model=cfg, checkpoint=tmp_path / "run", data=_data(), moments="keep"
    )
    start = start_pretraining(settings, tokenizer, mesh)
    assert start.origin["step"] == 77
    assert "at step 77 and the moments" in start.describe()
    found = start.moments
    for slots, expected in zip((found.mu, found.nu), moments, strict=True):
        jax.tree.map(np.testing.assert_array_equal, slots, expected)
    assert found.age == 77
