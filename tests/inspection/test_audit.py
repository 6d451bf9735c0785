"""What the documents report beside what is measured: every line, and every trap that a reader should know."""

import functools
import math

import pytest
from msgspec.structs import replace
from torch import Tensor, nn

from tinydigits.errors import RunError
from tinydigits.inspection.audit import Audit, AuditRow, TrainedAccuracy, check_reported
from tinydigits.inspection.inspect import inspect_model
from tinydigits.inspection.result import Inspection
from tinydigits.models.factory import create_model
from tinydigits.models.registry import target_of
from tinydigits.models.reported import Figure, Reported, Statement

DOCUMENTED = ("pooled-16k", "blocks-19k", "layered-19k", "bottleneck-9k", "plain-9k")
STUDY = TrainedAccuracy("a study", "fast", "mnist", "test", epochs=14, n=5, mean=0.995, lower_bound=0.9945)


@functools.cache
def inspected(name: str) -> Inspection:
    return inspect_model(create_model(name), name=name)


def document(name: str, trained: TrainedAccuracy | None = None) -> Audit:
    reported = target_of(name)
    assert reported is not None
    return check_reported(inspected(name), reported, trained, "train it")


def line(audited: Audit, what: str) -> AuditRow:
    (found,) = [line for line in audited.lines if line.what == what]
    return found


def contradicted(audited: Audit) -> dict[str, tuple[str, str]]:
    return {x.what: (x.reported, x.measured) for x in audited.lines if x.verdict == "contradicted"}


def student(*layers: nn.Module) -> Inspection:
    return inspect_model(nn.Sequential(*layers))


SMALL = (
    nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
)  # fmt: skip


def of_figure(figure: Figure, *layers: nn.Module) -> AuditRow:
    audited = check_reported(student(*(layers or SMALL)), Reported(source="report.pdf", figures=(figure,)), None, "")
    return audited.lines[0]


def test_the_rows_of_bottleneck_9k_that_are_wrong_are_these() -> None:
    audited = document("bottleneck-9k")
    assert contradicted(audited) == {
        "convolutions with batch norm after them": ("8 of 8", "6 of 8"),
        "convolutions with dropout after them": ("8 of 8", "6 of 8"),
        "fully connected layers": ("no", "yes"),
        "layer 1 Conv2d, parameters": ("140", "126"),
        "layer 3 BatchNorm2d, parameters": ("14", "28"),
        "layer 7 BatchNorm2d, parameters": ("30", "60"),
        "layer 9 Conv2d, parameters": ("310", "300"),
        "layer 11 Conv2d, parameters": ("1,414", "1,260"),
        "layer 13 BatchNorm2d, parameters": ("14", "28"),
        "layer 17 BatchNorm2d, parameters": ("15", "30"),
        "layer 21 BatchNorm2d, parameters": ("15", "30"),
        "layer 24 Conv2d, parameters": ("240", "225"),
        "layer 25 BatchNorm2d, parameters": ("15", "30"),
        "layer 28 Conv2d, parameters": ("160", "150"),
        "parameters, sum of all rows": ("10,062", "9,962"),
    }
    assert line(audited, "parameters").verdict == "agrees"
    assert line(audited, "parameters, sum of all rows").why == "the reported total is 9,962"
    assert line(audited, "convolutions with dropout after them").why.endswith("not true of layer 9 and layer 28")
    assert line(audited, "fully connected layers").why.endswith("found: layer 24 Conv2d and layer 28 Conv2d")
    assert line(audited, "layer 11 Conv2d, parameters").why == "10 × 14 × 3 × 3 = 1,260, without a bias"
    assert line(audited, "layer 3 BatchNorm2d, parameters").why.startswith("2 × 14 = 28, a scale and a shift")
    outputs = [x for x in audited.lines if x.what.endswith("output")]
    assert len(outputs) == 22  # the table has 28 rows, six of them dropout without sizes
    assert {x.verdict for x in outputs} == {"agrees"}


def test_the_sums_in_the_notes_on_bottleneck_9k_are_right() -> None:
    convolutions = [m for m in create_model("bottleneck-9k").modules() if isinstance(m, nn.Conv2d)]
    weights = [convolution.weight.numel() for convolution in convolutions]
    biased = [n + convolution.out_channels for n, convolution in zip(weights, convolutions, strict=True)]
    total = sum(p.numel() for p in create_model("bottleneck-9k").parameters())
    assert biased == [140, 3_810, 310, 1_274, 1_905, 2_040, 240, 160]
    assert (sum(weights), total - sum(weights), total - sum(weights) + sum(biased)) == (9_756, 206, 10_085)
    notes = " ".join(document("bottleneck-9k").notes)
    for figure in ("9,756", "206", "10,085", "10,062", "3,780 for 3,810", "1,414 for 1,274", "1,890 for 1,905"):
        assert figure in notes
    assert "2,025 for 2,040" in notes


def test_plain_9k_is_wrong_in_its_prose_alone() -> None:
    audited = document("plain-9k")
    assert contradicted(audited) == {
        "layer 3 Conv2d, output": ("26×26", "24×24"),
        "layer 5 MaxPool2d, output": ("13×13", "12×12"),
        "layer 8 Conv2d, output": ("11×11", "8×8"),
        "layer 10 MaxPool2d, output": ("5×5", "4×4"),
        "layer 11 Conv2d, output": ("3×3", "2×2"),
        "layer 13 Conv2d, output": ("3×3", "2×2"),
    }
    assert all(x.why.startswith("“") for x in audited.lines if x.verdict == "contradicted")
    agreeing = {(x.what, x.reported) for x in audited.lines if x.verdict == "agrees"}
    assert {("layer 5 MaxPool2d, output", "8×12×12"), ("layer 15 Flatten, output", "10")} <= agreeing
    assert {("Forward/backward pass size (MB)", "0.21"), ("parameters, sum of all rows", "9,032")} <= agreeing
    assert {("fully connected layers", "no"), ("batch norm", "no"), ("global pooling", "yes")} <= agreeing


def test_the_other_documents_are_contradicted_only_here() -> None:
    assert contradicted(document("pooled-16k")) == {"global pooling": ("yes", "no")}
    assert contradicted(document("blocks-19k")) == {"fully connected layers": ("no", "yes")}
    assert line(document("blocks-19k"), "fully connected layers").why.endswith("found: layer 33 Linear")
    assert line(document("blocks-19k"), "parameters") == AuditRow("parameters", "at most 19,999", "19,866", "agrees")
    assert contradicted(document("layered-19k")) == {}
    assert line(document("layered-19k"), "parameters").reported == "19,668"


@pytest.mark.parametrize(
    ("name", "trap"),
    [
        ("pooled-16k", "padding 1 grows the map from 28×28 to 30×30"),
        ("pooled-16k", "padding 1 grows the map from 7×7 to 9×9"),
        ("pooled-16k", "padding 1 grows the map from 9×9 to 11×11"),
        ("pooled-16k", "AvgPool2d(7) sees 49 of 121 positions: it is not a global pool"),
        ("pooled-16k", '"mps:0"'),
        ("blocks-19k", "gives no dropout rates"),
        ("blocks-19k", "eliminates the need for fully connected layers, and feeds it into nn.Linear"),
        ("bottleneck-9k", "“less than 15 epochs” and “15 in this case”"),
        ("bottleneck-9k", "batch norm as C; it learns 2C"),
        ("bottleneck-9k", "four of the eight are worked out wrong"),
        ("plain-9k", "(13 and 5 after pooling) and its table (12 and 4)"),
        *((name, "one run, measured on the test digits; no validation digits were kept") for name in DOCUMENTED[1:]),
    ],
)
def test_every_trap_is_a_sentence(name: str, trap: str) -> None:
    audited = document(name)
    assert sum(trap in sentence for sentence in (*audited.findings, *audited.notes)) == 1


@pytest.mark.parametrize("name", DOCUMENTED)
def test_what_takes_training_is_not_checked_without_a_study(name: str) -> None:
    reported = target_of(name)
    assert reported is not None
    unchecked = {x.what: x.why for x in document(name).lines if x.verdict == "not checked"}
    assert set(unchecked) == (set() if reported.accuracy is None else {"accuracy", "epochs"})
    assert unchecked.get("accuracy", "needs training: train it") == "needs training: train it"


@pytest.mark.parametrize(
    ("changes", "accuracy", "epochs", "said"),
    [
        ({}, "agrees", "agrees", "a study, recipe fast: accuracy 99.50 %, mean of 5 runs"),
        ({"lower_bound": 0.9939}, "not checked", "agrees", "plausible, not proved"),
        ({"n": 2, "lower_bound": None}, "not checked", "agrees", "likely, not proved: that takes at least 3 seeds"),
        ({"mean": 0.994}, "contradicted", "agrees", "above 99.40 %: exactly there"),
        ({"mean": 0.99, "lower_bound": 0.98}, "contradicted", "agrees", "0.40 points short"),
        ({"mean": 0.99, "lower_bound": 0.98, "epochs": 3}, "not checked", "agrees", "but in 3 epochs"),
        ({"epochs": 3}, "agrees", "agrees", "99.45 %"),
        ({"epochs": 15}, "not checked", "not checked", "15 epochs, and 14 are reported"),
        ({"split": "val"}, "not checked", "agrees", "validation digits"),
        ({"data": "optdigits"}, "not checked", "agrees", "digits of optdigits"),
    ],
)
def test_a_study_judges_what_takes_training(changes: dict[str, object], accuracy: str, epochs: str, said: str) -> None:
    audited = document("bottleneck-9k", replace(STUDY, **changes))
    judged = line(audited, "accuracy")
    assert (judged.reported, judged.verdict) == ("above 99.40 %", accuracy)
    assert said in judged.why
    assert line(audited, "epochs").verdict == epochs


def test_a_damaged_study_is_a_sentence() -> None:
    with pytest.raises(RunError, match="accuracy 99.5: must be a number from 0 to 1"):
        document("bottleneck-9k", replace(STUDY, mean=99.5))


@pytest.mark.parametrize(
    ("figure", "measured", "why"),
    [
        (Figure("parameters", 72, 1), "80", "1 × 8 × 3 × 3 + 8 = 80, with a bias"),
        (Figure("parameters", 8, 2), "16", "2 × 8 = 16, a scale and a shift for each channel"),
        (Figure("parameters", 160, 7), "170", "16 × 10 + 10 = 170, with a bias"),
        (Figure("parameters", 9, 3), "0", ""),
        (Figure("output", (12, 12), 3), "13×13", "(26 − 2) / 2 + 1 = 13"),
        (Figure("output", (6, 6), 4), "7×7", "(13 + 2 × 1 − 3) / 2 + 1 = 7"),
        (Figure("output", (8, 26, 28), 2), "8×26×26", "its input is 26×26"),
        (Figure("output", (12,), 3), "8×13×13", "(26 − 2) / 2 + 1 = 13"),
        (Figure("output", (11, 1, 1), 7), "10×1×1", ""),
        (
            Figure("receptive_field", 5, 3),
            "4",
            "3 + (2 − 1) × 1 = 4; the jump entering the layer is 1, and 2 only after",
        ),
        (Figure("receptive_field", 9, 3), "4", "3 + (2 − 1) × 1 = 4; the jump entering the layer is 1"),
        (
            Figure("receptive_field", 12, 4),
            "8",
            "4 + (3 − 1) × 2 = 8; the jump entering the layer is 2, and 4 only after",
        ),
        (Figure("receptive_field", 5, 2), "3", "no window: it sees what enters it, 3"),
        (Figure("receptive_field", 28), "32", "layer 5: 8 + (7 − 1) × 4 = 32; the jump entering the layer is 4"),
        (Figure("receptive_field", 8, 7), "32", "fully connected: it sees every position of the map before it"),
        (Figure("jump", 1, 3), "2", "1 × stride 2 = 2"),
        (Figure("jump", 4, 2), "1", "no stride: the jump stays 1"),
        (Figure("macs", 1), "105,280", ""),
        (Figure("total_mb", 1.5), "0.11", ""),
    ],
)
def test_a_wrong_figure_is_told_with_its_arithmetic(figure: Figure, measured: str, why: str) -> None:
    found = of_figure(figure)
    assert (found.measured, found.verdict) == (measured, "contradicted")
    assert found.why.startswith(why) if why else found.why == ""


@pytest.mark.parametrize(
    "figure",
    [
        Figure("parameters", 1_418),
        Figure("parameters", 0, 3),
        Figure("output", (13, 13), 3),
        Figure("output", (8, 13, 13), 3),
        Figure("output", (1, 1), 7),
        Figure("output", (10,), 7),
        Figure("receptive_field", 32),
        Figure("jump", 2, 3),
        Figure("macs", 105_280),
    ],
)
def test_a_right_figure_agrees(figure: Figure) -> None:
    assert of_figure(figure).verdict == "agrees"


def test_a_pool_that_does_not_fit_is_rounded_down() -> None:
    layers = (nn.Conv2d(1, 4, 4), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(576, 10))
    assert of_figure(Figure("output", (13, 13), 2), *layers).why == "⌊(25 − 2) / 2⌋ + 1 = 12"


def test_a_dilated_convolution_gets_no_false_product() -> None:
    layers = (nn.Conv2d(1, 4, 3, dilation=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    assert of_figure(Figure("parameters", 41, 1), *layers).why == ""
    assert of_figure(Figure("output", (26, 26), 1), *layers).why == "(28 − 5) / 1 + 1 = 24"


def test_windows_that_are_not_square_are_told_without_false_sums() -> None:
    layers = (nn.Conv2d(1, 4, (3, 1)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    assert of_figure(Figure("output", (26, 26), 1), *layers).why == "its input is 28×28"
    found = of_figure(Figure("receptive_field", 3, 1), *layers)
    assert (found.measured, found.why) == ("3×1", "height and width differ; the jump after it is 1")
    assert of_figure(Figure("parameters", 12, 1), *layers).why == "1 × 4 × 3 × 1 + 4 = 16, with a bias"


def test_a_layer_used_twice_brings_its_parameters_once() -> None:
    shared = nn.Conv2d(8, 8, 3, padding=1)
    layers = (nn.Conv2d(1, 8, 3), shared, shared, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    assert of_figure(Figure("parameters", 584, 2), *layers).verdict == "agrees"
    assert of_figure(Figure("parameters", 584, 3), *layers).why == "counted where its weights are first used"


def test_what_cannot_be_known_is_not_checked() -> None:
    layers = (nn.ConvTranspose2d(1, 4, 2, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    found = of_figure(Figure("receptive_field", 2, 1), *layers)
    assert (found.measured, found.verdict) == ("–", "not checked")
    assert found.why.startswith("unknown")


class Squared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.product = nn.Bilinear(4, 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.product(x, x)
        return result


def test_macs_that_are_not_all_counted_are_not_checked() -> None:
    found = of_figure(Figure("macs", 10), nn.Flatten(), nn.Linear(784, 4), Squared())
    assert found.verdict == "not checked"
    assert found.why.startswith("at least 3,136")


def test_rows_are_added_up_only_where_all_are_stated() -> None:
    inspection = student(*SMALL)
    rows = {1: 80, 2: 16, 4: 1_152, 7: 160}
    figures = tuple(Figure("parameters", stated, layer) for layer, stated in rows.items())
    whole = check_reported(inspection, Reported(source="x", figures=figures), None, "")
    assert whole.lines[-1] == AuditRow("parameters, sum of all rows", "1,408", "1,418", "contradicted", "")
    part = check_reported(inspection, Reported(source="x", figures=figures[1:]), None, "")
    assert not any("sum" in x.what for x in part.lines)


@pytest.mark.parametrize(
    ("fact", "holds", "why"),
    [
        ("batch_norm", True, "a digit's output depends on"),
        ("dropout", False, "two passes give the same output"),
        ("global_pooling", True, "a pool sees the whole last map"),
        ("single_linear_head", True, "the only fully connected layer is the last that learns"),
        ("hidden_linear", False, "no layer learns after a fully connected one"),
    ],
)
def test_structure_is_judged_by_what_the_network_does(fact: str, holds: bool, why: str) -> None:
    inspection = student(*SMALL)
    right, wrong = (
        check_reported(inspection, Reported(source="x", statements=(Statement(fact, stated),)), None, "").lines[0]
        for stated in (holds, not holds)
    )
    assert (right.verdict, right.why) == ("agrees", "")
    assert wrong.verdict == "contradicted"
    assert why in wrong.why


def test_every_line_is_counted_once() -> None:
    for name in DOCUMENTED:
        audited = document(name)
        assert audited.agreeing + audited.contradicted + audited.not_checked == len(audited.lines)
        assert math.prod(len(x.reported) * len(x.measured) for x in audited.lines)
