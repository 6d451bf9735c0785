"""Target, result and analysis of a run or a study in sentences, filled in from its files."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tinydigits.reports.tables import duration, interval_text, percent

if TYPE_CHECKING:
    from tinydigits.inspection.result import Inspection
    from tinydigits.records import Clause, Verdict
    from tinydigits.studies.predictions import SeedPredictions
    from tinydigits.studies.report_data import ReportData
    from tinydigits.studies.results import Source

_OVERFIT = 0.005  # a larger lead of the training accuracy is called a sign of overfitting
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
    """A difference of accuracies in percentage points, without its sign."""
    return f"{100 * abs(difference):.{decimals}f} points"


def short_name(model: str) -> str:
    """A model's name without the directories of a user's own file: `net.py:Net`."""
    return Path(model).name


def evaluation_digits(source: "Source") -> str:
    """`test digits of MNIST`."""
    data = source.result.data
    return f"{source.evaluated_on} digits of {'MNIST' if data == 'mnist' else data}"


def target_sentences(source: "Source") -> list[str]:
    """What the goal was."""
    none = "No budget was given, so there is no verdict. Name one with `--budget`."
    return [_target(verdict) for verdict in source.verdicts] or [none]


def _target(verdict: "Verdict") -> str:
    """A budget's name with its rules; without a budget, the goal is made of its rules already."""
    rules = ", ".join(map(_rule, verdict.clauses))
    if rules and verdict.budget:
        return f"{verdict.budget}: {rules}."
    return f"{verdict.goal[:1].upper()}{verdict.goal[1:]}."


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


def result_sentences(source: "Source") -> list[str]:
    """What the training reached."""
    result, digits = source.result, evaluation_digits(source)
    lead = f"After the last epoch, {percent(result.final.mean, 2 if result.n == 1 else 3)} of the {digits} are "
    interval = interval_text(result.interval)
    if result.n == 1:
        kind = "Wilson" if source.kind == "run" else "bootstrap over digits"
        sentences = [f"{lead}classified correctly; 95 % interval ({kind}) {interval}."]
    else:
        bound = result.final.lower_bound
        words = "" if bound is None else f", with a one-sided 95 % lower bound of {percent(bound, 3)}"
        sentences = [
            f"{lead}classified correctly on average over {plural(result.n, 'seed')}{words}.",
            f"On new digits of this kind, with new seeds: {interval} (95 % two-way bootstrap).",
        ]
    for verdict in source.verdicts:
        count = sum(clause.verdict == "met" for clause in verdict.clauses)
        of = f": {count} of {plural(len(verdict.clauses), 'clause')} met" if verdict.clauses else ""
        sentences.append(f"{verdict.budget or 'The target'} is {verdict.verdict}{of}.")
    each = "a seed " if result.n > 1 else ""
    took = duration(source.seconds_per_seed)
    sentences.append(f"It took {plural(result.epochs, 'epoch')} and {took} {each}on the machine below.")
    return sentences


def analysis_sentences(source: "Source", data: "ReportData") -> list[str]:
    """What the figures say, as far as there are any."""
    found = [_spread(source), _learning(source), _best_epoch(source)]
    if not isinstance(data.network, str):
        found.append(_cost(data.network))
    if not isinstance(data.predictions, str):
        found += [
            _mistakes(data.predictions, data.label_errors),
            _confusions(data.predictions),
            _hardest(data.predictions),
            _confidence(data.predictions),
        ]
    return [sentence for sentence in found if sentence]


def _spread(source: "Source") -> str:
    runs, sd = source.result.runs, source.result.final.sd
    if len(runs) < 2:
        return "One seed shows the result of one training; three or more (`tinydigits prove`) show that of the recipe."
    low, *_, high = sorted(run.accuracy for run in runs)
    spread = f", with a standard deviation of {points(sd, 3)}" if sd is not None else ""
    return f"The seeds lie between {percent(low)} and {percent(high)}{spread}."


def _learning(source: "Source") -> str | None:
    """Training accuracy is counted while the weights still change, on augmented digits if there are any."""
    runs = source.result.runs
    if not all(run.train_accuracy_by_epoch and run.accuracy_by_epoch for run in runs):
        return None
    train = sum(run.train_accuracy_by_epoch[-1] for run in runs) / len(runs)
    test = sum(run.accuracy_by_epoch[-1] for run in runs) / len(runs)
    recipe = source.config.recipe
    how = "as augmented" if recipe.augmented_epochs == recipe.epochs else "as the last epoch shows them"
    first = (
        f"In its last epoch it classifies {percent(train)} of the training digits correctly ({how}, while still "
        f"learning) and, after it, {percent(test)} of the {source.evaluated_on} digits"
    )
    if train - test > _OVERFIT:
        return f"{first}: {points(train - test)} more on what it has seen, a sign of overfitting."
    return f"{first}: no sign of overfitting."


def _best_epoch(source: "Source") -> str | None:
    runs = source.result.runs
    if source.result.epochs < 2:
        return None
    gain = sum(run.accuracy_best - run.accuracy for run in runs) / len(runs)
    if gain <= 0:
        return f"The last epoch is also the best one on the {source.evaluated_on} digits."
    return (
        f"Choosing the best epoch by the {source.evaluated_on} digits would have shown {points(gain)} more; such a "
        "choice is optimistic, and decides nothing here."
    )


def _cost(network: "Inspection") -> str:
    layers = list(enumerate(network.layers, start=1))
    number, largest = max(layers, key=lambda item: item[1].parameters)
    other, dearest = max(layers, key=lambda item: item[1].macs)
    sentence = (
        f"Layer {number} ({largest.kind}) holds {percent(largest.parameters / max(network.parameters, 1), 0)} of the "
        f"{network.parameters:,} parameters; layer {other} ({dearest.kind}) does "
        f"{percent(dearest.macs / max(network.macs, 1), 0)} of the {network.macs:,} multiply-accumulates."
    )
    fields = [layer.receptive_field for layer in network.layers if layer.receptive_field and layer.macs]
    if not fields:
        return sentence
    height, width = fields[-1]
    seen = "the whole picture" if min(height, width) >= 28 else f"{height}×{width} of the 28×28 pixels"
    return f"{sentence} Each output sees {seen}."


def _mistakes(predictions: "SeedPredictions", label_errors: Mapping[int, str]) -> str:
    wrong = ~predictions.correct
    seeds, total = wrong.shape
    some = int(wrong.any(axis=0).sum())
    everywhere: NDArray[np.bool_] = wrong.sum(axis=0) == seeds
    if not some:
        return "Every digit is classified correctly."
    these = int(everywhere.sum())
    lead = f"{some:,} of {plural(total, 'digit')}"
    if seeds == 1:
        sentence = f"{lead} {'is' if some == 1 else 'are'} misclassified."
    else:
        sentence = f"{lead} are misclassified by some seed, {these:,} by all {seeds}: more seeds would not fix these."
    known = sum(bool(everywhere[index]) for index in label_errors)
    return f"{sentence} Reviewers did not confirm the label of {known} of these {these}." if known else sentence


def _confusions(predictions: "SeedPredictions") -> str | None:
    pairs: NDArray[np.int64] = (predictions.confusion * (1 - np.eye(10, dtype=np.int64))).ravel()
    order = np.argsort(-pairs, kind="stable")[:_LISTED]
    seeds = len(predictions.correct)
    listed = []
    for index in order[pairs[order] > 0].tolist():
        often = f"{pairs[index]}×" if seeds == 1 else f"{pairs[index] / seeds:.1f}× a seed"
        listed.append(f"{index // 10} taken for {index % 10} ({often})")
    return f"Most frequent: {', '.join(listed)}." if listed else None


def _hardest(predictions: "SeedPredictions") -> str | None:
    rows = sorted(predictions.per_digit, key=lambda row: row.accuracy)
    worst, best = rows[0], rows[-1]
    if worst.accuracy == best.accuracy:
        return None
    return (
        f"The hardest digit is the {worst.digit} ({percent(worst.accuracy)} correct), the easiest the {best.digit} "
        f"({percent(best.accuracy)})."
    )


def _confidence(predictions: "SeedPredictions") -> str:
    confidence, accuracy = float(predictions.confidences.mean()), float(predictions.correct.mean())
    gap, (before, after) = confidence - accuracy, predictions.ece
    sentence = (
        f"The mean confidence is {percent(confidence)} and the accuracy {percent(accuracy)}: {points(gap)} too "
        f"{'much' if gap > 0 else 'little'} confidence"
    )
    if after is None:
        return f"{sentence}, with a calibration error (ECE) of {percent(before)}."
    return f"{sentence}; the calibration error (ECE) is {percent(before)}, and {percent(after)} with the temperature."
