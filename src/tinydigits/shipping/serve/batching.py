"""Pictures that wait together are read together.

A single request is read at once. While one is read, others gather, and go through the network as one batch. All light
work is done on the event loop, in slices: handing half a millisecond's work to a thread costs nearly as
much again, and between two pictures the loop takes in what has arrived, so that health checks and refusals do not wait
for a whole batch. Heavy work goes to threads, and meanwhile whoever else waits is served.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinydigits.shipping.graph import Floats
from tinydigits.shipping.predict import Predictions, judge_logits
from tinydigits.shipping.serve.networks import Network

Images = NDArray[np.uint8]

BATCH = 64  # pictures, from which on no more requests join; a single request may bring more
LIGHT = 16  # pictures that the network reads on the event loop
SLICE = 0.001  # seconds of work between two turns of the loop, at least …
SHARE = 0.25  # … and this share of the last turn, so that clients that try again at once do not keep it from its work


@dataclass(frozen=True, eq=False)
class Reading:
    """What the network says of one request's pictures: `logits` float32 [N, 10], and the answers of each."""

    logits: Floats
    predictions: Predictions


@dataclass(frozen=True, eq=False)
class _Job:
    """A request in the queue. `prepare` gives its pictures uint8 [n, 28, 28], n at most `pictures`."""

    prepare: Callable[[], Images]
    pictures: int
    answer: "asyncio.Future[Reading]"
    since: float  # by `time.perf_counter`


class Batcher:
    """The queue of one network.

    `report` is told the pictures of each batch, and its seconds from queue to answer; these are None if a request of it
    is heavy by itself, for then they say nothing of waiting.
    """

    def __init__(self, network: Network, pool: Executor, report: Callable[[int, float | None], None]) -> None:
        self._network = network
        self._pool = pool
        self._report = report
        self._waiting: deque[_Job] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def read(self, prepare: Callable[[], Images], pictures: int) -> Reading:
        """Wait for one's turn, and for the answers to the pictures uint8 [n, 28, 28] that `prepare` then gives.

        Raises:
            Exception: what `prepare` raises.
        """
        job = _Job(prepare, pictures, asyncio.get_running_loop().create_future(), time.perf_counter())
        self._waiting.append(job)
        self._employ()
        return await job.answer

    def _employ(self) -> None:
        """Have a worker if anything waits: a task that takes batches, until it leaves with a heavy one."""
        if self._waiting and self._worker is None:
            self._worker = asyncio.create_task(self._work())

    async def _work(self) -> None:
        own = asyncio.current_task()
        try:
            while self._waiting and self._worker is own:
                await self._read(self._gathered())
        finally:
            if self._worker is own:
                self._worker = None

    def _gathered(self) -> list[_Job]:
        jobs = [self._waiting.popleft()]
        count = jobs[0].pictures
        while self._waiting and count + self._waiting[0].pictures <= BATCH:
            jobs.append(self._waiting.popleft())
            count += jobs[-1].pictures
        return jobs

    async def _read(self, jobs: list[_Job]) -> None:
        ready = await _prepared(jobs)
        if not ready:
            return
        images = np.concatenate([images for _, images in ready]) if len(ready) > 1 else ready[0][1]
        try:
            logits = await self._logits(images)
            graph = self._network.graph
            predictions = judge_logits(images, logits, graph.temperature, graph.threshold)
            heavy = any(job.pictures > LIGHT for job in jobs)
            self._report(len(images), None if heavy else time.perf_counter() - jobs[0].since)
        except Exception as error:
            for job, _ in ready:
                _settle(job, error)
            return
        start = 0
        for job, own in ready:
            part = slice(start, start := start + len(own))
            parts = (predictions.labels[part], predictions.scores[part], predictions.rejected[part])
            _settle(job, Reading(logits[part], Predictions(*parts)))

    async def _logits(self, images: Images) -> Floats:
        if not len(images):  # all of them blank
            return np.empty((0, 10), np.float32)
        if len(images) <= LIGHT:
            return self._network.run(images)
        self._worker = None
        self._employ()
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._network.run, images)


async def _prepared(jobs: list[_Job]) -> list[tuple[_Job, Images]]:
    ready = []
    slice_, since = SLICE, time.perf_counter()
    for job in jobs:
        try:
            ready.append((job, job.prepare()))
        except Exception as error:
            _settle(job, error)
        if (now := time.perf_counter()) - since > slice_:
            await asyncio.sleep(0)  # the loop's turn
            since = time.perf_counter()
            slice_ = max(SLICE, SHARE * (since - now))
    return ready


def _settle(job: _Job, result: Reading | Exception) -> None:
    if job.answer.done():  # whoever waited was cancelled
        return
    if isinstance(result, Reading):
        job.answer.set_result(result)
    else:
        job.answer.set_exception(result)
