"""What is claimed of a network beside what a recount finds, line by line; the claims are a document's or a user's."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tinydigits.models.budget import Budget, accuracy_clause, budget_of, percent, structural_clauses
from tinydigits.models.inspect import Comparison, Inspection, Layer, compare, sides, sum_of_rows, times
from tinydigits.models.registry import Claim, Figure, Statement
from tinydigits.models.trace import Pair

Verdict = Literal["agrees", "contradicted", "not checked"]

_PLACED = {
    "batch_norm_after": "convolutions with batch norm after them",
    "dropout_after": "convolutions with dropout after them",
    "size_kept": "convolutions that keep the map's size",
}


@dataclass(frozen=True)
class Evidence:
    """What a study measured; `mean` and `lower_bound` of the final accuracy, in [0, 1]. `origin` says where it is."""

    origin: str
    recipe: str
    data: str
    protocol: str
    epochs: int
    n: int
    mean: float
    lower_bound: float | None


@dataclass(frozen=True)
class Line:
    """One claim: as stated, as recounted, both as on screens; and why, where the verdict does not tell."""

    what: str
    claimed: str
    recounted: str
    verdict: Verdict
    why: str = ""


@dataclass(frozen=True)
class Audit:
    """All claims of one source, judged. `findings` are the network's, `notes` the document's."""

    model: str
    source: str
    lines: tuple[Line, ...]
    findings: tuple[str, ...]
    notes: tuple[str, ...]

    def count(self, verdict: Verdict) -> int:
        """How many lines have this verdict."""
        return sum(line.verdict == verdict for line in self.lines)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {
            **asdict(self),
            "agreeing": self.count("agrees"),
            "contradicted": self.count("contradicted"),
            "not_checked": self.count("not checked"),
        }


def audit(inspection: Inspection, claim: Claim, evidence: Evidence | None, remedy: str) -> Audit:
    """Recount every claim.

    Args:
        inspection: The network, inspected.
        claim: What is claimed of it; it has a source.
        evidence: A study that judges what takes training, if there is one.
        remedy: What is to be done where there is none, as half a sentence.

    Raises:
        RunError: the evidence's mean is no accuracy.
    """
    assert claim.source is not None
    lines = (
        *_limit_lines(claim, inspection),
        *_training_lines(claim, evidence, remedy),
        *(_statement_line(statement, inspection) for statement in claim.statements),
        *_figure_lines(claim, inspection),
    )
    return Audit(inspection.model, claim.source, lines, inspection.findings, claim.notes)


def _limit_lines(claim: Claim, inspection: Inspection) -> list[Line]:
    """The parameters' limit, unless an exact number is stated too."""
    limit = claim.parameters
    if limit is None or any(figure.quantity == "parameters" and figure.layer is None for figure in claim.figures):
        return []
    verdict: Verdict = "agrees" if inspection.parameters <= limit else "contradicted"
    return [Line("parameters", f"at most {limit:,}", f"{inspection.parameters:,}", verdict)]


def _training_lines(claim: Claim, evidence: Evidence | None, remedy: str) -> list[Line]:
    """What only a study can judge: accuracy and epochs."""
    lines = []
    budget = budget_of(claim)
    if budget is not None and claim.accuracy is not None:
        claimed = f"{'above' if claim.strict else 'at least'} {percent(claim.accuracy)}"
        if evidence is None:
            lines.append(Line("accuracy", claimed, "–", "not checked", f"takes training: {remedy}"))
        else:
            verdict, reason = _judge_accuracy(budget, evidence)
            reason = f"{evidence.origin}, recipe {evidence.recipe}: {reason}"
            lines.append(Line("accuracy", claimed, percent(evidence.mean), verdict, reason))
    if claim.epochs is not None:
        claimed = f"at most {claim.epochs}"
        if evidence is None:
            reason = "takes training, as the accuracy does" if lines else f"takes training: {remedy}"
            lines.append(Line("epochs", claimed, "–", "not checked", reason))
        else:
            verdict = "agrees" if evidence.epochs <= claim.epochs else "not checked"
            reason = "" if verdict == "agrees" else f"that study says nothing of fewer epochs: {remedy}"
            lines.append(Line("epochs", claimed, str(evidence.epochs), verdict, reason))
    return lines


def _judge_accuracy(budget: Budget, evidence: Evidence) -> tuple[Verdict, str]:
    """By the budget's clause. A study of more epochs says nothing of a claim; one of fewer can only confirm it."""
    clause = accuracy_clause(
        budget,
        mean=evidence.mean,
        lower_bound=evidence.lower_bound,
        n=evidence.n,
        data=evidence.data,
        protocol=evidence.protocol,
    )
    assert clause is not None
    limit = budget.max_epochs or evidence.epochs
    if evidence.epochs > limit:
        return "not checked", f"{evidence.epochs} epochs, and the claim is about {limit}"
    if clause.verdict == "failed" and evidence.epochs < limit:
        return "not checked", f"{clause.sentence}; but in {evidence.epochs} epochs, and the claim is about {limit}"
    if clause.verdict == "plausible":
        return "not checked", f"plausible, not proved: {clause.sentence}"
    verdicts: dict[str, Verdict] = {"met": "agrees", "failed": "contradicted", "not judged": "not checked"}
    return verdicts[clause.verdict], clause.sentence


def _statement_line(statement: Statement, inspection: Inspection) -> Line:
    words = f"“{statement.words}”" if statement.words else ""
    if statement.layers:
        return _placement_line(statement, inspection, words)
    subject = statement.subject
    dense = [f"{n} {layer.kind}" for n, layer in enumerate(inspection.layers, 1) if layer.fully_connected]
    holds: bool = {**vars(inspection.structure), "fully_connected": bool(dense)}[subject]
    what = "fully connected layers" if subject == "fully_connected" else subject.replace("_", " ")
    if holds == statement.stated:
        return Line(what, _yes(statement.stated), _yes(holds), "agrees", words)
    if subject == "fully_connected":
        reason = f"found: layer {' and layer '.join(dense)}" if dense else ""
    else:
        reason = _behaviour(subject, inspection)
    return Line(what, _yes(statement.stated), _yes(holds), "contradicted", _sentence(words, reason))


def _behaviour(fact: str, inspection: Inspection) -> str:
    """What the network does that shows the fact, or its absence, in the words of a budget's clause."""
    (clause,) = structural_clauses(Budget("claim", require=(fact,)), inspection, epochs=None)
    return clause.sentence.partition(": ")[2]


def _placement_line(statement: Statement, inspection: Inspection, words: str) -> Line:
    """A statement about several layers: it holds where it does for each."""
    odd = [number for number in statement.layers if not _is_placed(statement.subject, number, inspection.layers)]
    total = len(statement.layers)
    where = f"not so for layer {' and layer '.join(map(str, odd))}" if odd else ""
    verdict: Verdict = "contradicted" if odd else "agrees"
    claimed, found = f"{total} of {total}", f"{total - len(odd)} of {total}"
    return Line(_PLACED[statement.subject], claimed, found, verdict, _sentence(words, where))


def _is_placed(subject: str, number: int, layers: tuple[Layer, ...]) -> bool:
    layer = layers[number - 1]
    if subject == "size_kept":
        return layer.input_shape[-2:] == layer.output_shape[-2:]
    kind = {"batch_norm_after": "BatchNorm2d", "dropout_after": "Dropout"}[subject]
    for later in layers[number:]:
        if later.macs:
            return False
        if later.kind == kind:
            return True
    return False


def _figure_lines(claim: Claim, inspection: Inspection) -> list[Line]:
    """The network's figures first, then layer by layer, then the sum."""
    lines = []
    for figure in sorted(claim.figures, key=lambda figure: figure.layer or 0):
        comparison = compare(figure, inspection)
        words = f"“{figure.words}”" if figure.words else ""
        reason = "" if comparison.agrees else _reason(figure, inspection)
        lines.append(_line(comparison, _sentence(words, reason)))
    if total := sum_of_rows(claim, inspection):
        stated = [f"{x.stated:,}" for x in claim.figures if x.quantity == "parameters" and x.layer is None]
        reason = f"the stated total is {stated[0]}" if stated and stated[0] != total.documented else ""
        lines.append(_line(total, reason))
    return lines


def _line(comparison: Comparison, why: str) -> Line:
    verdict: Verdict = "contradicted" if comparison.known else "not checked"
    if comparison.agrees:
        verdict = "agrees"
    return Line(comparison.what, comparison.documented, comparison.recounted, verdict, why)


def _reason(figure: Figure, inspection: Inspection) -> str:
    """How the recounted figure comes about, where that can be said."""
    if figure.quantity == "macs" and not inspection.macs_complete:
        return f"at least {inspection.macs:,}: an operation with learned weights is not counted"
    number = figure.layer
    if number is None:
        if figure.quantity != "receptive_field":
            return ""
        number = _last_to_widen(inspection.layers)
        return f"layer {number}: {_field_reason(inspection.layers[number - 1], figure.stated)}"
    layer = inspection.layers[number - 1]
    if figure.quantity == "parameters":
        return _parameters_reason(layer)
    if figure.quantity == "output":
        return _output_reason(layer)
    if figure.quantity == "jump":
        return _jump_reason(layer)
    return _field_reason(layer, figure.stated)


def _last_to_widen(layers: tuple[Layer, ...]) -> int:
    """The number of the last layer that changes the receptive field: those behind it say nothing of how it grew."""
    number = len(layers)
    while number > 1 and layers[number - 1].receptive_field == layers[number - 2].receptive_field:
        number -= 1
    return number


def _parameters_reason(layer: Layer) -> str:
    """The product that the parameters are, if they are one."""
    if not layer.input_shape or not layer.output_shape:
        return ""
    outputs = layer.output_shape[0]
    if not layer.macs:
        scaled = layer.kernel is None and layer.parameters == 2 * outputs
        return f"2 × {outputs} = {layer.parameters:,}, a scale and a shift for each channel" if scaled else ""
    if not layer.parameters:
        return "counted where its weights are used first"
    factors = (layer.input_shape[0], outputs, *(layer.kernel or ()))
    weights, text = math.prod(factors), " × ".join(map(str, factors))
    if layer.parameters == weights:
        return f"{text} = {weights:,}, without a bias"
    return f"{text} + {outputs} = {layer.parameters:,}, with a bias" if layer.parameters == weights + outputs else ""


def _output_reason(layer: Layer) -> str:
    """The height of the map by the usual formula, where height and width are alike and it gives what was found."""
    window = _square(layer)
    if window is None or len(layer.input_shape) != 3 or len(layer.output_shape) != 3:
        return f"its input is {sides(layer.input_shape)}" if len(layer.input_shape) == 3 else ""
    kernel, stride, padding = window
    before, after = layer.input_shape[-1], layer.output_shape[-1]
    padded = f"{before} + 2 × {padding}" if padding else f"{before}"
    whole, rest = divmod(before + 2 * padding - kernel, stride)
    if whole + 1 != after:
        return f"its input is {sides(layer.input_shape)}"
    quotient = f"({padded} − {kernel}) / {stride}"
    return f"{'⌊' + quotient + '⌋' if rest else quotient} + 1 = {after}"


def _field_reason(layer: Layer, stated: float | tuple[int, ...]) -> str:
    """From field r and jump j before the layer: r + (k − 1) j. The commonest slip is to take the jump behind it."""
    field, jump = _side(layer.receptive_field), _side(layer.jump)
    if layer.receptive_field is None:
        return "not known: the map was enlarged, cut or rearranged on the way"
    window = _square(layer)
    if field is None or jump is None or (layer.kernel and window is None):
        return f"height and width differ; the jump behind it is {times(layer.jump)}"
    if window is None:
        if layer.fully_connected:
            return "fully connected: it sees every position of the map before it"
        return f"no window: it sees what enters it, {field}"
    kernel, stride, _ = window
    entering = jump // stride
    before = field - (kernel - 1) * entering
    reason = f"{before} + ({kernel} − 1) × {entering} = {field}; the jump entering the layer is {entering}"
    if stride > 1 and stated == before + (kernel - 1) * jump:
        reason += f", and {jump} only behind it"
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
