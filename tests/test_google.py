"""Google's TF1 checkpoints, read and written, against a forward in their layout.

transformers 5 reads no TensorFlow checkpoint any more, so the reference is a NumPy
forward written here in Google's layout: hidden times kernel plus bias, heads side by
side in one axis, next-sentence weights [2, D].
"""

import dataclasses
import functools
import json
import math

import jax
import numpy as np
import pytest
import reference
from google_models import (
    PIECES,
    google_config,
    google_shapes,
    google_weights,
    publish,
    save_v1,
    without_padding,
)

from bert_jax.config import DropoutConfig
from bert_jax.data.tokenizers.tokenizer import METADATA_FILE
from bert_jax.data.tokenizers.vocabulary import train_sentencepiece
from bert_jax.data.tokenizers.wordpiece_tokenizer import WordPieceTokenizer
from bert_jax.exchange.families.google_bert import google_rows
from bert_jax.exchange.google_variables import load_variables
from bert_jax.exchange.portable import PortableModel
from bert_jax.exchange.read_google import read_google
from bert_jax.exchange.tensors import from_tensors
from bert_jax.exchange.write_google import google_variables, write_google


@pytest.fixture(scope="module")
def tokenizer(tiny):
    assert len(PIECES) == tiny.vocab_size
    return WordPieceTokenizer("\n".join(PIECES).encode(), lowercase=True)


@pytest.fixture(scope="module")
def params(tiny, random_params):
    return without_padding(tiny, random_params(tiny))


@pytest.fixture
def make_directory(tf, tiny, tmp_path):
    """make_directory(variables, config={...}) -> a directory as Google publishes it."""
    return functools.partial(publish, tf, tiny, tmp_path)


def dense(g, name, x):
    return x @ g[f"{name}/kernel"] + g[f"{name}/bias"]


def norm(g, name, x):
    scale = {"scale": g[f"{name}/LayerNorm/gamma"], "bias": g[f"{name}/LayerNorm/beta"]}
    return reference.layer_norm(x, scale, 1e-12)


def google_forward(cfg, g, ids, segments):
    """MLM logits [T, V] and NSP logits [2] of one sequence, by Google's own names."""
    g = {name: x.astype(np.float64) for name, x in g.items()}
    embed = "bert/embeddings"
    x = g[f"{embed}/word_embeddings"][ids]
    x = x + g[f"{embed}/token_type_embeddings"][segments]
    x = norm(g, embed, x + g[f"{embed}/position_embeddings"][: len(ids)])
    width = cfg.hidden_size // cfg.num_heads
    for i in range(cfg.num_layers):
        layer = f"bert/encoder/layer_{i}"
        q, k, v = (
            dense(g, f"{layer}/attention/self/{name}", x)
            for name in ("query", "key", "value")
        )
        heads = []
        for n in range(cfg.num_heads):
            at = slice(n * width, (n + 1) * width)
            weight = np.exp(q[:, at] @ k[:, at].T / math.sqrt(width))
            heads.append(weight / weight.sum(axis=1, keepdims=True) @ v[:, at])
        mixed = dense(g, f"{layer}/attention/output/dense", np.hstack(heads))
        x = norm(g, f"{layer}/attention/output", x + mixed)
        up = reference.gelu(dense(g, f"{layer}/intermediate/dense", x), "tanh")
        x = norm(g, f"{layer}/output", x + dense(g, f"{layer}/output/dense", up))
    mlm, nsp = "cls/predictions", "cls/seq_relationship"
    y = reference.gelu(dense(g, f"{mlm}/transform/dense", x), "tanh")
    y = norm(g, f"{mlm}/transform", y)
    logits = y @ g[f"{embed}/word_embeddings"].T + g[f"{mlm}/output_bias"]
    pooled = np.tanh(dense(g, "bert/pooler/dense", x[0]))
    return logits, g[f"{nsp}/output_weights"] @ pooled + g[f"{nsp}/output_bias"]


def test_logits_of_a_checkpoint_of_google(
    tiny, make_directory, make_batch, record_route
):
    from bert_jax.model import pretraining
    from bert_jax.model.masking import MaskedBatch

    weights = google_weights(tiny)
    source = read_google(make_directory(weights))
    read = from_tensors(source.model, source.tensors, source.rows(source.head))
    assert read.new == ()
    assert set(read.used) == set(weights)
    assert source.model == dataclasses.replace(tiny, init_std=0.03)
    assert source.dropout == DropoutConfig(hidden=0.15)
    assert source.model.gelu == "tanh"
    assert any("tanh" in note for note in source.notes)
    assert source.tokenizer.pieces == PIECES
    assert source.tokenizer.lowercase
    assert (source.head, source.step, source.slots) == ("pretraining", 0, None)

    batch = make_batch(pairs=1)
    rows, length = batch.input_ids.shape
    slots = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))
    ones = np.ones((rows, length), np.float32)
    masked = MaskedBatch(batch.input_ids, slots, batch.input_ids, ones)
    apply = jax.jit(pretraining.apply, static_argnums=0)
    found = apply(source.model, read.params, batch, masked)
    worst = 0.0
    for b in range(rows):
        real = np.flatnonzero(batch.sequence_ids[b])
        ids, segments = batch.input_ids[b][real], batch.segment_ids[b][real]
        mlm, nsp = google_forward(tiny, weights, ids, segments)
        # Float32 against float64: 3e-6 seen. Ten times that.
        ours = np.asarray(found.mlm_logits)[b, real, : tiny.vocab_size]
        np.testing.assert_allclose(ours, mlm, atol=3e-5, rtol=0)
        np.testing.assert_allclose(found.nsp_logits[b, 0], nsp, atol=3e-5, rtol=0)
        worst = max(worst, float(np.abs(ours - mlm).max()))
    record_route(
        "TensorFlow 1 checkpoint → ours, against a NumPy forward of its own",
        f"logits {worst:.1e}",
    )


def test_google_to_ours_to_google_is_bitwise(
    tf, tiny, make_directory, tmp_path, record_route
):
    weights = google_weights(tiny)
    draw = np.random.default_rng(1).normal
    slots = {
        f"{name}/adam_{slot}": draw(0.0, 1e-3, x.shape).astype(np.float32)
        for name, x in weights.items()
        for slot in "mv"
    }
    variables = weights | slots | {"global_step": np.int64(1234)}
    source = read_google(make_directory(variables))
    assert source.step == 1234
    cfg = source.model
    trees = [
        from_tensors(cfg, tensors, google_rows(cfg, "pretraining")).params
        for tensors in (source.tensors, *source.slots)
    ]
    folder = tmp_path / "out"
    notes = write_google(
        PortableModel(
            cfg,
            trees[0],
            "pretraining",
            source.tokenizer,
            dropout=source.dropout,
            moments=(trees[1], trees[2]),
            step=source.step,
        ),
        folder,
    )
    assert not notes
    stored = tf.train.load_checkpoint(str(folder / "bert_model.ckpt"))
    assert stored.get_variable_to_shape_map().keys() == variables.keys()
    for name, expected in variables.items():
        found = np.asarray(stored.get_tensor(name))
        assert found.dtype == expected.dtype, name
        np.testing.assert_array_equal(found, expected, err_msg=name)
    config = json.loads((folder / "bert_config.json").read_text())
    assert config.items() <= google_config(tiny).items()
    assert config["hidden_act"] == "gelu"
    assert (folder / "vocab.txt").read_text().split() == PIECES
    newest = tf.train.latest_checkpoint(str(folder))
    assert newest == str(folder / "bert_model.ckpt")
    record_route(
        "TensorFlow 1 → ours → TensorFlow 1, Adam's slots and step too", "0, every bit"
    )


def test_googles_saver_restores_what_we_write(tf, tiny, params, tokenizer, tmp_path):
    """As init_checkpoint of Google's scripts does: by name, into a TF1 graph."""
    write_google(
        PortableModel(tiny, params, "pretraining", tokenizer, step=7), tmp_path / "out"
    )
    expected = google_variables(
        PortableModel(tiny, params, "pretraining", tokenizer, step=7)
    )
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        made = {
            name: v1.get_variable(name, shape)
            for name, shape in google_shapes(tiny).items()
        }
        v1.train.Saver().restore(session, str(tmp_path / "out" / "bert_model.ckpt"))
        for name, value in session.run(made).items():
            np.testing.assert_array_equal(value, expected[name], err_msg=name)
    kernel = params["layers"]["attention"]["key"]["kernel"][1]
    theirs = expected["bert/encoder/layer_1/attention/self/key/kernel"]
    x = np.random.default_rng(3).normal(size=tiny.hidden_size).astype(np.float32)
    ours = np.einsum("d,dnh->nh", x, kernel).ravel()
    # One float32 sum of 32 products of size 0.2: errors of some 1e-7.
    np.testing.assert_allclose(x @ theirs, ours, atol=2e-6, rtol=0)


@pytest.mark.parametrize("head", ["pretraining", "classifier", "tokens", "spans"])
def test_ours_to_google_to_ours_is_bitwise(
    tf, tiny, params, tokenizer, tmp_path, head, random_params
):
    draw = np.random.default_rng(5).normal
    labels = None
    trees = [params, *(without_padding(tiny, random_params(tiny, s)) for s in (1, 2))]
    if head != "pretraining":
        labels = ("up", "down", "é") if head != "spans" else None
        size = 2 if head == "spans" else 3
        kept = ("embed", "layers") + (("pooler",) if head == "classifier" else ())
        trees = [
            {name: tree[name] for name in kept}
            | {
                head: {
                    "kernel": draw(size=(tiny.hidden_size, size)).astype(np.float32),
                    "bias": draw(size=size).astype(np.float32),
                }
            }
            for tree in trees
        ]
    problem_type = "multi_label_classification" if head == "classifier" else None
    folder = tmp_path / "out"
    write_google(
        PortableModel(
            tiny,
            trees[0],
            head,
            tokenizer,
            labels=labels,
            problem_type=problem_type,
            moments=(trees[1], trees[2]),
            step=41,
        ),
        folder,
    )
    source = read_google(folder)
    assert (source.model, source.head, source.labels) == (tiny, head, labels)
    assert source.problem_type == problem_type
    assert (source.step, source.tokenizer.sha256) == (41, tokenizer.sha256)
    for tensors, tree in zip((source.tensors, *source.slots), trees, strict=True):
        read = from_tensors(tiny, tensors, google_rows(tiny, head))
        assert not read.new
        back, expected = reference.flatten(read.params), reference.flatten(tree)
        assert back.keys() == expected.keys()
        for path, value in expected.items():
            np.testing.assert_array_equal(back[path], value, err_msg=path)


def test_what_is_no_weight_is_named(tiny, make_directory):
    weights = google_weights(tiny)
    name = "bert/encoder/layer_2/output/dense/kernel"
    del weights[name]
    more = {
        "bert/pooler/dense/kernel/adam_m": weights["bert/pooler/dense/kernel"],
        "bert/pooler/dense/bias/lamb_m": weights["bert/pooler/dense/bias"],
        "current_loss_scale": np.float32(4096.0),
        "adapter/kernel": np.ones((3, 4), np.float32),
        "good_steps": np.int64(9),
    }
    source = read_google(make_directory(weights | more))
    assert set(source.tensors) == {*weights, "adapter/kernel"}
    read = from_tensors(
        source.model, source.tensors, google_rows(source.model, "pretraining")
    )
    assert read.new == ("layers/mlp/down/kernel",)
    assert source.slots is None
    notes = " ".join(source.notes)
    for part in ("moments are left out", "lamb_m", "current_loss_scale", "good_steps"):
        assert part in notes


def test_a_classifier_of_google_has_numbers_for_labels(tiny, make_directory):
    weights = google_weights(tiny)
    weights = {name: x for name, x in weights.items() if name.startswith("bert/")}
    weights["output_weights"] = np.ones((4, tiny.hidden_size), np.float32)
    weights["output_bias"] = np.ones(4, np.float32)
    source = read_google(make_directory(weights))
    assert (source.head, source.labels) == ("classifier", ("0", "1", "2", "3"))
    assert any("no names" in note for note in source.notes)
    weights["output_weights"] = weights["output_weights"][:1]
    with pytest.raises(ValueError, match="from Hugging Face's format only"):
        read_google(make_directory(weights, "uncased_regression"))


def test_rows_without_pieces_are_kept(tiny, make_directory):
    weights = google_weights(tiny)
    source = read_google(make_directory(weights, pieces=PIECES[:-2]))
    assert source.tokenizer.pieces == [*PIECES[:-2], "[row59]", "[row60]"]
    assert source.tokenizer.vocab_size == source.model.vocab_size
    ids = source.tokenizer.encode(["[row59] row59"])[0]
    assert max(ids) < 59
    assert any("61 rows for 59 pieces" in note for note in source.notes)
    with pytest.raises(ValueError, match="62 pieces"):
        read_google(make_directory(weights, "uncased_more", [*PIECES, "zz"]))


def test_half_precision_becomes_float32(tf, tiny, make_directory):
    folder = make_directory(None)
    weights = google_weights(tiny)
    name = "bert/pooler/dense/kernel"
    halves = weights | {name: weights[name].astype(np.float16)}
    save_v1(tf, folder / "bert_model.ckpt", halves)
    found = load_variables(folder / "bert_model.ckpt", tiny, [])[name]
    assert found.dtype == np.float16
    source = read_google(folder)
    assert source.tensors[name].dtype == np.float32
    np.testing.assert_array_equal(source.tensors[name], halves[name])
    assert any("float16" in note for note in source.notes)


def test_other_rules_for_accents_are_kept_and_noted(tf, tiny, params, tmp_path):
    kept = WordPieceTokenizer(
        "\n".join(PIECES).encode(), lowercase=True, strip_accents=False
    )
    (note,) = write_google(
        PortableModel(tiny, params, "pretraining", kept), tmp_path / "x"
    )
    assert "lowercase=True and strip_accents=False" in note
    assert read_google(tmp_path / "x").tokenizer.sha256 == kept.sha256
    (tmp_path / "x" / METADATA_FILE).unlink()
    assert read_google(tmp_path / "x").tokenizer.sha256 == kept.sha256


def test_a_sentencepiece_vocabulary_is_written_with_a_note(tf, tiny, params, tmp_path):
    lines = [" ".join(["river", "stone", "window", "music", "teacher"])] * 40
    pieces = train_sentencepiece(lines, vocab_size=22, lowercase=True)
    cfg = dataclasses.replace(tiny, vocab_size=pieces.vocab_size)
    notes = write_google(
        PortableModel(cfg, without_padding(cfg, params), "pretraining", pieces),
        tmp_path / "x",
    )
    assert "WordPiece only" in notes[0]
    assert not (tmp_path / "x" / "vocab.txt").exists()
    assert read_google(tmp_path / "x").tokenizer.sha256 == pieces.sha256
