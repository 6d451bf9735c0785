"""Tables for the terminal, built from plain data."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text


def percent(share: float | None, decimals: int = 2) -> str:
    """A share in [0, 1] as the screen shows it; a dash for None."""
    return "–" if share is None else f"{100 * share:.{decimals}f} %"


def interval_text(interval: Sequence[float]) -> str:
    """An interval of shares as `99.23–99.53 %`."""
    low, high = interval
    return f"{100 * low:.2f}–{100 * high:.2f} %"


def duration(seconds: float) -> str:
    """A time as `42.0 s`, `3 min 05 s` or `2 h 07 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def run_table(result: Mapping[str, Any]) -> Table:
    """The summary of a run. Final epoch, mean of the last three and best epoch are kept apart.

    Args:
        result: any of `accuracy, interval, accuracy_last3, accuracy_best, parameters, epochs, time_seconds,
            images_per_second`; a row is shown for each that is there. `protocol` says which digits judged.
    """
    judged = "held-out digits" if result.get("protocol") == "tune" else "test"
    rows: dict[str, tuple[str, Callable[[Any], str]]] = {
        "accuracy": ("final epoch", percent),
        "interval": ("95 % interval (Wilson)", interval_text),
        "accuracy_last3": ("mean of the last three epochs", percent),
        "accuracy_best": (f"best on {judged} (optimistic)", percent),
        "parameters": ("parameters", "{:,}".format),
        "epochs": ("epochs", "{:,}".format),
        "time_seconds": ("time", duration),
        "images_per_second": ("images/s", "{:,.0f}".format),
    }
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    too_short = result.get("epochs", 3) < 3  # for a mean of three
    for key, (label, shown) in rows.items():
        if key in result and not (key == "accuracy_last3" and too_short):
            style = {"accuracy": "bold", "accuracy_best": "dim"}.get(key)
            table.add_row(label, shown(result[key]), style=style)
    return table


def per_digit_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """How well each digit is recognised, from rows `{digit, total, correct, accuracy, precision}`."""
    table = Table(title="Per digit", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("digit", "examples", "right", "wrong", "accuracy", "precision"):
        table.add_column(heading, justify="right")
    for row in rows:
        wrong = row["total"] - row["correct"]
        table.add_row(
            str(row["digit"]),
            f"{row['total']:,}",
            f"{row['correct']:,}",
            f"{wrong:,}" if wrong else "·",
            percent(row["accuracy"]),
            percent(row["precision"]),
        )
    return table


def confusion_table(confusion: Sequence[Sequence[int]]) -> Table:
    """Counts [10, 10] of true digits (rows) taken for digits (columns); zeros are dots, mistakes are red."""
    table = Table(
        title="Confusion (rows: true digit, columns: predicted)",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("", style="bold")
    for digit in range(10):
        table.add_column(str(digit), justify="right")
    for digit, row in enumerate(confusion):
        table.add_row(str(digit), *(_confusion_cell(count, digit == i) for i, count in enumerate(row)))
    return table


def _confusion_cell(count: int, is_right: bool) -> Text:
    if not count:
        return Text("·", style="dim")
    return Text(f"{count:,}", style="dim" if is_right else "bold red")


def mistakes_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The worst mistakes, from rows `{index, label, predicted, confidence, disputed}`."""
    table = Table(
        title="Worst mistakes (most confident first)",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for heading in ("index", "true", "predicted", "confidence"):
        table.add_column(heading, justify="right")
    table.add_column("label disputed")
    for row in rows:
        table.add_row(
            str(row["index"]),
            str(row["label"]),
            str(row["predicted"]),
            percent(row["confidence"], decimals=1),
            Text(row["disputed"] or "", style="yellow"),
        )
    return table


def study_table(study: Mapping[str, Any]) -> Table:
    """The runs of a study, seed by seed, and what they come to."""
    digits = "test" if study["protocol"] == "final" else "held-out"
    columns = {"final": ("accuracy", "final epoch"), "last3": ("accuracy_last3", "mean of last three")}
    if study["epochs"] < 3:  # too few for a mean of three
        del columns["last3"]
    table = Table(
        "seed",
        title=f"Accuracy on the {digits} digits of {escape(study['data'])}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for heading in (*(heading for _, heading in columns.values()), f"best on {digits} (optimistic)", "time"):
        table.add_column(heading, justify="right")
    for run in study["runs"]:
        row = [percent(run[key]) for key in (*(key for key, _ in columns.values()), "accuracy_best")]
        table.add_row(str(run["seed"]), *row, duration(run["time_seconds"]))
    table.add_section()
    for label, key, shown in (
        ("mean", "mean", percent),
        ("sd (points)", "sd", _points),
        ("95 % lower bound", "lower_bound", percent),
    ):
        table.add_row(label, *(shown(study[of][key], 3) for of in columns), "", "")
    return table


def calibration_table(calibration: Mapping[str, Any]) -> Table:
    """How sure the weights may say they are, and when they should say "no digit"."""
    table = Table(
        title="Calibration, by the tune twin on held-out digits",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE,
        show_header=False,
        pad_edge=False,
    )
    table.add_column()
    table.add_column(justify="right")
    table.add_row("temperature", f"{calibration['temperature']:.3f}")
    table.add_row("calibration error (ECE) before", percent(calibration["ece_before"]))
    table.add_row("calibration error (ECE) after", percent(calibration["ece_after"]))
    table.add_row('threshold of evidence for "no digit"', f"{calibration['threshold']:.3f}")
    table.add_row("coverage: digits that it keeps", percent(calibration["coverage"]))
    table.add_section()
    for share, accuracy in calibration["coverage_accuracy"].items():
        table.add_row(f"accuracy at coverage {percent(float(share), 1)}", percent(accuracy))
    table.add_section()
    for kind, share in calibration["rejected"].items():
        table.add_row(f"rejected: {kind.replace('_', ' ')}", percent(share, 1))
    return table


def _points(share: float | None, decimals: int) -> str:
    return "–" if share is None else f"{100 * share:.{decimals}f}"


def clause_table(clauses: Sequence[Mapping[str, Any]]) -> Table:
    """A budget's clauses, each with its verdict and the sentence that explains it."""
    styles = {"met": "green", "plausible": "yellow", "failed": "bold red", "not judged": "dim"}
    table = Table("verdict", "clause", box=box.SIMPLE_HEAD, pad_edge=False)
    for clause in clauses:
        table.add_row(Text(clause["verdict"], style=styles[clause["verdict"]]), Text(clause["sentence"]))
    return table
