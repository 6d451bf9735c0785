"""What stands in JSON files, as typed records: read and checked by one reader, written by one writer.

Accuracies, fractions and probabilities lie in [0, 1], times are in seconds, memory is in bytes. A record's `schema` is
raised when a key is renamed or changes its meaning.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from tinydigits.errors import RunError, TinydigitsError, reason_of
from tinydigits.storage import write_bytes

Fraction = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
Seconds = Annotated[float, Meta(ge=0)]
Digit = Annotated[int, Meta(ge=0, le=9)]
Interval = tuple[Fraction, Fraction]
Name = Annotated[str, Meta(pattern="^[^\\x00-\\x1f\\x7f-\\x9f]*$")]  # is printed: no control characters
Outcome = Literal["met", "plausible", "failed", "not judged"]
Split = Literal["val", "test"]
SPLIT_NAMES: dict[Split, Literal["validation", "test"]] = {"val": "validation", "test": "test"}  # before “digits”
ReportPart = Literal["predictions", "network", "digits", "explanations", "augmentation"]
OUTCOMES: tuple[Outcome, ...] = ("met", "plausible", "failed", "not judged")
LAST3 = 3  # epochs that `last3` is the mean of
MIN_SEEDS = 3  # the fewest runs that bound a mean: from two, the t quantile (12.7) makes every interval useless


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all records."""

    def as_dict(self) -> dict[str, object]:
        """Plain data, as it stands in JSON."""
        plain: dict[str, object] = msgspec.to_builtins(self)
        return plain


class Environment(Record, frozen=True):
    """Versions, processor and threads: what a figure has to be read with. `command` is what was typed, if it is known.

    `compiler`: of the native backend; None: PyTorch trained.
    """

    python: str
    packages: dict[str, str]
    platform: str
    processor: str
    cores: int | None
    threads: int
    compiler: str | None = None
    gpu: str | None = None
    command: str | None = None


class Clause(Record, frozen=True):
    """One clause of a budget, and its verdict. `sentence`: figure, limit, and how far the one is from the other.

    For a structural clause `limit` is “required” or “forbidden”, and `value` whether the network is so.
    """

    clause: str
    limit: float | int | str
    value: float | int | bool
    verdict: Outcome
    sentence: str


class Verdict(Record, frozen=True):
    """What the figures of one run say of a budget, or, where `budget` is None, of what is reported of its model."""

    budget: str | None
    wording: str
    verdict: Outcome
    reason: str
    clauses: tuple[Clause, ...]

    @property
    def goal(self) -> str:
        """The budget's name, or, without one, what is reported of the model in words."""
        return self.budget or self.wording


class Epoch(Record, frozen=True):
    """One epoch of a run, a line of `metrics.jsonl`. `accuracy` is that of the evaluation digits.

    `train_loss` and `train_accuracy` are means over the epoch's batches as they were trained on: augmented,
    with dropout, with the weights of that moment.
    """

    epoch: int
    train_loss: float
    train_accuracy: Fraction
    accuracy: Fraction
    learning_rate: float
    images_per_second: float
    time_seconds: float


class BatchLog(Record, frozen=True):
    """One batch of a run, a line of `batches.jsonl`; `step` counts from 1 over the whole run."""

    step: int
    loss: float
    accuracy: Fraction


class RunResult(Record, frozen=True):
    """One run: its `result.json`.

    `warning`: why these are other digits than the user may think. `custom`: which of model, loss, optimizer and augment
    were objects of the user's own.
    """

    model: Name
    data: Name
    data_sha256: str
    evaluation_sha256: str
    code_sha256: str | None
    warning: str | None
    split: Split
    backend: str
    recipe: Name
    seed: Count
    epochs: Count
    accuracy: Fraction
    interval: Interval
    accuracy_last3: Fraction
    accuracy_best: Fraction
    parameters: Count
    time_seconds: Seconds
    images_per_second: Seconds
    run_dir: str
    budget: str | None = None
    verdict: Verdict | None = None
    custom: tuple[str, ...] = ()
    schema: Literal[1] = 1


class Summary(Record, frozen=True):
    """Mean over seeds, its sample standard deviation (None for one run), its lower bound (None below three runs)."""

    mean: Fraction
    sd: float | None
    lower_bound: float | None


class SeedResult(Record, frozen=True):
    """What a study keeps of the run of one seed."""

    seed: Count
    accuracy: Fraction
    accuracy_last3: Fraction
    accuracy_best: Fraction
    time_seconds: Seconds
    accuracy_by_epoch: tuple[Fraction, ...] = ()
    train_accuracy_by_epoch: tuple[Fraction, ...] = ()


class Calibration(Record, frozen=True):
    """What validation digits say of how sure a model is; `ece_…` is the expected calibration error.

    Logits divided by `temperature` give honest probabilities. A picture whose highest logit is below `threshold` is no
    digit; `coverage` is the fraction of the `digits` validation digits that this keeps. `coverage_accuracy`: accuracy
    on what is kept where at least a fraction of the digits is; `rejected`: the fraction of each kind of non-digits that
    is rejected.
    """

    temperature: Positive
    threshold: float
    ece_before: float | None = None
    ece_after: float | None = None
    coverage: Fraction | None = None
    digits: Count | None = None
    coverage_accuracy: dict[str, Fraction] = {}
    rejected: dict[str, Fraction] = {}


class StudyResult(Record, frozen=True):
    """Several seeds of one configuration: `study.json`.

    `final` and `last3` are of the accuracies of the last epoch and of the last three. `interval` is for the accuracy on
    new digits of the same kind with new seeds. `config` are the settings that all runs share (`training.config`).
    """

    model: Name
    recipe: Name
    config: dict[str, object]
    parameters: Count
    epochs: Count
    data: Name
    data_sha256: str
    evaluation_sha256: str
    split: Split
    warning: str | None
    seeds: tuple[int, ...]
    n: Annotated[int, Meta(ge=1)]
    final: Summary
    last3: Summary
    interval: Interval
    runs: tuple[SeedResult, ...]
    calibration: Calibration | None
    environment: Environment
    schema: Literal[1] = 1

    def __post_init__(self) -> None:
        if len(self.runs) != self.n or tuple(run.seed for run in self.runs) != self.seeds:
            raise ValueError("the runs are not those of the seeds")


class ProofResult(Record, frozen=True):
    """What a study says of a budget: `verdict.json`, and what `prove` returns. `line`: all of it in one line.

    `mean`, `sd` and `lower_bound` are of the accuracy that the budget is about, `accuracy_of`.
    """

    model: str
    recipe: str
    budget: str | None
    data: str
    split: Split
    warning: str | None
    n: int
    accuracy_of: Literal["final", "last3"]
    mean: Fraction
    sd: float | None
    lower_bound: float | None
    interval: Interval | None
    verdict: Outcome
    clauses: tuple[Clause, ...]
    study_dir: str
    line: str
    schema: Literal[1] = 1


def verdicts_of(proofs: Iterable[ProofResult]) -> tuple[Verdict, ...]:
    """What proofs say; one without a budget says nothing."""
    return tuple(Verdict(x.budget, x.budget, x.verdict, x.line, x.clauses) for x in proofs if x.budget is not None)


class ProofFile(Record, frozen=True):
    """A study with its verdicts in one file, as in results/proofs; `command` makes it again."""

    command: str
    study: StudyResult
    verdicts: tuple[ProofResult, ...]
    schema: Literal[1] = 1


class StudyRow(Record, frozen=True):
    """A line of `tinydigits studies`: a study, or a run, which counts as a study of one seed.

    `mean`, `sd` and `lower_bound` are those of `final` or `last3`, as `accuracy_of` says. `seed` is that of a run.
    `time_seconds` is that of all runs together, `modified` the file's time in seconds since 1970.
    """

    path: str
    kind: Literal["study", "run"]
    model: str
    recipe: str
    data: str
    split: Split
    parameters: Count
    epochs: Count
    n: Count
    seed: Count | None
    final: Summary
    last3: Summary
    accuracy_of: Literal["final", "last3"]
    mean: Fraction
    sd: float | None
    lower_bound: float | None
    time_seconds: Seconds
    verdicts: tuple[Verdict, ...]
    modified: float


class StudyFigures(Record, frozen=True):
    """What a card tells of the study that its weights stand for."""

    n: int
    seeds: tuple[int, ...]
    final: Summary
    last3: Summary
    interval: Interval


class Int8Figures(Record, frozen=True):
    """What the int8 graph of shipped weights reaches on the test digits, and takes."""

    accuracy: Fraction
    weight_bytes: int
    activation_bytes: int


class Card(Record, frozen=True):
    """What belongs to weights: where they come from, and how digits are prepared for them.

    Networks take (x / 255 − `mean`) / `std`. `accuracy` is the last epoch's, None if nothing was evaluated; `chosen` is
    a sentence on how these weights were chosen. `recipe` are its settings. `calibration` was fitted on validation
    digits. `parameters` and `weights_sha256` are filled in by `models.weights.save_weights`. Shipped weights also have
    `macs` a picture and `int8`.
    """

    model: str
    mean: float
    std: Positive
    data: str
    data_sha256: str
    split: Split
    recipe_name: str
    recipe: dict[str, object]
    seed: int
    epochs: int
    accuracy: Fraction | None
    chosen: str
    command: str
    environment: Environment
    calibration: Calibration | None = None
    study: StudyFigures | None = None
    macs: int | None = None
    int8: Int8Figures | None = None
    custom: tuple[str, ...] = ()
    parameters: int = 0
    weights_sha256: str = ""
    schema: Literal[1] = 1


class Mistake(Record, frozen=True):
    """A misclassified digit: the position `index` among the evaluation digits, and what reviewers say of its label."""

    index: int
    label: Digit
    predicted: Digit
    confidence: Fraction
    label_error: str | None


class DigitResult(Record, frozen=True):
    """How one digit fared; None where there were no such examples or predictions."""

    digit: Digit
    total: int
    correct: int
    accuracy: Fraction | None
    precision: Fraction | None


class EvaluationResult(Record, frozen=True):
    """A model on one set of digits: `evaluation.json`. `run`: what the run itself had measured, if it is one."""

    model: str
    data: str
    split: Split
    warning: str | None
    accuracy: Fraction
    correct: int
    total: int
    interval: Interval
    confusion: tuple[tuple[int, ...], ...]
    per_digit: tuple[DigitResult, ...]
    mistakes: tuple[Mistake, ...]
    run: RunResult | None = None


class RateTrial(Record, frozen=True):
    """One step of the learning-rate finder: its rate, the batch's loss, and the loss smoothed up to here."""

    learning_rate: float
    loss: float
    smoothed: float


class LearningRateResult(Record, frozen=True):
    """What the learning-rate finder suggests: `learning_rate.json`. `reading` says how it was read from the trials."""

    model: str
    data: str
    recipe: str
    optimizer: str
    batch_size: int
    seed: int
    learning_rate: Positive
    at_lowest: Positive
    reading: str
    recipe_learning_rate: float
    trials: tuple[RateTrial, ...]
    environment: Environment
    run_dir: str
    warning: str | None = None
    schema: Literal[1] = 1


class StudySide(Record, frozen=True):
    """One of two studies that are compared."""

    study_dir: str
    model: str
    recipe: str
    n: int
    mean: Fraction
    sd: float | None
    lower_bound: float | None


class PairedTest(Record, frozen=True):
    """The exact McNemar test of two runs on the same digits."""

    only_first: int
    only_second: int
    p: Fraction


class Difference(Record, frozen=True):
    """How far two sets of runs are apart on the same digits, first less second, and how sure that is.

    `p_seeds`: Welch's t test over seeds, None below two runs a side; `seed_0`: of the first run of each;
    `seeds_needed`: how many a side tell such a difference apart.
    """

    difference: float
    interval: tuple[float, float]
    p_seeds: float | None
    seed_0: PairedTest
    seeds_needed: int | None


class Comparison(Difference, frozen=True):
    """Two studies on the same digits."""

    first: StudySide
    second: StudySide
    sentence: str


class ReportDifference(Difference, frozen=True):
    """How far a run or a study is from the one that a report compares it with: `source` less `baseline`."""

    source: str
    baseline: str


class MissingPart(Record, frozen=True):
    """What a report cannot show of a run or a study, and why."""

    source: str
    part: ReportPart
    reason: str


class ReportResult(Record, frozen=True):
    """The page that `report` wrote. `verdicts` are those of a single source; of several, `differences` from the first.

    Without predictions there are no differences, and `missing` says why.
    """

    file: str
    size_bytes: Count
    verdicts: tuple[Verdict, ...] = ()
    differences: tuple[ReportDifference, ...] = ()
    missing: tuple[MissingPart, ...] = ()


class FormatBytes(Record, frozen=True):
    """Bytes of the same thing in each number format."""

    float32: int
    int8: int


class SearchConfig(Record, frozen=True):
    """What a search looks for, and how it trains all its networks: its `config.json`, settled when it begins.

    `config` are the settings of every run but for its network and seed (`training.config`). `space` is a digest of the
    networks to choose from, and `max_macs` the size of the largest.
    """

    budget: dict[str, object]
    data_sha256: str
    space: str
    max_macs: Count
    config: dict[str, object]
    kind: Literal["search"] = "search"
    schema: Literal[1] = 1


class FrontRow(Record, frozen=True):
    """A network that a search trained to its last epoch; on other digits, its accuracy may be lower by `margin`.

    `accuracies` are, by seed, those that the budget limits, and `accuracy` is their mean. `network` describes it in one
    line (`studies.search.front.sketch`).
    """

    trial: int
    parameters: int
    macs: int
    weight_bytes: FormatBytes
    activation_bytes: FormatBytes
    accuracy: Fraction
    margin: float
    seeds: tuple[int, ...]
    accuracies: tuple[Fraction, ...]
    epochs: int
    seconds: float
    network: str


class ChosenRow(FrontRow, frozen=True):
    """The network that is chosen; `why`, and the file with its design, `definition`."""

    why: str
    definition: str


class TrialRow(Record, frozen=True):
    """A network that a search trained with one seed, up to `epochs`; `failed`: why its training did not end."""

    trial: int
    network: str
    parameters: int
    macs: int
    seed: int
    epochs: int
    accuracy: Fraction | None
    seconds: float
    failed: str | None


class TrialCounts(Record, frozen=True):
    """What became of the networks of a search; `retests` are further seeds."""

    begun: int
    complete: int
    pruned: int
    failed: int
    retests: int


class CandidateCounts(Record, frozen=True):
    """How many designs had their cost calculated, in how many processor seconds."""

    costed: int
    seconds: float
    per_second: int | None


class SearchResult(Record, frozen=True):
    """What a search found: `front.json`.

    `goal` and `target`: the budget in words, and its accuracy. `validation`: on how many digits networks are compared.
    `front` is the Pareto front of accuracy against size, the smallest first. `over_budget_built`: how many networks
    turned out to break the budget when they were built. `busy_fraction`: of the workers' time, how much was training.
    `verdict` is None until the chosen network is proved.
    """

    budget: str
    goal: str
    target: Fraction | None
    accuracy_of: Literal["final", "last3"]
    data: str
    warning: str | None
    split: Split
    validation: int
    recipe: str
    epochs: int
    backend: str
    max_macs: int | None
    minutes: float
    workers: int
    trials: TrialCounts
    epochs_trained: int
    training_seconds: float
    candidates: CandidateCounts
    over_budget_built: int
    busy_fraction: float | None
    front: tuple[FrontRow, ...]
    chosen: ChosenRow
    networks: tuple[TrialRow, ...]
    environment: Environment
    search_dir: str
    verdict: ProofResult | None = None
    schema: Literal[1] = 1


class ParityDigits(Record, frozen=True):
    """The digits that an export was compared on."""

    data: str
    n: Count
    sha256: str


class LogitParity(Record, frozen=True):
    """How the logits of exported files compare with PyTorch's, and those of int8 files with the integer reference.

    `accuracy_lost`: PyTorch's accuracy less that of the files; `rejected`: digits that the files label “no digit”. Of
    float32 files: `largest_difference` of a logit, and `ties`, the indices of digits whose two largest logits are so
    close that rounding decides. Of int8 files: `bit_exact`, if they compute in integers, and `same_predictions`, the
    fraction of digits predicted as by the reference. `diverges_at`: the operation after which the files first differ.
    """

    accuracy: Fraction
    accuracy_pytorch: Fraction
    accuracy_lost: float
    disagreements_with_pytorch: Count
    rejected: Count
    largest_difference: float | None = None
    ties: tuple[int, ...] | None = None
    bit_exact: bool | None = None
    same_predictions: Fraction | None = None
    diverges_at: str | None = None


class PictureParity(Record, frozen=True):
    """How many pictures the exported preprocessor turns into the same bytes as Python's."""

    pictures: Count
    identical: Count
    kinds: tuple[str, ...]


class Parity(Record, frozen=True):
    """Whether exported files compute what the trained network does: `parity.json`.

    `format` ends in `-int8` if the files are quantised. Without the tool that runs the files the verdict is `not run`,
    for `reason`, and `logits` is None. `preprocessing` is None if the format has no preprocessor.
    """

    model: str
    format: str
    files: tuple[str, ...]
    weights_sha256: str
    digits: ParityDigits
    verdict: Literal["passed", "failed", "not run"]
    reason: str | None = None
    logits: LogitParity | None = None
    preprocessing: PictureParity | None = None
    faults: tuple[str, ...] = ()
    warning: str | None = None
    schema: Literal[1] = 1


class ExportResult(Record, frozen=True):
    """What `export` wrote, and how it compares."""

    files: tuple[str, ...]
    parity: Parity


class Label(Record, frozen=True):
    """A digit, and how probable it is."""

    label: Digit
    score: Fraction


class Prediction(Record, frozen=True):
    """What a picture shows, best label first. `rejected`: it is no digit, for `reason`; None: it could not be read."""

    path: str
    rejected: bool | None
    labels: tuple[Label, ...]
    reason: str | None = None
    error: str | None = None
    warning: str | None = None


Kind = TypeVar("Kind")
RecordKind = TypeVar("RecordKind", bound=Record)


def derive_record(kind: type[RecordKind], source: object, /, **changes: object) -> RecordKind:
    """A record with the values that `source` has under the same names, but for its schema, and with `changes`."""
    same = [name for name in kind.__struct_fields__ if name != "schema" and hasattr(source, name)]
    return kind(**{name: getattr(source, name) for name in same} | changes)


def read_record(path: Path, kind: type[Kind], hint: str, error: type[TinydigitsError] = RunError) -> Kind:
    """The record in a JSON file.

    Raises:
        TinydigitsError: of the type `error`; it names the file, the path in it and the rule, and ends with the `hint`.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as fault:
        raise error(f"{path} cannot be read: {reason_of(fault)}. {hint}") from fault
    except msgspec.ValidationError as fault:
        raise error(f"{path}: {_rule(fault)}. {hint}") from fault
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise error(f"{path} is damaged, no valid JSON: {fault}. {hint}") from fault


def read_lines(path: Path, kind: type[Kind], hint: str) -> list[Kind]:
    """The records in a file of JSON Lines, one a line.

    Raises:
        RunError: it cannot be read, or one of them is damaged; the line is named.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as fault:
        raise RunError(f"{path} cannot be read: {reason_of(fault)}. {hint}") from fault
    decoder = msgspec.json.Decoder(kind)
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as fault:
            raise RunError(f"{path}, line {number}: {_rule(fault)}. {hint}") from fault
    return records


def write_record(path: Path, record: Record) -> None:
    """Write a record as `encode` gives it, with the guarantees and errors of `storage.write_bytes`."""
    write_bytes(path, encode(record))


def encode(value: object) -> bytes:
    """A record, or a list of records, as indented JSON.

    Raises:
        ValueError: a number in it is not finite.
    """
    json.dumps(msgspec.to_builtins(value), allow_nan=False)  # msgspec writes null for a number that is not finite
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def encodable(text: str) -> str:
    r"""Text for JSON: the bytes of a file name that are not UTF-8 become `\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode()


_PATH = re.compile(r" - at `(?:key in )?\$\.?(.*)`$")


def _rule(error: Exception) -> str:
    """What msgspec says, with the path in front: “Expected `float` <= 1.0 - at `$.accuracy`”."""
    text = str(error)
    path = _PATH.search(text)
    rule = _PATH.sub("", text)
    if rule[1:2].islower():
        rule = rule[0].lower() + rule[1:]
    if path and path[1] == "schema":
        return f"its schema is {rule.rpartition(' ')[2]}, and this version reads 1"
    return f"{path[1] or 'the document'}: {rule}" if path else rule
