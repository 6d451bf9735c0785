"""`report`: a run or a study on one HTML page; several of them, compared."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import asdict

from tinydigits.errors import ConfigError, StorageError
from tinydigits.records import Difference, ReportDifference, ReportResult
from tinydigits.reports.comparison import comparison_page
from tinydigits.reports.html import SIGNATURE, report_page
from tinydigits.storage import write_bytes

if TYPE_CHECKING:
    from tinydigits.studies.report_data import ReportData
    from tinydigits.studies.results import Source

_MOST = 12  # sources side by side


def report(
    *sources: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> ReportResult:
    """Write the page; nothing is downloaded.

    Args:
        sources: Directories that `train` or `prove` has made, or a study's .json file; several are compared with the
            first.
        out: The file, or a directory for it; None: report.html in the directory of a single source, comparison.html in
            the current directory for several.
        data_dir: Directory of the MNIST files, if not where the training found them.

    Raises:
        ConfigError: there is no source, or there are too many, or `out` is in no directory.
        RunError: a source is not a finished run or study, or one of its files is damaged.
        DataError: the sources were evaluated on different digits.
        StorageError: the page cannot be written, or would overwrite a file that is no report.
    """
    paths = [Path(source) for source in sources]
    if not paths:
        raise ConfigError("There is nothing to report. Name a run or a study, such as runs/tiny-10k-001.")
    if len(paths) > _MOST:
        raise ConfigError(f"{len(paths)} runs and studies: at most {_MOST} can be compared on a page. Name fewer.")
    file = _target(paths, None if out is None else Path(out))
    if file.is_file() and SIGNATURE.encode() not in file.read_bytes():
        raise StorageError(
            f"{file} exists already and is no report, and nothing else is overwritten. Use another --out."
        )
    from tinydigits.studies.compare import reject_different_digits
    from tinydigits.studies.report_data import gather_report_data  # loads torch
    from tinydigits.studies.results import read_source

    found = [read_source(path) for path in paths]
    for other in found[1:]:
        reject_different_digits([(source.name, source.result) for source in (found[0], other)])
    alone, digits = len(paths) == 1, None if data_dir is None else Path(data_dir)
    data = [gather_report_data(source, digits, explain=alone) for source in found]
    differences = _differences(found, data)
    page = report_page(found[0], data[0]) if alone else comparison_page(found, data, differences)
    content = page.encode()
    write_bytes(file, content)
    compared = [] if isinstance(differences, str) else zip(paths[1:], differences, strict=True)
    return ReportResult(
        file=str(file),
        size_bytes=len(content),
        verdicts=found[0].verdicts if alone else (),
        differences=tuple(
            ReportDifference(source=str(path), baseline=str(paths[0]), **asdict(difference))
            for path, difference in compared
        ),
        missing=tuple(part for path, each in zip(paths, data, strict=True) for part in each.missing(str(path))),
    )


def _target(sources: Sequence[Path], out: Path | None) -> Path:
    name = "report.html" if len(sources) == 1 else "comparison.html"
    if out is None:
        if len(sources) > 1:
            return Path(name)
        return sources[0] / name if sources[0].is_dir() else Path(f"{sources[0].stem}.html")
    if out.is_dir():
        return out / name
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no directory {out.parent}. Create it, or name another file.")
    return out


def _differences(sources: "Sequence[Source]", data: "Sequence[ReportData]") -> list[Difference] | str:
    """Of each source but the first, less the first; or why they are unknown."""
    from tinydigits.studies.compare import compare_predictions

    rows = []
    for source, each in zip(sources, data, strict=True):
        if isinstance(each.predictions, str):
            return each.predictions
        rows.append(([run.accuracy for run in source.result.runs], each.predictions.correct))
    return [compare_predictions(*row, *rows[0]) for row in rows[1:]]
