"""The zoo by name.

A name may carry options of its function, so that a variant can be trained, proved and loaded like any other:
`plain-9k+batch-norm+dropout=0.05` is `plain_9k(batch_norm=True, dropout=0.05)`.
"""

import fnmatch
import importlib
import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from torch import nn

from tinydigits.errors import ModelError, UnknownModelError
from tinydigits.models.reported import COMMON_RECIPE, Reported
from tinydigits.models.user_model import is_user_model
from tinydigits.settings import nearest

Builder = Callable[..., nn.Module]
Build = TypeVar("Build", bound=Builder)

_ZOO = ("tinydigits.models.documented", "tinydigits.models.tiny")


class _Entry(NamedTuple):
    build: Builder
    reported: Reported | None


_entries: dict[str, _Entry] = {}


def register(*, reported: Reported | None = None, goal: Reported | None = None) -> Callable[[Build], Build]:
    """Put the decorated function into the zoo, under its own name (with dashes).

    `reported` is what a document says of the network, `goal` what we aim at with it if there is none.

    Raises:
        ModelError: the name is taken.
    """

    def enter(build: Build) -> Build:
        name = build.__name__.replace("_", "-")
        if name in _entries:
            raise ModelError(f"{name}: the zoo already has a model of that name. Give the function another name.")
        _entries[name] = _Entry(build, reported or goal)
        return build

    return enter


def build_from_zoo(name: str, **options: Any) -> nn.Module:
    """A model of the zoo, in training mode; `options` of its function add to those in its name.

    Raises:
        UnknownModelError: there is no such model.
        ModelError: it has no such option.
        ConfigError: the option's value is out of range.
    """
    base, named = _parse(name)
    _check_options(base, options)
    return _zoo()[base].build(**{**named, **options})


def list_models(pattern: str = "*") -> list[str]:
    """Names of the zoo that match a shell-style pattern: the documented ones first, then ours."""
    return [name for name in _zoo() if fnmatch.fnmatchcase(name, pattern.replace("_", "-"))]


def canonical_name(name: str) -> str:
    """The name as screens and files show it: with dashes for the zoo, unchanged for `net.py:Net`.

    Raises:
        UnknownModelError: it is neither a model of the zoo nor a `net.py:Net`.
        ModelError: an option after the `+` does not exist, or has no value of its type.
    """
    if is_user_model(name):
        return name
    base, options = _parse(name)
    # in one order and spelling, so that one variant has one name
    parts = (key if value is True else f"{key}={value}" for key, value in sorted(options.items()))
    return "+".join((base, *parts)).replace("_", "-")


def _parse(name: str) -> tuple[str, dict[str, Any]]:
    """`plain_9k+padding=1` → `plain-9k`, {"padding": 1}; options that repeat a default are left out."""
    first, *parts = name.split("+")
    base = first.replace("_", "-")
    if base not in _zoo():
        if name.endswith(".py"):
            raise UnknownModelError(f"{name}: name the class or function in it too, after a colon, as in {name}:Net.")
        raise UnknownModelError(
            f"{first!r} is no model of the zoo. {nearest(base, list(_zoo()))} `tinydigits models` lists them all; "
            f"name your own as net.py:Net."
        )
    known = inspect.signature(_zoo()[base].build).parameters
    options: dict[str, Any] = {}
    for part in parts:
        key, _, text = part.partition("=")
        key = key.replace("-", "_")
        _check_options(base, (key,))
        if key in options:
            raise ModelError(f"{name}: {key} is given twice. Give it once.")
        options[key] = _option_value(name, key, text, type(known[key].default))
    return base, {key: value for key, value in options.items() if value != known[key].default}


def _check_options(base: str, options: Iterable[str]) -> None:
    known = inspect.signature(_zoo()[base].build).parameters
    for key in options:
        if key not in known:
            raise ModelError(f"{base} has no option {key!r}. Its options: {', '.join(known) or 'none'}.")


def _option_value(name: str, key: str, text: str, kind: type) -> bool | int | float:
    """An option's text as a value of the type that its default has; a switch has no value."""
    if kind is bool:
        if text:
            raise ModelError(f"{name}: {key} is a switch. Write +{key.replace('_', '-')} alone.")
        return True
    try:
        return kind(text)  # type: ignore[no-any-return]
    except ValueError as error:
        number = "a whole number" if kind is int else "a number"
        raise ModelError(f"{name}: {key} = {text!r}: must be {number}, as in +{key.replace('_', '-')}=1.") from error


def target_of(name: str) -> Reported | None:
    """What is reported of a model, or our goal for it; None for a user's own model or a variant.

    Raises:
        UnknownModelError: there is no such model.
    """
    name = canonical_name(name)
    return _zoo()[name].reported if name in _zoo() else None


def model_of_recipe(recipe: str) -> str | None:
    """The model that a recipe is made for; None if it is made for all, or unknown here."""
    recipe = recipe.replace("_", "-")
    made_for = ((name, entry.reported) for name, entry in _zoo().items() if entry.reported)
    return next((name for name, x in made_for if recipe in {x.recipe, *x.recipes} - {COMMON_RECIPE}), None)


def _zoo() -> dict[str, _Entry]:
    """All entries. The modules that make them import this one, so they are imported on first use."""
    for module in _ZOO:
        importlib.import_module(module)
    return _entries
