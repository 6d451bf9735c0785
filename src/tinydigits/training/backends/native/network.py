"""The native backend: a network's forward and backward pass in C, thread by thread."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from tinydigits.data.normalize import Normalization
from tinydigits.errors import ConfigError
from tinydigits.models.layers import Dropout
from tinydigits.training.backends import Loss
from tinydigits.training.backends.native.stages import STAGES, Convolution, Elsewhere, Norm, Plan, Stage, calls_of


class NativeBackend:
    """A batch of raw digits in, loss out, gradients in the parameters.

    The weights are those of `model`, an `nn.Sequential`. Each thread takes an equal slice of a batch, and batch norm
    uses the statistics of a slice; the running ones move to the mean over the slices.
    """

    torch_threads = 1  # beside the backend's own threads, PyTorch's would only wait, and do that busily

    def __init__(self, model: nn.Module, normalization: Normalization, loss: Loss, threads: int = 1) -> None:
        """Look at the layers.

        Raises:
            ConfigError: the network is not an `nn.Sequential`, calculates with another type than float32, or has
                dropout and there are several threads.
            ToolMissingError: there is no C compiler.
        """
        check_native(model, threads)
        assert isinstance(model, nn.Sequential)
        self.model, self.normalization, self.loss, self.threads = model, normalization, loss, threads
        stages = stages_of(model)
        self.parameters = [parameter for stage in stages for parameter in stage.parameters]
        self.norms: dict[float, list[tuple[int, nn.BatchNorm2d]]] = {}  # by momentum, with their number
        for number, norm in enumerate(stage.module for stage in stages if isinstance(stage, Norm)):
            assert norm.momentum is not None
            self.norms.setdefault(norm.momentum, []).append((number, norm))
        # the kernels leave Python's lock to other threads
        self.pool = ThreadPoolExecutor(threads - 1) if threads > 1 else None
        self._slices: dict[tuple[int, int], BatchSlice] = {}
        self._addresses: list[int] = []
        self._present: list[BatchSlice] = []

    def compute_gradients(self, images: Tensor, labels: Tensor, matrices: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `Backend`."""
        with torch.no_grad():
            logits = self.forward(images, matrices)
        logits.requires_grad_()
        loss = self.loss(logits, labels)
        (gradient,) = torch.autograd.grad(loss, logits)
        with torch.no_grad():
            self.backward(gradient)
        return loss.detach(), (logits.detach().argmax(dim=1) == labels).sum()

    def forward(self, images: Tensor, matrices: Tensor | None) -> Tensor:
        """Logits [N, 10]; the stages keep what the way back needs."""
        digits = images.chunk(self.threads)
        parts = matrices.chunk(self.threads) if matrices is not None else [None] * len(digits)
        inputs = list(zip(digits, parts, strict=True))
        addresses = [parameter.data_ptr() for parameter in self.parameters]
        if addresses != self._addresses:  # the weights were moved, and the plans hold their old addresses
            self._slices, self._addresses = {}, addresses
        self._present = [self.slice_of(i, len(images)) for i, (images, _) in enumerate(inputs)]
        logits = self._each(BatchSlice.forward, inputs)
        self._move_running()
        return torch.cat(logits)

    def backward(self, gradient: Tensor) -> None:
        """From the gradient of the logits [N, 10] to those of the parameters, which hold until the next step.

        They are put into the parameters' `grad` here, for autograd would copy each.
        """
        first, *others = self._each(BatchSlice.backward, [(part,) for part in gradient.chunk(self.threads)])
        for other in others:
            first += other
        for parameter, total in zip(self.parameters, self._present[0].gradients, strict=True):
            if parameter.requires_grad:
                parameter.grad = total

    def slice_of(self, thread: int, count: int) -> "BatchSlice":
        """What a thread does with its slice of a batch: `count` digits."""
        if (thread, count) not in self._slices:
            self._slices[thread, count] = BatchSlice(self.model, self.normalization, count)
        return self._slices[thread, count]

    def _move_running(self) -> None:
        """Move the running statistics to the mean of those of the slices."""
        slices = zip(*(part.moments for part in self._present), strict=True)
        moments = [torch.stack(each).mean(dim=0) if len(each) > 1 else each[0] for each in slices]
        for momentum, norms in self.norms.items():
            buffers = [norm.get_buffer(name) for _, norm in norms for name in ("running_mean", "running_var")]
            torch._foreach_lerp_(buffers, [row for number, _ in norms for row in moments[number]], momentum)
            torch._foreach_add_([norm.get_buffer("num_batches_tracked") for _, norm in norms], 1)

    def _each(self, work: Callable[..., Tensor], arguments: Sequence[Sequence[Any]]) -> list[Tensor]:
        """Let each thread do its slice; this one takes the first."""
        (mine, given), *others = zip(self._present, arguments, strict=True)
        under_way = [self.pool.submit(work, part, *its) for part, its in others] if self.pool else []
        return [work(mine, *given), *(other.result() for other in under_way)]


class BatchSlice:
    """The network as one thread goes through it, with `count` digits."""

    def __init__(self, model: nn.Sequential, normalization: Normalization, count: int) -> None:
        self.normalization = normalization
        self.plan = plan = Plan(count)
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
        views = iter(self.gradients)
        own = [[next(views) for _ in stage.parameters] for stage in self.stages]
        for stage, gradients in zip(reversed(self.stages), reversed(own), strict=True):
            dy = stage.backward(dy, gradients, plan)
        backward = plan.planned()
        self.forward_calls, self.backward_calls = calls_of(forward), calls_of(backward)
        self._held = forward, backward  # whose tensors are the memory that the calls use

    def forward(self, images: Tensor, matrices: Tensor | None) -> Tensor:
        """Logits [N, 10] of digits uint8 [N, 28, 28]."""
        images, matrices = images.contiguous(), None if matrices is None else matrices.contiguous()
        self.plan.kernels.load_pictures(
            images.data_ptr(), None if matrices is None else matrices.data_ptr(), self.pixels.data_ptr(), len(images),
            self.normalization.mean, self.normalization.std,
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


def check_native(model: nn.Module, threads: int) -> None:
    """See that the native backend can train a network.

    Raises:
        ConfigError: it is not an `nn.Sequential`, calculates with another type than float32, or has dropout and there
            are several threads.
    """
    if not isinstance(model, nn.Sequential) or type(model).forward is not nn.Sequential.forward:
        raise ConfigError(
            f"backend = 'native' takes networks that are one nn.Sequential, and this one is a {type(model).__name__}. "
            "Omit --backend: PyTorch trains it."
        )
    if other := {parameter.dtype for parameter in model.parameters()} - {torch.float32}:
        raise ConfigError(f"backend = 'native' takes float32 weights, and here some are {other.pop()}. Omit --backend.")
    # threads would take turns at one generator of random numbers, in no fixed order
    if threads > 1 and any(isinstance(module, Dropout | nn.Dropout) for module in model.modules()):
        raise ConfigError(
            f"backend = 'native' with {threads} threads takes networks without dropout, and this one has some. "
            "Omit --threads."
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
