"""A network's training step through the native kernels, as one operation of PyTorch's autograd."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tinydigits.errors import ConfigError
from tinydigits.models.layers import Dropout
from tinydigits.training.native.stages import STAGES, Elsewhere, Norm, Stage, Vectors, blocked, pictures_of

Shares = list[Tensor]  # of a batch's maps, one a thread
_A = TypeVar("_A")
_R = TypeVar("_R")


class NativeNetwork:
    """What the loop calls in training: raw digits in, logits out, gradients on the way back.

    The weights are those of `model`, an `nn.Sequential`. Each of the threads takes an equal share of a batch, and batch
    norm's statistics are those of a share; the running ones are moved to the mean of what the shares say.
    """

    def __init__(self, model: nn.Module, mean: float, deviation: float, threads: int = 1) -> None:
        """Plan the steps.

        Raises:
            ConfigError: the network is not an `nn.Sequential`, calculates with another type than float32, or has
                dropout and there are several threads.
            ToolMissingError: there is no C compiler.
        """
        _check(model, threads)
        assert isinstance(model, nn.Sequential)
        self.parts = [_Part(model, mean, deviation) for _ in range(threads)]
        self.pool = ThreadPoolExecutor(threads) if threads > 1 else None  # the kernels leave Python's lock to others

    def inputs(self, images: Tensor, maps: Tensor | None) -> Shares:
        """Digits uint8 [N, 28, 28] normalised, in blocks [N/L, 1, 28, 28, L]; each resampled by its map [2, 3]."""
        digits = images.chunk(len(self.parts))
        shares = maps.chunk(len(self.parts)) if maps is not None else [None] * len(digits)
        return self._each(_Part.inputs, digits, shares)

    def __call__(self, inputs: Shares) -> Tensor:
        """Logits [N, 10]."""
        logits: Tensor = _Step.apply(self, inputs, *self.parts[0].parameters)  # type: ignore[no-untyped-call]
        return logits

    def forward(self, inputs: Shares) -> Tensor:
        """Through all stages, which keep what the way back needs."""
        logits = self._each(_Part.forward, inputs)
        for stages in zip(*(part.norms for part in self.parts[: len(inputs)]), strict=True):
            stages[0].move_running(torch.stack([stage.moments for stage in stages]).mean(dim=0))
        return torch.cat(logits)

    def backward(self, gradient: Tensor) -> Sequence[Tensor]:
        """The gradients of the parameters from that of the logits [N, 10]."""
        gradients = self._each(_Part.backward, gradient.chunk(len(self.parts)))
        return [sum(shares[1:], shares[0]) for shares in zip(*gradients, strict=True)]

    def _each(self, work: Callable[..., _R], *shares: Sequence[Any]) -> list[_R]:
        parts = self.parts[: len(shares[0])]
        return list((self.pool.map if self.pool else map)(work, parts, *shares))


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, network: NativeNetwork, inputs: Shares, *_parameters: Tensor) -> Tensor:
        ctx.network = network
        return network.forward(inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.network.backward(gradients[0])


class _Part:
    """The network as one thread goes through it."""

    def __init__(self, model: nn.Sequential, mean: float, deviation: float) -> None:
        self.mean, self.deviation = mean, deviation
        self.vectors = Vectors()
        self.stages = _stages(model, self.vectors)
        self.norms = [stage for stage in self.stages if isinstance(stage, Norm)]
        self.parameters = [parameter for stage in self.stages for parameter in stage.parameters]

    def inputs(self, images: Tensor, maps: Tensor | None) -> Tensor:
        self.vectors.pictures = len(images)
        x = self.vectors.empty(1, 28, 28)
        maps = None if maps is None else maps.contiguous()
        self.vectors.call("load_pictures", images.contiguous(), maps, x, len(images), self.mean, self.deviation)
        return x

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():  # which each thread has to say anew
            for stage in self.stages:
                x = stage.forward(x)
        return pictures_of(x, self.vectors.pictures).flatten(1)

    def backward(self, gradient: Tensor) -> list[Tensor]:
        dy: Tensor | None = blocked(gradient[:, :, None, None], self.vectors)
        gradients: list[Tensor] = []
        for place, stage in reversed(list(enumerate(self.stages))):
            assert dy is not None
            dy, own = stage.backward(dy, wanted=place > 0)
            gradients = own + gradients
        return gradients


def _check(model: nn.Module, threads: int) -> None:
    if not isinstance(model, nn.Sequential) or type(model).forward is not nn.Sequential.forward:
        raise ConfigError(
            f"kernels = 'native' takes networks that are one nn.Sequential, and this one is a {type(model).__name__}. "
            "Leave --kernels out: PyTorch trains it."
        )
    if other := {parameter.dtype for parameter in model.parameters()} - {torch.float32}:
        raise ConfigError(
            f"kernels = 'native' takes float32 weights, and here some are {other.pop()}. Leave --kernels out."
        )
    # threads would take turns at one generator of random numbers, in no fixed order
    if threads > 1 and any(isinstance(module, Dropout | nn.Dropout) for module in model.modules()):
        raise ConfigError(
            f"kernels = 'native' with {threads} threads takes networks without dropout, and this one has some. "
            "Leave --threads out."
        )


def _leaves(model: nn.Sequential) -> Iterator[nn.Module]:
    for module in model:
        if isinstance(module, nn.Sequential):
            yield from _leaves(module)
        else:
            yield module


def _stages(model: nn.Sequential, vectors: Vectors) -> Sequence[Stage]:
    """A stage for each layer; a ReLU joins the batch norm before it, and a Flatten needs none."""
    stages: list[Stage] = []
    flat = False
    for module in _leaves(model):
        make = STAGES.get(type(module)) if flat or not isinstance(module, nn.Linear) else None
        stage = make(module, vectors) if make else None
        if isinstance(module, nn.ReLU) and stages and isinstance(stages[-1], Norm):
            stages[-1].least = 0.0
        elif isinstance(module, nn.Flatten) and module.start_dim == 1 and module.end_dim == -1:
            flat = True
        elif not isinstance(module, nn.Identity):
            stages.append(stage or Elsewhere(module, vectors, flat))
    return stages
