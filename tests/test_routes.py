"""Every way in and out, measured: the table of routes in docs/exchange.md comes from here.

One run directory of BERT-mini's size goes through each route as a user takes it, by the
functions behind `bert-jax import` and `bert-jax export`. `pytest tests/test_routes.py`
prints the table at its end.
"""

import dataclasses
import importlib
import json
import logging
import os

import jax
import numpy as np
import pytest
import reference
from safetensors.numpy import load_file
from small_tokenizers import wordpiece

from bert_jax.config import MeshConfig
from bert_jax.exchange import tensors
from bert_jax.exchange import write_huggingface as write_huggingface_module
from bert_jax.exchange.export import export_run
from bert_jax.exchange.importing import import_run
from bert_jax.exchange.portable import PortableModel
from bert_jax.exchange.write_huggingface import write_huggingface
from bert_jax.family import model_config
from bert_jax.train.initial import load_params
from bert_jax.train.mesh import make_mesh

# Each route loads and runs several libraries.
pytestmark = pytest.mark.slow

LABELS = ("down", "level", "up")
NEEDS = {
    "huggingface": ("torch", "transformers"),
    "tensorflow": ("tensorflow",),
    "onnx": ("torch", "transformers", "onnx", "onnxscript", "onnxruntime"),
    "stablehlo": (),
}


def need(*modules: str) -> None:
    """Skips, and says why, where a library is missing; CI must have them all."""
    for name in modules:
        try:
            # Their own warnings at import are not ours to fix.
            import warnings

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(name)
        except ModuleNotFoundError:
            if os.environ.get("CI") == "true":
                raise
            pytest.skip(f"{name} is not installed (extras: export, tf, onnx)")


@pytest.fixture(scope="module")
def tokenizer():
    return wordpiece(*(f"w{n}" for n in range(4_000)))


@pytest.fixture(scope="module")
def cfg(tokenizer):
    return model_config("mini", vocab_size=tokenizer.vocab_size)


def realistic(cfg, shapes, seed):
    """Sizes as in a trained BERT; nothing is zero but the vocabulary's padding."""
    rng = np.random.default_rng(seed)
    flat = {}
    for path, shape in reference.flatten(shapes).items():
        shape = tuple(shape)
        if path.endswith("scale"):
            flat[path] = rng.normal(0.9, 0.1, shape)
        else:
            flat[path] = rng.normal(0.0, 0.05, shape)
        flat[path] = flat[path].astype(np.float32)
    for path in ("embed/token/embedding", "mlm/output_bias"):
        if path in flat:
            flat[path][cfg.vocab_size :] = 0.0
    return tensors.unflatten(flat)


@pytest.fixture(scope="module", params=["pretraining", "classifier"])
def run(request, cfg, tokenizer, tmp_path_factory):
    """A run directory of either kind, its head and its parameters."""
    head = request.param
    if head == "pretraining":
        shapes = reference.pretrain_shapes(cfg)
        labels = None
    else:
        shapes = reference.classifier_shapes(cfg, len(LABELS))
        labels = LABELS
    params = realistic(cfg, shapes, seed=11)
    folder = tmp_path_factory.mktemp(head)
    write_huggingface(
        PortableModel(cfg, params, head, tokenizer, labels=labels), folder / "hf"
    )
    import_run(folder / "hf", folder / "run")
    return folder / "run", head, params


def params_of(run):
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    return jax.device_get(load_params(run, mesh).params)


def assert_equal_bits(found, expected) -> None:
    found, expected = tensors.flatten(found), tensors.flatten(expected)
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)


@pytest.mark.parametrize("to", NEEDS)
def test_an_export_says_how_its_logits_differ_from_ours(
    run, to, tmp_path, record_route
):
    need(*NEEDS[to])
    directory, head, _ = run
    line = export_run(directory, tmp_path / to, to)
    manifest = json.loads((tmp_path / to / "bert_jax_export.json").read_text())
    if to == "tensorflow":
        assert line.endswith("read back through TensorFlow: every weight bit by bit")
        assert manifest["differences"] == {}
        assert "equal bit by bit; no outputs are compared" in manifest["rule"]
        record_route(f"ours → {to}, {head}", "0, every bit")
        return
    found = manifest["differences"].values()
    assert all(0.0 <= x["largest"] <= x["allowed"] for x in found)
    difference = max(x["largest"] for x in found)
    assert f"{difference:.1e}" in line
    record_route(f"ours → {to}, {head}", f"logits {difference:.1e}")


def test_a_failed_export_leaves_what_was_there(run, tmp_path, monkeypatch):
    directory, *_ = run
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "mine.txt").write_text("kept")
    with pytest.raises(ValueError, match="is taken"):
        export_run(directory, folder, "stablehlo")
    (folder / "mine.txt").unlink()
    export_run(directory, folder, "stablehlo")
    before = (folder / "meta.json").stat().st_ino

    def fail(*_, **__):  # as safetensors does, which names no file
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(write_huggingface_module, "save_huggingface_tokenizer", fail)
    with pytest.raises(OSError, match=r"No space left on device: '.*/out'$"):
        export_run(directory, folder, "huggingface")
    assert (folder / "meta.json").stat().st_ino == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert "every weight bit by bit" in export_run(directory, folder, "stablehlo")


def test_masks_are_filled_by_the_pipeline_without_a_warning(
    run, tmp_path, record_route, caplog
):
    need(*NEEDS["huggingface"])
    import transformers

    directory, head, _ = run
    if head != "pretraining":
        with pytest.raises(ValueError, match="--mlm-only takes parts of a pretraining"):
            export_run(directory, tmp_path / "hf", "huggingface", mlm_only=True)
        return
    export_run(directory, tmp_path / "hf", "huggingface", mlm_only=True)
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    found = transformers.pipeline("fill-mask", model=str(tmp_path / "hf"))(
        "w7 [MASK] w9", top_k=2
    )
    logger.removeHandler(caplog.handler)
    assert not [x for x in caplog.records if x.levelno >= logging.WARNING]
    assert len(found) == 2
    manifest = json.loads((tmp_path / "hf/bert_jax_export.json").read_text())
    (difference,) = (x["largest"] for x in manifest["differences"].values())
    assert difference > 0.0
    record_route("ours → huggingface, mlm only", f"logits {difference:.1e}")


def test_hugging_face_and_back_is_bitwise(run, tmp_path, record_route):
    directory, head, params = run
    # The comparison of logits has a test of its own; this is about the files.
    need(*NEEDS["huggingface"])
    export_run(directory, tmp_path / "hf", "huggingface")
    import_run(tmp_path / "hf", tmp_path / "again")
    assert_equal_bits(params_of(tmp_path / "again"), params)
    record_route(f"ours → huggingface → ours, {head}", "0, every bit")


def test_tensorflow_and_back_is_bitwise(run, tmp_path, record_route):
    need(*NEEDS["tensorflow"])
    directory, head, params = run
    export_run(directory, tmp_path / "tf", "tensorflow")
    import_run(tmp_path / "tf", tmp_path / "again", lowercase=True)
    assert_equal_bits(params_of(tmp_path / "again"), params)
    record_route(f"ours → tensorflow → ours, {head}", "0, every bit")


@pytest.mark.parametrize(
    ("kind", "safe"),
    [
        ("BertForPreTraining", True),
        ("BertForPreTraining", False),
        ("BertForSequenceClassification", True),
    ],
)
def test_hugging_face_through_us_is_bitwise(
    kind, safe, cfg, tokenizer, tmp_path, record_route
):
    """A directory that transformers wrote comes back out with every bit."""
    need(*NEEDS["huggingface"])
    import torch
    import transformers

    torch.manual_seed(0)
    small = dataclasses.replace(cfg, num_layers=2)
    config = transformers.BertConfig(
        vocab_size=small.vocab_size,
        hidden_size=small.hidden_size,
        num_hidden_layers=small.num_layers,
        num_attention_heads=small.num_heads,
        intermediate_size=small.mlp_size,
        num_labels=3,
    )
    model = getattr(transformers, kind)(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    source = tmp_path / "theirs"
    model.save_pretrained(source)
    if not safe:
        (source / "model.safetensors").unlink()
        torch.save(model.state_dict(), source / "pytorch_model.bin")
    (source / "vocab.txt").write_text("\n".join(tokenizer.pieces) + "\n")
    (source / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    import_run(source, tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "back", "huggingface")
    back = load_file(tmp_path / "back/model.safetensors")
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    tied = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    assert back.keys() == state.keys() - tied
    for name, value in back.items():
        np.testing.assert_array_equal(value, state[name], err_msg=name)
    form = "safetensors" if safe else ".bin"
    record_route(f"huggingface ({form}) → ours → huggingface, {kind}", "0, every bit")
