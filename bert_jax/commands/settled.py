"""The settings of a run, from a config file, a checkpoint, a dataset and flags together."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from bert_jax.commands.config_files import load_config
from bert_jax.commands.foreign_checkpoint import import_checkpoint
from bert_jax.commands.raw_flags import is_given
from bert_jax.config import EXTENDABLE, ModelConfig, PretrainConfig
from bert_jax.data.prepared.dataset import open_dataset
from bert_jax.train.runs.run import load_run


def settled(command: Any) -> Any:
    """The settings of a command with all that its checkpoint and its dataset decide.

    A process of a job calls this when it has joined: if it fails, the others must know.

    Args:
        command: `Pretrain`, `Finetune` or `Compile`, as it was parsed.

    Raises:
        ValueError, OSError: checkpoint or dataset cannot be read, a flag would be
            ignored, or the settings do not fit together.
    """
    settings = command.settings
    if hasattr(command, "cluster"):
        settings = import_checkpoint(settings, command.output, command.cluster)
    if isinstance(settings, PretrainConfig):
        from_file = load_config(command.config_file, PretrainConfig)
        settings = settle(settings, from_file, command.args)
    return settings


def settle(
    cfg: PretrainConfig, from_file: PretrainConfig, args: Sequence[str]
) -> PretrainConfig:
    """Returns the settings of a run, and prints what was taken from elsewhere.

    The architecture comes from the checkpoint, if there is one; else the size of the
    vocabulary comes from the dataset.

    Args:
        cfg: settings from the command line.
        from_file: settings of the config file, before the flags.
        args: flags as they were given.

    Raises:
        FileNotFoundError, ValueError: checkpoint or dataset are none, a flag would be
            ignored, or the settings do not fit together.
    """
    if cfg.checkpoint is not None:
        cfg = _take_architecture(cfg, from_file.model, args)
    elif cfg.data.datasets and not is_given("--model.vocab-size", args):
        cfg = _take_vocabulary(cfg)
    cfg.check()
    return cfg


def _take_vocabulary(cfg: PretrainConfig) -> PretrainConfig:
    dataset = cfg.data.datasets[0]
    size = open_dataset(dataset).tokenizer.vocab_size
    if size == cfg.model.vocab_size:
        return cfg
    print(
        f"vocabulary: {size:,} pieces, from the tokenizer of {dataset} (the "
        f"config says {cfg.model.vocab_size:,})",
        flush=True,
    )
    model = dataclasses.replace(cfg.model, vocab_size=size)
    return dataclasses.replace(cfg, model=model)


def _take_architecture(
    cfg: PretrainConfig, default: ModelConfig, args: Sequence[str]
) -> PretrainConfig:
    assert cfg.checkpoint is not None
    model = load_run(cfg.checkpoint, kind="pretrain").model
    here, there = dataclasses.asdict(cfg.model), dataclasses.asdict(model)
    asked = {name for name, x in dataclasses.asdict(default).items() if here[name] != x}
    extended = {}
    for name in here:
        flag = f"--model.{name.replace('_', '-')}"
        if name in EXTENDABLE and is_given(flag, args):
            extended[name] = here[name]
        elif name in asked and here[name] != there[name]:
            raise ValueError(
                f"{flag} {here[name]} would be ignored: the checkpoint {cfg.checkpoint} "
                f"has {name}={there[name]!r}, and a run takes over the architecture of "
                f"the checkpoint that it starts from. Leave {flag} out."
            )
    taken = [
        f"{name}={there[name]!r} (the config says {here[name]!r})"
        for name in here
        if here[name] != there[name] and name not in extended
    ]
    if taken:
        print(f"architecture of {cfg.checkpoint}: {', '.join(taken)}", flush=True)
    changed = [
        f"{name}={x} (the checkpoint has {there[name]})"
        for name, x in extended.items()
        if x != there[name]
    ]
    if changed:
        print(f"extended here: {', '.join(changed)}", flush=True)
    model = dataclasses.replace(model, **extended)
    return dataclasses.replace(cfg, model=model)
