"""The sections of a report; one that cannot be shown says why, in a line."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from msgspec.structs import asdict
from numpy.typing import NDArray

from tinydigits.reports import analysis, charts
from tinydigits.reports.analysis import evaluation_digits, plural
from tinydigits.reports.charts import Frame, Polyline, legend, letter, look, zoom
from tinydigits.reports.markup import Html, digit_picture, facts, heat_picture, join, scrolling, table, tag, text
from tinydigits.reports.tables import calibration_figures, duration, in_points, interval_text, percent, seed_columns

if TYPE_CHECKING:
    from tinydigits.data.dataset import Dataset
    from tinydigits.records import Verdict
    from tinydigits.studies.predictions import MisclassifiedDigit, SeedPredictions
    from tinydigits.studies.report_data import Explained, ReportData
    from tinydigits.studies.results import Source

MARKS = {"met": "✓", "plausible": "≈", "failed": "✗", "not judged": "–"}
_STYLES = {"met": "met", "plausible": "plausible", "failed": "failed", "not judged": "unjudged"}
_SHOWN_MISTAKES = 60
_FEW = 30  # predictions in a bin: its accuracy is mostly chance
_HOTTEST = 5  # shades of the confusion table


class Section(NamedTuple):
    """A part of the page; links lead to its `key`."""

    key: str
    title: str
    body: Html


def prose(words: str) -> Html:
    """A text whose `commands` stand out."""
    parts = words.split("`")
    if len(parts) % 2 == 0:  # a single one is literal
        return text(words)
    return join(tag("code", part) if i % 2 else part for i, part in enumerate(parts))


def paragraph(words: str, class_: str | None = None) -> Html:
    """A paragraph of text."""
    return tag("p", prose(words), class_=class_)


def missing(reason: str) -> Html:
    """Says why something cannot be shown."""
    return paragraph(f"Not shown: {reason}", "missing")


def figure(content: Html, caption: str, *below: Html) -> Html:
    """A picture with its caption, and what stands below it."""
    return tag("figure", tag("figcaption", caption), content, *below)


def bullets(sentences: Iterable[str]) -> Html:
    """A list of sentences."""
    return tag("ul", *(tag("li", prose(sentence)) for sentence in sentences), class_="sentences")


def badge(verdict: str) -> Html:
    """A verdict with its sign, so that it can be read without its colour."""
    sign = tag("span", MARKS[verdict], aria_hidden="true")
    return tag("span", sign, f" {verdict}", class_=f"badge {_STYLES[verdict]}")


def verdict_card(verdict: "Verdict") -> Html:
    """A verdict with its clauses."""
    title = tag("p", badge(verdict.verdict), " ", tag("strong", verdict.goal), class_="verdict")
    lines = [tag("li", badge(clause.verdict), tag("span", clause.sentence)) for clause in verdict.clauses]
    clauses = tag("ul", *lines, class_="clauses") if lines else None
    return tag("div", title, clauses, class_=f"card {_STYLES[verdict.verdict]}")


def key_figures(source: "Source", data: "ReportData") -> Html:
    """The figures that people look for first."""
    result, final = source.result, source.result.final
    several = result.n > 1
    rows = [("Mean accuracy", percent(final.mean, 3)) if several else ("Accuracy", percent(final.mean))]
    if final.sd is not None:
        rows.append(("Standard deviation", f"{in_points(final.sd)} points"))
    if final.lower_bound is not None:
        rows.append(("95 % lower bound", percent(final.lower_bound, 3)))
    rows += [("95 % interval", interval_text(result.interval)), ("Parameters", f"{result.parameters:,}")]
    if not isinstance(data.network, str):
        rows.append(("MACs a digit", f"{data.network.macs:,}"))
    rows += [
        ("Epochs", f"{result.epochs:,}"),
        ("Time a seed" if several else "Time", duration(source.seconds_per_seed)),
    ]
    return facts(rows, "figures")


def summary_section(source: "Source", data: "ReportData") -> Html:
    """Target, result and analysis, as courses require them."""
    parts = {
        "Target": analysis.target_sentences(source),
        "Result": analysis.result_sentences(source),
        "Analysis": analysis.analysis_sentences(source, data),
    }
    return join(join([tag("h3", title), bullets(sentences)]) for title, sentences in parts.items())


def curves_section(sources: "Sequence[Source]") -> Html:
    """All seeds: accuracy and loss over the epochs, and where they end; of a single source, also as a table."""
    pictures = [accuracy_curves(sources), final_dots(sources), loss_curves(sources)]
    if len(sources) == 1 and sources[0].result.n > 1:
        columns = seed_columns(sources[0].result)
        rows, n = list(zip(*columns.values(), strict=True)), sources[0].result.n
        caption = "Accuracy of every seed, and 95 % lower bound of the mean"
        pictures.append(table(caption, list(columns), rows[:n], numbers=1, foot=rows[n:]))
    if not any(pictures):
        return missing("the curves. Their files are missing.")
    return tag("div", *pictures, class_="pictures")


def lettered(number: int, source: "Source") -> str:
    """A source by its letter and name."""
    return f"{letter(number)}: {source.name}"


def accuracy_curves(sources: "Sequence[Source]") -> Html | None:
    """Thin lines: the seeds; a thick one: their mean. None if no source has two epochs."""
    long = [
        (number, source)
        for number, source in enumerate(sources)
        if source.result.epochs > 1 and all(len(run.accuracy_by_epoch) > 1 for run in source.result.runs)
    ]
    if not long:
        return None
    alone = len(sources) == 1
    lines, late, entries, ends = [], [], [], []
    for number, source in long:
        curves = [run.accuracy_by_epoch for run in source.result.runs]
        late += [accuracy for curve in curves for accuracy in curve[len(curve) // 2 :]]
        if len(curves) > 1:
            lines += [Polyline(_by_epoch(curve), f"thin {look(number)}") for curve in curves]
        lines.append(Polyline(_by_epoch(_mean(curves)), f"thick {look(number)}"))
        words = f"{source.evaluated_on} digits" if alone else lettered(number, source)
        seeds = f", mean of {len(curves)} seeds" if len(curves) > 1 else ""
        entries.append((words + seeds, f"thick {look(number)}"))
        ends.append(percent(source.result.final.mean) + (f" ({source.name})" if len(long) > 1 else ""))
    runs, target = sources[0].result.runs, sources[0].target if alone else None
    if alone and all(len(run.train_accuracy_by_epoch) == len(run.accuracy_by_epoch) for run in runs):
        trained = _mean([run.train_accuracy_by_epoch for run in runs])
        late += trained[len(trained) // 2 :]
        lines.append(Polyline(_by_epoch(trained), "dashed c1"))
        entries.append(("training digits, while learning", "dashed c1"))
    late += [] if target is None else [target]
    results = [source.result for _, source in long]
    frame = Frame((1, max(result.epochs for result in results)), zoom(late))
    seeds = plural(sum(result.n for result in results), "seed")
    label = f"Accuracy by epoch of {seeds}, ending at {', '.join(ends)}"
    chart = charts.line_chart(lines, frame, label, target)
    return figure(chart, "Accuracy by epoch in per cent (zoomed)", legend(entries, target))


def final_dots(sources: "Sequence[Source]") -> Html | None:
    """The accuracy of every seed after the last epoch; None if no source has two seeds."""
    if all(source.result.n < 2 for source in sources):
        return None
    alone = len(sources) == 1
    groups = [[run.accuracy for run in source.result.runs] for source in sources]
    names = ["mean of the seeds"] if alone else [lettered(number, source) for number, source in enumerate(sources)]
    entries = [(name, f"thick {look(number)}") for number, name in enumerate(names)]
    target = sources[0].target if alone else None
    values = [*itertools.chain(*groups), *([] if target is None else [target])]
    x_axis = "a dot a seed, in their order" if alone else "a dot a seed"
    ends = [", ".join(map(percent, group)) for group in groups]
    if not alone:
        ends = [f"{source.name}: {end}" for source, end in zip(sources, ends, strict=True)]
    label = f"Final accuracy seed by seed: {'; '.join(ends)}"
    chart = charts.dots_chart(groups, zoom(values), label, target=target, x_axis=x_axis)
    return figure(chart, "Final epoch, seed by seed, in per cent", legend(entries, target))


def loss_curves(sources: "Sequence[Source]") -> Html | None:
    """Training loss of all seeds; None if it is unknown."""
    lines, entries = [], []
    for number, source in enumerate(sources):
        curves = [loss for loss in source.losses if len(loss) > 1]
        if curves:
            width = "thin" if len(curves) > 1 else "thick"
            lines += [Polyline(curve, f"{width} {look(number)}") for curve in curves]
            words = lettered(number, source) if len(sources) > 1 else "training digits"
            entries.append((words, f"thick {look(number)}"))
    if not lines:
        return None
    epochs, losses = zip(*(point for line in lines for point in line.points), strict=True)
    least = min((loss for loss in losses if loss > 0), default=1.0)
    frame = Frame((min(epochs), max(epochs)), (least, max(losses)))
    last = sum(line.points[-1][1] for line in lines) / len(lines)
    label = f"Training loss by epoch of {plural(len(lines), 'seed')}, ending at {last:.3f} on average"
    return figure(charts.loss_chart(lines, frame, label), "Training loss (logarithmic)", legend(entries))


def _by_epoch(curve: Sequence[float]) -> list[tuple[int, float]]:
    return list(enumerate(curve, start=1))


def _mean(curves: Sequence[Sequence[float]]) -> list[float]:
    return [sum(values) / len(values) for values in zip(*curves, strict=False)]


def network_section(data: "ReportData") -> Html:
    """The layer table."""
    network = data.network
    if isinstance(network, str):
        return missing(network)
    columns = network.columns()
    totals = {"layer": "total", "params": f"{network.parameters:,}", "MACs": f"{network.macs:,}"}
    notes = (
        "Window: kernel; s stride, p padding unless they are 1 and 0. Field: receptive field; jump: distance between "
        "neighbours; both in input pixels. MACs: multiply-accumulates of convolutions and linear layers for one digit. "
        "KiB: output in float32."
    )
    body = table(
        "Layers of the network",
        list(columns),
        zip(*columns.values(), strict=True),
        numbers=list(columns).index("output"),
        foot=[[totals.get(heading, "") for heading in columns]],
        class_="layers",
    )
    return join([body, paragraph(notes, "note"), bullets(network.findings) if network.findings else None])


def mistakes_section(data: "ReportData") -> Html:
    """The misclassified digits, those of most seeds first."""
    predictions, digits = data.predictions, data.digits
    if isinstance(predictions, str):
        return missing(predictions)
    rows, seeds = predictions.misclassified(data.label_errors), len(predictions.correct)
    if not rows:
        return paragraph("There are none.")
    if isinstance(digits, str):
        return missing(digits)
    order = "those of most seeds first, then the most confident" if seeds > 1 else "the most confident first"
    mean = " (mean of the seeds that predict it wrongly)" if seeds > 1 else ""
    lead = f"True digit → predicted digit, with the confidence{mean}; {order}."
    return gallery(lead, [_mistake(row, digits, seeds) for row in rows[:_SHOWN_MISTAKES]], len(rows))


def gallery(lead: str, tiles: Sequence[Html], total: int) -> Html:
    """The first of `total` tiles."""
    if total > len(tiles):
        lead += f" The first {len(tiles)} of {total:,} are shown."
    return join([paragraph(lead, "note"), tag("ul", *tiles, class_="tiles")])


def _mistake(row: "MisclassifiedDigit", digits: "Dataset", seeds: int) -> Html:
    lines = [tag("strong", f"{row.label} → {row.predicted}"), tag("span", percent(row.confidence, 1))]
    if seeds > 1:
        lines.append(tag("span", "all seeds" if row.seeds == seeds else f"{row.seeds} of {seeds} seeds"))
    return digit_tile(digits, row.index, row.label_error, lines)


def digit_tile(digits: "Dataset", index: int, label_error: str | None, lines: Iterable[Html]) -> Html:
    """A digit with lines below it; framed, with what reviewers say, if its label is in doubt."""
    picture = tag(
        "div", digit_picture(digits.images[index], f"digit {index}, labelled {digits.labels[index]}"), class_="stack"
    )
    words = tag("span", label_error, class_="label-error") if label_error else None
    number = tag("span", f"#{index}", class_="index")
    return tag("li", picture, *lines, number, words, class_="framed" if label_error else None)


def confusion_section(data: "ReportData") -> Html:
    """Which digits are taken for which, and how well each is classified."""
    predictions = data.predictions
    if isinstance(predictions, str):
        return missing(predictions)
    return tag("div", _confusion(predictions), _per_digit(predictions), class_="pair")


def _confusion(predictions: "SeedPredictions") -> Html:
    confusion, seeds = predictions.confusion, len(predictions.correct)
    worst = int(confusion[~np.eye(10, dtype=bool)].max())

    def cell(i: int, j: int) -> Html:
        count = int(confusion[i, j])  # shaded by the root, so that a single mistake can be seen beside many
        shade = (
            "correct" if i == j else f"heat{max(1, round(_HOTTEST * math.sqrt(count / worst)))}" if count else "none"
        )
        return tag("td", str(count) if count else "·", class_=shade)

    corner = tag("th", tag("abbr", "↓→", title="true digit down, predicted digit across"))
    head = tag("tr", corner, *(tag("th", str(j), scope="col") for j in range(10)))
    body = [tag("tr", tag("th", str(i), scope="row"), *(cell(i, j) for j in range(10))) for i in range(10)]
    caption = "True digit (row), predicted digit (column)" + (f", all {seeds} seeds together" if seeds > 1 else "")
    return scrolling(caption, tag("thead", head), tag("tbody", *body), class_="confusion")


def _per_digit(predictions: "SeedPredictions") -> Html:
    rows, seeds = predictions.per_digit, len(predictions.correct)
    most = max(max(1 - row.accuracy for row in rows), 1e-9)
    several = seeds > 1
    headings = ["digit", "examples", "errors a seed" if several else "errors", "accuracy"]
    headings += ["worst seed"] if several else []
    cells = []
    for row in rows:
        errors = f"{row.errors / seeds:.1f}" if several else str(row.errors)
        bar = charts.fraction_bar((1 - row.accuracy) / most, "c1")
        worst = [percent(row.lowest)] if several else []
        cells.append([str(row.digit), f"{row.total:,}", join([errors, bar]), percent(row.accuracy), *worst])
    return table("Accuracy by digit", headings, cells, numbers=1, class_="digits")


def calibration_section(source: "Source", data: "ReportData") -> Html:
    """How far confidence can be trusted."""
    predictions, fitted = data.predictions, source.result.calibration
    measured = missing(predictions) if isinstance(predictions, str) else _reliability(predictions, source)
    if fitted is None:
        note = paragraph(
            "No temperature and no threshold were fitted: this takes a calibration run, trained without the validation "
            "digits (`tinydigits prove --calibrate`).",
            "note",
        )
        return tag("div", measured, note, class_="pair")
    digits = f"{fitted.digits:,} validation digits" if fitted.digits is not None else "validation digits"
    caption = f"Fitted with the calibration run on {digits}"
    figures = table(caption, ["what", "value"], calibration_figures(fitted), numbers=1)
    kept = [(percent(float(part), 1), percent(accuracy)) for part, accuracy in fitted.coverage_accuracy.items()]
    rejected = [(kind.replace("_", " "), percent(part, 1)) for kind, part in fitted.rejected.items()]
    first = "Validation digits kept, the most confident first"
    coverage = table(first, ["kept", "accuracy"], kept, numbers=1) if kept else None
    others = table("Pictures that are no digits", ["kind", "rejected"], rejected, numbers=1) if rejected else None
    return tag("div", tag("div", measured, coverage), tag("div", figures, others), class_="pair")


def _reliability(predictions: "SeedPredictions", source: "Source") -> Html:
    before, after = predictions.ece
    kinds = [(False, before, "c0", "as trained"), (True, after, "c2", "with the temperature")]
    series, entries = [], []
    for calibrated, ece, style, words in kinds:
        if ece is not None:
            bins = predictions.reliability(calibrated=calibrated)
            series.append(([(b.confidence, b.accuracy, b.count) for b in bins], style))
            entries.append((f"{words}: calibration error {percent(ece)}", style))
    last = predictions.reliability(calibrated=False)[-1]
    fraction = percent(last.count / predictions.correct.size, 1)
    label = (
        f"Accuracy over confidence; {fraction} of the predictions lie in the highest bin, and "
        f"{percent(last.accuracy)} of these are correct"
    )
    caption = f"Accuracy over confidence on the {evaluation_digits(source)}"
    note = paragraph(
        f"Dashed: confidence equals accuracy. Hollow: fewer than {_FEW} predictions in that bin. The highest bin holds "
        f"{fraction} of all predictions.",
        "note",
    )
    return figure(charts.reliability_chart(series, label, _FEW), caption, legend(entries), note)


def saliency_section(data: "ReportData") -> Html:
    """Where the network looks."""
    found = data.explanations
    if found is None or isinstance(found, str):
        return missing(found or "Grad-CAM was not requested.")
    height, width = found.map_size
    lead = (
        f"Grad-CAM of seed {found.seed}: orange marks what raises the score of a digit in the map of {height}×{width} "
        f"positions after module “{found.layer}”. The map is coarser than the picture; it shows where, not why."
    )
    none = paragraph("There are none.")
    parts = [
        paragraph(lead, "note"),
        tag("h3", "Correct: the first of each digit"),
        tag("ul", *map(_explained, found.correct), class_="tiles") if found.correct else none,
        tag("h3", "Wrong: the most confident mistakes"),
        tag("ul", *map(_mistake_explained, found.mistakes), class_="tiles double") if found.mistakes else none,
    ]
    return join(parts)


def _explained(item: "Explained") -> Html:
    layers = _layers(item, *item.heats[0])
    return tag("li", layers, tag("strong", str(item.label)), tag("span", percent(item.confidence, 1)))


def _mistake_explained(item: "Explained") -> Html:
    sides = [
        tag("div", _layers(item, digit, heat), tag("span", f"{words} {digit}"))
        for words, (digit, heat) in zip(("for", "for the true"), item.heats, strict=True)
    ]
    words = tag("strong", f"{item.label} → {item.predicted}")
    details = tag("span", f"{percent(item.confidence, 1)}, #{item.index}")
    return tag("li", tag("div", *sides, class_="halves"), words, details)


def _layers(item: "Explained", digit: int, heat: NDArray[np.float32]) -> Html:
    alt = f"digit {item.index}, labelled {item.label}; what speaks for {digit}: {_position(heat)}"
    return tag("div", digit_picture(item.image, alt), heat_picture(heat), class_="stack")


def _position(heat: NDArray[np.float32]) -> str:
    """Where a heat map [28, 28] is strongest, in words."""
    if not heat.any():
        return "nothing"
    row, column = divmod(int(heat.argmax()), heat.shape[1])
    vertical = ("top", "middle", "bottom")[min(2, 3 * row // heat.shape[0])]
    horizontal = ("left", "centre", "right")[min(2, 3 * column // heat.shape[1])]
    return f"most at the {vertical} {horizontal}"


def recipe_section(source: "Source", data: "ReportData") -> Html:
    """How it was trained, and what augmentation does to the digits."""
    rows, variants = facts(recipe_rows(source)), data.augmentation
    if variants is None:
        return rows
    heading = tag("h3", "Augmentation")
    if isinstance(variants, str):
        return join([rows, heading, missing(variants)])
    lines = []
    for original, row in zip(variants.originals, variants.augmented, strict=True):
        first = tag("div", digit_picture(original, "an original"), class_="stack original")
        lines.append(
            tag("li", first, *(tag("div", digit_picture(image, "augmented"), class_="stack") for image in row))
        )
    note = paragraph("Left: a training digit. Right of it: variants that the network sees in training.", "note")
    return join([rows, heading, note, tag("ul", *lines, class_="variants")])


def recipe_rows(source: "Source") -> list[tuple[str, str]]:
    """The settings that have an effect."""
    recipe = source.config.recipe
    optimizer, schedule, augmentation = recipe.optimizer, recipe.schedule, recipe.augmentation
    rows = [
        ("recipe", recipe.name),
        ("epochs", str(recipe.epochs)),
        ("batch size", str(recipe.batch_size)),
        ("optimiser", optimizer.name),
        ("learning rate", f"{optimizer.learning_rate:g}"),
    ]
    if optimizer.name == "sgd":
        rows.append(("momentum", f"{optimizer.momentum:g}{' (Nesterov)' if optimizer.nesterov else ''}"))
    details = {
        "step": f", times {schedule.factor:g} every {plural(schedule.step_epochs, 'epoch')}",
        "cosine": f", down to {schedule.final:g} of it",
        "one_cycle": f", up during {percent(schedule.warmup, 0)} of the steps, down to {schedule.final:g} of it",
    }
    changes = {
        f"rotation ±{augmentation.rotation_degrees:g}°": augmentation.rotation_degrees,
        f"shift ±{augmentation.shift_pixels:g} pixels": augmentation.shift_pixels,
        f"scale ±{percent(augmentation.scale, 0)}": augmentation.scale,
        f"shear ±{augmentation.shear_degrees:g}°": augmentation.shear_degrees,
        f"centre crop {percent(augmentation.crop_probability, 0)} of the digits, {augmentation.crop_size} pixels": (
            augmentation.crop_probability
        ),
        f"off in the last {plural(augmentation.off_epochs, 'epoch')}": augmentation.off_epochs,
    }
    named = ", ".join(words for words, value in changes.items() if value) if augmentation.active else "none"
    rows += [
        ("weight decay", f"{optimizer.weight_decay:g}"),
        ("schedule", schedule.name.replace("_", " ") + details.get(schedule.name, "")),
        ("augmentation", named),
        ("label smoothing", f"{recipe.label_smoothing:g}"),
        ("moving average of weights", f"{recipe.ema_decay:g}" if recipe.ema_decay else "none"),
    ]
    return [*rows, ("from Python instead", ", ".join(source.custom))] if source.custom else rows


def environment_section(sources: "Sequence[Source]") -> Html:
    """The machine and the packages, and how to repeat the training."""
    parts: list[Html] = []
    for source in sources:
        if len(sources) > 1:
            parts.append(tag("h3", source.name))
        environment = source.result.environment
        packages = ", ".join(f"{name} {version}" for name, version in environment.packages.items())
        values = {**asdict(environment), "packages": packages or None, "command": None}  # which stands above
        rows = [(name, str(value)) for name, value in values.items() if value is not None]
        digits = f"{evaluation_digits(source)}, SHA-256 {source.result.evaluation_sha256[:16]}…"
        parts += [*_command(source), facts([*rows, ("evaluated on", digits)])]
    parts.append(paragraph("The same kind of machine, packages and number of threads give the same bits.", "note"))
    return join(parts)


def _command(source: "Source") -> list[Html]:
    if source.custom:
        parts = ", ".join(source.custom)
        return [paragraph(f"Trained from Python with {parts} of your own, so no command repeats it.", "note")]
    words = "The command:" if source.recorded else "The command was not recorded; this one has the same settings:"
    return [paragraph(words, "note"), tag("pre", tag("code", source.command), tabindex="0")]
