"""The structure of the house: which package may import which, and one name for one thing."""

import ast
import subprocess
import sys
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import tinydigits

PACKAGE = Path(tinydigits.__file__).parent
PACKAGES = [
    "errors",
    "storage",
    "settings",
    "compiler",
    "records",
    "pictures",
    "data",
    "models",
    "inspection",
    "inference",
    "evaluation",
    "training",
    "studies",
    "exporters",
    "server",
    "reports",
    "cli",
]
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name not in ("__init__.py", "__main__.py")
}


def _imports(path: Path) -> set[str]:
    """All modules that a file imports, in functions and for types too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("module", MODULES)
def test_a_package_imports_only_from_packages_above_it(module: str) -> None:
    package = module.split(".")[1]
    for other in _imports(MODULES[module]) & MODULES.keys():
        assert PACKAGES.index(other.split(".")[1]) <= PACKAGES.index(package), f"{module} imports {other}"


def test_no_modules_import_each_other() -> None:
    graph = {module: _imports(path) & MODULES.keys() for module, path in MODULES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_one_class_name_has_one_meaning() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_public_signatures_have_no_untyped_dictionaries() -> None:
    found = []
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                parts = [argument.annotation for argument in [*node.args.args, *node.args.kwonlyargs]] + [node.returns]
                text = " ".join(ast.unparse(part) for part in parts if part is not None)
                if "dict[str, Any]" in text or "Mapping[str, Any]" in text:
                    found.append(f"{module}.{node.name}")
    assert found == []


def test_reports_import_no_torch() -> None:
    for path in (PACKAGE / "reports").glob("*.py"):
        assert not any(module.split(".")[0] == "torch" for module in _imports(path)), path


@pytest.mark.parametrize(
    "code",
    [
        "import tinydigits",
        "from tinydigits.cli.main import build_parser; build_parser().format_help()",
        "import tinydigits.reports.plots",
    ],
)
def test_these_load_no_torch(code: str) -> None:
    probe = f"{code}\nimport sys\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", probe], check=True)


def test_every_public_name_is_there() -> None:
    for name in tinydigits.__all__:
        assert getattr(tinydigits, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tinydigits.nothing  # noqa: B018
