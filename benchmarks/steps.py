"""Training steps of one network, in one way, as a process that stays warm: contenders of benchmarks/training.py.

`python -m benchmarks.steps NETWORK WAY --threads N --steps K`: it warms up, says so by a line, and for each line on
stdin makes K steps of 128 digits and prints the seconds that they took. The ways: `eager`, a plain PyTorch loop over
normalized tensors; `torch` and `native`, ours with either backend. `matrix` multiplies 1024 × 1024 matrices K times,
whatever the network.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.peers import MEAN, STD, plain_network, train_epoch
from tinydigits.data.normalize import Normalization
from tinydigits.data.sources import load_dataset
from tinydigits.models.factory import create_model
from tinydigits.records import Epoch
from tinydigits.training.config import Optimizer, Recipe
from tinydigits.training.device import keep_freed_memory, to_memory_format
from tinydigits.training.loop import Digits, Step, Task, fit, start_state

BATCH = 128
SIDE = 1024  # of the matrices
OPTIMIZER = Optimizer("sgd", learning_rate=0.01, momentum=0.9)
WAYS = ("eager", "torch", "native", "matrix")


def digits(count: int) -> Digits:
    """The first training digits of MNIST."""
    train = load_dataset("mnist").train
    return Digits(torch.from_numpy(train.images[:count]), torch.from_numpy(train.labels[:count]).long())


def our_epochs(network: str, backend: str, train: Digits, recipe: Recipe) -> Iterator[Step | Epoch]:
    """Our loop over these digits, judged by two of them."""
    torch.manual_seed(0)
    keep_freed_memory()
    model = to_memory_format(create_model(network), torch.device("cpu"))
    evaluation = Digits(train.images[:2], train.labels[:2])
    task = Task(train, evaluation, Normalization(MEAN, STD), recipe, seed=0, backend=backend)
    return fit(task, start_state(model, task))


def _ours(network: str, backend: str, train: Digits) -> Callable[[], None]:
    recipe = Recipe("steps", epochs=1_000_000, batch_size=BATCH, optimizer=OPTIMIZER)
    records = our_epochs(network, backend, train, recipe)

    def work() -> None:
        while not isinstance(next(records), Epoch):
            pass

    return work


def _eager(network: str, train: Digits) -> Callable[[], None]:
    torch.manual_seed(0)
    model = plain_network(network)
    optimizer = torch.optim.SGD(model.parameters(), lr=OPTIMIZER.learning_rate, momentum=OPTIMIZER.momentum)
    images = Normalization(MEAN, STD)(train.images)
    return lambda: train_epoch(model, optimizer, images, train.labels, BATCH)


def _matrix(steps: int) -> Callable[[], None]:
    left, right = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    product: Tensor = torch.empty(SIDE, SIDE)

    def work() -> None:
        for _ in range(steps):
            torch.mm(left, right, out=product)

    return work


def main() -> None:
    """Warm up, then work line by line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network")
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.way == "matrix":
        work = _matrix(arguments.steps)
    elif arguments.way == "eager":
        work = _eager(arguments.network, digits(arguments.steps * BATCH))
    else:
        work = _ours(arguments.network, arguments.way, digits(arguments.steps * BATCH))
    work()
    print("warm", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        work()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
