"""What was recorded below a directory: its studies and runs, found at once however many there are.

The JSON files are the truth. What each says in short is kept in an index, an SQLite database in the user's cache, so
that the next time only files are read that are new or have changed (by time and size); those that are gone are
forgotten. A damaged index, or one of another version, is built anew. No torch is needed, but to judge by a budget.

Records are `study.json` with its `verdict.json`, `result.json` of a run, and files that hold a study with its verdicts,
such as those in results/proofs.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from tinydigits.errors import RunError, StorageError
from tinydigits.storage import user_cache, write_bytes

if TYPE_CHECKING:
    from tinydigits.models.budget import Budget, Clause
    from tinydigits.models.inspect import Inspection

SCHEMA = 1  # of study.json and result.json
_INDEX_VERSION = 1  # to be raised with every change of Record
_VERDICTS = ("met", "plausible", "failed", "not judged")
ACCURACY_KEYS = ("accuracy", "lower-bound")  # of SORT_KEYS, those that compare what digits have judged
_RECORDED = ("parameters", "epochs", "accuracy", "last3")  # clauses that need no earlier verdict to be judged again
_NO_RECORDS = {"learning_rate.json"}  # what tinydigits writes besides
_TABLE = "CREATE TABLE records (path BLOB PRIMARY KEY, stamp TEXT, record TEXT, problem TEXT) WITHOUT ROWID"


@dataclass(frozen=True)
class Record:
    """A study, or a run, which counts as a study of one seed.

    `final` and `last3` are `{mean, sd, lower_bound}` of the accuracy, in [0, 1], of the last epoch and of the last
    three; sd is None for one run, the bound below three. `time_seconds` is that of all runs together. A judgement is
    `{budget, verdict, clauses}`, of the clauses those on MACs, bytes and structure; its budget is None where a run was
    held against its network's own claim.
    """

    kind: Literal["study", "run"]
    member: bool  # a run that belongs to a study
    model: str
    recipe: str
    data: str
    protocol: str
    parameters: int
    epochs: int
    n: int
    seed: int | None  # of a run
    final: dict[str, Any]
    last3: dict[str, Any]
    time_seconds: float
    judgements: list[dict[str, Any]]
    modified: float  # seconds since 1970
    accuracy_of: str = "final"  # which of the two is asked for
    path: str = ""

    @property
    def summary(self) -> dict[str, Any]:
        """The accuracy that is asked for."""
        return self.last3 if self.accuracy_of == "last3" else self.final

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for --json; of the judgements their budgets and verdicts."""
        values = {key: value for key, value in asdict(self).items() if key not in ("path", "judgements", "member")}
        judgements = [{key: found[key] for key in ("budget", "verdict")} for found in self.judgements]
        return {"path": self.path, **values, **self.summary, "judgements": judgements}


@dataclass(frozen=True)
class Listing:
    """What lies below some directories. `problems`: files that were left out, each with the reason in brackets."""

    records: list[Record]
    problems: list[str]
    unfinished: list[str]  # studies that have no study.json yet


class _Found(NamedTuple):
    """A file that should be a record. `stamp` changes when it or the verdict beside it does.

    Paths are texts here: with ten thousand of them, pathlib would take most of the time. So would a frozen dataclass.
    """

    directory: str
    name: str
    kind: Literal["study", "run", "proof"]
    member: bool
    stamp: str
    modified: float

    @property
    def place(self) -> str:
        """What a user calls the record: the directory of a study or run, else the file."""
        return f"{self.directory}/{self.name}" if self.kind == "proof" else self.directory

    def read(self) -> tuple[Record | None, str | None]:
        """The record, and what cannot be read; neither of a file that is meant for something else."""
        try:
            record = self._record(_read(Path(self.directory, self.name)))
        except (OSError, ValueError, RecursionError) as error:
            return None, f"{self.name} ({_reason(error)})"
        verdict = Path(self.directory, "verdict.json")
        if record is None or self.kind != "study" or not verdict.exists():
            return record, None
        try:
            return replace(record, judgements=_judgements([_read(verdict)])), None
        except (OSError, ValueError, RecursionError) as error:
            return record, f"{verdict.name} ({_reason(error)})"

    def _record(self, document: Mapping[str, Any]) -> Record | None:
        if self.kind == "run":
            return _run(document, self)
        if self.kind == "study":
            return _study(document, [], self)
        if "study" not in document and isinstance(document.get("recipe"), dict):
            return None  # settings, for --config
        return _study(_table(document, "study"), document.get("verdicts", []), self)


@dataclass
class _Walk:
    found: list[_Found] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)


def read_records(directories: Sequence[Path], *, runs: bool = False) -> Listing:
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
    records: dict[str, Record] = {}  # by the true path, for directories may lie in each other
    problems: dict[str, str] = {}
    unfinished: dict[str, str] = {}
    for directory in directories:
        root = str(directory.resolve())
        shown = partial(_shown, root, str(directory))
        walk = _walk(root)
        for found, record, problem in _indexed(root, walk.found, runs, shown):
            if record is not None:
                records.setdefault(found.place, record)
            if problem is not None:
                problems.setdefault(found.place, f"{shown(found.directory)}/{problem}")
        for path, problem in walk.problems:
            problems.setdefault(path, f"{shown(path)} ({problem})")
        unfinished |= {path: shown(path) for path in walk.unfinished}
    return Listing(
        sorted(records.values(), key=lambda record: record.path), sorted(problems.values()), sorted(unfinished.values())
    )


def _shown(root: str, directory: str, path: str) -> str:
    """As the user would write it: below the directory that was named, in the words of pathlib."""
    below = path[len(root) :].lstrip("/")
    if not below or directory == ".":
        return below or directory
    return f"{directory.rstrip('/')}/{below}"


def ranked(records: Iterable[Record], key: str) -> list[Record]:
    """Sorted by one of `SORT_KEYS`: best, smallest, newest first; what has no such figure comes last.

    Raises:
        KeyError: there is no such key.
    """
    value = SORT_KEYS[key]

    def place(record: Record) -> tuple[bool, Any, float, str]:
        figure = value(record)
        return figure is None, figure if figure is not None else 0, -record.summary["mean"], record.path

    return sorted(records, key=place)


def _bound(record: Record) -> float | None:
    bound: float | None = record.summary["lower_bound"]
    return None if bound is None else -bound


SORT_KEYS: dict[str, Callable[[Record], Any]] = {
    "path": lambda record: record.path,
    "lower-bound": _bound,
    "accuracy": lambda record: -record.summary["mean"],
    "parameters": lambda record: record.parameters,
    "epochs": lambda record: record.epochs,
    "seeds": lambda record: -record.n,
    "time": lambda record: record.time_seconds,
    "newest": lambda record: -record.modified,
}


def judges_alike(records: Sequence[Record]) -> bool:
    """Whether all were judged by the same digits, so that their accuracies can be compared."""
    return len({(record.data, record.protocol) for record in records}) < 2


def under_budget(records: Iterable[Record], budget: "Budget") -> tuple[list[Record], list[Record]]:
    """Those that keep the limits and the structure of a budget, each with its verdict; and those of which nobody knows.

    A network of the zoo is built and inspected where the budget asks for more than is recorded. A user's own code is
    not run for this: what an earlier verdict said of the same clause counts, and without one nobody knows.
    """
    from tinydigits.models.budget import accuracy_clause, overall

    kept, unknown = [], []
    inspections: dict[str, Inspection | None] = {}
    for record in records:
        if _over(record, budget):
            continue
        clauses = _structure(record, budget, inspections)
        if clauses is None:
            unknown.append(record)
            continue
        if any(clause.verdict == "failed" for clause in clauses):
            continue
        record = replace(record, accuracy_of=budget.accuracy_of)
        mean, bound = record.summary["mean"], record.summary["lower_bound"]
        accuracy = accuracy_clause(
            budget, mean=mean, lower_bound=bound, n=record.n, data=record.data, protocol=record.protocol
        )
        verdict = overall((*clauses, *([accuracy] if accuracy else [])))
        kept.append(replace(record, judgements=[{"budget": budget.name, "verdict": verdict, "clauses": []}]))
    return kept, unknown


def _over(record: Record, budget: "Budget") -> bool:
    """What the record itself tells."""
    return (
        (budget.max_parameters is not None and record.parameters > budget.max_parameters)
        or (budget.max_epochs is not None and record.epochs > budget.max_epochs)
        or (budget.accuracy_of == "last3" and record.epochs < 3)
    )


def _structure(
    record: Record, budget: "Budget", inspections: "dict[str, Inspection | None]"
) -> "Sequence[Clause] | None":
    """The clauses on what is not recorded, judged; None: they cannot be."""
    from tinydigits.models.budget import structural_clauses

    limits = {name: getattr(budget, f"max_{name}") for name in ("macs", "weight_bytes", "activation_bytes")}
    asked: dict[str, Any] = {name: limit for name, limit in limits.items() if limit is not None}
    asked |= dict.fromkeys(budget.require, "required") | dict.fromkeys(budget.forbid, "forbidden")
    if not asked:
        return ()
    if record.model not in inspections:
        inspections[record.model] = _inspect(record.model)
    inspection = inspections[record.model]
    if inspection is not None and inspection.parameters == record.parameters:  # else it is another network by now
        return structural_clauses(budget, inspection, record.epochs)
    return _judged_before(record, budget, asked)


def _inspect(model: str) -> "Inspection | None":
    """A network of the zoo; None for a user's own, and for one that is there no longer."""
    from tinydigits.errors import ModelError
    from tinydigits.models.inspect import inspect_model
    from tinydigits.models.registry import create_model, is_users_own

    if is_users_own(model):
        return None
    try:
        return inspect_model(create_model(model), name=model)
    except ModelError:
        return None


def _judged_before(record: Record, budget: "Budget", asked: Mapping[str, Any]) -> "list[Clause] | None":
    """What verdicts on a budget of this name say of the same clauses."""
    from tinydigits.models.budget import Clause

    named = [found for found in record.judgements if found["budget"] == budget.name]
    earlier = [Clause(**clause) for found in named for clause in found["clauses"]]
    same = {
        clause.clause: clause
        for clause in earlier
        if asked.get(clause.clause) == clause.limit
        and (not clause.clause.endswith("_bytes") or f"({budget.number_format})" in clause.sentence)
    }
    return list(same.values()) if len(same) == len(asked) else None


def _walk(root: str) -> _Walk:
    walk = _Walk()
    directories = [(root, False)]
    while directories:
        directory, member = directories.pop()
        try:
            with os.scandir(directory) as entries:
                names = {entry.name: entry for entry in entries if not entry.name.startswith(".")}
            is_study = "study.json" in names or ("config.json" in names and "runs" in names)
            walk.found += _records_in(directory, names, member, is_study)
            if "result.json" in names:
                continue  # a run holds no runs
            is_search = "journal.log" in names  # its trials are no studies; its proofs are
            directories += [
                (entry.path, member or is_study or (is_search and entry.name == "trials"))
                for entry in names.values()
                if entry.is_dir(follow_symlinks=False)
            ]
        except FileNotFoundError:
            continue  # removed meanwhile
        except OSError as error:
            walk.problems.append((directory, (error.strerror or str(error)).lower()))
            continue
        if is_study and "study.json" not in names:
            walk.unfinished.append(directory)
    return walk


def _records_in(
    directory: str, names: "Mapping[str, os.DirEntry[str]]", member: bool, is_study: bool
) -> Iterator[_Found]:
    """The files in one directory that should be records."""
    kinds: dict[str, Literal["study", "run", "proof"]] = {"result.json": "run", "study.json": "study"}
    chosen = [name for name in kinds if name in names][:1]
    if not chosen and not is_study and "config.json" not in names:  # else a run that is not finished
        chosen = [name for name in names if name.endswith(".json") and name not in _NO_RECORDS]
    for name in chosen:
        beside = names.get("verdict.json") if name == "study.json" else None
        stats = [entry.stat() for entry in (names[name], *([beside] if beside else []))]
        stamp = " ".join(f"{stat.st_mtime_ns}:{stat.st_size}" for stat in stats)
        yield _Found(directory, name, kinds.get(name, "proof"), member, stamp, stats[0].st_mtime)


def _indexed(
    root: str, found: Sequence[_Found], runs: bool, shown: Callable[[str], str]
) -> Iterator[tuple[_Found, Record | None, str | None]]:
    """Each with its record, if it is asked for, under the path that is shown, and its problem.

    From the index where it knows the file as it is, else from the file.
    """
    index = _index_file(root)
    connection, known = _load(index)
    with closing(connection):
        changed: list[_Row] = []
        gone = set(known)
        for each in found:
            place = each.place
            key, stamp = os.fsencode(place), f"{each.kind} {each.member} {each.stamp}"
            gone.discard(key)
            wanted = each.kind == "run" if runs else not each.member
            row = known.get(key)
            try:
                if row is None or row[1] != stamp:
                    raise KeyError(key)
                known_as = json.loads(row[2]) if wanted and row[2] else None
                record, problem = Record(**{**known_as, "path": shown(place)}) if known_as else None, row[3]
            except (KeyError, ValueError, TypeError):  # new, changed, or its row is damaged
                record, problem = each.read()
                changed.append((key, stamp, json.dumps(asdict(record)) if record else None, problem))
                record = record and replace(record, path=shown(place))
            yield each, record if wanted else None, problem
        if changed or gone:
            connection.executemany("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)", changed)
            connection.executemany("DELETE FROM records WHERE path = ?", [(key,) for key in gone])
            connection.commit()
            with suppress(OSError, StorageError):  # a cache that cannot be written to is none
                index.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(index, connection.serialize())


def _index_file(root: str) -> Path:
    """In the user's cache: the records may lie where nothing can be written, or in a repository."""
    digest = hashlib.sha256(os.fsencode(root)).hexdigest()
    return user_cache() / "studies" / f"{digest[:16]}.sqlite"


_Row = tuple[bytes, str, str | None, str | None]  # path, stamp, record as JSON, problem


def _load(index: Path) -> tuple[sqlite3.Connection, dict[bytes, _Row]]:
    """The index in memory, with all its rows by path; an empty one where there is none, or none that can be read."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.deserialize(index.read_bytes())
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == _INDEX_VERSION:
            return connection, {row[0]: row for row in connection.execute("SELECT * FROM records")}
    except (OSError, sqlite3.Error, MemoryError):  # the last for an empty file
        pass
    connection.close()
    connection = sqlite3.connect(":memory:")
    connection.execute(_TABLE)
    connection.execute(f"PRAGMA user_version = {_INDEX_VERSION}")
    return connection, {}


def _read(file: Path) -> dict[str, Any]:
    """A JSON object without NaN and the like."""
    try:
        document = json.loads(file.read_bytes(), parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise ValueError("damaged: no valid JSON") from error
    except UnicodeDecodeError as error:
        raise ValueError("damaged: no text") from error
    if not isinstance(document, dict):
        raise ValueError("no study or run")
    return document


def _no_number(name: str) -> None:
    raise ValueError(f"{name} in it")


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "too deeply nested"
    return error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)


def _study(document: Mapping[str, Any], verdicts: Any, found: _Found) -> Record:
    common = _common(document, found)
    runs = document.get("runs")
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
        raise ValueError("no study: it has no runs")
    return Record(
        kind="study",
        n=_count(document, "n"),
        seed=None,
        final=_summary(document, "final"),
        last3=_summary(document, "last3"),
        time_seconds=sum(_number(run, "time_seconds") for run in runs),
        judgements=_judgements(verdicts),
        **common,
    )


def _run(document: Mapping[str, Any], found: _Found) -> Record:
    common = _common(document, found)
    final = {"mean": _share(document, "accuracy"), "sd": None, "lower_bound": None}
    judged = document.get("verdict")
    return Record(
        kind="run",
        n=1,
        seed=_count(document, "seed"),
        final=final,
        last3={**final, "mean": _share(document, "accuracy_last3")},
        time_seconds=_number(document, "time_seconds"),
        judgements=_judgements([{**judged, "budget": document.get("budget")}] if isinstance(judged, dict) else []),
        **common,
    )


def _common(document: Mapping[str, Any], found: _Found) -> dict[str, Any]:
    if document.get("schema") != SCHEMA:
        raise ValueError(f"no record of schema {SCHEMA}")
    return {
        **{key: _text(document, key) for key in ("model", "recipe", "data", "protocol")},
        **{key: _count(document, key) for key in ("parameters", "epochs")},
        "member": found.member,
        "modified": found.modified,
    }


def _summary(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    part = _table(document, key)
    optional = {name: None if part.get(name) is None else _number(part, name) for name in ("sd", "lower_bound")}
    return {"mean": _share(part, "mean"), **optional}


def _judgements(verdicts: Any) -> list[dict[str, Any]]:
    """Of each verdict what a listing needs; where no budget was asked for, and nothing claimed, there is none."""
    if not isinstance(verdicts, list):
        raise ValueError("its verdicts are no list")
    found = []
    for verdict in verdicts:
        if not isinstance(verdict, dict) or verdict.get("verdict") not in _VERDICTS:
            raise ValueError("its verdict is none")
        clauses = verdict.get("clauses")
        if not isinstance(clauses, list) or not all(_is_clause(clause) for clause in clauses):
            raise ValueError("its clauses are none")
        budget = None if verdict.get("budget") is None else _text(verdict, "budget")
        if budget is not None or clauses:
            kept = [clause for clause in clauses if budget and clause["clause"] not in _RECORDED]
            found.append({"budget": budget, "verdict": verdict["verdict"], "clauses": kept})
    return found


def _is_clause(clause: Any) -> bool:
    return (
        isinstance(clause, dict)
        and clause.keys() == {"clause", "limit", "value", "verdict", "sentence"}
        and clause["verdict"] in _VERDICTS
        and all(isinstance(clause[key], str) for key in ("clause", "sentence"))
        and isinstance(clause["limit"], str | int | float)
    )


def _table(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = document.get(key)
    if not isinstance(value, dict):
        raise ValueError(f"no study: it has no {key}")
    return value


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"its {key} is no text")
    return value


def _count(document: Mapping[str, Any], key: str) -> int:
    value = document.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError(f"its {key} is no whole number")
    return value


def _number(document: Mapping[str, Any], key: str) -> float:
    value = document.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 2**63:  # NaN is not below
        raise ValueError(f"its {key} is no number")
    return value


def _share(document: Mapping[str, Any], key: str) -> float:
    value = _number(document, key)
    if not 0 <= value <= 1:
        raise ValueError(f"its {key} is not from 0 to 1")
    return value
