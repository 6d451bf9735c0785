"""Weights and their card: `<model>.safetensors` beside `<model>.json`, written atomically and loaded strictly.

The card says where weights come from and how digits must be prepared for them; it holds the SHA-256 of the weights'
bytes, so that a card is never read with other weights.
"""

import hashlib
import importlib.resources
from pathlib import Path

import safetensors.torch
import torch
from msgspec.structs import replace
from safetensors import SafetensorError
from torch import Tensor, nn

from tinydigits.errors import WeightsError, reason_of
from tinydigits.models.registry import canonical_name, list_models
from tinydigits.records import Card, read_record, write_record
from tinydigits.storage import write_bytes

WEIGHTS_FILE = "model.safetensors"  # in a run directory


def save_weights(path: Path, model: nn.Module, card: Card) -> Card:
    """Write the weights to `path` (….safetensors) and the card beside them (….json), each atomically.

    Returns:
        The card as written, with the parameter count and the hash of the weights.

    Raises:
        StorageError: one of them cannot be written.
    """
    assert path.suffix == ".safetensors"
    # clones, because safetensors rejects weights that two layers share
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    content = safetensors.torch.save(tensors)
    card = replace(card, parameters=count_parameters(model), weights_sha256=hashlib.sha256(content).hexdigest())
    write_bytes(path, content)
    write_record(card_path(path), card)
    return card


def card_path(path: Path) -> Path:
    """The card's file, beside the weights."""
    return path.with_suffix(".json")


def load_weights(model: nn.Module, path: Path, name: str | None = None) -> Card:
    """Load all weights of a .safetensors file into `model`; if a `name` is given, its card must name that model.

    Raises:
        WeightsError: a file is missing, damaged or foreign, or does not fit the network; the network is as it was.
    """
    card = load_card(path)
    if name is not None and canonical_name(name) != card.model:
        raise WeightsError(f"{path} holds weights of {card.model}, not of {name}. Name {card.model}, or another file.")
    tensors = _read_tensors(path, card)
    if card.parameters != count_parameters(model):
        raise WeightsError(
            f"{path}: its card counts {card.parameters:,} parameters, but the network {card.model} has "
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
    if not beside.exists():
        raise WeightsError(f"{path}: its card {beside.name} is missing. Copy it beside the weights.")
    return read_record(beside, Card, "Restore the card that was saved with the weights.", WeightsError)


def packaged_weights(name: str) -> Path | None:
    """The weights that ship with tinydigits for a model, or None.

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


def count_parameters(model: nn.Module) -> int:
    """All numbers that are trained, as PyTorch counts them: batch norm included, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _read_tensors(path: Path, card: Card) -> dict[str, Tensor]:
    """The tensors of a file, which must be the one that its card describes."""
    try:
        content = path.read_bytes()
        tensors = safetensors.torch.load(content)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {reason_of(error)}. Fix its permissions.") from error
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:  # the last three: types that torch lacks
        raise WeightsError(
            f"{path} is not an intact safetensors file: {error}. Copy it again, or train again."
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != card.weights_sha256:
        raise WeightsError(
            f"{path} and its card do not belong together: SHA-256 {digest[:12]}…, but the card says "
            f"{card.weights_sha256[:12]}…. Copy both from the same source."
        )
    return tensors


def _check_fit(path: Path, tensors: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Check that names, shapes and types are those of the network, and values finite.

    Raises:
        WeightsError: naming the first tensor that does not fit.
    """
    hint = "Name the model that these weights were trained for."
    for key, tensor in wanted.items():
        if key not in tensors:
            raise WeightsError(f"{path}: tensor {key} is missing. {hint}")
        found = tensors[key]
        if found.shape != tensor.shape or found.dtype != tensor.dtype:
            raise WeightsError(f"{path}: tensor {key} is {_kind(found)}, but the network needs {_kind(tensor)}. {hint}")
        if not bool(torch.isfinite(found).all()):
            raise WeightsError(f"{path}: tensor {key} holds values that are not finite numbers. Train again.")
    foreign = next((key for key in tensors if key not in wanted), None)
    if foreign is not None:
        raise WeightsError(f"{path}: tensor {foreign} does not belong to the network. {hint}")


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
