"""Put a run or a study on one HTML page; of several, a page that compares them.

A run or a study is its directory. The page needs no network and runs no
script; it is to be read, printed and handed in. Pictures of digits need the
digits: they are looked for where the training found them, nothing is
downloaded.

Example:
  tinydigits report studies/tiny-10k-fast
  tinydigits report studies/tiny-10k-fast studies/plain-9k-fast --out both.html
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinydigits.cli.arguments import add_json
from tinydigits.cli.output import print_json, print_plain, stderr_console
from tinydigits.errors import ConfigError

if TYPE_CHECKING:
    from tinydigits.studies.evidence import Evidence
    from tinydigits.studies.exhibits import Exhibits

_MOST = 12  # studies side by side


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `tinydigits report`."""
    parser.add_argument(
        "sources",
        metavar="RUN|STUDY",
        nargs="+",
        type=Path,
        help="a directory that train or prove has made, or a study's .json; several are compared with the first",
    )
    parser.add_argument("--data-dir", metavar="DIR", type=Path, help="where the MNIST files lie")
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="the page (default: report.html in the directory; of several, comparison.html here)",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Read, look for what is shown beside, write, say where."""
    from tinydigits.storage import write_bytes

    sources: list[Path] = arguments.sources
    if len(sources) > _MOST:
        raise ConfigError(f"{len(sources)} runs and studies: at most {_MOST} can be compared on a page. Name fewer.")
    out = _target(sources, arguments.out)
    page, document = _one(arguments, sources[0]) if len(sources) == 1 else _several(arguments, sources)
    content = page.encode()
    write_bytes(out, content)
    if arguments.json:
        print_json({"file": str(out), "size_bytes": len(content), **document})
    else:
        print_plain(stderr_console(), f"wrote {out} ({len(content) / 1000:,.0f} kB)")
    return 0


def _target(sources: list[Path], out: Path | None) -> Path:
    if out is None:
        if len(sources) > 1:
            return Path("comparison.html")
        source = sources[0]
        return source / "report.html" if source.is_dir() else Path(f"{source.stem}.html")
    if out.is_dir():
        return out / ("report.html" if len(sources) == 1 else "comparison.html")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no directory {out.parent}. Make it, or name another place.")
    return out


def _one(arguments: argparse.Namespace, source: Path) -> tuple[str, dict[str, Any]]:
    from tinydigits.reports.html import report_page
    from tinydigits.studies.evidence import read_evidence
    from tinydigits.studies.exhibits import gather

    evidence = read_evidence(source)
    exhibits = gather(evidence, arguments.data_dir)
    judgements = [{"asked": found.asked, "verdict": found.verdict} for found in evidence.judgements]
    return report_page(evidence, exhibits), {"judgements": judgements, "missing": _missing(exhibits)}


def _several(arguments: argparse.Namespace, sources: list[Path]) -> tuple[str, dict[str, Any]]:
    from tinydigits.reports.comparison import comparison_page
    from tinydigits.studies.evidence import read_evidence
    from tinydigits.studies.exhibits import gather, same_digits

    studies = [read_evidence(source) for source in sources]
    for other in studies[1:]:
        same_digits(studies[0], other)
    exhibits = [gather(study, arguments.data_dir, explain=False) for study in studies]
    differences = _differences(studies, exhibits)
    named: list[dict[str, Any]] = []
    if not isinstance(differences, str):
        named = [
            {"first": str(sources[0]), "other": str(s), **d} for s, d in zip(sources[1:], differences, strict=True)
        ]
    missing = {str(source): _missing(found) for source, found in zip(sources, exhibits, strict=True)}
    return comparison_page(studies, exhibits, differences), {"differences": named, "missing": missing}


def _differences(studies: "list[Evidence]", exhibits: "list[Exhibits]") -> list[dict[str, Any]] | str:
    """Each but the first, less the first; or why that cannot be said."""
    from tinydigits.studies.compare import compare_answers

    rows = []
    for study, found in zip(studies, exhibits, strict=True):
        if isinstance(found.answers, str):
            return found.answers
        rows.append(([run.accuracy for run in study.runs], found.answers.right))
    return [compare_answers(*row, *rows[0]) for row in rows[1:]]


def _missing(exhibits: "Exhibits") -> dict[str, str]:
    """What the page could not show, and why."""
    parts = ("answers", "network", "digits", "explanations", "augmentation")
    return {part: reason for part in parts if isinstance(reason := getattr(exhibits, part), str)}
