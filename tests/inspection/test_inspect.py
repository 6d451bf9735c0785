"""Counts against hand counts, receptive fields against gradients, structure against disguises, and the two commands."""

import argparse
import copy
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tinydigits
from tinydigits.errors import ModelError, UnknownModelError, WeightsError
from tinydigits.inspection.budget import load_budget
from tinydigits.inspection.inspect import inspect_model
from tinydigits.inspection.result import Inspection
from tinydigits.models.factory import create_model
from tinydigits.models.registry import list_models
from tinydigits.models.weights import packaged_weights
from tinydigits.records import encode


class Functional(nn.Module):
    """A convolution and a head as modules; all between them is the function that is given."""

    def __init__(self, between: Callable[[nn.Module, Tensor], Tensor], features: int = 8) -> None:
        super().__init__()
        self.between = between
        self.convolution = nn.Conv2d(1, 8, 3)
        self.head = nn.Linear(features, 10)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.between(self, F.relu(self.convolution(x))).flatten(1))
        return result


def inspect_between(between: Callable[[nn.Module, Tensor], Tensor], features: int = 8) -> Inspection:
    torch.manual_seed(0)
    return inspect_model(Functional(between, features))


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


@pytest.mark.parametrize(
    ("name", "macs", "facts"),
    [
        ("pooled-16k", 2_505_856, "batch_norm dropout"),
        ("blocks-19k", 9_245_248, "batch_norm dropout global_pooling single_linear_head"),
        ("layered-19k", 2_212_836, "batch_norm dropout global_pooling single_linear_head"),
        ("bottleneck-9k", 2_755_491, "batch_norm dropout global_pooling hidden_linear"),
        ("plain-9k", 662_816, "global_pooling"),
        ("tiny-10k", 708_320, "batch_norm global_pooling single_linear_head"),
    ],
)
def test_the_zoo_is_counted_and_judged(name: str, macs: int, facts: str) -> None:
    inspection = inspect_model(create_model(name), name=name)
    assert inspection.macs == macs
    assert {fact for fact, holds in inspection.structure.facts().items() if holds} == set(facts.split())


def test_plain_9k_agrees_with_its_documents_summary() -> None:
    inspection = inspect_model(create_model("plain-9k"), name="plain_9k")
    shapes: list[tuple[int, ...]] = [
        (8, 26, 26),
        (8, 26, 26),
        (8, 24, 24),
        (8, 24, 24),
        (8, 12, 12),
        (16, 10, 10),
        (16, 10, 10),
        (16, 8, 8),
    ]
    shapes += [(16, 8, 8), (16, 4, 4), (32, 2, 2), (32, 2, 2), (10, 2, 2), (10, 1, 1), (10,)]
    assert [layer.output_shape for layer in inspection.layers] == shapes
    assert [layer.parameters for layer in inspection.layers if layer.parameters] == [72, 576, 1152, 2304, 4608, 320]
    assert [f"{megabytes:.2f}" for _, megabytes in inspection.memory.lines()] == ["0.00", "0.21", "0.03", "0.24"]
    assert inspection.layers[0].macs == 26 * 26 * 9 * 8
    # r, j and start of the published arithmetic, by hand
    fields = [(layer.receptive_field, layer.jump, layer.start) for layer in inspection.layers if layer.kernel]
    assert [(field[0], jump[0], start[0]) for field, jump, start in fields if field and jump and start] == [
        (3, 1, 1.5),
        (5, 1, 2.5),
        (6, 2, 3.0),
        (10, 2, 5.0),
        (14, 2, 7.0),
        (16, 4, 8.0),
        (24, 4, 12.0),
        (24, 4, 12.0),
        (28, 8, 14.0),
    ]


def test_every_disagreement_of_the_documents_is_shown() -> None:
    differing = {
        name: {(figure.what, figure.reported, figure.measured) for figure in document.figures if not figure.agrees}
        for name in ("bottleneck-9k", "plain-9k", "layered-19k")
        if (document := inspect_model(create_model(name), name=name).reported)
    }
    assert differing["layered-19k"] == set()
    assert ("layer 5 MaxPool2d, output", "13×13", "12×12") in differing["plain-9k"]
    assert ("layer 10 MaxPool2d, output", "5×5", "4×4") in differing["plain-9k"]
    assert len(differing["plain-9k"]) == 6
    assert ("parameters, sum of all rows", "10,062", "9,962") in differing["bottleneck-9k"]
    assert ("layer 3 BatchNorm2d, parameters", "14", "28") in differing["bottleneck-9k"]
    assert ("layer 11 Conv2d, parameters", "1,414", "1,260") in differing["bottleneck-9k"]
    assert len(differing["bottleneck-9k"]) == 12


def test_the_traps_of_pooled_16k_are_sentences() -> None:
    assert inspect_model(create_model("pooled-16k")).findings == (
        "Layer 5: a 1×1 convolution with padding 1 grows the map from 28×28 to 30×30.",
        "Layer 20: a 1×1 convolution with padding 1 grows the map from 7×7 to 9×9.",
        "Layer 23: a 1×1 convolution with padding 1 grows the map from 9×9 to 11×11.",
        "Layer 24: AvgPool2d(7) sees 49 of 121 positions: it is not a global pool.",
    )


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3, stride=2), nn.AvgPool2d(2)],
        [nn.Conv2d(1, 2, 5, padding=2), nn.Conv2d(2, 2, (3, 1), dilation=2), nn.AvgPool2d(3, stride=2, padding=1)],
        [nn.ZeroPad2d((1, 2, 3, 0)), nn.Conv2d(1, 2, (1, 5), stride=(1, 3)), nn.Conv2d(2, 2, 3, groups=2)],
        [nn.AvgPool2d(4, ceil_mode=True), nn.Conv2d(1, 2, 2), nn.AdaptiveAvgPool2d(1)],
    ],
)
def test_receptive_fields_are_where_gradients_come_from(layers: list[nn.Module]) -> None:
    class Mapped(nn.Sequential):
        """[N, 10] from the map, so that the whole can be inspected."""

        def forward(self, x: Tensor) -> Tensor:
            for layer in self:
                x = layer(x)
            return F.pad(x.flatten(1), (0, 10))[:, :10]

    torch.manual_seed(0)
    side = 41
    for parameter in (network := nn.Sequential(*layers)).parameters():
        nn.init.ones_(parameter)
    layer = inspect_model(Mapped(*layers), (1, side, side)).layers[len(layers) - 1]
    image = torch.rand(1, 1, side, side, requires_grad=True)
    output = network(image)
    row, column = output.shape[-2] // 2, output.shape[-1] // 2  # away from the borders, unless it is all there is
    output[0, 0, row, column].backward()
    assert image.grad is not None
    touched = image.grad[0, 0].nonzero()
    assert layer.receptive_field is not None
    assert layer.jump is not None
    assert layer.start is not None
    for axis, position in ((0, row), (1, column)):
        first = layer.start[axis] + position * layer.jump[axis] - layer.receptive_field[axis] / 2
        last = first + layer.receptive_field[axis] - 1
        assert (int(touched[:, axis].min()), int(touched[:, axis].max())) == (max(first, 0), min(last, side - 1))


def test_macs_of_groups_strides_transposes_and_linear_layers_are_right() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2),  # 13×13
        nn.Conv2d(4, 4, 3, groups=4),  # 11×11
        nn.ConvTranspose2d(4, 6, 2, stride=2),  # 22×22
        nn.Flatten(),
        nn.Linear(6 * 22 * 22, 10),
    )
    macs = [13 * 13 * 4 * 9, 11 * 11 * 4 * 9, 11 * 11 * 4 * 6 * 4, 0, 6 * 22 * 22 * 10]
    assert [layer.macs for layer in inspect_model(network).layers] == macs


def test_a_layer_used_twice_counts_parameters_once_and_macs_twice() -> None:
    shared = nn.Conv2d(8, 8, 3, padding=1)
    inspection = inspect_model(nn.Sequential(nn.Conv2d(1, 8, 3), shared, shared, nn.Flatten(), nn.Linear(8 * 676, 10)))
    assert [layer.parameters for layer in inspection.layers] == [80, 584, 0, 0, 54090]
    assert inspection.layers[1].macs == inspection.layers[2].macs == 676 * 8 * 72
    assert inspection.parameters == 80 + 584 + 54090


def test_parameters_that_are_not_used_are_found() -> None:
    network = Functional(lambda _, x: pooled(x))
    network.idle = nn.Linear(3, 3)
    assert inspect_model(network).findings == ("12 of 182 parameters take no part in the forward pass.",)


def test_functional_and_modular_networks_give_the_same_figures() -> None:
    modular = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )
    functional = Functional(lambda _, x: F.adaptive_avg_pool2d(F.max_pool2d(x, 2), 1))
    a, b = inspect_model(modular), inspect_model(functional)
    figures = [
        [
            (x.kernel, x.stride, x.output_shape, x.macs, x.receptive_field, x.jump)
            for x in inspection.layers
            if x.kind != "Flatten"
        ]
        for inspection in (a, b)
    ]
    assert figures[0] == figures[1]
    assert (a.parameters, a.macs, a.structure) == (b.parameters, b.macs, b.structure)


class Disguised(nn.AvgPool2d):
    """A pool under another name."""


GLOBAL: dict[str, Callable[[Tensor], Tensor]] = {
    "mean over both axes": lambda x: x.mean((2, 3)),
    "mean kept": lambda x: x.mean((-1, -2), keepdim=True),
    "one axis after the other": lambda x: x.mean(2).mean(2),
    "flattened": lambda x: x.flatten(2).mean(-1),
    "sum over count": lambda x: x.sum((2, 3)) / 676,
    "maximum": lambda x: x.amax((2, 3)),
    "maximum of the flattened": lambda x: x.flatten(2).max(-1).values,
    "average pool": lambda x: F.avg_pool2d(x, 26),
    "average pool of the map's size": lambda x: F.avg_pool2d(x, x.shape[-2:]),
    "max pool": lambda x: F.max_pool2d(x, 26),
    "adaptive maximum": lambda x: F.adaptive_max_pool2d(x, 1),
    "subclass": lambda x: Disguised(26)(x),
    "after another pool": lambda x: F.max_pool2d(x, 4).mean((2, 3)),
    "average and maximum": lambda x: x.mean((2, 3)) + x.amax((2, 3)),
}
NOT_GLOBAL: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "part of the map": (lambda x: F.avg_pool2d(x, 25), 8),
    "most of the map": (lambda x: F.max_pool2d(x, 25), 8),
    "one position": (lambda x: x[:, :, 0, 0], 8),
    "a map is left": (lambda x: F.adaptive_avg_pool2d(x, 2), 32),
    "one axis only": (lambda x: x.mean(2), 208),
    "minimum": (lambda x: x.amin((2, 3)), 8),
    "none": (lambda x: x, 8 * 676),
    "squeeze and excite": (lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(), 8 * 676),
}


@pytest.mark.parametrize("how", GLOBAL)
def test_a_pool_of_the_whole_map_is_global_by_any_name(how: str) -> None:
    inspection = inspect_between(lambda _, x: GLOBAL[how](x))
    assert inspection.structure.global_pooling
    assert inspection.structure.single_linear_head
    assert inspection.findings == ()


@pytest.mark.parametrize("how", NOT_GLOBAL)
def test_a_pool_of_less_is_not_global(how: str) -> None:
    between, features = NOT_GLOBAL[how]
    assert not inspect_between(lambda _, x: between(x), features).structure.global_pooling


@pytest.mark.parametrize(("kernel", "seen"), [(25, 625), (14, 196)])
def test_a_pool_of_less_is_said_with_its_positions(kernel: int, seen: int) -> None:
    assert inspect_between(lambda _, x: F.avg_pool2d(x, kernel)).findings == (
        f"Layer 3: avg_pool2d({kernel}) sees {seen} of 676 positions: it is not a global pool.",
    )


class BatchNormInDisguise(nn.Module):
    """Batch norm written out."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return (x - x.mean((0, 2, 3), keepdim=True)) / (x.std((0, 2, 3), keepdim=True) + 1e-5)


class BatchNormInName(nn.Module):
    """Does nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(
    ("layer", "batch_norm", "dropout"),
    [
        (nn.BatchNorm2d(8), True, False),
        (BatchNormInDisguise(), True, False),
        (BatchNormInName(), False, False),
        (nn.GroupNorm(2, 8), False, False),
        (nn.Dropout(0.05), False, True),
        (nn.Dropout2d(0.3), False, True),
        (nn.AlphaDropout(0.1), False, True),
        (nn.Dropout(0.0), False, False),
        (nn.Sequential(nn.BatchNorm2d(8), nn.Dropout(0.05)), True, True),
    ],
)
@pytest.mark.parametrize("zeroed", [False, True])
def test_batch_norm_and_dropout_are_judged_by_behaviour(
    layer: nn.Module, batch_norm: bool, dropout: bool, zeroed: bool
) -> None:
    torch.manual_seed(0)
    network = Functional(lambda self, x: pooled(self.layer(x)))  # type: ignore[operator]
    network.layer = layer
    if zeroed:  # a head that starts at zero lets nothing through at first
        nn.init.zeros_(network.head.weight)
    structure = inspect_model(network).structure
    assert (structure.batch_norm, structure.dropout) == (batch_norm, dropout)


def test_dropout_that_eval_does_not_stop_is_found() -> None:
    inspection = inspect_between(lambda _, x: F.dropout(pooled(x), 0.5))
    assert inspection.structure.dropout
    assert any("evaluation mode differ" in finding for finding in inspection.findings)


def test_batch_statistics_in_evaluation_are_found() -> None:
    network = Functional(lambda self, x: pooled(self.norm(x)))  # type: ignore[operator]
    network.norm = nn.BatchNorm2d(8, track_running_stats=False)
    assert any("other digits of its batch" in finding for finding in inspect_model(network).findings)


@pytest.mark.parametrize(
    ("head", "single", "hidden"),
    [
        ([nn.Flatten(), nn.Linear(64, 10)], True, False),
        ([nn.Conv2d(4, 10, 4)], True, False),
        ([nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10)], False, True),
        ([nn.Conv2d(4, 20, 4), nn.ReLU(), nn.Conv2d(20, 10, 1)], False, True),
        ([nn.Conv2d(4, 10, 1), nn.AdaptiveAvgPool2d(1)], False, False),
        ([nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 10, 1)], True, False),
        ([nn.Conv2d(4, 10, 3), nn.MaxPool2d(2)], False, False),
    ],
)
def test_fully_connected_layers_are_known_as_convolutions_too(
    head: list[nn.Module], single: bool, hidden: bool
) -> None:
    structure = inspect_model(nn.Sequential(nn.Conv2d(1, 4, 4, stride=8), *head, nn.Flatten())).structure
    assert (structure.single_linear_head, structure.hidden_linear) == (single, hidden)


def test_the_network_and_the_random_numbers_are_left_as_they_were() -> None:
    torch.manual_seed(0)
    model = create_model("bottleneck-9k")
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    inspect_model(model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_an_input_that_is_too_small_is_a_sentence() -> None:
    with pytest.raises(ModelError, match="plain-9k cannot take an input of 1×9×9"):
        inspect_model(create_model("plain-9k"), (1, 9, 9), "plain-9k")


@pytest.mark.parametrize(("statement", "said"), [("{}['rate']", "KeyError: 'rate'"), ("assert False", "AssertionErr")])
def test_whatever_a_forward_raises_is_a_sentence(statement: str, said: str) -> None:
    def between(_network: nn.Module, x: Tensor) -> Tensor:
        exec(statement)
        return pooled(x)

    with pytest.raises(ModelError, match=f"Functional cannot take an input of 1×28×28: {said}"):
        inspect_between(between)


def test_a_network_that_cannot_be_copied_is_a_sentence() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    model.seen = model(torch.zeros(2, 1, 28, 28))  # no leaf of the graph: deepcopy refuses it
    with pytest.raises(ModelError, match="Sequential cannot take an input"):
        inspect_model(model)


class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.product = nn.Bilinear(784, 784, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        result: Tensor = self.product(x, x)
        return result


def test_learned_weights_whose_macs_are_not_counted_are_found() -> None:
    inspection = inspect_model(Bilinear())
    assert not inspection.macs_complete
    assert inspection.findings[0] == (
        "Layer 1: Bilinear uses learned weights in an operation whose MACs are not counted."
    )


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 28))
        self.layer = nn.TransformerEncoder(nn.TransformerEncoderLayer(28, 4, 32, batch_first=True), 1)
        self.head = nn.Linear(28, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), x.squeeze(1)], 1)  # [N, 29, 28]
        result: Tensor = self.head(self.layer(x)[:, 0])
        return result


def test_the_products_of_attention_are_counted() -> None:
    inspection = inspect_model(Attentive())
    assert inspection.macs == 29 * (28 * 84 + 28 * 28 + 28 * 32 + 32 * 28) + 28 * 10
    assert inspection.macs_complete
    assert torch.backends.mha.get_fastpath_enabled()


def test_other_input_sizes_are_counted() -> None:
    inspection = inspect_model(create_model("blocks-19k", in_channels=3), (3, 32, 40))
    assert inspection.layers[0].output_shape == (16, 32, 40)
    assert inspection.layers[0].macs == 32 * 40 * 16 * 27


def command(name: str, *words: str) -> int:
    module = importlib.import_module(f"tinydigits.cli.{name}")
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return int(module.run(parser.parse_args(words)))


def test_inspect_prints_the_agreed_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("inspect", "plain-9k", "--json") == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert {"model", "parameters", "macs", "memory", "layers", "reported", "budget"} <= set(document)
    assert (document["model"], document["parameters"]) == ("plain-9k", 9_032)


def test_json_is_the_record_and_the_table_what_python_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    Path("mine.toml").write_text("max_macs = 500_000\nmin_accuracy = 0.99\n")
    for budget in ("era-s6", load_budget("era-s6"), Path("mine.toml")):
        inspection = tinydigits.inspect("plain_9k", budget)
        words = ["plain-9k", "--budget", str(budget) if isinstance(budget, Path) else "era-s6"]
        assert command("inspect", *words, "--json") == 1
        assert capsys.readouterr().out.encode() == encode(inspection)
        assert command("inspect", *words) == 1
        assert capsys.readouterr().out.rstrip("\n") == str(inspection)
    assert inspection.budget is not None
    assert inspection.budget.open == ("at least 99.00 % on MNIST",)
    assert inspection.memory.total_bytes == sum(
        (inspection.memory.input_bytes, inspection.memory.forward_backward_bytes, inspection.memory.parameters_bytes)
    )


def test_a_notebook_shows_a_table() -> None:
    inspection = tinydigits.inspect("bottleneck-9k")
    page = ElementTree.fromstring(f"<div>{inspection._repr_html_()}</div>")
    assert len(page.findall("table/tbody/tr")) == len(inspection.layers)
    assert [cell.text for cell in page.findall("table/thead/tr/th")][:4] == ["#", "layer", "window", "output"]
    assert "layer 3 BatchNorm2d, parameters: documented 14, measured 28" in (page.findtext("pre") or "")


def test_a_network_of_ones_own_is_inspected_as_it_is(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    by_instance, by_function = tinydigits.inspect(network), tinydigits.inspect(lambda: network)
    assert (by_instance.model, by_instance.parameters, by_function.parameters) == ("Sequential", 7_850, 7_850)
    assert by_instance.reported is None
    with pytest.raises(ModelError, match=r"gives \[2, 784\]"):
        tinydigits.inspect(nn.Flatten())
    with pytest.raises(WeightsError, match=r"holds no model\.safetensors"):
        tinydigits.inspect(tmp_path)


def test_weights_name_their_network() -> None:
    path = packaged_weights("tiny-500")
    assert path is not None
    assert tinydigits.inspect(path) == tinydigits.inspect("tiny-500")


def test_names_of_layers_keep_their_end_on_a_narrow_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    Path("net.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "  stem = nn.ModuleDict({'a_rather_long_name': nn.ModuleDict({'of_first': nn.Flatten()})})\n"
        "  class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "      super().__init__()\n"
        "      self.stem, self.head = stem, nn.Linear(784, 10)\n"
        "    def forward(self, x):\n"
        "      return self.head(self.stem['a_rather_long_name']['of_first'](x))\n"
        "  return Net()\n"
    )
    assert command("inspect", "net.py:make") == 0
    shown = capsys.readouterr().out
    assert re.search(r"^ *1  ….*of_first  Flatten", shown, re.MULTILINE), shown
    assert "\nKiB: output in float32\n" in shown


def test_inspect_shows_a_document_beside_what_is_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert command("inspect", "bottleneck_9k") == 0
    shown = capsys.readouterr().out
    assert "layer 3 BatchNorm2d, parameters: documented 14, measured 28" in shown
    assert "Forward/backward pass size (MB): 0.96" in shown
    assert "14 epochs satisfy both" in shown


@pytest.mark.parametrize("columns", [80, 120])
def test_the_layer_table_keeps_its_figures_on_any_screen(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert command("inspect", "blocks-19k") == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= columns for line in lines)
    assert any(line.split()[-1:] == ["98.0"] and "3,612,672" in line and "32×28×28" in line for line in lines)


def test_models_lists_what_matches(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert command("models", "*_9k", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["model"], row["parameters"]) for row in rows] == [
        ("bottleneck-9k", 9_962),
        ("plain-9k", 9_032),
        ("pyramid-9k", 9_550),
    ]
    assert set(rows[0]) >= {"model", "parameters", "macs", "reported", "weights"}
    assert rows[1]["reported"]["accuracy"] == 0.9747
    assert command("models") == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in list_models())
    assert "target" in shown.splitlines()[2]
    assert "…" not in shown


def test_models_says_when_nothing_matches() -> None:
    with pytest.raises(UnknownModelError, match="no model's name matches 'x\\*'"):
        command("models", "x*")


@pytest.mark.parametrize("name", ["models", "inspect"])
def test_asking_for_help_loads_no_torch(name: str) -> None:
    code = f"import sys, tinydigits.cli.{name}; sys.exit(bool({{'torch', 'numpy', 'rich'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
