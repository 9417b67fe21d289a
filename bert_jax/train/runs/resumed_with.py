"""Settings with which a run goes on: `--resume-with optimizer.learning-rate=5e-05`."""

import dataclasses
import difflib
import itertools
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any, TypeVar

from bert_jax import config_json
from bert_jax.config import FinetuneConfig, OptimizerConfig, PretrainConfig
from bert_jax.runtime.agreement import agree, on_first_host
from bert_jax.train.runs.checkpoint_mirror import mirror_of
from bert_jax.train.runs.checkpoint_recovery import step_to_go_on_from
from bert_jax.train.runs.history import Change, load_history
from bert_jax.train.runs.run import is_new_run

Config = TypeVar("Config", PretrainConfig, FinetuneConfig)

# With another one of these, the optimizer's state would have other tensors.
_OF_THE_STATE = ("name", "layer_decay", "ema_decay", "freeze", "freeze_layers")
CHANGEABLE = tuple(
    f"optimizer.{field.name}"
    for field in dataclasses.fields(OptimizerConfig)
    if field.name not in _OF_THE_STATE
)
"""Names of the settings that a run may go on with. Of a later phase of pretraining, these
are `next_phases.N.learning_rate` and `next_phases.N.warmup_steps` too, with N from 0."""
_OF_A_PHASE = re.compile(r"next_phases\.\d+\.(learning_rate|warmup_steps)")
_OF_A_SCHEDULE = ("optimizer.learning_rate", "optimizer.warmup_steps")
_PYTHON = {"True": True, "False": False, "None": None}


def resumed_with(
    cfg: Config, run: pathlib.Path, asked: Sequence[str]
) -> tuple[Config, Change | None]:
    """The settings that a run goes on with: those of its command, as changed on its way.

    A change of an earlier session holds without being asked for again.

    Args:
        cfg: settings of the run's command, the same in every session.
        run: run directory.
        asked: changes such as `optimizer.learning-rate=5e-05`.

    Returns:
        The settings, and what `asked` changes in the history of the run; `None` if that is
        nothing.

    Raises, on all hosts of a job:
        ValueError: a setting cannot be changed so, its value is refused, or there is no run
            to go on with.
    """
    agree("--resume-with", {"settings": list(asked)})
    history, is_new = load_history(run), is_new_run(run)
    wanted = dict(map(_parsed, asked))
    if wanted and is_new:
        raise ValueError(
            f"--resume-with {' '.join(asked)}: {run} holds no run yet. A new run takes "
            "these settings from its flags."
        )
    step = on_first_host(
        f"the newest whole checkpoint of {run}",
        lambda: step_to_go_on_from(run, mirror_of(run, cfg.loop)) if wanted else 0,
    )
    before = with_settings(cfg, history.settings)
    after = with_settings(before, wanted)
    if isinstance(after, PretrainConfig):
        # A launcher gives again what was changed before, in whatever phase the run is.
        known = history.settings.items()
        _check_used(after, step, [x for x in wanted if (x, wanted[x]) not in known])
    for change in history.events:
        if isinstance(change, Change):
            print(f"settings {change}", flush=True)
    if after == before:
        return before, None
    change = Change(from_step=step, settings=wanted)
    print(f"settings {change}", flush=True)
    return after, change


def _check_used(cfg: PretrainConfig, step: int, names: Sequence[str]) -> None:
    """Raises ValueError if one of these settings is of a schedule that has ended."""
    ends = tuple(itertools.accumulate(cfg.scheduled_steps))
    for name in names:
        if not (name in _OF_A_SCHEDULE or _OF_A_PHASE.fullmatch(name)):
            continue
        number = 0 if name in _OF_A_SCHEDULE else 1 + int(name.split(".")[1])
        if step < ends[number]:
            continue
        raise ValueError(
            f"--resume-with {name}: step {step:,} lies behind the phase that this is for, "
            "so it would be ignored. A later phase has a learning rate of its own: "
            "next-phases.N.learning-rate, with N = 0 for the second phase."
            if step < cfg.all_steps
            else f"--resume-with {name}: the run has made all its {step:,} steps, so this "
            "would be ignored. Leave it out."
        )


def _parsed(asked: str) -> tuple[str, Any]:
    flag, equals, text = asked.partition("=")
    name = flag.removeprefix("--").replace("-", "_")
    if name.startswith("loop."):
        raise ValueError(
            f"--resume-with {asked}: settings of the loop may change at every start; give "
            f"--{flag} itself."
        )
    if not equals or not (name in CHANGEABLE or _OF_A_PHASE.fullmatch(name)):
        close = difflib.get_close_matches(name, CHANGEABLE, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ValueError(
            f"--resume-with {asked}: expected NAME=VALUE with one of the names that a run "
            f"may change on its way: {', '.join(CHANGEABLE)}.{hint}"
        )
    if text in _PYTHON:
        return name, _PYTHON[text]
    try:
        return name, json.loads(text)
    except ValueError:
        return name, text


def with_settings(cfg: Config, settings: dict[str, Any]) -> Config:
    """The config with other values of settings, by their names; they are checked."""
    plain = config_json.to_values(cfg)
    for name, value in settings.items():
        *path, last = name.split(".")
        place: Any = plain
        try:
            for part in path:
                place = place[int(part) if part.isdigit() else part]
        except (IndexError, KeyError):
            raise ValueError(
                f"--resume-with {name}: the run has no such phase."
            ) from None
        place[last] = value
    return config_json.from_values(type(cfg), plain)
