"""What one process of the server holds: networks, their queues, and how much work it takes on."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from PIL import Image

from tinydigits.shipping.serve.batching import Batcher
from tinydigits.shipping.serve.metrics import Metrics
from tinydigits.shipping.serve.networks import Network, load_networks
from tinydigits.shipping.serve.options import Options
from tinydigits.shipping.serve.refusals import overloaded, unknown_model

THREADS = 2  # for heavy work: large pictures and batches
MAX_HELD = 64 << 20  # bytes of bodies that are on their way in
_SHARE = 16  # pictures that weigh as much as one request more
LATE = 0.010  # seconds from taking a request on to its answer, beyond which fewer are taken on …
LATE_EACH = 0.0004  # … and seconds more for each picture that was read together with it
LEAST = 8  # requests in work that are taken on however late they are answered
_LESS, _MORE = 0.9, 0.2  # times the limit, after a late batch; requests, after another one


class Capacity:
    """How much is taken on: requests in work, and bytes on their way in. What comes beyond is refused at once.

    How many requests in work are answered in good time depends on the machine, and on what else it does. So their
    number follows what is measured, between `LEAST` and `size`: down by a tenth, up by small steps (as TCP has it:
    additive increase, multiplicative decrease; Chiu and Jain, 1989).
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.taken = 0
        self._limit = float(size)
        self._held = 0

    @property
    def limit(self) -> int:
        """Requests that may be in work now."""
        return int(self._limit)

    @property
    def full(self) -> bool:
        """Whether not even the smallest request would be taken on."""
        return self.taken >= self.limit

    def adapt(self, pictures: int, seconds: float) -> None:
        """A batch was answered, so many seconds after its first request was taken on."""
        if seconds > LATE + LATE_EACH * pictures:
            self._limit = max(self._limit * _LESS, min(LEAST, self.size))
        else:
            self._limit = min(self._limit + _MORE, self.size)

    @contextmanager
    def work(self, pictures: int) -> Iterator[None]:
        """A request in work.

        Raises:
            RefusedError: there is too much already (503).
        """
        weight = min(1 + pictures // _SHARE, self.limit)
        if self.taken + weight > self.limit:
            raise overloaded()
        self.taken += weight
        try:
            yield
        finally:
            self.taken -= weight

    def hold(self, size: int) -> None:
        """Bytes have come in; a negative number gives them back.

        Raises:
            RefusedError: slow or large bodies together take too much memory (503).
        """
        if size > 0 and self._held + size > MAX_HELD:
            raise overloaded()
        self._held += size


class Service:
    """One process of the server."""

    def __init__(self, options: Options) -> None:
        Image.preinit()  # otherwise the first request waits for the decoders
        self.options = options
        self.networks = load_networks(options.model)
        self.default = next(iter(self.networks))
        self.capacity = Capacity(options.waiting)
        self.metrics = Metrics()
        self.pool = ThreadPoolExecutor(THREADS)
        self.stopping = False
        self._batchers = {
            name: Batcher(network, self.pool, partial(self._count_batch, name))
            for name, network in self.networks.items()
        }

    def network(self, name: str | None) -> Network:
        """A network by name; None: the default.

        Raises:
            RefusedError: there is none of that name (404).
        """
        found = self.networks.get((name or self.default).replace("_", "-"))
        if found is None:
            raise unknown_model(str(name), list(self.networks))
        return found

    def batcher(self, network: Network) -> Batcher:
        """The queue of a network."""
        return self._batchers[network.name]

    def _count_batch(self, name: str, pictures: int, seconds: float | None) -> None:
        self.metrics.batches.labels(name).observe(pictures)
        if seconds is not None:
            self.capacity.adapt(pictures, seconds)
