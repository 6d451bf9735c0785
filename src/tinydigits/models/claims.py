"""A user's own claims of a network, from a TOML file.

It holds keys of `ClaimsFile`, and a table `[[layer]]` of `ClaimedLayer` for each layer that something is said of,
numbered as `tinydigits inspect` numbers them.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinydigits.errors import ConfigError
from tinydigits.models.inspect import Inspection
from tinydigits.models.registry import Claim, Figure, Statement
from tinydigits.settings import build, read_settings

_FIGURES = ("parameters", "macs", "receptive_field", "total_mb")
_FACTS = ("batch_norm", "dropout", "global_pooling", "single_linear_head")


@dataclass(frozen=True)
class ClaimedLayer:
    """What a claims file says of one layer; lengths in input pixels, `output` as "12×12" or "16×12×12"."""

    number: int
    parameters: int | None = None
    output: str | None = None
    receptive_field: int | None = None
    jump: int | None = None


@dataclass(frozen=True)
class ClaimsFile:
    """What a claims file says of the whole network.

    `parameters`, `macs`, `receptive_field` (of the last layer) and `total_mb` are exact, `total_mb` to two decimals;
    `accuracy`, in [0, 1], is at least reached, and `epochs` are at most needed. `source`: where the claims are from.
    """

    parameters: int | None = None
    macs: int | None = None
    accuracy: float | None = None
    epochs: int | None = None
    receptive_field: int | None = None
    total_mb: float | None = None
    batch_norm: bool | None = None
    dropout: bool | None = None
    global_pooling: bool | None = None
    single_linear_head: bool | None = None
    source: str | None = None


def read_claims(path: Path, inspection: Inspection) -> Claim:
    """A user's claims of the inspected network, from a TOML file.

    Raises:
        ConfigError: the file cannot be read, a key or value is wrong, it claims nothing, or claims something of a layer
            that the network does not have.
    """
    values = read_settings(path)
    rows = values.pop("layer", [])
    file = build(ClaimsFile, values, str(path))
    _check_ranges(file, str(path))
    figures = [
        Figure(quantity, getattr(file, quantity)) for quantity in _FIGURES if getattr(file, quantity) is not None
    ]
    statements = [Statement(fact, getattr(file, fact)) for fact in _FACTS if getattr(file, fact) is not None]
    figures += _layer_figures(rows, str(path))
    _check_numbers(figures, inspection, str(path))
    if not figures and not statements and file.accuracy is None and file.epochs is None:
        raise ConfigError(f"{path} claims nothing. Give it a line such as parameters = 7_872, or a table [[layer]].")
    return Claim(
        accuracy=file.accuracy,
        epochs=file.epochs,
        source=file.source or str(path),
        figures=tuple(figures),
        statements=tuple(statements),
    )


def _check_ranges(file: ClaimsFile, source: str) -> None:
    if file.accuracy is not None and not 0 <= file.accuracy <= 1:
        percent = f" Write {file.accuracy / 100:g} for {file.accuracy:g} %." if 1 < file.accuracy <= 100 else ""
        raise ConfigError(f"{source}: accuracy = {file.accuracy:g}: it is from 0 to 1.{percent}")
    for key in ("parameters", "macs", "epochs", "receptive_field", "total_mb"):
        _not_below(source, key, getattr(file, key), 0 if key in ("macs", "total_mb") else 1)


def _not_below(source: str, key: str, value: float | None, least: int) -> None:
    if value is not None and not least <= value < math.inf:
        raise ConfigError(f"{source}: {key} = {value:,}: it is at least {least}. Mend it, or leave it out.")


def _layer_figures(rows: Any, source: str) -> list[Figure]:
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise ConfigError(f"{source}: layer is a list of tables. Begin each with a line [[layer]].")
    layers = [_claimed_layer(row, source, f"layer[{index}]") for index, row in enumerate(rows, start=1)]
    twice = [number for number, count in Counter(layer.number for layer in layers).items() if count > 1]
    if twice:
        raise ConfigError(f"{source}: layer {twice[0]} stands there twice. Put all that is said of it into one table.")
    return [figure for layer in layers for figure in _figures_of(layer, source)]


def _check_numbers(figures: list[Figure], inspection: Inspection, source: str) -> None:
    last = max((figure.layer or 0 for figure in figures), default=0)
    if last > len(inspection.layers):
        raise ConfigError(
            f"{source}: layer {last}: {inspection.model} has {len(inspection.layers)} layers. Number them as "
            "`tinydigits inspect` does, where activations and pools count too."
        )


def _claimed_layer(row: Mapping[str, Any], source: str, place: str) -> ClaimedLayer:
    """One table; its output may be a list of whole numbers too."""
    output = row.get("output")
    if isinstance(output, list) and all(type(side) is int for side in output):
        row = {**row, "output": "×".join(map(str, output))}
    layer = build(ClaimedLayer, row, source, f"{place}.")
    for key, value in vars(layer).items():
        if key != "output":
            _not_below(source, f"{place}.{key}", value, 0 if key == "parameters" else 1)
    if list(vars(layer).values()).count(None) == len(vars(layer)) - 1:
        raise ConfigError(
            f"{source}: {place} says nothing of layer {layer.number}. Give it parameters, output, receptive_field or "
            "jump, or remove it."
        )
    return layer


def _figures_of(layer: ClaimedLayer, source: str) -> list[Figure]:
    figures = [
        Figure(quantity, value, layer.number)
        for quantity in ("parameters", "receptive_field", "jump")
        if (value := getattr(layer, quantity)) is not None
    ]
    if layer.output is None:
        return figures
    numbers = re.fullmatch(r"\s*(\d{1,6})(?:\s*[x×*]\s*(\d{1,6}))?(?:\s*[x×*]\s*(\d{1,6}))?\s*", layer.output, re.ASCII)
    if numbers is None:
        raise ConfigError(
            f"{source}: layer {layer.number}: output = {layer.output!r}: it is the size of the map, as '12×12' or "
            "[12, 12], or with its channels first, as '16×12×12'."
        )
    shape = tuple(int(number) for number in numbers.groups() if number is not None)
    return [*figures, Figure("output", shape, layer.number)]
