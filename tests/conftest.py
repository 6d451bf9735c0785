"""What all tests share: real MNIST where there is one, and a machine without a cache or a network."""

import os
import re
import struct
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from docs.browser.chromium import Chromium, chromium
from tinydigits.data.dataset import DigitData
from tinydigits.data.mnist import load_mnist
from tinydigits.data.optdigits import load_optdigits

IN_CI = os.environ.get("CI") == "true"
TOOLS = re.compile(r"needs .*(Chromium|Node\.js|gcc|clang|qemu|C compiler|MNIST)|No C compiler")
CLOSED_PORT = "http://127.0.0.1:9"  # nothing listens on the discard port


def _not_in_ci(report: pytest.TestReport | pytest.CollectReport) -> None:
    """In CI, which installs all of them, a test that skips for lack of a tool or of MNIST fails instead."""
    if IN_CI and report.outcome == "skipped" and TOOLS.search(reason := str(report.longrepr)):
        report.outcome = "failed"
        report.longrepr = f"skipped, although CI installs what it needs: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _not_in_ci(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _not_in_ci(report)
    return report


@pytest.fixture(autouse=True)
def _own_cache_and_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Through the environment, so that the processes a test starts have it too; 127.0.0.1 stays in reach."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    if "MPLCONFIGDIR" not in os.environ:  # matplotlib would search all fonts anew for every cache
        monkeypatch.setenv("MPLCONFIGDIR", str(cache / "matplotlib"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, CLOSED_PORT)
        monkeypatch.setenv(name.upper(), CLOSED_PORT)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tests run one process per core; more threads would only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The directory of the real MNIST files; without one the test is skipped."""
    named = os.environ.get("TINYDIGITS_DATA")
    if not named:
        pytest.skip("needs real MNIST: TINYDIGITS_DATA is not set")
    return Path(named)


@pytest.fixture(scope="session")
def mnist(mnist_dir: Path) -> DigitData:
    """The real MNIST."""
    return load_mnist(mnist_dir)


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """`folder:PATH` with twenty pictures of each digit: what processes load and train on fastest."""
    folder = tmp_path_factory.mktemp("digits")
    digits = load_optdigits().train
    for digit in range(10):
        (folder / str(digit)).mkdir()
        for i, image in enumerate(digits.images[digits.labels == digit][:20]):
            Image.fromarray(image).save(folder / str(digit) / f"{i:02}.png")
    return f"folder:{folder}"


@pytest.fixture(scope="session")
def idx_bytes() -> Callable[[NDArray[np.uint8]], bytes]:
    """An array as an IDX file: pictures [N, 28, 28] or labels [N]."""

    def pack(array: NDArray[np.uint8]) -> bytes:
        header = struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape)
        return header + array.tobytes()

    return pack


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 256 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system takes root and the right to mount")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture(scope="module")
def running() -> Iterator[Chromium]:
    """A headless Chromium, without a page yet."""
    with chromium() as browser:
        yield browser
