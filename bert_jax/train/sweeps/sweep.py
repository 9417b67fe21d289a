"""A sweep: fine-tuning with every setting of a grid and several seeds each."""

import dataclasses
import functools
import pathlib
import shutil
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax

from bert_jax.config import FinetuneConfig, SweepConfig
from bert_jax.data.atomic_file import remove_leftovers
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.runtime.agreement import on_first_host
from bert_jax.train.finetune import finetune
from bert_jax.train.initial import with_pooling
from bert_jax.train.monitoring.metrics import WAY_OUT, NotFiniteError, duration
from bert_jax.train.runs.checkpoint import BEST, NEWEST
from bert_jax.train.runs.results_file import (
    WEIGHTS_REMOVED,
    finished_results,
    save_results,
)
from bert_jax.train.runs.run import load_run_tokenizer
from bert_jax.train.sweeps.at_once import (
    Part,
    finetune_at_once,
    number_that_fits,
    why_not,
)
from bert_jax.train.sweeps.grid import (
    Member,
    load_member_data,
    members_of,
    quietly_loaded,
)
from bert_jax.train.sweeps.summary import (
    Outcome,
    conclusion,
    score_out_of_fold,
    summary_of,
    table,
)
from bert_jax.train.task_data import TaskData
from bert_jax.train.tasks import task_of


def sweep(
    cfg: SweepConfig, base: FinetuneConfig, output: pathlib.Path
) -> dict[str, Any]:
    """Makes all runs of a sweep that `output` does not hold yet, and returns its results.

    A finished run is never trained again. Runs that were stopped continue, or start anew
    if they are trained at once.

    Args:
        cfg: the grid.
        base: settings of every run, apart from what the grid sets.
        output: directory of the sweep.

    Raises:
        ValueError: the settings do not fit together, or `output` holds something else.
        InterruptedRunError: the process got a signal.
    """
    base = with_pooling(base)
    if base.checkpoint is None:
        raise ValueError(
            "No checkpoint given; pass it first, as in `bert-jax sweep RUN --train ...`."
        )
    members = members_of(cfg, base)
    _check_directory(cfg, members, output)
    on_first_host(f"start of {output}", functools.partial(_clear, output))
    tokenizer = load_run_tokenizer(base.checkpoint)
    task = task_of(base)
    began = time.perf_counter()
    data = load_member_data(cfg, members[0], base, tokenizer)
    found = _Runs(cfg, base, output, tokenizer, data).all_of(members)
    outcomes = {outcome.member: outcome for outcome in found}
    ordered = [outcomes[member] for member in members]
    measured = next((x.scores for x in ordered if x.results), {})
    pooled = score_out_of_fold(cfg, base, output, ordered, tokenizer)
    results = {
        "kind": "sweep",
        "task": task.name,
        "seeds": list(cfg.seeds),
        "folds": cfg.folds,
        "folds_sha256": pooled and pooled.sha256,
        "shots": base.task.shots,
        **summary_of(ordered, task.deciding(measured), pooled),
        "runs": [
            x.record(has_weights=_has_weights(output / x.member.path)) for x in ordered
        ],
        "elapsed_secs": time.perf_counter() - began,
    }
    save_results(output, results)
    print(table(task, ordered, results))
    print(conclusion(task, results), flush=True)
    return results


def _check_directory(
    cfg: SweepConfig, members: Sequence[Member], output: pathlib.Path
) -> None:
    """Raises ValueError if the directory holds runs that the sweep would not show."""
    if (output / "run.json").exists():
        raise ValueError(f"{output} holds a single run; choose another --output.")
    there = {path.relative_to(output) for path in output.glob("runs/*/*")}
    strangers = sorted(map(str, there - {member.path for member in members}))
    if strangers:
        raise ValueError(
            f"{output} holds {len(strangers)} runs that are not in this grid, such as "
            f"{strangers[0]}. A sweep lists every run that it has made: add them to the "
            "grid, or choose another --output."
        )
    for member in members:
        run = output / member.path
        finished = (run / "results.json").exists()
        if cfg.keep_weights and finished and not _has_weights(run):
            raise ValueError(
                f"--keep-weights: {run} was finished without keeping its weights. Delete "
                "it to train it again, or leave --keep-weights out."
            )


def _clear(output: pathlib.Path) -> None:
    """Deletes what a killed process has left half-written beside the runs."""
    for folder in (output, *output.glob("out-of-fold/*/*")):
        remove_leftovers(folder)


class _Runs(NamedTuple):
    """Makes the runs of a sweep, in their directories."""

    cfg: SweepConfig
    base: FinetuneConfig
    output: pathlib.Path
    tokenizer: Tokenizer
    data: TaskData
    """The examples of the first one; of all, unless folds or shots are drawn anew."""

    def all_of(self, members: Sequence[Member]) -> Iterator[Outcome]:
        """Yields every run when it is finished, those first that were finished before."""
        left = []
        for member in members:
            results = finished_results(self.output / member.path)
            if results is None:
                left.append(member)
            else:
                if WEIGHTS_REMOVED.items() <= results.items():
                    self.remove_weights(member)  # a kill may have left some
                # This compares its settings and its data with those of the run there.
                finetune(*self.part(member))
                yield Outcome(member, results)
        steps = {x: x.setting.num_epochs * self.data.steps_per_epoch for x in members}
        progress = _Progress(sum(steps[x] for x in left))
        print(_plan(self.cfg, members, len(left), progress.num_steps), flush=True)
        for group in self.groups(left):
            progress.begin(group)
            for outcome in self.train(group):
                metric = self.data.task.deciding(outcome.scores)
                value = outcome.scores.get(metric.name)
                said = outcome.failure if value is None else metric.say(value)
                print(f"{outcome.member.say()}: {said}", flush=True)
                yield outcome
            progress.end(sum(steps[x] for x in group))

    def groups(self, members: Sequence[Member]) -> Iterator[list[Member]]:
        """The runs that are trained at once, or lists of one.

        Raises:
            ValueError: several at once are asked for, which the settings do not allow.
        """
        most, reason = self.cfg.at_once, why_not(self.base)
        if most is None:
            devices = jax.devices()
            if reason or len(devices) > 1 or devices[0].platform == "cpu":
                most = 1
        elif most > 1 and reason:
            raise ValueError(f"--at-once {most}: {reason}. Or pass --at-once 1.")
        if most == 1:
            yield from ([member] for member in members)
            return
        by_shape: dict[Any, list[Member]] = {}
        for member in members:
            by_shape.setdefault(self.part(member).shape, []).append(member)
        for alike in by_shape.values():
            size = most
            if size is None:
                size = number_that_fits(self.part(alike[0]), self.tokenizer)
                print(f"{size} runs fit the memory of the device at once", flush=True)
            yield from (alike[n : n + size] for n in range(0, len(alike), size))

    def part(self, member: Member) -> Part:
        """The settings, the directory and the examples of a run."""
        run = member.config(self.base)
        if self.cfg.folds is None and self.base.task.shots is None:
            data = self.data.for_run(run)
        else:
            data = quietly_loaded(self.cfg, member, self.base, self.tokenizer)
        run = dataclasses.replace(
            run, task=data.as_read, sequence_length=data.sequence_length
        )
        return Part(run, self.output / member.path, data)

    def train(self, group: Sequence[Member]) -> list[Outcome]:
        """Trains the runs of a group to their ends."""
        parts = [self.part(member) for member in group]
        keep_weights = self.cfg.keep_weights
        found: Sequence[dict[str, Any] | NotFiniteError]
        if len(parts) > 1:
            found = finetune_at_once(parts, self.tokenizer, keep_weights=keep_weights)
        else:
            try:
                found = [finetune(*parts[0], keep_weights=keep_weights)]
            except NotFiniteError as error:
                found = [error]
        outcomes = []
        for member, results in zip(group, found, strict=True):
            if isinstance(results, NotFiniteError):
                failure = str(results).removesuffix(WAY_OUT).strip()
                outcomes.append(Outcome(member, None, failure))
                continue
            outcomes.append(Outcome(member, results))
            if not keep_weights:
                self.remove_weights(member)
        return outcomes

    def remove_weights(self, member: Member) -> None:
        run = self.output / member.path
        remove = functools.partial(_remove_weights, run)
        on_first_host(f"removal of the weights of {run}", remove)


def _has_weights(run: pathlib.Path) -> bool:
    return any((run / place).exists() for place in (BEST, NEWEST))


def _remove_weights(run: pathlib.Path) -> None:
    for place in (BEST, NEWEST):
        shutil.rmtree(run / place, ignore_errors=True)


def _plan(
    cfg: SweepConfig, members: Sequence[Member], num_left: int, num_steps: int
) -> str:
    num_settings = len({member.setting for member in members})
    factors = [f"{num_settings} settings", f"{len(cfg.seeds)} seeds"]
    factors += [] if cfg.folds is None else [f"{cfg.folds} folds"]
    return (
        f"sweep: {len(members)} runs ({' x '.join(factors)}), "
        f"{len(members) - num_left} of them finished; about {num_steps:,} steps to come"
    )


class _Progress:
    """Says which runs begin and, once one has ended, how long the others take."""

    def __init__(self, num_steps: int) -> None:
        self.num_steps, self.done_steps = num_steps, 0
        self.started = time.perf_counter()

    def begin(self, group: Sequence[Member]) -> None:
        first, *others = group
        more = f" and {len(others)} more at once" if others else ""
        print(f"--- {first.say()}{more}", flush=True)

    def end(self, num_steps: int) -> None:
        self.done_steps += num_steps
        left = self.num_steps - self.done_steps
        if left > 0:
            spent = time.perf_counter() - self.started
            secs = duration(spent / self.done_steps * left)
            print(f"about {secs} left for {left:,} more steps", flush=True)
