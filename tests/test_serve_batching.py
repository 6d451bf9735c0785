"""Queues, capacity and engines of the server, without HTTP."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("fastapi", reason="needs the extra serve")

from tests.serving import digits, encoded
from tinydigits.errors import ToolMissingError
from tinydigits.shipping import graph as reference
from tinydigits.shipping.predict import read_picture
from tinydigits.shipping.serve import networks
from tinydigits.shipping.serve.batching import BATCH, LIGHT, Batcher, Reading
from tinydigits.shipping.serve.networks import Network, load_networks
from tinydigits.shipping.serve.pictures import Upload, read_upload, uploads
from tinydigits.shipping.serve.refusals import RefusedError
from tinydigits.shipping.serve.service import LATE, LEAST, MAX_HELD, Capacity

Pictures = NDArray[np.uint8]


@pytest.fixture(scope="module")
def network() -> Network:
    return load_networks("tiny-10k")["tiny-10k"]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as found:
        yield found


def given_pictures(images: Pictures) -> Callable[[], Pictures]:
    return lambda: images


def test_what_waits_together_is_read_together_and_each_gets_its_own(network: Network, pool: ThreadPoolExecutor) -> None:
    sizes: list[int] = []
    parts = [digits()[start : start + count] for start, count in ((0, 1), (1, 3), (4, 1), (5, 20), (25, 60), (85, 2))]

    async def together() -> list[Reading]:
        batcher = Batcher(network, pool, lambda size, _: sizes.append(size))
        return await asyncio.gather(*(batcher.read(given_pictures(part), len(part)) for part in parts))

    readings = asyncio.run(together())
    assert sizes == [25, 62]  # the fifth would not have fitted into the first
    for part, reading in zip(parts, readings, strict=True):
        assert np.abs(reading.logits - reference.run(network.graph, part)).max() < 1e-4
        assert len(reading.predictions.labels) == len(part)


def test_a_single_request_is_read_at_once(network: Network, pool: ThreadPoolExecutor) -> None:
    sizes: list[int] = []

    async def one_by_one() -> None:
        batcher = Batcher(network, pool, lambda size, _: sizes.append(size))
        for image in digits()[:5]:
            await batcher.read(given_pictures(image[None]), 1)

    asyncio.run(one_by_one())
    assert sizes == [1] * 5


def test_what_cannot_be_prepared_harms_nobody_else(network: Network, pool: ThreadPoolExecutor) -> None:
    def fail() -> Pictures:
        raise RefusedError(400, "odd", "It is odd.")

    async def together() -> list[Reading | BaseException]:
        batcher = Batcher(network, pool, lambda *_: None)
        calls = [
            given_pictures(digits()[:1]),
            fail,
            lambda: np.empty((0, 28, 28), np.uint8),
            given_pictures(digits()[1:2]),
        ]
        return await asyncio.gather(*(batcher.read(call, 1) for call in calls), return_exceptions=True)

    first, odd, empty, last = asyncio.run(together())
    assert isinstance(odd, RefusedError)
    assert isinstance(first, Reading)
    assert isinstance(last, Reading)
    assert isinstance(empty, Reading)
    assert empty.logits.shape == (0, 10)


def test_a_network_that_fails_tells_all_who_wait_and_goes_on(network: Network, pool: ThreadPoolExecutor) -> None:
    failing = [True]

    def run(images: Pictures) -> NDArray[np.float32]:
        if failing.pop():
            raise ValueError("no")
        return network.run(images)

    async def twice() -> tuple[list[Reading | BaseException], Reading]:
        batcher = Batcher(replace(network, run=run), pool, lambda *_: None)
        call = given_pictures(digits()[:1])
        failed = await asyncio.gather(*(batcher.read(call, 1) for _ in range(3)), return_exceptions=True)
        failing.append(False)
        return failed, await batcher.read(call, 1)

    failed, reading = asyncio.run(twice())
    assert [str(error) for error in failed] == ["no"] * 3
    assert len(reading.logits) == 1


def test_only_heavy_work_leaves_the_loop(network: Network, pool: ThreadPoolExecutor) -> None:
    where: list[bool] = []

    def run(images: Pictures) -> NDArray[np.float32]:
        where.append(threading.current_thread() is threading.main_thread())
        return network.run(images)

    async def both() -> None:
        batcher = Batcher(replace(network, run=run), pool, lambda *_: None)
        for count in (LIGHT, LIGHT + 1, BATCH + 1):
            await batcher.read(given_pictures(digits()[:count]), count)

    asyncio.run(both())
    assert where == [True, False, False]


def test_a_single_request_does_not_wait_for_a_heavy_batch(network: Network) -> None:
    gate = threading.Event()

    def run(images: Pictures) -> NDArray[np.float32]:
        if len(images) > LIGHT:
            assert gate.wait(10)
        return network.run(images)

    async def mixed() -> list[int]:
        batcher = Batcher(replace(network, run=run), two, lambda *_: None)
        heavy = [asyncio.create_task(batcher.read(given_pictures(digits()[:BATCH]), BATCH)) for _ in range(3)]
        await asyncio.sleep(0.05)
        single = await asyncio.wait_for(batcher.read(given_pictures(digits()[:1]), 1), 5)
        assert not any(task.done() for task in heavy)
        gate.set()
        return [len(reading.logits) for reading in [single, *await asyncio.gather(*heavy)]]

    with ThreadPoolExecutor(2) as two:
        assert asyncio.run(mixed()) == [1, BATCH, BATCH, BATCH]


def test_capacity_counts_requests_and_many_pictures_as_more() -> None:
    capacity = Capacity(4)
    with capacity.work(1), capacity.work(15), capacity.work(16):
        assert capacity.full
        with pytest.raises(RefusedError) as caught, capacity.work(1):
            pass
        assert (caught.value.status, caught.value.headers) == (503, {"retry-after": "1"})
    assert capacity.taken == 0
    with capacity.work(256):  # all there is, but not more than that
        assert capacity.full
    with pytest.raises(RefusedError), capacity.work(1), capacity.work(256):
        pass
    assert capacity.taken == 0


def test_fewer_are_taken_on_while_answers_are_late_and_all_again_after() -> None:
    capacity = Capacity(24)
    capacity.adapt(1, 2 * LATE)
    assert capacity.limit == 21  # a tenth less, at once
    for _ in range(50):
        capacity.adapt(1, 2 * LATE)
    assert capacity.limit == LEAST
    with capacity.work(256):  # still all there is, but not more
        assert capacity.taken == LEAST
    with ExitStack() as work:
        for _ in range(LEAST):
            work.enter_context(capacity.work(1))
        assert capacity.full
        with pytest.raises(RefusedError):
            work.enter_context(capacity.work(1))
        capacity.adapt(1, LATE / 2)
        assert capacity.full  # up in small steps
    for _ in range(200):
        capacity.adapt(1, LATE / 2)
    assert capacity.limit == 24
    assert capacity.taken == 0


def test_a_small_capacity_never_grows_to_the_least() -> None:
    capacity = Capacity(2)
    for seconds in (2 * LATE, LATE / 2, 2 * LATE):
        capacity.adapt(1, seconds)
        assert capacity.limit == 2


def test_many_pictures_may_take_longer() -> None:
    capacity = Capacity(24)
    capacity.adapt(64, 2 * LATE)
    assert capacity.limit == 24
    capacity.adapt(1, 2 * LATE)
    assert capacity.limit < 24


def test_a_batch_is_timed_from_its_first_request(network: Network, pool: ThreadPoolExecutor) -> None:
    found: list[float | None] = []

    def slowly() -> Pictures:
        time.sleep(0.02)
        return digits()[:1]

    async def both() -> None:
        batcher = Batcher(network, pool, lambda _, seconds: found.append(seconds))
        await batcher.read(given_pictures(digits()[:1]), 1)
        await asyncio.gather(batcher.read(slowly, 1), batcher.read(slowly, 1))
        await batcher.read(given_pictures(digits()[:LIGHT]), LIGHT)
        await batcher.read(given_pictures(digits()[: LIGHT + 1]), LIGHT + 1)

    asyncio.run(both())
    single, two, light, heavy = found
    assert single is not None
    assert two is not None
    assert single < two
    assert two >= 0.04
    assert light is not None
    assert heavy is None  # it may take as long as it takes


def test_bodies_on_their_way_have_a_bound_together() -> None:
    capacity = Capacity(1)
    capacity.hold(MAX_HELD)
    with pytest.raises(RefusedError):
        capacity.hold(1)
    capacity.hold(-MAX_HELD)
    capacity.hold(1)


def test_without_onnxruntime_the_reference_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise ToolMissingError("ONNX needs the package onnxruntime, which is not installed.")

    monkeypatch.setattr(networks, "open_session", missing)
    found = load_networks("era-8k")["era-8k"]
    assert found.engine == "numpy"
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
def test_damaged_pictures_are_read_or_refused(
    whole: bytes, changes: list[tuple[float, int]], cut: float, tail: bytes
) -> None:
    content = bytearray(whole)
    for place, value in changes:
        content[int(place * len(content))] = value
    damaged = bytes(content[: int(cut * len(content)) + 3]) + tail
    refused = None
    try:
        picture = read_upload(damaged, "x")
    except RefusedError as error:
        refused = error
    else:
        expected = read_picture(damaged, "x")
        assert (picture.blank, picture.image is None) == (expected.blank, expected.image is None)
    assert refused is None or refused.status in (400, 413, 415)


@settings(max_examples=300, deadline=None)
@given(contents=st.lists(st.binary(max_size=60), min_size=1, max_size=5), name=st.text(max_size=12))
def test_forms_give_back_what_was_put_in(contents: list[bytes], name: str) -> None:
    boundary = "a-boundary-that-is-rare"
    safe = "".join(c for c in name if c.isprintable() and c not in '"\\') or "x"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="p"; filename="{safe}"\r\n\r\n'.encode()
    body = b"".join(head + content + b"\r\n" for content in contents) + f"--{boundary}--".encode()
    found = uploads(f"multipart/form-data; boundary={boundary}", body)
    assert [upload.content for upload in found] == contents


@settings(max_examples=300, deadline=None)
@given(kind=st.text(max_size=40) | st.just("multipart/form-data; boundary=x"), body=st.binary(max_size=200))
def test_any_form_is_read_or_refused(kind: str, body: bytes) -> None:
    for content in (body, b"--x" + body, b"--x\r\n\r\n" + body + b"\r\n--x--"):
        refused = None
        try:
            assert all(isinstance(upload.name, str) for upload in uploads(kind, content))
        except RefusedError as error:
            refused = error
        assert refused is None or refused.status in (400, 413)


def test_light_is_what_is_prepared_quickly() -> None:
    assert Upload("x", PNG).is_light()
    assert not Upload("x", JPEG).is_light()
    assert not Upload("x", encoded(np.zeros((65, 64), np.uint8))).is_light()
    assert not Upload("x", encoded(np.random.default_rng(0).integers(0, 256, (64, 64, 4), np.uint8))).is_light()
