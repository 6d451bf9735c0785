"""The one preparation of a training: network, digits, device and backend, for runs, the finder and the estimator."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from tinydigits.data.dataset import Dataset, DigitData
from tinydigits.data.normalize import normalization_of
from tinydigits.data.sources import load_dataset
from tinydigits.errors import ConfigError
from tinydigits.models.factory import build_given, create_model
from tinydigits.models.registry import canonical_name
from tinydigits.training.backends.choice import Choice, choose_backend
from tinydigits.training.config import RunConfig
from tinydigits.training.device import choose_device, keep_freed_memory, to_memory_format
from tinydigits.training.loop import Custom, Digits, Task


@dataclass(frozen=True, eq=False)
class BuiltNetwork:
    """A network on its device, ready to be trained as its `config` says, whose names are settled."""

    config: RunConfig
    model: nn.Module
    custom: Custom
    why_torch: str  # see `Choice`


def build_network(config: RunConfig, custom: Custom | None = None) -> BuiltNetwork:
    """Make this process ready to train, and build the network, by its seed; device and backend are chosen.

    Raises:
        ConfigError, UnknownModelError, ModelError: there is no such device or model, or it cannot be built.
        ToolMissingError: the backend is native, and there is no C compiler.
    """
    custom = custom or Custom()
    device = choose_device("cpu" if config.backend == "native" else config.device)
    keep_freed_memory()
    torch.set_num_threads(config.threads)  # read back by loop, backends, device and environment
    torch.manual_seed(config.seed)
    if custom.model is None:
        config = replace(config, model=canonical_name(config.model))
        model = create_model(config.model)
    else:
        model = build_given(custom.model)
        config = replace(config, model=type(model).__name__)
    if custom.parts and config.backend == "native":
        raise ConfigError(
            f"backend = 'native' knows no custom {', '.join(custom.parts)}. Omit it: PyTorch trains such a run."
        )
    choice = Choice("torch", "custom parts") if custom.parts else choose_backend(config, model, device.type)
    config = replace(config, device=device.type, backend=choice.name)
    return BuiltNetwork(config, model, custom, choice.why_torch)


def prepare_task(network: BuiltNetwork, data: DigitData | None = None) -> tuple[Task, DigitData]:
    """Load the digits (unless they are given), and put them and the network on the device.

    Raises:
        DataError: the digits are not there, or damaged.
    """
    config, device = network.config, torch.device(network.config.device)
    to_memory_format(network.model, device)
    data = data or load_dataset(config.data, config.data_dir)
    train, evaluation = data.split(config.split)
    task = Task(
        train=to_device(train, device),
        evaluation=to_device(evaluation, device),
        normalization=normalization_of(data.train),
        recipe=config.recipe,
        seed=config.seed,
        backend=config.backend,
        custom=network.custom,
    )
    return task, data


def to_device(dataset: Dataset, device: torch.device) -> Digits:
    """The digits as the loop takes them."""
    labels = torch.from_numpy(dataset.labels).to(device, torch.int64)
    return Digits(torch.from_numpy(dataset.images).to(device), labels)
