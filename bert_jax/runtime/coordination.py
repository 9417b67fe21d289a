"""Words and waiting between the processes of a job, without their devices.

JAX's coordination service keeps them, in process 0. A name is used once: callers number
what they repeat.
"""

import re
from typing import Any

from jax._src import distributed
from jax.errors import JaxRuntimeError

from bert_jax.runtime import process
from bert_jax.runtime.differences import named

_PREFIX = "bert_jax"


def is_connected() -> bool:
    return distributed.global_state.client is not None


def put(name: str, text: str) -> bool:
    """Leaves a text for the others; false when somebody has left one there before."""
    try:
        _client().key_value_set(f"{_PREFIX}/{name}", text)
    except JaxRuntimeError as error:
        if "ALREADY_EXISTS" in str(error):
            return False
        raise
    return True


def get(name: str, timeout_secs: float, whose: int) -> str:
    """Waits for a text.

    Raises:
        TimeoutError: process `whose` did not leave it in time.
    """
    try:
        return _client().blocking_key_value_get(
            f"{_PREFIX}/{name}", int(timeout_secs * 1_000)
        )
    except JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" not in str(error):
            raise
        raise TimeoutError(_late(name, [whose], timeout_secs)) from error


def find(name: str) -> str | None:
    """A text, if it is there."""
    try:
        return _client().key_value_try_get(f"{_PREFIX}/{name}")
    except JaxRuntimeError as error:
        if "NOT_FOUND" in str(error):
            return None
        raise


def find_all(folder: str) -> list[str]:
    """All texts whose names begin with `folder/`."""
    found = _client().key_value_dir_get(f"{_PREFIX}/{folder}/")
    return [text for _, text in found]


def meet(name: str, timeout_secs: float) -> None:
    """Returns when all processes are here.

    Raises:
        TimeoutError: some did not come in time; they are named.
    """
    try:
        _client().wait_at_barrier(f"{_PREFIX}/{name}", int(timeout_secs * 1_000))
    except JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" not in str(error):
            raise
        # It ends with the numbers of those who did not come, one a line.
        after = str(error).partition("timed out task names:")[2]
        late = sorted({int(x) for x in re.findall(r"^(\d+)$", after, re.MULTILINE)})
        raise TimeoutError(_late(name, late, timeout_secs)) from error


def _late(name: str, late: list[int], timeout_secs: float) -> str:
    who = f"Process {named(late)}" if late else "A process"
    return (
        f"{who} of {process.this().count} did not reach {name!r} within "
        f"{timeout_secs:.0f} s of the others; see what it printed last, or whether its "
        "machine hangs."
    )


def _client() -> Any:
    client = distributed.global_state.client
    assert client is not None, "this process is in no job"
    return client
