"""What is found of studies and runs: what their files say, whatever happens to these."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.records import proof, result, study, write_run, write_study
from tests.support.reporting import small_study
from tinydigits.errors import RunError
from tinydigits.inspection.budget import Budget, load_budget
from tinydigits.records import StudyRow
from tinydigits.studies.catalog import list_studies
from tinydigits.studies.ranking import SORT_KEYS, evaluated_alike, ranked, under_budget


def rows(directory: Path, *, runs: bool = False) -> dict[str, StudyRow]:
    return {Path(r.path).relative_to(directory).as_posix(): r for r in list_studies([directory], runs=runs).rows}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of a user's network whose file cannot be run any more."""
    directory = tmp_path_factory.mktemp("real")
    study = small_study(directory, "study", calibration_run=False)
    (directory / "net.py").write_text("raise SystemExit('this was run')")
    return study


def test_it_says_of_a_real_study_what_its_files_say(real: Path) -> None:
    document = json.loads((real / "study.json").read_text())
    verdict = json.loads((real / "verdict.json").read_text())
    (row,) = list_studies([real.parent]).rows
    assert row.path == str(real)
    told = row.as_dict()
    assert told | {"verdicts": 0} == told | {"verdicts": 0} | {
        "model": document["model"], "recipe": "of the tests", "data": "optdigits", "n": 3, "epochs": 4,
        "parameters": document["parameters"], "final": document["final"], "last3": document["last3"],
        "mean": document["final"]["mean"], "lower_bound": document["final"]["lower_bound"],
    }  # fmt: skip
    assert row.time_seconds == pytest.approx(sum(run["time_seconds"] for run in document["runs"]))
    assert [(found.budget, found.verdict) for found in row.verdicts] == [("tests", verdict["verdict"])]
    assert [clause.as_dict() for clause in row.verdicts[0].clauses] == verdict["clauses"]
    runs = rows(real.parent, runs=True)
    assert [run.seed for run in runs.values()] == [0, 1, 2]
    first = json.loads((real / "runs" / "seed-000" / "result.json").read_text())
    assert runs["study/runs/seed-000"].final.mean == first["accuracy"]


def test_a_users_network_has_its_earlier_verdicts_and_is_never_run(real: Path) -> None:
    found = list_studies([real.parent]).rows
    budget = Budget("tests", dataset="optdigits", max_parameters=8_000, min_accuracy=0.6, forbid=("batch_norm",))
    kept, unknown = under_budget(found, budget)
    assert [r.verdicts[0].verdict for r in kept] == [json.loads((real / "verdict.json").read_text())["verdict"]]
    assert unknown == []
    for other in (
        Budget("tests", dataset="optdigits", forbid=("batch_norm", "dropout")),
        Budget("another", dataset="optdigits", forbid=("batch_norm",)),
        Budget("tests", dataset="optdigits", require=("batch_norm",)),
        Budget("tests", dataset="optdigits", max_macs=10**9),
    ):
        assert under_budget(found, other) == ([], found)
    assert under_budget(found, Budget("of figures", max_parameters=8_000))[0][0].path == str(real)


def test_the_zoos_networks_are_inspected(tmp_path: Path) -> None:
    write_study(tmp_path / "keeps", study(0.9955, model="era-8k", parameters=7_872, epochs=15))
    write_study(tmp_path / "short", study(0.992, model="era-8k", parameters=7_872, epochs=15))
    write_study(tmp_path / "one-seed", study(0.999, 1, model="era-8k", parameters=7_872, epochs=15))
    write_study(tmp_path / "validation", study(0.999, model="era-8k", parameters=7_872, epochs=15, split="val"))
    write_study(tmp_path / "large", study(0.999, model="tiny-10k", parameters=9_550, epochs=15))
    write_study(tmp_path / "long", study(0.999, model="era-8k", parameters=7_872, epochs=16))
    write_study(tmp_path / "no-dropout", study(0.999, model="tiny-10k", parameters=7_999, epochs=15))
    write_study(tmp_path / "plain", study(0.999, model="plain-9k+channels=6", parameters=5_000, epochs=15))
    kept, unknown = under_budget(list_studies([tmp_path]).rows, load_budget("era-s7"))
    verdicts = {Path(r.path).name: r.verdicts[0].verdict for r in kept}
    assert verdicts == {"keeps": "met", "short": "failed", "one-seed": "plausible", "validation": "not judged"}
    assert [Path(r.path).name for r in unknown] == ["no-dropout", "plain"]  # by now another network, and none


def test_the_accuracy_is_the_one_that_the_budget_is_about(tmp_path: Path) -> None:
    last3 = {"mean": 0.98, "sd": 0.0, "lower_bound": 0.98}
    write_study(tmp_path / "study", study(0.999, last3=last3))
    found = list_studies([tmp_path]).rows
    last = Budget("b", min_accuracy=0.99, accuracy_of="last3")
    kept, _ = under_budget(found, last)
    assert kept[0].mean == 0.98
    assert kept[0].verdicts[0].verdict == "failed"
    assert under_budget(found, Budget("b", min_accuracy=0.99))[0][0].verdicts[0].verdict == "met"
    assert under_budget([r for r in found if r.epochs > 10], last) == ([], [])


def test_runs_of_a_study_are_listed_alone_or_not_at_all(tmp_path: Path) -> None:
    write_study(tmp_path / "a", study(), runs=3)
    write_run(tmp_path / "a" / "calibration_run", result(split="val"))
    write_study(tmp_path / "open", runs=2)
    write_run(tmp_path / "b-001", result())
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_text("{}")
    listing = list_studies([tmp_path])
    assert [Path(r.path).name for r in listing.rows] == ["a", "b-001"]
    assert listing.unfinished == [str(tmp_path / "open")]
    assert not listing.problems
    singles = rows(tmp_path, runs=True)
    assert len(singles) == 7
    assert singles["a/calibration_run"].split == "val"


def test_what_has_changed_is_seen(tmp_path: Path) -> None:
    place = tmp_path / "studies"
    first, second = (write_study(place / name, study(), runs=2) for name in "ab")
    assert set(rows(place)) == {"a", "b"}
    (second / "study.json").write_text(json.dumps(study(0.9)))
    write_run(place / "new", result())
    assert rows(place)["b"].final.mean == 0.9
    (first / "verdict.json").write_text(json.dumps(proof("x", "met")))
    assert rows(place)["a"].verdicts[0].verdict == "met"
    (first / "study.json").unlink()
    assert set(rows(place)) == {"b", "new"}


def test_ten_thousand_are_listed_in_three_seconds(tmp_path: Path) -> None:
    """In processor time, which other work on the machine does not lengthen."""
    content = json.dumps(result())
    for number in range(100):
        write_study(tmp_path / f"{number:02d}", study())
        for seed in range(100):
            run = tmp_path / f"{number:02d}" / "runs" / f"seed-{seed:03d}"
            run.mkdir()
            (run / "result.json").write_text(content)
    started = time.process_time()
    assert len(list_studies([tmp_path], runs=True).rows) == 10_000
    assert time.process_time() - started < 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is damaged, no valid JSON: Input data was truncated"),
        ('{"schema": 1, ', "is damaged, no valid JSON: Input data was truncated"),
        ("\xff", "is damaged, no valid JSON: JSON is malformed"),
        ("[]", "expected `object`, got `array`"),
        ("{}", "object missing required field `model`"),
        ("[" * 100_000, "expected `object`, got `array`"),
        ('{"verdict": ' + "[" * 100_000, "verdict: expected `object | null`, got `array`"),
        (result(schema=2), "its schema is 2, and this version reads 1"),
        (result(accuracy=1.5), "accuracy: expected `float` <= 1.0"),
        (result(accuracy="0.9"), "accuracy: expected `float`, got `str`"),
        (result(accuracy=True), "accuracy: expected `float`, got `bool`"),
        (result(accuracy=10**400), "accuracy: number out of range"),
        (json.dumps(result()).replace("0.995", "NaN", 1), "is damaged, no valid JSON: JSON is malformed"),
        (json.dumps(result()).replace("0.995", "1e999", 1), "accuracy: number out of range"),
        (result(parameters=-1), "parameters: expected `int` >= 0"),
        (result(parameters=1.5), "parameters: expected `int`, got `float`"),
        (result(model="a\x1b[31m"), "model: expected `str` matching regex"),
        (result(model=None), "model: expected `str`, got `null`"),
        (result(split="final"), "split: invalid enum value 'final'"),
        (result(epoch=1), "object contains unknown field `epoch`"),
        (result(verdict={"verdict": "splendid"}), "verdict"),
        (result(verdict={"verdict": "met", "clauses": [1]}), "verdict"),
    ],
)
def test_what_cannot_be_read_is_named_and_left_out(tmp_path: Path, content: Any, reason: str) -> None:
    write_run(tmp_path / "good", result())
    bad = write_run(tmp_path / "bad", {}) / "result.json"
    text = content if isinstance(content, str) else json.dumps(content)
    bad.write_bytes(text.encode("latin-1" if text == "\xff" else "utf-8"))
    listing = list_studies([tmp_path])
    assert [Path(row.path).name for row in listing.rows] == ["good"]
    (problem,) = listing.problems
    assert problem.startswith(f"{bad}")
    assert reason in problem
    assert "\n" not in problem
    assert not problem.endswith(".")


def test_a_damaged_verdict_leaves_the_study(tmp_path: Path) -> None:
    path = write_study(tmp_path / "a", study())
    (path / "verdict.json").write_text("{")
    listing = list_studies([tmp_path])
    assert listing.problems == [f"{path / 'verdict.json'} is damaged, no valid JSON: Input data was truncated"]
    assert listing.rows[0].verdicts == ()


def test_the_studies_that_the_repository_keeps(tmp_path: Path) -> None:
    proofs = Path(__file__).parents[2] / "results" / "proofs"
    listing = list_studies([proofs])
    assert not listing.problems
    assert len(listing.rows) == len(list(proofs.glob("*.json")))
    (era,) = [row for row in listing.rows if row.model == "era-8k"]
    assert [found.budget for found in era.verdicts] == ["era-s7", "era-s6"]
    kept, unknown = under_budget(listing.rows, load_budget("era-s7"))
    verdicts = [(row.model, row.verdicts[0].verdict) for row in kept]
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
    assert list_studies([tmp_path]).problems == [f"{tmp_path / 'notes.json'}: object contains unknown field `a`"]


def test_directories_that_lie_in_each_other_or_are_linked_count_once(tmp_path: Path) -> None:
    write_study(tmp_path / "studies" / "a", study())
    (tmp_path / "studies" / "round").symlink_to(tmp_path / "studies")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "studies")
    listing = list_studies([link, tmp_path / "studies", tmp_path / "studies" / "a"])
    assert [row.path for row in listing.rows] == [str(link / "a")]


def test_a_name_that_is_no_utf_8_is_no_obstacle(tmp_path: Path) -> None:
    write_run(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")), result())
    assert len(list_studies([tmp_path]).rows) == 1


def test_what_is_no_directory_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nowhere is no directory. Name one"):
        list_studies([tmp_path / "nowhere"])


def test_a_lucky_run_is_not_ranked_first(tmp_path: Path) -> None:
    write_study(tmp_path / "study", study(0.995))
    write_study(tmp_path / "better", study(0.996))
    write_run(tmp_path / "lucky", result(accuracy=0.999))
    write_run(tmp_path / "unlucky", result(accuracy=0.99))
    found = list_studies([tmp_path]).rows
    assert [Path(r.path).name for r in ranked(found, "lower-bound")] == ["better", "study", "lucky", "unlucky"]
    assert Path(ranked(found, "accuracy")[0].path).name == "lucky"
    assert evaluated_alike(found)


def test_every_key_sorts(tmp_path: Path) -> None:
    write_study(tmp_path / "small", study(0.99, n=5, parameters=1_000, epochs=30))
    os.utime(write_study(tmp_path / "short", study(0.995, parameters=2_000, epochs=1)) / "study.json", (1, 1))
    found = list_studies([tmp_path]).rows
    first = {key: Path(ranked(found, key)[0].path).name for key in SORT_KEYS}
    assert first == {
        "path": "short", "lower-bound": "short", "accuracy": "short", "parameters": "small", "epochs": "short",
        "seeds": "small", "time": "short", "newest": "small",
    }  # fmt: skip
