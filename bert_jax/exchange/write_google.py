"""Our parameters as a checkpoint that google-research/bert starts from.

The files are those of TensorFlow's "V2" checkpoint format under TF1 names, which
`init_checkpoint` of Google's run_*.py scripts, tf.train.load_checkpoint and `read_google`
read. There is no `.meta` file: it holds a graph, and these variables belong to none.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from bert_jax.config import DropoutConfig, ModelConfig
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.data.whole_directory import whole_directory
from bert_jax.exchange.google import (
    CHECKPOINT,
    CONFIG_FILE,
    LABELS_FILE,
    TOKENIZER_CONFIG_FILE,
    config_to_google,
    tensorflow,
)
from bert_jax.exchange.google_variables import STEP
from bert_jax.exchange.names import Head, Params, Tensors, to_tensors
from bert_jax.exchange.portable import check_pieces


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
    variables = to_tensors(cfg, params, head, "google")
    for slot, tree in zip(("adam_m", "adam_v"), moments or (), strict=False):
        slots = to_tensors(cfg, tree, head, "google")
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
    overwrite: bool = False,
) -> tuple[str, ...]:
    """Writes checkpoint, bert_config.json and vocabulary; see `google_variables`.

    Args:
        cfg: of `params`.
        params: of `head` and nothing else, float32.
        head: what is on top of the encoder.
        tokenizer: what the model was trained with.
        directory: absent or empty unless `overwrite` is set; it appears at once,
            complete, or not at all.
        dropout: the rates that bert_config.json names.
        labels: of a classifier or tagger, in the order of its logits. Google keeps
            them in its code, so they go to a file of ours.
        moments: Adam's first and second, each a tree like `params`.
        step: updates behind it.
        overwrite: whether all that `directory` holds may be replaced.

    Returns:
        One sentence each on what Google's tools will not take from it.

    Raises:
        ValueError: TensorFlow is missing, the directory is taken, the parts do not fit
            each other, or Google's code cannot compute this model.
    """
    check_pieces(cfg, tokenizer)
    config = config_to_google(cfg, dropout)
    variables = google_variables(cfg, params, head, moments=moments, step=step)
    _check_labels(variables, head, labels)
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
    with whole_directory(directory, overwrite) as partial:
        _save_variables(partial / CHECKPOINT, variables)
        state = "".join(
            f'{key}: "{CHECKPOINT}"\n'
            for key in ("model_checkpoint_path", "all_model_checkpoint_paths")
        )
        (partial / "checkpoint").write_text(state, encoding="utf-8")
        _save_json(partial / CONFIG_FILE, config)
        tokenizer.save(partial)
        # No file of Google's has the casing; transformers looks for it here.
        casing = {"do_lower_case": tokenizer.lowercase, "strip_accents": accents}
        _save_json(partial / TOKENIZER_CONFIG_FILE, casing)
        if labels is not None:
            _save_json(partial / LABELS_FILE, {"labels": list(labels)})
    return tuple(notes)


def verify_google(directory: pathlib.Path, variables: Mapping[str, np.ndarray]) -> None:
    """Loads a checkpoint back and compares it bit for bit.

    Args:
        directory: what `write_google` wrote.
        variables: what it should hold, from `google_variables`.

    Raises:
        ValueError: a variable is missing, left over, or another than expected.
    """
    tf = tensorflow()
    prefix = pathlib.Path(directory) / CHECKPOINT
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        names = set(reader.get_variable_to_shape_map())
        if odd := sorted(names ^ variables.keys()):
            raise ValueError(
                f"{prefix} and the model differ in {len(odd)} variables, first "
                f"{odd[:3]}; do not use it, and report this."
            )
        for name, expected in variables.items():
            found = np.asarray(reader.get_tensor(name))
            if (found.dtype, found.shape, found.tobytes()) != (
                expected.dtype,
                expected.shape,
                expected.tobytes(),
            ):
                raise ValueError(
                    f"{prefix}: {name!r} is not what was written; do not use it, and "
                    "report this."
                )
    except (tf.errors.OpError, IndexError) as error:
        raise ValueError(f"{prefix} does not load: {error}.") from error


def _check_labels(variables: Tensors, head: Head, labels: Sequence[str] | None) -> None:
    if labels is None:
        return
    if head not in ("classifier", "tokens"):
        raise ValueError(
            f"labels={list(labels)} would be ignored: the logits of a {head} model "
            "have no names. Leave them out."
        )
    size = len(variables["output_bias"])
    if len(labels) != size or len(set(labels)) != size:
        raise ValueError(
            f"labels={list(labels)} do not fit the {size} logits of this {head}; give "
            "every class one name of its own."
        )


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


def _save_json(path: pathlib.Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
