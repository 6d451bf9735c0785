"""A run as one immutable value: validated when it is made, saved beside its weights, read from JSON or TOML."""

import dataclasses
import difflib
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

from tinydigits.data.augment import Augmentation
from tinydigits.data.dataset import PROTOCOLS
from tinydigits.errors import ConfigError

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("constant", "step", "cosine", "one_cycle")
DEVICES = ("auto", "cpu", "cuda", "mps")

_Config = TypeVar("_Config")


@dataclass(frozen=True)
class Optimizer:
    """`sgd` (with momentum) or `adamw`. Weight decay spares batch norm and biases."""

    name: str = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _one_of("optimizer.name", self.name, OPTIMIZERS)
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ConfigError(f"optimizer.learning_rate = {self.learning_rate}: it is greater than 0; try 0.01.")
        _between("optimizer.momentum", self.momentum, 0, 1, top_open=True)
        _between("optimizer.weight_decay", self.weight_decay, 0, 1)
        if self.nesterov and not self.momentum:
            raise ConfigError("optimizer.nesterov needs optimizer.momentum above 0.")


@dataclass(frozen=True)
class Schedule:
    """How the learning rate moves, as a factor of the optimiser's.

    `constant`; `step`: times `factor` every `step_epochs`; `cosine`: from 1 down to `final`;
    `one_cycle`: a cosine from 0.04 up to 1 during the share `warmup` of all steps, then down to `final`.
    """

    name: str = "constant"
    warmup: float = 0.25
    final: float = 0.0
    step_epochs: int = 10
    factor: float = 0.1

    def __post_init__(self) -> None:
        _one_of("schedule.name", self.name, SCHEDULES)
        _between("schedule.warmup", self.warmup, 0, 1, top_open=True)
        _between("schedule.final", self.final, 0, 1)
        _between("schedule.factor", self.factor, 0, 1)
        if self.step_epochs < 1:
            raise ConfigError(f"schedule.step_epochs = {self.step_epochs}: it is at least 1.")


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
            raise ConfigError(f"batch_size = {self.batch_size}: batch norm needs at least 2 digits a batch.")
        _between("label_smoothing", self.label_smoothing, 0, 1, top_open=True)
        _between("ema_decay", self.ema_decay, 0, 1, top_open=True)


@dataclass(frozen=True)
class RunConfig:
    """One training: which model, which recipe, which digits, which seed, where.

    `data_dir` is where MNIST lies, if not in one of the usual places. `threads` None means one per core.
    """

    model: str
    recipe: Recipe
    data: str = "auto"
    data_dir: str | None = None
    protocol: Literal["tune", "final"] = "final"
    seed: int = 0
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        _one_of("protocol", self.protocol, PROTOCOLS)
        _one_of("device", self.device, DEVICES)
        if not 0 <= self.seed < 2**31:
            raise ConfigError(f"seed = {self.seed}: it is a whole number from 0 to {2**31 - 1}.")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads = {self.threads}: it is at least 1; leave it out for one per core.")

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as it stands in `config.json`."""
        return dataclasses.asdict(self)


def config_from_dict(values: Mapping[str, Any], source: str) -> RunConfig:
    """A RunConfig from plain data; `source` names the file in error messages.

    Raises:
        ConfigError: a key is unknown or missing, a value has the wrong type or is out of range.
    """
    return _build(RunConfig, values, source, "")


def read_config(path: Path) -> dict[str, Any]:
    """The plain data of a `.toml` or `.json` config file.

    Raises:
        ConfigError: the file cannot be read or parsed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ConfigError(f"{path} cannot be read: {reason.lower()}. --config takes a .toml or .json file.") from error
    try:
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        kind = "TOML" if path.suffix == ".toml" else "JSON"
        raise ConfigError(f"{path} is no valid {kind}: {error}. Mend that place and start again.") from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path} holds a {type(values).__name__}: a config is an object with keys such as model and recipe."
        )
    return values


def _build(kind: type[_Config], values: Mapping[str, Any], source: str, prefix: str) -> _Config:
    hints = get_type_hints(kind)
    parts = dataclasses.fields(kind)  # type: ignore[arg-type]
    for key in values:
        if key not in hints:
            raise ConfigError(_unknown_key(prefix + key, list(hints), source))
    arguments: dict[str, Any] = {}
    for part in parts:
        name = prefix + part.name
        if part.name in values:
            arguments[part.name] = _convert(hints[part.name], values[part.name], source, name)
        elif part.default is dataclasses.MISSING and part.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{source}: {name} is missing, and it has no default. Add it.")
    return kind(**arguments)


def _convert(hint: Any, value: Any, source: str, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{source}: {name} = {value!r}: it is a table of settings.")
        return _build(hint, value, source, name + ".")  # type: ignore[arg-type]
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    allowed = [t for t in words if t is hint or t in getattr(hint, "__args__", ())] or [str]
    if value is None and type(None) in getattr(hint, "__args__", ()):
        return None
    if bool not in allowed and isinstance(value, bool):
        raise ConfigError(f"{source}: {name} = {value!r}: it is {words[allowed[0]]}.")
    if float in allowed and isinstance(value, int):
        return float(value)
    if not isinstance(value, tuple(allowed)):
        raise ConfigError(f"{source}: {name} = {value!r}: it is {words[allowed[0]]}.")
    return value


def _unknown_key(name: str, known: list[str], source: str) -> str:
    if "flip" in name:
        return (
            f"{source}: {name}: flips are not offered, because a mirrored 2, 5 or 7 is no digit. "
            "Use rotation_degrees, shift_pixels, scale or shear_degrees."
        )
    near = difflib.get_close_matches(name.rsplit(".", 1)[-1], known, n=1, cutoff=0.5)
    remedy = f"Did you mean {near[0]}?" if near else f"Known here: {', '.join(known)}."
    return f"{source}: {name} is no setting. {remedy}"


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{name} = {value!r}: it is one of {', '.join(known)}.")


def _between(name: str, value: float, low: float, high: float, *, top_open: bool = False) -> None:
    if not (low <= value < high if top_open else low <= value <= high):
        rule = f"at least {low:g} and below {high:g}" if top_open else f"from {low:g} to {high:g}"
        raise ConfigError(f"{name} = {value}: it is {rule}.")
