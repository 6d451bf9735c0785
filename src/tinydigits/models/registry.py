"""One registry of everything that can stand where a model is asked for: the zoo, and a user's own `net.py:Net`.

A name of the zoo may carry options of its function, so that a variant can be trained, proved and loaded like any other:
`plain-9k+batch-norm+dropout=0.05` is `plain_9k(batch_norm=True, dropout=0.05)`.
"""

import contextlib
import copy
import fnmatch
import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from tinydigits.errors import ModelError, UnknownModelError, one_line
from tinydigits.models.design import build_design, load_design
from tinydigits.settings import nearest

Builder = Callable[..., nn.Module]
Build = TypeVar("Build", bound=Builder)

_DESIGN = ".toml"
_ZOO = ("tinydigits.models.documented", "tinydigits.models.tiny")


@dataclass(frozen=True)
class Figure:
    """A figure that a document states, for one layer (counted from 1) or, with None, for the whole network.

    Quantities: `parameters`; `macs`; `output` of a layer, `stated` as its shape, (C, H, W), or as (H, W) alone;
    `receptive_field`, without a layer that of the last, and `jump`, in input pixels; `input_mb`,
    `forward_backward_mb`, `parameters_mb` and `total_mb` (the memory lines of a layer summary, rounded to two
    decimals). `words`: how the document puts it, where it is not in a table.
    """

    quantity: str
    stated: float | tuple[int, ...]
    layer: int | None = None
    words: str | None = None


@dataclass(frozen=True)
class Statement:
    """What a document says of the structure in words, as far as a machine can check it.

    `subject`: a fact of models.inspect.Structure, or `fully_connected` (there are such layers); `stated`: whether it
    is so. With `layers` (counted from 1) it is about each of them: `batch_norm_after`, `dropout_after` (before the
    next convolution), `size_kept` (the map's). `words`: how the document puts it.
    """

    subject: str
    stated: bool = True
    layers: tuple[int, ...] = ()
    words: str | None = None


@dataclass(frozen=True)
class Claim:
    """What a document says of its network, or, without a `source`, what we aim at with ours. None: nothing is said.

    `parameters` and `epochs` are upper bounds, `accuracy` in [0, 1] is a lower one, to be exceeded if `strict`;
    `wording` is how the document puts it. `recipe` names the one that the network is trained with, unless
    another is asked for. `figures`, `statements` and `notes` are for the recount.
    """

    parameters: int | None = None
    accuracy: float | None = None
    epochs: int | None = None
    strict: bool = False
    source: str | None = None
    wording: str | None = None
    recipe: str = "fast"
    figures: tuple[Figure, ...] = ()
    statements: tuple[Statement, ...] = ()
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The claim itself as plain data."""
        apart = ("figures", "statements", "notes", "recipe")
        return {key: value for key, value in asdict(self).items() if key not in apart}


_entries: dict[str, tuple[Builder, Claim | None]] = {}
_copies: dict[str, Path] = {}


def register(*, documented: Claim | None = None, goal: Claim | None = None) -> Callable[[Build], Build]:
    """Put the decorated function into the zoo, under its own name (with dashes) and with its claim, if it has one.

    Raises:
        ModelError: the name is taken.
    """

    def enter(build: Build) -> Build:
        name = build.__name__.replace("_", "-")
        if name in _entries:
            raise ModelError(f"{name}: the zoo has a model of that name already. Give the function another name.")
        _entries[name] = (build, documented or goal)
        return build

    return enter


def create_model(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
    """Build a model: of the zoo (`plain-9k` or `plain_9k`), or the user's own.

    Their code (`net.py:Net`) is run, their design (`net.toml`, see design.py) is built.

    Args:
        name: The model, with options of its function if wanted (`blocks-19k+n-channels=16`).
        pretrained: Load the weights that ship with tinydigits.
        **options: Passed to the zoo's function, such as `n_channels` of `blocks-19k`.

    Returns:
        A network that takes [N, 1, 28, 28] and gives [N, 10], in training mode. Weights follow torch's global seed.

    Raises:
        UnknownModelError: there is no such model.
        ModelError: the user's file does not import, or holds no such network; or the option does not exist.
        ConfigError: the option's value is out of range, or the design is not valid.
        WeightsError: `pretrained` is asked for and no weights are shipped, or they do not fit.
    """
    name = canonical_name(name)
    if is_users_own(name):
        if options or pretrained:
            raise ModelError(
                f"{name}: a model of your own is called without arguments and has no shipped weights. Omit them."
            )
        return _designed(name) if name.endswith(_DESIGN) else _users_model(name)
    base, named = _parse(name)
    build = _zoo()[base][0]
    _check_options(base, options)
    model = build(**named | options)
    if pretrained:
        from tinydigits.models.weights import load_shipped  # weights.py itself builds on this module

        load_shipped(model, name)
    return model


def list_models(pattern: str = "*") -> list[str]:
    """Names of the zoo that match a shell-style pattern: the documented ones first, then ours."""
    return [name for name in _zoo() if fnmatch.fnmatchcase(name, pattern.replace("_", "-"))]


def canonical_name(name: str) -> str:
    """The name as screens and files show it: with dashes for the zoo, unchanged for `net.py:Net`.

    Raises:
        UnknownModelError: the zoo has no such model, and it is no `net.py:Net` either.
        ModelError: an option after the `+` does not exist, or has no value of its type.
    """
    if is_users_own(name):
        return name
    base, options = _parse(name)
    # in one order and spelling, so that one variant has one name
    parts = (key if value is True else f"{key}={value}" for key, value in sorted(options.items()))
    return "+".join((base, *parts)).replace("_", "-")


def _parse(name: str) -> tuple[str, dict[str, Any]]:
    """`plain_9k+padding=1` → `plain-9k`, {"padding": 1}; options that say what holds anyway are left out."""
    first, *parts = name.split("+")
    base = first.replace("_", "-")
    if base not in _zoo():
        if name.endswith(".py"):
            raise UnknownModelError(f"{name}: name the class or function in it too, after a colon, as in {name}:Net.")
        raise UnknownModelError(
            f"{first!r} is no model of the zoo. {nearest(base, list(_zoo()))} `tinydigits models` lists them all; "
            f"your own is named as net.py:Net."
        )
    known = inspect.signature(_zoo()[base][0]).parameters
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
    known = inspect.signature(_zoo()[base][0]).parameters
    for key in options:
        if key not in known:
            raise ModelError(f"{base} has no option {key!r}. Its options: {', '.join(known) or 'none'}.")


def _option_value(name: str, key: str, text: str, kind: type) -> bool | int | float:
    """An option's text as a value of the type that its default has; a switch stands without a value."""
    if kind is bool:
        if text:
            raise ModelError(f"{name}: {key} is a switch. Write +{key.replace('_', '-')} alone.")
        return True
    try:
        return kind(text)  # type: ignore[no-any-return]
    except ValueError as error:
        number = "a whole number" if kind is int else "a number"
        raise ModelError(f"{name}: {key} = {text!r}: it is {number}, as in +{key.replace('_', '-')}=1.") from error


def model_claim(name: str) -> Claim | None:
    """What is claimed of a model; None where nothing is, as for a user's own or a variant.

    Raises:
        UnknownModelError: there is no such model.
    """
    name = canonical_name(name)
    return _zoo()[name][1] if name in _zoo() else None


def code_sha256(name: str) -> str | None:
    """SHA-256 of the file that a user's own model is in; None for a model of the zoo.

    Raises:
        UnknownModelError: there is no such model.
        ModelError: there is no such file.
    """
    name = canonical_name(name)
    return hashlib.sha256(users_file(name).read_bytes()).hexdigest() if is_users_own(name) else None


def _zoo() -> dict[str, tuple[Builder, Claim | None]]:
    """All entries; the files that make them import this module, so they are imported on first use."""
    for module in _ZOO:
        importlib.import_module(module)
    return _entries


def is_users_own(name: str) -> bool:
    """Whether a name is of the form `net.py:Net` or `net.toml`, and so no name of the zoo."""
    return ".py:" in name or name.endswith(_DESIGN)


def lend_copy(name: str, copy: Path) -> None:
    """On another machine than the user's: a copy stands in for the file of their network, from now on."""
    _copies[name] = copy


def users_file(name: str) -> Path:
    """The file in which a network of the user's own stands.

    Raises:
        ModelError: there is no such file.
    """
    file = name if name.endswith(_DESIGN) else name.rpartition(":")[0]
    path = _copies.get(name, Path(file)).resolve()
    if not path.is_file():
        raise ModelError(
            f"{name}: there is no file {file}. Give its path from the current directory, or an absolute one."
        )
    return path


def _designed(name: str) -> nn.Module:
    return build_design(load_design(users_file(name)))


def _users_model(name: str) -> nn.Module:
    """Import the user's file, call what they name, and check what it gives."""
    file, _, attribute = name.rpartition(":")
    path = users_file(name)
    with _their_code(path):
        module = _import_file(path)
        build = getattr(module, attribute, None)
        if build is None:
            names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            hint = nearest(attribute, names) if names else "It defines no class or function."
            raise ModelError(f"{name}: {file} has no {attribute!r}. {hint}")
        if isinstance(build, nn.Module) or not callable(build):
            raise ModelError(f"{name}: {attribute} is neither a class nor a function. Name one that makes the network.")
        try:
            model = build()
        except (Exception, SystemExit) as error:
            raise ModelError(
                f"{name}: {attribute}() fails: {_describe(error, path)}. It is called without arguments."
            ) from error
        if not isinstance(model, nn.Module):
            raise ModelError(f"{name}: {attribute}() gives a {type(model).__name__}, and a torch.nn.Module is needed.")
        _check_model(name, model, path)
    return model


@contextlib.contextmanager
def _their_code(path: Path) -> Iterator[None]:
    """While the user's code runs, imports from beside their file work."""
    directory = str(path.parent)
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(directory)


def _import_file(path: Path) -> ModuleType:
    """Import a file under a name that no other module has, so that their `random.py` harms nobody."""
    unique = "tinydigits_users_" + hashlib.sha256(str(path).encode()).hexdigest()[:16]
    specification = importlib.util.spec_from_file_location(unique, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[unique] = module  # dataclasses and pickling look a class's module up by name
    try:
        specification.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[unique]
        raise ModelError(
            f"{path.name} does not import: {_describe(error, path)}. Mend the file, then try again."
        ) from error
    return module


def _describe(error: BaseException, path: Path) -> str:
    """An exception in one line: type, message, and the line of the user's file where it came from."""
    if isinstance(error, SyntaxError):
        line, message = error.lineno, error.msg
    else:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path]
        line, message = (frames[-1].lineno if frames else None), one_line(error)
    return f"{type(error).__name__}: {message}" + (f" (line {line})" if line else "")


def _check_model(name: str, model: nn.Module, path: Path) -> None:
    """It scores digits in both modes, and can be trained: tried on a copy, and the random numbers stay as they were."""
    training = model.training
    try:
        with torch.no_grad():
            _scores(name, model.eval(), path, "")
    finally:
        model.train(training)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(f"{name} has no trainable parameter, so there is nothing to train. Give it a layer with some.")
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        try:
            network = copy.deepcopy(model).train()
        except Exception as error:
            raise ModelError(
                f"{name} cannot be copied: {_describe(error, path)}. Keep only modules, parameters and plain values."
            ) from error
        scores = _scores(name, network, path, " in training mode")
        try:
            functional.cross_entropy(scores, torch.zeros(2, dtype=torch.long)).backward()
        except Exception as error:
            raise ModelError(
                f"{name} cannot be trained, its backward pass fails: {_describe(error, path)}. Mend its forward()."
            ) from error


def _scores(name: str, model: nn.Module, path: Path, mode: str) -> Tensor:
    """Logits or log-probabilities, [2, 10]; softmax of either is the same."""
    try:
        output = model(torch.zeros(2, 1, 28, 28))
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"{name} fails on an input [2, 1, 28, 28]{mode}: {_describe(error, path)}. Mend its forward()."
        ) from error
    if not isinstance(output, Tensor):
        raise ModelError(f"{name}: forward(){mode} gives a {type(output).__name__}, and one tensor [N, 10] is needed.")
    if output.shape != (2, 10):
        raise ModelError(
            f"{name}: an input [2, 1, 28, 28]{mode} gives {list(output.shape)}, and [2, 10] is needed: a score a digit."
        )
    return output
