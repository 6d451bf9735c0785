import io
import math
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console, RenderableType

from tinydigits.errors import StorageError
from tinydigits.reports import architecture, plots, study_plots, tables
from tinydigits.reports.style import style

VERMILION = (0xD5, 0x5E, 0x00)
CONFUSION = (np.eye(10, dtype=int) * 90).tolist()
CONFUSION[4][9] = 7

Picture = Callable[[Path], None]


def digits(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (*shape, 28, 28), dtype=np.uint8)


def epochs(count: int) -> list[dict[str, float]]:
    return [
        {
            "epoch": i,
            "train_loss": 1 / i,
            "train_accuracy": 1 - 0.3 / i,
            "accuracy": 1 - 0.2 / i,
            "learning_rate": 0.01 * (count - i),
        }
        for i in range(1, count + 1)
    ]


def mistakes(count: int, disputed: dict[int, str]) -> Picture:
    def draw(path: Path) -> None:
        rows = [
            {
                "index": 900 + i,
                "label": i % 10,
                "predicted": (i + 1) % 10,
                "confidence": 0.9,
                "disputed": disputed.get(900 + i),
            }
            for i in range(count)
        ]
        plots.mistakes_picture(digits(count), rows, path)

    return draw


def layer(kind: str, before: tuple[int, ...], after: tuple[int, ...], **details: Any) -> dict[str, Any]:
    """A line of an inspection as plain data."""
    window = {"kernel": None, "stride": None, "padding": None}
    told = {"macs": 0, "receptive_field": (3, 3), "fully_connected": False}
    return {"kind": kind, "input_shape": before, "output_shape": after, **window, **told, **details}


def convolution(before: tuple[int, ...], after: tuple[int, ...], padding: int = 1) -> dict[str, Any]:
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
    return {"recipe": recipe, "epochs": epochs, "n": seeds, "protocol": "final", "final": final, "runs": runs}


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

PICTURES: dict[str, Picture] = {
    "architecture": lambda path: architecture.architecture_picture(NETWORK, path),
    "curves-of-studies": lambda path: study_plots.study_curves([study("a", 0.99), study("b", 0.992)], path, 0.991),
    "studies-of-one-epoch": lambda path: study_plots.study_curves([study("a", 0.97, epochs=1)], path),
    "ablations": lambda path: study_plots.ablation_picture(CHANGES, path),
    "frontier": lambda path: study_plots.frontier_plot(SIZES, OTHERS, path),
    "curve": lambda path: plots.training_curve(epochs(10), path),
    "curve-of-one-epoch": lambda path: plots.training_curve(epochs(1), path, judged_by="held-out"),
    "augmentation": lambda path: plots.augmentation_preview(digits(3), digits(3, 5), path),
    "confusion": lambda path: plots.confusion_picture(CONFUSION, path),
    "confusion-without-mistakes": lambda path: plots.confusion_picture(np.eye(10, dtype=int), path),
    "mistakes": mistakes(8, {901: "reviewers say 3"}),
    "no-mistakes": mistakes(0, {}),
    "gallery": lambda path: plots.digit_gallery(digits(4), [0, 1, 1, 7], path),
}


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def count_colour(path: Path, colour: tuple[int, int, int]) -> int:
    return int(np.count_nonzero((pixels(path) == colour).all(axis=2)))


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_a_png_on_white_with_the_same_bytes_every_time(name: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    PICTURES[name](first)
    PICTURES[name](second)
    assert first.read_bytes() == second.read_bytes()
    assert (pixels(first)[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
    with Image.open(first) as picture:
        assert picture.format == "PNG"
        assert picture.info.keys() <= {"dpi"}  # no time, no version
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.png", "second.png"]


def test_the_users_matplotlib_settings_change_nothing(tmp_path: Path) -> None:
    import matplotlib

    PICTURES["curve"](tmp_path / "plain.png")
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 20, "savefig.dpi": 30}):
        PICTURES["curve"](tmp_path / "styled.png")
        assert matplotlib.rcParams["font.size"] == 20
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "styled.png").read_bytes()


def test_a_picture_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"absent/curve\.png could not be written"):
        PICTURES["curve"](tmp_path / "absent" / "curve.png")


def test_importing_plots_loads_neither_matplotlib_nor_torch() -> None:
    modules = ", ".join(f"tinydigits.reports.{name}" for name in ("plots", "architecture", "study_plots"))
    program = f"import sys, {modules}; print({{'matplotlib', 'torch'}} & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output == "set()\n"


def test_every_pixel_of_a_digit_is_three_by_three_on_the_page(tmp_path: Path) -> None:
    originals, augmented = digits(2), digits(2, 3)
    plots.augmentation_preview(originals, augmented, tmp_path / "preview.png")
    page = pixels(tmp_path / "preview.png")[:, :, 0]

    def enlarged(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return image.repeat(3, axis=0).repeat(3, axis=1)

    top, pitch = page.shape[0] - 2 * 93, 93
    for row in range(2):
        y = top + row * pitch
        np.testing.assert_array_equal(page[y : y + 84, 9:93], enlarged(originals[row]))
        for column in range(3):
            x = page.shape[1] - (3 - column) * pitch
            np.testing.assert_array_equal(page[y : y + 84, x : x + 84], enlarged(augmented[row, column]))


def test_a_gallery_has_a_row_a_class(tmp_path: Path) -> None:
    images = digits(5)
    plots.digit_gallery(images, [7, 1, 1, 7, 1], tmp_path / "gallery.png")
    page = pixels(tmp_path / "gallery.png")[:, :, 0]
    assert page.shape == (9 + 2 * 93, 42 + 3 * 93)
    np.testing.assert_array_equal(page[9:93:3, 42:126:3], images[1])
    np.testing.assert_array_equal(page[102:186:3, 42:126:3], images[0])
    np.testing.assert_array_equal(page[102:186:3, 135:219:3], images[3])
    assert (page[102:186, 228:] == 255).all()


def test_a_disputed_mistake_is_framed(tmp_path: Path) -> None:
    mistakes(8, {})(tmp_path / "none.png")
    mistakes(8, {901: "reviewers say 3"})(tmp_path / "one.png")
    mistakes(8, {901: "reviewers say 3", 907: "reviewers disagree"})(tmp_path / "two.png")
    framed = [count_colour(tmp_path / f"{name}.png", VERMILION) for name in ("none", "one", "two")]
    assert framed[0] == 0
    assert framed[1] > 4 * 140
    assert framed[2] > framed[1] + 4 * 140


def test_a_mistake_stands_out_and_the_right_answers_do_not(tmp_path: Path) -> None:
    plots.confusion_picture(CONFUSION, tmp_path / "confusion.png")
    page = pixels(tmp_path / "confusion.png").astype(int)
    saturated = (page.max(axis=2) - page.min(axis=2)) > 100
    cell = page.shape[0] * page.shape[1] / 10 / 10
    assert 0.6 * cell < np.count_nonzero(saturated) < cell  # the one mistaken cell of 100


def test_final_last_three_and_best_are_kept_apart_in_the_curve() -> None:
    from matplotlib.figure import Figure

    rows = epochs(10)
    rows[5]["accuracy"] = 0.991
    axes = Figure().subplots()
    plots._draw_accuracy(axes, rows, "test")
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "training digits",
        "test digits",
        "final epoch: 98.00 %",
        "mean of the last three: 97.76 %",
        "best on test (optimistic): 99.10 %",
    ]
    low, high = axes.get_ylim()
    assert 90 < low < 97 < 99.1 < high <= 100


def printed(table: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


RESULT: dict[str, Any] = {
    "protocol": "final",
    "accuracy": 0.9946,
    "interval": [0.99296, 0.99586],
    "accuracy_last3": 0.99443,
    "accuracy_best": 0.9951,
    "parameters": 9550,
    "epochs": 10,
    "time_seconds": 185.2,
    "images_per_second": 4021.3,
}


def rows(text: str) -> dict[str, str]:
    """The lines of a table without headings: label → value."""
    cells = [line.rsplit("  ", 1) for line in text.splitlines() if line.strip()]
    return {label.strip(): value.strip() for label, value in cells}


def test_the_table_of_a_run_keeps_final_last_three_and_best_apart() -> None:
    assert rows(printed(tables.run_table(RESULT))) == {
        "final epoch": "99.46 %",
        "95 % interval (Wilson)": "99.30–99.59 %",
        "mean of the last three epochs": "99.44 %",
        "best on test (optimistic)": "99.51 %",
        "parameters": "9,550",
        "epochs": "10",
        "time": "3 min 05 s",
        "images/s": "4,021",
    }


def test_the_table_of_a_short_tuning_run_claims_neither_test_digits_nor_a_mean_of_three() -> None:
    shown = rows(printed(tables.run_table({**RESULT, "protocol": "tune", "epochs": 2})))
    assert shown["best on held-out digits (optimistic)"] == "99.51 %"
    assert not any("last three" in label for label in shown)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 00 s"), (3599.7, "1 h 00 min"), (7620, "2 h 07 min")],
)
def test_durations_read_naturally(seconds: float, text: str) -> None:
    assert tables.duration(seconds) == text


def test_the_confusion_table_shows_zeros_as_dots_and_fits_eighty_columns() -> None:
    lines = printed(tables.confusion_table([[1135 if i == j else 0 for j in range(10)] for i in range(10)]))
    row = next(line for line in lines.splitlines() if line.strip().startswith("3"))
    assert row.split() == ["3", "·", "·", "·", "1135", "·", "·", "·", "·", "·", "·"]


def test_the_per_digit_table_has_a_dash_for_what_never_came() -> None:
    row = {"digit": 7, "total": 0, "correct": 0, "accuracy": None, "precision": 0.5}
    assert printed(tables.per_digit_table([row])).splitlines()[-2].split() == [
        "7", "0", "0", "·", "–", "50.00", "%",
    ]  # fmt: skip


def test_the_mistakes_table_says_what_reviewers_say() -> None:
    row = {"index": 947, "label": 8, "predicted": 9, "confidence": 0.9876, "disputed": "reviewers say 9"}
    assert printed(tables.mistakes_table([row])).splitlines()[-2].split() == [
        "947", "8", "9", "98.8", "%", "reviewers", "say", "9",
    ]  # fmt: skip


STUDY: dict[str, Any] = {
    "data": "mnist",
    "protocol": "final",
    "epochs": 10,
    "runs": [{"seed": 0, "accuracy": 0.994, "accuracy_last3": 0.9939, "accuracy_best": 0.995, "time_seconds": 185.2}],
    "final": {"mean": 0.994, "sd": 0.00052, "lower_bound": 0.993},
    "last3": {"mean": 0.9939, "sd": 0.00031, "lower_bound": None},
}


def test_the_table_of_a_study_names_the_digits_and_gives_the_sd_in_points() -> None:
    lines = [" ".join(line.split()) for line in printed(tables.study_table(STUDY)).splitlines()]
    assert lines[0] == "Accuracy on the test digits of mnist"
    assert "0 99.40 % 99.39 % 99.50 % 3 min 05 s" in lines
    assert "sd (points) 0.052 0.031" in lines
    assert "95 % lower bound 99.300 % –" in lines


def test_the_table_of_a_short_tuning_study_claims_neither_test_digits_nor_a_mean_of_three() -> None:
    shown = printed(tables.study_table({**STUDY, "protocol": "tune", "epochs": 2}))
    assert "Accuracy on the held-out digits of mnist" in shown
    assert "best on held-out" in shown
    assert "(optimistic)" in shown
    assert "test" not in shown
    assert "last three" not in shown
    assert "0.031" not in shown


def test_the_table_of_a_calibration_says_how_sure_and_what_is_rejected() -> None:
    calibration = {
        "temperature": 0.83,
        "ece_before": 0.012,
        "ece_after": 0.0031,
        "threshold": 3.2,
        "coverage": 0.9952,
        "coverage_accuracy": {"1.0": 0.99, "0.995": 0.994},
        "rejected": {"blank_paper": 1.0},
    }
    shown = rows("\n".join(printed(tables.calibration_table(calibration)).splitlines()[1:]))
    assert shown == {
        "temperature": "0.830",
        "calibration error (ECE) before": "1.20 %",
        "calibration error (ECE) after": "0.31 %",
        'threshold of evidence for "no digit"': "3.200",
        "coverage: digits that it keeps": "99.52 %",
        "accuracy at coverage 100.0 %": "99.00 %",
        "accuracy at coverage 99.5 %": "99.40 %",
        "rejected: blank paper": "100.0 %",
    }


def stage_names(layers: list[dict[str, Any]]) -> list[tuple[str, tuple[str, ...], tuple[int, ...]]]:
    return [(stage.operation, stage.followers, stage.shape) for stage in architecture.stages(layers)]


def test_what_only_changes_values_is_told_behind_what_makes_the_map() -> None:
    assert stage_names(NETWORK) == [
        ("input", (), (1, 28, 28)),
        ("conv 3×3 p1", ("batch norm", "ReLU"), (8, 28, 28)),
        ("max pool 2", (), (8, 14, 14)),
        ("global average pool", ("flatten",), (8,)),
        ("linear", (), (10,)),
    ]


def test_a_pool_that_misses_a_part_of_its_map_is_not_called_global() -> None:
    pool = layer("AvgPool2d", (8, 11, 11), (8, 1, 1), kernel=(7, 7), stride=(7, 7), padding=(0, 0))
    assert stage_names([pool])[1][0] == "average pool 7"


def test_a_branch_begins_a_stage_of_its_own() -> None:
    shortcut = layer("constant_pad_nd", (8, 30, 30), (8, 28, 28))
    add = layer("add", (8, 28, 28), (8, 28, 28), receptive_field=(5, 5))
    *_, last = architecture.stages([convolution((1, 28, 28), (8, 28, 28)), shortcut, add])
    assert (last.operation, last.followers, last.receptive_field) == ("pad", ("add",), "5×5")


def test_lists_from_json_are_drawn_as_tuples_are() -> None:
    as_lists = [{k: list(v) if isinstance(v, tuple) else v for k, v in line.items()} for line in NETWORK]
    assert architecture.stages(as_lists) == architecture.stages(NETWORK)


def deep(count: int) -> list[dict[str, Any]]:
    """A network of as many maps, with names and shapes as long as they get."""
    shapes = [(1, 128, 128), *((1024, 128, 128) for _ in range(count))]
    made = []
    for i, (before, after) in enumerate(pairwise(shapes)):
        made.append(convolution(before, after) | ({"kind": LONGEST} if i % 5 == 1 else {}))
        made += [layer(kind, after, after) for kind in ("BatchNorm2d", "LeakyReLU", "Dropout", LONGEST)]
    return made


@pytest.mark.parametrize("layers", [NETWORK, deep(4), deep(35)], ids=["small", "long-names", "35-maps"])
def test_no_label_of_an_architecture_lies_on_another_or_off_the_page(layers: list[dict[str, Any]]) -> None:
    with style():
        figure = architecture._draw(architecture.stages(layers))
        boxes = [text.get_window_extent() for text in figure.axes[0].texts]
        page = figure.bbox
        for i, box in enumerate(boxes):
            assert page.x0 <= box.x0 < box.x1 <= page.x1
            assert page.y0 <= box.y0 < box.y1 <= page.y1
            assert not any(box.overlaps(other) for other in boxes[:i])


def test_boxes_are_to_scale() -> None:
    from matplotlib.patches import Polygon

    with style():
        figure = architecture._draw(architecture.stages(NETWORK))
    faces = [patch for patch in figure.axes[0].patches if isinstance(patch, Polygon)][::3]
    widths = [np.ptp(face.get_xy()[:, 0]) for face in faces]
    assert widths[1] == pytest.approx(2 * widths[2])  # 28×28 beside 14×14
    assert widths[0] == pytest.approx(widths[1])


def test_the_curves_of_studies_show_every_seed_the_means_and_the_claim() -> None:
    with style():
        figure = study_plots._draw_studies([study("a", 0.99), study("b", 0.992, seeds=1)], target=0.995)
    curves, finals = figure.axes
    assert len(curves.lines) == 3 + 1 + 1 + 1 + 1  # seeds and mean of each, and the claim
    points = [line for line in finals.lines if line.get_linestyle() == "None"]
    assert [len(np.asarray(line.get_xdata())) for line in points] == [3, 1]
    low, high = curves.get_ylim()
    assert low < 98.5 < 99.5 < high
    assert low > 98  # the first epochs are cut off, so that the end can be told apart
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["a: 99.00 ± 0.10 %, n = 3", "b: 99.20 %, n = 1", "claim: 99.50 %"]


def test_studies_of_one_epoch_are_points_alone() -> None:
    with style():
        figure = study_plots._draw_studies([study("a", 0.97, epochs=1)], target=None)
    assert len(figure.axes) == 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a: 97.00 ± 0.10 %, n = 3"]


def test_ablations_stand_in_their_order_with_what_helps_and_what_harms_told_apart(tmp_path: Path) -> None:
    with style():
        figure = study_plots._draw_ablations(CHANGES)
    axes, beside = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == [row["what"] for row in CHANGES]
    assert [line.get_marker() for line in axes.lines if line.get_marker() != "None"] == ["D", "^", "v", "o"]
    assert math.isclose(axes.lines[3].get_xdata()[0], 0.5)  # type: ignore[index, arg-type]
    assert [text.get_text() for text in beside.texts].count("9,032") == len(CHANGES)


def test_the_frontier_tells_ours_from_others_and_hollow_points_from_full_ones() -> None:
    with style():
        figure = study_plots._draw_frontier(SIZES, OTHERS)
    (axes,) = figure.axes
    assert {text.get_text() for text in axes.texts} == {"tiny-1k", "tiny-500", "somebody", "another"}
    hollow, full = (line for line in axes.lines if line.get_marker() == "s")
    assert (hollow.get_markerfacecolor(), list(np.asarray(hollow.get_xdata()))) == ("white", [697])
    assert (full.get_markerfacecolor() != "white", list(np.asarray(full.get_xdata()))) == (True, [1936])
    high, low = axes.get_ylim()  # errors in per cent, the smaller the higher
    assert high > 2 > 0.9 > low
