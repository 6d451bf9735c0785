"""A network's training step through the native kernels, as one operation of PyTorch's autograd."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from tinydigits.errors import ConfigError
from tinydigits.models.layers import Dropout
from tinydigits.training.native.stages import (
    STAGES,
    Convolution,
    Elsewhere,
    Norm,
    Plan,
    Stage,
    calls_of,
)

Inputs = list[tuple[Tensor, Tensor | None]]  # a batch's digits and maps, shared out to the threads


class NativeNetwork:
    """What the loop calls in training: raw digits in, logits out, gradients on the way back.

    The weights are those of `model`, an `nn.Sequential`. Each of the threads takes an equal share of a batch, and batch
    norm's statistics are those of a share; the running ones are moved to the mean of what the shares say.
    """

    def __init__(self, model: nn.Module, mean: float, deviation: float, threads: int = 1) -> None:
        """Look at the layers.

        Raises:
            ConfigError: the network is not an `nn.Sequential`, calculates with another type than float32, or has
                dropout and there are several threads.
            ToolMissingError: there is no C compiler.
        """
        _check(model, threads)
        assert isinstance(model, nn.Sequential)
        self.model, self.mean, self.deviation, self.threads = model, mean, deviation, threads
        stages = stages_of(model)
        self.parameters = [parameter for stage in stages for parameter in stage.parameters]
        self._begin = torch.zeros((), requires_grad=True)  # tells autograd that there is a way back
        self.norms: dict[float, list[tuple[int, nn.BatchNorm2d]]] = {}  # by momentum, with their number
        for number, norm in enumerate(stage.module for stage in stages if isinstance(stage, Norm)):
            assert norm.momentum is not None
            self.norms.setdefault(norm.momentum, []).append((number, norm))
        # the kernels leave Python's lock to other threads
        self.pool = ThreadPoolExecutor(threads - 1) if threads > 1 else None
        self._shares: dict[tuple[int, int], Share] = {}
        self._places: list[int] = []
        self._present: list[Share] = []

    def inputs(self, images: Tensor, maps: Tensor | None) -> Inputs:
        """Digits uint8 [N, 28, 28], and maps [N, 2, 3] by which each is resampled, in shares."""
        digits = images.chunk(self.threads)
        return list(zip(digits, maps.chunk(self.threads) if maps is not None else [None] * len(digits), strict=True))

    def __call__(self, inputs: Inputs) -> Tensor:
        """Logits [N, 10]."""
        logits: Tensor = _Step.apply(self, inputs, self._begin)  # type: ignore[no-untyped-call]
        return logits

    def forward(self, inputs: Inputs) -> Tensor:
        """Through all stages, which keep what the way back needs."""
        places = [parameter.data_ptr() for parameter in self.parameters]
        if places != self._places:  # somebody has put the weights elsewhere, and the plans know where they were
            self._shares, self._places = {}, places
        self._present = [self.share(i, len(images)) for i, (images, _) in enumerate(inputs)]
        logits = self._each(Share.forward, inputs)
        self._move_running()
        return torch.cat(logits)

    def backward(self, gradient: Tensor) -> None:
        """From the gradient of the logits [N, 10] to those of the parameters, which hold until the next step.

        They are put into the parameters' `grad` here, for autograd would copy each.
        """
        first, *others = self._each(Share.backward, [(part,) for part in gradient.chunk(self.threads)])
        for other in others:
            first += other
        for parameter, own in zip(self.parameters, self._present[0].gradients, strict=True):
            if parameter.requires_grad:
                parameter.grad = own

    def share(self, thread: int, pictures: int) -> "Share":
        """What a thread does with its share of a batch: so many pictures."""
        if (thread, pictures) not in self._shares:
            self._shares[thread, pictures] = Share(self.model, self.mean, self.deviation, pictures)
        return self._shares[thread, pictures]

    def _move_running(self) -> None:
        """Move the running statistics to the mean of those of the shares."""
        shares = zip(*(share.moments for share in self._present), strict=True)
        moments = [torch.stack(each).mean(dim=0) if len(each) > 1 else each[0] for each in shares]
        for momentum, norms in self.norms.items():
            buffers = [norm.get_buffer(name) for _, norm in norms for name in ("running_mean", "running_var")]
            torch._foreach_lerp_(buffers, [row for number, _ in norms for row in moments[number]], momentum)
            torch._foreach_add_([norm.get_buffer("num_batches_tracked") for _, norm in norms], 1)

    def _each(self, work: Callable[..., Tensor], arguments: Sequence[Sequence[Any]]) -> list[Tensor]:
        """Let each thread do its share; this one takes the first."""
        (mine, given), *others = zip(self._present, arguments, strict=True)
        under_way = [self.pool.submit(work, share, *own) for share, own in others] if self.pool else []
        return [work(mine, *given), *(other.result() for other in under_way)]


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, network: NativeNetwork, inputs: Inputs, _begin: Tensor) -> Tensor:
        ctx.network = network
        return network.forward(inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        ctx.network.backward(gradients[0])
        return None, None, None


class Share:
    """The network as one thread goes through it, with so many pictures."""

    def __init__(self, model: nn.Sequential, mean: float, deviation: float, pictures: int) -> None:
        self.mean, self.deviation = mean, deviation
        self.plan = plan = Plan(pictures)
        self.stages = stages_of(model)
        x = self.pixels = plan.map(1, 28, 28)
        for stage, following in pairwise((*self.stages, None)):
            assert stage is not None
            plan.keeping = stage.reads_output or following is None or following.reads_input
            x = stage.forward(x, plan)
        forward, self._answer = plan.planned(), x.flatten(1, 3).transpose(1, 2)  # [B, L, 10]
        self.moments = [stage.moments for stage in self.stages if isinstance(stage, Norm)]
        dy = torch.empty_like(x)
        self._gradient = torch.zeros(plan.blocks * plan.lanes, dy[0, ..., 0].numel())  # [N, 10], zeros where N is less
        self._gradient_of_answer = dy.flatten(1, 3).transpose(1, 2)  # the same in blocks, [B, L, 10]
        plan.keeping = False
        parameters = [parameter for stage in self.stages for parameter in stage.parameters]
        self._flat = torch.empty(sum(parameter.numel() for parameter in parameters))
        self.gradients = _in_parts(self._flat, parameters)
        places = iter(self.gradients)
        own = [[next(places) for _ in stage.parameters] for stage in self.stages]
        for stage, gradients in zip(reversed(self.stages), reversed(own), strict=True):
            dy = stage.backward(dy, gradients, plan)
        backward = plan.planned()
        self.forward_calls, self.backward_calls = calls_of(forward), calls_of(backward)
        self._held = forward, backward  # whose tensors are the memory that the calls use

    def forward(self, images: Tensor, maps: Tensor | None) -> Tensor:
        """Logits [N, 10] of digits uint8 [N, 28, 28]."""
        images, maps = images.contiguous(), None if maps is None else maps.contiguous()
        self.plan.kernels.load_pictures(
            images.data_ptr(), None if maps is None else maps.data_ptr(), self.pixels.data_ptr(), len(images),
            self.mean, self.deviation,
        )  # fmt: skip
        for call in self.forward_calls:
            call()
        return self._answer.flatten(0, 1)[: len(images)]

    def backward(self, gradient: Tensor) -> Tensor:
        """The gradients of all parameters, one after the other, from that of the logits [N, 10]."""
        self._gradient[: len(gradient)].copy_(gradient)
        self._gradient_of_answer.copy_(self._gradient.unflatten(0, (self.plan.blocks, self.plan.lanes)))
        for call in self.backward_calls:
            call()
        return self._flat


def _in_parts(flat: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """One tensor of all numbers as tensors shaped like the parameters, which lie in memory as these do."""
    parts = flat.split([parameter.numel() for parameter in parameters])
    return [
        part.as_strided(parameter.shape, torch.empty_like(parameter).stride(), part.storage_offset())
        for part, parameter in zip(parts, parameters, strict=True)
    ]


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


def stages_of(model: nn.Sequential) -> Sequence[Stage]:
    """A stage for each layer; a ReLU joins the batch norm before it, and a Flatten needs none."""
    stages: list[Stage] = []
    flat = False
    for module in _leaves(model):
        make = STAGES.get(type(module)) if flat or not isinstance(module, nn.Linear) else None
        stage = make(module) if make else None
        before = stages[-1] if stages else None
        if isinstance(module, nn.ReLU) and isinstance(before, Norm):
            before.take_relu()
        elif isinstance(module, nn.Flatten) and module.start_dim == 1 and module.end_dim == -1:
            flat = True
        elif not isinstance(module, nn.Identity):
            stages.append(stage or Elsewhere(module, flat))
    if stages and isinstance(stages[0], Convolution):
        stages[0].first = True
    return stages
