"""Our parameters as a checkpoint that google-research/bert starts from.

The files are those of TensorFlow's "V2" checkpoint format under TF1 names, which
`init_checkpoint` of Google's run_*.py scripts, tf.train.load_checkpoint and `read_google`
read. There is no `.meta` file: it holds a graph, and these variables belong to none.
"""

import pathlib

import numpy as np

from bert_jax.data.tokenizers.huggingface_tokenizer import (
    CONFIG_FILE as TOKENIZER_CONFIG,
)
from bert_jax.exchange.families.google_bert import (
    config_from_google,
    config_to_google,
    google_rows,
)
from bert_jax.exchange.google_files import (
    CHECKPOINT,
    CONFIG_FILE,
    LABELS_FILE,
    STEP,
    tensorflow,
)
from bert_jax.exchange.google_variables import load_variables
from bert_jax.exchange.json_files import load_json, save_json
from bert_jax.exchange.portable import PortableModel
from bert_jax.exchange.tensors import Tensors, check_bits, to_tensors


def google_variables(model: PortableModel) -> Tensors:
    """Everything that a checkpoint of Google's holds, name -> array.

    Raises:
        ValueError: a tree does not fit `model.cfg`.
    """
    rows = google_rows(model.cfg, model.head)
    variables = to_tensors(model.cfg, model.params, rows)
    for slot, tree in zip(("adam_m", "adam_v"), model.moments or (), strict=False):
        slots = to_tensors(model.cfg, tree, rows)
        variables |= {f"{name}/{slot}": array for name, array in slots.items()}
    return variables | {STEP: np.asarray(model.step, np.int64)}


def write_google(model: PortableModel, directory: pathlib.Path) -> tuple[str, ...]:
    """Writes checkpoint, bert_config.json and vocabulary; see `google_variables`.

    Google keeps the names of labels in its code, so they go to a file of ours.

    Args:
        model: what is written.
        directory: created if need be.

    Returns:
        One sentence each on what Google's tools will not take from it.

    Raises:
        ValueError: TensorFlow is missing, the parts do not fit each other, or
            Google's code cannot compute this model.
    """
    tokenizer = model.tokenizer
    config = config_to_google(model.cfg, model.dropout)
    variables = google_variables(model)
    notes = []
    accents = tokenizer.normalization.get("strip_accents")
    if tokenizer.kind != "wordpiece":
        notes.append(
            f"Google's tools read WordPiece only; this {tokenizer.kind} vocabulary is "
            f"written as {tokenizer.model_file}, and there is no vocab.txt."
        )
    elif accents != tokenizer.lowercase:
        notes.append(
            "Google's tools strip accents when they fold case, and only then; this "
            f"vocabulary has lowercase={tokenizer.lowercase} and strip_accents={accents}."
        )
    directory.mkdir(parents=True, exist_ok=True)
    _save_variables(directory / CHECKPOINT, variables)
    state = "".join(
        f'{key}: "{CHECKPOINT}"\n'
        for key in ("model_checkpoint_path", "all_model_checkpoint_paths")
    )
    (directory / "checkpoint").write_text(state, encoding="utf-8")
    save_json(directory / CONFIG_FILE, config)
    tokenizer.save(directory)
    # No file of Google's has the casing; transformers looks for it here.
    casing = {"do_lower_case": tokenizer.lowercase, "strip_accents": accents}
    save_json(directory / TOKENIZER_CONFIG, casing)
    if model.labels is not None:
        said = {"labels": list(model.labels), "problem_type": model.problem_type}
        save_json(directory / LABELS_FILE, said)
    return tuple(notes)


def check_google(directory: pathlib.Path, model: PortableModel) -> None:
    """Whether config and variables on disk are those of the model, bit by bit.

    Raises:
        ValueError: they are not.
    """
    path = directory / CONFIG_FILE
    found = config_from_google(path, load_json(path), [])
    if found != (model.cfg, model.dropout):
        raise ValueError(
            f"{path} says {found}; expected {(model.cfg, model.dropout)}. Please report "
            "this."
        )
    stored = load_variables(directory / CHECKPOINT, model.cfg, [])
    check_bits(directory / CHECKPOINT, google_variables(model), stored)


def _save_variables(prefix: pathlib.Path, variables: Tensors) -> None:
    tf = tensorflow()
    v1 = tf.compat.v1
    # A graph of its own, so that nothing of the caller's TensorFlow is touched, and
    # placeholders, because a graph with the weights in it may not exceed 2 GiB.
    with tf.Graph().as_default():
        feeds = [v1.placeholder(x.dtype, x.shape) for x in variables.values()]
        save = tf.raw_ops.SaveV2(
            prefix=str(prefix),
            tensor_names=list(variables),
            shape_and_slices=[""] * len(variables),
            tensors=feeds,
        )
        # Without this, TensorFlow would reserve the memory of every GPU.
        with v1.Session(config=v1.ConfigProto(device_count={"GPU": 0})) as session:
            session.run(save, dict(zip(feeds, variables.values(), strict=True)))
