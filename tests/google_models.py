"""Checkpoints as Google publishes them: their names, shapes, config and files."""

import json

import numpy as np
import reference

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "!", "?"]
PIECES += [prefix + c for c in "abcdefghijklmnopqrstuvwxyz" for prefix in ("", "##")]


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


def publish(tf, cfg, parent, variables, name="uncased_L-3", pieces=PIECES, **config):
    """A directory below `parent` as Google publishes it."""
    directory = parent / name
    directory.mkdir()
    text = json.dumps(google_config(cfg) | config)
    (directory / "bert_config.json").write_text(text)
    (directory / "vocab.txt").write_text("".join(f"{p}\n" for p in pieces))
    if variables is not None:
        save_v1(tf, directory / "bert_model.ckpt", variables)
    return directory
