"""What a run or a study says in its files: what reports and comparisons start from."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec

from tinydigits import records
from tinydigits.errors import RunError
from tinydigits.records import SPLIT_NAMES, derive_record, read_lines, read_record, verdicts_of
from tinydigits.studies.study import read_study, recorded_setting, run_directory, seed_result, summarise
from tinydigits.training.config import RunConfig, config_from_dict
from tinydigits.training.recipes import get_recipe, is_named, list_recipes
from tinydigits.training.rundir import read_config, read_result

Curve = tuple[tuple[float, float], ...]
"""Points (epochs done, training loss)."""

_STEPS = 48  # points of a loss curve that is drawn batch by batch
_FEW_EPOCHS = 3  # below, a curve by epochs says nothing
_HINT = "Name a run or a study that is complete, such as runs/tiny-10k-001."


@dataclass(frozen=True, eq=False)
class Source:
    """A run or a study; a run counts as a study of one seed.

    `directory`: where its runs and weights lie; None: only the summary is at hand. `losses`: a curve a run, of a point
    an epoch, or of batches where there are fewer than three epochs; empty where the file is missing. `code_sha256`: of
    the user's network. `recorded`: whether `command` is what was typed, or was put together from the settings.
    `custom`: the parts of a run that were objects of the user's.
    """

    name: str
    kind: Literal["run", "study"]
    config: RunConfig
    result: records.StudyResult
    verdicts: tuple[records.Verdict, ...]
    losses: tuple[Curve, ...]
    command: str
    recorded: bool
    directory: Path | None = None
    code_sha256: str | None = None
    custom: tuple[str, ...] = ()

    @property
    def target(self) -> float | None:
        """The accuracy that is the goal of the first verdict; None: there is no such goal."""
        clauses = self.verdicts[0].clauses if self.verdicts else ()
        return next((float(clause.limit) for clause in clauses if clause.clause == "accuracy"), None)

    @property
    def evaluated_on(self) -> Literal["test", "validation"]:
        """Which digits it was evaluated on."""
        return SPLIT_NAMES[self.result.split]

    @property
    def seconds_per_seed(self) -> float:
        """The mean duration of a run."""
        return sum(run.time_seconds for run in self.result.runs) / self.result.n

    def run_directories(self) -> list[Path]:
        """Where each run lies, in the order of `result.runs`; the directory must be known."""
        assert self.directory is not None
        seeds = self.result.seeds
        return [self.directory] if self.kind == "run" else [run_directory(self.directory, seed) for seed in seeds]


def read_source(path: Path) -> Source:
    """Read a run directory, a study directory, or a study in a .json file (`study.json`, or a proof).

    Raises:
        RunError: it is none of these, it is not finished, or one of its files is damaged or foreign.
        ConfigError: its settings are damaged or from another version.
    """
    if not path.exists():
        raise RunError(f"{path} does not exist. Name a run or a study, such as runs/tiny-10k-001.")
    try:
        if path.is_dir():
            is_study = (path / "study.json").exists() or recorded_setting(path, "kind") == "study"
            return _study_directory(path) if is_study else _run(path)
        return _study_directory(path.parent) if path.name == "study.json" else _proof(path)
    except RecursionError as error:
        raise RunError(f"{path}: a file in it is nested too deeply to be one of ours. {_HINT}") from error


def _study_directory(directory: Path) -> Source:
    study, verdict = read_study(directory), directory / "verdict.json"
    proofs = [read_record(verdict, records.ProofResult, _HINT)] if verdict.exists() else []
    runs = [run_directory(directory, seed) for seed in study.seeds]
    source = _study(study, proofs, directory / "study.json", study.environment.command)
    return replace(
        source,
        name=directory.name,
        directory=directory,
        losses=tuple(_loss(run, study.epochs) for run in runs),
        code_sha256=read_result(runs[0], _HINT).code_sha256 if (runs[0] / "result.json").exists() else None,
    )


def _proof(path: Path) -> Source:
    """A study with its verdicts in one file, or a study.json under another name."""
    if "study" in read_record(path, dict[str, msgspec.Raw], _HINT):
        proof = read_record(path, records.ProofFile, _HINT)
        return _study(proof.study, proof.verdicts, path, proof.command or proof.study.environment.command)
    study = read_record(path, records.StudyResult, _HINT)
    return _study(study, (), path, study.environment.command)


def _study(
    study: records.StudyResult, proofs: Sequence[records.ProofResult], path: Path, command: str | None
) -> Source:
    """What the file of a study says, without the directories of its runs."""
    config, recorded = config_from_dict(study.config, str(path)), command is not None
    if command is None:
        more = ["--seeds", str(study.n)]
        budget = next((proof.budget for proof in proofs if proof.budget), None)
        more += ["--budget", budget] if budget else []
        command = _command("prove", config, more + (["--calibrate"] if study.calibration else []))
    return Source(
        name=path.stem,
        kind="study",
        config=config,
        result=study,
        verdicts=verdicts_of(proofs),
        losses=((),) * study.n,
        command=command,
        recorded=recorded,
    )


def _run(path: Path) -> Source:
    config, _ = read_config(path)
    if not (path / "result.json").exists():
        raise RunError(
            f"{path} is not finished: result.json is missing. Resume it with `tinydigits train --resume {path}`."
        )
    result = read_result(path, _HINT)
    file, unknown = path / "environment.json", "unknown"
    environment = records.Environment(
        python=unknown, packages={}, platform=unknown, processor=unknown, cores=None, threads=config.threads
    )
    if file.exists():
        environment = read_record(file, records.Environment, _HINT)
    study = derive_record(
        records.StudyResult,
        result,
        config=config.as_dict(),
        seeds=(result.seed,),
        n=1,
        final=summarise([result.accuracy]),
        last3=summarise([result.accuracy_last3]),
        runs=(seed_result(result, _epochs(path)),),
        calibration=None,
        environment=environment,
    )
    return replace(
        _study(study, (), path, environment.command or _command("train", config, ["--seed", str(config.seed)])),
        name=path.name,
        kind="run",
        directory=path,
        verdicts=(result.verdict,) if result.verdict else (),
        losses=(_loss(path, result.epochs),),
        code_sha256=result.code_sha256,
        recorded=environment.command is not None,
        custom=result.custom,
    )


def _epochs(run: Path) -> list[records.Epoch]:
    file = run / "metrics.jsonl"
    return read_lines(file, records.Epoch, _HINT) if file.exists() else []


def _loss(run: Path, epochs: int) -> Curve:
    """The training loss over the epochs; of short runs, means of equally many batches."""
    if epochs >= _FEW_EPOCHS:
        return tuple((row.epoch, row.train_loss) for row in _epochs(run))
    file = run / "batches.jsonl"
    if not file.exists():
        return ()
    losses = [row.loss for row in read_lines(file, records.BatchLog, _HINT)]
    size = max(1, math.ceil(len(losses) / _STEPS))
    chunks = [(start, losses[start : start + size]) for start in range(0, len(losses), size)]
    return tuple((epochs * (start + len(chunk) / 2) / len(losses), sum(chunk) / len(chunk)) for start, chunk in chunks)


def _command(verb: str, config: RunConfig, more: Sequence[str]) -> str:
    """A command with the same settings, as far as options can express them."""
    recipe = config.recipe
    words = ["tinydigits", verb, config.model, "--recipe", recipe.name, "--data", config.data]
    words += ["--split", config.split, *more]
    if recipe.name in list_recipes() and recipe.epochs != get_recipe(recipe.name).epochs:
        words += ["--epochs", str(recipe.epochs)]
    if config.backend != "auto":
        words += ["--backend", config.backend]
    return shlex.join(words) + ("" if is_named(recipe) else "  # with the recipe's settings as below")
