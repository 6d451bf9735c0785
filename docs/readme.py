"""Everything in README.md that the program says or draws, made again: `make readme`.

Trains tiny-10k once with the default command (about two minutes), then replaces what stands between the README's
markers and the pictures in docs/pictures. Needs MNIST.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinydigits.data.sources import load_dataset
from tinydigits.reports.plots import digit_gallery

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "docs" / "pictures"
TINYDIGITS = [sys.executable, "-m", "tinydigits"]


def main() -> None:
    """Make pictures and captures, and put the captures into README.md."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as parent:
        parts = {
            "train": _capture(["train"], Path(parent)),
            "inspect": _capture(["inspect", "plain-9k"], Path(parent)),
            "zoo": _zoo_table(),
            "figures": _figures_table(),
        }
        run = Path(parent) / "runs" / "tiny-10k-001"
        _capture(["evaluate", str(run)], Path(parent))
        for name in ("curve.png", "augmentation.png", "mistakes.png", "confusion.png"):
            shutil.copy(run / name, PICTURES / name)
    test = load_dataset("mnist").test
    rows = [[i for i, label in enumerate(test.labels) if label == digit][:4] for digit in range(10)]
    indices = [row[k] for k in range(4) for row in rows]
    digit_gallery(test.images[indices], test.labels[indices], PICTURES / "digits.png")
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    for name, part in parts.items():
        text = _replace(text, name, part)
    readme.write_text(text, encoding="utf-8")


def _capture(arguments: list[str], directory: Path) -> str:
    """What a terminal shows for a command, as a Markdown block."""
    done = subprocess.run(
        [*TINYDIGITS, *arguments],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    lines = "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines())
    return f"```text\n$ tinydigits {' '.join(arguments)}\n{lines}\n```"


def _zoo_table() -> str:
    listed = subprocess.run([*TINYDIGITS, "models", "--json"], stdout=subprocess.PIPE, text=True, check=True)
    rows = ["| model | parameters | MACs | documented | shipped weights |", "|---|--:|--:|--:|--:|"]
    for model in json.loads(listed.stdout):
        shipped = model["weights"] and _percent(model["weights"]["accuracy"])
        documented = model["documented"] and _percent(model["documented"]["accuracy"])
        counts = f"{model['parameters']:,} | {model['macs']:,}"
        rows.append(f"| `{model['model']}` | {counts} | {documented or '–'} | {shipped or '–'} |")
    return "\n".join(rows)


def _figures_table() -> str:
    evidence = json.loads((ROOT / "results" / "loop.json").read_text(encoding="utf-8"))
    machine = evidence["machine"]
    rows = ["| figure | value | goal |", "|---|--:|---|"]
    rows += [f"| {f['name']} | {_value(f)} | {_goal(f)} |" for f in evidence["figures"]]
    packages = ", ".join(f"{name} {machine['packages'][name]}" for name in ("torch", "numpy"))
    rows.append("")
    rows.append(
        f"Made by `{evidence['command']}` on {machine['processor']}, {machine['cores']} cores, {machine['system']}, "
        f"Python {machine['python']}, {packages}; kept in [results/loop.json](results/loop.json)."
    )
    return "\n".join(rows)


def _value(figure: dict[str, Any]) -> str:
    spread = f" ± {figure['sd']}, n = {figure['n']}" if "sd" in figure else ""
    interval = " ({}–{})".format(*figure["interval"]) if "interval" in figure else ""
    return f"{figure['value']} {figure['unit']}{spread}{interval}"


def _goal(figure: dict[str, Any]) -> str:
    if figure["goal"] is None:
        return "–"
    return f"{figure['goal']}: {'reached' if figure['reached'] else '**not reached**'}"


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.2%}".replace("%", " %")


def _replace(text: str, name: str, part: str) -> str:
    pattern = re.compile(rf"(<!-- {name}: made by `make readme` -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    put: Callable[[re.Match[str]], str] = lambda match: f"{match[1]}{part}\n{match[2]}"  # noqa: E731
    text, count = pattern.subn(put, text)
    assert count == 1, f"README.md has {count} places for {name}"
    return text


if __name__ == "__main__":
    main()
