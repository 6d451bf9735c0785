"""Training speed on two CPU cores, side by side with what others use: `make benchmark-training`.

Writes results/training.json and docs/performance.md. Needs MNIST, a C compiler and two idle cores, for about two
hours. Contenders run in processes of their own, in turns, with equal threads.

The work is cut into sections, of at most 25 minutes each; `--section NAME`, which may be repeated, measures only these,
and leaves the other figures as they are. `--again` is a second run, of the sections whose figures have intervals: it
puts what it measures beside them, and whether the two agree. `--quick` tries all, with few digits, in a minute or two,
and writes nothing.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import (
    Cost,
    alternate,
    figure,
    measured,
    ratio,
    read_figures,
    started,
    with_section,
    write_evidence,
)
from benchmarks.peers import PEERS
from benchmarks.steps import BATCH, SIDE, WAYS
from tinydigits.evaluation.statistics import mean_lower_bound
from tinydigits.inspection.inspect import inspect_model
from tinydigits.models.factory import create_model
from tinydigits.models.layers import Dropout
from tinydigits.models.registry import list_models, model_of_recipe
from tinydigits.reports.analysis import plural

COMMAND = "make benchmark-training"
TINYDIGITS = [sys.executable, "-m", "tinydigits"]
PYTHON = [sys.executable, "-m"]
CORES = 2
DIGITS = 60_000
MATRIX = 2 * SIDE**3  # floating-point operations of a product
# Accuracy that a recipe has to reach, in per cent; seconds that it may take, and that are reached for.
RACES = {"sprint": (99.40, 60, 25), "dash": (99.00, 20, 8)}
# How many times less than a peer's whole recipe `sprint` has to take, and what is reached for.
AIMS = {"pytorch-example": (12, 30), "layered-19k": (7, 20)}
FASTER = {"bottleneck-9k": 1.5, "pooled-16k": 1.5}  # times as fast as a plain loop; the others: never slower

Figures = list[dict[str, Any]]


@dataclass(frozen=True)
class Setting:
    """How much is measured."""

    data: str = "mnist"  # of whole commands
    seeds: int = 10  # of sprint and dash
    peer_rounds: int = 5
    peer_epochs: int | None = None  # None: the whole recipe
    peer_digits: int = DIGITS
    rounds: int = 5
    steps: int = 20  # a round, of each network in each way
    profiled: int = 30  # steps
    study_seeds: int = 8
    study_epochs: int = 1
    study_rounds: int = 3
    networks: tuple[str, ...] = ()  # (): all
    epochs: int | None = None  # of sprint and dash; None: the recipe's


QUICK = Setting(
    data="optdigits", seeds=1, peer_rounds=1, peer_epochs=1, peer_digits=640, rounds=1, steps=2, profiled=2,
    study_seeds=2, study_epochs=1, study_rounds=1, networks=("plain-9k",), epochs=1,
)  # fmt: skip


def main() -> None:
    """Measure section by section, and write the evidence after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--section", action="append", choices=SECTIONS, help="only this (default: all)")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--again", action="store_true", help="hold a second run against the first")
    way.add_argument("--quick", action="store_true", help="short, and nothing is written")
    arguments = parser.parse_args()
    sections = arguments.section or [name for name in SECTIONS if not (arguments.again and name in ONCE)]
    known = {f["section"] for f in read_figures("training") if "interval" in f}
    if arguments.again and (missing := set(sections) - known):
        sys.exit(f"results/training.json has no intervals from such a machine of: {', '.join(sorted(missing))}.")
    for section in sections:
        print(f"-- {section}", file=sys.stderr, flush=True)
        figures = SECTIONS[section](QUICK if arguments.quick else Setting())
        if arguments.again:
            write_evidence("training", COMMAND, beside(read_figures("training"), section, figures))
        elif not arguments.quick:
            _merge(section, figures)


def _merge(section: str, figures: Figures) -> None:
    """Replace a section's figures in the evidence, and what follows from several sections."""
    known = [f for f in with_section("training", section, figures) if f["section"] != "accuracy"]
    known += [{**f, "section": "accuracy"} for f in accuracy_figures(known)]
    order = ["sprint", "dash", "accuracy", *SECTIONS]
    write_evidence("training", COMMAND, sorted(known, key=lambda f: order.index(f["section"])))


def beside(known: Figures, section: str, figures: Figures) -> Figures:
    """`known` with `again` in the figures of this section that have an interval: they agree if the intervals meet."""
    outcome = ("value", "interval", "reached", "stretch_reached")
    second = {f["name"]: f for f in figures}
    found = []
    for first in known:
        other = second.get(first["name"])
        if first["section"] == section and other is not None and "interval" in first:
            (low, high), (other_low, other_high) = first["interval"], other["interval"]
            again = {key: other[key] for key in outcome if key in other}
            first = {**first, "again": {**again, "agrees": low <= other_high and other_low <= high}}
        found.append(first)
    return found


# ------------------------------------------------------------------------------------------ sprint and dash


def race(recipe: str, setting: Setting) -> Figures:
    """Whole commands, from process start to end: imports, digits, training, judging, pictures."""
    aim, allowed, reach = RACES[recipe]
    costs = [_race_once(recipe, seed, setting) for seed in range(setting.seeds)]
    results = [json.loads(cost.output) for cost in costs]
    accuracies = [100 * result["accuracy"] for result in results]
    seconds = [cost.seconds for cost in costs]
    bound = mean_lower_bound(accuracies)
    epochs = plural(results[0]["epochs"], "epoch")
    what = f"{recipe} ({model_of_recipe(recipe)}, {results[0]['parameters']:,} parameters, {epochs})"
    mean = round(statistics.fmean(seconds), 1)
    spread = {"sd": round(statistics.stdev(accuracies), 3), "lower_bound": round(bound, 3)} if bound else {}
    return [
        figure(
            f"{what}: test accuracy, mean of {setting.seeds} seeds",
            round(statistics.fmean(accuracies), 3),
            "%",
            f"lower bound >= {aim:.2f}",
            bound is not None and bound >= aim,
            n=setting.seeds,
            **spread,
            values=[round(accuracy, 2) for accuracy in accuracies],
        ),
        figure(
            f"{what}: whole command, wall-clock",
            mean,
            "s",
            f"< {allowed}, stretch goal {reach}",
            mean < allowed,
            n=setting.seeds,
            stretch_reached=mean <= reach,
            interval=[round(min(seconds), 1), round(max(seconds), 1)],  # the machine's speed changes within minutes
            values=[round(second, 2) for second in seconds],
        ),
        *_costs(recipe, costs, [result["images_per_second"] for result in results]),
    ]


def _race_once(recipe: str, seed: int, setting: Setting) -> Cost:
    epochs = ["--epochs", str(setting.epochs)] if setting.epochs else []
    options = ["--recipe", recipe, "--threads", str(CORES), "--backend", "native", "--data", setting.data, *epochs]
    with tempfile.TemporaryDirectory() as parent:
        out = ["--seed", str(seed), "--out", str(Path(parent) / "run"), "--json", "--quiet"]
        cost = measured([*TINYDIGITS, "train", str(model_of_recipe(recipe)), *options, *out])
    accuracy = json.loads(cost.output)["accuracy"]
    print(f"{recipe}, seed {seed}: {100 * accuracy:.2f} % in {cost.seconds:.1f} s", file=sys.stderr, flush=True)
    return cost


def _costs(who: str, costs: Sequence[Cost], images_per_second: Sequence[float]) -> Figures:
    """What whole commands took besides wall-clock."""
    speed = round(statistics.fmean(images_per_second))
    processor = round(statistics.fmean(cost.cpu_seconds for cost in costs), 1)
    peak = round(max(cost.peak_bytes for cost in costs) / 1e9, 3)
    return [
        figure(f"{who}: training", speed, "images/s", None, None, n=len(costs)),
        figure(f"{who}: CPU seconds of the whole command", processor, "s", None, None, n=len(costs)),
        figure(f"{who}: peak memory", peak, "GB", None, None, n=len(costs)),
    ]


# ------------------------------------------------------------------------------------------ peers


def peer_rounds(setting: Setting) -> Figures:
    """`sprint` as a whole against each peer's recipe as a whole, of which every round makes one epoch.

    A peer's recipe takes what the process of one epoch takes, and that epoch's time for every further epoch.
    """
    names = list(PEERS)
    epochs: dict[str, list[float]] = {name: [] for name in names}

    def whole(name: str) -> float:
        cost = _peer(name, 1, setting)
        seconds = float(json.loads(cost.output)["epoch_seconds"][0])
        epochs[name].append(seconds)
        return cost.seconds + (PEERS[name].epochs - 1) * seconds

    contenders: dict[str, Callable[[], float]] = {"sprint": lambda: _race_once("sprint", 0, setting).seconds}
    contenders |= {name: lambda name=name: whole(name) for name in names}  # type: ignore[misc]
    seconds = alternate(contenders, setting.peer_rounds)
    figures = []
    for name in names:
        aim, reach = AIMS[name]
        value, interval = ratio(seconds[name], seconds["sprint"])
        details = {key: [round(s, 1) for s in seconds[key]] for key in (name, "sprint")}
        figures.append(
            figure(
                f"{name}, {PEERS[name].epochs} epochs / sprint: wall-clock",
                value,
                "times",
                f">= {aim}, stretch goal {reach}",
                value >= aim,
                stretch_reached=value >= reach,
                n=setting.peer_rounds,
                interval=interval,
                seconds=details,
            )
        )
        speed = round(statistics.fmean(setting.peer_digits / epoch for epoch in epochs[name]))
        figures.append(
            figure(f"{name}: training, one epoch", speed, "images/s", None, None, n=setting.peer_rounds,
                   epoch_seconds=[round(epoch, 2) for epoch in epochs[name]])
        )  # fmt: skip
    return figures


def whole_peer(name: str, setting: Setting) -> Figures:
    """A peer's whole recipe, once: its accuracy, and what it took."""
    epochs = setting.peer_epochs or PEERS[name].epochs
    cost = _peer(name, epochs, setting)
    result = json.loads(cost.output)
    accuracy, seconds = round(100 * result["accuracy"], 2), round(cost.seconds, 1)
    return [
        figure(f"{name}: test accuracy after {plural(epochs, 'epoch')}", accuracy, "%", None, None, n=1),
        figure(f"{name}: whole recipe, wall-clock", seconds, "s", None, None, n=1),
        *_costs(name, [cost], [setting.peer_digits * epochs / sum(result["epoch_seconds"])]),
    ]


def _peer(name: str, epochs: int, setting: Setting) -> Cost:
    options = ["--threads", str(CORES), "--epochs", str(epochs), "--digits", str(setting.peer_digits)]
    return measured([*PYTHON, "benchmarks.peers", name, *options])


def accuracy_figures(figures: Figures) -> Figures:
    """`sprint` is faster than the peers, but not by being worse: what follows when both were measured."""
    accuracies = {f["section"]: f["value"] for f in figures if "test accuracy" in f["name"]}
    found = []
    for name in PEERS:
        if name in accuracies and "sprint" in accuracies:
            ahead = round(accuracies["sprint"] - accuracies[name], 3)
            found.append(figure(f"sprint: accuracy above that of {name}", ahead, "points", ">= 0", ahead >= 0))
    return found


# ------------------------------------------------------------------------------------------ the loop


def loop(threads: int, setting: Setting) -> Figures:
    """Training steps of each network of the zoo in three ways, beside matrix products on the same threads."""
    names = list(setting.networks or list_models())
    if threads > 1:  # where the native backend take no dropout
        names = [name for name in names if not any(isinstance(m, Dropout) for m in create_model(name).modules())]
    seconds: dict[str, dict[str, list[float]]] = {name: {way: [] for way in WAYS} for name in names}
    # Round by round through all networks, each time in new processes: where a process lies in memory, and what else
    # the machine does in these minutes, differ more than one round of a warm process from the next.
    for turn in range(setting.rounds):
        for name in names:
            print(f"{name}, {plural(threads, 'thread')}, round {turn + 1}/{setting.rounds}", file=sys.stderr)
            for way, values in _round(name, threads, setting).items():
                seconds[name][way] += values
    return [f for name in names for f in _steps(name, threads, seconds[name], setting)]


def _round(name: str, threads: int, setting: Setting) -> dict[str, list[float]]:
    steps = ["--threads", str(threads), "--steps", str(setting.steps)]
    with started({way: [*PYTHON, "benchmarks.steps", name, way, *steps] for way in WAYS}) as contenders:
        return alternate(contenders, 1)


def _steps(name: str, threads: int, seconds: dict[str, list[float]], setting: Setting) -> Figures:
    where = f"{name}, {plural(threads, 'thread')}"
    common = {"network": name, "threads": threads, "n": setting.rounds}
    figures = []
    for way in ("torch", "native"):
        value, interval = ratio(seconds["eager"], seconds[way])
        aim = FASTER.get(name, 1.0) if way == "native" else 1.0
        title = f"{where}: plain eager loop / ours with --backend {way}"
        figures.append(
            figure(title, value, "times", f">= {aim:g}", value >= aim, backend=way, interval=interval, **common)
        )
    # floating-point operations of a step and of as many products; times the ratio of their times
    work = BATCH * _operations(name) / MATRIX
    for way in WAYS[:-1]:
        speed = round(BATCH * setting.steps / statistics.median(seconds[way]))
        figures.append(figure(f"{where}: {way}", speed, "images/s", None, None, backend=way, **common))
        value, interval = ratio([100 * work * s for s in seconds["matrix"]], seconds[way])
        figures.append(
            figure(
                f"{where}: {way}, fraction of the matrix-product rate",
                value,
                "%",
                "stretch goal 35" if way == "native" else None,
                value >= 35 if way == "native" else None,
                backend=way,
                interval=interval,
                gflops=round(MATRIX * setting.steps / statistics.median(seconds["matrix"]) / 1e9),
                **common,
            )
        )
    return figures


def _operations(name: str) -> int:
    """Floating-point operations of a training step for a picture, in convolutions and linear layers.

    Two for each multiply-accumulate: forwards, for the gradient of the weights, and, but for the first layer, for that
    of its input.
    """
    inspection = inspect_model(create_model(name), name=name)
    first = next(layer.macs for layer in inspection.layers if layer.macs)
    return 2 * (3 * inspection.macs - first)


def profiles(setting: Setting) -> Figures:
    """Where a step's time goes, one thread."""
    figures = []
    for name in setting.networks or list_models():
        for backend in ("torch", "native"):
            command = [*PYTHON, "benchmarks.profiles", name, backend, "--steps", str(setting.profiled)]
            fractions = json.loads(measured(command).output)
            title = f"{name}, 1 thread, --backend {backend}: convolutions, fraction of a step"
            details = {"network": name, "backend": backend, "fractions": fractions}
            figures.append(figure(title, fractions["convolution"], "%", None, None, **details))
    return figures


# ------------------------------------------------------------------------------------------ many seeds


def seeds(backend: str, setting: Setting) -> Figures:
    """`prove` with so many seeds of tiny-10k against as many runs with two threads, one after another."""

    def study() -> float:
        with tempfile.TemporaryDirectory() as parent:
            out = ["--seeds", str(setting.study_seeds), "--out", str(Path(parent) / "study")]
            return measured([*TINYDIGITS, "prove", *options, *out]).seconds

    def runs() -> float:
        with tempfile.TemporaryDirectory() as parent:
            return sum(
                measured(
                    [*TINYDIGITS, "train", *options, "--seed", str(seed), "--threads", str(CORES), "--out",
                     str(Path(parent) / str(seed))]
                ).seconds
                for seed in range(setting.study_seeds)
            )  # fmt: skip

    epochs = setting.study_epochs
    options = ["tiny-10k", "--recipe", "fast", "--epochs", str(epochs), "--data", setting.data, "--backend", backend]
    options += ["--quiet"]
    seconds = alternate({"study": study, "runs": runs}, setting.study_rounds)
    value, interval = ratio(seconds["study"], seconds["runs"])
    what = f"{setting.study_seeds} seeds of tiny-10k, {plural(epochs, 'epoch')}, --backend {backend}"
    title = f"{what}: prove / one run with {CORES} threads after another"
    details = {key: [round(s, 1) for s in values] for key, values in seconds.items()}
    return [
        figure(title, value, "times", "<= 0.65", value <= 0.65, n=setting.study_rounds, interval=interval,
               backend=backend, seconds=details)
    ]  # fmt: skip


SECTIONS: dict[str, Callable[[Setting], Figures]] = {
    "sprint": lambda setting: race("sprint", setting),
    "dash": lambda setting: race("dash", setting),
    "peers": peer_rounds,
    **{name: lambda setting, name=name: whole_peer(name, setting) for name in PEERS},  # type: ignore[misc]
    "loop": lambda setting: loop(1, setting),
    "loop-2": lambda setting: loop(CORES, setting),
    "profiles": profiles,
    "seeds": lambda setting: seeds("torch", setting),
    "seeds-native": lambda setting: seeds("native", setting),
}
ONCE = {*PEERS, "profiles"}  # measured once: no interval


if __name__ == "__main__":
    main()
