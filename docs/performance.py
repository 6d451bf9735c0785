"""How fast training is: results/training.json → docs/performance.md and its pictures, part of `make benchmark-training`.

It measures nothing: run it again when there are new figures, `python -m docs.performance`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import ROOT, figure_goal, figure_interval, figure_value, made_by, markdown_table
from benchmarks.profiles import KINDS
from tinydigits.reports.style import BLUE, DPI, GREY, VERMILION, style, write
from tinydigits.storage import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COMMAND = "make benchmark-training"
NOT_YET = f"Not measured yet: `{COMMAND}`."
Evidence = Mapping[str, Any]
Figures = Sequence[Evidence]

_HEAD = f"""<!-- made by `{COMMAND}`: change docs/performance.py, not this file -->

# How fast it trains

What training costs on two CPU cores, compared with the alternatives. Contenders run in processes of their own, in turns, with the same
number of threads; a ratio is the geometric mean over rounds, with a 95 % bootstrap interval, expanded for few rounds as in Hesterberg
(2015). [Faster training](how-to/backend.md) says how to use it."""

_RACES = """Everything counts, from the start of the process to its end: imports, digits, training, evaluation after each epoch, pictures.
The lower bound of `sprint` has to reach 99.4 % on the test digits, that of `dash` 99.0 %. After the mean time of a whole command, the
shortest and the longest of the ten stand in brackets."""

_PEERS = """The recipe of pytorch/examples' `mnist` (1.2 million parameters) and the documented one of `layered-19k`, written from their published
settings as a plain loop over tensors in memory. Their own scripts read pictures one by one and evaluate after each epoch; both are left
out here. In each round a peer trains for one epoch, and its whole recipe is extrapolated as that process plus the further epochs; each was
also trained to its end once."""

_LOOP = """Steps of 128 digits, by a plain eager PyTorch loop over normalized float tensors with PyTorch's own dropout, and by ours with either
backend; nothing is augmented. Each round goes through all networks, each in new processes that have warmed up. The last column is the
fraction of the floating-point rate that a 1024 × 1024 matrix product reaches on the same threads. It counts the multiplications of
convolutions and linear layers: forward, for the gradients of their weights and, except in the first layer, for those of their inputs."""

_PROFILE = """Steps of `fast`: AdamW, every digit resampled. The native backend is measured by a clock around each kernel (a ReLU behind a batch norm
counts as part of it), PyTorch by its profiler. Per cent of a step's wall-clock time on one thread; `rest` is the loss, autograd and
Python."""

_SEEDS = (
    """`tinydigits prove` trains one seed per core; the alternative is one run after another, each with two threads."""
)

_TRIED = """These were tried on two cores of the same kind, one measurement each; the [log](../LOG.md) has more.

Did not help:

- **`torch.compile`**: 25.6 s an epoch instead of 28.4 s at best, two to four times as slow at worst.
- **JAX (XLA) on the CPU**: 38 s an epoch of a network of 17,000 parameters; eager PyTorch took 15 s.
- **A second thread in PyTorch**: two processes with one thread each trained 1,041 to 1,576 images/s, one with two threads 396 to 689. Two
  threads on a busy machine are up to ten times as slow as one.
- **Max pooling as the maximum of strided slices**: slower than PyTorch's own.
- **Dropout masks** by `torch.where` (17 ms), `masked_fill` (27 ms) or booleans (17 ms) instead of floats (7.2 ms); PyTorch's module takes
  31 ms.
- **Augmentation by kornia**: 68 ms for 1,024 pictures; one `grid_sample` takes 29 ms, and the native kernel less still.

Helped:

- **Fewer epochs**: three for `sprint`, with half the augmentation, where five took 39.5 s; one for `dash`, without augmentation, where two
  took 17.9 s. With two epochs, `sprint` would only just reach 99.4 %.
- **Pooling before batch norm and ReLU** in our own networks: 33 → 26 s an epoch.
- **Channels last**: PyTorch's convolutions take a tenth to a third less. But not in narrow networks: with two threads, batch norm of 3 to
  7 channels takes five to ten times as long, because both threads write to one cache line. So the width of the first convolution decides.
- **Keeping freed memory** for the next step: saves 13 to 29 % of a training's time.
- **Native kernels**: up to five times as fast, and more so the narrower the network; with `tiny-20k`, the widest of the separable ones,
  PyTorch's kernels keep up.
- **Planning calls once**, with their memory, instead of preparing them in each step, and setting seeds without asking every device: the
  smallest networks take half the time (3.0 → 1.5 ms a step of 64 digits), `pyramid-9k` a sixth less, the documented networks a fifth less,
  with the same bits; `blocks-19k` takes 0.42 GB instead of 0.72 GB.
- **One thread for PyTorch** beside the native backend's two: its second thread would spin between its few operations.
- **Not loading PyTorch's compiler**, which its optimisers import, nor SciPy: saves a second of every command."""

_GPU = """With `--device cuda` the digits lie on the GPU, and an epoch never waits for it: the loss is read after each epoch. This is tested on the
CPU only. No GPU was available, so there are no figures."""


def main(target: Path = ROOT / "docs", results: Path = ROOT / "results") -> None:
    """Write page and pictures into `target`."""
    path = results / "training.json"
    evidence = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"figures": []}
    (target / "pictures").mkdir(parents=True, exist_ok=True)
    for name, bars, title in (
        ("peers", _peer_bars, "Wall-clock of the whole recipe, as a multiple of sprint's"),
        ("loop", _loop_bars, "Images a second, as a multiple of a plain eager loop's"),
    ):
        if found := bars(evidence["figures"]):
            with style():
                write(_draw(found, title), target / "pictures" / f"performance-{name}.png")
    write_bytes(target / "performance.md", page(evidence).encode())


def page(evidence: Evidence) -> str:
    """The whole page in Markdown."""
    figures = evidence["figures"]
    parts = [
        _HEAD,
        "## To 99.4 % and to 99.0 %",
        _RACES,
        _figure_table(_of(figures, "sprint", "dash")),
        "## Beside whole recipes of others",
        _PEERS,
        *_picture("peers", "How many times longer the peers take", _peer_bars(figures)),
        _figure_table(_of(figures, "peers", "accuracy", "pytorch-example", "layered-19k")),
        "## The loop itself",
        _LOOP,
        *_picture("loop", "How many times as fast as a plain loop", _loop_bars(figures)),
        _loop_table(_of(figures, "loop", "loop-2")),
        "## Where a step's time goes",
        _PROFILE,
        _profile_table(_of(figures, "profiles")),
        "## Many seeds",
        _SEEDS,
        _figure_table(_of(figures, "seeds", "seeds-native")),
        "## What was tried",
        _TRIED,
        "## On a GPU",
        _GPU,
    ]
    if twice := [figure for figure in figures if "again" in figure]:
        parts += ["## Measured twice", _twice(twice)]
    if figures:
        parts.append(made_by("training", evidence, "../"))
    return "\n\n".join(parts) + "\n"


def _of(figures: Figures, *sections: str) -> Figures:
    return [figure for figure in figures if figure["section"] in sections]


def _twice(figures: Figures) -> str:
    """How many figures of a second measurement agree with the first, and which do not, or reach another goal."""

    def reached(outcome: Evidence) -> tuple[Any, Any]:
        return outcome.get("reached"), outcome.get("stretch_reached")

    pairs = [(first, {**first, **first["again"]}) for first in figures]
    rows = [
        [first["name"], *(f"{figure_value(f)}; {figure_goal(f)}" for f in (first, second))]
        for first, second in pairs
        if not second["agrees"] or reached(first) != reached(second)
    ]
    agreeing = sum(second["agrees"] for _, second in pairs)
    said = f"""`python -m benchmarks.training --again` measured the {len(figures)} figures that have an interval a second time; for
{agreeing} of them the two intervals overlap."""
    if not rows:
        return said
    table = markdown_table("figure|first|second", rows)
    return f"{said} These do not overlap, or reach a goal only once:\n\n{table}"


def _figure_table(figures: Figures) -> str:
    if not figures:
        return NOT_YET
    return markdown_table(
        "figure|value>|n>|goal", [[f["name"], figure_value(f), str(f.get("n", "–")), figure_goal(f)] for f in figures]
    )


def _loop_table(figures: Figures) -> str:
    """A line a network and number of threads."""
    if not figures:
        return NOT_YET
    rows = []
    for network, threads in dict.fromkeys((f["network"], f["threads"]) for f in figures):
        own = [f for f in figures if (f["network"], f["threads"]) == (network, threads)]
        speed = {f["backend"]: f"{f['value']:,}" for f in own if f["unit"] == "images/s"}
        times = {f["backend"]: f for f in own if f["unit"] == "times"}
        fraction = {f["backend"]: f"{f['value']:.0f} %" for f in own if f["unit"] == "%"}
        rows.append(
            [
                f"`{network}`", str(threads), *(speed[way] for way in ("eager", "torch", "native")),
                *(f"{times[way]['value']}{figure_interval(times[way])}" for way in ("torch", "native")),
                figure_goal(times["native"]), " / ".join(fraction[way] for way in ("eager", "torch", "native")),
            ]
        )  # fmt: skip
    columns = "network|threads>|eager, images/s>|torch>|native>|torch, times>|native, times>|goal of native"
    return markdown_table(f"{columns}|fraction of the matrix product, eager / torch / native>", rows)


def _profile_table(figures: Figures) -> str:
    if not figures:
        return NOT_YET
    rows = [[f"`{f['network']}`", f["backend"], *(f"{f['fractions'][kind]:.0f}" for kind in KINDS)] for f in figures]
    return markdown_table("network|backend|" + "|".join(f"{kind}>" for kind in KINDS), rows)


# ------------------------------------------------------------------------------------------ pictures


@dataclass(frozen=True)
class Bar:
    """A ratio with its interval, and what it has to reach."""

    label: str
    value: float
    interval: tuple[float, float]
    goal: float
    strong: bool


def _picture(name: str, words: str, bars: Sequence[Bar]) -> list[str]:
    return [f"![{words}](pictures/performance-{name}.png)"] if bars else []


def _peer_bars(figures: Figures) -> list[Bar]:
    return _bars(_of(figures, "peers"), lambda f: f["name"].split(" / ")[0], lambda _: True)


def _loop_bars(figures: Figures) -> list[Bar]:
    def label(figure: Evidence) -> str:
        threads = "" if figure["threads"] == 1 else f", {figure['threads']} threads"
        return f"{figure['network']}{threads}, {figure['backend']}"

    return _bars(_of(figures, "loop", "loop-2"), label, lambda f: bool(f["backend"] == "native"))


def _bars(figures: Figures, label: Callable[[Evidence], str], strong: Callable[[Evidence], bool]) -> list[Bar]:
    return [
        Bar(label(f), f["value"], tuple(f["interval"]), float(f["goal"].split(",")[0].removeprefix(">= ")), strong(f))
        for f in figures
        if f["unit"] == "times"
    ]


def _draw(bars: Sequence[Bar], title: str) -> "Figure":
    """A bar each, its interval as a line, its goal as a tick."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.lines import Line2D

    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
    figure = Figure(figsize=(9.6, 1.4 + 0.3 * len(bars)), dpi=DPI, layout=layout)
    axes = figure.subplots()
    for index, bar in enumerate(bars):
        axes.barh(index, bar.value, height=0.62, color=BLUE if bar.strong else GREY, alpha=0.85)
        axes.plot(bar.interval, [index, index], color="black", linewidth=1.6)
        axes.plot([bar.goal, bar.goal], [index - 0.4, index + 0.4], color=VERMILION, linewidth=2)
        end = max(bar.value, bar.interval[1], bar.goal)
        axes.annotate(f" {bar.value:g}", (end, index), va="center", fontsize=9)
    axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, 1.1 * max(max(bar.interval[1], bar.goal) for bar in bars))
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_title(title, pad=10)
    handles = [
        Line2D([], [], color="black", linewidth=1.6, label="95 % interval"),
        Line2D([], [], color=VERMILION, linewidth=2, label="goal"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


if __name__ == "__main__":
    main()
