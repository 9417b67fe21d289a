"""What the processes of a job settle together; nothing of it touches a device.

A process alone agrees with itself at once. In a job, all processes must make the same
calls in the same order.
"""

import collections
import json
import socket
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from bert_jax.runtime import coordination, process
from bert_jax.runtime.differences import differences

T = TypeVar("T")

# A process that is dead ends the others much earlier (JAX's heartbeat, 100 s): this is
# for one that lives and does not come.
PATIENCE_SECS = 1_800.0

_times: collections.Counter[str] = collections.Counter()


def agree(
    what: str, facts: Mapping[str, Any], *, remedy: str = "Give every host the same."
) -> None:
    """Returns when all processes know the same facts.

    Args:
        what: that is compared, such as "the run", for errors.
        facts: by name; each is compared as text.
        remedy: what to do when they differ.

    Raises, in all processes:
        ValueError: they differ; it says in what, and where it is how.
        TimeoutError: a process did not come.
    """
    me = process.this()
    if me.count == 1:
        return
    name = _once(what)
    own = {"host": socket.gethostname(), "facts": {k: str(v) for k, v in facts.items()}}
    coordination.put(f"{name}/{me.number}", json.dumps(own))

    def compare() -> str:
        reports = [
            json.loads(coordination.get(f"{name}/{number}", PATIENCE_SECS, number))
            for number in range(me.count)
        ]
        names = [f"process {n} ({r['host']})" for n, r in enumerate(reports)]
        return "; ".join(differences(names, [r["facts"] for r in reports]))

    found = on_first_host(f"comparison of {what}", compare)
    if found:
        raise ValueError(
            f"The processes of this job differ in {what}: {found}. {remedy}"
        )


def on_first_host(what: str, function: Callable[[], T]) -> T:
    """Calls `function` in process 0 alone; the others wait for what it returns.

    Args:
        what: it does, in words.
        function: its result must be fit for JSON.

    Raises:
        Whatever `function` raises, in process 0; in the others a ValueError with the
        same message, or a RuntimeError where it was no error of a user.
        TimeoutError: process 0 did not finish in time.
    """
    me = process.this()
    if me.count == 1:
        return function()
    name = _once(what)
    if me.number == 0:
        try:
            result = function()
        except Exception as error:
            is_users = isinstance(error, ValueError | OSError)
            answer = {"error": str(error), "is_users": is_users}
            coordination.put(f"{name}/result", json.dumps(answer))
            raise
        coordination.put(f"{name}/result", json.dumps({"result": result}))
        return result
    answer = json.loads(coordination.get(f"{name}/result", PATIENCE_SECS, whose=0))
    if "error" in answer:
        kind = ValueError if answer["is_users"] else RuntimeError
        raise kind(f"{what}, by process 0: {answer['error']}")
    return answer["result"]


def any_host(flag: bool, what: str = "request to stop") -> bool:
    """True in all processes when `flag` is in one of them.

    Raises:
        TimeoutError: a process did not come.
    """
    me = process.this()
    if me.count == 1:
        return flag
    name = _once(what)
    if flag:
        coordination.put(f"{name}/{me.number}", "yes")
    coordination.meet(name, PATIENCE_SECS)
    return bool(coordination.find_all(name))


def _once(what: str) -> str:
    """A name that no earlier call had: all processes count alike."""
    _times[what] += 1
    return f"{what} {_times[what]}"
