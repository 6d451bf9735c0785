import pytest

from tinydigits.models.registry import Claim
from tinydigits.training.claim import judge_claim

CLAIM = Claim(parameters=10_000, accuracy=0.994, epochs=10)
GOOD = {"parameters": 9_550, "epochs": 10, "accuracy": 0.9951, "data": "mnist", "protocol": "final"}


@pytest.mark.parametrize(
    ("changes", "verdict", "reason"),
    [
        ({}, "plausible", "at least three seeds"),
        ({"accuracy": 0.994}, "plausible", "at least three seeds"),
        ({"accuracy": 0.9939}, "failed", "accuracy 0.9939 against 0.994"),
        ({"parameters": 10_001, "epochs": 11}, "failed", "parameters 10,001 against 10,000, epochs 11 against 10"),
        ({"data": "optdigits"}, "not judged", "judged by digits of optdigits"),
        ({"protocol": "tune"}, "not judged", "judged by held-out training digits"),
    ],
)
def test_one_run_refutes_or_makes_plausible_but_never_proves(
    changes: dict[str, object], verdict: str, reason: str
) -> None:
    judged = judge_claim(CLAIM, **{**GOOD, **changes})  # type: ignore[arg-type]
    assert judged is not None
    assert judged["verdict"] == verdict
    assert reason in judged["reason"]
    assert judged["claim"] == "at least 99.40 % on MNIST, at most 10,000 parameters, at most 10 epochs"


def test_no_claimed_accuracy_no_verdict() -> None:
    assert judge_claim(Claim(source="a.txt"), **GOOD) is None  # type: ignore[arg-type]
