"""Tables for the terminal, built from plain data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.jupyter import JupyterMixin
from rich.markup import escape
from rich.table import Table
from rich.text import Text

_VERDICT_STYLES = {"met": "green", "plausible": "yellow", "failed": "bold red", "not judged": "dim"}


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


def _table(title: str | None = None, *, show_header: bool = True) -> Table:
    """As all tables look: nothing but a line under the headings."""
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_header=show_header,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )


@dataclass(frozen=True)
class _Column:
    """A column; where the screen is narrow, those with the highest rank go first, and rank 0 never."""

    heading: str
    cells: Sequence[str | Text]
    rank: int
    justify: Literal["left", "right"] = "right"
    style: str = ""

    @property
    def width(self) -> int:
        """In characters, with the space to the next column."""
        return max(cell_len(line) for line in [*self.heading.split("\n"), *map(str, self.cells)]) + 2


@dataclass(frozen=True)
class FittingTable(JupyterMixin):
    """A table with as many of its columns as fit the screen, and a line that names those it leaves out.

    `sections`: rows after which there is some space.
    """

    columns: Sequence[_Column]
    title: str | None = None
    sections: tuple[int, ...] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table for the width of this screen."""
        shown, left = set(), options.max_width
        for column in sorted(self.columns, key=lambda column: column.rank):
            if column.rank == 0 or column.width <= left:
                shown.add(column.heading)
                left -= column.width
        table = _table(self.title)
        for column in self.columns:
            if column.heading in shown:
                table.add_column(
                    column.heading, justify=column.justify, style=column.style, vertical="bottom", no_wrap=True
                )
        for number, cells in enumerate(zip(*(c.cells for c in self.columns if c.heading in shown), strict=True), 1):
            table.add_row(*cells, end_section=number in self.sections)
        yield table
        if missing := [column.heading.replace("\n", " ") for column in self.columns if column.heading not in shown]:
            yield Text(f"Too narrow for: {', '.join(missing)}. --json has all.", style="dim")


def per_digit_table(rows: Sequence[Mapping[str, Any]]) -> FittingTable:
    """How well each digit is recognised, from rows `{digit, total, correct, accuracy, precision}`."""
    wrong = [row["total"] - row["correct"] for row in rows]
    columns = (
        _Column("digit", [str(row["digit"]) for row in rows], 0),
        _Column("examples", [f"{row['total']:,}" for row in rows], 5),
        _Column("right", [f"{row['correct']:,}" for row in rows], 4),
        _Column("wrong", [f"{count:,}" if count else "·" for count in wrong], 2),
        _Column("accuracy", [percent(row["accuracy"]) for row in rows], 1),
        _Column("precision", [percent(row["precision"]) for row in rows], 3),
    )
    return FittingTable(columns, "Per digit")


@dataclass(frozen=True)
class ConfusionTable(JupyterMixin):
    """Counts [10, 10] of true digits (rows) taken for digits (columns); zeros are dots, mistakes are red.

    Where the screen is too narrow for the right answers, the largest of the counts, these are ticks.
    """

    confusion: Sequence[Sequence[int]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table for the width of this screen."""
        mistakes = max(count for i, row in enumerate(self.confusion) for j, count in enumerate(row) if i != j)
        width = len(str(max(map(max, self.confusion))))
        room = options.max_width - 4 >= 10 * (width + 1)
        width = width if room else len(str(mistakes))
        table = _table(f"Confusion (rows: true digit, columns: predicted{'' if room else '; ✓ right'})")
        table.padding = (0, 0, 0, 0)  # eleven columns
        table.add_column("", style="bold", width=1)
        for digit in range(10):
            table.add_column(str(digit), justify="right", width=width)
        for digit, row in enumerate(self.confusion):
            cells = [_confusion_cell(count, digit == i, room) for i, count in enumerate(row)]
            table.add_row(str(digit), *cells)
        yield table


def confusion_table(confusion: Sequence[Sequence[int]]) -> ConfusionTable:
    """Counts [10, 10] of true digits (rows) taken for digits (columns)."""
    return ConfusionTable(confusion)


def _confusion_cell(count: int, is_right: bool, room: bool) -> Text:
    if not count:
        return Text("·", style="dim")
    if is_right:
        return Text(str(count) if room else "✓", style="dim")
    return Text(str(count), style="bold red")


def mistakes_table(rows: Sequence[Mapping[str, Any]]) -> FittingTable:
    """The worst mistakes, from rows `{index, label, predicted, confidence, disputed}`."""
    columns = (
        _Column("index", [str(row["index"]) for row in rows], 0),
        _Column("true", [str(row["label"]) for row in rows], 1),
        _Column("predicted", [str(row["predicted"]) for row in rows], 2),
        _Column("confidence", [percent(row["confidence"], decimals=1) for row in rows], 3),
        _Column("label disputed", [Text(row["disputed"] or "", style="yellow") for row in rows], 4, "left"),
    )
    return FittingTable(columns, "Worst mistakes (most confident first)")


def study_table(study: Mapping[str, Any]) -> FittingTable:
    """The runs of a study, seed by seed, and what they come to."""
    digits = "test" if study["protocol"] == "final" else "held-out"
    runs = study["runs"]
    summaries = {
        "mean": ("mean", percent),
        "sd": ("sd (points)", _points),
        "lower_bound": ("95 % lower bound", percent),
    }

    def judged(heading: str, key: str, of: str, rank: int) -> _Column:
        totals = [shown(study[of][figure], 3) for figure, (_, shown) in summaries.items()]
        return _Column(heading, [*(percent(run[key]) for run in runs), *totals], rank)

    nothing = [""] * len(summaries)
    columns = [
        _Column("seed", [*(str(run["seed"]) for run in runs), *(label for label, _ in summaries.values())], 0, "left"),
        judged("final\nepoch", "accuracy", "final", 1),
        judged("mean of\nlast three", "accuracy_last3", "last3", 2),
        _Column(f"best on {digits}\n(optimistic)", [*(percent(run["accuracy_best"]) for run in runs), *nothing], 4),
        _Column("time", [*(duration(run["time_seconds"]) for run in runs), *nothing], 3),
    ]
    if study["epochs"] < 3:  # too few for a mean of three
        del columns[2]
    return FittingTable(columns, f"Accuracy on the {digits} digits of {escape(study['data'])}", sections=(len(runs),))


def calibration_table(calibration: Mapping[str, Any]) -> Table:
    """How sure the weights may say they are, and when they should say "no digit"."""
    table = _table("Calibration by the tune twin", show_header=False)
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


def zoo_table(rows: Sequence[Mapping[str, Any]]) -> FittingTable:
    """The models, from rows `{model, parameters, macs, int8_bytes, documented, goal, proven, epoch_seconds}`.

    There is a column of seconds if any row has them.
    """
    claims = [row["documented"] or row["goal"] or {} for row in rows]
    proven = [row["proven"] for row in rows]
    columns = [
        _Column("model", [row["model"] for row in rows], 0, "left"),
        _Column("params", [f"{row['parameters']:,}" for row in rows], 2),
        _Column("MACs", [f"{row['macs'] / 1e6:.2f} M" for row in rows], 4),
        _Column("int8\nbytes", [f"{row['int8_bytes']:,}" for row in rows], 6),
        _Column("claim", [percent(claim.get("accuracy")) for claim in claims], 7, style="dim"),
        _Column("proven", [percent(study and study["mean"]) for study in proven], 1, style="bold"),
        _Column("95 % interval", [interval_text(study["interval"]) if study else "–" for study in proven], 3),
    ]
    if any(row["epoch_seconds"] for row in rows):
        seconds = [f"{row['epoch_seconds']:.1f}" if row["epoch_seconds"] else "–" for row in rows]
        columns.append(_Column("s an\nepoch", seconds, 5))
    return FittingTable(columns)


def front_table(rows: Sequence[Mapping[str, Any]], chosen: int) -> FittingTable:
    """A search's Pareto front, the smallest first.

    Args:
        rows: of `front.json`: `{trial, parameters, macs, accuracy, seeds, epochs, network}`.
        chosen: the trial of the network that is chosen; its row is marked.
    """
    marks = ["→" if row["trial"] == chosen else "" for row in rows]
    columns = (
        _Column("", marks, 0, "left"),
        _Column("params", [f"{row['parameters']:,}" for row in rows], 0),
        _Column("held out", [percent(row["accuracy"], 3) for row in rows], 1, style="bold"),
        _Column("seeds", [str(len(row["seeds"])) for row in rows], 3),
        _Column("MACs", [f"{row['macs'] / 1e6:.2f} M" for row in rows], 4),
        _Column("trial", [str(row["trial"]) for row in rows], 6),
        _Column("network", [Text(row["network"]) for row in rows], 2, "left"),
    )
    return FittingTable(columns, "Pareto front: accuracy on held-out digits against size")


def records_table(rows: Sequence[Mapping[str, Any]]) -> FittingTable:
    """Studies and runs.

    Args:
        rows: `{path, model, recipe, data, protocol, parameters, epochs, n, mean, sd, lower_bound, time_seconds,
            judgements}`; of the judgements `{budget, verdict}` the budget may be None.
    """
    digits = [f"{row['data']}, {'test' if row['protocol'] == 'final' else 'held-out'}" for row in rows]
    spreads = ["" if row["sd"] is None else f" ± {_points(row['sd'], 3)}" for row in rows]
    accuracies = [percent(row["mean"], 3) + spread for row, spread in zip(rows, spreads, strict=True)]
    columns = (
        _Column("study or run", [Text(row["path"]) for row in rows], 0, "left"),
        _Column("accuracy", accuracies, 1, style="bold"),
        _Column("verdict", [_judgements_text(row["judgements"]) for row in rows], 2, "left"),
        _Column("95 % lower\nbound", [percent(row["lower_bound"], 3) for row in rows], 3),
        _Column("params", [f"{row['parameters']:,}" for row in rows], 4),
        _Column("judged by", [Text(text) for text in digits], 5, "left"),
        _Column("n", [f"{row['n']:,}" for row in rows], 6),
        _Column("epochs", [f"{row['epochs']:,}" for row in rows], 7),
        _Column("recipe", [Text(row["recipe"]) for row in rows], 8, "left"),
        _Column("model", [Text(row["model"]) for row in rows], 9, "left"),
        _Column("time", [duration(row["time_seconds"]) for row in rows], 10),
    )
    return FittingTable(columns)


def _judgements_text(judgements: Sequence[Mapping[str, Any]]) -> Text:
    text = Text()
    for number, found in enumerate(judgements):
        text.append(", " if number else "").append(found["verdict"], _VERDICT_STYLES[found["verdict"]])
        text.append(f" ({found['budget']})" if found["budget"] else "", "dim")
    return text if judgements else Text("–")


def _points(share: float | None, decimals: int) -> str:
    return "–" if share is None else f"{100 * share:.{decimals}f}"


def clause_table(clauses: Sequence[Mapping[str, Any]]) -> Table:
    """A budget's clauses, each with its verdict and the sentence that explains it."""
    table = Table("verdict", "clause", box=box.SIMPLE_HEAD, pad_edge=False)
    for clause in clauses:
        table.add_row(Text(clause["verdict"], style=_VERDICT_STYLES[clause["verdict"]]), Text(clause["sentence"]))
    return table
