"""A budget, many seeds, a verdict: train the same thing with several seeds and say what that proves.

A study directory holds:

    config.json     "kind": "study", and the runs' RunConfig           runs/seed-000/ …    a run directory each
    study.json      what came out, run by run and in all               calibration_run/   for --calibrate
    verdict.json    what that says of a budget, clause by clause
    model.safetensors, model.json    seed 0's weights, and their card, which tells of the study
"""

import dataclasses
import fcntl
import json
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np
from msgspec.structs import asdict, replace
from numpy.typing import NDArray

from tinydigits import records
from tinydigits.data.dataset import Dataset
from tinydigits.data.normalize import Normalization
from tinydigits.errors import RunError, StorageError, reason_of
from tinydigits.evaluation.calibration import calibrate, coverage_curve
from tinydigits.evaluation.predictions import predict_logits
from tinydigits.evaluation.rejection import nondigit_pictures, rejection_report
from tinydigits.evaluation.statistics import mean_lower_bound, two_way_bootstrap
from tinydigits.inference.graph import max_logit
from tinydigits.inspection.budget import Budget, accuracy_clause, overall_verdict, structural_clauses
from tinydigits.inspection.result import Inspection
from tinydigits.models.factory import load_model
from tinydigits.models.user_model import code_sha256
from tinydigits.models.weights import WEIGHTS_FILE, save_weights
from tinydigits.records import derive_record, read_lines, read_record, write_record
from tinydigits.settings import differences
from tinydigits.storage import file_stem, write_json
from tinydigits.studies.engines.jobs import Job
from tinydigits.training.config import RunConfig, config_from_dict
from tinydigits.training.rundir import load_predictions, read_result

SCHEMA = 1
_KIND = "study"  # stands in a study's config.json, and in no run's
_FREE = ("data_dir", "threads")  # may differ from start to start: they say nothing of what is proved
_COVERAGES = (1.0, 0.999, 0.995, 0.99, 0.98, 0.95)  # fractions of the validation digits that are kept, for the report
_SAME = ("data_sha256", "evaluation_sha256", "parameters", "code_sha256")  # in all runs


def default_directory(*parts: str, data: str, split: str = "test") -> Path:
    """Where a study or a search of this name, on these digits, lies unless the user names another directory."""
    more = [file_stem(data)] * (data != "mnist") + [split] * (split != "test")
    return Path("studies") / "-".join([*parts, *more])


def run_directory(study: Path, seed: int) -> Path:
    """Where the run of a seed lies."""
    return study / "runs" / f"seed-{seed:03d}"


@contextmanager
def open_study(study: Path, config: RunConfig) -> Iterator[None]:
    """Make the study's directory, or resume it; no other process may work on it meanwhile.

    Raises:
        RunError: it holds something else, or another process is at work on it.
        StorageError: it cannot be written to.
    """
    file = study / "config.json"
    try:
        study.mkdir(parents=True, exist_ok=True)
        # a new one is empty, or another process is still writing its config
        if not all(path.name.startswith((".lock", ".config.json.")) for path in study.iterdir()):
            reject_other_kinds(study, _KIND)
        lock = (study / ".lock").open("w")
    except OSError as error:
        raise StorageError(f"{study} could not be written: {reason_of(error)}. Use --out.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(
                f"{study} is being worked on by another process. Wait for it, or use another --out."
            ) from error
        if file.exists():
            _reject_difference(file, config, f"{study} holds another study", ("seed", *_FREE))
        else:
            write_json(file, {"schema": SCHEMA, "kind": _KIND, **config.as_dict()})
        yield


def recorded_setting(directory: Path, key: str) -> object:
    """A value from a directory's `config.json`, None if it has none; `kind` is `study` or `search`, and no run's."""
    try:
        value: object = json.loads((directory / "config.json").read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return value


def reject_other_kinds(directory: Path, kind: str) -> None:
    """Raise a RunError if a directory is no study, or no search; it is left as it is."""
    if recorded_setting(directory, "kind") != kind:
        raise RunError(
            f"{directory} is not empty, and no {kind}: a {kind}'s config.json says so. Name a new directory with --out."
        )


def finished_runs(study: Path) -> int:
    """How many of the seeds 0, 1, 2, … are finished, up to the first that is not."""
    return next(seed for seed in count() if not (run_directory(study, seed) / "result.json").exists())


def open_jobs(study: Path, config: RunConfig, seeds: Sequence[int], *, calibrate: bool) -> list[Job]:
    """What is still to be trained. `calibrate` adds the calibration run: seed 0, without the validation digits.

    Raises:
        RunError: a run in the directory differs from the study in anything but the seed, or a finished one is of a
            network whose file has changed since.
    """
    wanted = [Job(dataclasses.replace(config, seed=seed), run_directory(study, seed)) for seed in seeds]
    if calibrate:
        wanted.append(Job(dataclasses.replace(config, seed=0, split="val"), study / "calibration_run"))
    for job in wanted:
        if (file := job.directory / "config.json").exists():
            _reject_difference(file, job.config, f"{job.directory} does not belong to the study", _FREE)
    missing = [job for job in wanted if not (job.directory / "result.json").exists()]
    code = code_sha256(config.model)
    for job in wanted:
        if job not in missing and _read_result(job.directory).code_sha256 != code:
            raise RunError(
                f"{job.directory}: the file of {config.model} has changed since that run, and a study is of one "
                "network. Restore the file, or use another --out."
            )
    return missing


def collect(
    study: Path, config: RunConfig, seeds: Sequence[int], validation: Dataset | None = None, warning: str | None = None
) -> records.StudyResult:
    """Read all runs, write `study.json` and the weights of seed 0 with a card that tells of the study.

    `interval` is the two-way bootstrap over runs and digits, `lower_bound` the one-sided 95 % t bound of the mean over
    seeds. `warning` says why these are other digits than MNIST. With `validation`, the digits on which the calibration
    run was evaluated, temperature and rejection threshold are fitted on that run and carried over to the weights.

    Raises:
        RunError: a run is missing or unreadable, its accuracy is no number, or it was evaluated on other digits.
    """
    paths = [run_directory(study, seed) for seed in seeds]
    results = [_read_result(path) for path in paths]
    first = results[0]
    for key in _SAME:
        odd = [result.run_dir for result in results if getattr(result, key) != getattr(first, key)]
        if odd:
            raise RunError(f"{odd[0]} differs from the other runs in its {key}. Remove it, and prove again.")
    result = derive_record(
        records.StudyResult,
        first,
        config={key: value for key, value in config.as_dict().items() if key not in ("seed", *_FREE)},
        warning=warning,
        seeds=tuple(seeds),
        n=len(seeds),
        final=summarise([result.accuracy for result in results]),
        last3=summarise([result.accuracy_last3 for result in results]),
        interval=two_way_bootstrap(np.stack([correct_in_run(path) for path in paths])),
        runs=tuple(
            seed_result(run, read_lines(path / "metrics.jsonl", records.Epoch, _again(path)))
            for run, path in zip(results, paths, strict=True)
        ),
        calibration=_calibration(study, validation) if validation is not None else None,
        environment=read_record(paths[0] / "environment.json", records.Environment, _again(paths[0])),
    )
    write_record(study / "study.json", result)
    _release(study, result)
    return result


def seed_result(run: records.RunResult, epochs: Sequence[records.Epoch]) -> records.SeedResult:
    """What a study keeps of a run and its epochs."""
    return derive_record(
        records.SeedResult,
        run,
        accuracy_by_epoch=tuple(epoch.accuracy for epoch in epochs),
        train_accuracy_by_epoch=tuple(epoch.train_accuracy for epoch in epochs),
    )


def _calibration(study: Path, validation: Dataset) -> records.Calibration:
    """Fitted on digits that neither trained the calibration run nor test; `rejected` is what seed 0 makes of others."""
    logits, labels = load_predictions(study / "calibration_run")
    calibration = calibrate(logits, labels)
    model, card = load_model(str(run_directory(study, 0)))
    normalization = Normalization(card.mean, card.std)

    def score(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        return max_logit(predict_logits(model, normalization.array(images)).numpy())

    rejected = rejection_report(score, calibration.threshold, nondigit_pictures(validation))
    coverages, accuracies = coverage_curve(max_logit(logits), logits.argmax(axis=1) == labels)
    return replace(
        calibration,
        coverage_accuracy={str(kept): float(accuracies[np.searchsorted(coverages, kept)]) for kept in _COVERAGES},
        rejected={kind: round(fraction, 4) for kind, fraction in rejected.items()},
    )


def _release(study: Path, result: records.StudyResult) -> None:
    """The weights that stand for the study: seed 0, fixed beforehand, not the best."""
    model, card = load_model(str(run_directory(study, 0)))
    chosen = "seed 0 of the study, fixed beforehand; the last epoch"
    figures = derive_record(records.StudyFigures, result)
    card = replace(card, chosen=chosen, study=figures, calibration=result.calibration)
    save_weights(study / WEIGHTS_FILE, model, card)


def write_verdict(
    study: Path, result: records.StudyResult, budget: Budget | None, inspection: Inspection
) -> records.ProofResult:
    """What a study says of a budget, written to `verdict.json`; without a budget the verdict is “not judged”."""
    of = budget.accuracy_of if budget else "final"
    summary = result.final if of == "final" else result.last3
    clauses: tuple[records.Clause, ...] = ()
    if budget is not None:
        accuracy = accuracy_clause(
            budget, mean=summary.mean, lower_bound=summary.lower_bound, n=result.n, data=result.data, split=result.split
        )
        clauses = (*structural_clauses(budget, inspection, result.epochs), *([accuracy] if accuracy else []))
    proof = derive_record(
        records.ProofResult,
        result,
        **asdict(summary),
        budget=budget.name if budget else None,
        accuracy_of=of,
        interval=result.interval if of == "final" else None,  # it is of the final epochs
        verdict=overall_verdict(clauses) if budget else "not judged",
        clauses=clauses,
        study_dir=str(study),
        line="",
    )
    proof = replace(proof, line=_line(proof))
    write_record(study / "verdict.json", proof)
    return proof


def _line(proof: records.ProofResult) -> str:
    """The verdict in one line, for a log."""
    sd = f" ± {100 * proof.sd:.3f}" if proof.sd is not None else ""
    bound = f", lower bound {100 * proof.lower_bound:.3f} %" if proof.lower_bound is not None else ""
    what = "final epoch" if proof.accuracy_of == "final" else "mean of the last three epochs"
    digits = f"{records.SPLIT_NAMES[proof.split]} digits of {proof.data}"
    figures = f"{what} {100 * proof.mean:.3f} %{sd} on the {digits} (n = {proof.n}{bound})"
    verdict = f"{proof.budget}: {proof.verdict}" if proof.budget else "no budget"
    if proof.budget and proof.verdict == "not judged":
        verdict += f": {'; '.join(c.sentence for c in proof.clauses if c.verdict == 'not judged')}"
    return f"{proof.model}, {proof.recipe}: {figures}; {verdict}"


def summarise(accuracies: Sequence[float]) -> records.Summary:
    """Mean, sample sd (None for one run), and the one-sided 95 % lower t bound of the mean (None below 3 runs)."""
    return records.Summary(
        mean=statistics.mean(accuracies),
        sd=statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        lower_bound=mean_lower_bound(accuracies),
    )


def correct_in_run(run: Path) -> NDArray[np.bool_]:
    """Which evaluation digit a run classifies correctly: [digits]."""
    logits, labels = load_predictions(run)
    correct: NDArray[np.bool_] = logits.argmax(axis=1) == labels
    return correct


def read_study(study: Path) -> records.StudyResult:
    """A finished study's `study.json`.

    Raises:
        RunError: there is none, or it is damaged.
    """
    path = study / "study.json"
    if not path.exists():
        raise RunError(f"{study} is no finished study: {path.name} is missing. Run `tinydigits prove`.")
    return read_record(path, records.StudyResult, "Run `tinydigits prove` again.")


def _read_result(directory: Path) -> records.RunResult:
    return read_result(directory, _again(directory))


def _again(directory: Path) -> str:
    return f"Remove {directory}, and prove again."


def _reject_difference(path: Path, config: RunConfig, what: str, free: Sequence[str]) -> None:
    """Compare a config on disk with the wanted one, setting by setting, but for those that are `free`."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values.pop("schema")
        values.pop("kind", None)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise RunError(f"{path} cannot be read: {error}. Remove {path.parent}, or use another --out.") from error
    there = config_from_dict(values, str(path)).as_dict()
    if odd := differences(there, config.as_dict(), free):
        raise RunError(f"{what}: {odd}. Use another --out, or remove it.")
