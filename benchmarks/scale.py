"""Many runs on processes and on Ray: `make benchmark-scale` → results/scale.json, docs/scale.md. Needs MNIST.

Both engines train studies of one-minute runs, in turns. Then simulated runs, which nobody trains, show how many runs
the driver, the process that sends them out and receives their results, can handle. Last, the candidates that a search
costs a second. All of it takes about 40 minutes on two idle cores; `--section NAME` measures a part and keeps the other
figures. `--tiny` tries all of it in a few minutes on few digits, and writes nothing.
"""

import argparse
import functools
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, alternate, figure, fill, ratio, write_section
from benchmarks.search import BUDGET
from tinydigits.data.sources import load_dataset
from tinydigits.inspection.budget import load_budget
from tinydigits.studies.engines import ray as ray_engine
from tinydigits.studies.engines.jobs import Job, JobDone, Report, RunJobs
from tinydigits.studies.engines.local import run_local
from tinydigits.studies.engines.ray_worker import Files, Order, keep_files
from tinydigits.studies.search.space import Tally, fit, random_shape, space_under
from tinydigits.training.config import RunConfig
from tinydigits.training.recipes import get_recipe

COMMAND = "make benchmark-scale"
MODEL = "plain-9k"
_COST_ROUNDS = 5
_LISTINGS = 5
WORKERS = 1_000  # for which the page reckons
CORES = 16  # of a machine of that cluster
LINK_BYTES = 125e6  # a second: one gigabit


@dataclass(frozen=True)
class Size:
    """How much is measured: studies of `runs` a worker, about a minute each; simulated messages and runs."""

    data: str = "mnist"
    epochs: int = 7
    runs: int = 2
    rounds: int = 3
    recorded: int = 10_000
    messages: int = 2_000
    candidates: int = 20_000


TINY = Size(data="optdigits", epochs=2, rounds=1, recorded=100, messages=100, candidates=1_000)


def main() -> None:
    """Measure all, then write the evidence and the page's tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--section", action="append", choices=SECTIONS, help="only this (default: all)")
    parser.add_argument("--tiny", action="store_true", help="few digits, and nothing is written")
    parser.add_argument("--child", nargs=2, metavar=("FUNCTION", "ARGUMENTS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        name, values = arguments.child
        print(json.dumps(_CHILDREN[name](**json.loads(values))))
        return
    found: list[dict[str, Any]] = []
    for section in arguments.section or SECTIONS:
        figures = SECTIONS[section](TINY if arguments.tiny else Size())
        if arguments.tiny:
            found += figures
            continue
        found = write_section("scale", COMMAND, section, figures, list(SECTIONS))
    parts = {"scale-figures": _figures_table(found), "scale-reckoning": _reckoning(found)}
    if arguments.tiny:
        print(*parts.values(), sep="\n\n")
    else:
        fill(ROOT / "docs" / "scale.md", parts, COMMAND)


def study_figures(size: Size) -> list[dict[str, Any]]:
    """Runs an hour, what a run costs beside its training, and what it sends, of both engines."""
    seen: dict[str, list[dict[str, Any]]] = {}

    def study(engine: str, workers: int) -> float:
        with tempfile.TemporaryDirectory() as directory:
            order = {"engine": engine, "workers": workers, "directory": directory, **asdict(size)}
            seen.setdefault(f"{engine} {workers}", []).append(found := _in_child("study", order))
        return float(found["seconds"])

    contenders = {f"{e} {w}": functools.partial(study, e, w) for w in (1, 2) for e in ("local", "ray")}
    seconds = alternate(contenders, size.rounds)
    figures = []
    for name, values in seconds.items():
        engine, workers = name.split()
        rates = [3600 * size.runs * int(workers) / value for value in values]
        what = f"{_TITLES[engine]}: one-minute runs an hour, {workers} at once"
        figures.append(figure(what, round(statistics.median(rates), 1), "runs/h", None, None, values=rates))
    for engine in ("local", "ray"):
        for key, what in (
            ("start", "start, until the first run trains"),
            ("between", "overhead a run, after the first"),
        ):
            values = [found[key] for found in seen[f"{engine} 1"]]
            what = f"{_TITLES[engine]}: {what}"
            figures.append(figure(what, round(statistics.median(values), 2), "s", None, None, values=values))
    for workers in ("1", "2"):
        value, interval = ratio(seconds[f"ray {workers}"], seconds[f"local {workers}"])
        more, reached = round(100 * (value - 1), 1), value < 1.1
        name = f"Ray beside processes: time more for one-minute runs, {workers} at once"
        figures.append(figure(name, more, "%", "< 10", reached, n=size.rounds, ratio_interval=interval))
    back = statistics.median(found["bytes"] for found in seen["ray 2"]) / (2 * size.runs)
    return [
        *figures,
        figure("Ray: sent back by a run, all its epochs", round(back / 1e6, 3), "MB", None, None, epochs=size.epochs),
        figure("Ray: digits, sent to each machine once", round(_digits_bytes(size.data) / 1e6, 1), "MB", None, None),
    ]


_TITLES = {"local": "processes", "ray": "Ray"}


def driver_figures(size: Size) -> list[dict[str, Any]]:
    """What the driver can handle, with simulated runs."""
    with tempfile.TemporaryDirectory() as directory:
        found = _in_child("intake", {"directory": directory, "messages": size.messages, "epochs": size.epochs})
    details = {"simulated": True, "messages": found["messages"], "bytes": found["bytes"]}
    return [
        figure("Ray: epochs that the driver takes in", found["rate"], "epochs/s", None, None, **details),
        figure(
            "Ray: fraction of a core that the driver takes then", found["busy_percent"], "%", None, None, simulated=True
        ),
    ]


def recorded_figures(size: Size) -> list[dict[str, Any]]:
    """Ten thousand simulated runs, sent out, received and recorded; and how soon they are listed."""
    with tempfile.TemporaryDirectory() as directory:
        found = _in_child("record", {"directory": directory, "runs": size.recorded})
        seconds = [_listing_seconds(directory) for _ in range(_LISTINGS)]
    count = f"{size.recorded:,} runs"
    growth = round(1000 * (found["memory"] - found["memory_before"]) / size.recorded, 2)
    listing = round(statistics.median(seconds), 2)
    details = {"simulated": True, "seconds": found["seconds"]}
    return [
        figure("Ray: runs that the driver sends out and records", found["rate"], "runs/s", None, None, **details),
        figure(f"Ray: memory of the driver after {count}", found["memory"], "MB", None, None, simulated=True),
        figure("Ray: memory of the driver for a run more", growth, "kB", None, None, simulated=True),
        figure(f"tinydigits studies, {count}", listing, "s", "< 3", listing < 3, n=_LISTINGS, simulated=True),
    ]


def cost_figures(size: Size) -> list[dict[str, Any]]:
    """Candidates of a search that are described, costed and checked against the budget a second."""
    budget, rates = load_budget(BUDGET), []
    assert budget.max_epochs is not None
    space = space_under(budget)
    for turn in range(_COST_ROUNDS):
        rng, tally = random.Random(turn), Tally()
        started = time.perf_counter()
        while tally.costed < size.candidates:
            fit(random_shape(space, rng), budget, budget.max_epochs, tally)
        rates.append(round(tally.costed / (time.perf_counter() - started)))
    rate = round(statistics.median(rates))
    name = f"search under {BUDGET}: candidates described, costed and checked, one core"
    return [figure(name, rate, "candidates/s", ">= 10,000", rate >= 10_000, values=rates)]


SECTIONS: dict[str, Callable[[Size], list[dict[str, Any]]]] = {
    "studies": study_figures,
    "driver": driver_figures,
    "recorded": recorded_figures,
    "costs": cost_figures,
}


def _in_child(function: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Call one of `_CHILDREN` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.scale", "--child", function, json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _study(engine: str, workers: int, directory: str, data: str, epochs: int, runs: int, **_: Any) -> dict[str, Any]:
    recipe = replace(get_recipe("documented-plain-9k"), epochs=epochs)
    config = RunConfig(MODEL, recipe, data=data, threads=1, device="cpu", backend="torch")
    jobs = [Job(replace(config, seed=seed), Path(directory) / str(seed)) for seed in range(runs * workers)]
    kept = _count_kept_bytes()
    run: RunJobs = ray_engine.run_ray if engine == "ray" else run_local
    start = time.perf_counter()
    ends, trained = [0.0], []
    for event in run(jobs, workers):
        if isinstance(event, JobDone):
            ends.append(time.perf_counter() - start)
            trained.append(event.result.time_seconds)
    beside = [ends[i + 1] - ends[i] - trained[i] for i in range(len(jobs))]  # means something with one worker
    return {
        "seconds": time.perf_counter() - start,
        "start": beside[0],
        "between": statistics.mean(beside[1:]),
        "bytes": sum(kept),
    }


def _intake(directory: str, messages: int, epochs: int) -> dict[str, Any]:
    """Two workers that only send epochs, as large as those of real runs."""
    runs = max(2, messages // epochs)
    _replace_work(functools.partial(_simulated_epochs, epochs))
    kept = _count_kept_bytes()
    start = used = 0.0
    taken = 0
    for _ in ray_engine.run_ray(_simulated_jobs(Path(directory) / "runs", runs), 2):
        if not start:
            start, used = time.perf_counter(), time.process_time()
        taken += 1
    seconds = time.perf_counter() - start
    busy = round(100 * (time.process_time() - used) / seconds, 1)
    return {"rate": round((taken - 1) / seconds, 1), "busy_percent": busy, "messages": taken, "bytes": sum(kept)}


def _record(directory: str, runs: int) -> dict[str, Any]:
    _replace_work(_simulated_result)
    start = before = 0.0
    for done, _ in enumerate(ray_engine.run_ray(_simulated_jobs(Path(directory), runs), 2), 1):
        if done == runs // 10:
            start, before = time.perf_counter(), _memory_mb()
    seconds = time.perf_counter() - start
    return {
        "seconds": round(seconds, 1),
        "rate": round((runs - runs // 10) / seconds, 1),
        "memory": _memory_mb(),
        "memory_before": before,
    }


_CHILDREN: dict[str, Callable[..., dict[str, Any]]] = {"study": _study, "intake": _intake, "record": _record}


def _simulated_jobs(directory: Path, runs: int) -> list[Job]:
    config = RunConfig(MODEL, get_recipe("fast"), data="optdigits", threads=1, device="cpu")
    return [Job(replace(config, seed=seed), directory / f"run-{seed:05d}") for seed in range(runs)]


def _replace_work(make: Callable[[], Callable[..., Iterator[tuple[Report, Files]]]]) -> None:
    """Let the engine run something else than trainings; the rest of it stays as it is."""
    vars(ray_engine)["_travelling_work"] = make


def _simulated_epochs(epochs: int) -> Callable[..., Iterator[tuple[Report, Files]]]:
    def work(versions: object, temporary: object, parts: list[Any]) -> Iterator[tuple[Report, Files]]:  # noqa: ARG001
        import os

        import ray

        from tinydigits.records import Epoch
        from tinydigits.studies.engines.jobs import JobEpoch, JobPaused

        number = ray.get(parts[0]).number
        files = {"config.json": 800, "environment.json": 400, "metrics.jsonl": 1500, "state.safetensors": 120_000}
        for epoch in range(epochs):
            sent = {name: (0, os.urandom(size)) for name, size in files.items()}
            sent["batches.jsonl"] = 30_000 * epoch, os.urandom(30_000)
            figures = Epoch(
                epoch=epoch + 1,
                train_loss=0.1,
                train_accuracy=0.97,
                accuracy=0.98,
                learning_rate=0.01,
                images_per_second=10_000.0,
                time_seconds=8.0,
            )
            yield JobEpoch(number, figures), sent
            files.pop("config.json", None)  # these two no longer change
            files.pop("environment.json", None)
        yield JobPaused(number), {"result.json": (0, b"{}")}

    return work


def _simulated_result() -> Callable[..., Iterator[tuple[Report, Files]]]:
    def work(versions: object, temporary: object, parts: list[Any]) -> Iterator[tuple[Report, Files]]:  # noqa: ARG001
        import json

        import ray

        from tinydigits.records import RunResult, encode
        from tinydigits.studies.engines.jobs import JobDone

        order: Order = ray.get(parts[0])
        seed = order.job.config.seed
        accuracy = 0.98 + seed % 1000 / 1e5
        result = RunResult(
            model="plain-9k",
            data="mnist",
            data_sha256="0" * 64,
            evaluation_sha256="0" * 64,
            code_sha256=None,
            warning=None,
            split="test",
            backend="torch",
            recipe="simulated",
            seed=seed,
            epochs=7,
            accuracy=accuracy,
            interval=(accuracy - 0.003, accuracy + 0.003),
            accuracy_last3=0.98,
            accuracy_best=0.99,
            parameters=9032,
            time_seconds=60.0,
            images_per_second=7_000.0,
            run_dir=str(order.job.directory),
        )
        config = json.dumps({"schema": 1, **order.job.config.as_dict()}).encode()
        yield JobDone(order.number, result), {"config.json": (0, config), "result.json": (0, encode(result))}

    return work


def _count_kept_bytes() -> list[int]:
    """Count the bytes that come back from workers; the list gets a number each time."""
    counts: list[int] = []

    def counted(directory: Path, files: Files) -> None:
        counts.append(sum(len(content) for _, content in files.values()))
        keep_files(directory, files)

    vars(ray_engine)["keep_files"] = counted
    return counts


def _digits_bytes(data: str) -> int:
    digits = load_dataset(data)
    return sum(part.images.nbytes + part.labels.nbytes for part in (digits.train, digits.test))


def _memory_mb() -> float:
    """The memory of this process."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return round(int(status.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6, 1)


def _listing_seconds(directory: str) -> float:
    """`tinydigits studies` from its start to its end."""
    command = [sys.executable, "-m", "tinydigits", "studies", directory, "--sort", "accuracy", "--best", "10"]
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def _figures_table(figures: list[dict[str, Any]]) -> str:
    rows = [
        f"| {item['name']}{' (simulated)' if item.get('simulated') else ''} | {item['value']:,} {item['unit']} "
        f"| {item['goal'] or ''} |"
        for item in figures
    ]
    return "\n".join(["| what | measured | goal |", "|---|--:|--:|", *rows])


def _reckoning(figures: list[dict[str, Any]]) -> str:
    """What a thousand workers with one-minute runs need from the driver, and what it was measured to be capable of."""
    value = {item["name"]: item["value"] for item in figures}
    sent = next(item for item in figures if item["name"].startswith("Ray: sent back"))
    runs = WORKERS / 60  # a second
    rows = [
        (
            "epochs received and written",
            runs * sent["epochs"],
            value["Ray: epochs that the driver takes in"],
            "/s",
        ),
        ("runs sent out and recorded", runs, value["Ray: runs that the driver sends out and records"], "/s"),
        ("network traffic into the driver", runs * sent["value"], LINK_BYTES / 1e6, " MB/s"),
    ]
    lines = [
        f"| {what} | {needed:,.1f}{unit} | {possible:,.1f}{unit} | {WORKERS * possible / needed:,.0f} workers |"
        for what, needed, possible, unit in rows
    ]
    first = min(rows, key=lambda row: row[2] / row[1])
    machines = -(-WORKERS // CORES)
    digits = machines * value["Ray: digits, sent to each machine once"]
    hour = 3600 * runs
    memory = max(0.0, hour * value["Ray: memory of the driver for a run more"] / 1e6)
    more = f"{memory:,.2f} GB of its memory" if memory else "no measurable growth of its memory"
    return "\n".join(
        [
            f"| of {WORKERS:,} workers with one-minute runs | needed | possible | enough for |",
            "|---|--:|--:|--:|",
            *lines,
            "",
            f"**What breaks first:** {first[0]}, at about {WORKERS * first[2] / first[1]:,.0f} workers.",
            "",
            f"One hour is {hour:,.0f} runs: {hour * sent['value'] / 1000:,.1f} GB into the driver, {more}. The "
            f"digits go once to each of {machines} machines with {CORES} cores: {digits / 1000:,.1f} GB, or "
            f"{digits * 1e6 / LINK_BYTES:,.0f} s of a gigabit link.",
        ]
    )


if __name__ == "__main__":
    main()
