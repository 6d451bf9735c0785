"""What a run or a study says of itself in its files, read strictly: the plain data behind a report."""

import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from tinydigits.errors import RunError
from tinydigits.models.budget import Clause
from tinydigits.storage import read_lines
from tinydigits.studies.prove import SCHEMA, directory_kind, read_study, run_directory
from tinydigits.training.config import RunConfig, config_from_dict
from tinydigits.training.recipes import get_recipe, is_named, list_recipes
from tinydigits.training.rundir import open_run_directory

_VERDICTS = ("met", "plausible", "failed", "not judged")
_STEPS = 48  # points of a loss curve that is drawn batch by batch
_FEW_EPOCHS = 3  # below, a curve by epochs says nothing


@dataclass(frozen=True)
class SeedRun:
    """One training of one seed; accuracies are shares in [0, 1]. Curves are empty where their file is missing.

    `loss` is a list of (epochs done, training loss): a point an epoch, or many where there are fewer than three.
    """

    seed: int
    accuracy: float
    accuracy_last3: float
    accuracy_best: float
    time_seconds: float
    accuracy_by_epoch: tuple[float, ...]
    train_accuracy_by_epoch: tuple[float, ...]
    loss: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Judgement:
    """What was asked for, in a name or in words, and what the figures say of it."""

    asked: str
    verdict: str
    clauses: tuple[Clause, ...]

    @property
    def target(self) -> float | None:
        """The accuracy that was asked for; None: none was."""
        return next((float(clause.limit) for clause in self.clauses if clause.clause == "accuracy"), None)


@dataclass(frozen=True)
class Summary:
    """Mean over the seeds, its sample deviation (None for one run), and its lower bound (None below three)."""

    mean: float
    sd: float | None
    lower_bound: float | None


@dataclass(frozen=True)
class Calibrated:
    """The tune twin's calibration; see `evaluation.calibration.Calibration` and `studies.prove.collect`."""

    temperature: float
    ece_before: float
    ece_after: float
    threshold: float
    coverage: float
    digits: int
    coverage_accuracy: tuple[tuple[float, float], ...]
    rejected: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Evidence:
    """A run or a study. `directory` is where its runs and weights lie; None: only the summary is at hand.

    `interval` is Wilson's for a run, and the two-way bootstrap for a study. `recorded` says whether `command` is what
    was typed, or was put together from the settings.
    """

    name: str
    kind: Literal["run", "study"]
    directory: Path | None
    config: RunConfig
    data: str
    judge_sha256: str
    code_sha256: str | None
    notice: str | None
    parameters: int
    epochs: int
    runs: tuple[SeedRun, ...]
    final: Summary
    last3: Summary
    interval: tuple[float, float]
    judgements: tuple[Judgement, ...]
    calibration: Calibrated | None
    environment: tuple[tuple[str, str], ...]
    command: str
    recorded: bool

    @property
    def target(self) -> float | None:
        """The accuracy that the first judgement asks for."""
        return self.judgements[0].target if self.judgements else None

    @property
    def judged_by(self) -> str:
        """Which digits counted: `test` or `held-out`."""
        return "test" if self.config.protocol == "final" else "held-out"

    def run_directories(self) -> list[Path]:
        """Where each run lies, in the order of `runs`; the directory must be known."""
        assert self.directory is not None
        if self.kind == "run":
            return [self.directory]
        return [run_directory(self.directory, run.seed) for run in self.runs]


def read_evidence(path: Path) -> Evidence:
    """Read a run directory, a study directory, or a study's summary in a .json file (`study.json`, or a proof).

    Raises:
        RunError: it is none of these, it is not finished, or one of its files is damaged or foreign.
        ConfigError: its settings are damaged or from another version.
    """
    try:
        if not path.exists():
            raise RunError(f"{path} does not exist. Name a run or a study, such as runs/tiny-10k-001.")
        if not path.is_dir():
            return _from_file(path)
        if (path / "study.json").exists() or directory_kind(path) == "study":
            return _study(path.name, path, read_study(path), _judgements_beside(path), path / "study.json", None)
        return _run(path)
    except RecursionError as error:
        raise RunError(f"{path}: a file in it is nested too deep to be ours. Name a run or a study.") from error


def _from_file(path: Path) -> Evidence:
    document = _document(path)
    with _reading(path):
        study = document.get("study", document)
        if study["schema"] != SCHEMA:
            raise ValueError(f"its schema is {study['schema']!r}, and this version reads {SCHEMA}")
        verdicts = tuple(filter(None, map(_judgement, document.get("verdicts", ()))))
        command = document.get("command")
    if path.name == "study.json":
        return _study(path.parent.name, path.parent, study, _judgements_beside(path.parent), path, None)
    return _study(path.stem, None, study, verdicts, path, command if isinstance(command, str) else None)


def _judgements_beside(directory: Path) -> tuple[Judgement, ...]:
    path = directory / "verdict.json"
    if not path.exists():
        return ()
    document = _document(path)
    with _reading(path):
        judgement = _judgement(document)
    return (judgement,) if judgement else ()


def _judgement(verdict: Mapping[str, Any]) -> Judgement | None:
    """A study's verdict names its budget, a run's the claim in words; without either nothing was asked for."""
    asked = verdict["budget"] if "budget" in verdict else verdict["claim"]
    if asked is None:
        return None
    return Judgement(str(asked), _verdict(verdict["verdict"]), tuple(_clause(row) for row in verdict["clauses"]))


def _clause(row: Mapping[str, Any]) -> Clause:
    name, limit = str(row["clause"]), row["limit"]
    if name == "accuracy":
        limit = _share(limit)
    elif not isinstance(limit, str):
        limit = _number(limit)
    clause = Clause(name, limit, _number(row["value"]), "not judged", str(row["sentence"]))
    return replace(clause, verdict=_verdict(row["verdict"]))


def _verdict(value: Any) -> Any:
    if value not in _VERDICTS:
        raise ValueError(f"verdict is {value!r}, none of {', '.join(_VERDICTS)}")
    return value


def _study(
    name: str,
    directory: Path | None,
    document: Mapping[str, Any],
    judgements: tuple[Judgement, ...],
    path: Path,
    command: str | None,
) -> Evidence:
    with _reading(path):
        config = config_from_dict(document["config"], str(path))
        runs = tuple(_seed(row) for row in document["runs"])
        epochs = _count(document["epochs"])
        if [run.seed for run in runs] != document["seeds"] or len(runs) != document["n"] or not runs:
            raise ValueError("its runs are not those of its seeds")
        calibration, environment = document.get("calibration"), document.get("environment") or {}
        recorded = environment.get("command")
        low, high = map(_share, document["interval"])
        evidence = Evidence(
            name=name,
            kind="study",
            directory=directory,
            config=config,
            data=str(document["data"]),
            judge_sha256=str(document["judge_sha256"]),
            code_sha256=None,
            notice=_text_or_none(document.get("notice")),
            parameters=_count(document["parameters"]),
            epochs=epochs,
            runs=runs,
            final=_summary(document["final"]),
            last3=_summary(document["last3"]),
            interval=(low, high),
            judgements=judgements,
            calibration=_calibrated(calibration) if calibration is not None else None,
            environment=_environment(environment),
            command=str(command or recorded or ""),
            recorded=bool(command or recorded),
        )
    if not evidence.command:
        evidence = replace(evidence, command=_prove_command(evidence))
    return evidence if directory is None else _with_run_files(evidence)


def _with_run_files(evidence: Evidence) -> Evidence:
    """With what only the run directories know: the losses, and the hash of the user's own code."""
    directories = evidence.run_directories()
    runs = [
        replace(run, loss=_loss(where, evidence.epochs)) for run, where in zip(evidence.runs, directories, strict=True)
    ]
    result = directories[0] / "result.json"
    code = None
    if result.exists():
        document = _document(result)
        with _reading(result):
            code = _text_or_none(document.get("code_sha256"))
    return replace(evidence, runs=tuple(runs), code_sha256=code)


def _run(path: Path) -> Evidence:
    directory, config = open_run_directory(path)
    if not directory.result.exists():
        raise RunError(
            f"{path} is not finished: result.json is missing. Go on with `tinydigits train --resume {path}`."
        )
    result = _document(directory.result)
    epochs = _lines(directory.metrics)
    environment = _document(path / "environment.json") if (path / "environment.json").exists() else {}
    with _reading(directory.result):
        if result["schema"] != SCHEMA:
            raise ValueError(f"its schema is {result['schema']!r}, and this version reads {SCHEMA}")
        low, high = map(_share, result["interval"])
        accuracy, last3 = _share(result["accuracy"]), _share(result["accuracy_last3"])
        judgement = _judgement(result["verdict"]) if result.get("verdict") is not None else None
        count = _count(result["epochs"])
        curves = {key: tuple(_share(row[key]) for row in epochs) for key in ("accuracy", "train_accuracy")}
        seed = SeedRun(
            seed=config.seed,
            accuracy=accuracy,
            accuracy_last3=last3,
            accuracy_best=_share(result["accuracy_best"]),
            time_seconds=_number(result["time_seconds"]),
            accuracy_by_epoch=curves["accuracy"],
            train_accuracy_by_epoch=curves["train_accuracy"],
            loss=_loss(path, count),
        )
        recorded = environment.get("command")
        return Evidence(
            name=path.name,
            kind="run",
            directory=path,
            config=config,
            data=str(result["data"]),
            judge_sha256=str(result["judge_sha256"]),
            code_sha256=_text_or_none(result.get("code_sha256")),
            notice=_text_or_none(result.get("notice")),
            parameters=_count(result["parameters"]),
            epochs=count,
            runs=(seed,),
            final=Summary(accuracy, None, None),
            last3=Summary(last3, None, None),
            interval=(low, high),
            judgements=(judgement,) if judgement else (),
            calibration=None,
            environment=_environment(environment),
            command=str(recorded or _train_command(config)),
            recorded=bool(recorded),
        )


def _seed(row: Mapping[str, Any]) -> SeedRun:
    curves = {key: tuple(map(_share, row.get(key, ()))) for key in ("accuracy_by_epoch", "train_accuracy_by_epoch")}
    return SeedRun(
        seed=_count(row["seed"]),
        accuracy=_share(row["accuracy"]),
        accuracy_last3=_share(row["accuracy_last3"]),
        accuracy_best=_share(row["accuracy_best"]),
        time_seconds=_number(row["time_seconds"]),
        loss=(),
        **curves,
    )


def _summary(row: Mapping[str, Any]) -> Summary:
    sd, bound = row["sd"], row["lower_bound"]
    return Summary(_share(row["mean"]), None if sd is None else _number(sd), None if bound is None else _number(bound))


def _calibrated(row: Mapping[str, Any]) -> Calibrated:
    numbers = {f.name: _number(row[f.name]) for f in fields(Calibrated) if f.type in (float, "float")}
    if numbers["temperature"] <= 0:
        raise ValueError(f"calibration.temperature is {numbers['temperature']}")
    return Calibrated(
        **numbers,
        digits=_count(row["digits"]),
        coverage_accuracy=tuple((float(k), _share(v)) for k, v in row.get("coverage_accuracy", {}).items()),
        rejected=tuple((str(kind), _share(v)) for kind, v in row.get("rejected", {}).items()),
    )


def _environment(document: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Names and values, one line each; the command stands elsewhere."""
    rows = []
    for key, value in document.items():
        if key == "packages":
            rows.append((key, ", ".join(f"{name} {version}" for name, version in value.items())))
        elif key != "command" and value is not None:
            rows.append((str(key), str(value)))
    return tuple(rows)


def _loss(directory: Path, epochs: int) -> tuple[tuple[float, float], ...]:
    """The training loss over the epochs; of short runs, means of equally many batches."""
    if epochs >= _FEW_EPOCHS:
        path = directory / "metrics.jsonl"
        rows = _lines(path)
        with _reading(path):
            return tuple((_number(row["epoch"]), _number(row["train_loss"])) for row in rows)
    path = directory / "batches.jsonl"
    rows = _lines(path)
    with _reading(path):
        losses = [_number(row["loss"]) for row in rows]
    size = max(1, math.ceil(len(losses) / _STEPS))
    chunks = [losses[start : start + size] for start in range(0, len(losses), size)]
    ends = [min(size * (i + 1), len(losses)) for i in range(len(chunks))]
    return tuple(
        (epochs * (end - len(chunk) / 2) / len(losses), sum(chunk) / len(chunk))
        for end, chunk in zip(ends, chunks, strict=True)
    )


def _train_command(config: RunConfig) -> str:
    return _command("train", config, ["--seed", str(config.seed)])


def _prove_command(evidence: Evidence) -> str:
    more = ["--seeds", str(len(evidence.runs))]
    if evidence.judgements:
        more += ["--budget", evidence.judgements[0].asked]
    return _command("prove", evidence.config, more + (["--twin"] if evidence.calibration else []))


def _command(verb: str, config: RunConfig, more: Sequence[str]) -> str:
    """What asks for the same, where flags can say it."""
    recipe = config.recipe
    words = ["tinydigits", verb, config.model, "--recipe", recipe.name, "--data", config.data]
    words += ["--protocol", config.protocol, *more]
    if recipe.name in list_recipes() and recipe.epochs != get_recipe(recipe.name).epochs:
        words += ["--epochs", str(recipe.epochs)]
    if config.kernels != "torch":
        words += ["--kernels", config.kernels]
    return shlex.join(words) + ("" if is_named(recipe) else "  # with the recipe's settings as below")


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no JSON"
        raise RunError(f"{path} cannot be read: {reason.lower()}. Name a run or a study that is whole.") from error
    if not isinstance(document, dict):
        raise RunError(f"{path} is no file of a run or a study: it holds no JSON object. Name a run or a study.")
    return document


def _lines(path: Path) -> list[Mapping[str, Any]]:
    """A file of JSON Lines; none where there is no such file."""
    if not path.exists():
        return []
    try:
        return read_lines(path)
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} cannot be read: it is no JSON, line by line. Name a run or a study that is whole."
        ) from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever a foreign document does in here becomes a sentence."""
    try:
        yield
    except KeyError as error:
        raise RunError(f"{path} is no file of a run or a study: it lacks {error}. Name a run or a study.") from error
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RunError(f"{path} is no file of a run or a study: {error}. Name a run or a study.") from error


def _number(value: Any) -> float:
    if isinstance(value, bool) and value in (True, False):
        return float(value)  # of a structural clause
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _share(value: Any) -> float:
    if not 0 <= _number(value) <= 1:
        raise ValueError(f"{value!r} is no share from 0 to 1")
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value


def _text_or_none(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value
