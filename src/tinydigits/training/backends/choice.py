"""Which backend trains a network, and why."""

from dataclasses import dataclass

from torch import nn

from tinydigits.errors import ConfigError, StorageError, ToolMissingError
from tinydigits.training.backends.native.library import load_kernels
from tinydigits.training.backends.native.network import check_native
from tinydigits.training.config import RunConfig


@dataclass(frozen=True)
class Choice:
    """A backend by name, and in a few words why it is not the native one; empty where nothing has to be said."""

    name: str
    why_torch: str = ""


def choose_backend(config: RunConfig, model: nn.Module, device: str) -> Choice:
    """The backend that a run asks for; `auto` is native where the network, the device and this machine allow it.

    Raises:
        ConfigError: `native`, and it cannot train this network.
        ToolMissingError: `native`, and there is no C compiler.
        StorageError: `native`, and the compiled library cannot be stored.
    """
    if config.backend == "torch":
        return Choice("torch")
    if config.backend == "auto" and device != "cpu":
        return Choice("torch", f"native is for the CPU, not {device}")
    try:
        check_native(model, config.threads)
        load_kernels()
    except (ConfigError, ToolMissingError, StorageError) as error:
        if config.backend == "native":
            raise
        unknown = isinstance(error, ConfigError)
        return Choice("torch", "native does not know this network" if unknown else "native needs a C compiler")
    return Choice("native")
