"""Tables for the terminal, built from records."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tinydigits.inspection.clause_table import VERDICT_STYLES
from tinydigits.records import (
    LAST3,
    SPLIT_NAMES,
    Calibration,
    DigitResult,
    FrontRow,
    Mistake,
    RunResult,
    StudyResult,
    StudyRow,
    Summary,
    Verdict,
)

if TYPE_CHECKING:
    from tinydigits.inspection.zoo import ZooModel


def percent(fraction: float | None, decimals: int = 2) -> str:
    """A fraction in [0, 1] as the screen shows it; a dash for None."""
    return "–" if fraction is None else f"{100 * fraction:.{decimals}f} %"


def in_points(fraction: float | None) -> str:
    """A difference of fractions in percentage points; a dash for None."""
    return "–" if fraction is None else f"{100 * fraction:.3f}"


def interval_text(interval: Sequence[float]) -> str:
    """An interval of fractions as `99.23–99.53 %`."""
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


def run_table(result: RunResult) -> Table:
    """The summary of a run, which keeps final epoch, mean of the last three and best epoch apart."""
    rows = [
        ("final epoch", percent(result.accuracy), "bold"),
        ("95 % interval (Wilson)", interval_text(result.interval), ""),
        ("mean of the last three epochs", percent(result.accuracy_last3), ""),
        (f"best on {SPLIT_NAMES[result.split]} digits (optimistic)", percent(result.accuracy_best), "dim"),
        ("parameters", f"{result.parameters:,}", ""),
        ("epochs", f"{result.epochs:,}", ""),
        ("time", duration(result.time_seconds), ""),
        ("images/s", f"{result.images_per_second:,.0f}", ""),
    ]
    if result.epochs < LAST3:
        del rows[2]
    table = _pairs(Table(box=box.SIMPLE, show_header=False, pad_edge=False))
    for label, value, style in rows:
        table.add_row(label, value, style=style)
    return table


def _pairs(table: Table) -> Table:
    """With a column for names and one for values."""
    table.add_column()
    table.add_column(justify="right")
    return table


def _table(title: str | None, *, show_header: bool = True) -> Table:
    """The style of all tables: only a line under the headings."""
    table = Table(box=box.SIMPLE_HEAD, show_header=show_header, pad_edge=False, padding=(0, 1, 0, 0))
    table.title, table.title_justify, table.title_style = title, "left", "bold"
    return table


class _Column(NamedTuple):
    """A column; on a narrow screen, those with the highest rank are left out first, and rank 0 never."""

    heading: str
    cells: Sequence[str | Text]
    rank: int
    justify: Literal["left", "right"] = "right"
    style: str = ""

    @property
    def width(self) -> int:
        """In characters, with the space to the next column."""
        return max(map(cell_len, [*self.heading.split("\n"), *map(str, self.cells)])) + 2


@dataclass(frozen=True)
class FittingTable:
    """A table that is drawn for the width of the screen, in characters."""

    draw: Callable[[int], Iterator[RenderableType]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table for this screen."""
        return self.draw(options.max_width)


def _fitting(columns: Sequence[_Column], title: str | None = None, section: int | None = None) -> FittingTable:
    """As many of the columns as fit, and a line that names the others; a space follows the first `section` rows."""

    def draw(width: int) -> Iterator[RenderableType]:
        missing, left = set(), width
        for column in sorted(columns, key=lambda column: column.rank):
            if column.rank > 0 and column.width > left:
                missing.add(column.heading)
            else:
                left -= column.width
        shown = [column for column in columns if column.heading not in missing]
        table = _table(title)
        for c in shown:
            table.add_column(c.heading, justify=c.justify, style=c.style, vertical="bottom", no_wrap=True)
        for number, cells in enumerate(zip(*(column.cells for column in shown), strict=True), 1):
            table.add_row(*cells, end_section=number == section)
        yield table
        if missing:
            names = [column.heading.replace("\n", " ") for column in columns if column.heading in missing]
            yield Text(f"Too narrow for: {', '.join(names)}. --json has all.", style="dim")

    return FittingTable(draw)


def per_digit_table(rows: Sequence[DigitResult]) -> FittingTable:
    """How well each digit is classified."""
    errors = [row.total - row.correct for row in rows]
    columns = (
        _Column("digit", [str(row.digit) for row in rows], 0),
        _Column("examples", [f"{row.total:,}" for row in rows], 5),
        _Column("correct", [f"{row.correct:,}" for row in rows], 4),
        _Column("errors", [f"{count:,}" if count else "·" for count in errors], 2),
        _Column("accuracy", [percent(row.accuracy) for row in rows], 1),
        _Column("precision", [percent(row.precision) for row in rows], 3),
    )
    return _fitting(columns, "Per digit")


def confusion_table(confusion: Sequence[Sequence[int]]) -> FittingTable:
    """Counts [10, 10] of true digits (rows) taken for digits (columns); zeros are dots, mistakes are red.

    If the screen is too narrow for the correct predictions, the largest of the counts, these are ticks.
    """
    largest = max(map(max, confusion))
    mistakes = max(count for i, row in enumerate(confusion) for j, count in enumerate(row) if i != j)

    def draw(width: int) -> Iterator[RenderableType]:
        fits = width - 4 >= 10 * (len(str(largest)) + 1)
        table = _table(f"Confusion (rows: true digit, columns: predicted{'' if fits else '; ✓ correct'})")
        table.padding = 0  # eleven columns
        table.add_column("", style="bold", width=1)
        for digit in range(10):
            table.add_column(str(digit), justify="right", width=len(str(largest if fits else mistakes)))
        for digit, row in enumerate(confusion):
            cells = [Text(str(count), style="bold red") if count else Text("·", style="dim") for count in row]
            if row[digit]:
                cells[digit] = Text(str(row[digit]) if fits else "✓", style="dim")
            table.add_row(str(digit), *cells)
        yield table

    return FittingTable(draw)


def mistakes_table(rows: Sequence[Mistake]) -> FittingTable:
    """The worst mistakes."""
    columns = (
        _Column("index", [str(row.index) for row in rows], 0),
        _Column("true", [str(row.label) for row in rows], 1),
        _Column("predicted", [str(row.predicted) for row in rows], 2),
        _Column("confidence", [percent(row.confidence, decimals=1) for row in rows], 3),
        _Column("label in doubt", [Text(row.label_error or "", style="yellow") for row in rows], 4, "left"),
    )
    return _fitting(columns, "Worst mistakes (most confident first)")


def seed_columns(study: StudyResult) -> dict[str, list[str]]:
    """By heading, a cell for each seed, then those of mean, sd and lower bound."""

    def accuracies(values: Iterable[float], summary: Summary) -> list[str]:
        totals = [percent(summary.mean, 3), in_points(summary.sd), percent(summary.lower_bound, 3)]
        return [*map(percent, values), *totals]

    runs, nothing = study.runs, [""] * 3
    best = f"best on {SPLIT_NAMES[study.split]}\n(optimistic)"
    columns = {
        "seed": [*(str(run.seed) for run in runs), "mean", "sd (points)", "95 % lower bound"],
        "final\nepoch": accuracies((run.accuracy for run in runs), study.final),
        "mean of\nlast three": accuracies((run.accuracy_last3 for run in runs), study.last3),
        best: [*(percent(run.accuracy_best) for run in runs), *nothing],
        "time": [*(duration(run.time_seconds) for run in runs), *nothing],
    }
    if study.epochs < LAST3:
        del columns["mean of\nlast three"]
    return columns


def study_table(study: StudyResult) -> FittingTable:
    """The runs of a study, seed by seed, with their mean, sd and lower bound."""
    ranks = {"seed": 0, "final\nepoch": 1, "mean of\nlast three": 2, "time": 3}
    columns = [
        _Column(heading, cells, ranks.get(heading, 4), "left" if heading == "seed" else "right")
        for heading, cells in seed_columns(study).items()
    ]
    return _fitting(columns, f"Accuracy on the {SPLIT_NAMES[study.split]} digits of {escape(study.data)}", study.n)


def calibration_figures(calibration: Calibration) -> list[tuple[str, str]]:
    """What was fitted, and what it brings."""
    return [
        ("temperature", f"{calibration.temperature:.3f}"),
        ("calibration error (ECE) before", percent(calibration.ece_before)),
        ("calibration error (ECE) after", percent(calibration.ece_after)),
        ('max logit below which it is "no digit"', f"{calibration.threshold:.3f}"),
        ("coverage: digits kept by this threshold", percent(calibration.coverage)),
    ]


def calibration_table(calibration: Calibration) -> Table:
    """How far confidence can be trusted, and which pictures are rejected as "no digit"."""
    table = _pairs(_table("Calibration, by the calibration run", show_header=False))
    for name, value in calibration_figures(calibration):
        table.add_row(name, value)
    table.add_section()
    for fraction, accuracy in calibration.coverage_accuracy.items():
        table.add_row(f"accuracy at coverage {percent(float(fraction), 1)}", percent(accuracy))
    table.add_section()
    for kind, rejected in calibration.rejected.items():
        table.add_row(f"rejected: {kind.replace('_', ' ')}", percent(rejected, 1))
    return table


def zoo_table(models: Sequence["ZooModel"]) -> FittingTable:
    """The models of the zoo."""
    targets = [model.reported or model.goal for model in models]
    proven = [model.proven for model in models]
    columns = [
        _Column("model", [model.model for model in models], 0, "left"),
        _Column("params", [f"{model.parameters:,}" for model in models], 2),
        _Column("MACs", [f"{model.macs / 1e6:.2f} M" for model in models], 4),
        _Column("int8\nbytes", [f"{model.int8_bytes:,}" for model in models], 6),
        _Column("target", [percent(target.accuracy if target else None) for target in targets], 7, style="dim"),
        _Column("proven", [percent(study.mean if study else None) for study in proven], 1, style="bold"),
        _Column("95 % interval", [interval_text(study.interval) if study else "–" for study in proven], 3),
    ]
    return _fitting(columns)


def front_table(rows: Sequence[FrontRow], chosen: int) -> FittingTable:
    """A search's Pareto front, the smallest first; `chosen` is the trial of the chosen network, whose row is marked."""
    columns = (
        _Column("", ["→" if row.trial == chosen else "" for row in rows], 0, "left"),
        _Column("params", [f"{row.parameters:,}" for row in rows], 0),
        _Column("validation", [percent(row.accuracy, 3) for row in rows], 1, style="bold"),
        _Column("seeds", [str(len(row.seeds)) for row in rows], 3),
        _Column("MACs", [f"{row.macs / 1e6:.2f} M" for row in rows], 4),
        _Column("trial", [str(row.trial) for row in rows], 6),
        _Column("network", [Text(row.network) for row in rows], 2, "left"),
    )
    return _fitting(columns, "Pareto front: accuracy on validation digits against size")


def studies_table(rows: Sequence[StudyRow]) -> FittingTable:
    """Studies and runs."""
    digits = [f"{row.data}, {SPLIT_NAMES[row.split]}" for row in rows]
    accuracies = [percent(row.mean, 3) + ("" if row.sd is None else f" ± {in_points(row.sd)}") for row in rows]
    columns = (
        _Column("study or run", [Text(row.path) for row in rows], 0, "left"),
        _Column("accuracy", accuracies, 1, style="bold"),
        _Column("verdict", [_verdicts_text(row.verdicts) for row in rows], 2, "left"),
        _Column("95 % lower\nbound", [percent(row.lower_bound, 3) for row in rows], 3),
        _Column("params", [f"{row.parameters:,}" for row in rows], 4),
        _Column("evaluated on", [Text(text) for text in digits], 5, "left"),
        _Column("n", [f"{row.n:,}" for row in rows], 6),
        _Column("epochs", [f"{row.epochs:,}" for row in rows], 7),
        _Column("recipe", [Text(row.recipe) for row in rows], 8, "left"),
        _Column("model", [Text(row.model) for row in rows], 9, "left"),
        _Column("time", [duration(row.time_seconds) for row in rows], 10),
    )
    return _fitting(columns)


def _verdicts_text(verdicts: Sequence[Verdict]) -> Text:
    text = Text()
    for number, verdict in enumerate(verdicts):
        text.append(", " if number else "").append(verdict.verdict, VERDICT_STYLES[verdict.verdict])
        text.append(f" ({verdict.budget})" if verdict.budget else "", "dim")
    return text if verdicts else Text("–")
