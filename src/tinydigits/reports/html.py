"""A run or a study as one self-contained HTML page: no script, and nothing is loaded."""

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING

from tinydigits.reports.analysis import evaluation_digits, plural, short_name
from tinydigits.reports.markup import Html, join, tag
from tinydigits.reports.sections import (
    Section,
    calibration_section,
    confusion_section,
    curves_section,
    environment_section,
    key_figures,
    mistakes_section,
    network_section,
    recipe_section,
    saliency_section,
    summary_section,
    verdict_card,
)

if TYPE_CHECKING:
    from tinydigits.studies.report_data import ReportData
    from tinydigits.studies.results import Source

SIGNATURE = "Made by tinydigits"  # stands in every page


def report_page(source: "Source", data: "ReportData") -> str:
    """The report as text; the same source and data give the same text."""
    model, seeds = short_name(source.config.model), plural(source.result.n, "seed")
    what = f"A study of {seeds}" if source.kind == "study" else f"A run, seed {source.result.seeds[0]}"
    lead = f"{what}, recipe {source.config.recipe.name}, evaluated on the {evaluation_digits(source)}."
    verdicts = [verdict_card(verdict) for verdict in source.verdicts]
    no_verdict = tag("p", "No budget was given, so there is no verdict.", class_="card unjudged")
    sections = [
        Section("summary", "Target, result, analysis", summary_section(source, data)),
        Section("curves", "Training", curves_section([source])),
        Section("digits", "Digit by digit", confusion_section(data)),
        Section("mistakes", "Mistakes", mistakes_section(data)),
        Section("saliency", "Where it looks", saliency_section(data)),
        Section("calibration", "Calibration", calibration_section(source, data)),
        Section("network", "Network", network_section(data)),
        Section("recipe", "Recipe", recipe_section(source, data)),
        Section("environment", "Environment and command", environment_section([source])),
    ]
    top = [*(verdicts or [no_verdict]), key_figures(source, data)]
    return page(f"{model}: {source.name}", model, lead, [source], top, sections)


def page(
    title: str, heading: str, lead: str, sources: "Sequence[Source]", top: Sequence[Html], sections: Sequence[Section]
) -> str:
    """A whole page: `heading`, and below it `lead`, the sources' warnings and `top`; then sections, with links to them.

    `title` is that of the browser's window.
    """
    directory = files("tinydigits.reports") / "page"
    style = (directory / "report.css").read_text(encoding="utf-8")
    warnings = dict.fromkeys(source.result.warning for source in sources if source.result.warning)
    values: dict[str, str] = {
        "title": title,
        "digest": base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        "style": Html(style),
        "links": join(tag("li", tag("a", section.title, href=f"#{section.key}")) for section in sections),
        "heading": heading,
        "lead": lead,
        "top": join([*(tag("p", warning, class_="warning") for warning in warnings), *top]),
        "sections": join(
            tag("section", tag("h2", title, id=f"{key}-title"), body, id=key, aria_labelledby=f"{key}-title")
            for key, title, body in sections
        ),
        "signature": f"{SIGNATURE} {version('tinydigits')}",
    }
    template = (directory / "report.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda name: join([values[name[1]]]), template)
