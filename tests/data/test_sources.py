import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tinydigits.data import mnist
from tinydigits.data.dataset import DigitData
from tinydigits.data.sources import load_dataset
from tinydigits.errors import ConfigError, DamagedDataError, DataNotFoundError


@pytest.fixture
def no_mnist(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without MNIST whose only mirror hangs up at once."""
    monkeypatch.delenv("TINYDIGITS_DATA", raising=False)
    with socket.socket() as bound:  # bound, not listening: connections are refused
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setattr(mnist, "MIRRORS", (f"http://127.0.0.1:{bound.getsockname()[1]}/",))
        yield


def test_auto_is_mnist_where_it_can_be_had(mnist_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYDIGITS_DATA", str(mnist_dir))
    data = load_dataset()
    assert (data.name, data.warning) == ("mnist", None)


@pytest.mark.usefixtures("no_mnist")
def test_auto_is_optdigits_if_mnist_is_unavailable_and_says_why() -> None:
    data = load_dataset("auto")
    assert data.name == "optdigits"
    assert data.warning is not None
    assert data.warning.startswith("MNIST is unavailable, so these are the digits of optdigits. ")
    assert str(mnist.user_cache()) in data.warning
    assert "no connection" in data.warning
    assert "tinydigits data --fetch" in data.warning


@pytest.mark.usefixtures("no_mnist")
def test_mnist_by_name_does_not_fall_back() -> None:
    with pytest.raises(DataNotFoundError, match="MNIST is not on this machine"):
        load_dataset("mnist")


@pytest.mark.usefixtures("no_mnist")
@pytest.mark.parametrize("name", ["auto", "mnist"])
def test_a_named_directory_without_mnist_does_not_fall_back(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataNotFoundError, match=f"{tmp_path} holds none of MNIST's four files"):
        load_dataset(name, tmp_path)


@pytest.mark.usefixtures("no_mnist")
def test_auto_does_not_fall_back_from_damaged_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in mnist.FILES:
        (tmp_path / file.name).write_bytes(b"short")
    monkeypatch.setenv("TINYDIGITS_DATA", str(tmp_path))
    with pytest.raises(DamagedDataError, match="5 bytes, 47,040,016 expected: the file is cut off"):
        load_dataset("auto")


def test_optdigits_needs_no_notice_when_it_was_asked_for() -> None:
    data: DigitData = load_dataset("optdigits")
    assert (data.name, data.warning) == ("optdigits", None)
    assert len(data.train) + len(data.test) == 1797


def test_a_folder_is_named_after_the_colon(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=f"{tmp_path}/a:b is not a directory"):
        load_dataset(f"folder:{tmp_path}/a:b")


@pytest.mark.parametrize("name", ["mnits", "", "folder", "folder:", "mnist:", "MNIST"])
def test_an_unknown_name_is_refused_with_the_list(name: str) -> None:
    with pytest.raises(ConfigError, match=f"data '{name}' is unknown. Choose auto, mnist, optdigits or folder:PATH"):
        load_dataset(name)
