"""Queues, capacity and engines of the server, without HTTP."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("fastapi", reason="needs the extra serve")

from tests.support.serving import digits, encoded
from tinydigits.errors import ToolMissingError
from tinydigits.inference import graph as reference
from tinydigits.inference.files import read_picture
from tinydigits.server import networks
from tinydigits.server.errors import RejectedError
from tinydigits.server.metrics import Metrics
from tinydigits.server.networks import ServedNetwork, load_networks
from tinydigits.server.pictures import Upload, find_uploads, read_upload
from tinydigits.server.queue import BATCH, LATE, LEAST, LIGHT, Queue, Reading

Pictures = NDArray[np.uint8]


@pytest.fixture(scope="module")
def network() -> ServedNetwork:
    return load_networks("tiny-10k")["tiny-10k"]


@pytest.fixture
def queue() -> Iterator[Queue]:
    with ThreadPoolExecutor(2) as pool:
        yield Queue(24, pool, Metrics())


def given_pictures(images: Pictures) -> Callable[[], Pictures]:
    return lambda: images


def counted(network: ServedNetwork) -> tuple[ServedNetwork, list[int]]:
    """The network, and the sizes of the batches that it reads."""
    sizes: list[int] = []

    def run(images: Pictures) -> NDArray[np.float32]:
        sizes.append(len(images))
        return network.run(images)

    return replace(network, run=run), sizes


def test_what_waits_together_is_read_together_and_each_gets_its_own(network: ServedNetwork, queue: Queue) -> None:
    counting, sizes = counted(network)
    parts = [digits()[start : start + count] for start, count in ((0, 1), (1, 3), (4, 1), (5, 20), (25, 60), (85, 2))]

    async def together() -> list[Reading]:
        return await asyncio.gather(*(queue.read(counting, given_pictures(part), len(part)) for part in parts))

    readings = asyncio.run(together())
    assert sizes == [25, 62]  # the fifth would not have fitted into the first
    for part, (logits, found) in zip(parts, readings, strict=True):
        assert np.abs(logits - reference.run(network.graph, part)).max() < 1e-4
        assert len(found.labels) == len(part)


def test_networks_are_not_mixed(network: ServedNetwork, queue: Queue) -> None:
    other = load_networks("era-8k")["era-8k"]

    async def together() -> list[Reading]:
        turns = [network, other, network, network]
        return await asyncio.gather(
            *(queue.read(n, given_pictures(digits()[i : i + 1]), 1) for i, n in enumerate(turns))
        )

    readings = asyncio.run(together())
    for i, (n, (logits, _)) in enumerate(zip([network, other, network, network], readings, strict=True)):
        assert np.abs(logits - reference.run(n.graph, digits()[i : i + 1])).max() < 1e-4


def test_a_single_request_is_read_at_once(network: ServedNetwork, queue: Queue) -> None:
    counting, sizes = counted(network)

    async def one_by_one() -> None:
        for image in digits()[:5]:
            await queue.read(counting, given_pictures(image[None]), 1)

    asyncio.run(one_by_one())
    assert sizes == [1] * 5


def test_batches_are_counted(network: ServedNetwork) -> None:
    metrics = Metrics()

    async def twice(queue: Queue) -> None:
        for count in (3, 5):
            await queue.read(network, given_pictures(digits()[:count]), count)

    with ThreadPoolExecutor(1) as pool:
        asyncio.run(twice(Queue(4, pool, metrics)))
    assert 'tinydigits_batch_pictures_sum{model="tiny-10k"} 8.0' in metrics.text()[0].decode()
    assert 'tinydigits_batch_pictures_count{model="tiny-10k"} 2.0' in metrics.text()[0].decode()


def test_what_cannot_be_prepared_harms_nobody_else(network: ServedNetwork, queue: Queue) -> None:
    def fail() -> Pictures:
        raise RejectedError("no_picture", name="It")

    async def together() -> list[Reading | BaseException]:
        calls = [
            given_pictures(digits()[:1]),
            fail,
            lambda: np.empty((0, 28, 28), np.uint8),
            given_pictures(digits()[1:2]),
        ]
        return await asyncio.gather(*(queue.read(network, call, 1) for call in calls), return_exceptions=True)

    first, odd, empty, last = asyncio.run(together())
    assert isinstance(odd, RejectedError)
    assert isinstance(first, tuple)
    assert isinstance(last, tuple)
    assert isinstance(empty, tuple)
    assert empty[0].shape == (0, 10)
    assert queue.taken == 0


def test_a_network_that_fails_tells_all_who_wait_and_the_queue_continues(network: ServedNetwork, queue: Queue) -> None:
    failing = [True]

    def run(images: Pictures) -> NDArray[np.float32]:
        if failing.pop():
            raise ValueError("no")
        return network.run(images)

    async def twice() -> tuple[list[Reading | BaseException], Reading]:
        broken, call = replace(network, run=run), given_pictures(digits()[:1])
        failed = await asyncio.gather(*(queue.read(broken, call, 1) for _ in range(3)), return_exceptions=True)
        failing.append(False)
        return failed, await queue.read(broken, call, 1)

    failed, (logits, _) = asyncio.run(twice())
    assert [str(error) for error in failed] == ["no"] * 3
    assert len(logits) == 1
    assert queue.taken == 0


def test_only_heavy_work_leaves_the_loop(network: ServedNetwork, queue: Queue) -> None:
    where: list[bool] = []

    def run(images: Pictures) -> NDArray[np.float32]:
        where.append(threading.current_thread() is threading.main_thread())
        return network.run(images)

    def prepare() -> Pictures:
        where.append(threading.current_thread() is threading.main_thread())
        return digits()[:1]

    async def each() -> None:
        for count in (LIGHT, LIGHT + 1, BATCH + 1):
            await queue.read(replace(network, run=run), given_pictures(digits()[:count]), count)
        await queue.read(network, prepare, 1, heavy=True)

    asyncio.run(each())
    assert where == [True, False, False, False, True]  # prepared in a thread, then at hand


def test_a_single_request_does_not_wait_for_a_heavy_batch(network: ServedNetwork, queue: Queue) -> None:
    gate = threading.Event()

    def run(images: Pictures) -> NDArray[np.float32]:
        if len(images) > LIGHT:
            assert gate.wait(10)
        return network.run(images)

    async def mixed() -> list[int]:
        slow = replace(network, run=run)
        heavy = [asyncio.create_task(queue.read(slow, given_pictures(digits()[:BATCH]), BATCH)) for _ in range(3)]
        await asyncio.sleep(0.05)
        single = await asyncio.wait_for(queue.read(slow, given_pictures(digits()[:1]), 1), 5)
        assert not any(task.done() for task in heavy)
        gate.set()
        return [len(logits) for logits, _ in [single, *await asyncio.gather(*heavy)]]

    assert asyncio.run(mixed()) == [1, BATCH, BATCH, BATCH]


def held(queue: Queue, network: ServedNetwork, *counts: int) -> list[bool]:
    """Whether requests of so many pictures are taken, one after another, while the first are still in work."""

    async def all_of_them() -> list[bool]:
        gate = asyncio.Event()
        loop = asyncio.get_running_loop()

        def prepare(count: int) -> Pictures:
            asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(10)
            return digits()[:count]

        tasks = [
            asyncio.create_task(queue.read(network, partial(prepare_once, prepare, count, {}), count, heavy=True))
            for count in counts
        ]
        await asyncio.sleep(0.05)
        rejected = [task.done() for task in tasks]
        gate.set()
        for task, is_rejected in zip(tasks, rejected, strict=True):
            if is_rejected:
                error = task.exception()
                assert isinstance(error, RejectedError)
                assert (error.status, error.response().headers["retry-after"]) == (503, "1")
            else:
                await task
        return [not is_rejected for is_rejected in rejected]

    return asyncio.run(all_of_them())


def prepare_once(prepare: Callable[[int], Pictures], count: int, done: dict[int, Pictures]) -> Pictures:
    if count not in done:
        done[count] = prepare(count)
    return done[count]


def test_the_queue_is_bounded_and_many_pictures_count_as_more(network: ServedNetwork) -> None:
    with ThreadPoolExecutor(8) as pool:
        queue = Queue(4, pool, Metrics())
        assert held(queue, network, 1, 15, 16, 1) == [True, True, True, False]
        assert queue.taken == 0
        assert held(queue, network, 256, 1) == [True, False]  # all there is, but not more than that
        assert held(queue, network, 1, 256, 1) == [True, False, True]
        assert queue.taken == 0
        assert not queue.full


def test_fewer_are_taken_while_answers_are_late_and_all_again_after(network: ServedNetwork) -> None:
    with ThreadPoolExecutor(16) as pool:
        queue = Queue(24, pool, Metrics())
        queue.adapt(1, 2 * LATE)
        assert int(queue.bound) == 21  # a tenth less, at once
        for _ in range(50):
            queue.adapt(1, 2 * LATE)
        assert queue.bound == LEAST
        queue.taken = LEAST
        assert queue.full
        queue.adapt(1, LATE / 2)
        assert queue.full  # up in small steps
        for _ in range(200):
            queue.adapt(1, LATE / 2)
        assert queue.bound == 24
        assert not queue.full


def test_a_small_queue_never_grows_to_the_least(queue: Queue) -> None:
    queue.size = queue.bound = 2
    for seconds in (2 * LATE, LATE / 2, 2 * LATE):
        queue.adapt(1, seconds)
        assert queue.bound == 2


def test_many_pictures_may_take_longer(queue: Queue) -> None:
    queue.adapt(64, 2 * LATE)
    assert queue.bound == 24
    queue.adapt(1, 2 * LATE)
    assert queue.bound < 24


def test_a_batch_is_timed_from_its_first_request(
    network: ServedNetwork, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[int, float]] = []
    monkeypatch.setattr(queue, "adapt", lambda pictures, seconds: found.append((pictures, seconds)))

    def slowly() -> Pictures:
        time.sleep(0.02)
        return digits()[:1]

    async def each() -> None:
        await queue.read(network, given_pictures(digits()[:1]), 1)
        await asyncio.gather(queue.read(network, slowly, 1), queue.read(network, slowly, 1))
        await queue.read(network, given_pictures(digits()[:LIGHT]), LIGHT)
        await queue.read(network, given_pictures(digits()[: LIGHT + 1]), LIGHT + 1)  # it may take as long as it takes

    asyncio.run(each())
    assert [pictures for pictures, _ in found] == [1, 2, LIGHT]
    assert found[1][1] >= 0.04 > found[0][1]


def test_without_onnxruntime_the_reference_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise ToolMissingError("ONNX needs the package onnxruntime, which is not installed.")

    monkeypatch.setattr(networks, "open_session", missing)
    found = load_networks("era-8k")["era-8k"]
    assert found.facts.engine == "numpy"
    assert np.array_equal(found.run(digits()[:3]), reference.run(found.graph, digits()[:3]))


PNG = encoded(digits()[0])
JPEG = encoded(255 - digits()[0].repeat(3, 0).repeat(3, 1), "JPEG")


@settings(max_examples=600, deadline=None)
@given(
    whole=st.sampled_from([PNG, JPEG, encoded(digits()[1], "JPEG", progressive=True)]),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    cut=st.floats(0, 1),
    tail=st.binary(max_size=20),
)
def test_damaged_pictures_are_read_or_rejected(
    whole: bytes, changes: list[tuple[float, int]], cut: float, tail: bytes
) -> None:
    content = bytearray(whole)
    for place, value in changes:
        content[int(place * len(content))] = value
    damaged = bytes(content[: int(cut * len(content)) + 3]) + tail
    rejected = None
    try:
        picture = read_upload(damaged, "x")
    except RejectedError as error:
        rejected = error
    else:
        expected = read_picture(damaged, "x")
        assert (picture.blank, picture.image is None) == (expected.blank, expected.image is None)
    assert rejected is None or rejected.status in (400, 413, 415)


@settings(max_examples=300, deadline=None)
@given(contents=st.lists(st.binary(max_size=60), min_size=1, max_size=5), name=st.text(max_size=12))
def test_forms_give_back_what_was_put_in(contents: list[bytes], name: str) -> None:
    boundary = "a-boundary-that-is-rare"
    safe = "".join(c for c in name if c.isprintable() and c not in '"\\') or "x"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="p"; filename="{safe}"\r\n\r\n'.encode()
    body = b"".join(head + content + b"\r\n" for content in contents) + f"--{boundary}--".encode()
    found = find_uploads(f"multipart/form-data; boundary={boundary}", body)
    assert [upload.content for upload in found] == contents


@settings(max_examples=300, deadline=None)
@given(kind=st.text(max_size=40) | st.just("multipart/form-data; boundary=x"), body=st.binary(max_size=200))
def test_any_form_is_read_or_rejected(kind: str, body: bytes) -> None:
    for content in (body, b"--x" + body, b"--x\r\n\r\n" + body + b"\r\n--x--"):
        rejected = None
        try:
            assert all(isinstance(upload.name, str) for upload in find_uploads(kind, content))
        except RejectedError as error:
            rejected = error
        assert rejected is None or rejected.status in (400, 413)


def test_light_is_what_is_prepared_quickly() -> None:
    assert Upload("x", PNG).is_light()
    assert not Upload("x", JPEG).is_light()
    assert not Upload("x", encoded(np.zeros((65, 64), np.uint8))).is_light()
    assert not Upload("x", encoded(np.random.default_rng(0).integers(0, 256, (64, 64, 4), np.uint8))).is_light()
