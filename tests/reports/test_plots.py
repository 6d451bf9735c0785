"""Pictures and tables: what they show, and that the same data give the same bytes."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray
from rich.console import Console, RenderableType

from tests.support.pictures import assert_a_stable_png, digits, pixels
from tests.support.records import result, study
from tinydigits.errors import StorageError
from tinydigits.records import Calibration, DigitResult, Epoch, Mistake, RunResult, SeedResult, StudyResult, Summary
from tinydigits.reports import plots, tables

VERMILION = (0xD5, 0x5E, 0x00)
CONFUSION = (np.eye(10, dtype=int) * 90).tolist()
CONFUSION[4][9] = 7

Picture = Callable[[Path], None]


def epochs(count: int) -> list[Epoch]:
    return [
        Epoch(
            epoch=i,
            train_loss=1 / i,
            train_accuracy=1 - 0.3 / i,
            accuracy=1 - 0.2 / i,
            learning_rate=0.01 * (count - i),
            images_per_second=1000.0,
            time_seconds=1.0,
        )
        for i in range(1, count + 1)
    ]


def mistakes(count: int, label_errors: dict[int, str]) -> Picture:
    def draw(path: Path) -> None:
        rows = [
            Mistake(
                index=900 + i,
                label=i % 10,
                predicted=(i + 1) % 10,
                confidence=0.9,
                label_error=label_errors.get(900 + i),
            )
            for i in range(count)
        ]
        plots.mistakes_picture(digits(count), rows, path)

    return draw


PICTURES: dict[str, Picture] = {
    "curve": lambda path: plots.training_curve(epochs(10), path),
    "curve-of-one-epoch": lambda path: plots.training_curve(epochs(1), path, evaluated_on="validation"),
    "augmentation": lambda path: plots.augmentation_preview(digits(3), digits(3, 5), path),
    "confusion": lambda path: plots.confusion_picture(CONFUSION, path),
    "confusion-without-mistakes": lambda path: plots.confusion_picture(np.eye(10, dtype=int), path),
    "mistakes": mistakes(8, {901: "reviewers say 3"}),
    "no-mistakes": mistakes(0, {}),
}


def count_colour(path: Path, colour: tuple[int, int, int]) -> int:
    return int(np.count_nonzero((pixels(path) == colour).all(axis=2)))


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_a_png_on_white_with_the_same_bytes_every_time(name: str, tmp_path: Path) -> None:
    assert_a_stable_png(PICTURES[name], tmp_path)


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
    modules = ", ".join(f"tinydigits.reports.{name}" for name in ("plots", "style"))
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


def test_a_mistake_whose_label_is_in_doubt_is_framed(tmp_path: Path) -> None:
    mistakes(8, {})(tmp_path / "none.png")
    mistakes(8, {901: "reviewers say 3"})(tmp_path / "one.png")
    mistakes(8, {901: "reviewers say 3", 907: "reviewers disagree"})(tmp_path / "two.png")
    framed = [count_colour(tmp_path / f"{name}.png", VERMILION) for name in ("none", "one", "two")]
    assert framed[0] == 0
    assert framed[1] > 4 * 140
    assert framed[2] > framed[1] + 4 * 140


def test_a_mistake_stands_out_and_correct_predictions_do_not(tmp_path: Path) -> None:
    plots.confusion_picture(CONFUSION, tmp_path / "confusion.png")
    page = pixels(tmp_path / "confusion.png").astype(int)
    saturated = (page.max(axis=2) - page.min(axis=2)) > 100
    cell = page.shape[0] * page.shape[1] / 10 / 10
    assert 0.6 * cell < np.count_nonzero(saturated) < cell  # the one mistaken cell of 100


def test_final_last_three_and_best_are_kept_apart_in_the_curve() -> None:
    rows = epochs(10)
    rows[5] = replace(rows[5], accuracy=0.991)
    axes = plots.training_figure(rows).axes[1]
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


RESULT = msgspec.convert(
    {
        **result(),
        "accuracy": 0.9946,
        "interval": (0.99296, 0.99586),
        "accuracy_last3": 0.99443,
        "accuracy_best": 0.9951,
        "parameters": 9550,
        "time_seconds": 185.2,
        "images_per_second": 4021.3,
    },
    RunResult,
)


def rows(text: str) -> dict[str, str]:
    """The lines of a table without headings: label → value."""
    cells = [line.rsplit("  ", 1) for line in text.splitlines() if line.strip()]
    return {label.strip(): value.strip() for label, value in cells}


def test_the_table_of_a_run_keeps_final_last_three_and_best_apart() -> None:
    assert rows(printed(tables.run_table(RESULT))) == {
        "final epoch": "99.46 %",
        "95 % interval (Wilson)": "99.30–99.59 %",
        "mean of the last three epochs": "99.44 %",
        "best on test digits (optimistic)": "99.51 %",
        "parameters": "9,550",
        "epochs": "10",
        "time": "3 min 05 s",
        "images/s": "4,021",
    }


def test_the_table_of_a_short_tuning_run_claims_neither_test_digits_nor_a_mean_of_three() -> None:
    shown = rows(printed(tables.run_table(replace(RESULT, split="val", epochs=2))))
    assert shown["best on validation digits (optimistic)"] == "99.51 %"
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
    row = DigitResult(digit=7, total=0, correct=0, accuracy=None, precision=0.5)
    assert printed(tables.per_digit_table([row])).splitlines()[-2].split() == [
        "7", "0", "0", "·", "–", "50.00", "%",
    ]  # fmt: skip


def test_the_mistakes_table_says_what_reviewers_say() -> None:
    row = Mistake(index=947, label=8, predicted=9, confidence=0.9876, label_error="reviewers say 9")
    assert printed(tables.mistakes_table([row])).splitlines()[-2].split() == [
        "947", "8", "9", "98.8", "%", "reviewers", "say", "9",
    ]  # fmt: skip


STUDY = msgspec.convert(study(n=1), StudyResult)
STUDY = replace(
    STUDY,
    runs=(SeedResult(seed=0, accuracy=0.994, accuracy_last3=0.9939, accuracy_best=0.995, time_seconds=185.2),),
    final=Summary(mean=0.994, sd=0.00052, lower_bound=0.993),
    last3=Summary(mean=0.9939, sd=0.00031, lower_bound=None),
)


def test_the_table_of_a_study_names_the_digits_and_gives_the_sd_in_points() -> None:
    lines = [" ".join(line.split()) for line in printed(tables.study_table(STUDY)).splitlines()]
    assert lines[0] == "Accuracy on the test digits of mnist"
    assert "0 99.40 % 99.39 % 99.50 % 3 min 05 s" in lines
    assert "sd (points) 0.052 0.031" in lines
    assert "95 % lower bound 99.300 % –" in lines


def test_the_table_of_a_short_tuning_study_claims_neither_test_digits_nor_a_mean_of_three() -> None:
    shown = printed(tables.study_table(replace(STUDY, split="val", epochs=2)))
    assert "Accuracy on the validation digits of mnist" in shown
    assert "best on validation" in shown
    assert "(optimistic)" in shown
    assert "test" not in shown
    assert "last three" not in shown
    assert "0.031" not in shown


def test_the_table_of_a_calibration_says_how_sure_and_what_is_rejected() -> None:
    calibration = Calibration(
        temperature=0.83,
        ece_before=0.012,
        ece_after=0.0031,
        threshold=3.2,
        coverage=0.9952,
        coverage_accuracy={"1.0": 0.99, "0.995": 0.994},
        rejected={"blank_paper": 1.0},
    )
    shown = rows("\n".join(printed(tables.calibration_table(calibration)).splitlines()[1:]))
    assert shown == {
        "temperature": "0.830",
        "calibration error (ECE) before": "1.20 %",
        "calibration error (ECE) after": "0.31 %",
        'max logit below which it is "no digit"': "3.200",
        "coverage: digits kept by this threshold": "99.52 %",
        "accuracy at coverage 100.0 %": "99.00 %",
        "accuracy at coverage 99.5 %": "99.40 %",
        "rejected: blank paper": "100.0 %",
    }
