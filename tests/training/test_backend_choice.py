"""`--backend auto`: native where network, device and machine allow it, else torch; and the header says why."""

from pathlib import Path

import pytest
from torch import Tensor, nn

from tinydigits.cli.main import main
from tinydigits.errors import ConfigError, ToolMissingError
from tinydigits.models.factory import create_model
from tinydigits.training.backends.choice import Choice, choose_backend
from tinydigits.training.backends.native.library import load_kernels
from tinydigits.training.run_config import run_config


class _Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(784, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))  # type: ignore[no-any-return]


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    load_kernels.cache_clear()
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("CC", raising=False)


def test_native_where_everything_allows_it() -> None:
    assert choose_backend(run_config("tiny-10k"), create_model("tiny-10k"), "cpu") == Choice("native")


@pytest.mark.parametrize(
    ("model", "device", "threads", "reason"),
    [
        (create_model("tiny-10k"), "cuda", 1, "native is for the CPU, not cuda"),
        (_Own(), "cpu", 1, "native does not know this network"),
        (create_model("era-8k"), "cpu", 2, "native does not know this network"),  # dropout with two threads
    ],
)
def test_torch_where_something_does_not(model: nn.Module, device: str, threads: int, reason: str) -> None:
    assert choose_backend(run_config("tiny-10k", threads=threads), model, device) == Choice("torch", reason)


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_auto_is_torch_and_native_an_error() -> None:
    model = create_model("tiny-10k")
    assert choose_backend(run_config("tiny-10k"), model, "cpu") == Choice("torch", "native needs a C compiler")
    with pytest.raises(ToolMissingError, match="No C compiler is on the PATH"):
        choose_backend(run_config("tiny-10k", backend="native"), model, "cpu")


def test_torch_by_name_gives_no_reason() -> None:
    assert choose_backend(run_config("tiny-10k", backend="torch"), _Own(), "cpu") == Choice("torch")
    with pytest.raises(ConfigError, match="one nn.Sequential"):
        choose_backend(run_config("tiny-10k", backend="native"), _Own(), "cpu")


def test_the_header_and_the_record_say_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(
        "from torch import nn\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.a = nn.Linear(784, 10)\n    def forward(self, x):\n        return self.a(x.flatten(1))\n"
    )
    assert main(["train", "net.py:Net", "--data", "optdigits", "--epochs", "1", "--out", "run"]) == 0
    assert "1 thread, torch backend (native does not know this network)" in capsys.readouterr().err
    assert '"backend": "torch"' in Path("run/result.json").read_text()
    assert main(["train", "plain-9k", "--data", "optdigits", "--epochs", "1", "--out", "other"]) == 0
    assert "1 thread, native backend; into" in capsys.readouterr().err
    assert '"backend": "native"' in Path("other/config.json").read_text()
