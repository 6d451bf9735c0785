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

What a training costs on two CPU cores, beside what others would use for the same. Contenders run in processes of their
own, in turns, with equal threads; a ratio is the geometric mean over rounds, with a 95 % bootstrap interval, expanded
for few rounds as Hesterberg (2015) does. How to use it stands in [Faster training](how-to/kernels.md)."""

_RACES = """Everything counts, from the start of the process to its end: imports, digits, training, judging after each epoch,
pictures. `sprint` has to have its lower bound at 99.4 % on the test digits, `dash` at 99.0 %. Behind the mean of a whole
command's time stand the shortest and the longest of the ten."""

_PEERS = """The recipe of pytorch/examples' `mnist` (1.2 million parameters) and the documented one of `layered-19k`, written from
their published settings as a plain loop over tensors in memory. Their own scripts read pictures one by one and judge
after each epoch, which is left out here. In each round a peer trains for one epoch, and its whole recipe is that process
and the further epochs; each was also trained to its end once."""

_LOOP = """Steps of 128 digits by a plain eager PyTorch loop over normalised float tensors, with PyTorch's own dropout, and by ours
with either kernels; nothing is augmented. A round goes through all networks, each in new processes that have warmed up.
The last column is the share of the floating-point rate that a 1024 × 1024 matrix product reaches on the same threads.
It counts the multiplications of convolutions and linear layers: forwards, for their weights' gradients and, but for the
first layer, for their inputs'."""

_PROFILE = """Steps of `fast`: AdamW, every digit resampled. With native kernels by a clock around each kernel, a ReLU behind a batch
norm being part of it; with PyTorch's by its profiler. Per cent of a step's wall-clock on one thread; `rest` is the loss,
autograd and Python."""

_SEEDS = """`tinydigits prove` trains a seed a core; the contender is one run with two threads after another."""

_TRIED = """What was tried on this way, on two cores of the same kind, one measurement each; the [log](../LOG.md) has more.

Did not help:

- **`torch.compile`**: 25.6 s an epoch against 28.4 s at best, two to four times as slow at worst.
- **JAX (XLA) on the CPU**: 38 s an epoch of a network of 17,000 parameters, where eager PyTorch took 15.
- **A second thread in PyTorch**: two processes with a thread each made 1,041 to 1,576 images/s, one with two threads 396
  to 689. Two threads beside other work are up to ten times as slow as one.
- **Max pooling as the maximum of strided slices**: slower than PyTorch's own.
- **Dropout masks** by `torch.where` (17 ms), `masked_fill` (27 ms) or booleans (17 ms) instead of floats (7.2 ms); the
  module of PyTorch takes 31 ms.
- **Augmentation by kornia**: 68 ms for 1,024 pictures, one `grid_sample` 29 ms, the native kernel less still.

Helped:

- **Fewer epochs**: three for `sprint`, with half the augmentation, where five took 39.5 s; one for `dash`, without any, where
  two took 17.9 s. Two for `sprint` would be at the very edge of 99.4 %.
- **Pooling before batch norm and ReLU** where the network is ours to choose: 33 → 26 s an epoch.
- **Channels last**: a tenth to a third less for PyTorch's convolutions. But not for narrow networks: batch norm of 3 to 7
  channels takes five to ten times as long with it on two threads, which write into one line of the cache. So the width of the
  first convolution decides.
- **Freed memory that is kept** for the next step: 13 to 29 % of a training's time.
- **Native kernels**: up to five times as fast, the narrower the network the more; with `tiny-20k`, the widest of the
  separable ones, PyTorch's keep up.
- **Calls planned once**, with their memory, instead of prepared in each step, and seeds set without asking every device:
  the smallest networks take half of the time (3.0 → 1.5 ms a step of 64 digits), `pyramid-9k` a sixth less, the
  documented networks a fifth less, to the same bits; `blocks-19k` takes 0.42 GB instead of 0.72.
- **One thread for PyTorch** beside the native kernels' two: its second one would wait busily between its few operations.
- **Not loading PyTorch's compiler**, which its optimisers do, nor SciPy: a second of every command."""

_GPU = """With `--device cuda` the digits lie on the GPU, an epoch never waits for it (the loss is looked at after each), and
the steps of our networks are replayed as a CUDA graph, once they have been made three times. `tinydigits prove --engine
stacked` trains all seeds at once, each with the shuffles, augmentation, dropout and first weights that it has alone. Both
are tested on the CPU. No GPU was at hand, so no figure is claimed."""


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
    """How many figures of a second run agree with the first; and which do not, or reach another goal."""

    def reached(outcome: Evidence) -> tuple[Any, Any]:
        return outcome.get("reached"), outcome.get("reach_reached")

    pairs = [(first, {**first, **first["again"]}) for first in figures]
    rows = [
        [first["name"], *(f"{figure_value(f)}; {figure_goal(f)}" for f in (first, second))]
        for first, second in pairs
        if not second["agrees"] or reached(first) != reached(second)
    ]
    agreeing = sum(second["agrees"] for _, second in pairs)
    said = f"""`python -m benchmarks.training --again` measured {len(figures)} figures that have an interval a second time; of
{agreeing} the two intervals meet."""
    if not rows:
        return said
    table = markdown_table("figure|first|second", rows)
    return f"{said} These do not meet, or reach a goal once only:\n\n{table}"


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
        speed = {f["kernels"]: f"{f['value']:,}" for f in own if f["unit"] == "images/s"}
        times = {f["kernels"]: f for f in own if f["unit"] == "times"}
        share = {f["kernels"]: f"{f['value']:.0f} %" for f in own if f["unit"] == "%"}
        rows.append(
            [
                f"`{network}`", str(threads), *(speed[way] for way in ("eager", "torch", "native")),
                *(f"{times[way]['value']}{figure_interval(times[way])}" for way in ("torch", "native")),
                figure_goal(times["native"]), " / ".join(share[way] for way in ("eager", "torch", "native")),
            ]
        )  # fmt: skip
    columns = "network|threads>|eager, images/s>|torch>|native>|torch, times>|native, times>|goal of native"
    return markdown_table(f"{columns}|share of the matrix product, eager / torch / native>", rows)


def _profile_table(figures: Figures) -> str:
    if not figures:
        return NOT_YET
    rows = [[f"`{f['network']}`", f["kernels"], *(f"{f['shares'][kind]:.0f}" for kind in KINDS)] for f in figures]
    return markdown_table("network|kernels|" + "|".join(f"{kind}>" for kind in KINDS), rows)


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
        return f"{figure['network']}{threads}, {figure['kernels']}"

    return _bars(_of(figures, "loop", "loop-2"), label, lambda f: bool(f["kernels"] == "native"))


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
    for place, bar in enumerate(bars):
        axes.barh(place, bar.value, height=0.62, color=BLUE if bar.strong else GREY, alpha=0.85)
        axes.plot(bar.interval, [place, place], color="black", linewidth=1.6)
        axes.plot([bar.goal, bar.goal], [place - 0.4, place + 0.4], color=VERMILION, linewidth=2)
        end = max(bar.value, bar.interval[1], bar.goal)
        axes.annotate(f" {bar.value:g}", (end, place), va="center", fontsize=9)
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
