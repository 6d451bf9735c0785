"""TOML and JSON files → frozen dataclasses, with errors that name the key, the rule and the hint."""

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from tinydigits.errors import ConfigError

DEFAULT_MODEL = "tiny-10k"  # of every command and function that takes a model

_Settings = TypeVar("_Settings")
_WORDS = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


def read_settings(path: Path) -> dict[str, object]:
    """The plain data of a `.toml` or `.json` file.

    Raises:
        ConfigError: the file cannot be read or parsed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ConfigError(f"{path} cannot be read: {reason.lower()}. Name a .toml or .json file.") from error
    try:
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        kind = "TOML" if path.suffix == ".toml" else "JSON"
        raise ConfigError(f"{path} is not valid {kind}: {error}. Fix it and try again.") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}, not an object of names and values.")
    return values


def build(kind: type[_Settings], values: Mapping[str, object], source: str, prefix: str = "") -> _Settings:
    """A frozen dataclass from plain data; `source` names the file in error messages, `prefix` the table in it.

    Fields are integers, floats, strings, booleans, such dataclasses, tuples of strings or of such dataclasses; or one
    of these and None.

    Raises:
        ConfigError: a key is unknown or missing, or a value has the wrong type.
    """
    hints = get_type_hints(kind)
    for key in values:
        if key not in hints:
            raise ConfigError(f"{source}: {prefix}{key} is no setting. {nearest(key, hints)}")
    arguments: dict[str, object] = {}
    for part in dataclasses.fields(kind):  # type: ignore[arg-type]
        name = prefix + part.name
        if part.name in values:
            arguments[part.name] = _convert(hints[part.name], values[part.name], source, name)
        elif part.default is dataclasses.MISSING and part.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{source}: {name} is missing and has no default. Add it.")
    return kind(**arguments)


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint for an unknown name: the nearest of the `known`, or all."""
    found = difflib.get_close_matches(name, names := list(known), n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(found)}?" if found else f"Known here: {', '.join(names)}."


def check_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise a `ConfigError` unless the value is one of the `known`."""
    if value not in known:
        raise ConfigError(f"{name} = {value!r}: must be one of {', '.join(known)}.")


def check_between(name: str, value: float, low: float, high: float, *, top_open: bool = False) -> None:
    """Raise a `ConfigError` unless the value is in [low, high], or in [low, high) when `top_open`; NaN never is."""
    if not (low <= value < high if top_open else low <= value <= high):
        rule = f"at least {low:g} and below {high:g}" if top_open else f"from {low:g} to {high:g}"
        raise ConfigError(f"{name} = {value}: must be {rule}.")


def check_fraction(name: str, value: float) -> None:
    """Raise a `ConfigError` unless the value is in [0, 1]; of a percentage it says which fraction was meant."""
    if 1 < value <= 100:
        raise ConfigError(f"{name} = {value:g}: this is a fraction; write {value / 100:g}.")
    check_between(name, value, 0, 1)


def _convert(hint: Any, value: Any, source: str, name: str) -> Any:
    wrong = f"{source}: {name} = {value!r}: must be"
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{wrong} a table of settings.")
        return build(hint, value, source, name + ".")  # type: ignore[arg-type]
    if get_origin(hint) is tuple:
        kind = get_args(hint)[0]
        tables = dataclasses.is_dataclass(kind)
        if not isinstance(value, list | tuple) or not all(tables or isinstance(item, str) for item in value):
            raise ConfigError(f"{wrong} a list of {'tables' if tables else 'strings'}.")
        return tuple(_convert(kind, item, source, f"{name}[{i}]") for i, item in enumerate(value))
    if value is None and type(None) in get_args(hint):
        return None
    allowed = [kind for kind in _WORDS if kind is hint or kind in get_args(hint)] or [str]
    if float in allowed and type(value) is int:
        return float(value)
    if not isinstance(value, tuple(allowed)) or (isinstance(value, bool) and bool not in allowed):
        raise ConfigError(f"{wrong} {_WORDS[allowed[0]]}.")
    return value


def flatten(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested settings by their full names: `{"a": {"b": 1}}` → `{"a.b": 1}`."""
    flat: dict[str, object] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def differences(there: Mapping[str, object], wanted: Mapping[str, object], free: Container[str]) -> str:
    """The settings that differ, except those that are `free`, in words; empty if none does.

    Raises:
        KeyError: a wanted setting is missing.
    """
    found = flatten(there)
    return ", ".join(
        f"{key} = {found[key]!r} there, {value!r} wanted"
        for key, value in flatten(wanted).items()
        if found[key] != value and key not in free
    )
