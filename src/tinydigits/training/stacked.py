"""Many runs that differ only in their seeds, trained at once: one small network leaves most of a GPU idle.

Each parameter's values of all runs lie in one tensor [S, …], and `torch.func.vmap` makes each operation of the network
one for all of them (a convolution becomes one in S groups). The optimisers work number by number, so one on the whole
is one on each part. Each run keeps its own first weights, shuffles, augmentation and dropout: those that it has alone.
"""

import copy
import time
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from tinydigits.errors import ConfigError
from tinydigits.models.layers import Dropout
from tinydigits.training.config import Recipe
from tinydigits.training.cuda import TrainingStep, captured
from tinydigits.training.draws import epoch_maps, epoch_order, seed_network, step_seeds
from tinydigits.training.loop import Digits, Epoch, TrainingState, check_loss, close_epoch
from tinydigits.training.network import TorchNetwork
from tinydigits.training.optim import FusedOptimizer, learning_rate_factor, set_learning_rate, update_average

_DROPOUTS = (Dropout, nn.Dropout, nn.Dropout2d)  # each multiplies its input by something drawn


def fit_stacked(
    states: Sequence[TrainingState],
    train: Digits,
    judge: Digits,
    recipe: Recipe,
    mean: float,
    deviation: float,
    seeds: Sequence[int],
) -> Iterator[list[Epoch]]:
    """Train runs that have made equally many steps to their last epoch.

    Yields an epoch of each, in their order; then `states` hold what `fit` would have left in them, but for rounding.
    The time of an epoch is that of all runs together.

    Raises:
        DivergedError: the loss of a run is no longer finite.
        ConfigError: the network draws random numbers other than dropout's.
    """
    dropout = _DropoutDraws(states[0].model)  # first: the stack changes how weights lie in memory, and so the draws
    stack = _Stack(states)
    network = TorchNetwork(states[0].model, mean, deviation)
    step = _stacked_step(stack, dropout, network, train, recipe.label_smoothing)
    device, count, steps = train.labels.device, len(train.labels), len(states[0].losses)
    if device.type == "cuda":
        step = captured(step, states[0].model, stack.optimizer)
    while stack.step < steps * recipe.epochs:
        epoch, first = divmod(stack.step, steps)
        started = time.perf_counter() - states[0].epoch_seconds
        order = torch.stack([epoch_order(count, seed, epoch) for seed in seeds]).to(device)  # [S, N]
        drawn_from = [step_seeds(steps, seed, epoch) for seed in seeds]
        maps = None
        if epoch < recipe.augmented_epochs:
            maps = torch.stack([epoch_maps(count, recipe, own) for own in drawn_from]).to(device)  # [S, N, 2, 3]
        for i in range(first, steps):
            batch = order[:, i * recipe.batch_size : (i + 1) * recipe.batch_size]
            own = None if maps is None else maps[:, i * recipe.batch_size : (i + 1) * recipe.batch_size]
            factor = learning_rate_factor(recipe.schedule, stack.step, steps, recipe.epochs)
            set_learning_rate(stack.optimizer, recipe.optimizer.learning_rate * factor)
            drawn = dropout.draw([own[i] for own in drawn_from], batch.shape[1])
            stack.note(i, *step(batch, own, *drawn))
            if stack.average is not None:
                update_average(stack.average, stack.tensors, recipe.ema_decay, stack.step)
        for state in states:
            check_loss(state.losses, epoch, recipe)
        seconds = time.perf_counter() - started
        yield [close_epoch(state, judge, recipe, seconds, mean, deviation) for state in states]


class _Stack:
    """The runs' tensors as one each; the runs hold the parts."""

    def __init__(self, states: Sequence[TrainingState]) -> None:
        self.states = states
        self.step = states[0].step
        own = [_by_name(state.model) for state in states]
        whole = {id(tensor): _joined([each[name] for each in own]) for name, tensor in own[0].items()}
        self.tensors = {name: whole[id(tensor)] for name, tensor in own[0].items()}
        self.losses = _joined([state.losses for state in states])  # [S, steps per epoch]
        self.hits = _joined([state.hits for state in states])
        self.average = None
        if states[0].average is not None:
            averages = [state.average or {} for state in states]
            self.average = {name: _joined([each[name] for each in averages]) for name in averages[0]}
        first = states[0].optimizer
        groups = [{**group, "params": [whole[id(p)] for p in group["params"]]} for group in first.param_groups]
        self.optimizer = FusedOptimizer(groups, first.settings)
        self._take_optimizers()
        self._bound = False

    def note(self, place: int, losses: Tensor, hits: Tensor) -> None:
        """A step is done, with these losses and right answers [S]; it was the epoch's number `place`, from 0."""
        self.losses[:, place], self.hits[:, place] = losses, hits
        self.step += 1
        for state in self.states:
            state.step = self.step
        if not self._bound:  # the first step makes the optimiser's tensors
            self._give_optimizers()
            self._bound = True

    def _pairs(self) -> Iterator[tuple[nn.Parameter, list[nn.Parameter]]]:
        """Each parameter of the stack with its parts in the runs."""
        groups = zip(self.optimizer.param_groups, *(s.optimizer.param_groups for s in self.states), strict=True)
        for mine, *theirs in groups:
            for whole, *parts in zip(mine["params"], *(group["params"] for group in theirs), strict=True):
                yield whole, parts

    def _take_optimizers(self) -> None:
        """What the runs' optimisers remember; step counts are the same in all."""
        for whole, parts in self._pairs():
            remembered = [state.optimizer.state[part] for state, part in zip(self.states, parts, strict=True)]
            for name, value in remembered[0].items():
                if isinstance(value, Tensor) and value.shape == parts[0].shape:
                    value = torch.stack([each[name] for each in remembered])
                self.optimizer.state[whole][name] = value

    def _give_optimizers(self) -> None:
        for whole, parts in self._pairs():
            for index, (state, part) in enumerate(zip(self.states, parts, strict=True)):
                state.optimizer.state[part] = {
                    name: value[index] if isinstance(value, Tensor) and value.shape == whole.shape else value
                    for name, value in self.optimizer.state[whole].items()
                }


def _by_name(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers; one that two layers share has both names."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {**parameters, **dict(model.named_buffers(remove_duplicate=False))}


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """One tensor [S, …] of them all, whose parts they are from now on."""
    whole = torch.stack([part.detach() for part in parts])
    for part, place in zip(parts, whole, strict=True):
        part.data = place
    return nn.Parameter(whole, parts[0].requires_grad) if isinstance(parts[0], nn.Parameter) else whole


def _stacked_step(
    stack: _Stack, dropout: "_DropoutDraws", network: TorchNetwork, train: Digits, label_smoothing: float
) -> TrainingStep:
    """A step of all runs: from indices [S, B], maps [S, B, 2, 3] or None, and what dropout multiplies with."""

    def one(tensors: Mapping[str, Tensor], drawn: Sequence[Tensor], inputs: Tensor) -> Tensor:
        named = {**tensors, **dropout.named(drawn)}
        logits: Tensor = functional_call(dropout.model, named, (inputs,), tie_weights=False)
        return logits

    together = torch.vmap(one, randomness="error")

    def step(batch: Tensor, maps: Tensor | None, *drawn: Tensor) -> tuple[Tensor, Tensor]:
        images, labels = train.images[batch], train.labels[batch]  # [S, B, …]
        inputs = network.inputs(images.flatten(0, 1), None if maps is None else maps.flatten(0, 1))
        try:
            logits = together(stack.tensors, drawn, inputs.unflatten(0, labels.shape))  # [S, B, 10]
        except RuntimeError as error:
            if "randomness" not in str(error):
                raise
            raise ConfigError(
                "Runs are trained at once only where a network draws nothing at random but dropout, and this one "
                "does. Choose another engine: the runs are then trained one by one."
            ) from error
        losses = F.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), reduction="none", label_smoothing=label_smoothing
        )
        losses = losses.view(labels.shape).mean(dim=1)  # [S]
        stack.optimizer.zero_grad()
        losses.sum().backward()  # the gradient of each part is that of its own loss
        stack.optimizer.step()
        return losses.detach(), (logits.detach().argmax(dim=2) == labels).sum(dim=1)

    return step


class _Factor(nn.Module):
    """Where a dropout was: multiplies with what it would have drawn."""

    factor: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class _GlobalPool(nn.Module):
    """What `nn.AdaptiveAvgPool2d(1)` calculates, in an operation that vmap knows."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3), keepdim=True)


class _DropoutDraws:
    """A copy of the network without its dropouts, and what they draw: each run's numbers, as if it were alone."""

    def __init__(self, model: nn.Module) -> None:
        self.model = copy.deepcopy(model).train()
        self._whole = copy.deepcopy(model).eval()  # with them, to see what goes into them
        dropouts = {name: module for name, module in self._whole.named_modules() if isinstance(module, _DROPOUTS)}
        self._names = list(dropouts)
        for name, module in self._whole.named_modules():
            pool = isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1))
            if name in dropouts or pool:
                parent, _, leaf = name.rpartition(".")
                setattr(self.model.get_submodule(parent), leaf, _GlobalPool() if pool else _Factor())
        self._inputs: dict[int, list[tuple[nn.Module, Tensor]]] = {}  # by batch size, in the order of calls

    def named(self, drawn: Sequence[Tensor]) -> dict[str, Tensor]:
        """What `draw` gives, as buffers of `model`."""
        return {f"{name}.factor": factor for name, factor in zip(self._names, drawn, strict=True)}

    def draw(self, seeds: Sequence[int], count: int) -> list[Tensor]:
        """What each dropout multiplies its input with, [S, count, …], in the order of their names."""
        if not self._names:
            return []
        if count not in self._inputs:
            self._inputs[count] = self._look(count)
        rows = []
        for seed in seeds:
            seed_network(seed, self._inputs[count][0][1].device)
            drawn = {dropout: dropout.train()(ones) for dropout, ones in self._inputs[count]}
            rows.append([drawn[self._whole.get_submodule(name)] for name in self._names])
        return [torch.stack(factors) for factors in zip(*rows, strict=True)]

    def _look(self, count: int) -> list[tuple[nn.Module, Tensor]]:
        """Each dropout with ones in the shape and layout of its input."""
        found: list[tuple[nn.Module, Tensor]] = []

        def note(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            found.append((module, torch.ones_like(arguments[0])))

        hooks = [self._whole.get_submodule(name).register_forward_pre_hook(note) for name in self._names]
        device = next(self._whole.parameters()).device
        digits = torch.zeros(count, 1, 28, 28, device=device)
        with torch.no_grad():
            self._whole.eval()(digits)
        for hook in hooks:
            hook.remove()
        if sorted(map(id, (module for module, _ in found))) != sorted(
            id(self._whole.get_submodule(name)) for name in self._names
        ):
            raise ConfigError(
                "Runs are trained at once only where each dropout layer of a network is used once. "
                "Choose another engine: the runs are then trained one by one."
            )
        return found
