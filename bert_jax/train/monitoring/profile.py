"""Traces what the devices do: during chosen steps, or whenever xprof asks for it.

    xprof --logdir RUN/profile

opens the trace; so does TensorBoard with its profile plugin.
"""

import contextlib
import pathlib
from typing import Any

import jax

from bert_jax.config import LoopConfig
from bert_jax.runtime import process


class Profiler:
    """Wraps the steps of a session and traces those that `LoopConfig` names.

    Process 0 writes the trace; it covers the devices of that process.
    """

    def __init__(self, run: pathlib.Path, cfg: LoopConfig, first_step: int) -> None:
        """Starts the server of `cfg.profiler_port`, if there is one.

        Args:
            run: run directory; the trace goes to its folder profile/.
            cfg: which steps to trace, and the port of the server.
            first_step: number of updates before this session.
        """
        self._directory = run / "profile"
        self._tracing = self._serving = False
        self._start = self._end = -1
        wanted = cfg.profile_at_step is not None and process.is_first()
        if wanted and not any(self._directory.rglob("*.xplane.pb")):
            assert cfg.profile_at_step is not None
            self._start = max(cfg.profile_at_step, first_step + 1)
            self._end = self._start + cfg.profile_steps
        if cfg.profiler_port is not None:
            jax.profiler.start_server(cfg.profiler_port + process.this().number)
            self._serving = True

    def step(
        self, number: int, before: Any
    ) -> contextlib.AbstractContextManager[object]:
        """The context in which the caller must start update `number`, counted from 0.

        Args:
            number: number of the update.
            before: arrays that are ready when all earlier updates are done.
        """
        if number == self._start:
            jax.block_until_ready(before)
            jax.profiler.start_trace(self._directory)
            self._tracing = True
        elif number == self._end:
            jax.block_until_ready(before)
            self._stop()
        return jax.profiler.StepTraceAnnotation("train", step_num=number)

    def close(self) -> None:
        """Ends a trace that is still running, and the server."""
        self._stop()
        if self._serving:
            jax.profiler.stop_server()
            self._serving = False

    def _stop(self) -> None:
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()
            print(f"the trace is in {self._directory}", flush=True)
