"""A run or a study as one HTML page that holds all it shows: no script, nothing loaded from anywhere."""

import base64
import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING

from tinydigits.reports.analysis import judged_by, plural, short_name
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
    from tinydigits.studies.evidence import Evidence
    from tinydigits.studies.exhibits import Exhibits


def report_page(evidence: "Evidence", exhibits: "Exhibits") -> str:
    """The report as text; the same evidence and exhibits give the same text."""
    model, seeds = short_name(evidence.config.model), plural(len(evidence.runs), "seed")
    what = f"A study of {seeds}" if evidence.kind == "study" else f"A run, seed {evidence.runs[0].seed}"
    lead = f"{what}, recipe {evidence.config.recipe.name}, judged by the {judged_by(evidence)}."
    verdicts = [verdict_card(judgement) for judgement in evidence.judgements]
    top = [
        *(verdicts or [tag("p", "No budget was asked for, so nothing is judged.", class_="card unjudged")]),
        key_figures(evidence, exhibits),
    ]
    return page(
        f"{model}: {evidence.name}",
        model,
        lead,
        [evidence.notice] if evidence.notice else [],
        top,
        [
            summary_section(evidence, exhibits),
            curves_section(evidence),
            confusion_section(exhibits),
            mistakes_section(exhibits),
            saliency_section(exhibits),
            calibration_section(evidence, exhibits),
            network_section(exhibits),
            recipe_section(evidence, exhibits),
            environment_section([evidence]),
        ],
    )


def page(
    title: str, heading: str, lead: str, notices: Sequence[str], top: Sequence[Html], sections: Sequence[Section]
) -> str:
    """A whole page: what matters on top, then the sections, with links to them.

    Args:
        title: of the browser's window.
        heading: of the page.
        lead: a sentence below it.
        notices: what makes the figures mean less than they seem to.
        top: what stands before all sections.
        sections: in their order.
    """
    style = (files("tinydigits.reports") / "page" / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("link", rel="icon", href=_ICON),
        tag("style", Html(style)),
    )
    links = [tag("li", tag("a", section.title, href=f"#{section.key}")) for section in sections]
    body = tag(
        "body",
        tag("a", "Skip to the content", href="#content", class_="skip"),
        tag("nav", tag("ul", *links), aria_label="Sections"),
        tag(
            "main",
            tag(
                "header",
                tag("h1", heading),
                tag("p", lead, class_="lead"),
                *(tag("p", notice, class_="notice") for notice in notices),
                *top,
            ),
            *(
                tag(
                    "section",
                    tag("h2", s.title, id=f"{s.key}-title"),
                    s.body,
                    id=s.key,
                    aria_labelledby=f"{s.key}-title",
                )
                for s in sections
            ),
            tag("footer", tag("p", f"Made by tinydigits {version('tinydigits')} from the files of the training.")),
            id="content",
        ),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 28 28'%3E"
    "%3Crect width='28' height='28' rx='6' fill='%232b59d9'/%3E"
    "%3Cpath d='M7 20v-5m7 5V8m7 12v-9' fill='none' stroke='white' stroke-width='3'/%3E%3C/svg%3E"
)
