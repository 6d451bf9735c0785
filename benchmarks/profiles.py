"""Where the time of a training step goes, by kind of work, for either backend; part of benchmarks/training.py.

The steps are those of `fast`: AdamW, batches of 128, every digit resampled.
As a process: `python -m benchmarks.profiles NETWORK BACKEND --steps K` prints percentages as a line of JSON.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.steps import digits, our_epochs
from tinydigits.models.layers import Dropout
from tinydigits.records import Epoch
from tinydigits.training.backends.native.network import BatchSlice
from tinydigits.training.backends.torch import TorchBackend
from tinydigits.training.optim import FusedOptimizer
from tinydigits.training.recipes import get_recipe

KINDS = ("convolution", "norm", "activation", "pooling", "dropout", "optimiser", "data", "rest")
# A kind by what the name of an operation or a kernel has in it. The first that fits counts, so the rarer come first.
_NAMES = {
    "dropout": ("dropout", "MulBackward", "drop", "random_"),
    "data": ("data", "load_pictures"),
    "optimiser": ("optimiser", "adamw", "sgd"),
    "convolution": ("conv", "addmm", "Addmm", "sum_positions", "pad_columns"),
    "norm": ("batch_norm", "BatchNorm"),
    "pooling": ("pool", "Pool", "aten::mean", "MeanBackward"),
    "activation": ("relu", "Relu", "threshold"),
}
Seconds = dict[str, float]


def profile_network(network: str, backend: str, steps: int) -> dict[str, float]:
    """Percentages of the time of some steps on one thread, by kind."""
    torch.set_num_threads(1)
    seconds, whole = (_torch_seconds if backend == "torch" else _native_seconds)(network, steps)
    shares = {kind: round(100 * seconds.get(kind, 0.0) / whole, 1) for kind in KINDS[:-1]}
    return {**shares, "rest": round(100 - sum(shares.values()), 1)}


def kind_of(name: str) -> str | None:
    """The kind of work that a name stands for; None: that of whoever called it, or none."""
    return next((kind for kind, parts in _NAMES.items() if any(part in name for part in parts)), None)


def _records(network: str, backend: str, steps: int) -> Iterator[Any]:
    fast = get_recipe("fast")
    recipe = replace(fast, epochs=3, augmentation=replace(fast.augmentation, off_epochs=0))
    return our_epochs(network, backend, digits(steps * recipe.batch_size), recipe)


def _epoch(records: Iterator[Any]) -> float:
    """The seconds of one."""
    start = time.perf_counter()
    while not isinstance(next(records), Epoch):
        pass
    return time.perf_counter() - start


def _torch_seconds(network: str, steps: int) -> tuple[Seconds, float]:
    """By PyTorch's profiler: an operation's own time is that of the first kind among it and its callers.

    The profiler takes time too, so the whole is the time of an epoch without it; where the parts are more, their sum.
    """

    def marked(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def marking(*arguments: Any) -> Any:
            with record_function(name):
                return work(*arguments)

        return marking

    seconds: Seconds = defaultdict(float)
    records = _records(network, "torch", steps)
    _epoch(records)
    whole = _epoch(records)
    with ExitStack() as stack:
        stack.enter_context(patch.object(TorchBackend, "inputs", marked("data", TorchBackend.inputs)))
        stack.enter_context(patch.object(Dropout, "forward", marked("dropout", Dropout.forward)))
        stack.enter_context(patch.object(FusedOptimizer, "step", marked("optimiser", FusedOptimizer.step)))
        profiler = stack.enter_context(profile(activities=[ProfilerActivity.CPU]))
        _epoch(records)
    for event in profiler.events() or ():
        caller: Any = event
        while caller is not None and kind_of(caller.name) is None:
            caller = caller.cpu_parent
        if caller is not None:
            seconds[kind_of(caller.name) or ""] += event.self_cpu_time_total / 1e6
    return seconds, max(whole, sum(seconds.values()))


def _native_seconds(network: str, steps: int) -> tuple[Seconds, float]:
    """By a clock around each kernel; what is left of the way forwards is the loading of the pictures."""
    seconds: Seconds = defaultdict(float)

    def timed(kind: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def timing(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = work(*arguments)
            seconds[kind] += time.perf_counter() - start
            return result

        return timing

    def timed_calls(calls: list[Any]) -> list[Any]:
        return [timed(kind_of(call.func.__name__) or "forward", call) for call in calls]

    prepare, forward = BatchSlice.__init__, BatchSlice.forward

    def prepared(part: BatchSlice, *arguments: Any) -> None:
        prepare(part, *arguments)
        part.forward_calls, part.backward_calls = map(timed_calls, (part.forward_calls, part.backward_calls))

    def loaded(part: BatchSlice, *arguments: Any) -> Any:
        before = sum(seconds.values())
        start = time.perf_counter()
        result = forward(part, *arguments)
        seconds["data"] += time.perf_counter() - start - (sum(seconds.values()) - before)
        return result

    with ExitStack() as stack:
        stack.enter_context(patch.object(BatchSlice, "__init__", prepared))
        stack.enter_context(patch.object(BatchSlice, "forward", loaded))
        stack.enter_context(patch.object(FusedOptimizer, "step", timed("optimiser", FusedOptimizer.step)))
        records = _records(network, "native", steps)
        _epoch(records)
        seconds.clear()
        whole = _epoch(records)
    return seconds, whole


def main() -> None:
    """Profile one network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network")
    parser.add_argument("backend", choices=("torch", "native"))
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    print(json.dumps(profile_network(arguments.network, arguments.backend, arguments.steps)))


if __name__ == "__main__":
    main()
