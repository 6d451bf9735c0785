"""The page on speed: made from whatever was measured, the same bytes every time, and nothing invented."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.measure import measured, ratio, started
from benchmarks.profiles import KINDS, kind_of
from benchmarks.training import _operations, accuracy_figures, beside
from docs import performance
from tinydigits.inspection.inspect import inspect_model
from tinydigits.models.factory import create_model
from tinydigits.storage import write_json

ROOT = Path(__file__).parent.parent
PNG = b"\x89PNG\r\n"


def _figure(
    section: str, name: str, value: float, unit: str, goal: str | None = None, **details: Any
) -> dict[str, Any]:
    reached = None if goal is None else value >= float(goal.split(",")[0].removeprefix(">= "))
    return {"name": name, "value": value, "unit": unit, "goal": goal, "reached": reached, "section": section, **details}


def _loop(network: str, threads: int) -> list[dict[str, Any]]:
    common: dict[str, Any] = {"network": network, "threads": threads, "n": 9}
    found = []
    for way, speed, times in (("torch", 6000, 1.2), ("native", 9000, 1.8)):
        found.append(
            _figure("loop", f"{network} {way}", times, "times", ">= 1.5", backend=way, interval=[1.1, 1.9], **common)
        )
        found.append(_figure("loop", f"{network} {way}", speed, "images/s", backend=way, **common))
        found.append(_figure("loop", f"{network} {way}", 20 * times, "%", backend=way, interval=[20.0, 40.0], **common))
    found.append(_figure("loop", f"{network} eager", 5000, "images/s", backend="eager", **common))
    found.append(_figure("loop", f"{network} eager", 17.0, "%", backend="eager", interval=[16.0, 18.0], **common))
    return found


FIGURES = [
    _figure("sprint", "sprint: test accuracy", 99.47, "%", "99.40", n=10, sd=0.03, lower_bound=99.45),
    _figure("sprint", "sprint: whole command", 24.2, "s", "60, stretch goal 25", n=10, interval=[23.9, 24.5]),
    _figure("peers", "pytorch-example, 14 epochs / sprint: wall-clock", 31.2, "times", ">= 12, stretch goal 30", n=5,
            interval=[30.1, 32.2], stretch_reached=True),
    _figure("peers", "layered-19k, 19 epochs / sprint: wall-clock", 6.8, "times", ">= 7, stretch goal 20", n=5,
            interval=[6.7, 6.9], stretch_reached=False),
    *_loop("bottleneck-9k", 1),
    *_loop("tiny-10k", 2),
    _figure("profiles", "tiny-10k", 61.0, "%", network="tiny-10k", backend="native",
            fractions=dict.fromkeys(KINDS, 12.5)),
]  # fmt: skip
MACHINE = {"processor": "P", "cores": 2, "system": "Linux", "python": "3.11", "packages": {"torch": "2", "numpy": "2"}}


def _pages(tmp_path: Path, figures: list[dict[str, Any]] | None) -> Path:
    results, target = tmp_path / "results", tmp_path / "docs"
    results.mkdir(exist_ok=True)
    if figures is not None:
        write_json(results / "training.json", {"command": performance.COMMAND, "machine": MACHINE, "figures": figures})
    performance.main(target, results)
    return target


def test_what_was_measured_stands_on_the_page(tmp_path: Path) -> None:
    target = _pages(tmp_path, FIGURES)
    text = (target / "performance.md").read_text(encoding="utf-8")
    assert "| sprint: test accuracy | 99.47 % ± 0.03, lower bound 99.45 | 10 | 99.40: reached |" in text
    assert "31.2 times (30.1–32.2) | 5 | >= 12, stretch goal 30: both reached |" in text
    assert "6.8 times (6.7–6.9) | 5 | >= 7, stretch goal 20: **not reached** |" in text
    assert "| `tiny-10k` | 2 | 5,000 | 6,000 | 9,000 | 1.2 (1.1–1.9) | 1.8 (1.1–1.9) | >= 1.5: reached |" in text
    assert "17 % / 24 % / 36 %" in text
    assert text.count("Not measured yet") == 1  # many seeds
    for name in re.findall(r"!\[[^]]*\]\(([^)]*)\)", text):
        assert (target / name).read_bytes().startswith(PNG)
    assert len(list((target / "pictures").iterdir())) == 2


def test_it_is_the_same_every_time(tmp_path: Path) -> None:
    first = {path: path.read_bytes() for path in sorted(_pages(tmp_path, FIGURES).rglob("*.*"))}
    assert first == {path: path.read_bytes() for path in sorted(_pages(tmp_path, FIGURES).rglob("*.*"))}


def test_without_figures_it_says_so(tmp_path: Path) -> None:
    text = (_pages(tmp_path, None) / "performance.md").read_text(encoding="utf-8")
    assert text.count(performance.NOT_YET) == 5
    assert "![" not in text


def test_the_committed_page_is_the_one_that_is_made(tmp_path: Path) -> None:
    performance.main(tmp_path, ROOT / "results")
    assert (tmp_path / "performance.md").read_bytes() == (ROOT / "docs" / "performance.md").read_bytes()


def test_a_second_run_stands_beside_the_first(tmp_path: Path) -> None:
    second = [
        {**figure, "value": figure["value"] + 1, "interval": [end + 1 for end in figure["interval"]]}
        for figure in FIGURES
        if figure["section"] == "peers"
    ]
    known = beside(FIGURES, "peers", second)
    agreed = {figure["name"].split(",")[0]: figure["again"]["agrees"] for figure in known if "again" in figure}
    assert agreed == {"pytorch-example": True, "layered-19k": False}
    assert [{k: v for k, v in figure.items() if k != "again"} for figure in known] == FIGURES
    text = (_pages(tmp_path, known) / "performance.md").read_text(encoding="utf-8")
    assert "the 2 figures that have an interval a second time; for\n1 of them the two intervals overlap." in text
    assert "| 6.8 times (6.7–6.9); >= 7, stretch goal 20: **not reached** | 7.8 times (7.7–7.9); >= 7, stretch" in text


def test_operations_of_a_step() -> None:
    """Three times the multiply-accumulates, but for the first layer, whose input needs no gradient."""
    inspection = inspect_model(create_model("tiny-10k"), name="tiny-10k")
    assert _operations("tiny-10k") == 2 * (3 * inspection.macs - 26 * 26 * 12 * 9)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::mkldnn_convolution", "convolution"),
        ("convolve_weight_gradient", "convolution"),
        ("aten::native_batch_norm", "norm"),
        ("max_pool_backward", "pooling"),
        ("autograd::engine::evaluate_function: MulBackward0", "dropout"),
        ("aten::_fused_adamw_", "optimiser"),
        ("relu_backward", "activation"),
        ("aten::empty", None),
    ],
)
def test_kinds_of_work(name: str, kind: str | None) -> None:
    assert kind_of(name) == kind


def test_accuracies_are_compared_when_both_are_there() -> None:
    peer = {"section": "layered-19k", "name": "layered-19k: test accuracy after 19 epochs", "value": 99.36}
    ours = {"section": "sprint", "name": "sprint: test accuracy, mean of 10 seeds", "value": 99.45}
    assert accuracy_figures([ours]) == []
    (found,) = accuracy_figures([ours, peer])
    assert (found["value"], found["reached"]) == (0.09, True)


def test_a_command_is_measured_from_start_to_end() -> None:
    cost = measured(["python", "-c", "x = bytearray(60_000_000); x[::4096] = x[::4096]; print('done')"])
    assert cost.output == "done\n"
    assert cost.seconds > 0
    assert 60e6 < cost.peak_bytes < 200e6


def test_contenders_answer_round_by_round() -> None:
    code = "import sys\nprint('warm', flush=True)\nfor n, _ in enumerate(sys.stdin): print(n, flush=True)"
    with started({"one": ["python", "-c", code], "other": ["python", "-c", code]}) as contenders:
        assert [contenders["one"]() for _ in range(3)] == [0, 1, 2]
        assert contenders["other"]() == 0


def test_the_interval_of_few_rounds_is_as_wide_as_students() -> None:
    chance = np.random.default_rng(3)
    holds = 0
    for _ in range(200):
        _, (low, high) = ratio(list(np.exp(chance.normal(0, 0.05, 5))), [1.0] * 5, resamples=1000)
        holds += low <= 1 <= high
    assert 176 <= holds <= 200  # 95 % by name, some 92 of five values' resampled means; the plain one: 83
