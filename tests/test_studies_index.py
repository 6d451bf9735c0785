"""The index of records: it says what the files say, whatever happens to them or to it."""

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.records import result, study, write_run, write_study
from tests.reporting import small_study
from tinydigits.errors import RunError
from tinydigits.models.budget import Budget, load_budget
from tinydigits.studies import index
from tinydigits.studies.index import SORT_KEYS, Record, judges_alike, ranked, read_records, under_budget


def records(directory: Path, *, runs: bool = False) -> dict[str, Record]:
    return {Path(r.path).relative_to(directory).as_posix(): r for r in read_records([directory], runs=runs).records}


def index_file() -> Path:
    (file,) = (Path(os.environ["XDG_CACHE_HOME"]) / "tinydigits" / "studies").glob("*")
    return file


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read."""
    names: list[str] = []
    true = index._read

    def counted(file: Path) -> dict[str, Any]:
        names.append(str(file))
        return true(file)

    monkeypatch.setattr(index, "_read", counted)
    return names


def test_it_says_of_a_real_study_what_its_files_say(tmp_path: Path) -> None:
    path = small_study(tmp_path, "study", twin=False)
    document = json.loads((path / "study.json").read_text())
    verdict = json.loads((path / "verdict.json").read_text())
    (record,) = read_records([tmp_path]).records
    assert record.path == str(path)
    assert record.as_dict() | {"judgements": 0} == record.as_dict() | {"judgements": 0} | {
        "model": document["model"], "recipe": "of the tests", "data": "optdigits", "n": 3, "epochs": 4,
        "parameters": document["parameters"], "final": document["final"], "last3": document["last3"],
        "mean": document["final"]["mean"], "lower_bound": document["final"]["lower_bound"],
    }  # fmt: skip
    assert record.time_seconds == pytest.approx(sum(run["time_seconds"] for run in document["runs"]))
    assert record.as_dict()["judgements"] == [{"budget": "tests", "verdict": verdict["verdict"]}]
    runs = records(tmp_path, runs=True)
    assert [run.seed for run in runs.values()] == [0, 1, 2]
    first = json.loads((path / "runs" / "seed-000" / "result.json").read_text())
    assert runs["study/runs/seed-000"].final["mean"] == first["accuracy"]


def test_a_users_network_is_judged_by_what_was_judged_before_and_never_run(tmp_path: Path) -> None:
    path = small_study(tmp_path, "study", twin=False)
    (tmp_path / "net.py").write_text("raise SystemExit('this was run')")
    found = read_records([tmp_path]).records
    budget = Budget("tests", dataset="optdigits", max_parameters=8_000, min_accuracy=0.6, forbid=("batch_norm",))
    kept, unknown = under_budget(found, budget)
    assert [r.as_dict()["judgements"][0]["verdict"] for r in kept] == [
        json.loads((path / "verdict.json").read_text())["verdict"]
    ]
    assert unknown == []
    for other in (
        Budget("tests", dataset="optdigits", forbid=("batch_norm", "dropout")),
        Budget("another", dataset="optdigits", forbid=("batch_norm",)),
        Budget("tests", dataset="optdigits", require=("batch_norm",)),
        Budget("tests", dataset="optdigits", max_macs=10**9),
    ):
        assert under_budget(found, other) == ([], found)
    assert under_budget(found, Budget("of figures", max_parameters=8_000))[0][0].path == str(path)


def test_the_zoos_networks_are_inspected(tmp_path: Path) -> None:
    write_study(tmp_path / "keeps", study(0.9955, model="era-8k", parameters=7_872, epochs=15))
    write_study(tmp_path / "short", study(0.992, model="era-8k", parameters=7_872, epochs=15))
    write_study(tmp_path / "one-seed", study(0.999, 1, model="era-8k", parameters=7_872, epochs=15))
    write_study(tmp_path / "held-out", study(0.999, model="era-8k", parameters=7_872, epochs=15, protocol="tune"))
    write_study(tmp_path / "large", study(0.999, model="tiny-10k", parameters=9_550, epochs=15))
    write_study(tmp_path / "long", study(0.999, model="era-8k", parameters=7_872, epochs=16))
    write_study(tmp_path / "no-dropout", study(0.999, model="tiny-10k", parameters=7_999, epochs=15))
    write_study(tmp_path / "plain", study(0.999, model="plain-9k+channels=6", parameters=5_000, epochs=15))
    kept, unknown = under_budget(read_records([tmp_path]).records, load_budget("era-s7"))
    verdicts = {Path(r.path).name: r.judgements[0]["verdict"] for r in kept}
    assert verdicts == {"keeps": "met", "short": "failed", "one-seed": "plausible", "held-out": "not judged"}
    assert [Path(r.path).name for r in unknown] == ["no-dropout", "plain"]  # by now another network, and none


def test_the_accuracy_is_the_one_that_the_budget_asks_for(tmp_path: Path) -> None:
    last3 = {"mean": 0.98, "sd": 0.0, "lower_bound": 0.98}
    write_study(tmp_path / "study", study(0.999, last3=last3))
    found = read_records([tmp_path]).records
    last = Budget("b", min_accuracy=0.99, accuracy_of="last3")
    kept, _ = under_budget(found, last)
    assert kept[0].as_dict()["mean"] == 0.98
    assert kept[0].judgements[0]["verdict"] == "failed"
    assert under_budget(found, Budget("b", min_accuracy=0.99))[0][0].judgements[0]["verdict"] == "met"
    assert under_budget([r for r in found if r.epochs > 10], last) == ([], [])


def test_runs_of_a_study_are_listed_alone_or_not_at_all(tmp_path: Path) -> None:
    write_study(tmp_path / "a", study(), runs=3)
    write_run(tmp_path / "a" / "twin", result(protocol="tune"))
    write_study(tmp_path / "open", runs=2)
    write_run(tmp_path / "b-001", result())
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_text("{}")
    listing = read_records([tmp_path])
    assert [Path(r.path).name for r in listing.records] == ["a", "b-001"]
    assert listing.unfinished == [str(tmp_path / "open")]
    assert not listing.problems
    singles = records(tmp_path, runs=True)
    assert len(singles) == 7
    assert singles["a/twin"].protocol == "tune"


def test_only_what_is_new_or_changed_is_read_again(tmp_path: Path, reads: list[str]) -> None:
    place = tmp_path / "studies"
    first, second = (write_study(place / name, study(), runs=2) for name in "ab")
    read_records([place])
    assert len(reads) == 6
    reads.clear()
    read_records([place])
    read_records([place], runs=True)
    assert reads == []
    (second / "study.json").write_text(json.dumps(study(0.9)))
    write_run(place / "new", result())
    assert records(place)["b"].final["mean"] == 0.9
    assert sorted(reads) == [str(second / "study.json"), str(place / "new" / "result.json")]
    reads.clear()
    (first / "verdict.json").write_text(json.dumps({"verdict": "met", "budget": "x", "clauses": []}))
    assert records(place)["a"].judgements[0]["verdict"] == "met"
    assert len(reads) == 2
    (first / "study.json").unlink()
    assert set(records(place)) == {"b", "new"}


def test_a_file_of_the_same_size_and_another_time_is_read_again(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", result(accuracy=0.991)) / "result.json"
    assert records(tmp_path)["run"].final["mean"] == 0.991
    path.write_text(json.dumps(result(accuracy=0.992)))
    os.utime(path, ns=(1, 1))
    assert records(tmp_path)["run"].final["mean"] == 0.992


def _other_version(content: bytes) -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.deserialize(content)
    connection.execute("PRAGMA user_version = 999")
    return connection.serialize()


def _damaged_row(content: bytes) -> bytes:
    return content.replace(b'"model"', b'"mo{el"')


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:0],
        lambda content: b"no database" * len(content),
        lambda content: content[: len(content) // 2],
        lambda content: content[:100] + bytes(len(content) - 100),
        _other_version,
        _damaged_row,
    ],
)
def test_a_damaged_index_is_built_anew(tmp_path: Path, damage: Any, reads: list[str]) -> None:
    place = tmp_path / "studies"
    for number in range(20):
        write_study(place / f"{number:02d}", study(0.9 + number / 1000))
    before = records(place)
    file = index_file()
    damaged = damage(file.read_bytes())
    assert damaged != file.read_bytes()
    file.write_bytes(damaged)
    reads.clear()
    assert records(place) == before
    assert len(reads) == 20
    assert records(place) == before
    assert len(reads) == 20


def test_without_a_cache_it_still_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_study(tmp_path / "studies" / "a", study())
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert set(records(tmp_path / "studies")) == {"a"}


def test_the_index_is_an_sqlite_database(tmp_path: Path) -> None:
    write_study(tmp_path / "a", study(), runs=2)
    read_records([tmp_path])
    (count,) = sqlite3.connect(index_file()).execute("SELECT count(*) FROM records").fetchone()
    assert count == 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "damaged: no valid JSON"),
        ('{"schema": 1, ', "damaged: no valid JSON"),
        ("\xff", "damaged: no text"),
        ("[]", "no study or run"),
        ("{}", "no record of schema 1"),
        ("[" * 100_000, "too deeply nested"),
        (result(schema=2), "no record of schema 1"),
        (result(accuracy=1.5), "its accuracy is not from 0 to 1"),
        (result(accuracy="0.9"), "its accuracy is no number"),
        (result(accuracy=True), "its accuracy is no number"),
        (result(accuracy=10**400), "its accuracy is no number"),
        (json.dumps(result()).replace("0.995", "NaN", 1), "NaN in it"),
        (json.dumps(result()).replace("0.995", "1e999", 1), "its accuracy is no number"),
        (result(parameters=-1), "its parameters is no whole number"),
        (result(model="a\x1b[31m"), "its model is no text"),
        (result(model=None), "its model is no text"),
        (result(verdict={"verdict": "splendid"}), "its verdict is none"),
        (result(verdict={"verdict": "met", "clauses": [1]}), "its clauses are none"),
    ],
)
def test_what_cannot_be_read_is_named_and_left_out(tmp_path: Path, content: Any, reason: str) -> None:
    write_run(tmp_path / "good", result())
    bad = write_run(tmp_path / "bad", {}) / "result.json"
    text = content if isinstance(content, str) else json.dumps(content)
    bad.write_bytes(text.encode("latin-1" if text == "\xff" else "utf-8"))
    for _ in range(2):  # from the file, from the index
        listing = read_records([tmp_path])
        assert [Path(record.path).name for record in listing.records] == ["good"]
        assert listing.problems == [f"{bad} ({reason})"]


def test_a_damaged_verdict_leaves_the_study(tmp_path: Path) -> None:
    path = write_study(tmp_path / "a", study())
    (path / "verdict.json").write_text("{")
    listing = read_records([tmp_path])
    assert listing.problems == [f"{path / 'verdict.json'} (damaged: no valid JSON)"]
    assert listing.records[0].judgements == []


def test_the_studies_that_the_repository_keeps(tmp_path: Path) -> None:
    proofs = Path(__file__).parent.parent / "results" / "proofs"
    listing = read_records([proofs])
    assert not listing.problems
    assert len(listing.records) == len(list(proofs.glob("*.json")))
    (era,) = [record for record in listing.records if record.model == "era-8k"]
    assert [found["budget"] for found in era.judgements] == ["era-s7", "era-s6"]
    kept, unknown = under_budget(listing.records, load_budget("era-s7"))
    verdicts = [(record.model, record.judgements[0]["verdict"]) for record in kept]
    assert verdicts == [("era-8k", "met"), ("era-record", "met")]
    assert not unknown


def test_other_json_is_named_but_not_what_tinydigits_writes_besides(tmp_path: Path) -> None:
    for name, document in {
        "settings.json": {"model": "plain-9k", "recipe": {"epochs": 3}},
        "learning_rate.json": {"trials": []},
        "notes.json": {"a": 1},
    }.items():
        (tmp_path / name).write_text(json.dumps(document))
    (tmp_path / ".hidden.json").write_text("{")
    assert read_records([tmp_path]).problems == [f"{tmp_path / 'notes.json'} (no study: it has no study)"]


def test_directories_that_lie_in_each_other_or_are_linked_count_once(tmp_path: Path) -> None:
    write_study(tmp_path / "studies" / "a", study())
    (tmp_path / "studies" / "round").symlink_to(tmp_path / "studies")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "studies")
    listing = read_records([link, tmp_path / "studies", tmp_path / "studies" / "a"])
    assert [record.path for record in listing.records] == [str(link / "a")]


def test_a_name_that_is_no_utf_8_is_no_obstacle(tmp_path: Path) -> None:
    write_run(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")), result())
    for _ in range(2):
        assert len(read_records([tmp_path]).records) == 1


def test_what_is_no_directory_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nowhere is no directory. Name one"):
        read_records([tmp_path / "nowhere"])


def test_a_lucky_run_is_not_ranked_first(tmp_path: Path) -> None:
    write_study(tmp_path / "study", study(0.995))
    write_study(tmp_path / "better", study(0.996))
    write_run(tmp_path / "lucky", result(accuracy=0.999))
    write_run(tmp_path / "unlucky", result(accuracy=0.99))
    found = read_records([tmp_path]).records
    assert [Path(r.path).name for r in ranked(found, "lower-bound")] == ["better", "study", "lucky", "unlucky"]
    assert Path(ranked(found, "accuracy")[0].path).name == "lucky"
    assert judges_alike(found)


def test_every_key_sorts(tmp_path: Path) -> None:
    write_study(tmp_path / "small", study(0.99, n=5, parameters=1_000, epochs=30))
    os.utime(write_study(tmp_path / "short", study(0.995, parameters=2_000, epochs=1)) / "study.json", (1, 1))
    found = read_records([tmp_path]).records
    first = {key: Path(ranked(found, key)[0].path).name for key in SORT_KEYS}
    assert first == {
        "path": "short", "lower-bound": "short", "accuracy": "short", "parameters": "small", "epochs": "short",
        "seeds": "small", "time": "short", "newest": "small",
    }  # fmt: skip
