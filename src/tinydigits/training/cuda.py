"""A training step as a CUDA graph: for small networks, starting the kernels takes longer than running them.

A graph is recorded once and then replayed as a whole, so that Python and PyTorch take no part in the step any more.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tinydigits.training.optim import FusedOptimizer

TrainingStep = Callable[..., tuple[Tensor, Tensor]]  # of a batch's tensors: its loss, and how many were answered right
Arguments = Sequence[Tensor | None]
Replay = Callable[[], None]

_WARM = 3  # steps before a recording: libraries choose their algorithms, the optimiser makes its buffers
_KNOWN = ("torch.nn.", "tinydigits.")


@dataclass(frozen=True, eq=False)
class Recording:
    """A recorded step: it reads `arguments`, and `replay` puts what it returns into `results`."""

    arguments: Arguments
    results: tuple[Tensor, Tensor]
    replay: Replay


Record = Callable[[TrainingStep, Arguments], Recording]


def captured(
    step: TrainingStep, model: nn.Module, optimizer: FusedOptimizer, record: Record | None = None
) -> TrainingStep:
    """The same step, replayed as a graph once it has been made a few times with tensors of the same shapes.

    The first steps are steps like any other. What a replayed step returns holds until the next one. Random numbers are
    those that `torch.manual_seed` says before each step. A network with code of a user's own is left as it is: a graph
    would freeze whatever that code decides from step to step.
    """
    if not all(type(module).__module__.startswith(_KNOWN) for module in model.modules()):
        return step
    record = record or _recorded
    device = next(model.parameters()).device
    for group in optimizer.param_groups:  # so that a recorded step can be told another rate
        group["lr"] = torch.tensor(float(group["lr"]), device=device)
    made: Counter[object] = Counter()
    recordings: dict[object, Recording] = {}

    def replayed(*arguments: Tensor | None) -> tuple[Tensor, Tensor]:
        shapes = tuple(None if argument is None else argument.shape for argument in arguments)
        if shapes not in recordings:
            made[shapes] += 1
            if made[shapes] <= _WARM:
                with _stream_of_its_own(device):
                    return step(*arguments)
            own = [None if argument is None else argument.clone() for argument in arguments]
            recordings[shapes] = record(step, own)
        recording = recordings[shapes]
        for place, given in zip(recording.arguments, arguments, strict=True):
            if place is not None and given is not None:
                place.copy_(given)
        recording.replay()
        return recording.results

    return replayed


def _recorded(step: TrainingStep, arguments: Arguments) -> Recording:
    """Record a step on the GPU, which does not make it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step(*arguments)
    return Recording(arguments, results, graph.replay)


@contextmanager
def _stream_of_its_own(device: torch.device) -> Iterator[None]:
    """What PyTorch asks of the steps before a recording; elsewhere than on a GPU there are no streams."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(device).wait_stream(stream)
