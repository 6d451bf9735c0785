"""Several runs or studies on one HTML page, each compared with the first."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tinydigits.records import LAST3
from tinydigits.reports.analysis import evaluation_digits, points, short_name
from tinydigits.reports.charts import interval_chart, letter, look
from tinydigits.reports.html import page
from tinydigits.reports.markup import Html, join, table, tag
from tinydigits.reports.sections import (
    Section,
    badge,
    bullets,
    curves_section,
    digit_tile,
    environment_section,
    figure,
    gallery,
    lettered,
    missing,
    paragraph,
    recipe_rows,
)
from tinydigits.reports.tables import duration, in_points, interval_text, percent

if TYPE_CHECKING:
    from tinydigits.data.dataset import Dataset
    from tinydigits.records import Difference
    from tinydigits.studies.predictions import SeedPredictions
    from tinydigits.studies.report_data import ReportData
    from tinydigits.studies.results import Source

_SHOWN = 48  # digits on which they differ
_ENOUGH_SEEDS = 3


def comparison_page(
    sources: "Sequence[Source]", data: "Sequence[ReportData]", differences: "Sequence[Difference] | str"
) -> str:
    """The page as text.

    Args:
        sources: Two or more, evaluated on the same digits; the others are compared with the first.
        data: Of each.
        differences: Of each but the first, less the first; or why there are none.
    """
    names = [source.name for source in sources]
    kinds = {source.kind for source in sources}
    what = "runs and studies" if len(kinds) > 1 else "studies" if kinds == {"study"} else "runs"
    lead = f"{len(sources)} {what} on the {evaluation_digits(sources[0])}; each is compared with A."
    sections = [
        Section("table", "Side by side", _side_by_side(sources, data)),
        Section("differences", "Differences from A", _differences(sources, differences)),
        Section("curves", "Training", curves_section(sources)),
        Section("digits", "Digits on which they differ", _digits(data)),
        Section("settings", "Settings that differ", _settings(sources)),
        Section("environment", "Environment and command", environment_section(sources)),
    ]
    top = [_outcomes(names, differences)]
    return page(f"Compared: {', '.join(names)}", "Comparison", lead, sources, top, sections)


def _chip(number: int) -> Html:
    """A source's colour."""
    return tag("span", "", class_=f"chip {look(number)}", aria_hidden="true")


def _columns(sources: "Sequence[Source]") -> list[Html]:
    return [join([_chip(number), lettered(number, source)]) for number, source in enumerate(sources)]


def _outcomes(names: Sequence[str], differences: "Sequence[Difference] | str") -> Html:
    if isinstance(differences, str):
        return missing(f"the paired test. {differences}")
    cards = []
    for number, found in enumerate(differences, start=1):
        name, first = f"{letter(number)} ({names[number]})", f"A ({names[0]})"
        if _excludes_zero(found):
            better = found.difference > 0
            style, sign = ("met", "▲ better") if better else ("failed", "▼ worse")
            size = points(found.difference, 3)
            sentence = f"{name} is {'better' if better else 'worse'} than {first} by {size}."
        else:
            style, sign = "unjudged", "– undecided"
            sentence = f"No difference is shown between {name} and {first}."
        words = [tag("span", sign, class_=f"badge {style}"), " ", tag("strong", sentence)]
        cards.append(tag("div", tag("p", *words, class_="verdict"), bullets(_tests(found)), class_=f"card {style}"))
    return tag("div", *cards)


def _excludes_zero(found: "Difference") -> bool:
    low, high = found.interval
    return low > 0 or high < 0


def _tests(found: "Difference") -> list[str]:
    low, high = map(_signed, found.interval)
    pair = found.seed_0
    sentences = [
        f"Difference {_signed(found.difference)} points, 95 % interval {low} to {high} (paired bootstrap over seeds "
        f"and digits): zero lies {'outside' if _excludes_zero(found) else 'inside'}.",
        f"First run of each on the same digits (exact McNemar test): {pair.only_first:,} correct only here, "
        f"{pair.only_second:,} only in A, {_p(pair.p)}.",
    ]
    if found.p_seeds is not None:
        sentences.append(f"Over seeds alone (Welch's t test): {_p(found.p_seeds)}.")
    if found.seeds_needed:
        sentences.append(f"It takes {found.seeds_needed:,} seeds a study to show such a difference over seeds alone.")
    return sentences


def _p(value: float) -> str:
    return f"p = {value:.2g}" if value >= 0.0001 else "p < 0.0001"


def _signed(difference: float) -> str:
    return f"{100 * difference:+.3f}".replace("-", "−")


def _side_by_side(sources: "Sequence[Source]", data: "Sequence[ReportData]") -> Html:
    results = [source.result for source in sources]
    finals = [result.final for result in results]
    last3 = [result.last3.mean if result.epochs >= LAST3 else None for result in results]
    rows: list[tuple[str, Sequence[str]]] = [
        ("model", [short_name(source.config.model) for source in sources]),
        ("recipe", [source.config.recipe.name for source in sources]),
        ("accuracy, final epoch", [percent(final.mean, 3) for final in finals]),
        ("standard deviation (points)", [in_points(final.sd) for final in finals]),
        ("95 % lower bound of the mean", [percent(final.lower_bound, 3) for final in finals]),
        ("95 % interval", [interval_text(result.interval) for result in results]),
        ("mean of the last three epochs", [percent(mean, 3) for mean in last3]),
        ("seeds", [str(result.n) for result in results]),
        ("epochs", [f"{result.epochs:,}" for result in results]),
        ("time a seed", [duration(source.seconds_per_seed) for source in sources]),
        ("parameters", [f"{result.parameters:,}" for result in results]),
        ("MACs a digit", ["–" if isinstance(each.network, str) else f"{each.network.macs:,}" for each in data]),
        ("verdict", [_verdicts(source) for source in sources]),
    ]
    used = [[what, *cells] for what, cells in rows if any(cell != "–" for cell in cells)]
    notes = [f"{letter(i)}: {each.network}" for i, each in enumerate(data) if isinstance(each.network, str)]
    body = table("Figures of each", ["", *_columns(sources)], used, class_="sides")
    return join([body, *(paragraph(note, "note") for note in notes)])


def _verdicts(source: "Source") -> str:
    if not source.verdicts:
        return "–"
    return join(tag("div", badge(verdict.verdict), f" {verdict.goal}") for verdict in source.verdicts)


def _differences(sources: "Sequence[Source]", differences: "Sequence[Difference] | str") -> Html:
    if isinstance(differences, str):
        return missing(differences)
    label = "Differences of accuracy from A: " + "; ".join(
        f"{letter(number)} {_signed(found.difference)} points, from {' to '.join(map(_signed, found.interval))}"
        for number, found in enumerate(differences, start=1)
    )
    picture = figure(interval_chart(differences, label), "Difference from A with its 95 % interval")
    notes = ["Right of the line: better than A. Both are resampled on the same digits, each with its own seeds."]
    if min(source.result.n for source in sources) < _ENOUGH_SEEDS:
        notes.append(
            f"With fewer than {_ENOUGH_SEEDS} seeds a side, this compares trained weights, and says little about other "
            "seeds."
        )
    if len(differences) > 1:
        notes.append("Each comparison is at 95 % on its own: of twenty without a difference, about one would show one.")
    words = tag("div", *(paragraph(note, "note") for note in notes))
    return tag("div", picture, words, class_="pictures")


def _digits(data: "Sequence[ReportData]") -> Html:
    predictions: list[SeedPredictions] = []
    for each in data:
        if isinstance(each.predictions, str):
            return missing(each.predictions)
        predictions.append(each.predictions)
    digits, label_errors = data[0].digits, data[0].label_errors
    if isinstance(digits, str):
        return missing(digits)
    fractions = np.stack([one.correct.mean(axis=0) for one in predictions])  # [sources, digits]
    spread = np.ptp(fractions, axis=0)
    order = np.argsort(-spread, kind="stable")
    differing = order[spread[order] > 0]
    if not len(differing):
        return paragraph("There are none: every digit is classified correctly by the same fraction of seeds.")
    lead = "Digits that a different fraction of seeds classifies correctly, the largest difference first. "
    lead += "Below each: how many seeds of each are correct → what most of the others predict."
    shown = differing[:_SHOWN].tolist()
    tiles = [_tile(index, predictions, digits, label_errors.get(index)) for index in shown]
    return gallery(lead, tiles, len(differing))


def _tile(index: int, predictions: "Sequence[SeedPredictions]", digits: "Dataset", label_error: str | None) -> Html:
    lines = [tag("strong", str(digits.labels[index]))]
    for number, one in enumerate(predictions):
        correct = one.correct[:, index]
        others = one.predictions[~correct, index]
        most = f" → {np.bincount(others).argmax()}" if len(others) else ""
        words = f"{letter(number)} {int(correct.sum())}/{len(correct)}{most}"
        lines.append(tag("span", _chip(number), words))
    return digit_tile(digits, index, label_error, lines)


def _settings(sources: "Sequence[Source]") -> Html:
    """The settings in which the recipes differ."""
    found = [dict(recipe_rows(source)) for source in sources]
    keys = dict.fromkeys(key for rows in found for key in rows)
    rows = [[key, *(row.get(key, "–") for row in found)] for key in keys if len({row.get(key) for row in found}) > 1]
    if not rows:
        return paragraph("None: the recipes are the same.")
    return table("Settings in which the recipes differ", ["setting", *_columns(sources)], rows)
