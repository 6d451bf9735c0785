"""What a single run says of its model's own claim."""

from typing import Any

from tinydigits.models.registry import Claim


def judge_claim(
    claim: Claim, *, parameters: int, epochs: int, accuracy: float, data: str, protocol: str
) -> dict[str, Any] | None:
    """The verdict on a claim, clause by clause; None where no accuracy is claimed.

    One run can refute a claim, and keep its limits on parameters and epochs. It cannot prove an accuracy: a mean
    over seeds is `met` only by its lower bound, which takes three runs. So the best verdict here is `plausible`.
    """
    if claim.accuracy is None:
        return None
    on_mnist = data == "mnist" and protocol == "final"
    reached = "plausible" if accuracy >= claim.accuracy else "failed"
    clauses = [
        _clause("parameters", claim.parameters, parameters),
        _clause("epochs", claim.epochs, epochs),
        {
            "clause": "accuracy",
            "limit": claim.accuracy,
            "value": accuracy,
            "verdict": reached if on_mnist else "not judged",
        },
    ]
    verdict, reason = "plausible", "one run reaches the target; a proof takes at least three seeds"
    if not on_mnist:
        digits = "held-out training digits" if protocol == "tune" else f"digits of {data}"
        verdict, reason = "not judged", f"the claim is about MNIST's test digits, and this run was judged by {digits}"
    elif broken := [clause for clause in clauses if clause["verdict"] == "failed"]:
        parts = (f"{clause['clause']} {clause['value']:,} against {clause['limit']:,}" for clause in broken)
        verdict, reason = "failed", ", ".join(parts)
    return {"claim": _wording(claim), "verdict": verdict, "reason": reason, "clauses": clauses}


def _clause(name: str, limit: int | None, value: int) -> dict[str, Any]:
    return {
        "clause": name,
        "limit": limit,
        "value": value,
        "verdict": "met" if limit is None or value <= limit else "failed",
    }


def _wording(claim: Claim) -> str:
    parts = [f"at least {claim.accuracy:.2%} on MNIST".replace("%", " %")]
    if claim.parameters is not None:
        parts.append(f"at most {claim.parameters:,} parameters")
    if claim.epochs is not None:
        parts.append(f"at most {claim.epochs} epoch" + "s" * (claim.epochs > 1))
    return ", ".join(parts)
