"""Several runs or studies on one HTML page, each held against the first."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinydigits.reports import charts
from tinydigits.reports.analysis import judged_by, points, short_name
from tinydigits.reports.charts import interval_chart, letter
from tinydigits.reports.html import page
from tinydigits.reports.markup import Html, digit_picture, join, table, tag
from tinydigits.reports.sections import (
    Section,
    accuracy_curves,
    badge,
    bullets,
    environment_section,
    figure,
    final_dots,
    loss_curves,
    missing,
    paragraph,
    recipe_rows,
)
from tinydigits.reports.tables import duration, interval_text, percent

if TYPE_CHECKING:
    from tinydigits.data.dataset import Dataset
    from tinydigits.studies.answers import Answers
    from tinydigits.studies.evidence import Evidence
    from tinydigits.studies.exhibits import Exhibits

_SHOWN = 48  # digits on which they differ
_ENOUGH_SEEDS = 3


def comparison_page(
    studies: "Sequence[Evidence]",
    exhibits: "Sequence[Exhibits]",
    differences: Sequence[Mapping[str, Any]] | str,
) -> str:
    """The page as text.

    Args:
        studies: two or more, judged by the same digits; the first is what the others are held against.
        exhibits: of each.
        differences: of each but the first, `compare_answers` of it and the first; or why there are none.
    """
    names = [study.name for study in studies]
    lead = f"{len(studies)} {_kinds(studies)} on the {judged_by(studies[0])}; each is held against A."
    notices = list(dict.fromkeys(study.notice for study in studies if study.notice))
    sections = [
        _side_by_side(studies, exhibits),
        _differences_section(studies, differences),
        _curves(studies),
        _digits_section(exhibits),
        _settings(studies),
        environment_section(studies),
    ]
    top = [_verdicts(studies, differences)]
    return page(f"Compared: {', '.join(names)}", "Comparison", lead, notices, top, sections)


def _kinds(studies: "Sequence[Evidence]") -> str:
    kinds = {study.kind for study in studies}
    return "runs and studies" if len(kinds) > 1 else "studies" if kinds == {"study"} else "runs"


def _name(number: int, study: "Evidence") -> Html:
    """A letter with its colour, and the study's name."""
    chip = tag("span", "", class_=f"chip {charts.look(number)}", aria_hidden="true")
    return join([chip, f"{letter(number)}: {study.name}"])


def _verdicts(studies: "Sequence[Evidence]", differences: Sequence[Mapping[str, Any]] | str) -> Html:
    if isinstance(differences, str):
        return missing(f"the paired test. {differences}")
    cards = []
    for number, found in enumerate(differences, start=1):
        outcome, sentence = verdict(studies[0], studies[number], number, found)
        style = {"better": "met", "worse": "failed"}.get(outcome, "unjudged")
        sign = {"better": "▲ better", "worse": "▼ worse"}.get(outcome, "– not told apart")
        words = [tag("span", sign, class_=f"badge {style}"), " ", tag("strong", sentence)]
        cards.append(tag("div", tag("p", *words, class_="verdict"), bullets(_clauses(found)), class_=f"card {style}"))
    return tag("div", *cards)


def verdict(first: "Evidence", other: "Evidence", number: int, found: Mapping[str, Any]) -> tuple[str, str]:
    """`better`, `worse` or `not told apart`, and a sentence on it: of the other, held against the first."""
    low, high = found["interval"]
    name = letter(number)
    if low > 0 or high < 0:
        outcome = "better" if found["difference"] > 0 else "worse"
        return (
            outcome,
            f"{name} ({other.name}) is {outcome} than A ({first.name}) by {points(found['difference'], 3)}.",
        )
    return "not told apart", f"{name} ({other.name}) and A ({first.name}) are not told apart."


def _clauses(found: Mapping[str, Any]) -> list[str]:
    low, high = found["interval"]
    outside = "zero lies outside" if low > 0 or high < 0 else "zero lies inside"
    pair = found["seed_0"]
    sentences = [
        f"Difference {_signed(found['difference'])} points, 95 % interval {_signed(low)} to {_signed(high)} (paired "
        f"bootstrap over seeds and digits): {outside}.",
        f"First run of each on the same digits (exact McNemar test): {pair['only_first']:,} only this one reads, "
        f"{pair['only_second']:,} only A, {_p(pair['p'])}.",
    ]
    if found["p_seeds"] is not None:
        sentences.append(f"Over seeds alone (Welch's t test): {_p(found['p_seeds'])}.")
    if found["seeds_needed"]:
        sentences.append(f"Seeds alone tell a difference of that size apart with {found['seeds_needed']:,} a study.")
    return sentences


def _p(value: float) -> str:
    return f"p = {value:.2g}" if value >= 0.0001 else "p < 0.0001"


def _signed(share: float) -> str:
    return f"{100 * share:+.3f}".replace("-", "−")


def _side_by_side(studies: "Sequence[Evidence]", exhibits: "Sequence[Exhibits]") -> Section:
    def costs(key: str) -> list[str]:
        return ["–" if isinstance(e.network, str) else f"{e.network[key]:,}" for e in exhibits]

    finals = [study.final for study in studies]
    rows: dict[str, Sequence[str | Html]] = {
        "model": [short_name(study.config.model) for study in studies],
        "recipe": [study.config.recipe.name for study in studies],
        "accuracy, final epoch": [percent(f.mean, 3) for f in finals],
        "standard deviation (points)": ["–" if f.sd is None else f"{100 * f.sd:.3f}" for f in finals],
        "95 % lower bound of the mean": [percent(f.lower_bound, 3) for f in finals],
        "95 % interval": [interval_text(study.interval) for study in studies],
        "mean of the last three epochs": [percent(s.last3.mean, 3) if s.epochs >= 3 else "–" for s in studies],
        "seeds": [str(len(study.runs)) for study in studies],
        "epochs": [f"{study.epochs:,}" for study in studies],
        "time a seed": [duration(sum(r.time_seconds for r in s.runs) / len(s.runs)) for s in studies],
        "parameters": [f"{study.parameters:,}" for study in studies],
        "MACs a digit": costs("macs"),
        "verdict": [_judged(study) for study in studies],
    }
    used = {what: cells for what, cells in rows.items() if any(cell != "–" for cell in cells)}
    headings = ["", *(_name(number, study) for number, study in enumerate(studies))]
    body = table("Figures of each", headings, [[what, *cells] for what, cells in used.items()], class_="sides")
    note = [f"{letter(i)}: {e.network}" for i, e in enumerate(exhibits) if isinstance(e.network, str)]
    return Section("table", "Side by side", join([body, *(paragraph(words, "note") for words in note)]))


def _judged(study: "Evidence") -> Html | str:
    if not study.judgements:
        return "–"
    return join(tag("div", badge(found.verdict), f" {found.asked}") for found in study.judgements)


def _differences_section(studies: "Sequence[Evidence]", differences: Sequence[Mapping[str, Any]] | str) -> Section:
    title = "Differences from A"
    if isinstance(differences, str):
        return Section("differences", title, missing(differences))
    rows = [
        (letter(number), found["difference"], tuple(found["interval"]), charts.look(number))
        for number, found in enumerate(differences, start=1)
    ]
    label = "Differences of accuracy from A: " + "; ".join(
        f"{name} {_signed(difference)} points, from {_signed(span[0])} to {_signed(span[1])}"
        for name, difference, span, _ in rows
    )
    picture = figure(interval_chart(rows, label), "Difference from A with its 95 % interval")
    notes = [
        paragraph("Right of the line: better than A. The same digits were drawn for both, the seeds for each.", "note")
    ]
    if min(len(study.runs) for study in studies) < _ENOUGH_SEEDS:
        notes.append(
            paragraph(
                f"With fewer than {_ENOUGH_SEEDS} seeds a side, this compares trained weights, "
                "and knows little of other seeds.",
                "note",
            )
        )
    if len(rows) > 1:
        notes.append(
            paragraph(
                "Every comparison is at 95 % by itself: of twenty without a difference, one would show one.", "note"
            )
        )
    return Section("differences", title, tag("div", picture, tag("div", *notes), class_="pictures"))


def _curves(studies: "Sequence[Evidence]") -> Section:
    pictures = [accuracy_curves(studies), final_dots(studies), loss_curves(studies)]
    return Section("curves", "Training", tag("div", *pictures, class_="pictures"))


def _digits_section(exhibits: "Sequence[Exhibits]") -> Section:
    title = "Digits on which they differ"
    answers: list[Answers] = []
    for found in exhibits:
        if isinstance(found.answers, str):
            return Section("digits", title, missing(found.answers))
        answers.append(found.answers)
    digits = exhibits[0].digits
    if isinstance(digits, str):
        return Section("digits", title, missing(digits))
    shares = np.stack([one.right.mean(axis=0) for one in answers])  # [studies, digits]
    spread = shares.max(axis=0) - shares.min(axis=0)
    order = np.argsort(-spread, kind="stable")
    differing = order[spread[order] > 0]
    if not len(differing):
        return Section("digits", title, paragraph("There are none: every digit is read by the same share of seeds."))
    shown = differing[:_SHOWN].tolist()
    lead = "Those that differ most first: the share of seeds that read a digit differs between the studies. "
    lead += "Below each, how many seeds of each study read it → what most of the others took it for."
    if len(differing) > len(shown):
        lead += f" Shown are {len(shown)} of {len(differing):,}."
    tiles = [_tile(index, answers, digits, exhibits[0].disputed.get(index)) for index in shown]
    return Section("digits", title, join([paragraph(lead, "note"), tag("ul", *tiles, class_="tiles")]))


def _tile(index: int, answers: "Sequence[Answers]", digits: "Dataset", disputed: str | None) -> Html:
    label = int(answers[0].labels[index])
    lines = []
    for number, one in enumerate(answers):
        right, seeds = int(one.right[:, index].sum()), len(one.right)
        wrong = one.predictions[~one.right[:, index], index]
        read = f" → {np.bincount(wrong).argmax()}" if len(wrong) else ""
        chip = tag("span", "", class_=f"chip {charts.look(number)}", aria_hidden="true")
        lines.append(tag("span", chip, f"{letter(number)} {right}/{seeds}{read}"))
    picture = digit_picture(digits.images[index], f"digit {index}, labelled {label}")
    return tag(
        "li",
        tag("div", picture, class_="stack"),
        tag("strong", str(label)),
        *lines,
        tag("span", f"#{index}", class_="index"),
        tag("span", disputed, class_="disputed") if disputed else None,
        class_="framed" if disputed else None,
    )


def _settings(studies: "Sequence[Evidence]") -> Section:
    """The settings in which the recipes differ."""
    title = "Settings that differ"
    found = [dict(recipe_rows(study)) for study in studies]
    keys = list(dict.fromkeys(key for rows in found for key in rows))
    rows = [[key, *(row.get(key, "–") for row in found)] for key in keys if len({row.get(key) for row in found}) > 1]
    if not rows:
        return Section("settings", title, paragraph("None: the recipes are the same."))
    headings = ["setting", *(_name(number, study) for number, study in enumerate(studies))]
    return Section("settings", title, table("Settings in which the recipes differ", headings, rows))
