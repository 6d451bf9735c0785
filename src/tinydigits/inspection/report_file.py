"""What a user reports of a network, from a TOML file.

It holds keys of `ReportedFile`, and for each layer that it describes a table `[[layer]]` of `ReportedLayer`; layers are
numbered as in `tinydigits inspect`.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinydigits.errors import ConfigError
from tinydigits.inspection.result import Inspection
from tinydigits.models.reported import Figure, Reported, Statement
from tinydigits.settings import build, check_fraction, read_settings

_FACTS = ("batch_norm", "dropout", "global_pooling", "single_linear_head")
# quantity → its least value
_OF_NETWORK = {"parameters": 1, "macs": 0, "receptive_field": 1, "total_mb": 0}
_OF_LAYER = {"parameters": 0, "receptive_field": 1, "jump": 1}


@dataclass(frozen=True)
class ReportedLayer:
    """What the file says of one layer; lengths in input pixels, `output` as "12×12" or "16×12×12"."""

    number: int
    parameters: int | None = None
    output: str | None = None
    receptive_field: int | None = None
    jump: int | None = None


@dataclass(frozen=True)
class ReportedFile:
    """What the file says of the whole network.

    `parameters`, `macs`, `receptive_field` (of the last layer) and `total_mb` are exact, `total_mb` to two decimals;
    `accuracy`, in [0, 1], is a lower bound and `epochs` an upper one. `source`: where this is reported.
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


def read_reported(path: Path, inspection: Inspection) -> Reported:
    """What a user reports of the inspected network, from a TOML file.

    Raises:
        ConfigError: the file cannot be read, a key or value is wrong, it says nothing, or it describes a layer that the
            network does not have.
    """
    source, values = str(path), read_settings(path)
    rows = values.pop("layer", [])
    file = build(ReportedFile, values, source)
    if file.accuracy is not None:
        check_fraction(f"{source}: accuracy", file.accuracy)
    _check_least(f"{source}: epochs", file.epochs, 1)
    figures = [*_figures(file, _OF_NETWORK, f"{source}: "), *_layer_figures(rows, source)]
    last = max((figure.layer or 0 for figure in figures), default=0)
    if last > len(inspection.layers):
        raise ConfigError(
            f"{source}: layer {last}: {inspection.model} has {len(inspection.layers)} layers. Number them as "
            "`tinydigits inspect` does, which counts activations and pools too."
        )
    statements = [Statement(fact, holds) for fact in _FACTS if (holds := getattr(file, fact)) is not None]
    if not figures and not statements and file.accuracy is None and file.epochs is None:
        raise ConfigError(f"{path} reports nothing. Add a line such as parameters = 7_872, or a table [[layer]].")
    return Reported(
        accuracy=file.accuracy,
        epochs=file.epochs,
        source=file.source or source,
        figures=tuple(figures),
        statements=tuple(statements),
    )


def _figures(
    table: ReportedFile | ReportedLayer, quantities: Mapping[str, int], where: str, layer: int | None = None
) -> list[Figure]:
    """The figures that a table of the file holds; `where` it stands goes before the key in errors."""
    figures = [Figure(key, value, layer) for key in quantities if (value := getattr(table, key)) is not None]
    for figure in figures:
        _check_least(where + figure.quantity, figure.stated, quantities[figure.quantity])
    return figures


def _check_least(name: str, value: Any, least: int) -> None:
    if value is not None and not least <= value < math.inf:
        raise ConfigError(f"{name} = {value:,}: must be at least {least}. Correct it, or leave it out.")


def _layer_figures(rows: object, source: str) -> list[Figure]:
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise ConfigError(f"{source}: layer must be a list of tables. Begin each with a line [[layer]].")
    layers = [_reported_layer(row, source, f"layer[{index}]") for index, row in enumerate(rows, start=1)]
    numbers = Counter(figures[0].layer for figures in layers)
    twice = next((number for number, count in numbers.items() if count > 1), None)
    if twice is not None:
        raise ConfigError(f"{source}: layer {twice} is described twice. Use one table for it.")
    return [figure for figures in layers for figure in figures]


def _reported_layer(row: Mapping[str, object], source: str, path: str) -> list[Figure]:
    """The figures of one table; its output may also be a list of integers."""
    output = row.get("output")
    if isinstance(output, list) and all(type(side) is int for side in output):
        row = {**row, "output": "×".join(map(str, output))}
    layer = build(ReportedLayer, row, source, f"{path}.")
    _check_least(f"{source}: {path}.number", layer.number, 1)
    figures = _figures(layer, _OF_LAYER, f"{source}: {path}.", layer.number)
    if layer.output is not None:
        figures.append(Figure("output", _shape(layer.output, f"{source}: layer {layer.number}"), layer.number))
    if not figures:
        raise ConfigError(
            f"{source}: {path} says nothing about layer {layer.number}. Add parameters, output, receptive_field or "
            "jump, or remove it."
        )
    return figures


def _shape(text: str, where: str) -> tuple[int, ...]:
    numbers = re.fullmatch(r"\s*(\d{1,6})(?:\s*[x×*]\s*(\d{1,6}))?(?:\s*[x×*]\s*(\d{1,6}))?\s*", text, re.ASCII)
    if numbers is None:
        raise ConfigError(
            f"{where}: output = {text!r}: must be the map's size, as '12×12' or [12, 12], or with the channels first, "
            "as '16×12×12'."
        )
    return tuple(int(number) for number in numbers.groups() if number is not None)
