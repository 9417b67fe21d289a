"""Settings drawn at random, among them many that cannot work, and what becomes of them."""

import contextlib
import io
import json
import math
import pathlib
import re
from typing import Any
from unittest import mock

import numpy as np
from bare_runs import MODEL, bare_run
from prepared_corpus import make_corpus, prepared

from bert_jax.commands.data import Prepare
from bert_jax.commands.raw_flags import check_numbers
from bert_jax.config import (
    DataConfig,
    FinetuneConfig,
    LoopConfig,
    PrepareOptions,
    PretrainConfig,
    TaskConfig,
)
from bert_jax.config_json import from_json, to_json
from bert_jax.data.prepared.prepare import prepare
from bert_jax.train import finetune as finetune_module
from bert_jax.train import pretrain as pretrain_module

COMMANDS = ("pretrain", "finetune", "prepare")
EDGES: tuple[Any, ...] = (
    *(0, 1, -1, 2, 4, 8, 16, 64, 1_025, 2**31 - 1, 2**31, 2**63, 10**30),
    *(
        True,
        False,
        0.0,
        0.1,
        0.5,
        1.0,
        1.5,
        -0.5,
        1e-40,
        1e-50,
        1e30,
        1e300,
        math.nan,
        math.inf,
        -math.inf,
    ),
    *("", "x", "none", "1", None, [], [0], [2**63], ["x"], [1.5, 0.5], {}),
)
# They lead elsewhere, or to what another test tries.
_LEFT_OUT = {
    *("checkpoint", "dataset", "plan_dir", "train", "dev", "kind", "peak_tflops"),
    *("wandb_project", "profiler_port", "stop_file", "num_workers"),
}


class Inputs:
    """A dataset, a run and files that ordinary settings work with."""

    def __init__(self, folder: pathlib.Path) -> None:
        (folder / "corpus").mkdir(parents=True)
        self.folder = folder
        self.source, _, self.tokenizer = corpus = make_corpus(folder / "corpus")
        prepared(corpus, folder / "dataset")
        (folder / "begun").mkdir()
        lines = [f"{'ab'[n % 2]}\triver stone {'window' * (n % 2)}" for n in range(24)]
        (folder / "task.tsv").write_text("\n".join(["label\ttext", *lines, ""]))
        self.base: dict[str, Any] = {
            "pretrain": PretrainConfig(
                model=MODEL,
                data=DataConfig(dataset=folder / "dataset", sequence_length=32),
                batch_size=8,
                num_steps=2,
                loop=LoopConfig(eval_every_steps=0),
            ),
            "finetune": FinetuneConfig(
                checkpoint=bare_run(folder / "begun"),
                from_scratch=True,
                task=TaskConfig(train=folder / "task.tsv", dev=folder / "task.tsv"),
                num_epochs=1,
                batch_size=8,
            ),
            "prepare": PrepareOptions(),
        }

    def drawn(self, number: int) -> tuple[str, dict[str, Any], str]:
        """Command number `number`: its name, the fields changed, and all fields as JSON."""
        rng = np.random.default_rng((5, number))
        command = COMMANDS[number % len(COMMANDS)]
        fields = json.loads(to_json(self.base[command]))
        places = list(_leaves(fields))
        changed = {}
        for place in rng.choice(len(places), rng.integers(1, 3), replace=False):
            *parents, name = places[place]
            inner = fields
            for parent in parents:
                inner = inner[parent]
            fitting = [x for x in EDGES if type(x) is type(inner[name])]
            # Most values have the right type, so that more than types is tried.
            of = fitting if fitting and rng.random() < 0.9 else EDGES
            changed[name] = inner[name] = of[rng.integers(len(of))]
        return command, changed, json.dumps(fields)

    def outcome(self, number: int, output: pathlib.Path, *, steps: bool = False) -> str:
        """What becomes of command number `number`.

        Args:
            number: of the command.
            output: folder to write; it must not exist.
            steps: whether two steps are made; else the command ends where they begin.

        Returns:
            "works", or the sentence that refuses it.
        """
        command, _, text = self.drawn(number)
        try:
            cfg = from_json(type(self.base[command]), text)
            self._run(command, cfg, output, steps)
        except ValueError as error:
            return str(error)
        return "works"

    def _run(self, command: str, cfg: Any, output: pathlib.Path, steps: bool) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            if command == "prepare":
                prepare(self.source, self.tokenizer, output, cfg, num_workers=1)
                return
            module = {"pretrain": pretrain_module, "finetune": finetune_module}[command]
            if not steps:
                for name in ("run_loop", "prove_for_lengths"):
                    effect = _ReachedError if name == "run_loop" else None
                    patch = mock.patch.object(module, name, side_effect=effect)
                    stack.enter_context(patch)
                stack.enter_context(contextlib.suppress(_ReachedError))
            getattr(module, command)(cfg, output)


class _ReachedError(Exception):
    """The loop would begin now."""


def problem_of(changed: dict[str, Any], said: str) -> str | None:
    """Why a refusal is none that helps; `None`: it is short and names a changed field."""
    spellings = {name: name.replace("_", "[-_ ]") for name in changed}
    named = [x for x in spellings.values() if re.search(rf"\b{x}\b", said)]
    if not named:
        return "it names no field that was changed"
    if len(said) > 900 or "Traceback" in said:
        return "it is no sentence"
    return None


def _leaves(fields: dict[str, Any], *above: str) -> Any:
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _leaves(value, *above, name)
        elif name not in _LEFT_OUT:
            yield (*above, name)


def refuse_workers(number: Any) -> None:
    """What `prepare` does with a number of processes before it works."""
    check_numbers(
        Prepare(
            source=("files:x",),
            tokenizer=pathlib.Path("x"),
            output="x",
            num_workers=number,
        )
    )
