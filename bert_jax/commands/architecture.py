"""Takes the architecture of a pretraining run from its `--checkpoint`."""

import dataclasses

from bert_jax.config import ModelConfig, PretrainConfig
from bert_jax.train.run import load_run


def take_architecture(cfg: PretrainConfig, default: ModelConfig) -> PretrainConfig:
    """Returns the settings with the checkpoint's architecture, and prints what changed.

    Args:
        cfg: settings from the command line; `cfg.checkpoint` must be set.
        default: architecture of the config file, before the flags of the command line.

    Raises:
        FileNotFoundError, ValueError: the checkpoint is no run of `pretrain`.
        ValueError: a flag asks for another architecture than the checkpoint has, or the
            other settings do not fit that architecture.
    """
    assert cfg.checkpoint is not None
    model = load_run(cfg.checkpoint, kind="pretrain", for_weights=True).model
    here, there = dataclasses.asdict(cfg.model), dataclasses.asdict(model)
    asked = {name for name, x in dataclasses.asdict(default).items() if here[name] != x}
    for name in here:
        if name in asked and here[name] != there[name]:
            flag = f"--model.{name.replace('_', '-')}"
            raise ValueError(
                f"{flag} {here[name]} would be ignored: the checkpoint {cfg.checkpoint} "
                f"has {name}={there[name]!r}, and a run takes over the architecture of "
                f"the checkpoint that it starts from. Leave {flag} out."
            )
    taken = [
        f"{name}={there[name]!r} (the config says {here[name]!r})"
        for name in here
        if here[name] != there[name]
    ]
    if taken:
        print(f"architecture of {cfg.checkpoint}: {', '.join(taken)}", flush=True)
    return dataclasses.replace(cfg, model=model)
