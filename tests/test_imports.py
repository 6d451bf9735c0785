"""The arrows of the house: a room imports only from rooms before it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tinydigits

PACKAGE = Path(tinydigits.__file__).parent
ROOMS = [
    "errors",
    "storage",
    "settings",
    "compiler",
    "data",
    "models",
    "evaluation",
    "training",
    "studies",
    "reports",
    "shipping",
    "cli",
]
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name not in ("__main__.py",) and path.parent != PACKAGE)


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_from_rooms_before_it(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0]
    for module in _imports(path):
        if module.startswith("tinydigits."):
            other = module.split(".")[1]
            assert ROOMS.index(other) <= ROOMS.index(room), f"{path} imports {module}"
            assert other != "cli" or room == "cli"


def test_reports_import_no_torch() -> None:
    for path in (PACKAGE / "reports").glob("*.py"):
        assert not any(module.split(".")[0] == "torch" for module in _imports(path)), path


@pytest.mark.parametrize(
    "code",
    [
        "import tinydigits",
        "from tinydigits.cli.main import _parser; _parser().format_help()",
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
