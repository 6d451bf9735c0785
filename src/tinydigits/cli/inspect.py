"""Show a network layer by layer: shapes, cost, receptive field, and traps.

Where a document describes the network, its figures are recounted. A network
of your own is run as your code. With --budget, what needs no training is
judged, and the exit code is 1 unless all of that is met; what needs training,
such as the accuracy, is only named.

Example:
  tinydigits inspect net.py:Net --budget era-s6
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tinydigits.cli.arguments import DEFAULT_MODEL, add_budget, add_json, add_model
from tinydigits.cli.output import print_json, stdout_console

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.measure import Measurement
    from rich.table import Table

    from tinydigits.models.budget import Budget
    from tinydigits.models.inspect import Inspection, Layer
    from tinydigits.models.registry import Claim


_LEGEND = """window: kernel; s stride, p padding where they are not 1 and 0
field: receptive field, jump: between neighbours, both in input pixels
KiB: output in float32"""


@dataclass(frozen=True)
class _Path:
    """A dotted name whose beginning gives way where the screen is narrow: its end tells layers apart."""

    text: str

    def __rich_measure__(self, console: "Console", options: "ConsoleOptions") -> "Measurement":
        from rich.measure import Measurement

        return Measurement(1, len(self.text))

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> Iterator[str]:
        width = options.max_width
        yield self.text if len(self.text) <= width else "…" + self.text[len(self.text) - width + 1 :]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    add_model(parser)
    add_budget(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Build, inspect, print."""
    from tinydigits.models.budget import load_budget
    from tinydigits.models.inspect import inspect_model
    from tinydigits.models.registry import create_model

    budget = load_budget(arguments.budget) if arguments.budget else None
    name = arguments.model or DEFAULT_MODEL
    model = create_model(name)
    inspection = inspect_model(model, name=name)
    judged = _judge(budget, inspection) if budget else None
    if arguments.json:
        print_json(inspection.as_dict() | {"budget": judged})
    else:
        _print(inspection, stdout_console())
        if judged:
            _print_budget(judged, stdout_console())
    return 1 if judged and any(clause["verdict"] != "met" for clause in judged["clauses"]) else 0


def _judge(budget: "Budget", inspection: "Inspection") -> dict[str, Any]:
    """The clauses that need no training, with their verdict, and in words those that are `open` until then."""
    from tinydigits.models.budget import overall, structural_clauses, training_rules

    clauses = structural_clauses(budget, inspection, epochs=None)
    return {
        "name": budget.name,
        "verdict": overall(clauses) if clauses else "not judged",
        "clauses": [asdict(clause) for clause in clauses],
        "open": training_rules(budget),
    }


def _print(inspection: "Inspection", console: "Console") -> None:
    shape = "×".join(map(str, inspection.input_shape))
    console.print(f"[bold]{inspection.model}[/bold], input {shape}")
    console.print(_layer_table(inspection))
    console.print(_LEGEND, style="dim")
    console.print(f"\nTotal parameters: {inspection.parameters:,}")
    console.print(f"MACs an image: {inspection.macs:,} (convolutions and linear layers)")
    for label, megabytes in inspection.memory.lines():
        console.print(f"{label}: {megabytes:.2f}")
    for label, size in (
        ("Weights, batch norm folded", inspection.weight_bytes),
        ("Most activations at a time", inspection.activation_bytes),
    ):
        console.print(f"{label}: {size.float32:,} bytes in float32, {size.int8:,} in int8")
    console.print("\n[bold]Structure[/bold], judged by what the network does")
    for fact, holds in vars(inspection.structure).items():
        console.print(f"  {'[green]yes[/green]' if holds else 'no '}  {fact.replace('_', ' ')}")
    if inspection.findings:
        console.print("\n[bold]Findings[/bold]")
        _print_items(inspection.findings, console)
    if inspection.claim is not None:
        _print_claim(inspection, inspection.claim, console)


def _layer_table(inspection: "Inspection") -> "Table":
    from rich import box
    from rich.table import Table

    from tinydigits.models.inspect import times

    named = any(not layer.name.replace(".", "").isdigit() for layer in inspection.layers)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("#", justify="right", style="dim", no_wrap=True)
    if named:
        table.add_column("name")  # what may wrap gives way first where the screen is narrow
    table.add_column("layer", overflow="ellipsis")
    table.add_column("window", no_wrap=True)
    for heading in ("output", "params", "MACs", "field", "jump", "KiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for number, layer in enumerate(inspection.layers, start=1):
        table.add_row(
            str(number),
            *([_Path(layer.name)] if named else []),
            layer.kind,
            _window(layer),
            "×".join(map(str, layer.output_shape)),
            f"{layer.parameters:,}" if layer.parameters else "–",
            f"{layer.macs:,}" if layer.macs else "–",
            times(layer.receptive_field),
            times(layer.jump),
            f"{layer.activation_bytes / 1024:.1f}",
            style="bold" if layer.macs else None,
        )
    return table


def _window(layer: "Layer") -> str:
    from tinydigits.models.inspect import times

    if layer.kernel is None:
        return ""
    parts = ["×".join(map(str, layer.kernel))]
    if layer.stride != (1, 1):
        parts.append(f"s{times(layer.stride)}")
    if layer.padding != (0, 0):
        parts.append(f"p{times(layer.padding)}")
    return " ".join(parts)


def _print_claim(inspection: "Inspection", claim: "Claim", console: "Console") -> None:
    from tinydigits.reports.tables import percent

    if claim.source is None:
        console.print(
            f"\n[bold]Goal[/bold]: at most {claim.parameters:,} parameters and {claim.epochs} epochs, at least "
            f"{percent(claim.accuracy)}"
        )
        return
    console.print(f"\n[bold]Documented[/bold]: {claim.wording or 'no figures'} ({claim.source})")
    lines = inspection.comparisons
    differing = [line for line in lines if not line.agrees]
    _print_items(
        [f"{x.what}: documented {x.documented}, recounted {x.recounted}" for x in differing], console, "yellow"
    )
    if lines:
        agreeing = len(lines) - len(differing)
        _print_items([f"{agreeing} of {len(lines)} figures of the document agree with the recount."], console)
    _print_items(claim.notes, console)


def _print_budget(judged: dict[str, Any], console: "Console") -> None:
    from tinydigits.reports.tables import clause_table

    console.print(f"\n[bold]Budget {judged['name']}[/bold], as far as it takes no training: {judged['verdict']}")
    console.print(clause_table(judged["clauses"]))
    if judged["open"]:
        console.print(f"Judged after training: {', '.join(judged['open'])}", soft_wrap=True)


def _print_items(sentences: Sequence[str], console: "Console", style: str = "") -> None:
    """Indented, where they wrap too."""
    from rich.padding import Padding
    from rich.text import Text

    for sentence in sentences:
        console.print(Padding(Text(sentence, style), (0, 0, 0, 2), expand=False))
