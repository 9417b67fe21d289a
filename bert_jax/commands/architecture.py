"""What `--checkpoint` means for the flags of the architecture."""

import dataclasses

from bert_jax.config import ModelConfig, PretrainConfig
from bert_jax.train.run import load_run


def take_architecture(cfg: PretrainConfig, default: ModelConfig) -> PretrainConfig:
    """The settings with the checkpoint's architecture; says what that changes.

    Args:
        cfg: as the command line has it, with a checkpoint.
        default: the architecture of the config file, before the command line's flags.

    Raises:
        FileNotFoundError, ValueError: the checkpoint is no run of `pretrain`.
        ValueError: a flag asks for another architecture than the checkpoint has, or the
            rest of the settings does not fit it.
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
