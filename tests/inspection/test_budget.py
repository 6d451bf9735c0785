"""Budgets: the shipped ones against their table, each clause at its limit, memory against hand counts, the commands."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinydigits.cli.main import main
from tinydigits.errors import BudgetError, ConfigError, RunError
from tinydigits.inspection.budget import (
    Budget,
    accuracy_clause,
    budget_in_words,
    budget_of,
    list_budgets,
    load_budget,
    overall_verdict,
    reject_over_budget,
    structural_clauses,
)
from tinydigits.inspection.inspect import inspect_model
from tinydigits.inspection.result import Inspection
from tinydigits.models.factory import create_model
from tinydigits.models.registry import list_models, target_of
from tinydigits.models.reported import Reported
from tinydigits.records import Clause, Outcome

BOTH = ("batch_norm", "dropout")
THREE = (*BOTH, "global_pooling")
SHIPPED = {
    "era-s6": {
        "max_parameters": 19_999, "max_epochs": 19, "min_accuracy": 0.994,
        "require": (*BOTH, "global_pooling or single_linear_head"),
    },
    "era-s7": {
        "max_parameters": 7_999, "max_epochs": 15, "min_accuracy": 0.994, "accuracy_of": "last3", "require": THREE,
    },
    "document-blocks-19k": {"max_parameters": 19_999, "max_epochs": 19, "min_accuracy": 0.994, "require": THREE},
    "document-layered-19k": {"max_parameters": 19_668, "max_epochs": 20, "min_accuracy": 0.9945, "require": BOTH},
    "document-bottleneck-9k": {
        "max_parameters": 9_962, "max_epochs": 14, "min_accuracy": 0.994, "strict_accuracy": True, "require": BOTH,
    },
    "document-plain-9k": {
        "max_parameters": 9_032, "max_epochs": 1, "min_accuracy": 0.9747,
        "require": ("global_pooling",), "forbid": BOTH,
    },
    "mcu-tiny": {
        "number_format": "int8", "max_weight_bytes": 8_192, "max_activation_bytes": 8_192, "min_accuracy": 0.99,
    },
}  # fmt: skip


def test_the_shipped_budgets_are_those_of_the_table() -> None:
    assert {name: load_budget(name) for name in list_budgets()} == {
        name: Budget(name, **values)  # type: ignore[arg-type]
        for name, values in SHIPPED.items()
    }


def test_every_documented_network_that_claims_an_accuracy_keeps_the_structure_of_its_budget() -> None:
    for name in list_models():
        reported = target_of(name)
        if reported and reported.source and reported.accuracy:
            inspection = inspect_model(create_model(name), name=name)
            reject_over_budget(load_budget(f"document_{name}"), inspection, reported.epochs)


def test_an_unknown_budget_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'era-s8' is unknown\. Did you mean era-s"):
        load_budget("era-s8")


def test_a_budget_of_ones_own_is_named_after_its_file(tmp_path: Path) -> None:
    file = tmp_path / "watch.toml"
    file.write_text('max_macs = 500_000\nrequire = ["hidden_linear or dropout"]\nmin_accuracy = 1\n')
    expected = Budget("watch", max_macs=500_000, require=("hidden_linear or dropout",), min_accuracy=1.0)
    assert load_budget(str(file)) == load_budget(file) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("max_parameter = 5", r"max_parameter is no setting. Did you mean max_parameters"),
        ("max_parameters = 2.5", "max_parameters = 2.5: must be a whole number"),
        ("max_parameters = true", "max_parameters = True: must be a whole number"),
        ("max_parameters = -5", "max_parameters = -5: must be at least 1"),
        ("max_activation_bytes = -1", "max_activation_bytes = -1"),
        ("max_epochs = 0", "max_epochs = 0: must be at least 1"),
        ("min_accuracy = 99.4", "min_accuracy = 99.4: this is a fraction; write 0.994"),
        ("min_accuracy = nan", "min_accuracy = nan"),
        ('min_accuracy = "high"', "must be a number"),
        ("require = 'dropout'", "require = 'dropout': must be a list of strings"),
        ("require = [1]", "must be a list of strings"),
        ('require = ["batchnorm"]', "'batchnorm' is no structural fact. Did you mean batch_norm"),
        ('forbid = ["dropout or batch_norm"]', "'dropout or batch_norm' is no structural fact"),
        ('require = ["dropout"]\nforbid = ["dropout"]', "dropout is both required and forbidden"),
        (
            'require = ["global_pooling or dropout"]\nforbid = ["dropout", "global_pooling"]',
            "global pooling or dropout is both required and forbidden",
        ),
        ('require = ["single_linear_head", "hidden_linear"]', "both are required"),
        (
            'require = ["single_linear_head or dropout", "hidden_linear"]\nforbid = ["dropout"]',
            "both are required",
        ),
        ('max_epochs = 2\nmin_accuracy = 0.9\naccuracy_of = "last3"', "max_epochs = 2 and accuracy_of"),
        ('min_accuracy = 0.9\naccuracy_of = "best"', "must be one of final, last3"),
        ("max_epochs = 3\nstrict_accuracy = true", "need min_accuracy"),
        ("min_accuracy = 1.0\nstrict_accuracy = true", "no accuracy is above"),
        ('max_macs = 1\nnumber_format = "int4"', "one of float32, int8"),
        ('max_macs = 1\ndataset = "cifar"', "mnist, optdigits or folder:PATH"),
        ("", "it limits nothing"),
        ("max_macs = ", "is not valid TOML"),
        (None, "cannot be read: no such file"),
    ],
)
def test_a_bad_budget_is_a_sentence(tmp_path: Path, text: str | None, sentence: str) -> None:
    file = tmp_path / "mine.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_budget(str(file))
    assert "mine" in str(caught.value)


@pytest.fixture(scope="module")
def plain() -> Inspection:
    return inspect_model(create_model("plain-9k"), name="plain-9k")


@pytest.mark.parametrize(
    ("limits", "figure"),
    [
        ({"max_parameters": 9_032}, "9,032 parameters"),
        ({"max_epochs": 10}, "10 epochs"),
        ({"max_macs": 662_816}, "662,816 MACs"),
        ({"max_weight_bytes": 36_488}, r"36,488 bytes of weights \(float32\)"),
        ({"max_activation_bytes": 40_064}, r"40,064 bytes of activations \(float32\)"),
        ({"max_weight_bytes": 9_392, "number_format": "int8"}, r"9,392 bytes of weights \(int8\)"),
        ({"max_activation_bytes": 10_016, "number_format": "int8"}, r"10,016 bytes of activations \(int8\)"),
    ],
)
def test_a_limit_is_kept_to_the_last_unit_and_broken_by_one(
    plain: Inspection, limits: dict[str, Any], figure: str
) -> None:
    budget = Budget("mine", **limits)
    (clause,) = structural_clauses(budget, plain, 10)
    assert clause.verdict == "met"
    assert clause.sentence.endswith("exactly that")
    key, limit = next((key, limit) for key, limit in limits.items() if key.startswith("max_"))
    (clause,) = structural_clauses(replace(budget, **{key: limit + 1_000}), plain, 10)
    assert clause.sentence.endswith("1,000 to spare")
    with pytest.raises(BudgetError, match=rf"\n  {figure}, at most {limit - 1:,}: 1 too many \(\d+.\d % over\)\n"):
        reject_over_budget(replace(budget, **{key: limit - 1}), plain, 10)


def test_every_broken_clause_is_named_before_training(plain: Inspection) -> None:
    with pytest.raises(BudgetError) as caught:
        reject_over_budget(load_budget("era-s7"), plain, 2)
    starts = [
        "plain-9k does not meet the budget era-s7",
        "  9,032 parameters, at most 7,999: 1,033 too many",
        "  2 epochs: the accuracy is the mean of the last 3, 1 too few",
        "  batch norm: required, but not found (in training, a digit's output does not depend on",
        "  dropout: required, but not found (two passes give the same output)",
        "Change",
    ]
    lines = str(caught.value).splitlines()
    assert [line[: len(start)] for line, start in zip(lines, starts, strict=True)] == starts


def test_without_a_number_of_epochs_they_are_not_judged(plain: Inspection) -> None:
    clauses = structural_clauses(load_budget("era-s7"), plain, None)
    assert [clause.clause for clause in clauses] == ["parameters", "batch_norm", "dropout", "global_pooling"]


class Calm(nn.BatchNorm2d):
    """Batch norm under another name."""


class BatchNorm2d(nn.Module):
    """Batch norm in name only."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


@pytest.mark.parametrize(("norm", "there"), [(Calm, True), (BatchNorm2d, False)])
def test_renaming_a_layer_neither_passes_nor_fails_a_clause(norm: Callable[[int], nn.Module], there: bool) -> None:
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
    inspection = inspect_model(nn.Sequential(nn.Conv2d(1, 8, 3), norm(8), nn.ReLU(), *pool))
    (required,) = structural_clauses(Budget("mine", require=("batch_norm",)), inspection, None)
    (forbidden,) = structural_clauses(Budget("mine", forbid=("batch_norm",)), inspection, None)
    assert (required.verdict, forbidden.verdict) == (("met", "failed") if there else ("failed", "met"))
    assert (required.value, required.limit, forbidden.limit) == (there, "required", "forbidden")


TARGET = Budget("mine", min_accuracy=0.994)
STRICT = replace(TARGET, strict_accuracy=True)


@pytest.mark.parametrize(
    ("budget", "mean", "bound", "n", "verdict", "sentence"),
    [
        (TARGET, 0.9951, 0.9942, 5, "met", "lower bound 99.42 %, at least 99.40 %: the bound is 0.02 points above"),
        (TARGET, 0.9951, 0.994, 3, "met", "the bound is exactly there"),
        (
            STRICT,
            0.9951,
            0.994,
            3,
            "plausible",
            "above 99.40 %: the bound is exactly there, the mean 0.11 points above",
        ),
        (TARGET, 0.99437, 0.9938, 3, "plausible", "accuracy 99.437 %, mean of 3 runs"),
        (
            TARGET,
            0.9951,
            None,
            2,
            "plausible",
            "0.11 points above; likely, not proved: that takes at least 3 seeds",
        ),
        (TARGET, 0.994, None, 1, "plausible", "accuracy 99.40 % in one run, at least 99.40 %: exactly there"),
        (STRICT, 0.994, None, 1, "failed", "above 99.40 %: exactly there"),
        (TARGET, (0.994 + 0.9941 + 0.9939) / 3, None, 1, "plausible", "exactly there"),
        (
            TARGET,
            0.9939,
            0.9935,
            10,
            "failed",
            "accuracy 99.39 %, mean of 10 runs, at least 99.40 %: 0.01 points short",
        ),
        (TARGET, 0.99399999, None, 1, "failed", "0.000001 points short"),
        (replace(TARGET, accuracy_of="last3"), 0.99, None, 1, "failed", "99.40 % as mean of the last 3 epochs"),
    ],
)
def test_an_accuracy_is_judged_by_its_lower_bound(
    budget: Budget, mean: float, bound: float | None, n: int, verdict: str, sentence: str
) -> None:
    clause = accuracy_clause(budget, mean=mean, lower_bound=bound, n=n, data="mnist", split="test")
    assert clause is not None
    assert clause.verdict == verdict
    assert sentence in clause.sentence


@pytest.mark.parametrize(
    ("data", "split", "sentence"),
    [
        ("optdigits", "test", "measured on digits of optdigits"),
        ("mnist", "val", "measured on validation digits of mnist"),
    ],
)
def test_other_digits_than_the_budgets_judge_nothing(data: str, split: str, sentence: str) -> None:
    clause = accuracy_clause(TARGET, mean=0.999, lower_bound=0.998, n=9, data=data, split=split)
    assert clause is not None
    assert clause.verdict == "not judged"
    assert sentence in clause.sentence


@pytest.mark.parametrize("mean", [float("nan"), -0.1, 99.4])
def test_an_accuracy_that_is_none_is_refused(mean: float) -> None:
    with pytest.raises(RunError, match="must be a number from 0 to 1"):
        accuracy_clause(TARGET, mean=mean, lower_bound=None, n=1, data="mnist", split="test")


def test_a_budget_without_an_accuracy_has_no_such_clause() -> None:
    budget = Budget("mine", max_macs=1)
    assert accuracy_clause(budget, mean=0.9, lower_bound=None, n=1, data="mnist", split="test") is None


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [
        (["met", "met"], "met"),
        (["met", "plausible"], "plausible"),
        (["plausible", "not judged"], "not judged"),
        (["not judged", "failed", "met"], "failed"),
    ],
)
def test_a_budget_is_as_good_as_its_worst_clause(verdicts: list[Outcome], whole: Outcome) -> None:
    assert overall_verdict([Clause("x", 1, 1, verdict, "") for verdict in verdicts]) == whole


def test_what_is_reported_is_a_budget_too() -> None:
    reported = {name: target_of(name) for name in list_models()}
    budgets = {name: budget_of(target) for name, target in reported.items() if target}
    assert budgets["pooled-16k"] is None
    tiny, bottleneck = budgets["tiny-10k"], budgets["bottleneck-9k"]
    assert tiny is not None
    assert bottleneck is not None
    assert budget_in_words(tiny) == "at least 99.40 % on MNIST, at most 10 epochs, at most 10,000 parameters"
    assert budget_in_words(bottleneck) == "above 99.40 % on MNIST, at most 14 epochs, at most 9,962 parameters"
    assert budget_of(Reported(parameters=5)) is None
    strict = budget_of(Reported(accuracy=0.99, strict=True, wording="more than 99 %"))
    assert strict is not None
    assert strict.strict_accuracy


@pytest.mark.parametrize(("limit", "verdict"), [(700_000, "not judged"), (600_000, "failed")])
def test_macs_are_not_judged_where_some_are_not_counted(plain: Inspection, limit: int, verdict: Outcome) -> None:
    (clause,) = structural_clauses(
        Budget("mine", max_macs=limit), msgspec.structs.replace(plain, macs_complete=False), None
    )
    assert clause.verdict == verdict
    assert verdict == "failed" or "is not counted" in clause.sentence


def test_the_wording_of_a_budget_tells_all_of_it() -> None:
    assert budget_in_words(load_budget("era-s7")) == (
        "at least 99.40 % as mean of the last 3 epochs on MNIST, at most 15 epochs, at most 7,999 parameters, "
        "with batch norm, with dropout, with global pooling"
    )
    assert budget_in_words(load_budget("mcu-tiny")) == (
        "at least 99.00 % on MNIST, at most 8,192 bytes of weights (int8), at most 8,192 bytes of activations (int8)"
    )


class Through(nn.Module):
    """A function of the picture and of a few layers, as a network: [N, 1, 28, 28] → [N, 10]."""

    def __init__(self, path: Callable[[nn.ModuleDict, Tensor], Tensor]) -> None:
        super().__init__()
        self.path = path
        self.layers = nn.ModuleDict({
            "a": nn.Conv2d(1, 4, 3, padding=1),
            "b": nn.Conv2d(4, 4, 3, padding=1, bias=False),
            "c": nn.Conv2d(2, 4, 1),
            "norm": nn.BatchNorm2d(4),
            "prelu": nn.PReLU(4),
            "head": nn.Linear(4, 10, bias=False),
        })  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers["head"](self.path(self.layers, x).mean((2, 3)))
        return result


A, B, C, HEAD, PIXELS = 36, 144, 8, 40, 784
MAP = 4 * PIXELS


def _skip(net: nn.ModuleDict, x: Tensor) -> Tensor:
    first = F.relu(net["a"](x))
    return torch.as_tensor(first + net["norm"](net["b"](first)))


def _used_later(net: nn.ModuleDict, x: Tensor) -> Tensor:
    first = net["a"](x)
    return torch.as_tensor(first * torch.sigmoid(first))


@pytest.mark.parametrize(
    ("path", "weights", "biases", "others", "peak"),
    [
        (lambda net, x: net["a"](x), A, 4, 0, PIXELS + MAP),
        (lambda net, x: F.relu(net["norm"](net["a"](x))), A, 4, 0, PIXELS + MAP),  # folded, and in place
        (lambda net, x: net["b"](net["a"](x)), A + B, 8, 0, 2 * MAP),
        (lambda net, x: F.max_pool2d(net["a"](x), 2), A, 4, 0, MAP + MAP // 4),
        (lambda net, x: F.max_pool2d(net["a"](F.max_pool2d(x, 2)), 2), A, 4, 0, MAP // 4 + MAP // 16),
        (lambda net, x: net["b"](net["b"](net["a"](x))), A + B, 8, 0, 2 * MAP),  # a kernel used twice is stored once
        (_skip, A + B, 8, 0, 2 * MAP),
        (lambda net, x: net["a"](x) + x, A, 4, 0, PIXELS + MAP),
        (lambda net, x: net["b"](net["b"](y := net["a"](x))) + y, A + B, 8, 0, 3 * MAP),  # y outlives both
        (_used_later, A, 4, 0, 2 * MAP),  # sigmoid cannot overwrite what is needed once more
        (lambda net, x: F.relu_(net["a"](x)), A, 4, 0, PIXELS + MAP),
        (lambda net, x: net["prelu"](net["a"](x)), A, 4, 4, PIXELS + MAP),
        (lambda net, x: sum(net["c"](part) for part in net["a"](x).chunk(2, 1)), A + C, 8, 0, 3 * MAP),
    ],
)
def test_bytes_agree_with_a_count_by_hand(
    path: Callable[[nn.ModuleDict, Tensor], Tensor], weights: int, biases: int, others: int, peak: int
) -> None:
    inspection = inspect_model(Through(path))
    weights, biases = weights + HEAD, biases + 10
    assert inspection.weight_bytes.as_dict() == {
        "float32": 4 * (weights + biases + others),
        "int8": weights + 4 * (biases + others),
    }
    assert inspection.activation_bytes.as_dict() == {"float32": 4 * peak, "int8": peak}


def test_both_halves_of_a_split_are_followed() -> None:
    inspection = inspect_model(Through(lambda net, x: sum(net["c"](part) for part in net["a"](x).chunk(2, 1))))
    assert inspection.macs == PIXELS * (A + 2 * C) + HEAD


@pytest.fixture
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize(
    ("model", "budget", "code", "verdict", "failed"),
    [
        ("plain-9k", "era-s6", 1, "failed", ["batch_norm", "dropout"]),
        ("blocks-19k", "era-s6", 0, "met", []),
        ("tiny-10k", "mcu-tiny", 1, "failed", ["weight_bytes", "activation_bytes"]),
        ("tiny-10k", "accurate.toml", 0, "not judged", []),
    ],
)
def test_inspect_judges_what_needs_no_training(
    capsys: pytest.CaptureFixture[str], model: str, budget: str, code: int, verdict: str, failed: list[str]
) -> None:
    Path("accurate.toml").write_text("min_accuracy = 0.99\n")
    assert main(["inspect", model, "--budget", budget, "--json"]) == code
    judged = json.loads(capsys.readouterr().out)["budget"]
    assert (judged["name"], judged["verdict"]) == (budget.removesuffix(".toml"), verdict)
    assert [clause["clause"] for clause in judged["clauses"] if clause["verdict"] == "failed"] == failed
    assert any("on MNIST" in rule for rule in judged["open"])


def test_inspect_shows_the_clauses(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    assert main(["inspect", "plain-9k", "--budget", "era-s7"]) == 1
    shown = capsys.readouterr().out
    assert "9,032 parameters, at most 7,999: 1,033 too many (12.9 % over)" in shown
    assert "dropout: required, but not found" in shown
    assert (
        "Evaluated after training: at least 99.40 % as mean of the last 3 epochs on MNIST, at most 15 epochs" in shown
    )


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["plain-9k", "--budget", "era-s6"], "dropout: required, but not found"),
        (["plain-9k", "--budget", "document-plain-9k", "--epochs", "3"], "3 epochs, at most 1: 2 too many"),
    ],
)
def test_train_refuses_before_it_looks_for_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert main(["train", *arguments, "--data", "mnist", "--data-dir", "nowhere"]) == 1
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize(
    ("text", "code", "verdict", "reason"),
    [
        (
            'dataset = "optdigits"\nmin_accuracy = 0.05',
            0,
            "plausible",
            "likely, not proved: that takes at least 3 seeds",
        ),
        ('dataset = "optdigits"\nmin_accuracy = 1.0\nmax_epochs = 1', 1, "failed", "points short"),
        ("min_accuracy = 0.05", 1, "not judged", "measured on digits of optdigits"),
        ("max_parameters = 9_032", 0, "met", "exactly that"),
    ],
)
def test_train_judges_its_one_run(
    capsys: pytest.CaptureFixture[str], text: str, code: int, verdict: str, reason: str
) -> None:
    Path("mine.toml").write_text(text)
    small = ["--data", "optdigits", "--epochs", "1", "--threads", "1", "--quiet"]
    assert main(["train", "plain-9k", *small, "--budget", "mine.toml"]) == code
    result = json.loads(Path("runs/plain-9k-001/result.json").read_text())
    assert (result["budget"], result["verdict"]["verdict"]) == ("mine", verdict)
    assert reason in result["verdict"]["reason"]
    shown = capsys.readouterr().out
    assert f"Budget mine ({result['verdict']['wording']}): {verdict}" in shown
    assert ("tinydigits prove --config runs/plain-9k-001/config.json --budget mine.toml" in shown) == (
        verdict == "plausible"
    )


@pytest.mark.usefixtures("_elsewhere")
def test_without_a_budget_the_models_own_claim_is_judged_and_costs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "plain-9k", "--data", "optdigits", "--epochs", "1", "--threads", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["budget"] is None
    assert result["verdict"]["wording"] == "at least 97.47 % on MNIST, at most 1 epoch, at most 9,032 parameters"
    assert result["verdict"]["verdict"] == "not judged"
