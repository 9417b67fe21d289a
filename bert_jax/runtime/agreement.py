"""What the processes of a job settle together, without touching a device.

A process alone agrees with itself at once. In a job, all processes must make the same
calls in the same order.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from bert_jax.runtime import channel
from bert_jax.runtime.differences import differences

T = TypeVar("T")

# A process that ends is noticed at once; this is for one that lives and does not come.
PATIENCE_SECS = 1_800.0


def agree(
    what: str, facts: Mapping[str, Any], *, remedy: str = "Give every host the same."
) -> None:
    """Returns when all processes know the same facts.

    Args:
        what: the thing that is compared, such as "the run", for errors.
        facts: by name; each is compared as text.
        remedy: what to do when they differ.

    Raises, in all processes:
        ValueError: they differ; it says in which facts, and on which hosts.
        TimeoutError: a process did not come.
    """
    job = channel.current()
    if job is None:
        return

    def compare(reports: list[str]) -> None:
        names = [f"process {n} ({job.hosts[n]})" for n in range(job.me.count)]
        found = differences(names, [json.loads(report) for report in reports])
        if found:
            raise ValueError(
                f"The processes of this job differ in {what}: {'; '.join(found)}. "
                f"{remedy}"
            )

    own = json.dumps({name: str(fact) for name, fact in facts.items()})
    job.settle(f"comparison of {what}", own, compare, PATIENCE_SECS)


def on_first_host(what: str, function: Callable[[], T]) -> T:
    """Calls `function` in process 0 alone; the others wait for what it returns.

    Args:
        what: what the function does, in words.
        function: its result must be fit for JSON.

    Raises:
        Whatever `function` raises, in process 0; in the others a ValueError (a
        TimeoutError for a TimeoutError) with the same message, or a RuntimeError where it
        was no error of a user.
        TimeoutError: a process did not come, or process 0 did not finish in time.
    """
    job = channel.current()
    if job is None:
        return function()
    return job.settle(what, "", lambda _: function(), PATIENCE_SECS)


def any_host(flag: bool) -> bool:
    """True in all processes when `flag`, a request to stop, is true in one of them.

    Raises:
        TimeoutError: a process did not come.
    """
    job = channel.current()
    if job is None:
        return flag
    own = "yes" if flag else ""
    return job.settle("request to stop", own, any, PATIENCE_SECS)
