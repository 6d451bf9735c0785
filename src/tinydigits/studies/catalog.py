"""What is recorded below a directory: its studies and runs, read from their JSON files without torch or numpy.

These are `study.json` with its `verdict.json`, `result.json` of a run, and files that hold a study with its verdicts,
such as those in results/proofs.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import asdict, replace

from tinydigits.errors import RunError, reason_of
from tinydigits.records import (
    ProofFile,
    ProofResult,
    RunResult,
    StudyResult,
    StudyRow,
    Summary,
    Verdict,
    derive_record,
    read_record,
    verdicts_of,
)

_OTHERS = {"learning_rate.json"}  # that tinydigits writes too


@dataclass(frozen=True)
class Listing:
    """What lies below some directories. `problems`: why files were left out, a sentence each without its full stop."""

    rows: list[StudyRow]
    problems: list[str]
    unfinished: list[str]  # studies that have no study.json yet


class _File(NamedTuple):
    """A file that should be a record. Paths are strings: for ten thousand of them, pathlib would take most of the time.

    `path` is what a user calls the record: the directory of a study or run, or the file.
    """

    directory: str
    name: str
    path: str
    modified: float


@dataclass
class _Found:
    """Files that should be records, and directories with a problem or an unfinished study, each by its true path."""

    files: dict[str, _File] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    unfinished: dict[str, str] = field(default_factory=dict)


def list_studies(directories: Sequence[Path], *, runs: bool = False) -> Listing:
    """The studies below the directories, and the runs that belong to none, sorted by path; or all single `runs`.

    Links to directories are not followed.

    Raises:
        RunError: one of them is no directory.
    """
    for directory in directories:
        if not directory.is_dir():
            raise RunError(
                f"{directory} is no directory. Name one that holds studies or runs, such as those that `tinydigits "
                "prove` and `tinydigits train` make."
            )
    found = _Found()
    for directory in directories:
        _walk(directory, found, runs=runs)
    rows, problems = [], list(found.problems.values())
    for file in found.files.values():
        row, problem = _read(file)
        rows += [row] if row else []
        problems += [problem] if problem else []
    return Listing(sorted(rows, key=lambda row: row.path), sorted(problems), sorted(found.unfinished.values()))


def _walk(root: Path, found: _Found, *, runs: bool) -> None:
    """Add what lies below a directory: all single `runs`, or everything that does not belong to a study or a search."""
    directories = [(str(root), str(root.resolve()).rstrip("/"), False)]
    while directories:
        directory, true, member = directories.pop()
        try:
            with os.scandir(directory) as entries:
                names = {entry.name: entry for entry in entries if not entry.name.startswith(".")}
            is_study = "study.json" in names or ("config.json" in names and "runs" in names)
            for name in _records_in(names, is_study):
                is_run = name == "result.json"
                if is_run if runs else not member:
                    path = directory if is_run or name == "study.json" else f"{directory}/{name}"
                    file = _File(directory, name, path, names[name].stat().st_mtime)
                    found.files.setdefault(f"{true}/{name}", file)
            if "result.json" in names:
                continue  # a run holds no runs
            is_search = "journal.log" in names  # its trials are no studies; its proofs are
            for name, entry in names.items():
                if entry.is_dir(follow_symlinks=False):
                    within = member or is_study or (is_search and name == "trials")
                    directories.append((entry.path.removeprefix("./"), f"{true}/{name}", within))
        except FileNotFoundError:
            continue  # removed meanwhile
        except OSError as error:
            found.problems.setdefault(true, f"{directory}: {reason_of(error)}")
            continue
        if is_study and "study.json" not in names:
            found.unfinished.setdefault(true, directory)


def _records_in(names: "Mapping[str, os.DirEntry[str]]", is_study: bool) -> list[str]:
    """The names in one directory that should be records."""
    for name in ("result.json", "study.json"):
        if name in names:
            return [name]
    if is_study or "config.json" in names:  # a study or a run that is not finished
        return []
    return [name for name in names if name.endswith(".json") and name not in _OTHERS]


def _read(file: _File) -> tuple[StudyRow | None, str | None]:
    """The row of a file, and why it or its verdict cannot be read; neither if the file is meant for something else."""
    path, row = Path(file.directory, file.name), None
    try:
        if file.name == "result.json":
            run = read_record(path, RunResult, "")
            row = _row(run, file, (run.verdict,) if run.verdict else ())
        elif file.name == "study.json":
            row = _row(read_record(path, StudyResult, ""), file, ())
            if (beside := path.with_name("verdict.json")).exists():
                row = replace(row, verdicts=verdicts_of([read_record(beside, ProofResult, "")]))
        else:
            document = read_record(path, dict[str, object], "")
            if "study" in document or not isinstance(document.get("recipe"), dict):  # else a file for --config
                proof = read_record(path, ProofFile, "")
                row = _row(proof.study, file, verdicts_of(proof.verdicts))
    except RunError as error:
        return row, str(error).rstrip(". ")
    return row, None


def _row(result: RunResult | StudyResult, file: _File, verdicts: tuple[Verdict, ...]) -> StudyRow:
    own: dict[str, object]
    if isinstance(result, RunResult):
        final, last3 = (
            Summary(mean=mean, sd=None, lower_bound=None) for mean in (result.accuracy, result.accuracy_last3)
        )
        own = {"kind": "run", "n": 1, "final": final, "last3": last3}
    else:
        final, seconds = result.final, sum(run.time_seconds for run in result.runs)
        own = {"kind": "study", "seed": None, "time_seconds": seconds}
    own |= asdict(final) | {"accuracy_of": "final", "modified": file.modified}
    return derive_record(StudyRow, result, path=file.path, verdicts=verdicts, **own)
