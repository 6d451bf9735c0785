"""Plain data from a TOML or JSON file → frozen dataclasses, with errors that name the key, the rule and the remedy."""

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from tinydigits.errors import ConfigError

_Settings = TypeVar("_Settings")


def read_settings(path: Path) -> dict[str, Any]:
    """The plain data of a `.toml` or `.json` file.

    Raises:
        ConfigError: the file cannot be read or parsed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ConfigError(f"{path} cannot be read: {reason.lower()}. Name a .toml or .json file.") from error
    try:
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        kind = "TOML" if path.suffix == ".toml" else "JSON"
        raise ConfigError(f"{path} is no valid {kind}: {error}. Mend that place and start again.") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}: settings are an object of names and values.")
    return values


def build(kind: type[_Settings], values: Mapping[str, Any], source: str, prefix: str = "") -> _Settings:
    """A frozen dataclass from plain data; `source` names the file in error messages, `prefix` the table in it.

    Fields are whole numbers, numbers, texts, booleans, such dataclasses, lists (tuples) of texts or of such
    dataclasses, or one of these and None.

    Raises:
        ConfigError: a key is unknown or missing, or a value has the wrong type.
    """
    hints = get_type_hints(kind)
    for key in values:
        if key not in hints:
            raise ConfigError(f"{source}: {prefix}{key} is no setting. {nearest(key, hints)}")
    arguments: dict[str, Any] = {}
    for part in dataclasses.fields(kind):  # type: ignore[arg-type]
        name = prefix + part.name
        if part.name in values:
            arguments[part.name] = _convert(hints[part.name], values[part.name], source, name)
        elif part.default is dataclasses.MISSING and part.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{source}: {name} is missing, and it has no default. Add it.")
    return kind(**arguments)


def nearest(name: str, known: Iterable[str]) -> str:
    """The remedy for a name that is none of the `known`: the nearest of them, or all."""
    found = difflib.get_close_matches(name, names := list(known), n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(found)}?" if found else f"Known here: {', '.join(names)}."


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Check a choice.

    Raises:
        ConfigError: `value` is none of the `known`.
    """
    if value not in known:
        raise ConfigError(f"{name} = {value!r}: it is one of {', '.join(known)}.")


def between(name: str, value: float, low: float, high: float, *, top_open: bool = False) -> None:
    """Check a range: [low, high], or [low, high) when `top_open`.

    Raises:
        ConfigError: `value` lies outside, or is not a number (NaN).
    """
    if not (low <= value < high if top_open else low <= value <= high):
        rule = f"at least {low:g} and below {high:g}" if top_open else f"from {low:g} to {high:g}"
        raise ConfigError(f"{name} = {value}: it is {rule}.")


def _convert(hint: Any, value: Any, source: str, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{source}: {name} = {value!r}: it is a table of settings.")
        return build(hint, value, source, name + ".")  # type: ignore[arg-type]
    if get_origin(hint) is tuple:
        return _convert_list(get_args(hint)[0], value, source, name)
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


def _convert_list(kind: Any, value: Any, source: str, name: str) -> tuple[Any, ...]:
    tables = dataclasses.is_dataclass(kind)
    if not isinstance(value, list | tuple) or not all(tables or isinstance(item, str) for item in value):
        raise ConfigError(f"{source}: {name} = {value!r}: it is a list of {'tables' if tables else 'texts'}.")
    return tuple(_convert(kind, item, source, f"{name}[{i}]") if tables else item for i, item in enumerate(value))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their whole names: `{"a": {"b": 1}}` → `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def differences(there: Mapping[str, Any], wanted: Mapping[str, Any], free: Container[str]) -> str:
    """The settings that differ, but for those that are `free`, in words; empty where none does.

    Raises:
        KeyError: a wanted setting is not there.
    """
    found = flatten(there)
    return ", ".join(
        f"{key} = {found[key]!r} there, {value!r} wanted"
        for key, value in flatten(wanted).items()
        if found[key] != value and key not in free
    )
