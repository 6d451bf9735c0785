"""Target, result and analysis of a run or a study in sentences: the facts that its files hold, filled in."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinydigits.reports.tables import duration, interval_text, percent

if TYPE_CHECKING:
    from tinydigits.models.budget import Clause
    from tinydigits.studies.answers import Answers
    from tinydigits.studies.evidence import Evidence, Judgement
    from tinydigits.studies.exhibits import Exhibits

_OVERFIT = 0.005  # training accuracy above the judging digits' by more than this is worth a word
_WORDS = {
    "macs": "MACs",
    "last3": "epochs",
    "weight_bytes": "bytes of weights",
    "activation_bytes": "bytes of activations",
}
_LISTED = 3  # confusions that are named


def plural(count: int, noun: str) -> str:
    """`1 seed`, `1,200 seeds`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def points(difference: float, decimals: int = 2) -> str:
    """A difference of shares in points of a per cent, without its sign."""
    return f"{100 * abs(difference):.{decimals}f} points"


def short_name(model: str) -> str:
    """A model's name without the directories of a user's own file: `net.py:Net`."""
    return Path(model).name


def judged_by(evidence: "Evidence") -> str:
    """`test digits of MNIST`."""
    name = {"mnist": "MNIST"}.get(evidence.data, evidence.data)
    return f"{evidence.judged_by} digits of {name}"


def target_sentences(evidence: "Evidence") -> list[str]:
    """What was asked for."""
    if not evidence.judgements:
        return [
            "No budget was asked for: the figures stand for themselves. Name one with `--budget` to have them judged."
        ]
    return [_asked(judgement) for judgement in evidence.judgements]


def _asked(judgement: "Judgement") -> str:
    """A budget's name with its rules; a claim in words is made of them already."""
    rules = ", ".join(map(_rule, judgement.clauses))
    if rules and " " not in judgement.asked:
        return f"{judgement.asked}: {rules}."
    return f"{judgement.asked[:1].upper()}{judgement.asked[1:]}."


def _rule(clause: "Clause") -> str:
    words = _WORDS.get(clause.clause, clause.clause.replace("_", " "))
    if isinstance(clause.limit, str):
        return f"{words} {clause.limit}"
    if clause.clause == "accuracy":
        limit = f"{100 * clause.limit:.3f}".removesuffix("0") + " %"
        mean = " as mean of the last three epochs" if "mean of the last 3 epochs" in clause.sentence else ""
        return f"accuracy {'above' if f'above {limit}' in clause.sentence else 'at least'} {limit}{mean}"
    words = words.removesuffix("s") if clause.limit == 1 else words
    return f"{'at least' if clause.clause == 'last3' else 'at most'} {clause.limit:,.0f} {words}"


def result_sentences(evidence: "Evidence") -> list[str]:
    """What came out."""
    runs, final, digits = evidence.runs, evidence.final, judged_by(evidence)
    if len(runs) == 1:
        kind = "95 % interval (Wilson)" if evidence.kind == "run" else "95 % interval (bootstrap over digits)"
        sentences = [
            f"The last epoch reads {percent(final.mean)} of the {digits}; {kind} {interval_text(evidence.interval)}."
        ]
    else:
        bound = (
            ""
            if final.lower_bound is None
            else f", with a one-sided 95 % lower bound of {percent(final.lower_bound, 3)}"
        )
        sentences = [
            f"The last epochs of {plural(len(runs), 'seed')} read {percent(final.mean, 3)} of the {digits} on average"
            f"{bound}.",
            f"On new digits of this kind, with new seeds: {interval_text(evidence.interval)} (95 % two-way bootstrap).",
        ]
    for judgement in evidence.judgements:
        count = sum(clause.verdict == "met" for clause in judgement.clauses)
        of = f": {count} of {plural(len(judgement.clauses), 'clause')} met" if judgement.clauses else ""
        asked = "The target" if " " in judgement.asked else judgement.asked
        sentences.append(f"{asked} is {judgement.verdict}{of}.")
    seconds = sum(run.time_seconds for run in runs) / len(runs)
    each = "a seed " if len(runs) > 1 else ""
    sentences.append(f"It took {plural(evidence.epochs, 'epoch')} and {duration(seconds)} {each}on the machine below.")
    return sentences


def analysis_sentences(evidence: "Evidence", exhibits: "Exhibits") -> list[str]:
    """What the figures say, as far as there are any."""
    found = [_spread(evidence), _learning(evidence), _best_epoch(evidence)]
    if not isinstance(exhibits.network, str):
        found.append(_cost(exhibits.network))
    if not isinstance(exhibits.answers, str):
        found += [
            _mistakes(exhibits.answers, exhibits.disputed),
            _confusions(exhibits.answers),
            _hardest(exhibits.answers),
            _sureness(exhibits.answers),
        ]
    return [sentence for sentence in found if sentence]


def _spread(evidence: "Evidence") -> str | None:
    if len(evidence.runs) < 2:
        return "One seed shows what one training gave; what the recipe gives takes three or more (`tinydigits prove`)."
    accuracies = [run.accuracy for run in evidence.runs]
    low, high = min(accuracies), max(accuracies)
    sd = f", with a standard deviation of {points(evidence.final.sd, 3)}" if evidence.final.sd is not None else ""
    return f"The seeds lie between {percent(low)} and {percent(high)}{sd}."


def _learning(evidence: "Evidence") -> str | None:
    """Training accuracy is counted while the weights still move, on augmented digits where there are any."""
    if not all(run.train_accuracy_by_epoch and run.accuracy_by_epoch for run in evidence.runs):
        return None
    count = len(evidence.runs)
    train = sum(run.train_accuracy_by_epoch[-1] for run in evidence.runs) / count
    test = sum(run.accuracy_by_epoch[-1] for run in evidence.runs) / count
    recipe = evidence.config.recipe
    how = "as augmented" if recipe.augmented_epochs == recipe.epochs else "as the last epoch shows them"
    first = (
        f"In its last epoch it reads {percent(train)} of the training digits ({how}, while still learning) and, after "
        f"it, {percent(test)} of the {evidence.judged_by} digits"
    )
    if train - test > _OVERFIT:
        return f"{first}: {points(train - test)} more on what it has seen, a sign of overfitting."
    return f"{first}: no sign of overfitting."


def _best_epoch(evidence: "Evidence") -> str | None:
    if evidence.epochs < 2:
        return None
    gain = sum(run.accuracy_best - run.accuracy for run in evidence.runs) / len(evidence.runs)
    if gain <= 0:
        return f"The last epoch is also the best one on the {evidence.judged_by} digits."
    return (
        f"Choosing the best epoch by the {evidence.judged_by} digits would have shown {points(gain)} more; such a "
        "choice is optimistic, and decides nothing here."
    )


def _cost(network: Mapping[str, Any]) -> str:
    layers: Sequence[Mapping[str, Any]] = network["layers"]
    largest, dearest = (max(range(len(layers)), key=lambda i: layers[i][key]) for key in ("parameters", "macs"))
    most = layers[largest]["parameters"] / max(network["parameters"], 1)
    work = layers[dearest]["macs"] / max(network["macs"], 1)
    sentence = (
        f"Layer {largest + 1} ({layers[largest]['kind']}) holds {percent(most, 0)} of the {network['parameters']:,} "
        f"parameters; layer {dearest + 1} ({layers[dearest]['kind']}) does {percent(work, 0)} of the "
        f"{network['macs']:,} multiply-accumulates."
    )
    fields = [layer["receptive_field"] for layer in layers if layer["receptive_field"] and layer["macs"]]
    if not fields:
        return sentence
    height, width = fields[-1]
    return f"{sentence} Its last layer that learns sees {height}×{width} pixels; the input has 28×28."


def _mistakes(answers: "Answers", disputed: Mapping[int, str]) -> str:
    wrong = ~answers.right
    seeds = len(wrong)
    some = int(wrong.any(axis=0).sum())
    if not some:
        return "Every digit is read."
    if seeds == 1:
        sentence = f"{some:,} of {plural(len(answers.labels), 'digit')} {'is' if some == 1 else 'are'} misread."
        doubtful = wrong[0]
    else:
        everyone = int(wrong.all(axis=0).sum())
        sentence = (
            f"{plural(some, 'digit')} of {len(answers.labels):,} are misread by some seed, {everyone:,} by all "
            f"{seeds}: what all misread, more seeds would not mend."
        )
        doubtful = wrong.all(axis=0)
    known = sum(bool(doubtful[index]) for index in disputed)
    return f"{sentence} Reviewers dispute the label of {known} of these {int(doubtful.sum())}." if known else sentence


def _confusions(answers: "Answers") -> str | None:
    confusion = answers.confusion
    pairs: NDArray[np.int64] = confusion * (1 - np.eye(10, dtype=np.int64))
    order = np.argsort(-pairs.ravel(), kind="stable")[:_LISTED]
    seeds = len(answers.right)
    listed = [
        f"{index // 10} taken for {index % 10} ({_per_seed(int(pairs.ravel()[index]), seeds)})"
        for index in order.tolist()
        if pairs.ravel()[index]
    ]
    return f"Most frequent: {', '.join(listed)}." if listed else None


def _per_seed(count: int, seeds: int) -> str:
    return f"{count}×" if seeds == 1 else f"{count / seeds:.1f}× a seed"


def _hardest(answers: "Answers") -> str | None:
    rows = sorted(answers.per_digit, key=lambda row: row.accuracy)
    if len(rows) < 2 or rows[0].accuracy == rows[-1].accuracy:
        return None
    worst, best = rows[0], rows[-1]
    return (
        f"Hardest is the {worst.digit} ({percent(worst.accuracy)} read), easiest the {best.digit} "
        f"({percent(best.accuracy)})."
    )


def _sureness(answers: "Answers") -> str:
    sure, right = float(answers.confidences.mean()), float(answers.right.mean())
    gap = sure - right
    kind = "more" if gap > 0 else "less"
    sentence = f"Confidence is {percent(sure)} on average where {percent(right)} are right: {points(gap)} {kind}"
    before, after = answers.ece
    if after is None:
        return f"{sentence}, with a calibration error (ECE) of {percent(before)}."
    return f"{sentence}; the calibration error (ECE) is {percent(before)}, and {percent(after)} with the temperature."
