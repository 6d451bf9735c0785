"""The sections of a report, each from what is at hand; one whose matter is missing says why, in a line."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tinydigits.reports import charts
from tinydigits.reports.analysis import analysis_sentences, judged_by, plural, result_sentences, target_sentences
from tinydigits.reports.architecture import window
from tinydigits.reports.charts import (
    Frame,
    Line,
    dots_chart,
    legend,
    line_chart,
    loss_chart,
    reliability_chart,
    share_bar,
    zoom,
)
from tinydigits.reports.markup import Html, digit_picture, facts, heat_picture, join, table, tag, text
from tinydigits.reports.tables import duration, interval_text, percent

if TYPE_CHECKING:
    from tinydigits.data.dataset import Dataset
    from tinydigits.studies.answers import Answers, Misreading
    from tinydigits.studies.evidence import Calibrated, Evidence, Judgement, SeedRun
    from tinydigits.studies.exhibits import Exhibits, Explained

MARKS = {"met": "✓", "plausible": "≈", "failed": "✗", "not judged": "–"}
_STYLES = {"met": "met", "plausible": "plausible", "failed": "failed", "not judged": "unjudged"}
_SHOWN_MISTAKES = 60
_FEW_ANSWERS = 30  # in a bin: what it says is mostly chance
_HOTTEST = 5  # shades of the confusion table


@dataclass(frozen=True)
class Section:
    """A part of the page: `key` is where links lead."""

    key: str
    title: str
    body: Html


def prose(words: str) -> Html:
    """A text whose `commands` stand out."""
    parts = words.split("`")
    if len(parts) % 2 == 0:  # a lone one means itself
        return text(words)
    return join(tag("code", part) if i % 2 else part for i, part in enumerate(parts))


def paragraph(words: str, class_: str | None = None) -> Html:
    """A paragraph of text."""
    return tag("p", prose(words), class_=class_)


def missing(reason: str) -> Html:
    """In place of what cannot be shown."""
    return paragraph(f"Not shown: {reason}", "missing")


def figure(content: Html, caption: Html | str, *below: Html) -> Html:
    """A picture, what belongs to it, and what it is."""
    return tag("figure", tag("figcaption", caption), content, *below)


def bullets(sentences: Iterable[str]) -> Html:
    """A list of sentences."""
    return tag("ul", *(tag("li", prose(sentence)) for sentence in sentences), class_="sentences")


def badge(verdict: str) -> Html:
    """A verdict with its sign: what it says does not hang on the colour."""
    sign = tag("span", MARKS[verdict], aria_hidden="true")
    return tag("span", sign, f" {verdict}", class_=f"badge {_STYLES[verdict]}")


def verdict_card(judgement: "Judgement") -> Html:
    """A verdict with its clauses."""
    lines = [tag("li", badge(clause.verdict), tag("span", clause.sentence)) for clause in judgement.clauses]
    return tag(
        "div",
        tag("p", badge(judgement.verdict), " ", tag("strong", judgement.asked), class_="verdict"),
        tag("ul", *lines, class_="clauses") if lines else None,
        class_=f"card {_STYLES[judgement.verdict]}",
    )


def key_figures(evidence: "Evidence", exhibits: "Exhibits") -> Html:
    """The figures that people look for first."""
    final, several = evidence.final, len(evidence.runs) > 1
    rows: list[tuple[str, str]] = [
        ("Mean accuracy" if several else "Accuracy", percent(final.mean, 3 if several else 2))
    ]
    if final.sd is not None:
        rows.append(("Standard deviation", f"{100 * final.sd:.3f} points"))
    if final.lower_bound is not None:
        rows.append(("95 % lower bound", percent(final.lower_bound, 3)))
    rows += [("95 % interval", interval_text(evidence.interval)), ("Parameters", f"{evidence.parameters:,}")]
    if not isinstance(exhibits.network, str):
        rows.append(("MACs a digit", f"{exhibits.network['macs']:,}"))
    rows += [("Epochs", f"{evidence.epochs:,}")]
    seconds = sum(run.time_seconds for run in evidence.runs) / len(evidence.runs)
    rows.append(("Time a seed" if several else "Time", duration(seconds)))
    return facts(rows, "figures")


def summary_section(evidence: "Evidence", exhibits: "Exhibits") -> Section:
    """What course hand-ins ask for."""
    parts = {
        "Target": target_sentences(evidence),
        "Result": result_sentences(evidence),
        "Analysis": analysis_sentences(evidence, exhibits),
    }
    body = join(join([tag("h3", title), bullets(sentences)]) for title, sentences in parts.items())
    return Section("summary", "Target, result, analysis", body)


def curves_section(evidence: "Evidence") -> Section:
    """All seeds: accuracy and loss over the epochs, and where they end."""
    pictures = [accuracy_curves([evidence]), final_dots([evidence]), loss_curves([evidence])]
    shown = [*pictures, _seed_table(evidence) if len(evidence.runs) > 1 else None]
    if not any(shown):
        return Section("curves", "Training", missing("the curves. Their files are not at hand."))
    return Section("curves", "Training", tag("div", *shown, class_="pictures"))


def accuracy_curves(studies: "Sequence[Evidence]") -> Html | None:
    """Thin lines: the seeds; a thick one: their mean. None where no study has two epochs."""
    long = [study for study in studies if study.epochs > 1 and all(len(r.accuracy_by_epoch) > 1 for r in study.runs)]
    if not long:
        return None
    lines, late, entries = [], [], []
    target = studies[0].target if len(studies) == 1 else None
    for number, study in enumerate(studies):
        if study not in long:
            continue
        style = charts.look(number)
        curves = [run.accuracy_by_epoch for run in study.runs]
        late += [share for curve in curves for share in curve[len(curve) // 2 :]]
        if len(curves) > 1:
            lines += [Line(_by_epoch(curve), f"thin {style}") for curve in curves]
        lines.append(Line(_by_epoch(_mean(curves)), f"thick {style}"))
        words = f"{charts.letter(number)}: {study.name}" if len(studies) > 1 else f"{study.judged_by} digits"
        entries.append((words + (f", mean of {len(curves)} seeds" if len(curves) > 1 else ""), f"thick {style}"))
        if len(studies) == 1 and all(len(r.train_accuracy_by_epoch) == len(r.accuracy_by_epoch) for r in study.runs):
            trained = _mean([run.train_accuracy_by_epoch for run in study.runs])
            late += trained[len(trained) // 2 :]
            lines.append(Line(_by_epoch(trained), "dashed c1"))
            entries.append(("training digits, while learning", "dashed c1"))
    if target is not None:
        late.append(target)
        entries.append((f"target: {percent(target)}", "target"))
    epochs = max(study.epochs for study in long)
    label = f"Accuracy by epoch of {plural(sum(len(s.runs) for s in long), 'seed')}, ending at " + ", ".join(
        f"{percent(study.final.mean)}" + (f" ({study.name})" if len(long) > 1 else "") for study in long
    )
    chart = line_chart(lines, Frame((1, max(epochs, 2)), zoom(late)), label, x_axis="epoch", shares=True, target=target)
    return figure(chart, "Accuracy by epoch in per cent (zoomed)", legend(entries))


def final_dots(studies: "Sequence[Evidence]") -> Html | None:
    """Where the seeds end; None where no study has two."""
    if all(len(study.runs) < 2 for study in studies):
        return None
    target = studies[0].target if len(studies) == 1 else None
    several = len(studies) > 1
    groups = [
        (
            charts.letter(number),
            [run.accuracy for run in study.runs],
            charts.look(number),
        )
        for number, study in enumerate(studies)
    ]
    values = [share for _, shares, _ in groups for share in shares]
    label = "Final accuracy seed by seed: " + "; ".join(
        (f"{study.name}: " if several else "") + ", ".join(percent(run.accuracy) for run in study.runs)
        for study in studies
    )
    entries = [
        (f"{name}: {study.name}", f"thick {style}") for (name, _, style), study in zip(groups, studies, strict=True)
    ]
    if not several:
        entries = [("mean of the seeds", f"thick {groups[0][2]}")]
    if target is not None:
        entries.append((f"target: {percent(target)}", "target"))
    y = zoom([*values, *([target] if target is not None else [])])
    x_axis = "a dot a seed" if several else "a dot a seed, in their order"
    return figure(
        dots_chart(groups, y, label, target=target, x_axis=x_axis),
        "Final epoch, seed by seed, in per cent",
        legend(entries),
    )


def loss_curves(studies: "Sequence[Evidence]") -> Html | None:
    """Training loss of all seeds; None where it is not known."""
    lines, entries = [], []
    for number, study in enumerate(studies):
        curves = [run.loss for run in study.runs if len(run.loss) > 1]
        if not curves:
            continue
        style = charts.look(number)
        lines += [Line(curve, f"{'thin' if len(curves) > 1 else 'thick'} {style}") for curve in curves]
        words = f"{charts.letter(number)}: {study.name}" if len(studies) > 1 else "training digits"
        entries.append((words, f"thick {style}"))
    if not lines:
        return None
    ends = [point for line in lines for point in line.points]
    least = min(y for _, y in ends if y > 0) if any(y > 0 for _, y in ends) else 1.0
    frame = Frame((min(x for x, _ in ends), max(x for x, _ in ends)), (least, max(y for _, y in ends)))
    last = sum(line.points[-1][1] for line in lines) / len(lines)
    label = f"Training loss by epoch of {plural(len(lines), 'seed')}, ending at {last:.3f} on average"
    chart = loss_chart(lines, frame, label)
    return figure(chart, "Training loss (logarithmic)", legend(entries))


def _by_epoch(curve: Sequence[float]) -> list[tuple[float, float]]:
    return [(float(epoch), share) for epoch, share in enumerate(curve, start=1)]


def _mean(curves: Sequence[Sequence[float]]) -> list[float]:
    return [sum(values) / len(values) for values in zip(*curves, strict=False)]


def _seed_table(evidence: "Evidence") -> Html:
    digits = evidence.judged_by
    columns: list[tuple[str, Any]] = [("final epoch", lambda run: percent(run.accuracy))]
    if evidence.epochs >= 3:
        columns.append(("mean of the last three", lambda run: percent(run.accuracy_last3)))
    if evidence.epochs > 1:
        columns.append((f"best on {digits} (optimistic)", lambda run: percent(run.accuracy_best)))

    def row(run: "SeedRun") -> list[str]:
        return [str(run.seed), *(cell(run) for _, cell in columns)]

    final, last3 = evidence.final, evidence.last3
    foot = []
    for name, key, decimals in (("mean", "mean", 3), ("sd (points)", "sd", 3), ("lower bound", "lower_bound", 3)):
        pair = [getattr(final, key)] + ([getattr(last3, key)] if evidence.epochs >= 3 else [])
        if pair[0] is None:
            continue
        cells = [f"{100 * value:.{decimals}f}" if key == "sd" else percent(value, decimals) for value in pair]
        foot.append([name, *cells, *[""] * (len(columns) - len(cells))])
    return table(
        "Accuracy of every seed, and 95 % lower bound of the mean",
        ["seed", *(heading for heading, _ in columns)],
        map(row, evidence.runs),
        numbers=1,
        foot=foot,
    )


def network_section(exhibits: "Exhibits") -> Section:
    """The layer table."""
    network = exhibits.network
    if isinstance(network, str):
        return Section("network", "Network", missing(network))
    layers = network["layers"]
    named = any(not layer["name"].replace(".", "").isdigit() for layer in layers)
    headings = ["#", *(["name"] if named else []), "layer", "window", "output", "parameters", "MACs", "field", "jump"]
    rows = [_layer_row(number, layer, named) for number, layer in enumerate(layers, start=1)]
    total = [
        "",
        *([""] if named else []),
        "total",
        "",
        "",
        f"{network['parameters']:,}",
        f"{network['macs']:,}",
        "",
        "",
    ]
    notes = (
        "Window: kernel; s stride, p padding where they are not 1 and 0. Field: receptive field, jump: between "
        "neighbours, both in input pixels. MACs: multiply-accumulates of convolutions and linear layers for one digit."
    )
    numbers = headings.index("output")
    body = [
        table("Layers of the network", headings, rows, numbers=numbers, foot=[total], class_="layers"),
        paragraph(notes, "note"),
        bullets(network["findings"]) if network["findings"] else None,
    ]
    return Section("network", "Network", join(body))


def _layer_row(number: int, layer: Mapping[str, Any], named: bool) -> list[str]:
    return [
        str(number),
        *([layer["name"]] if named else []),
        layer["kind"],
        window(layer),
        "×".join(map(str, layer["output_shape"])),
        f"{layer['parameters']:,}" if layer["parameters"] else "–",
        f"{layer['macs']:,}" if layer["macs"] else "–",
        _pair(layer["receptive_field"]),
        _pair(layer["jump"]),
    ]


def _pair(pair: Sequence[int] | None) -> str:
    if pair is None:
        return "–"
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}×{pair[1]}"


def mistakes_section(exhibits: "Exhibits") -> Section:
    """The digits that are misread, those of most seeds first."""
    answers, digits = exhibits.answers, exhibits.digits
    title = "Mistakes"
    if isinstance(answers, str):
        return Section("mistakes", title, missing(answers))
    rows, seeds = answers.misreadings(exhibits.disputed), len(answers.right)
    if not rows:
        return Section("mistakes", title, paragraph("There are none."))
    if isinstance(digits, str):
        return Section("mistakes", title, missing(digits))
    shown = rows[:_SHOWN_MISTAKES]
    order = "those of most seeds first, then the most confident" if seeds > 1 else "the most confident first"
    mean = " (mean of the seeds that misread it)" if seeds > 1 else ""
    lead = f"True digit → what was read, with the confidence{mean}; {order}."
    if len(rows) > len(shown):
        lead += f" Shown are {len(shown)} of {len(rows):,}."
    tiles = [_mistake(row, digits, seeds) for row in shown]
    return Section("mistakes", title, join([paragraph(lead, "note"), tag("ul", *tiles, class_="tiles")]))


def _mistake(row: "Misreading", digits: "Dataset", seeds: int) -> Html:
    lines = [
        tag("strong", f"{row.label} → {row.predicted}"),
        tag("span", percent(row.confidence, 1)),
        tag("span", "all seeds" if row.seeds == seeds else f"{row.seeds} of {seeds} seeds") if seeds > 1 else None,
        tag("span", f"#{row.index}", class_="index"),
        tag("span", row.disputed, class_="disputed") if row.disputed else None,
    ]
    picture = digit_picture(digits.images[row.index], f"digit {row.index}, labelled {row.label}")
    return tag("li", tag("div", picture, class_="stack"), *lines, class_="framed" if row.disputed else None)


def confusion_section(exhibits: "Exhibits") -> Section:
    """Which digits are taken for which, and how each fares."""
    answers = exhibits.answers
    title = "Digit by digit"
    if isinstance(answers, str):
        return Section("digits", title, missing(answers))
    return Section("digits", title, tag("div", _confusion(answers), _per_digit(answers), class_="pair"))


def _confusion(answers: "Answers") -> Html:
    confusion, seeds = answers.confusion, len(answers.right)
    worst = max((int(confusion[i, j]) for i in range(10) for j in range(10) if i != j), default=0)

    def cell(i: int, j: int) -> Html:
        count = int(confusion[i, j])
        shade = "right" if i == j else f"heat{_shade(count, worst)}" if count else "none"
        return tag("td", str(count) if count else "·", class_=shade)

    head = tag(
        "tr",
        tag("th", tag("abbr", "↓→", title="true digit down, read as across")),
        *(tag("th", str(j), scope="col") for j in range(10)),
    )
    body = [tag("tr", tag("th", str(i), scope="row"), *(cell(i, j) for j in range(10))) for i in range(10)]
    caption = "True digit (row) read as (column)" + (f", all {seeds} seeds together" if seeds > 1 else "")
    whole = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body), class_="confusion")
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _shade(count: int, worst: int) -> int:
    """1 to 5; by the root, which lets a single mistake be seen beside many."""
    return max(1, round(_HOTTEST * math.sqrt(count / worst)))


def _per_digit(answers: "Answers") -> Html:
    rows, seeds = answers.per_digit, len(answers.right)
    most = max(max(row.wrong / (row.total * seeds) for row in rows), 1e-9)
    several = seeds > 1
    headings: list[str | Html | None] = ["digit", "examples", "wrong a seed" if several else "wrong", "accuracy"]
    headings += ["worst seed"] if several else []
    cells: list[list[str | Html | None]] = []
    for row in rows:
        wrong = row.wrong / seeds
        bar = share_bar(row.wrong / (row.total * seeds) / most, "c1")
        span = [percent(row.lowest)] if several else []
        cells.append(
            [
                str(row.digit),
                f"{row.total:,}",
                join([f"{wrong:.1f}" if several else str(row.wrong), bar]),
                percent(row.accuracy),
                *span,
            ]
        )
    return table("Accuracy by digit", headings, cells, numbers=1, class_="digits")


def calibration_section(evidence: "Evidence", exhibits: "Exhibits") -> Section:
    """How far confidence can be believed."""
    answers, fitted = exhibits.answers, evidence.calibration
    measured = missing(answers) if isinstance(answers, str) else _reliability(answers, evidence)
    if fitted is None:
        note = paragraph(
            "No temperature and no threshold were fitted: that takes a twin trained without the held-out digits "
            "(`tinydigits prove --twin`).",
            "note",
        )
        return Section("calibration", "Calibration", tag("div", measured, note, class_="pair"))
    sides = [tag("div", measured, _coverage_table(fitted)), _calibration_tables(fitted)]
    return Section("calibration", "Calibration", tag("div", *sides, class_="pair"))


def _reliability(answers: "Answers", evidence: "Evidence") -> Html:
    before, after = answers.ece
    series, entries = [], []
    for calibrated, style, ece, words in (
        (False, "c0", before, "as trained"),
        (True, "c2", after, "with the temperature"),
    ):
        if ece is None:
            continue
        bins = answers.reliability(calibrated=calibrated)
        series.append(([(b.confidence, b.accuracy, b.count) for b in bins], style))
        entries.append((f"{words}: calibration error {percent(ece)}", style))
    last = answers.reliability(calibrated=False)[-1]
    share = last.count / answers.right.size
    label = (
        f"Accuracy over confidence; {percent(share, 1)} of the answers lie in the highest bin, and "
        f"{percent(last.accuracy)} of these are right"
    )
    caption = f"Accuracy over confidence on the {judged_by(evidence)}"
    note = paragraph(
        f"Dashed: as sure as right. Hollow: fewer than {_FEW_ANSWERS} answers in that bin. The highest bin holds "
        f"{percent(share, 1)} of all answers.",
        "note",
    )
    return figure(reliability_chart(series, label, _FEW_ANSWERS), caption, legend(entries), note)


def _coverage_table(fitted: "Calibrated") -> Html | None:
    rows = [(percent(share, 1), percent(accuracy)) for share, accuracy in fitted.coverage_accuracy]
    return table("Held-out digits kept, the surest first", ["kept", "accuracy"], rows, numbers=1) if rows else None


def _calibration_tables(fitted: "Calibrated") -> Html:
    rows = [
        ("temperature", f"{fitted.temperature:.3f}"),
        ("calibration error (ECE) before", percent(fitted.ece_before)),
        ("calibration error (ECE) after", percent(fitted.ece_after)),
        ("threshold of evidence for “no digit”", f"{fitted.threshold:.3f}"),
        ("digits that it keeps", percent(fitted.coverage)),
    ]
    rejected = [(kind.replace("_", " "), percent(share, 1)) for kind, share in fitted.rejected]
    first = table(f"Fitted by the tune twin on {fitted.digits:,} held-out digits", ["what", "value"], rows, numbers=1)
    if not rejected:
        return first
    return tag("div", first, table("Pictures that are no digits", ["kind", "rejected"], rejected, numbers=1))


def saliency_section(exhibits: "Exhibits") -> Section:
    """Where the network looks."""
    title, found = "Where it looks", exhibits.explanations
    assert found is not None  # a report asks for it
    if isinstance(found, str):
        return Section("saliency", title, missing(found))
    height, width = found.map_size
    lead = (
        f"Grad-CAM of seed {found.seed}: orange is what raises the score of a digit in the map of {height}×{width} "
        f"positions after module “{found.layer}”. The map is coarser than the picture, and tells where, not why."
    )
    right = [_explained(item) for item in found.right]
    parts: list[Html | None] = [
        paragraph(lead, "note"),
        tag("h3", "Right: the first of each digit"),
        tag("ul", *right, class_="tiles") if right else paragraph("There are none."),
        tag("h3", "Wrong: the most confident mistakes"),
        tag("ul", *map(_mistake_explained, found.wrong), class_="tiles twins")
        if found.wrong
        else paragraph("There are none."),
    ]
    return Section("saliency", title, join(parts))


def _explained(item: "Explained") -> Html:
    return tag("li", _layers(item, 0), tag("strong", str(item.label)), tag("span", percent(item.confidence, 1)))


def _mistake_explained(item: "Explained") -> Html:
    sides = [
        tag("div", _layers(item, which), tag("span", f"{'for' if which == 0 else 'for the true'} {digit}"))
        for which, (digit, _) in enumerate(item.heats)
    ]
    words = tag("strong", f"{item.label} → {item.predicted}")
    return tag(
        "li", tag("div", *sides, class_="twin"), words, tag("span", f"{percent(item.confidence, 1)}, #{item.index}")
    )


def _layers(item: "Explained", which: int) -> Html:
    digit, heat = item.heats[which]
    where = f"digit {item.index}, labelled {item.label}; what speaks for {digit}: {_place(heat)}"
    return tag("div", digit_picture(item.image, where), heat_picture(heat), class_="stack")


def _place(heat: Any) -> str:
    """Where a heat map [28, 28] is strongest, in words."""
    if not heat.any():
        return "nothing"
    row, column = divmod(int(heat.argmax()), heat.shape[1])
    vertical = ("top", "middle", "bottom")[min(2, 3 * row // heat.shape[0])]
    horizontal = ("left", "centre", "right")[min(2, 3 * column // heat.shape[1])]
    return f"most at the {vertical} {horizontal}"


def recipe_section(evidence: "Evidence", exhibits: "Exhibits") -> Section:
    """How it was trained, and what augmentation does to digits."""
    parts: list[Html | None] = [facts(recipe_rows(evidence))]
    variants = exhibits.augmentation
    if variants is not None:
        parts.append(tag("h3", "Augmentation"))
    if isinstance(variants, str):
        parts.append(missing(variants))
    elif variants is not None:
        rows = [
            tag(
                "li",
                tag("div", digit_picture(original, "an original"), class_="stack original"),
                *(tag("div", digit_picture(image, "augmented"), class_="stack") for image in row),
            )
            for original, row in zip(variants.originals, variants.augmented, strict=True)
        ]
        parts.append(
            paragraph("Left: a training digit; right of it: how training shows it, each time another.", "note")
        )
        parts.append(tag("ul", *rows, class_="variants"))
    return Section("recipe", "Recipe", join(parts))


def recipe_rows(evidence: "Evidence") -> list[tuple[str, str]]:
    """Its settings, those that do something."""
    recipe = evidence.config.recipe
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
    rows.append(("weight decay", f"{optimizer.weight_decay:g}"))
    details = {
        "step": f", times {schedule.factor:g} every {plural(schedule.step_epochs, 'epoch')}",
        "cosine": f", down to {schedule.final:g} of it",
        "one_cycle": f", up during {percent(schedule.warmup, 0)} of the steps, down to {schedule.final:g} of it",
    }
    rows.append(("schedule", schedule.name.replace("_", " ") + details.get(schedule.name, "")))
    changes = {
        "rotation": f"±{augmentation.rotation_degrees:g}°" if augmentation.rotation_degrees else "",
        "shift": f"±{augmentation.shift_pixels:g} pixels" if augmentation.shift_pixels else "",
        "scale": f"±{percent(augmentation.scale, 0)}" if augmentation.scale else "",
        "shear": f"±{augmentation.shear_degrees:g}°" if augmentation.shear_degrees else "",
        "centre crop": f"{percent(augmentation.crop_probability, 0)} of the digits, {augmentation.crop_size} pixels"
        if augmentation.crop_probability
        else "",
        "off in the last": plural(augmentation.off_epochs, "epoch") if augmentation.off_epochs else "",
    }
    named = ", ".join(f"{name} {value}" for name, value in changes.items() if value) if augmentation.active else "none"
    rows += [("augmentation", named), ("label smoothing", f"{recipe.label_smoothing:g}")]
    rows.append(("moving average of weights", f"{recipe.ema_decay:g}" if recipe.ema_decay else "none"))
    return rows


def environment_section(studies: "Sequence[Evidence]") -> Section:
    """Where it was calculated, and how to do so again."""
    parts: list[Html | None] = []
    for study in studies:
        if len(studies) > 1:
            parts.append(tag("h3", study.name))
        told = "The command:" if study.recorded else "The command was not recorded; this one asks for the same:"
        parts += [paragraph(told, "note"), tag("pre", tag("code", study.command), tabindex="0")]
        rows = [(name.replace("_", " "), value) for name, value in study.environment]
        rows.append(("judged by", f"{judged_by(study)}, SHA-256 {study.judge_sha256[:16]}…"))
        parts.append(facts(rows))
    parts.append(paragraph("Same kind of machine, same packages, same number of threads: the same bits.", "note"))
    return Section("environment", "Environment and command", join(parts))
