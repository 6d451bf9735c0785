"""Digit classifiers under hard limits: designed, trained, proved and shipped.

Everything public is here, loaded when it is first used, so that `import tinydigits` stays instant.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinydigits.data.preprocess import preprocess
    from tinydigits.data.sources import load_dataset
    from tinydigits.errors import TinydigitsError
    from tinydigits.evaluation.predictions import evaluate
    from tinydigits.models.budget import Budget, load_budget
    from tinydigits.models.inspect import inspect_model
    from tinydigits.models.registry import create_model, list_models, register
    from tinydigits.models.weights import load_model
    from tinydigits.training.config import Recipe, RunConfig
    from tinydigits.training.estimator import DigitClassifier
    from tinydigits.training.recipes import get_recipe, list_recipes
    from tinydigits.training.run import train

_HOME = {
    "Budget": "models.budget",
    "DigitClassifier": "training.estimator",
    "Recipe": "training.config",
    "RunConfig": "training.config",
    "TinydigitsError": "errors",
    "create_model": "models.registry",
    "evaluate": "evaluation.predictions",
    "get_recipe": "training.recipes",
    "inspect_model": "models.inspect",
    "list_models": "models.registry",
    "list_recipes": "training.recipes",
    "load_budget": "models.budget",
    "load_dataset": "data.sources",
    "load_model": "models.weights",
    "preprocess": "data.preprocess",
    "register": "models.registry",
    "train": "training.run",
}

__all__ = [
    "Budget",
    "DigitClassifier",
    "Recipe",
    "RunConfig",
    "TinydigitsError",
    "create_model",
    "evaluate",
    "get_recipe",
    "inspect_model",
    "list_models",
    "list_recipes",
    "load_budget",
    "load_dataset",
    "load_model",
    "preprocess",
    "register",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tinydigits' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"tinydigits.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
