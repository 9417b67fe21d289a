"""TensorFlow 2 checkpoints of Google's model garden: every layout, every bit."""

import functools

import numpy as np
import pytest
from google_models import google_weights, publish

from bert_jax.exchange.families.google_bert import google_rows
from bert_jax.exchange.read_google import read_google
from bert_jax.exchange.tensors import from_tensors


@pytest.fixture
def make_directory(tf, tiny, tmp_path):
    """make_directory(variables, config={...}) -> a directory as Google publishes it."""
    return functools.partial(publish, tf, tiny, tmp_path)


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
    read = from_tensors(
        source.model, source.tensors, google_rows(source.model, "pretraining")
    )
    assert set(read.used) == set(made)
    for name in made:
        np.testing.assert_array_equal(source.tensors[name], weights[name], err_msg=name)
    gone = {
        "functional": ("cls/seq_relationship",),
        "headless": ("cls/seq_relationship", "cls/predictions"),
    }.get(variant, ())
    lacking = {name for name in weights if name.startswith(gone)}
    assert set(weights) - set(read.used) == lacking
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
    assert set(source.slots.mu) == set(weights)
    for slot, side in zip(("m", "v"), source.slots, strict=True):
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
