"""Google's checkpoints: names, layouts and files, against a forward in their layout.

transformers 5 reads no TensorFlow checkpoint any more, so the reference is a NumPy
forward written here in Google's layout: hidden times kernel plus bias, heads side by
side in one axis, next-sentence weights [2, D].
"""

import dataclasses
import json
import math
import os

import jax
import numpy as np
import pytest
import reference

from bert_jax.data.tokenizer import WordPieceTokenizer, train_sentencepiece
from bert_jax.exchange.google_variables import load_variables
from bert_jax.exchange.names import from_tensors
from bert_jax.exchange.read_google import read_google
from bert_jax.exchange.write_google import (
    google_variables,
    verify_google,
    write_google,
)

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "!", "?"]
PIECES += [prefix + c for c in "abcdefghijklmnopqrstuvwxyz" for prefix in ("", "##")]


@pytest.fixture(scope="module")
def tf():
    """TensorFlow; it writes some lines to stderr, which no setting of ours stops."""
    try:
        import tensorflow
    except ModuleNotFoundError as missing:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"{missing}; install .[tf]")
    return tensorflow


@pytest.fixture(scope="module")
def tokenizer(tiny):
    assert len(PIECES) == tiny.vocab_size
    return WordPieceTokenizer("\n".join(PIECES).encode(), lowercase=True)


@pytest.fixture(scope="module")
def params(tiny, random_params):
    return without_padding(tiny, random_params(tiny))


def without_padding(cfg, params):
    """Rows of vocabulary padding, which no checkpoint keeps, as zeros."""
    flat = {path: x.copy() for path, x in reference.flatten(params).items()}
    for name in ("embed/token/embedding", "mlm/output_bias"):
        if name in flat:
            flat[name][cfg.vocab_size :] = 0.0
    return reference.unflatten(flat)


def google_shapes(cfg) -> dict:
    """What google-research/bert's modeling.py and run_pretraining.py create."""
    d, f = cfg.hidden_size, cfg.mlp_size
    shapes = {
        "bert/embeddings/word_embeddings": (cfg.vocab_size, d),
        "bert/embeddings/token_type_embeddings": (cfg.num_segments, d),
        "bert/embeddings/position_embeddings": (cfg.max_positions, d),
        "bert/embeddings/LayerNorm/beta": (d,),
        "bert/embeddings/LayerNorm/gamma": (d,),
        "bert/pooler/dense/kernel": (d, d),
        "bert/pooler/dense/bias": (d,),
        "cls/predictions/transform/dense/kernel": (d, d),
        "cls/predictions/transform/dense/bias": (d,),
        "cls/predictions/transform/LayerNorm/beta": (d,),
        "cls/predictions/transform/LayerNorm/gamma": (d,),
        "cls/predictions/output_bias": (cfg.vocab_size,),
        "cls/seq_relationship/output_weights": (2, d),
        "cls/seq_relationship/output_bias": (2,),
    }
    for i in range(cfg.num_layers):
        layer = f"bert/encoder/layer_{i}"
        dense = {f"attention/self/{name}": (d, d) for name in ("query", "key", "value")}
        dense["attention/output/dense"] = (d, d)
        dense["intermediate/dense"] = (d, f)
        dense["output/dense"] = (f, d)
        for name, shape in dense.items():
            shapes[f"{layer}/{name}/kernel"] = shape
            shapes[f"{layer}/{name}/bias"] = shape[1:]
        for name in ("attention/output", "output"):
            shapes[f"{layer}/{name}/LayerNorm/beta"] = (d,)
            shapes[f"{layer}/{name}/LayerNorm/gamma"] = (d,)
    return shapes


def google_weights(cfg, seed=0) -> dict:
    draw = np.random.default_rng(seed).normal
    return {
        name: draw(float(name.endswith("gamma")), 0.2, shape).astype(np.float32)
        for name, shape in google_shapes(cfg).items()
    }


def google_config(cfg) -> dict:
    """As published with the multilingual models, pooler keys and all."""
    return {
        "attention_probs_dropout_prob": 0.1,
        "directionality": "bidi",
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.15,
        "hidden_size": cfg.hidden_size,
        "initializer_range": 0.03,
        "intermediate_size": cfg.mlp_size,
        "max_position_embeddings": cfg.max_positions,
        "num_attention_heads": cfg.num_heads,
        "num_hidden_layers": cfg.num_layers,
        "pooler_fc_size": cfg.hidden_size,
        "pooler_type": "first_token_transform",
        "type_vocab_size": cfg.num_segments,
        "vocab_size": cfg.vocab_size,
    }


def save_v1(tf, prefix, variables):
    """As the Saver of a TF1 Estimator writes them."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        feeds = {
            name: v1.placeholder(np.asarray(x).dtype, np.shape(x))
            for name, x in variables.items()
        }
        for name, x in feeds.items():
            v1.get_variable(name, initializer=x)
        values = {feeds[name]: x for name, x in variables.items()}
        session.run(v1.global_variables_initializer(), values)
        v1.train.Saver().save(session, str(prefix), write_meta_graph=False)


@pytest.fixture
def make_directory(tf, tiny, tmp_path):
    """make_directory(variables, config={...}) -> a directory as Google publishes it."""

    def make(variables, name="uncased_L-3", pieces=PIECES, **config):
        directory = tmp_path / name
        directory.mkdir()
        text = json.dumps(google_config(tiny) | config)
        (directory / "bert_config.json").write_text(text)
        (directory / "vocab.txt").write_text("".join(f"{p}\n" for p in pieces))
        if variables is not None:
            save_v1(tf, directory / "bert_model.ckpt", variables)
        return directory

    return make


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
    read = from_tensors(source.model, source.tensors, source.head, source.dialect)
    assert read.missing == read.new == ()
    assert set(read.used) == set(weights)
    assert source.model == dataclasses.replace(tiny, init_std=0.03, dropout_rate=0.15)
    assert source.model.gelu == "tanh"
    assert any("tanh" in note for note in source.notes)
    assert source.tokenizer.pieces == PIECES
    assert source.tokenizer.lowercase
    assert (source.head, source.step, source.moments) == ("pretraining", 0, None)

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
        from_tensors(cfg, tensors, "pretraining", "google").params
        for tensors in (source.tensors, *source.moments)
    ]
    folder = tmp_path / "out"
    notes = write_google(
        *(cfg, trees[0], "pretraining", source.tokenizer, folder),
        moments=(trees[1], trees[2]),
        step=source.step,
    )
    assert not notes
    verify_google(folder, variables)
    stored = dict(tf.train.list_variables(str(folder / "bert_model.ckpt")))
    assert stored == {name: list(np.shape(x)) for name, x in variables.items()}
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
    write_google(tiny, params, "pretraining", tokenizer, tmp_path / "out", step=7)
    expected = google_variables(tiny, params, "pretraining", step=7)
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
    folder = tmp_path / "out"
    write_google(
        *(tiny, trees[0], head, tokenizer, folder),
        labels=labels,
        moments=(trees[1], trees[2]),
        step=41,
    )
    source = read_google(folder)
    assert (source.model, source.head, source.labels) == (tiny, head, labels)
    assert (source.step, source.tokenizer.sha256) == (41, tokenizer.sha256)
    for tensors, tree in zip((source.tensors, *source.moments), trees, strict=True):
        read = from_tensors(tiny, tensors, head, "google")
        assert not read.missing
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
    read = from_tensors(source.model, source.tensors, "pretraining", "google")
    assert read.missing == (name,)
    assert read.new == ("layers/mlp/down/kernel",)
    assert source.moments is None
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
    with pytest.raises(ValueError, match="regression"):
        read_google(make_directory(weights, "uncased_regression"))


def test_which_checkpoint_is_meant(tf, tiny, make_directory):
    weights = google_weights(tiny)
    folder = make_directory(None)
    with pytest.raises(ValueError, match="holds no checkpoint"):
        read_google(folder)
    for step in (1000, 2000):
        numbered = weights | {"global_step": np.int64(step)}
        save_v1(tf, folder / f"model.ckpt-{step}", numbered)
    assert read_google(folder / "model.ckpt-1000").step == 1000
    source = read_google(folder)
    assert source.step == 2000
    assert any("2 checkpoints" in note for note in source.notes)
    # A directory that was moved: the state file keeps the old absolute path.
    old = 'model_checkpoint_path: "/gone/model.ckpt-1000"\n'
    (folder / "checkpoint").write_text(old)
    assert read_google(folder).step == 1000
    (folder / "checkpoint").unlink()
    with pytest.raises(ValueError, match=r"2 checkpoints.*model\.ckpt-1000.*give one"):
        read_google(folder)
    with pytest.raises(ValueError, match="no such checkpoint"):
        read_google(folder / "model.ckpt-3000")
    below = folder / "train"
    below.mkdir()
    save_v1(tf, below / "model.ckpt-5", weights | {"global_step": np.int64(5)})
    assert read_google(below).step == 5
    (folder / "vocab.txt").unlink()
    with pytest.raises(ValueError, match=r"no vocab\.txt"):
        read_google(below)


def test_damaged_files_are_refused(tf, tiny, make_directory):
    folder = make_directory(google_weights(tiny))
    data = folder / "bert_model.ckpt.data-00000-of-00001"
    whole = data.read_bytes()
    data.write_bytes(whole[:50] + bytes([whole[50] ^ 255]) + whole[51:])
    with pytest.raises(ValueError, match="cannot be read"):
        read_google(folder)
    data.write_bytes(whole[:5000])
    with pytest.raises(ValueError, match="cannot be read"):
        read_google(folder)
    data.unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        read_google(folder)
    (folder / "bert_model.ckpt.index").write_bytes(b"none")
    with pytest.raises(ValueError, match="damaged"):
        read_google(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act='relu'"),
        ({"vocab_size": 60}, "61 rows"),
        ({"num_hidden_layers": 2}, "layer_2.*num_hidden_layers=2"),
        ({"num_hidden_groups": 1}, "num_hidden_groups"),
        ({"directionality": "left"}, "directionality='left'"),
        ({"embedding_size": 16}, "embedding_size=16"),
        ({"layer_norm_eps": 1e-6}, "layer_norm_eps"),
        ({"num_attention_heads": 5}, "num_heads"),
        ({"do_lower_case": False}, "disagree"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_configs_that_do_not_fit_are_refused(tiny, make_directory, change, message):
    folder = make_directory(google_weights(tiny), **change)
    with pytest.raises(ValueError, match=message):
        read_google(folder, lowercase=True)


def test_a_config_of_another_width_is_refused(tiny, make_directory):
    source = read_google(make_directory(google_weights(tiny), hidden_size=64))
    with pytest.raises(ValueError, match="config of another model"):
        from_tensors(source.model, source.tensors, "pretraining", "google")


def test_casing_is_stated_or_asked_for(tf, tiny, make_directory):
    weights = google_weights(tiny)
    folder = make_directory(weights, "wiki")
    with pytest.raises(ValueError, match=r"--lowercase.*--no-lowercase"):
        read_google(folder)
    assert not read_google(folder, lowercase=False).tokenizer.lowercase
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert read_google(folder).tokenizer.lowercase
    with pytest.raises(ValueError, match="disagree"):
        read_google(folder, lowercase=False)
    cased = make_directory(weights, "multi_cased_L-12")
    source = read_google(cased)
    assert not source.tokenizer.lowercase
    assert any("'multi_cased_L-12'" in note for note in source.notes)
    source = read_google(cased, lowercase=True)
    assert source.tokenizer.lowercase
    assert any("though" in note for note in source.notes)
    capitals = [*PIECES[:-1], "River"]
    folder = make_directory(weights, "uncased_with_capitals", capitals)
    with pytest.raises(ValueError, match="'River'"):
        read_google(folder)
    source = read_google(folder, lowercase=True)
    assert any("'River'" in note for note in source.notes)


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


def test_what_google_cannot_compute_is_refused(tf, tiny, params, tokenizer, tmp_path):
    def write(cfg=tiny, params=params, tokenizer=tokenizer, **settings):
        write_google(cfg, params, "pretraining", tokenizer, tmp_path / "x", **settings)

    with pytest.raises(ValueError, match="gelu='exact'"):
        write(dataclasses.replace(tiny, gelu="exact"))
    with pytest.raises(ValueError, match="layer_norm_eps"):
        write(dataclasses.replace(tiny, layer_norm_eps=1e-5))
    with pytest.raises(ValueError, match="pieces"):
        write(
            tokenizer=WordPieceTokenizer("\n".join(PIECES[:9]).encode(), lowercase=True)
        )
    with pytest.raises(ValueError, match="pooler/kernel"):
        write(params={**params, "pooler": {}})
    with pytest.raises(ValueError, match="would be ignored"):
        write(labels=("a", "b"))
    assert not list(tmp_path.iterdir())
    write()
    (tmp_path / "x" / "mine.txt").write_text("kept")
    with pytest.raises(ValueError, match="is taken"):
        write()
    with pytest.raises(ValueError, match="pooler/kernel"):
        write(params={**params, "pooler": {}}, overwrite=True)
    assert (tmp_path / "x" / "mine.txt").exists()
    write(overwrite=True)
    assert not (tmp_path / "x" / "mine.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_verification_sees_every_difference(tf, tiny, params, tokenizer, tmp_path):
    write_google(tiny, params, "pretraining", tokenizer, tmp_path / "x", step=3)
    variables = google_variables(tiny, params, "pretraining", step=3)
    verify_google(tmp_path / "x", variables)
    name = "bert/pooler/dense/bias"
    signed = {name: np.nextafter(variables[name], np.float32(9))}
    for other in (signed, {"global_step": np.int64(4)}, {"more": np.zeros(1)}):
        with pytest.raises(ValueError, match="do not use it"):
            verify_google(tmp_path / "x", variables | other)


def test_a_sentencepiece_vocabulary_is_written_with_a_note(tf, tiny, params, tmp_path):
    lines = [" ".join(["river", "stone", "window", "music", "teacher"])] * 40
    pieces = train_sentencepiece(lines, vocab_size=22, lowercase=True)
    cfg = dataclasses.replace(tiny, vocab_size=pieces.vocab_size)
    notes = write_google(
        cfg, without_padding(cfg, params), "pretraining", pieces, tmp_path / "x"
    )
    assert "WordPiece only" in notes[0]
    assert not (tmp_path / "x" / "vocab.txt").exists()
    assert read_google(tmp_path / "x").tokenizer.sha256 == pieces.sha256


def test_without_tensorflow_the_extra_is_named(monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ValueError, match=r"bert_jax\[tf\]"):
        verify_google(tmp_path, {})


# One name of google-research/bert -> where the model garden keeps it.
LAYER = {
    "attention/self/query": "_attention_layer/_query_dense",
    "attention/self/key": "_attention_layer/_key_dense",
    "attention/self/value": "_attention_layer/_value_dense",
    "attention/output/dense": "_attention_layer/_output_dense",
    "attention/output/LayerNorm": "_attention_layer_norm",
    "intermediate/dense": "_intermediate_dense",
    "output/dense": "_output_dense",
    "output/LayerNorm": "_output_layer_norm",
}


def garden_paths(cfg, variant: str) -> dict:
    """Google's name without its last part -> attributes that lead there."""
    graph = {
        "bert/embeddings/word_embeddings": "layer_with_weights-0/embeddings",
        "bert/embeddings/position_embeddings": "layer_with_weights-1/embeddings",
        "bert/embeddings/token_type_embeddings": "layer_with_weights-2/embeddings",
        "bert/embeddings/LayerNorm": "layer_with_weights-3",
        "bert/pooler/dense": f"layer_with_weights-{cfg.num_layers + 4}",
        "layer": "layer_with_weights-{}",
    }
    layered = {
        "bert/embeddings/word_embeddings": "_embedding_layer/embeddings",
        "bert/embeddings/position_embeddings": "_position_embedding_layer/embeddings",
        "bert/embeddings/token_type_embeddings": "_type_embedding_layer/embeddings",
        "bert/embeddings/LayerNorm": "_embedding_norm_layer",
        "bert/pooler/dense": "_pooler_layer",
        "layer": "_transformer_layers/{}",
    }
    mlm, nsp = "cls/predictions", "cls/seq_relationship"
    pretrainer = {
        f"{mlm}/transform/dense": "masked_lm/dense",
        f"{mlm}/transform/LayerNorm": "masked_lm/layer_norm",
        f"{mlm}/output_bias": "masked_lm/output_bias.bias",  # "." for "/", see plant
        nsp: "model/classification_heads/0/out_proj",
    }
    first, root = 4, "encoder"
    if variant == "functional":  # v3 of the released checkpoints
        names = graph | {k: v for k, v in pretrainer.items() if k != nsp}
        names["bert/pooler/dense"] = "/next_sentence.pooler_dense"
    elif variant == "layer":
        names = layered | pretrainer
        names["bert/embeddings/word_embeddings"] = "/masked_lm/embedding_table"
        first = 0
    elif variant == "headless":  # v1 of them
        names, root = graph, "model"
    else:
        assert variant == "2020"
        beside = "/model/layer_with_weights-0/layer_with_weights-"
        names = graph | {
            f"{mlm}/transform/dense": f"{beside}1/layer_with_weights-0",
            f"{mlm}/transform/LayerNorm": f"{beside}1/layer_with_weights-1",
            f"{mlm}/output_bias": f"{beside}1/layer_with_weights-2/bias",
            nsp: f"{beside}2/layer_with_weights-0",
        }
        root = "model/layer_with_weights-0/layer_with_weights-0"
    layer = names.pop("layer")
    for i in range(cfg.num_layers):
        for google, theirs in LAYER.items():
            if variant in ("2020", "headless") and google == "attention/output/dense":
                theirs = "_attention_output_dense"
            names[f"bert/encoder/layer_{i}/{google}"] = (
                f"{layer.format(i + first)}/{theirs}"
            )
    inside = ("layer_with_weights", "_")
    return {
        google: (f"{root}/{path}" if path.startswith(inside) else path).lstrip("/")
        for google, path in names.items()
    }


def garden_array(cfg, name, x):
    """Google's tensor in the model garden's layout: heads have an axis of their own."""
    n, h = cfg.num_heads, cfg.hidden_size // cfg.num_heads
    if "/attention/self/" in name:
        return np.stack(np.split(x, n, axis=-1), axis=-2)
    if name.endswith("attention/output/dense/kernel"):
        return np.stack(np.split(x, n, axis=0), axis=0).reshape(n, h, -1)
    return x.T if name.endswith("output_weights") else x


def plant(tf, top, path, array):
    """Sets a variable at the end of a chain of attributes, made as needed."""
    *parents, leaf = path.split("/")
    for name in parents:
        if name not in vars(top):
            setattr(top, name, tf.Module())
        top = vars(top)[name]
    variable = tf.Variable(array)
    setattr(top, leaf.replace("output_bias.bias", "output_bias/bias"), variable)
    return variable


def garden_model(tf, cfg, variant, weights):
    """(objects that spell a checkpoint of the model garden, Google's name -> variable)"""
    paths, top, made = garden_paths(cfg, variant), tf.Module(), {}
    leaves = {"output_weights": "kernel", "output_bias": "bias"}
    for name, x in weights.items():
        path = paths.get(name)
        if path is None:
            owner, _, leaf = name.rpartition("/")
            if owner not in paths:
                continue
            path = f"{paths[owner]}/{leaves.get(leaf, leaf)}"
        made[name] = plant(tf, top, path, garden_array(cfg, name, x))
    return top, made


@pytest.mark.parametrize("variant", ["functional", "layer", "headless", "2020"])
def test_checkpoints_of_the_model_garden(
    tf, tiny, make_directory, variant, record_route
):
    weights = google_weights(tiny)
    folder = make_directory(None)
    top, made = garden_model(tf, tiny, variant, weights)
    untrained = {}
    if variant == "functional":
        pooler = f"encoder/layer_with_weights-{tiny.num_layers + 4}"
        for leaf, shape in (("kernel", (32, 32)), ("bias", (32,))):
            plant(tf, top, f"{pooler}/{leaf}", np.ones(shape, np.float32))
            untrained[f"{pooler}/{leaf}/.ATTRIBUTES/VARIABLE_VALUE"] = shape
    step = tf.Variable(77, dtype=tf.int64)
    objects = {n: v for n, v in vars(top).items() if isinstance(v, tf.Module)}
    objects = {n: v for n, v in objects.items() if not n.startswith("_")}
    saved = tf.train.Checkpoint(**objects, global_step=step)
    saved.save(str(folder / "bert_model.ckpt"))
    source = read_google(folder)
    assert (source.step, source.head) == (77, "pretraining")
    assert set(source.tensors) - set(made) == set(untrained)
    read = from_tensors(source.model, source.tensors, "pretraining", "google")
    assert set(read.used) == set(made)
    for name in made:
        np.testing.assert_array_equal(source.tensors[name], weights[name], err_msg=name)
    gone = {
        "functional": ("cls/seq_relationship",),
        "headless": ("cls/seq_relationship", "cls/predictions"),
    }.get(variant, ())
    assert set(read.missing) == {name for name in weights if name.startswith(gone)}
    left_out = sum("is the pooler in use" in note for note in source.notes)
    assert left_out == len(untrained)
    record_route(f"TensorFlow 2 (model garden, {variant}) → ours", "0, every bit")


def test_adams_slots_in_the_model_garden(tf, tiny, make_directory):
    weights = google_weights(tiny)
    folder = make_directory(None)
    top, made = garden_model(tf, tiny, "2020", weights)
    optimizer = tf.compat.v1.train.AdamOptimizer(0.0)
    draw = np.random.default_rng(4).normal
    optimizer.apply_gradients(
        (tf.constant(draw(size=x.shape), x.dtype), x) for x in made.values()
    )
    saved = tf.train.Checkpoint(model=top.model, optimizer=optimizer)
    saved.save(str(folder / "bert_model.ckpt"))
    source = read_google(folder)
    assert set(source.moments.mu) == set(weights)
    for slot, side in zip(("m", "v"), source.moments, strict=True):
        for name, variable in made.items():
            expected = optimizer.get_slot(variable, slot).numpy()
            theirs = garden_array(tiny, name, side[name])
            np.testing.assert_array_equal(theirs, expected, err_msg=name)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["electra/layer/kernel"], "no encoder of a known layout.*electra/layer"),
        (["encoder/layer_with_weights-4/kernel"], "unknown layout"),
        (["other/layer_with_weights-4/_attention_layer/_query_dense/kernel"], "under"),
    ],
    ids=["none", "projection", "two"],
)
def test_unknown_layouts_of_the_model_garden_are_refused(
    tf, tiny, make_directory, paths, message
):
    folder = make_directory(None)
    top = tf.Module()
    if "electra" not in paths[0]:
        top, _ = garden_model(tf, tiny, "functional", google_weights(tiny))
    for path in paths:
        plant(tf, top, path, np.ones((32, 4, 8), np.float32))
    objects = {n: v for n, v in vars(top).items() if isinstance(v, tf.Module)}
    tf.train.Checkpoint(**objects).save(str(folder / "bert_model.ckpt"))
    with pytest.raises(ValueError, match=message):
        read_google(folder)


def test_head_counts_show_in_the_model_garden(tf, tiny, make_directory):
    folder = make_directory(None, num_attention_heads=8)
    top, _ = garden_model(tf, tiny, "headless", google_weights(tiny))
    tf.train.Checkpoint(model=top.model).save(str(folder / "bert_model.ckpt"))
    with pytest.raises(ValueError, match=r"4 attention heads.*8"):
        read_google(folder)


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
