"""A claim, many seeds, a verdict: train the same thing with several seeds and say what that proves.

A study directory holds:

    config.json     "kind": "study", and the runs' RunConfig           runs/seed-000/ …    a run directory each
    study.json      what came out, run by run and in all               twin/              the tune twin, if asked for
    verdict.json    what that says of a budget, clause by clause
    model.safetensors, model.json    seed 0's weights, and their card, which tells of the study
"""

import fcntl
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydigits.data.dataset import Dataset
from tinydigits.data.normalise import normalise
from tinydigits.errors import RunError, StorageError
from tinydigits.evaluation.calibration import calibrate, coverage_curve, evidence
from tinydigits.evaluation.nondigits import nondigit_pictures, rejection_report
from tinydigits.evaluation.predictions import predict_logits
from tinydigits.evaluation.statistics import mean_lower_bound, two_way_bootstrap
from tinydigits.models.budget import Budget, Clause, accuracy_clause, overall, structural_clauses
from tinydigits.models.inspect import Inspection
from tinydigits.models.registry import code_sha256
from tinydigits.models.weights import load_model, save_weights
from tinydigits.settings import differences
from tinydigits.storage import write_json
from tinydigits.studies.runners import Job
from tinydigits.training.config import RunConfig, config_from_dict
from tinydigits.training.rundir import RunDirectory, load_predictions, read_metrics

SCHEMA = 1
_KIND = "study"  # stands in a study's config.json, and in no run's
_FREE = ("data_dir", "threads")  # may differ from start to start: they say nothing of what is proved
_COVERAGES = (1.0, 0.999, 0.995, 0.99, 0.98, 0.95)  # shares of the held-out digits that are kept, for the report
_SHOWN = ("seed", "accuracy", "accuracy_last3", "accuracy_best", "time_seconds")  # of each run, in study.json
_SAME = ("data_sha256", "judge_sha256", "parameters", "code_sha256")  # in all runs
_RESULT_KEYS = (*_SHOWN, *_SAME, "epochs", "data")
_STUDY_KEYS = ("model", "recipe", "data", "protocol", "judge_sha256", "seeds", "n", "final", "runs")


def run_directory(study: Path, seed: int) -> Path:
    """Where the run of a seed lies."""
    return study / "runs" / f"seed-{seed:03d}"


@contextmanager
def open_study(study: Path, config: RunConfig) -> Iterator[None]:
    """Make the study's directory, or go on with it; nobody else may work on it meanwhile.

    Raises:
        RunError: it holds something else, or another process is at work on it.
        StorageError: it cannot be written to.
    """
    file = study / "config.json"
    try:
        study.mkdir(parents=True, exist_ok=True)
        # a new one is empty, or another process is still writing its config
        if not all(path.name.startswith((".lock", ".config.json.")) for path in study.iterdir()):
            refuse_other_kinds(study, _KIND)
        lock = (study / ".lock").open("w")
    except OSError as error:
        raise StorageError(f"{study} could not be written: {(error.strerror or '').lower()}. Use --out.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(
                f"{study} is being worked on by another process. Wait for it, or use another --out."
            ) from error
        if file.exists():
            _refuse_difference(file, config, f"{study} holds another study", ("seed", *_FREE))
        else:
            write_json(file, {"schema": SCHEMA, "kind": _KIND, **config.as_dict()})
        yield


def directory_kind(directory: Path) -> Any:
    """What `config.json` says of its directory: `study` or `search`. A run's says nothing, so this is None then."""
    try:
        return json.loads((directory / "config.json").read_text(encoding="utf-8"))["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def refuse_other_kinds(directory: Path, kind: str) -> None:
    """Leave a directory that is no study, or no search, as it is.

    Raises:
        RunError: it is none.
    """
    if directory_kind(directory) != kind:
        raise RunError(
            f"{directory} is not empty, and no {kind}: a {kind}'s config.json says so. Name a new directory with --out."
        )


def finished_runs(study: Path) -> int:
    """How many of the seeds 0, 1, 2, … are finished, up to the first that is not."""
    return next(seed for seed in count() if not (run_directory(study, seed) / "result.json").exists())


def open_jobs(study: Path, config: RunConfig, seeds: Sequence[int], *, twin: bool) -> list[Job]:
    """What is still to be trained. `twin` adds the tune twin: seed 0, trained without the held-out digits.

    Raises:
        RunError: a run in the directory differs from the study in anything but the seed, or a finished one is of a
            network whose file has changed since.
    """
    wanted = [Job(replace(config, seed=seed), run_directory(study, seed)) for seed in seeds]
    if twin:
        wanted.append(Job(replace(config, seed=0, protocol="tune"), study / "twin"))
    for job in wanted:
        if (job.directory / "config.json").exists():
            _refuse_difference(
                job.directory / "config.json", job.config, f"{job.directory} does not belong to the study", _FREE
            )
    missing = [job for job in wanted if not (job.directory / "result.json").exists()]
    code = code_sha256(config.model)
    for job in wanted:
        if job not in missing and _read_result(job.directory)["code_sha256"] != code:
            raise RunError(
                f"{job.directory}: the file of {config.model} has changed since that run, and a study is of one "
                "network. Restore the file, or use another --out."
            )
    return missing


def collect(
    study: Path,
    config: RunConfig,
    seeds: Sequence[int],
    held_out: Dataset | None = None,
    notice: str | None = None,
) -> dict[str, Any]:
    """Read all runs, write `study.json` and the weights of seed 0 with a card that tells of the study.

    Returns `study.json`. With `held_out`, the digits by which the tune twin was judged, temperature and rejection
    threshold are fitted on the twin and carried over to the weights. `notice` says why these are other digits than
    MNIST, when nobody asked for others.

    `interval` is for the accuracy on new digits of the same kind with new seeds: the two-way bootstrap over runs
    and digits. `lower_bound` is the one-sided 95 % t bound of the mean over seeds on these digits, from 3 runs on.

    Raises:
        RunError: a run is missing or unreadable, its accuracy is no number, or it was judged by other digits.
    """
    results = [_read_result(run_directory(study, seed)) for seed in seeds]
    first = results[0]
    for key in _SAME:
        odd = [r["run_dir"] for r in results if r[key] != first[key]]
        if odd:
            raise RunError(f"{odd[0]} differs from the other runs in its {key}. Remove it, and prove again.")
    right = correct_answers(study, seeds)
    accuracies = [result["accuracy"] for result in results]
    last3 = [result["accuracy_last3"] for result in results]
    document = {
        "schema": SCHEMA,
        "model": config.model,
        "recipe": config.recipe.name,
        "config": {key: value for key, value in config.as_dict().items() if key not in ("seed", *_FREE)},
        "parameters": first["parameters"],
        "epochs": first["epochs"],
        "data": first["data"],
        "data_sha256": first["data_sha256"],
        "judge_sha256": first["judge_sha256"],
        "protocol": config.protocol,
        "notice": notice,
        "seeds": list(seeds),
        "n": len(seeds),
        "final": summarise(accuracies),
        "last3": summarise(last3),
        "interval": list(two_way_bootstrap(right)),
        "runs": [{**{key: result[key] for key in _SHOWN}, **_curves(Path(result["run_dir"]))} for result in results],
        "calibration": _calibration(study, held_out) if held_out is not None else None,
        "environment": _read_run(run_directory(study, seeds[0]), "environment.json", ()),
    }
    write_json(study / "study.json", document)
    _release(study, document)
    return document


def _calibration(study: Path, held_out: Dataset) -> dict[str, Any]:
    """Fitted on digits that neither trained the twin nor test; `rejected` is what seed 0 then makes of non-digits."""
    logits, labels = load_predictions(RunDirectory(study / "twin"))
    calibration = calibrate(logits, labels)
    model, card = load_model(str(run_directory(study, 0)))

    def score(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        return evidence(predict_logits(model, normalise(images, card.mean, card.deviation)).numpy())

    shares = rejection_report(score, calibration.threshold, nondigit_pictures(held_out))
    return {
        **calibration.as_dict(),
        "coverage_accuracy": _coverage_accuracy(logits, labels),
        "rejected": {kind: round(share, 4) for kind, share in shares.items()},
    }


def _coverage_accuracy(logits: NDArray[np.float32], labels: NDArray[np.uint8]) -> dict[str, float]:
    """Accuracy on what is kept when as much is rejected as leaves at least a share of the digits: share → accuracy."""
    coverages, accuracies = coverage_curve(evidence(logits), logits.argmax(axis=1) == labels)
    return {str(share): float(accuracies[np.searchsorted(coverages, share)]) for share in _COVERAGES}


def _release(study: Path, document: Mapping[str, Any]) -> None:
    """The weights that stand for the study: seed 0, fixed beforehand, not the best."""
    model, card = load_model(str(run_directory(study, 0)))
    facts = {key: document[key] for key in ("n", "seeds", "final", "last3", "interval")}
    chosen = "seed 0 of the study, fixed beforehand; the last epoch"
    card = replace(card, chosen=chosen, study=facts, calibration=document["calibration"])
    save_weights(study / "model.safetensors", model, card)


def judge(study: Path, document: Mapping[str, Any], budget: Budget | None, inspection: Inspection) -> dict[str, Any]:
    """What a study says of a budget: writes `verdict.json` and returns it. Without a budget nothing is judged."""
    of = budget.accuracy_of if budget else "final"
    summary = document[of]
    clauses: tuple[Clause, ...] = ()
    if budget is not None:
        accuracy = accuracy_clause(
            budget,
            mean=summary["mean"],
            lower_bound=summary["lower_bound"],
            n=document["n"],
            data=document["data"],
            protocol=document["protocol"],
        )
        clauses = (*structural_clauses(budget, inspection, document["epochs"]), *([accuracy] if accuracy else []))
    verdict = {
        "schema": SCHEMA,
        "model": document["model"],
        "recipe": document["recipe"],
        "budget": budget.name if budget else None,
        **{key: document[key] for key in ("data", "protocol", "notice", "n")},
        "accuracy_of": of,
        **summary,
        "interval": document["interval"] if of == "final" else None,  # it is of the final epochs
        "verdict": overall(clauses) if budget else "not judged",
        "clauses": [asdict(clause) for clause in clauses],
        "study_dir": str(study),
    }
    verdict["line"] = _line(verdict)
    write_json(study / "verdict.json", verdict)
    return verdict


def _line(verdict: Mapping[str, Any]) -> str:
    """The verdict in one line, for a log."""
    sd = f" ± {100 * verdict['sd']:.3f}" if verdict["sd"] is not None else ""
    bound = f", lower bound {100 * verdict['lower_bound']:.3f} %" if verdict["lower_bound"] is not None else ""
    what = "final epoch" if verdict["accuracy_of"] == "final" else "mean of the last three epochs"
    digits = f"{'test' if verdict['protocol'] == 'final' else 'held-out'} digits of {verdict['data']}"
    figures = f"{what} {100 * verdict['mean']:.3f} %{sd} on the {digits} (n = {verdict['n']}{bound})"
    judged = f"{verdict['budget']}: {verdict['verdict']}" if verdict["budget"] else "no budget"
    if verdict["budget"] and verdict["verdict"] == "not judged":
        judged += f": {'; '.join(c['sentence'] for c in verdict['clauses'] if c['verdict'] == 'not judged')}"
    return f"{verdict['model']}, {verdict['recipe']}: {figures}; {judged}"


def summarise(accuracies: Sequence[float]) -> dict[str, float | None]:
    """Mean, sample sd (None for one run), and the one-sided 95 % lower t bound of the mean (None below 3 runs)."""
    if not np.isfinite(accuracies).all():
        raise RunError(f"The accuracies {list(accuracies)} are not all numbers, so they have no mean.")
    return {
        "mean": statistics.mean(accuracies),
        "sd": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "lower_bound": mean_lower_bound(accuracies),
    }


def correct_answers(study: Path, seeds: Sequence[int]) -> NDArray[np.bool_]:
    """Which run answers which judging digit right: [seeds, digits]."""
    return np.stack([right_answers(run_directory(study, seed)) for seed in seeds])


def right_answers(run: Path) -> NDArray[np.bool_]:
    """Which judging digit a run answers right: [digits]."""
    logits, labels = load_predictions(RunDirectory(run))
    right: NDArray[np.bool_] = logits.argmax(axis=1) == labels
    return right


def read_study(study: Path) -> dict[str, Any]:
    """A finished study's `study.json`.

    Raises:
        RunError: there is none, or it is damaged.
    """
    path = study / "study.json"
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            raise RunError(f"{path} has schema {document['schema']}, this version reads {SCHEMA}. Prove it anew.")
        _require(document, _STUDY_KEYS)
        return document
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{study} is no finished study: {path.name} in it cannot be read. Run `tinydigits prove`."
        ) from error


def _read_result(directory: Path) -> dict[str, Any]:
    return {**_read_run(directory, "result.json", _RESULT_KEYS), "run_dir": str(directory)}


def _read_run(directory: Path, name: str, keys: Sequence[str]) -> dict[str, Any]:
    """A JSON file of a run that has to hold these keys."""
    path = directory / name
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _require(document, keys)
        return document
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path} cannot be read: {error}. Remove {directory}, and prove again.") from error


def _curves(run: Path) -> dict[str, list[float]]:
    """A run's accuracies epoch by epoch: on the judging digits, and on those it was trained with."""
    curves = read_metrics(RunDirectory(run), ("accuracy", "train_accuracy"), f"Remove {run}, and prove again.")
    return {f"{key}_by_epoch": curve for key, curve in curves.items()}


def _require(document: Mapping[str, Any], keys: Sequence[str]) -> None:
    missing = [key for key in keys if key not in document]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")


def _refuse_difference(path: Path, config: RunConfig, what: str, free: Sequence[str]) -> None:
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
