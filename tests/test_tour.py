"""The notebook docs/tour.ipynb: as it is kept, and executed from its first cell to its last."""

import ast
import inspect
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

import tinydigits as td

TOUR = Path(__file__).parent.parent / "docs" / "tour.ipynb"


def _notebook() -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads(TOUR.read_text(encoding="utf-8"))
    return notebook


def test_the_tour_has_fifteen_cells_without_outputs() -> None:
    cells = _notebook()["cells"]
    assert len(cells) == 15
    for cell in cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            compile(source, cell["id"], "exec")
            assert not re.search(r"(from|import) tinydigits(?! as td\n)", source)  # the public face alone
    assert len({cell["id"] for cell in cells}) == 15


def test_the_tours_calls_fit_the_public_functions() -> None:
    """The slow test runs them; this one notices at once when a parameter gets another name."""
    called = set()
    for cell in _notebook()["cells"]:
        for node in ast.walk(ast.parse("".join(cell["source"]) if cell["cell_type"] == "code" else "")):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="td"), attr=name)):
                    keywords = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
                    inspect.signature(getattr(td, name)).bind(*node.args, **keywords)
                    called.add(name)
    assert {"inspect", "train", "evaluate", "predict", "prove", "report"} <= called


@pytest.mark.slow
def test_the_tour_runs_and_shows_what_it_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat, nbclient and ipykernel (the extra dev)")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel (the extra dev)")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    notebook = nbformat.read(TOUR, as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    kinds = {kind for output in shown for kind in output.get("data", {})}
    assert {"image/png", "text/html"} <= kinds  # pictures; tables that Jupyter draws
    assert "application/vnd.jupyter.widget-view+json" in kinds  # progress bars
    assert not [output for output in shown if output.output_type == "error"]
    errors = "".join(output.text for output in shown if output.output_type == "stream" and output.name == "stderr")
    assert "Traceback" not in errors
    assert "Warning" not in errors
    texts = "".join(output.text for output in shown if output.output_type == "stream" and output.name == "stdout")
    assert "at most 10,000: " in texts.splitlines()[-1]  # the verdict's line
    assert list(tmp_path.glob("tmp*/study/verdict.json"))
