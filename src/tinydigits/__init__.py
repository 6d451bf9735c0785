"""Digit classifiers under hard limits: designed, trained, proved and shipped.

Commands that work with networks are functions of the same name here, which return a record and print nothing. What is
public is loaded when it is first used, so that `import tinydigits` stays instant.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinydigits.data.normalize import Normalization
    from tinydigits.data.sources import load_dataset
    from tinydigits.errors import TinydigitsError
    from tinydigits.evaluation.evaluate import evaluate
    from tinydigits.exporters.export import export
    from tinydigits.inference.predict import predict
    from tinydigits.inspection.audit import Audit, audit
    from tinydigits.inspection.budget import Budget, load_budget
    from tinydigits.inspection.inspect import inspect
    from tinydigits.inspection.result import Inspection
    from tinydigits.models.factory import Model, create_model, load_model
    from tinydigits.models.registry import list_models, register
    from tinydigits.pictures.preprocess import preprocess
    from tinydigits.records import (
        Card,
        Comparison,
        EvaluationResult,
        ExportResult,
        Prediction,
        ProofResult,
        ReportResult,
        RunResult,
        SearchResult,
        StudyResult,
    )
    from tinydigits.reports.report import report
    from tinydigits.studies.compare import compare
    from tinydigits.studies.prove import prove
    from tinydigits.studies.search.search import search
    from tinydigits.training.config import Recipe, RunConfig
    from tinydigits.training.estimator import DigitClassifier
    from tinydigits.training.loop import Custom
    from tinydigits.training.recipes import get_recipe, list_recipes, run_config
    from tinydigits.training.run import resume, train

_HOME = {
    "Audit": "inspection.audit",
    "Budget": "inspection.budget",
    "Card": "records",
    "Comparison": "records",
    "Custom": "training.loop",
    "DigitClassifier": "training.estimator",
    "EvaluationResult": "records",
    "ExportResult": "records",
    "Inspection": "inspection.result",
    "Model": "models.factory",
    "Normalization": "data.normalize",
    "Prediction": "records",
    "ProofResult": "records",
    "Recipe": "training.config",
    "ReportResult": "records",
    "RunConfig": "training.config",
    "RunResult": "records",
    "SearchResult": "records",
    "StudyResult": "records",
    "TinydigitsError": "errors",
    "audit": "inspection.audit",
    "compare": "studies.compare",
    "create_model": "models.factory",
    "evaluate": "evaluation.evaluate",
    "export": "exporters.export",
    "get_recipe": "training.recipes",
    "inspect": "inspection.inspect",
    "list_models": "models.registry",
    "list_recipes": "training.recipes",
    "load_budget": "inspection.budget",
    "load_dataset": "data.sources",
    "load_model": "models.factory",
    "predict": "inference.predict",
    "preprocess": "pictures.preprocess",
    "prove": "studies.prove",
    "register": "models.registry",
    "report": "reports.report",
    "resume": "training.run",
    "run_config": "training.recipes",
    "search": "studies.search.search",
    "train": "training.run",
}

__all__ = [
    "Audit",
    "Budget",
    "Card",
    "Comparison",
    "Custom",
    "DigitClassifier",
    "EvaluationResult",
    "ExportResult",
    "Inspection",
    "Model",
    "Normalization",
    "Prediction",
    "ProofResult",
    "Recipe",
    "ReportResult",
    "RunConfig",
    "RunResult",
    "SearchResult",
    "StudyResult",
    "TinydigitsError",
    "audit",
    "compare",
    "create_model",
    "evaluate",
    "export",
    "get_recipe",
    "inspect",
    "list_models",
    "list_recipes",
    "load_budget",
    "load_dataset",
    "load_model",
    "predict",
    "preprocess",
    "prove",
    "register",
    "report",
    "resume",
    "run_config",
    "search",
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
