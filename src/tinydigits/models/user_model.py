"""A user's own network, named `net.py:Net` or `net.toml`: its file is found, run and checked."""

import contextlib
import copy
import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional

from tinydigits.errors import ModelError, one_line
from tinydigits.models.design import build_design, load_design
from tinydigits.settings import nearest

_DESIGN = ".toml"
_copies: dict[str, Path] = {}


def is_user_model(name: str) -> bool:
    """Whether a name is of the form `net.py:Net` or `net.toml`, and so no name of the zoo."""
    return ".py:" in name or name.endswith(_DESIGN)


def code_sha256(name: str) -> str | None:
    """SHA-256 of the file that a user's own model is in; None for a model of the zoo.

    Raises:
        ModelError: there is no such file.
    """
    return hashlib.sha256(user_file(name).read_bytes()).hexdigest() if is_user_model(name) else None


def lend_copy(name: str, copy: Path) -> None:
    """Use a copy instead of the file of a user's network, on a machine that does not have it."""
    _copies[name] = copy


def user_file(name: str) -> Path:
    """The file that holds a user's own network.

    Raises:
        ModelError: there is no such file.
    """
    file = name if name.endswith(_DESIGN) else name.rpartition(":")[0]
    path = _copies.get(name, Path(file)).resolve()
    if not path.is_file():
        raise ModelError(
            f"{name}: there is no file {file}. Write its path relative to the current directory, or an absolute one."
        )
    return path


def build_user_model(name: str) -> nn.Module:
    """A user's network: a design is built; a class or function is imported, called and checked.

    Raises:
        ModelError: there is no such file, it does not import, or it has no network from [N, 1, 28, 28] to [N, 10].
        ConfigError: the design is not valid.
    """
    if name.endswith(_DESIGN):
        return build_design(load_design(user_file(name)))
    file, _, attribute = name.rpartition(":")
    path = user_file(name)
    with _their_code(path):
        module = _import_file(path)
        build = getattr(module, attribute, None)
        if build is None:
            names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            hint = nearest(attribute, names) if names else "It defines no class or function."
            raise ModelError(f"{name}: {file} has no {attribute!r}. {hint}")
        if isinstance(build, nn.Module) or not callable(build):
            raise ModelError(
                f"{name}: {attribute} is neither a class nor a function. Name one that returns the network."
            )
        try:
            model = build()
        except (Exception, SystemExit) as error:
            raise ModelError(
                f"{name}: {attribute}() fails: {_describe(error, path)}. It is called without arguments."
            ) from error
        if not isinstance(model, nn.Module):
            raise ModelError(f"{name}: {attribute}() returns {type(model).__name__}, not a torch.nn.Module.")
        check_model(name, model, path)
    return model


@contextlib.contextmanager
def _their_code(path: Path) -> Iterator[None]:
    """While the user's code runs, it can import files beside its own."""
    directory = str(path.parent)
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(directory)


def _import_file(path: Path) -> ModuleType:
    """Import a file under a unique name, so that a user's `random.py` hides no other module."""
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
            f"{path.name} does not import: {_describe(error, path)}. Fix the file, then try again."
        ) from error
    return module


def _describe(error: BaseException, path: Path | None) -> str:
    """An exception in one line: type, message, and the line of the user's file that raised it."""
    if isinstance(error, SyntaxError):
        line, message = error.lineno, error.msg
    else:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if path is not None and Path(f.filename) == path]
        line, message = (frames[-1].lineno if frames else None), one_line(error)
    return f"{type(error).__name__}: {message}" + (f" (line {line})" if line else "")


def check_model(name: str, model: nn.Module, path: Path | None = None) -> None:
    """Check that a network scores digits in both modes and can be trained; the random state is left as it was.

    `path`: its file, so that errors can name a line in it.

    Raises:
        ModelError: it does not, or cannot.
    """
    training = model.training
    try:
        with torch.no_grad():
            _scores(name, model.eval(), path, "")
    finally:
        model.train(training)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(f"{name} has no trainable parameter. Add a layer that has some.")
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        try:
            network = copy.deepcopy(model).train()
        except Exception as error:
            raise ModelError(
                f"{name} cannot be copied: {_describe(error, path)}. Store only modules, parameters and plain values."
            ) from error
        scores = _scores(name, network, path, " in training mode")
        try:
            functional.cross_entropy(scores, torch.zeros(2, dtype=torch.long)).backward()
        except Exception as error:
            raise ModelError(
                f"{name} cannot be trained, its backward pass fails: {_describe(error, path)}. Fix its forward()."
            ) from error


def _scores(name: str, model: nn.Module, path: Path | None, mode: str) -> Tensor:
    """Logits or log-probabilities, [2, 10]; softmax of either is the same."""
    try:
        output = model(torch.zeros(2, 1, 28, 28))
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"{name} fails on an input [2, 1, 28, 28]{mode}: {_describe(error, path)}. Fix its forward()."
        ) from error
    if not isinstance(output, Tensor):
        raise ModelError(f"{name}: forward(){mode} returns {type(output).__name__}, not one tensor [N, 10].")
    if output.shape != (2, 10):
        raise ModelError(
            f"{name}: an input [2, 1, 28, 28]{mode} gives {list(output.shape)}, not [2, 10]: a score for each digit."
        )
    return output
