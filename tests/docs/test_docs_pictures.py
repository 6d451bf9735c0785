"""Pictures of the documentation: what they show, and that the same data give the same bytes."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from docs import plots
from docs.architecture import architecture_figure, architecture_picture, feature_maps
from tests.support.pictures import assert_a_stable_png, digits, pixels
from tinydigits.inspection.result import Layer

Shape = tuple[int, ...]


def layer(kind: str, before: Shape, after: Shape, **details: Any) -> Layer:
    """A line of an inspection."""
    given: dict[str, Any] = {
        "name": "0", "kind": kind, "kernel": None, "stride": None, "padding": None, "input_shape": before,
        "output_shape": after, "parameters": 0, "macs": 0, "receptive_field": (3, 3), "jump": None, "start": None,
        "activation_bytes": 0, "fully_connected": False,
    }  # fmt: skip
    return Layer(**{**given, **details})


def convolution(before: Shape, after: Shape, padding: int = 1) -> Layer:
    return layer("Conv2d", before, after, kernel=(3, 3), stride=(1, 1), padding=(padding, padding), macs=9)


NETWORK = [
    convolution((1, 28, 28), (8, 28, 28)),
    layer("BatchNorm2d", (8, 28, 28), (8, 28, 28)),
    layer("ReLU", (8, 28, 28), (8, 28, 28)),
    layer("MaxPool2d", (8, 28, 28), (8, 14, 14), kernel=(2, 2), stride=(2, 2), padding=(0, 0)),
    layer("AvgPool2d", (8, 14, 14), (8, 1, 1), kernel=(14, 14), stride=(14, 14), padding=(0, 0)),
    layer("Flatten", (8, 1, 1), (8,)),
    layer("Linear", (8,), (10,), macs=80, fully_connected=True, receptive_field=None),
]
LONGEST = "AttentionOverEverythingWithAVeryLongName"


def study(recipe: str, mean: float, epochs: int = 6, seeds: int = 3) -> dict[str, Any]:
    runs = [
        {"accuracy": mean + 0.001 * seed, "accuracy_by_epoch": [mean - 0.02 / (i + 1) for i in range(epochs)]}
        for seed in range(seeds)
    ]
    final = {"mean": mean, "sd": 0.001 if seeds > 1 else None}
    return {"recipe": recipe, "epochs": epochs, "n": seeds, "split": "test", "final": final, "runs": runs}


def change(what: str, difference: float | None, macs: int = 662_816) -> dict[str, Any]:
    around = None if difference is None else [difference - 0.002, difference + 0.002]
    return {
        "what": what, "mean": 0.98, "parameters": 9032, "macs": macs,
        "difference": difference, "difference_interval": around,
    }  # fmt: skip


CHANGES = [change("as documented", None), change("batch norm", 0.005), change("dropout", -0.004), change("bias", 0.001)]

SIZES = [
    {"model": "tiny-1k", "parameters": 1000, "mean": 0.991, "sd": 0.0004, "n": 5},
    {"model": "tiny-500", "parameters": 483, "mean": 0.98, "sd": None, "n": 1},
]
OTHERS = [
    {"name": "somebody", "parameters": 697, "accuracy": 0.9903, "chosen_on_test": True},
    {"name": "another", "parameters": 1936, "accuracy": 0.991, "chosen_on_test": False},
]

PICTURES: dict[str, Callable[[Path], None]] = {
    "architecture": lambda path: architecture_picture(NETWORK, path),
    "curves-of-studies": lambda path: plots.study_curves([study("a", 0.99), study("b", 0.992)], path, 0.991),
    "studies-of-one-epoch": lambda path: plots.study_curves([study("a", 0.97, epochs=1)], path),
    "ablations": lambda path: plots.ablation_picture(CHANGES, path),
    "frontier": lambda path: plots.frontier_plot(SIZES, OTHERS, path),
    "gallery": lambda path: plots.digit_gallery(digits(4), [0, 1, 1, 7], path),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_a_png_on_white_with_the_same_bytes_every_time(name: str, tmp_path: Path) -> None:
    assert_a_stable_png(PICTURES[name], tmp_path)


def test_a_gallery_has_a_row_a_class(tmp_path: Path) -> None:
    images = digits(5)
    plots.digit_gallery(images, [7, 1, 1, 7, 1], tmp_path / "gallery.png")
    page = pixels(tmp_path / "gallery.png")[:, :, 0]
    assert page.shape == (9 + 2 * 93, 42 + 3 * 93)
    np.testing.assert_array_equal(page[9:93:3, 42:126:3], images[1])
    np.testing.assert_array_equal(page[102:186:3, 42:126:3], images[0])
    np.testing.assert_array_equal(page[102:186:3, 135:219:3], images[3])
    assert (page[102:186, 228:] == 255).all()


def shown(layers: list[Layer]) -> list[tuple[str, tuple[str, ...], Shape]]:
    return [(found.operation, found.followers, found.shape) for found in feature_maps(layers)]


def test_what_only_changes_values_is_told_behind_what_makes_the_map() -> None:
    assert shown(NETWORK) == [
        ("input", (), (1, 28, 28)),
        ("conv 3×3 p1", ("batch norm", "ReLU"), (8, 28, 28)),
        ("max pool 2", (), (8, 14, 14)),
        ("global average pool", ("flatten",), (8,)),
        ("linear", (), (10,)),
    ]


def test_a_pool_that_misses_a_part_of_its_map_is_not_called_global() -> None:
    pool = layer("AvgPool2d", (8, 11, 11), (8, 1, 1), kernel=(7, 7), stride=(7, 7), padding=(0, 0))
    assert shown([pool])[1][0] == "average pool 7"


def test_a_branch_begins_a_map_of_its_own() -> None:
    shortcut = layer("constant_pad_nd", (8, 30, 30), (8, 28, 28))
    add = layer("add", (8, 28, 28), (8, 28, 28), receptive_field=(5, 5))
    *_, last = feature_maps([convolution((1, 28, 28), (8, 28, 28)), shortcut, add])
    assert (last.operation, last.followers, last.receptive_field) == ("pad", ("add",), "5×5")


def deep(count: int) -> list[Layer]:
    """A network of as many maps, with names and shapes as long as they get."""
    shapes = [(1, 128, 128), *((1024, 128, 128) for _ in range(count))]
    made = []
    for i, (before, after) in enumerate(pairwise(shapes)):
        made.append(replace(convolution(before, after), kind=LONGEST if i % 5 == 1 else "Conv2d"))
        made += [layer(kind, after, after) for kind in ("BatchNorm2d", "LeakyReLU", "Dropout", LONGEST)]
    return made


@pytest.mark.parametrize("layers", [NETWORK, deep(4), deep(35)], ids=["small", "long-names", "35-maps"])
def test_no_label_of_an_architecture_lies_on_another_or_off_the_page(layers: list[Layer]) -> None:
    figure = architecture_figure(layers)
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    page = figure.bbox
    for i, box in enumerate(boxes):
        assert page.x0 <= box.x0 < box.x1 <= page.x1
        assert page.y0 <= box.y0 < box.y1 <= page.y1
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_boxes_are_to_scale() -> None:
    from matplotlib.patches import Polygon

    figure = architecture_figure(NETWORK)
    faces = [patch for patch in figure.axes[0].patches if isinstance(patch, Polygon)][::3]
    widths = [np.ptp(face.get_xy()[:, 0]) for face in faces]
    assert widths[1] == pytest.approx(2 * widths[2])  # 28×28 beside 14×14
    assert widths[0] == pytest.approx(widths[1])


def test_the_curves_of_studies_show_every_seed_the_means_and_what_is_reported() -> None:
    figure = plots.study_figure([study("a", 0.99), study("b", 0.992, seeds=1)], target=0.995)
    curves, finals = figure.axes
    assert len(curves.lines) == 3 + 1 + 1 + 1 + 1  # seeds and mean of each, and the target
    points = [line for line in finals.lines if line.get_linestyle() == "None"]
    assert [len(np.asarray(line.get_xdata())) for line in points] == [3, 1]
    low, high = curves.get_ylim()
    assert low < 98.5 < 99.5 < high
    assert low > 98  # the first epochs are cut off, so that the end can be told apart
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["a: 99.00 ± 0.10 %, n = 3", "b: 99.20 %, n = 1", "reported: 99.50 %"]


def test_studies_of_one_epoch_are_points_alone() -> None:
    figure = plots.study_figure([study("a", 0.97, epochs=1)], target=None)
    assert len(figure.axes) == 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a: 97.00 ± 0.10 %, n = 3"]


def test_ablations_stand_in_their_order_with_what_helps_and_what_harms_told_apart(tmp_path: Path) -> None:
    figure = plots.ablation_figure(CHANGES)
    axes, beside = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == [row["what"] for row in CHANGES]
    assert [line.get_marker() for line in axes.lines if line.get_marker() != "None"] == ["D", "^", "v", "o"]
    assert math.isclose(axes.lines[3].get_xdata()[0], 0.5)  # type: ignore[index, arg-type]
    assert [text.get_text() for text in beside.texts].count("9,032") == len(CHANGES)


def test_the_frontier_tells_ours_from_others_and_hollow_points_from_full_ones() -> None:
    figure = plots.frontier_figure(SIZES, OTHERS)
    (axes,) = figure.axes
    assert {text.get_text() for text in axes.texts} == {"tiny-1k", "tiny-500", "somebody", "another"}
    hollow, full = (line for line in axes.lines if line.get_marker() == "s")
    assert (hollow.get_markerfacecolor(), list(np.asarray(hollow.get_xdata()))) == ("white", [697])
    assert (full.get_markerfacecolor() != "white", list(np.asarray(full.get_xdata()))) == (True, [1936])
    high, low = axes.get_ylim()  # errors in per cent, the smaller the higher
    assert high > 2 > 0.9 > low
