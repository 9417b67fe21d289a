"""Computes requests of several users together, and says so when too many wait."""

import asyncio
import collections
import concurrent.futures
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bert_jax.data.labelled.examples import Text
from bert_jax.serve.limits import Limits

Compute = Callable[[Sequence[Text]], list[dict[str, Any]]]


class QueueFullError(RuntimeError):
    """A request found no room among those that wait."""


class _Request(NamedTuple):
    texts: Sequence[Text]
    answer: "asyncio.Future[list[dict[str, Any]]]"


class Batcher:
    """A queue of requests and one thread that computes them.

    Requests keep their order. A batch holds whole requests: as many as fit into
    `Limits.batch_size` texts, and at least one.
    """

    def __init__(self, compute: Compute, limits: Limits) -> None:
        self._compute, self._limits = compute, limits
        self._waiting: collections.deque[_Request] = collections.deque()
        self._arrived = asyncio.Event()
        # One thread: a device computes one batch at a time, and the others wait here.
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "model")
        self.num_batches = 0

    @property
    def num_waiting(self) -> int:
        """Texts that wait; those of a request that was given up do not."""
        return sum(len(x.texts) for x in self._waiting if not x.answer.done())

    async def __call__(self, texts: Sequence[Text]) -> list[dict[str, Any]]:
        """The predictions of some texts.

        Raises:
            QueueFullError: too many texts wait already.
            TimeoutError: the answer took longer than `Limits.timeout_secs`.
            Exception: what the model raised for these texts.
        """
        room = self._limits.queue_size - self.num_waiting
        if len(texts) > room:
            raise QueueFullError(
                f"{self.num_waiting} texts wait for the model, and {len(texts)} more "
                f"would exceed {self._limits.queue_size}; try again in a second."
            )
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(_Request(texts, answer))
        self._arrived.set()
        # What is no longer waited for is cancelled, and then never computed.
        return await asyncio.wait_for(answer, self._limits.timeout_secs)

    async def run(self) -> None:
        """Answers requests until it is cancelled."""
        while True:
            await self._arrived.wait()
            if self.num_waiting < self._limits.batch_size:
                await asyncio.sleep(self._limits.wait_ms / 1_000)
            batch = self._next_batch()
            if batch:
                await self._answer(batch)
            if not self._waiting:
                self._arrived.clear()

    def close(self) -> None:
        """Ends the thread when the running batch has ended."""
        self._thread.shutdown()

    def _next_batch(self) -> list[_Request]:
        batch: list[_Request] = []
        size = 0
        while self._waiting:
            request = self._waiting[0]
            if request.answer.done():  # cancelled
                self._waiting.popleft()
                continue
            if batch and size + len(request.texts) > self._limits.batch_size:
                break
            batch.append(self._waiting.popleft())
            size += len(request.texts)
        return batch

    async def _answer(self, batch: Sequence[_Request]) -> None:
        loop = asyncio.get_running_loop()
        texts = [text for request in batch for text in request.texts]
        self.num_batches += 1
        try:
            found = await loop.run_in_executor(self._thread, self._compute, texts)
        except Exception as error:
            if len(batch) > 1:  # one request must not spoil those of others
                for request in batch:
                    await self._answer([request])
            elif not batch[0].answer.done():
                batch[0].answer.set_exception(error)
            return
        answers = iter(found)
        for request in batch:
            part = [next(answers) for _ in request.texts]
            if not request.answer.done():
                request.answer.set_result(part)
