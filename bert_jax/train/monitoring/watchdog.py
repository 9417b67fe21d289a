"""Ends a run whose steps have stopped coming, so that its launcher starts it again."""

import collections
import statistics
import threading
import time
from collections.abc import Callable

from bert_jax.runtime import channel
from bert_jax.runtime.distributed import abort

# No step for this long, and for as long as ten usual ones take, is a hang.
_LEAST_SECS, _USUAL_STEPS = 120.0, 10
# Before the first steps have been timed.
_UNTIMED_SECS = 1_800.0
_LOOK_SECS = 1.0
# A look that comes so late was held up with the whole process, as by SIGSTOP.
_PAUSED_SECS = 10.0
# A process that plans an epoch, or does something else that takes long, says so this often.
_BUSY_SECS = 10.0


class Watchdog:
    """Looks at the steps of a loop from a thread of its own, once a second.

    A device that hangs, or waits for a process that hangs, gives no error: the loop waits
    for it without end. Then the stacks of all threads of all processes are printed, and
    the job ends with the exit code after which launchers start it again. A process that the
    others wait for because it plans an epoch tells them, and then they have no hang.
    """

    def __init__(
        self,
        look: Callable[[], tuple[int, int] | None],
        end: Callable[[str], None] = abort,
        job: channel.Channel | None = None,
    ) -> None:
        """Begins to look.

        Args:
            look: gives the number of the last step that the devices got, and how many of
                the steps have not come back; `None` while something else takes time, such
                as compiling, evaluating, saving or waiting for a batch.
            end: ends the job for a reason.
            job: connections to the other processes. Default: those of this process's job.
        """
        self._look, self._end = look, end
        self._job = job or channel.current()
        self._step_secs: collections.deque[float] = collections.deque(maxlen=99)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def timed(self, step_secs: float) -> None:
        """Tells how long a step took, as the mean over some steps that came back."""
        self._step_secs.append(step_secs)

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        seen, since = self._look(), time.monotonic()
        looked, busy_since = since, since
        while not self._closed.wait(_LOOK_SECS):
            found, now = self._look(), time.monotonic()
            if found is not None:
                busy_since = now
            elif now - busy_since > _BUSY_SECS:
                busy_since = now
                if self._job is not None:
                    self._job.say_busy()
            is_new = found is None or found != seen or now - looked > _PAUSED_SECS
            is_new = is_new or self._others_are_busy()
            looked = now
            if is_new:
                seen, since = found, now
            elif found is not None and now - since > self._patience(found[1]):
                self._end(
                    f"no step has come for {now - since:.0f} s after step {found[0]:,}"
                    f"{self._usual()}; a device or a process hangs. The stacks of all "
                    "threads are above"
                )
                return

    def _others_are_busy(self) -> bool:
        return self._job is not None and self._job.secs_since_busy() < 3 * _BUSY_SECS

    def _patience(self, num_pending: int) -> float:
        if not self._step_secs:
            return _UNTIMED_SECS
        # Steps are handed to the devices long before they come back.
        usual = statistics.median(self._step_secs)
        return max(_LEAST_SECS, (_USUAL_STEPS + num_pending) * usual)

    def _usual(self) -> str:
        if not self._step_secs:
            return ""
        return f", where one took {statistics.median(self._step_secs):.3g} s before"
