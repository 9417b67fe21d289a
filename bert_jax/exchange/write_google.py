"""Our parameters as a checkpoint that google-research/bert starts from.

The files are those of TensorFlow's "V2" checkpoint format under TF1 names, which
`init_checkpoint` of Google's run_*.py scripts, tf.train.load_checkpoint and `read_google`
read. There is no `.meta` file: it holds a graph, and these variables belong to none.
"""

import pathlib
from collections.abc import Sequence

import numpy as np

from bert_jax.config import DropoutConfig, ModelConfig
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.exchange.families.google_bert import config_to_google, google_rows
from bert_jax.exchange.google_files import (
    CHECKPOINT,
    CONFIG_FILE,
    LABELS_FILE,
    STEP,
    TOKENIZER_CONFIG_FILE,
    tensorflow,
)
from bert_jax.exchange.json_files import save_json
from bert_jax.exchange.signature import check_parts
from bert_jax.exchange.tensors import Head, Params, Tensors, to_tensors


def google_variables(
    cfg: ModelConfig,
    params: Params,
    head: Head,
    *,
    moments: tuple[Params, Params] | None = None,
    step: int = 0,
) -> Tensors:
    """Everything that a checkpoint of Google's holds, name -> array.

    Args:
        cfg: of `params`.
        params: of `head` and nothing else, float32.
        head: what is on top of the encoder.
        moments: Adam's first and second, each a tree like `params`.
        step: updates behind it, at Google the variable `global_step`.

    Raises:
        ValueError: a tree does not fit `cfg`.
    """
    rows = google_rows(cfg, head)
    variables = to_tensors(cfg, params, rows)
    for slot, tree in zip(("adam_m", "adam_v"), moments or (), strict=False):
        slots = to_tensors(cfg, tree, rows)
        variables |= {f"{name}/{slot}": array for name, array in slots.items()}
    return variables | {STEP: np.asarray(step, np.int64)}


def write_google(
    cfg: ModelConfig,
    params: Params,
    head: Head,
    tokenizer: Tokenizer,
    directory: pathlib.Path,
    *,
    dropout: DropoutConfig = DropoutConfig(),
    labels: Sequence[str] | None = None,
    moments: tuple[Params, Params] | None = None,
    step: int = 0,
) -> tuple[str, ...]:
    """Writes checkpoint, bert_config.json and vocabulary; see `google_variables`.

    Args:
        cfg: of `params`.
        params: of `head` and nothing else, float32.
        head: what is on top of the encoder.
        tokenizer: what the model was trained with.
        directory: created if need be.
        dropout: the rates that bert_config.json names.
        labels: of a classifier or tagger, in the order of its logits. Google keeps
            them in its code, so they go to a file of ours.
        moments: Adam's first and second, each a tree like `params`.
        step: updates behind it.

    Returns:
        One sentence each on what Google's tools will not take from it.

    Raises:
        ValueError: TensorFlow is missing, the parts do not fit each other, or
            Google's code cannot compute this model.
    """
    check_parts(cfg, params, head, tokenizer, labels)
    config = config_to_google(cfg, dropout)
    variables = google_variables(cfg, params, head, moments=moments, step=step)
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
    directory = pathlib.Path(directory)
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
    save_json(directory / TOKENIZER_CONFIG_FILE, casing)
    if labels is not None:
        save_json(directory / LABELS_FILE, {"labels": list(labels)})
    return tuple(notes)


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
