"""Design, train, prove and ship digit classifiers under hard limits.

Commands that work with networks are functions of the same name here, which return a record and print nothing. What is
public is loaded when it is first used, so that `import tinydigits` stays instant.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # written twice, `X as X`, so that type checkers take them as public
    from tinydigits.data.normalize import Normalization as Normalization
    from tinydigits.data.sources import load_dataset as load_dataset
    from tinydigits.errors import TinydigitsError as TinydigitsError
    from tinydigits.evaluation.evaluate import evaluate as evaluate
    from tinydigits.exporters.export import export as export
    from tinydigits.inference.predict import predict as predict
    from tinydigits.inspection.audit import Audit as Audit
    from tinydigits.inspection.audit import audit as audit
    from tinydigits.inspection.budget import Budget as Budget
    from tinydigits.inspection.budget import load_budget as load_budget
    from tinydigits.inspection.inspect import inspect as inspect
    from tinydigits.inspection.result import Inspection as Inspection
    from tinydigits.models.factory import Model as Model
    from tinydigits.models.factory import create_model as create_model
    from tinydigits.models.factory import load_model as load_model
    from tinydigits.models.registry import list_models as list_models
    from tinydigits.models.registry import register as register
    from tinydigits.pictures.preprocess import preprocess as preprocess
    from tinydigits.records import Card as Card
    from tinydigits.records import Comparison as Comparison
    from tinydigits.records import EvaluationResult as EvaluationResult
    from tinydigits.records import ExportResult as ExportResult
    from tinydigits.records import Prediction as Prediction
    from tinydigits.records import ProofResult as ProofResult
    from tinydigits.records import ReportResult as ReportResult
    from tinydigits.records import RunResult as RunResult
    from tinydigits.records import SearchResult as SearchResult
    from tinydigits.records import StudyResult as StudyResult
    from tinydigits.reports.report import report as report
    from tinydigits.studies.compare import compare as compare
    from tinydigits.studies.prove import prove as prove
    from tinydigits.studies.search.search import search as search
    from tinydigits.training.config import Recipe as Recipe
    from tinydigits.training.config import RunConfig as RunConfig
    from tinydigits.training.estimator import DigitClassifier as DigitClassifier
    from tinydigits.training.loop import Custom as Custom
    from tinydigits.training.recipes import get_recipe as get_recipe
    from tinydigits.training.recipes import list_recipes as list_recipes
    from tinydigits.training.run import resume as resume
    from tinydigits.training.run import train as train
    from tinydigits.training.run_config import run_config as run_config

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
    "run_config": "training.run_config",
    "search": "studies.search.search",
    "train": "training.run",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tinydigits' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"tinydigits.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
