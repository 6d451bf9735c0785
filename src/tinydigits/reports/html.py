"""A run or a study as one self-contained HTML page: no script, and nothing is loaded."""

import base64
import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING

from tinydigits.reports.analysis import evaluation_digits, plural, short_name
from tinydigits.reports.markup import Html, tag
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
    warnings = [source.result.warning] if source.result.warning else []
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
    return page(f"{model}: {source.name}", model, lead, warnings, top, sections)


def page(
    title: str, heading: str, lead: str, warnings: Sequence[str], top: Sequence[Html], sections: Sequence[Section]
) -> str:
    """A whole page: `heading` and, below it, `lead`, `warnings` and `top`; then the sections, with links to them.

    `title` is that of the browser's window.
    """
    style = (files("tinydigits.reports") / "page" / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    metas = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
    ]
    head = tag("head", *metas, tag("title", title), tag("link", rel="icon", href=_ICON), tag("style", Html(style)))
    skip = tag("a", "Skip to the content", href="#content", class_="skip")
    links = [tag("li", tag("a", section.title, href=f"#{section.key}")) for section in sections]
    notes = [tag("p", warning, class_="warning") for warning in warnings]
    header = tag("header", tag("h1", heading), tag("p", lead, class_="lead"), *notes, *top)
    parts = [
        tag("section", tag("h2", title, id=f"{key}-title"), body, id=key, aria_labelledby=f"{key}-title")
        for key, title, body in sections
    ]
    footer = tag("footer", tag("p", f"{SIGNATURE} {version('tinydigits')} from the files of the training."))
    main = tag("main", header, *parts, footer, id="content")
    body = tag("body", skip, tag("nav", tag("ul", *links), aria_label="Sections"), main)
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 28 28'%3E"
    "%3Crect width='28' height='28' rx='6' fill='%232b59d9'/%3E"
    "%3Cpath d='M7 20v-5m7 5V8m7 12v-9' fill='none' stroke='white' stroke-width='3'/%3E%3C/svg%3E"
)
