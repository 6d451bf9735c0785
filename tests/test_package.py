"""The package as a stranger gets it: a wheel, in an empty environment."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENVIRONMENT = dict(os.environ)  # before fixtures close the network; a package index is needed here


def _run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip"]
    probe = subprocess.run(
        [*pip, "download", "--quiet", "--no-deps", "--dest", str(place / "probe"), "setuptools>=77"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    if probe.returncode:
        pytest.skip("building and installing a wheel takes a package index, and none answers")
    _run(*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(place), str(ROOT), cwd=place)
    return next(place.glob("*.whl"))


def test_the_wheel_holds_weights_and_types_but_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "tinydigits/py.typed" in names
    assert "tinydigits/weights/tiny-10k.safetensors" in names
    assert "tinydigits/weights/tiny-10k.json" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "benchmarks/", "docs/")) for name in names)


@pytest.mark.slow
def test_the_wheel_trains_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    _run(sys.executable, "-m", "venv", str(tmp_path / "env"), cwd=tmp_path)
    binaries = tmp_path / "env" / "bin"
    constraints = str(ROOT / "constraints.txt")
    _run(str(binaries / "pip"), "install", "--quiet", "--constraint", constraints, str(wheel), cwd=tmp_path)
    command = ["train", "--data", "optdigits", "--epochs", "1", "--json"]
    result = json.loads(_run(str(binaries / "tinydigits"), *command, cwd=tmp_path))
    assert result["model"] == "tiny-10k"
    assert result["data"] == "optdigits"
    assert (tmp_path / result["run_dir"] / "curve.png").stat().st_size > 1000
    listed = json.loads(_run(str(binaries / "tinydigits"), "models", "--json", cwd=tmp_path))
    assert next(row for row in listed if row["model"] == "tiny-10k")["weights"]["accuracy"] > 0.99
