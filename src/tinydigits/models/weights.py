"""Weights and their card: `<model>.safetensors` beside `<model>.json`, written atomically and loaded strictly.

The card says where weights come from and how digits must be prepared for them; it carries the SHA-256 of the weights'
bytes, so that neither is taken for another's.
"""

import dataclasses
import hashlib
import importlib.resources
import json
import math
import os
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from tinydigits import storage
from tinydigits.errors import UnknownModelError, WeightsError
from tinydigits.models.registry import canonical_name, create_model, is_users_own, list_models

SCHEMA = 1
FILE_NAME = "model.safetensors"  # in a run directory


@dataclass(frozen=True)
class Card:
    """What belongs to weights. Networks take (x / 255 − `mean`) / `deviation`.

    `accuracy` in [0, 1] is the last epoch's, None if nothing was scored; `chosen` is a sentence on how these weights
    were chosen. `calibration`, fitted on held-out digits, holds at least `temperature`, by which logits are divided,
    and `threshold`: a picture whose highest logit is below it is no digit; None if nothing was fitted. `study` says how
    a study of several seeds of the same came out. `parameters` and `weights_sha256` are filled in by `save_weights`.
    Of weights that are shipped it also says what they cost: `macs` a picture, and `int8`, which is `accuracy` on the
    test digits, `weight_bytes` and `activation_bytes` of the int8 graph beside them.
    """

    model: str
    mean: float
    deviation: float
    data: str
    data_sha256: str
    protocol: str
    recipe_name: str
    recipe: dict[str, Any]
    seed: int
    epochs: int
    accuracy: float | None
    chosen: str
    command: str
    environment: dict[str, Any]
    calibration: dict[str, Any] | None = None
    study: dict[str, Any] | None = None
    macs: int | None = None
    int8: dict[str, Any] | None = None
    parameters: int = 0
    weights_sha256: str = ""
    schema: int = SCHEMA


def save_weights(path: Path, model: nn.Module, card: Card) -> Card:
    """Write the weights to `path` (….safetensors) and the card beside them (….json), each atomically.

    Returns:
        The card as written, with the parameter count and the hash of the weights.

    Raises:
        StorageError: one of them cannot be written.
    """
    assert path.suffix == ".safetensors"
    # clones, because weights that two layers share are refused otherwise
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    content = safetensors.torch.save(tensors)
    card = dataclasses.replace(
        card, parameters=count_parameters(model), weights_sha256=hashlib.sha256(content).hexdigest(), schema=SCHEMA
    )
    storage.write_bytes(path, content)
    storage.write_json(card_path(path), dataclasses.asdict(card))
    return card


def card_path(path: Path) -> Path:
    """Where the card of these weights stands."""
    return path.with_suffix(".json")


def load_weights(model: nn.Module, path: Path, name: str | None = None) -> Card:
    """Load weights into `model`, all of them or none.

    Args:
        model: The network they are for.
        path: The .safetensors file; its card stands beside it.
        name: The network's name, if the card has to agree on it.

    Raises:
        WeightsError: a file is missing, damaged or foreign, or does not fit the network; the network is as it was.
    """
    card = load_card(path)
    if name is not None and canonical_name(name) != card.model:
        raise WeightsError(f"{path} holds weights of {card.model}, not of {name}. Name {card.model}, or another file.")
    tensors = _read_tensors(path, card)
    if card.parameters != count_parameters(model):
        raise WeightsError(
            f"{path}: its card counts {card.parameters:,} parameters and the network {card.model} has "
            f"{count_parameters(model):,}. The network has changed since; train it again."
        )
    _check_fit(path, tensors, model.state_dict())
    model.load_state_dict(tensors)
    return card


def load_card(path: Path) -> Card:
    """Read and check the card that belongs to the weights at `path`.

    Raises:
        WeightsError: weights or card are missing, or the card is not one of ours.
    """
    if not path.is_file():
        raise WeightsError(
            f"{path}: there is no such file. Name a .safetensors file that `tinydigits train` has written."
        )
    beside = card_path(path)
    try:
        document = json.loads(beside.read_bytes())
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: its card {beside.name} is missing. It must stand beside the weights.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"{beside} is no readable JSON: {error}. Take it anew from where the weights came from."
        ) from error
    fault = _card_fault(document)
    if fault:
        raise WeightsError(
            f"{beside} is no card of tinydigits weights: {fault}. Take the card that was saved with them."
        )
    return Card(**document)


def packaged_weights(name: str) -> Path | None:
    """The file of the weights that ship with tinydigits for a model, or None.

    Raises:
        UnknownModelError: there is no such model.
    """
    file = f"{canonical_name(name)}.safetensors"
    path = Path(str(importlib.resources.files("tinydigits") / "weights" / file))
    return path if path.is_file() else None


def load_shipped(model: nn.Module, name: str) -> Card:
    """Load the weights that ship with tinydigits for the model `name`.

    Raises:
        WeightsError: none are shipped, or they do not fit.
    """
    path = packaged_weights(name)
    if path is None:
        shipped = ", ".join(other for other in list_models() if packaged_weights(other)) or "none"
        raise WeightsError(
            f"{name}: no weights are shipped for it (shipped: {shipped}). Train it with `tinydigits train {name}` and "
            f"name the run directory."
        )
    return load_weights(model, path, name)


def load_model(source: str | os.PathLike[str]) -> tuple[nn.Module, Card]:
    """A trained network in evaluation mode, with its card.

    Args:
        source: A model of the zoo with shipped weights, a run directory, or a .safetensors file with its card beside
            it. The card says which network to build; if that is a user's `net.py:Net`, their code runs.

    Raises:
        UnknownModelError: it is none of these.
        WeightsError: weights or card are missing, damaged, or do not fit.
        ModelError: the user's network that the card names cannot be built.
    """
    source, path = os.fspath(source), Path(source)
    if path.suffix == ".safetensors" or path.is_dir():
        if path.is_dir():
            path = path / FILE_NAME
            if not path.is_file():
                raise WeightsError(
                    f"{source} holds no {FILE_NAME}: the run is not finished, or it is no run directory. "
                    f"Finish it with `tinydigits train --resume {source}`."
                )
        card = load_card(path)
        model = create_model(card.model)
        load_weights(model, path)
        return model.eval(), card
    try:
        name = canonical_name(source)
    except UnknownModelError as error:
        raise UnknownModelError(f"{error} Nor is there a run directory of that name.") from error
    if is_users_own(name):
        raise WeightsError(
            f"{name} is a network without weights. Train it with `tinydigits train {name}`, and name the run."
        )
    model = create_model(name)
    return model.eval(), load_shipped(model, name)


def count_parameters(model: nn.Module) -> int:
    """All numbers that are trained, as PyTorch counts them: batch norm included, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _card_fault(document: Any) -> str | None:
    """What keeps a JSON document from being a card; None: nothing does."""
    if not isinstance(document, dict) or "weights_sha256" not in document:
        return "it has no weights_sha256"
    if document.get("schema") != SCHEMA:
        return f"its schema is {document.get('schema')!r}, and this version reads {SCHEMA}"
    hints = typing.get_type_hints(Card)
    required = {part.name for part in dataclasses.fields(Card) if part.default is dataclasses.MISSING}
    if odd := sorted((required - set(document)) | (set(document) - set(hints))):
        return f"{', '.join(odd)} {'is' if len(odd) == 1 else 'are'} missing or unknown"
    for key, value in document.items():
        if isinstance(value, bool) or not isinstance(value, _json_types(hints[key])):
            return f"{key} is {value!r}"
        if isinstance(value, float) and not math.isfinite(value):
            return f"{key} is {value}"
    if document["deviation"] <= 0:
        return f"deviation is {document['deviation']}, and digits are divided by it"
    return _calibration_fault(document.get("calibration"))


def _json_types(hint: Any) -> tuple[type, ...]:
    """What a value with this type hint may be after it went through JSON, where 1.0 may stand as 1."""
    members = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    plain = tuple(typing.get_origin(member) or member for member in members)
    return (*plain, int) if float in plain else plain


def _calibration_fault(calibration: dict[str, Any] | None) -> str | None:
    """What keeps a calibration from being used; None: nothing does."""
    if calibration is None:
        return None
    for key in ("temperature", "threshold"):
        value = calibration.get(key)
        if isinstance(value, bool) or not isinstance(value, float | int) or not math.isfinite(value):
            return f"calibration.{key} is {value!r}"
    if calibration["temperature"] <= 0:
        return f"calibration.temperature is {calibration['temperature']}, and logits are divided by it"
    return None


def _read_tensors(path: Path, card: Card) -> dict[str, Tensor]:
    """The tensors of a file that is the one its card speaks of."""
    try:
        content = path.read_bytes()
        tensors = safetensors.torch.load(content)
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read: {(error.strerror or str(error)).lower()}. Mend its permissions."
        ) from error
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:  # the last three: types torch has not
        raise WeightsError(
            f"{path} is no intact safetensors file: {error}. Take it anew from where it came from, or train again."
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != card.weights_sha256:
        raise WeightsError(
            f"{path} and its card do not belong together: SHA-256 {digest[:12]}…, and the card says "
            f"{card.weights_sha256[:12]}…. Take both from the same place."
        )
    return tensors


def _check_fit(path: Path, tensors: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Same names, shapes and types as the network has, and finite values.

    Raises:
        WeightsError: naming the first tensor that does not fit.
    """
    remedy = "Name the model that these weights were trained for."
    for key, tensor in wanted.items():
        if key not in tensors:
            raise WeightsError(f"{path}: tensor {key} is missing. {remedy}")
        found = tensors[key]
        if found.shape != tensor.shape or found.dtype != tensor.dtype:
            raise WeightsError(
                f"{path}: tensor {key} is {_kind(found)}, and the network needs {_kind(tensor)}. {remedy}"
            )
        if not bool(torch.isfinite(found).all()):
            raise WeightsError(f"{path}: tensor {key} holds values that are not finite numbers. Train again.")
    foreign = next((key for key in tensors if key not in wanted), None)
    if foreign is not None:
        raise WeightsError(f"{path}: tensor {foreign} does not belong to the network. {remedy}")


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
