"""A run as one immutable value: validated when it is made, saved beside its weights, read from JSON or TOML."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tinydigits.data.augment import Augmentation
from tinydigits.data.dataset import SPLITS
from tinydigits.errors import ConfigError
from tinydigits.settings import build, check_between, check_one_of

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("constant", "step", "cosine", "one_cycle")
DEVICES = ("auto", "cpu", "cuda", "mps")
BACKENDS = ("auto", "torch", "native")


@dataclass(frozen=True)
class Optimizer:
    """`sgd` (with momentum) or `adamw`. Weight decay spares batch norm and biases."""

    name: str = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_one_of("optimizer.name", self.name, OPTIMIZERS)
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ConfigError(f"optimizer.learning_rate = {self.learning_rate}: must be greater than 0; try 0.01.")
        check_between("optimizer.momentum", self.momentum, 0, 1, top_open=True)
        check_between("optimizer.weight_decay", self.weight_decay, 0, 1)
        if self.nesterov and not self.momentum:
            raise ConfigError("optimizer.nesterov needs optimizer.momentum above 0.")


@dataclass(frozen=True)
class Schedule:
    """How the learning rate moves, as a factor of the optimiser's.

    `constant`; `step`: times `factor` every `step_epochs`; `cosine`: from 1 down to `final`;
    `one_cycle`: a cosine from 0.04 up to 1 during the fraction `warmup` of all steps, then down to `final`.
    """

    name: str = "constant"
    warmup: float = 0.25
    final: float = 0.0
    step_epochs: int = 10
    factor: float = 0.1

    def __post_init__(self) -> None:
        check_one_of("schedule.name", self.name, SCHEDULES)
        check_between("schedule.warmup", self.warmup, 0, 1, top_open=True)
        check_between("schedule.final", self.final, 0, 1)
        check_between("schedule.factor", self.factor, 0, 1)
        if self.step_epochs < 1:
            raise ConfigError(f"schedule.step_epochs = {self.step_epochs}: must be at least 1.")


@dataclass(frozen=True)
class Recipe:
    """How to train, whatever the network and the digits."""

    name: str
    epochs: int
    batch_size: int
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    augmentation: Augmentation = field(default_factory=Augmentation)
    label_smoothing: float = 0.0
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ConfigError(f"epochs = {self.epochs}: a run has at least 1 epoch.")
        if self.batch_size < 2:
            raise ConfigError(f"batch_size = {self.batch_size}: batch norm needs at least 2 digits per batch.")
        check_between("label_smoothing", self.label_smoothing, 0, 1, top_open=True)
        check_between("ema_decay", self.ema_decay, 0, 1, top_open=True)

    @property
    def augmented_epochs(self) -> int:
        """How many epochs are augmented, counted from the first."""
        return max(0, self.epochs - self.augmentation.off_epochs) if self.augmentation.active else 0


@dataclass(frozen=True)
class RunConfig:
    """One training: which model, which recipe, which digits, which seed, where.

    `data_dir` is where MNIST lies, if not in one of the usual directories. `threads` are those of the CPU: for networks
    this small a second one buys a fifth on an idle machine, and costs much on a busy one. `backend` calculates the
    steps: `torch`; `native`, the same in C, faster for small networks, on the CPU, with a C compiler; or `auto`, which
    is native if network and machine allow it, else torch.
    """

    model: str
    recipe: Recipe
    data: str = "auto"
    data_dir: str | None = None
    split: Literal["val", "test"] = "test"
    seed: int = 0
    device: str = "auto"
    threads: int = 1
    backend: str = "auto"

    def __post_init__(self) -> None:
        check_one_of("split", self.split, SPLITS)
        check_one_of("device", self.device, DEVICES)
        if not 0 <= self.seed < 2**31:
            raise ConfigError(f"seed = {self.seed}: must be a whole number from 0 to {2**31 - 1}.")
        if self.threads < 1:
            raise ConfigError(f"threads = {self.threads}: must be at least 1.")
        check_one_of("backend", self.backend, BACKENDS)
        if self.backend == "native" and self.device not in ("auto", "cpu"):
            raise ConfigError(
                f"backend = 'native' with device {self.device!r}: it works on the CPU. Omit --device or --backend."
            )

    def as_dict(self) -> dict[str, object]:
        """Plain data, as it stands in `config.json`."""
        return dataclasses.asdict(self)


def config_from_dict(values: Mapping[str, object], source: str) -> RunConfig:
    """A RunConfig from plain data; `source` names the file in error messages.

    Raises:
        ConfigError: a key is unknown or missing, a value has the wrong type or is out of range.
    """
    _reject_flips(values, source)
    return build(RunConfig, values, source)


def _reject_flips(values: Mapping[str, object], source: str, prefix: str = "") -> None:
    for key, value in values.items():
        if "flip" in key:
            raise ConfigError(
                f"{source}: {prefix}{key}: flips are not offered, because a mirrored 2, 5 or 7 is no digit. "
                "Use rotation_degrees, shift_pixels, scale or shear_degrees."
            )
        if isinstance(value, Mapping):
            _reject_flips(value, source, f"{prefix}{key}.")
