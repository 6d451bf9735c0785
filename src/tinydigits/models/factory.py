"""Networks by name or file: with new weights (`create_model`), trained (`load_model`), or either (`open_model`)."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from tinydigits.errors import ModelError, UnknownModelError, WeightsError, one_line
from tinydigits.models.registry import build_from_zoo, canonical_name
from tinydigits.models.user_model import build_user_model, check_model, is_user_model
from tinydigits.models.weights import WEIGHTS_FILE, load_card, load_shipped, load_weights
from tinydigits.records import Card

Model = nn.Module | Callable[[], nn.Module]
"""A network, or what makes one: a class or a function without arguments."""


def create_model(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
    """Build a model.

    Args:
        name: A model of the zoo (`plain-9k` or `plain_9k`), perhaps with options of its function
            (`blocks-19k+n-channels=16`); or the user's code (`net.py:Net`), which is run, or design (`net.toml`).
        pretrained: Load the weights that ship with tinydigits.
        **options: Passed to the zoo's function, such as `n_channels` of `blocks-19k`.

    Returns:
        A network [N, 1, 28, 28] → [N, 10] in training mode. Weights depend on torch's global seed.

    Raises:
        UnknownModelError: there is no such model.
        ModelError: the user's file does not import or holds no such network, or the option does not exist.
        ConfigError: the option's value is out of range, or the design is not valid.
        WeightsError: `pretrained`, but no weights are shipped, or they do not fit.
    """
    name = canonical_name(name)
    if is_user_model(name):
        if options or pretrained:
            raise ModelError(
                f"{name}: a model of your own takes no options and has no shipped weights. Leave out the options."
            )
        return build_user_model(name)
    model = build_from_zoo(name, **options)
    if pretrained:
        load_shipped(model, name)
    return model


def build_given(model: Model) -> nn.Module:
    """The user's own network: a copy of an instance, or what a class or function returns.

    Raises:
        ModelError: that is no network from [N, 1, 28, 28] to [N, 10] that can be trained.
    """
    name = getattr(model, "__name__", type(model).__name__)
    try:
        network = copy.deepcopy(model) if isinstance(model, nn.Module) else model()
    except Exception as error:
        raise ModelError(f"{name} cannot be built or copied: {type(error).__name__}: {one_line(error)}.") from error
    if not isinstance(network, nn.Module):
        raise ModelError(f"{name}() returns {type(network).__name__}, not a torch.nn.Module.")
    check_model(name, network)
    return network


def load_model(source: str | os.PathLike[str], model: Model | None = None) -> tuple[nn.Module, Card]:
    """A trained network in evaluation mode, with its card.

    Args:
        source: A model of the zoo with shipped weights, a run or study directory, or a .safetensors file with its card
            beside it. The card says which network to build; if that is a user's `net.py:Net`, their code runs.
        model: The network of your own that the weights are for, if no name leads to it (`train(model=…)`).

    Raises:
        UnknownModelError: it is none of these.
        WeightsError: weights or card are missing, damaged, or do not fit.
        ModelError: the user's network that the card names cannot be built.
    """
    source, path = os.fspath(source), Path(source)
    if path.suffix == ".safetensors" or path.is_dir():
        if path.is_dir():
            path = path / WEIGHTS_FILE
            if not path.is_file():
                raise WeightsError(
                    f"{source} holds no {WEIGHTS_FILE}: the run is not finished, or this is no run or study. "
                    f"Finish it with `tinydigits train --resume {source}`."
                )
        card = load_card(path)
        if model is None and "model" in card.custom:
            raise WeightsError(
                f"{source} holds weights of {card.model}, a network of your own that no name leads to. Give it: "
                f"tinydigits.load_model({source!r}, model={card.model})."
            )
        network = create_model(card.model) if model is None else build_given(model)
        load_weights(network, path)
        return network.eval(), card
    try:
        name = canonical_name(source)
    except UnknownModelError as error:
        raise UnknownModelError(f"{error} Nor is there a run directory of that name.") from error
    if is_user_model(name):
        raise WeightsError(
            f"{name} is a network without weights. Train it with `tinydigits train {name}`, then name the run."
        )
    network = create_model(name)
    return network.eval(), load_shipped(network, name)


def open_model(source: str | os.PathLike[str]) -> tuple[nn.Module, str]:
    """A network and its name: by a model's name with new weights, by a directory or file (see `load_model`) trained.

    Raises:
        TinydigitsError: as `create_model` and `load_model`.
    """
    try:
        name = canonical_name(os.fspath(source))
    except UnknownModelError:
        model, card = load_model(source)
        return model, card.model
    return create_model(name), name
