"""One bounded queue: a request that finds it full is rejected at once; requests that wait together are read together.

Light work is done on the event loop, because handing half a millisecond's work to a thread costs nearly as much again;
between two requests the loop takes in what has arrived, so that health checks do not wait for a whole batch. Heavy
batches go to threads, and meanwhile the next batch is read.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tinydigits.inference.graph import Floats
from tinydigits.inference.predict import Classification, classify_logits
from tinydigits.server.errors import RejectedError
from tinydigits.server.metrics import Metrics
from tinydigits.server.networks import ServedNetwork

Images = NDArray[np.uint8]
Reading = tuple[Floats, Classification]  # of one request's pictures: logits float32 [N, 10], and what they mean

BATCH = 64  # pictures of one batch; a single request may bring more
LIGHT = 16  # pictures that the network reads on the event loop, and that count as a further request
SLICE, FRACTION = 0.001, 0.25  # seconds of work between two turns of the loop: at least, and of the last turn
LATE, LATE_EACH = 0.010, 0.0004  # seconds from a batch's first request to its answer, and more for each picture …
LEAST, FALL, RISE = 8, 0.9, 0.2  # … beyond which the bound falls, to 8 at least, by a tenth; else it rises again


@dataclass(frozen=True, eq=False)
class _Job:
    """A request that waits, since a moment of `time.perf_counter`."""

    network: ServedNetwork
    prepare: Callable[[], Images]
    pictures: int
    since: float
    result: "asyncio.Future[Reading]"

    def settle(self, reading: Reading | Exception) -> None:
        if self.result.done():  # its client has left
            return
        if isinstance(reading, Exception):
            self.result.set_exception(reading)
        else:
            self.result.set_result(reading)


class Queue:
    """The requests of one process that are in work: `taken`, at most `bound`.

    How many are answered in time depends on the machine and its load. So the bound follows what is measured, up to
    `size`: additive increase, multiplicative decrease, as in TCP (Chiu and Jain, 1989).
    """

    def __init__(self, size: int, pool: Executor, metrics: Metrics) -> None:
        self.size = size
        self.bound = float(size)
        self.taken = 0
        self._pool = pool
        self._metrics = metrics
        self._waiting: deque[_Job] = deque()
        self._worker: asyncio.Task[None] | None = None

    @property
    def full(self) -> bool:
        """Whether even the smallest request is rejected."""
        return self.taken + 1 > self.bound

    async def read(
        self, network: ServedNetwork, prepare: Callable[[], Images], pictures: int, heavy: bool = False
    ) -> Reading:
        """Wait for a turn, and for what the network says of the pictures uint8 [n, 28, 28] that `prepare` gives.

        n is at most `pictures`. If `prepare` is `heavy`, a thread calls it before; a second call costs nothing. Raises
        RejectedError if the queue is full (503), and what `prepare` raises.
        """
        weight = min(1 + pictures // LIGHT, int(self.bound))
        if self.taken + weight > self.bound:
            raise RejectedError("overloaded")
        self.taken += weight
        try:
            loop = asyncio.get_running_loop()
            if heavy:
                await loop.run_in_executor(self._pool, prepare)
            job = _Job(network, prepare, pictures, time.perf_counter(), loop.create_future())
            self._waiting.append(job)
            if self._worker is None:
                self._worker = asyncio.create_task(self._work())
            return await job.result
        finally:
            self.taken -= weight

    async def _work(self) -> None:
        """Read what waits: the first requests for one network, as many as fit into a batch, then the next."""
        try:
            while waiting := self._waiting:
                batch = [waiting.popleft()]
                count = batch[0].pictures
                while waiting and waiting[0].network is batch[0].network and count + waiting[0].pictures <= BATCH:
                    batch.append(waiting.popleft())
                    count += batch[-1].pictures
                await self._read_batch(batch)
        finally:
            self._worker = None

    async def _read_batch(self, batch: list[_Job]) -> None:
        """Light work is done when this returns; heavy work continues in a thread."""
        parts: list[tuple[_Job, Images]] = []
        length, since = SLICE, time.perf_counter()
        for job in batch:
            try:
                parts.append((job, job.prepare()))
            except Exception as error:
                job.settle(error)
            if (now := time.perf_counter()) - since > length:
                await asyncio.sleep(0)  # the loop's turn
                since = time.perf_counter()
                length = max(SLICE, FRACTION * (since - now))
        if not parts:
            return
        images = np.concatenate([images for _, images in parts]) if len(parts) > 1 else parts[0][1]
        run = partial(batch[0].network.run, images)
        if len(images) > LIGHT:
            future = asyncio.get_running_loop().run_in_executor(self._pool, run)
            future.add_done_callback(lambda done: self._answer(parts, images, done.result))
        else:
            self._answer(parts, images, run)

    def _answer(self, parts: list[tuple[_Job, Images]], images: Images, run: Callable[[], Floats]) -> None:
        first = parts[0][0]
        try:
            logits = run() if len(images) else np.empty((0, 10), np.float32)  # none: all of them are blank
            found = classify_logits(images, logits, first.network.graph.temperature, first.network.graph.threshold)
        except Exception as error:
            for job, _ in parts:
                job.settle(error)
            return
        self._metrics.batches.labels(first.network.name).observe(len(images))
        if all(job.pictures <= LIGHT for job, _ in parts):  # what is heavy by itself says nothing of waiting
            self.adapt(len(images), time.perf_counter() - first.since)
        start = 0
        for job, own in parts:
            part = slice(start, start := start + len(own))
            of_part = found.labels[part], found.scores[part], found.rejected[part]
            job.settle((logits[part], Classification(*of_part)))

    def adapt(self, pictures: int, seconds: float) -> None:
        """A batch was answered, so many seconds after its first request was taken."""
        if seconds > LATE + LATE_EACH * pictures:
            self.bound = max(self.bound * FALL, min(LEAST, self.size))
        else:
            self.bound = min(self.bound + RISE, self.size)
