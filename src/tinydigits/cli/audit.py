"""A document's claims against the recount, line by line.

With --claims FILE, your own claims of any network: a TOML file with any of
parameters, macs, accuracy, epochs, receptive_field, total_mb, batch_norm,
dropout, global_pooling, single_linear_head (true or false), source, and tables

  [[layer]]
  number = 5             # as `tinydigits inspect` numbers the layers
  output = "12×12"       # or with channels, "16×12×12"
  parameters = 1_168
  receptive_field = 6
  jump = 2

Counts are exact; accuracy (0.994 for 99.4 %) is at least reached, in at most
so many epochs. These two take training: a study judges them, that of the
shipped weights or --study DIR. Exit code 1 if a line is contradicted.

Example:
  tinydigits audit bottleneck-9k
  tinydigits audit net.py:Net --claims claims.toml
"""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinydigits.cli.arguments import DEFAULT_MODEL, add_json, add_model
from tinydigits.cli.output import print_json, stdout_console
from tinydigits.errors import ConfigError, RunError

if TYPE_CHECKING:
    from rich.console import Console

    from tinydigits.models.audit import Audit, Evidence, Line
    from tinydigits.models.inspect import Inspection
    from tinydigits.models.registry import Claim

_TEST_DIGITS = 10_000  # of MNIST
_STYLES = {"agrees": "green", "contradicted": "bold red", "not checked": "yellow"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    add_model(parser)
    parser.add_argument("--claims", metavar="FILE", type=Path, help="your own claims, instead of a document's")
    parser.add_argument("--study", metavar="DIR", type=Path, help="a study of this model, made by `tinydigits prove`")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Inspect, recount, print."""
    from dataclasses import replace

    from tinydigits.models.audit import audit
    from tinydigits.models.claims import read_claims
    from tinydigits.models.inspect import inspect_model
    from tinydigits.models.registry import canonical_name, create_model, model_claim

    name = canonical_name(arguments.model or DEFAULT_MODEL)
    claim = model_claim(name)
    if arguments.claims is None and (claim is None or claim.source is None):
        raise ConfigError(f"{name}: no document describes it. Name a file with claims of your own: --claims FILE.")
    inspection = inspect_model(create_model(name), name=name)
    if arguments.claims:
        claim = read_claims(arguments.claims, inspection)
    assert claim is not None
    evidence = _study_evidence(arguments.study, inspection) if arguments.study else _shipped_evidence(name)
    audited = audit(inspection, claim, evidence, _remedy(name, claim))
    audited = replace(audited, findings=(*audited.findings, *_sampling(claim)))
    if arguments.json:
        print_json(audited.as_dict())
    else:
        _print(audited, claim.wording, stdout_console())
    return 1 if audited.count("contradicted") else 0


def _remedy(name: str, claim: "Claim") -> str:
    """The command whose study would judge what takes training: with the documented recipe, if there is one."""
    from tinydigits.training.recipes import list_recipes

    words = ["tinydigits", "prove", name]
    if recipes := list_recipes(f"documented-{name}"):
        words += ["--recipe", recipes[0]]
    elif claim.epochs is not None:
        words += ["--epochs", str(claim.epochs)]
    return f"`{shlex.join(words)}`, then --study DIR"


def _shipped_evidence(name: str) -> "Evidence | None":
    """The study that the card of shipped weights tells of."""
    from tinydigits.models.registry import list_models
    from tinydigits.models.weights import load_card, packaged_weights

    path = packaged_weights(name) if name in list_models() else None
    if path is None or (card := load_card(path)).study is None:
        return None
    values = {"recipe": card.recipe_name, "data": card.data, "protocol": card.protocol, "epochs": card.epochs}
    return _evidence("study of the shipped weights", {**values, **card.study})


def _study_evidence(study: Path, inspection: "Inspection") -> "Evidence":
    """A finished study of this very network.

    Raises:
        RunError: it is none, or of another.
    """
    from tinydigits.models.registry import code_sha256
    from tinydigits.studies.prove import read_study

    document = read_study(study)
    if document["model"] != inspection.model:
        raise RunError(
            f"{study} is a study of {document['model']}, not of {inspection.model}. Name one of {inspection.model}, "
            f"or make it: `{shlex.join(['tinydigits', 'prove', inspection.model])}`."
        )
    evidence = _evidence(str(study), document)
    code = code_sha256(inspection.model)
    same_code = code is None or _first_result(study, document).get("code_sha256") == code
    if document.get("parameters") != inspection.parameters or not same_code:
        raise RunError(f"{study}: {inspection.model} has changed since that study. Prove it anew, with another --out.")
    return evidence


def _first_result(study: Path, document: Mapping[str, Any]) -> dict[str, Any]:
    """The summary of a study's first run, which knows what the user's code was then."""
    from tinydigits.settings import read_settings
    from tinydigits.studies.prove import run_directory

    try:
        return read_settings(run_directory(study, document["seeds"][0]) / "result.json")
    except (ConfigError, LookupError, TypeError, ValueError) as error:
        raise RunError(
            f"{study}: its first run cannot be read, which would tell what {document['model']} was then. Take the "
            "study with its runs, or prove it anew."
        ) from error


def _evidence(origin: str, study: Mapping[str, Any]) -> "Evidence":
    from tinydigits.models.audit import Evidence

    try:
        return Evidence(
            origin=origin,
            recipe=str(study["recipe"]),
            data=str(study["data"]),
            protocol=str(study["protocol"]),
            epochs=int(study["epochs"]),
            n=int(study["n"]),
            mean=float(study["final"]["mean"]),
            lower_bound=None if study["final"]["lower_bound"] is None else float(study["final"]["lower_bound"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{origin} is no intact study: {error!r}. Run `tinydigits prove` again.") from error


def _sampling(claim: "Claim") -> tuple[str, ...]:
    """How far a test set of that size carries the claimed accuracy."""
    from tinydigits.evaluation.statistics import wilson_interval
    from tinydigits.models.budget import percent
    from tinydigits.reports.tables import interval_text

    if claim.accuracy is None:
        return ()
    right = round(claim.accuracy * _TEST_DIGITS)
    low, high = wilson_interval(right, _TEST_DIGITS)
    # a one-sided bound at 95 % is the lower end of the two-sided interval at 90 %
    enough = (k for k in range(right, _TEST_DIGITS + 1) if wilson_interval(k, _TEST_DIGITS, 0.9)[0] >= claim.accuracy)
    needed = next(enough, None)
    claimed = f"a true accuracy of at least {percent(claim.accuracy)} with 95 % confidence, one-sided"
    return (
        f"Accuracy: {right:,} of {_TEST_DIGITS:,} digits right has a 95 % interval of {interval_text((low, high))} "
        f"(Wilson). "
        + (
            f"To claim {claimed}, takes at least {needed:,} right."
            if needed is not None
            else f"No number of right answers among {_TEST_DIGITS:,} shows {claimed}."
        ),
    )


def _print(audited: "Audit", wording: str | None, console: "Console") -> None:
    from rich.text import Text

    heading = Text.assemble((audited.model, "bold"), f", claims of {audited.source}")
    console.print(heading if wording is None else heading.append(f":\n{wording}"), soft_wrap=True)
    _print_lines(audited.lines, console)
    agreeing, total = audited.count("agrees"), len(audited.lines)
    contradicted, unchecked = audited.count("contradicted"), audited.count("not checked")
    console.print(f"\n{agreeing} of {total} agree, {contradicted} contradicted, {unchecked} not checked.", style="bold")
    for title, sentences in (("Findings", audited.findings), ("Notes", audited.notes)):
        if sentences:
            console.print(f"\n[bold]{title}[/bold]")
        for sentence in sentences:
            _print_indented(sentence, 2, console)


def _print_lines(lines: "Sequence[Line]", console: "Console") -> None:
    """A row a claim, and its reason below, over the whole width."""
    from rich.rule import Rule
    from rich.table import Table
    from rich.text import Text

    claimed = max(len("claimed"), *(len(line.claimed) for line in lines))
    recounted = max(len("recounted"), *(len(line.recounted) for line in lines))
    verdict = len("contradicted")
    longest = max(len(line.what) for line in lines)
    widest = max(16, console.width - claimed - recounted - verdict - 6)

    def row(what: str, *cells: str | Text, style: str = "") -> Table:
        grid = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
        grid.add_column(width=min(longest, widest), overflow="fold")
        grid.add_column(width=claimed, justify="right")
        grid.add_column(width=recounted, justify="right")
        grid.add_column(width=verdict)
        grid.add_row(Text(what), *cells, style=style)
        return grid

    console.print()
    console.print(row("claim", "claimed", "recounted", "verdict", style="bold"))
    console.print(Rule(style="dim"), width=min(console.width, min(longest, widest) + claimed + recounted + verdict + 6))
    for line in lines:
        console.print(row(line.what, line.claimed, line.recounted, Text(line.verdict, style=_STYLES[line.verdict])))
        if line.why:
            _print_indented(line.why, 4, console, "dim")


def _print_indented(sentence: str, by: int, console: "Console", style: str = "") -> None:
    from rich.padding import Padding
    from rich.text import Text

    console.print(Padding(Text(sentence, style), (0, 0, 0, by), expand=False))
