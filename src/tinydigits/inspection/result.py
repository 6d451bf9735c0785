"""What an inspection finds, as records, and how it looks on a screen and in a notebook."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from msgspec.structs import asdict, astuple
from rich import box
from rich.console import Console, ConsoleOptions
from rich.markup import escape as escape_markup
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tinydigits.inspection.clause_table import clause_table
from tinydigits.inspection.trace import Pair
from tinydigits.models.reported import Target
from tinydigits.records import Clause, FormatBytes, Outcome, Record

UNKNOWN = "–"
_MEBIBYTE = 1024**2
_LEFT = ("name", "layer", "window")
_LEGEND = """window: kernel; s stride, p padding, unless they are 1 and 0
field: receptive field, jump: between neighbours, both in input pixels
KiB: output in float32"""


class Layer(Record, frozen=True):
    """One line of the table. Shapes without the batch; pairs are (height, width); None: it has none, or it is unknown.

    `receptive_field`, `jump` and `start` (centre of the first position's field) are in input pixels. `fully_connected`:
    every output sees every position of the input, whatever the layer is called.
    """

    name: str
    kind: str
    kernel: Pair | None
    stride: Pair | None
    padding: Pair | None
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    parameters: int
    macs: int
    receptive_field: Pair | None
    jump: Pair | None
    start: tuple[float, float] | None
    activation_bytes: int
    fully_connected: bool


class Memory(Record, frozen=True):
    """The memory lines of a layer summary, in bytes of float32 for one example; `total_bytes` is their sum."""

    input_bytes: int
    forward_backward_bytes: int
    parameters_bytes: int
    total_bytes: int

    def lines(self) -> tuple[tuple[str, float], ...]:
        """The lines as students know them, in MB of 1024² bytes."""
        labels = ("Input size", "Forward/backward pass size", "Params size", "Estimated total size")
        return tuple((f"{x} (MB)", size / _MEBIBYTE) for x, size in zip(labels, astuple(self), strict=True))


class Structure(Record, frozen=True):
    """Structural facts, each found by what the network does; names and classes of layers play no part.

    `batch_norm`: in training mode the output for one example depends on the others in the batch.
    `dropout`: in training mode two passes over the same input differ.
    `global_pooling`: the last map is reduced to one position by an average, a sum or a maximum that sees all of it.
    `single_linear_head`: exactly one fully connected layer, and nothing learned after it but scales. A convolution
    whose window covers its whole map, such as a 1×1 convolution on a 1×1 map, is a fully connected layer.
    `hidden_linear`: a fully connected layer with another learned layer after it.
    """

    batch_norm: bool
    dropout: bool
    global_pooling: bool
    single_linear_head: bool
    hidden_linear: bool

    def facts(self) -> dict[str, bool]:
        """All of them by name."""
        return asdict(self)


class FigureCheck(Record, frozen=True):
    """A reported figure beside the measured one, as both are written on screens; `measured` is “–” if unknown."""

    what: str
    reported: str
    measured: str
    agrees: bool


class DocumentCheck(Target, frozen=True):
    """What a document reports of a network, its figures beside the measured ones, and notes on how it was read."""

    figures: tuple[FigureCheck, ...] = ()
    notes: tuple[str, ...] = ()


class BudgetCheck(Record, frozen=True):
    """What can be said of a budget before training; `open`: the rules that need training, in words."""

    name: str
    verdict: Outcome
    clauses: tuple[Clause, ...]
    open: tuple[str, ...]


class Inspection(Record, frozen=True):
    """A network layer by layer: cost, structure, findings, and what is reported of it. Printed, it is a table.

    `weight_bytes` and `activation_bytes` are defined in footprint.py. `macs_complete`: no learned weights are used in
    an operation whose MACs are not counted. `reported` is None for networks without a document, `goal` for all but
    tinydigits' own, and `budget` if none was named.
    """

    model: str
    input_shape: tuple[int, ...]
    parameters: int
    macs: int
    macs_complete: bool
    weight_bytes: FormatBytes
    activation_bytes: FormatBytes
    memory: Memory
    layers: tuple[Layer, ...]
    structure: Structure
    findings: tuple[str, ...]
    reported: DocumentCheck | None = None
    goal: Target | None = None
    budget: BudgetCheck | None = None

    def columns(self) -> dict[str, list[str]]:
        """The layer table: headings and cells. Names that only number the layers are left out."""
        layers = self.layers
        columns = {
            "#": [str(number) for number in range(1, len(layers) + 1)],
            "name": [layer.name for layer in layers],
            "layer": [layer.kind for layer in layers],
            "window": [window(layer) for layer in layers],
            "output": [by(layer.output_shape) for layer in layers],
            "params": [f"{layer.parameters:,}" if layer.parameters else UNKNOWN for layer in layers],
            "MACs": [f"{layer.macs:,}" if layer.macs else UNKNOWN for layer in layers],
            "field": [times(layer.receptive_field) for layer in layers],
            "jump": [times(layer.jump) for layer in layers],
            "KiB": [f"{layer.activation_bytes / 1024:.1f}" for layer in layers],
        }
        if all(name.replace(".", "").isdigit() for name in columns["name"]):
            del columns["name"]
        return columns

    def __str__(self) -> str:
        return _captured(self, print_inspection)

    def _repr_html_(self) -> str:
        """The same for a notebook."""
        columns = self.columns()
        head, *body = (
            "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"
            for tag, cells in (("th", columns), *(("td", row) for row in zip(*columns.values(), strict=True)))
        )
        return (
            f"<p><b>{escape(self.model)}</b>, input {by(self.input_shape)}</p><table><thead>{head}</thead>"
            f"<tbody>{''.join(body)}</tbody></table><pre>{escape(_captured(self, _print_rest))}</pre>"
        )


def print_inspection(inspection: Inspection, console: Console) -> None:
    """The whole inspection for a reader, as wide as the console."""
    console.print(f"[bold]{escape_markup(inspection.model)}[/bold], input {by(inspection.input_shape)}")
    console.print(_layer_table(inspection))
    console.print(_LEGEND, style="dim")
    console.print()
    _print_rest(inspection, console)


def times(pair: Pair | None) -> str:
    """A pair as on screens: (2, 2) → "2", (3, 1) → "3×1"."""
    if pair is None:
        return UNKNOWN
    return str(pair[0]) if pair[0] == pair[1] else by(pair)


def sides(shape: tuple[int, ...]) -> str:
    """Height and width of a shape [C, H, W]: "28×28"."""
    return by(shape[-2:])


def by(numbers: tuple[int, ...]) -> str:
    """A shape as on screens: "16×28×28"."""
    return "×".join(map(str, numbers))


@dataclass(frozen=True)
class _Path:
    """A dotted name that loses its beginning on a narrow screen: its end tells layers apart."""

    text: str

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, len(self.text))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[str]:
        width = options.max_width
        yield self.text if len(self.text) <= width else "…" + self.text[len(self.text) - width + 1 :]


def _captured(inspection: Inspection, show: Callable[[Inspection, Console], None]) -> str:
    console = Console(file=io.StringIO(), highlight=False, force_jupyter=False)
    with console.capture() as text:
        show(inspection, console)
    return text.get().rstrip("\n")


def window(layer: Layer) -> str:
    """A layer's kernel as `3×3 s2 p1`: stride and padding unless they are 1 and 0; empty without a kernel."""
    if layer.kernel is None:
        return ""
    parts = [by(layer.kernel)]
    if layer.stride != (1, 1):
        parts.append(f"s{times(layer.stride)}")
    if layer.padding != (0, 0):
        parts.append(f"p{times(layer.padding)}")
    return " ".join(parts)


def _layer_table(inspection: Inspection) -> Table:
    columns = inspection.columns()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in columns:
        table.add_column(
            heading,
            justify="left" if heading in _LEFT else "right",
            style="dim" if heading == "#" else "",
            overflow="ellipsis",
            no_wrap=heading not in ("name", "layer"),  # these two give way first on a narrow screen
        )
    shown = [map(_Path, cells) if heading == "name" else cells for heading, cells in columns.items()]
    for layer, row in zip(inspection.layers, zip(*shown, strict=True), strict=True):
        table.add_row(*row, style="bold" if layer.macs else None)
    return table


def _print_rest(inspection: Inspection, console: Console) -> None:
    """All that follows the table."""
    console.print(f"Total parameters: {inspection.parameters:,}")
    console.print(f"MACs per image: {inspection.macs:,} (convolutions and linear layers)")
    for label, megabytes in inspection.memory.lines():
        console.print(f"{label}: {megabytes:.2f}")
    for label, size in (
        ("Weights, batch norm folded", inspection.weight_bytes),
        ("Most activations at a time", inspection.activation_bytes),
    ):
        console.print(f"{label}: {size.float32:,} bytes in float32, {size.int8:,} in int8")
    console.print("\n[bold]Structure[/bold], found by what the network does")
    for fact, holds in inspection.structure.facts().items():
        console.print(f"  {'[green]yes[/green]' if holds else 'no '}  {fact.replace('_', ' ')}")
    if inspection.findings:
        console.print("\n[bold]Findings[/bold]")
        print_items(inspection.findings, console)
    if inspection.reported is not None:
        _print_reported(inspection.reported, console)
    if (goal := inspection.goal) is not None and goal.accuracy is not None:
        console.print(
            f"\n[bold]Goal[/bold]: at most {goal.parameters:,} parameters and {goal.epochs} epochs, at least "
            f"{100 * goal.accuracy:.2f} %"
        )
    if inspection.budget is not None:
        _print_budget(inspection.budget, console)


def _print_reported(reported: DocumentCheck, console: Console) -> None:
    console.print(f"\n[bold]Documented[/bold]: {reported.wording or 'no figures'} ({reported.source})")
    differing = [figure for figure in reported.figures if not figure.agrees]
    print_items([f"{x.what}: documented {x.reported}, measured {x.measured}" for x in differing], console, "yellow")
    if total := len(reported.figures):
        print_items([f"{total - len(differing)} of the document's {total} figures agree."], console)
    print_items(reported.notes, console)


def _print_budget(budget: BudgetCheck, console: Console) -> None:
    console.print(f"\n[bold]Budget {escape_markup(budget.name)}[/bold], before training: {budget.verdict}")
    console.print(clause_table(budget.clauses))
    if budget.open:
        console.print(f"Evaluated after training: {', '.join(budget.open)}", soft_wrap=True)


def print_items(sentences: Sequence[str], console: Console, style: str = "", indent: int = 2) -> None:
    """Print sentences indented, wrapped lines too."""
    for sentence in sentences:
        console.print(Padding(Text(sentence, style), (0, 0, 0, indent), expand=False))
