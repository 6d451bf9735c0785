"""What is reported of a network beside what is measured, row by row; by a document or by the user."""

import math
import os
import shlex
from collections import Counter
from itertools import takewhile
from pathlib import Path
from typing import Literal

from msgspec.structs import replace

from tinydigits.errors import ConfigError, RunError
from tinydigits.inspection.budget import Budget, accuracy_clause, budget_of, evidence, percent
from tinydigits.inspection.inspect import check_figure, inspect_model, sum_of_rows
from tinydigits.inspection.report_file import read_reported
from tinydigits.inspection.result import UNKNOWN, FigureCheck, Inspection, Layer, sides, times
from tinydigits.inspection.trace import Pair
from tinydigits.models.factory import open_model
from tinydigits.models.registry import list_models, target_of
from tinydigits.models.reported import Figure, Reported, Statement
from tinydigits.models.user_model import code_sha256
from tinydigits.models.weights import load_card, packaged_weights
from tinydigits.records import Count, Fraction, Record, RunResult, StudyResult, read_record

Agreement = Literal["agrees", "contradicted", "not checked"]

_TEST_DIGITS = 10_000  # of MNIST
_AFTER = {"batch_norm_after": "BatchNorm2d", "dropout_after": "Dropout"}  # the layer that is looked for
_DENSE = "fully_connected"
_WORDS = {
    _DENSE: "fully connected layers",
    "batch_norm_after": "convolutions with batch norm after them",
    "dropout_after": "convolutions with dropout after them",
    "size_kept": "convolutions that keep the map's size",
}


class TrainedAccuracy(Record, frozen=True):
    """What a study measured: mean and lower bound of the last epoch's accuracy. `origin`: which study, in words."""

    origin: str
    recipe: str
    data: str
    split: str
    epochs: Count
    n: Count
    mean: Fraction
    lower_bound: float | None


class AuditRow(Record, frozen=True):
    """One thing that is reported: as reported, as measured, both as on screens; and why, if the verdict needs it."""

    what: str
    reported: str
    measured: str
    verdict: Agreement
    why: str = ""


class Audit(Record, frozen=True):
    """All that one source reports of a network, checked. `findings` are on the network, `notes` on the document.

    `agreeing`, `contradicted` and `not_checked` count the lines by their verdict.
    """

    model: str
    source: str
    wording: str | None
    lines: tuple[AuditRow, ...]
    findings: tuple[str, ...]
    notes: tuple[str, ...]
    agreeing: int
    contradicted: int
    not_checked: int


def audit(
    model: str | os.PathLike[str],
    reported: str | os.PathLike[str] | None = None,
    study: str | os.PathLike[str] | None = None,
) -> Audit:
    """Measure all that is reported of a network: by its document, or by you.

    Args:
        model: Any name, directory or file that `create_model` or `load_model` accepts.
        reported: A TOML file of your own, instead of the document: see `inspection.report_file`.
        study: A study of this network, for accuracy and epochs; by default that of its shipped weights, if any.

    Raises:
        ConfigError: nothing is reported, or the file is wrong.
        RunError: the study is damaged, unfinished, or of another network.
        ModelError: the network cannot be built.
    """
    network, name = open_model(model)
    target = target_of(name)
    if reported is None and (target is None or not target.documented):
        raise ConfigError(f"{name}: no document describes it. Name a file of your own: --reported FILE.")
    inspection = inspect_model(network, name=name)
    checked = read_reported(Path(reported), inspection) if reported is not None else target
    assert checked is not None
    trained = _study_accuracy(Path(study), inspection) if study is not None else _shipped_accuracy(name)
    recipe = target.documented_recipe if target else None
    result = check_reported(inspection, checked, trained, _proof_hint(name, recipe, checked.epochs))
    return replace(result, findings=(*result.findings, *_sampling(checked.accuracy)))


def check_reported(inspection: Inspection, reported: Reported, trained: TrainedAccuracy | None, hint: str) -> Audit:
    """Measure all that a source reports of an inspected network.

    `trained` is a study of it, for what needs training; `hint` says what to do without one, as half a sentence.

    Raises:
        RunError: the study's mean is no accuracy.
    """
    assert reported.source is not None
    rows = (
        *_limit_rows(reported, inspection),
        *_training_rows(reported, trained, hint),
        *(_statement_row(statement, inspection) for statement in reported.statements),
        *_figure_rows(reported, inspection),
    )
    counts = Counter(row.verdict for row in rows)
    return Audit(
        inspection.model,
        reported.source,
        reported.wording,
        rows,
        inspection.findings,
        reported.notes,
        agreeing=counts["agrees"],
        contradicted=counts["contradicted"],
        not_checked=counts["not checked"],
    )


def _proof_hint(name: str, recipe: str | None, epochs: int | None) -> str:
    """The command whose study would show what needs training: with the documented recipe, if there is one."""
    words = ["tinydigits", "prove", name]
    if recipe is not None:
        words += ["--recipe", recipe]
    elif epochs is not None:
        words += ["--epochs", str(epochs)]
    return f"`{shlex.join(words)}`, then --study DIR"


def _shipped_accuracy(name: str) -> TrainedAccuracy | None:
    """The accuracy of the study behind the shipped weights, from their card."""
    path = packaged_weights(name) if name in list_models() else None
    if path is None or (card := load_card(path)).study is None:
        return None
    final, origin = card.study.final, "study of the shipped weights"
    return TrainedAccuracy(
        origin, card.recipe_name, card.data, card.split, card.epochs, card.study.n, final.mean, final.lower_bound
    )


def _study_accuracy(directory: Path, inspection: Inspection) -> TrainedAccuracy:
    """The accuracy of a finished study of this very network."""
    path, name = directory / "study.json", inspection.model
    if not path.exists():
        raise RunError(f"{directory} is no finished study: {path.name} is missing. Run `tinydigits prove`.")
    study = read_record(path, StudyResult, "Run `tinydigits prove` again.")
    if study.model != name:
        raise RunError(
            f"{directory} is a study of {study.model}, not of {name}. Name one of {name}, or make it: "
            f"`{shlex.join(['tinydigits', 'prove', name])}`."
        )
    changed = study.parameters != inspection.parameters
    if not changed and (code := code_sha256(name)) is not None:
        first = directory / "runs" / f"seed-{study.seeds[0]:03d}" / "result.json"
        changed = read_record(first, RunResult, "Name the study with its runs, or prove it again.").code_sha256 != code
    if changed:
        raise RunError(f"{directory}: {name} has changed since that study. Prove it again, with another --out.")
    final, origin = study.final, str(directory)
    return TrainedAccuracy(
        origin, study.recipe, study.data, study.split, study.epochs, study.n, final.mean, final.lower_bound
    )


def _sampling(accuracy: float | None) -> tuple[str, ...]:
    """How much a test set of that size can say of the reported accuracy."""
    if accuracy is None:
        return ()
    correct = round(accuracy * _TEST_DIGITS)
    low, high = _wilson(correct, 0.95)
    # a one-sided bound at 95 % is the lower end of the two-sided interval at 90 %
    needed = next((k for k in range(correct, _TEST_DIGITS + 1) if _wilson(k, 0.9)[0] >= accuracy), None)
    shown = f"a true accuracy of at least {percent(accuracy)} with 95 % one-sided confidence"
    enough = f"Showing {shown} takes at least {needed:,} correct." if needed is not None else ""
    return (
        f"Accuracy: {correct:,} correct of {_TEST_DIGITS:,} digits has a 95 % interval of "
        f"{100 * low:.2f}–{100 * high:.2f} % (Wilson). "
        + (enough or f"No number of correct digits among {_TEST_DIGITS:,} shows {shown}."),
    )


def _wilson(correct: int, confidence: float) -> tuple[float, float]:
    """Wilson's interval of a proportion of the test digits."""
    from scipy.stats import binomtest  # takes half a second to import

    interval = binomtest(correct, _TEST_DIGITS).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def _limit_rows(reported: Reported, inspection: Inspection) -> list[AuditRow]:
    """The limit on parameters, unless an exact number is reported too."""
    limit = reported.parameters
    if limit is None or any(figure.quantity == "parameters" and figure.layer is None for figure in reported.figures):
        return []
    verdict: Agreement = "agrees" if inspection.parameters <= limit else "contradicted"
    return [AuditRow("parameters", f"at most {limit:,}", f"{inspection.parameters:,}", verdict)]


def _training_rows(reported: Reported, trained: TrainedAccuracy | None, hint: str) -> list[AuditRow]:
    """What only a study can show: accuracy and epochs."""
    rows = []
    why = f"needs training: {hint}"
    verdict: Agreement = "not checked"
    if budget := budget_of(reported):
        assert budget.min_accuracy is not None
        stated, mean = f"{'above' if reported.strict else 'at least'} {percent(budget.min_accuracy)}", UNKNOWN
        if trained is not None:
            verdict, reason = _check_accuracy(budget, trained)
            mean, why = percent(trained.mean), f"{trained.origin}, recipe {trained.recipe}: {reason}"
        rows.append(AuditRow("accuracy", stated, mean, verdict, why))
        why = "needs training, as the accuracy does"
    if reported.epochs is not None:
        stated, epochs = f"at most {reported.epochs}", UNKNOWN
        if trained is not None:
            agrees, epochs = trained.epochs <= reported.epochs, str(trained.epochs)
            why = "" if agrees else f"that study says nothing about fewer epochs: {hint}"
            verdict = "agrees" if agrees else "not checked"
        rows.append(AuditRow("epochs", stated, epochs, verdict, why))
    return rows


def _check_accuracy(budget: Budget, trained: TrainedAccuracy) -> tuple[Agreement, str]:
    """By the budget's clause. A study of more epochs says nothing; one of fewer can only confirm."""
    clause = accuracy_clause(
        budget, mean=trained.mean, lower_bound=trained.lower_bound, n=trained.n, data=trained.data, split=trained.split
    )
    assert clause is not None
    limit = budget.max_epochs or trained.epochs
    if trained.epochs > limit:
        return "not checked", f"{trained.epochs} epochs, and {limit} are reported"
    if clause.verdict == "failed" and trained.epochs < limit:
        return "not checked", f"{clause.sentence}; but in {trained.epochs} epochs, and {limit} are reported"
    if clause.verdict == "plausible":
        return "not checked", f"plausible, not proved: {clause.sentence}"
    verdicts: dict[str, Agreement] = {"met": "agrees", "failed": "contradicted", "not judged": "not checked"}
    return verdicts[clause.verdict], clause.sentence


def _statement_row(statement: Statement, inspection: Inspection) -> AuditRow:
    """A statement about several layers agrees if it holds for each."""
    words = f"“{statement.words}”" if statement.words else ""
    subject, stated, layers = statement.subject, statement.stated, statement.layers
    if layers:
        odd = [number for number in layers if not _is_placed(subject, number, inspection.layers)]
        agrees, figures = not odd, (f"{len(layers)} of {len(layers)}", f"{len(layers) - len(odd)} of {len(layers)}")
        reason = f"not true of layer {' and layer '.join(map(str, odd))}"
    else:
        dense = [f"{n} {layer.kind}" for n, layer in enumerate(inspection.layers, 1) if layer.fully_connected]
        holds = bool(dense) if subject == _DENSE else inspection.structure.facts()[subject]
        agrees, figures = holds == stated, (_yes(stated), _yes(holds))
        reason = evidence(subject, holds=holds) if subject != _DENSE else ""
        if subject == _DENSE and dense:
            reason = f"found: layer {' and layer '.join(dense)}"
    what = _WORDS.get(subject, subject.replace("_", " "))
    if agrees:
        return AuditRow(what, *figures, "agrees", words)
    return AuditRow(what, *figures, "contradicted", _sentence(words, reason))


def _is_placed(subject: str, number: int, layers: tuple[Layer, ...]) -> bool:
    layer = layers[number - 1]
    if subject == "size_kept":
        return layer.input_shape[-2:] == layer.output_shape[-2:]
    before_the_next = takewhile(lambda later: not later.macs, layers[number:])
    return any(later.kind == _AFTER[subject] for later in before_the_next)


def _figure_rows(reported: Reported, inspection: Inspection) -> list[AuditRow]:
    """The network's figures first, then layer by layer, then the sum."""
    rows = []
    for figure in sorted(reported.figures, key=lambda figure: figure.layer or 0):
        check = check_figure(figure, inspection)
        words = f"“{figure.words}”" if figure.words else ""
        reason = "" if check.agrees else _reason(figure, inspection)
        rows.append(_row(check, _sentence(words, reason)))
    if total := sum_of_rows(reported, inspection):
        stated = [f"{x.stated:,}" for x in reported.figures if x.quantity == "parameters" and x.layer is None]
        reason = f"the reported total is {stated[0]}" if stated and stated[0] != total.reported else ""
        rows.append(_row(total, reason))
    return rows


def _row(check: FigureCheck, why: str) -> AuditRow:
    verdict: Agreement = "contradicted" if check.measured != UNKNOWN else "not checked"
    return AuditRow(check.what, check.reported, check.measured, "agrees" if check.agrees else verdict, why)


def _reason(figure: Figure, inspection: Inspection) -> str:
    """How the measured figure comes about, if that can be said."""
    if figure.quantity == "macs" and not inspection.macs_complete:
        return f"at least {inspection.macs:,}: an operation with learned weights is not counted"
    layers, number, where = inspection.layers, figure.layer, ""
    if number is None:
        if figure.quantity != "receptive_field":
            return ""
        # the last layer that changes the field: later ones do not explain it
        fields = [layer.receptive_field for layer in layers]
        number = next((n for n in range(len(fields), 1, -1) if fields[n - 1] != fields[n - 2]), 1)
        where = f"layer {number}: "
    layer = layers[number - 1]
    if figure.quantity == "parameters":
        return _parameters_reason(layer)
    if figure.quantity == "output":
        return _output_reason(layer)
    if figure.quantity == "jump":
        return _jump_reason(layer)
    return where + _field_reason(layer, figure.stated)


def _parameters_reason(layer: Layer) -> str:
    """The product that the parameters are, if they are one."""
    if not layer.input_shape or not layer.output_shape:
        return ""
    outputs = layer.output_shape[0]
    if not layer.macs:
        scaled = layer.kernel is None and layer.parameters == 2 * outputs
        return f"2 × {outputs} = {layer.parameters:,}, a scale and a shift for each channel" if scaled else ""
    if not layer.parameters:
        return "counted where its weights are first used"
    factors = (layer.input_shape[0], outputs, *(layer.kernel or ()))
    weights, text = math.prod(factors), " × ".join(map(str, factors))
    if layer.parameters == weights:
        return f"{text} = {weights:,}, without a bias"
    return f"{text} + {outputs} = {layer.parameters:,}, with a bias" if layer.parameters == weights + outputs else ""


def _output_reason(layer: Layer) -> str:
    """The map's height by the usual formula, if the map is square and the formula gives what was measured."""
    window, on_map = _square(layer), len(layer.input_shape) == 3
    otherwise = f"its input is {sides(layer.input_shape)}" if on_map else ""
    if window is None or not on_map or len(layer.output_shape) != 3:
        return otherwise
    kernel, stride, padding = window
    before, after = layer.input_shape[-1], layer.output_shape[-1]
    padded = f"{before} + 2 × {padding}" if padding else f"{before}"
    whole, rest = divmod(before + 2 * padding - kernel, stride)
    if whole + 1 != after:
        return otherwise
    quotient = f"({padded} − {kernel}) / {stride}"
    return f"{'⌊' + quotient + '⌋' if rest else quotient} + 1 = {after}"


def _field_reason(layer: Layer, stated: float | tuple[int, ...]) -> str:
    """From field r and jump j before the layer: r + (k − 1) j. The commonest mistake is to use the jump after it."""
    field, jump = _side(layer.receptive_field), _side(layer.jump)
    if layer.receptive_field is None:
        return "unknown: the map was enlarged, cut or rearranged before"
    window = _square(layer)
    if field is None or jump is None or (layer.kernel and window is None):
        return f"height and width differ; the jump after it is {times(layer.jump)}"
    if window is None and layer.fully_connected:
        return "fully connected: it sees every position of the map before it"
    if window is None:
        return f"no window: it sees what enters it, {field}"
    kernel, stride, _ = window
    entering = jump // stride
    before = field - (kernel - 1) * entering
    reason = f"{before} + ({kernel} − 1) × {entering} = {field}; the jump entering the layer is {entering}"
    if stride > 1 and stated == before + (kernel - 1) * jump:
        reason += f", and {jump} only after it"
    return reason


def _jump_reason(layer: Layer) -> str:
    jump, window = _side(layer.jump), _square(layer)
    if jump is None:
        return ""
    if window is None:
        return f"no stride: the jump stays {jump}"
    return f"{jump // window[1]} × stride {window[1]} = {jump}"


def _square(layer: Layer) -> tuple[int, int, int] | None:
    """Kernel, stride and padding, if each is the same for height and width, and the map too."""
    window = tuple(_side(pair) for pair in (layer.kernel, layer.stride, layer.padding))
    if None in window or len(set(layer.input_shape[-2:])) > 1:
        return None
    return window  # type: ignore[return-value]


def _side(pair: Pair | None) -> int | None:
    return pair[0] if pair is not None and pair[0] == pair[1] else None


def _sentence(words: str, reason: str) -> str:
    return f"{words}: {reason}" if words and reason else words or reason


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"
