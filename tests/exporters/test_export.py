"""`tinydigits.export`: the same as the command, as a function that returns a record and prints nothing."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
import torch
from torch import nn

import tinydigits as td
from tinydigits.models.weights import save_weights
from tinydigits.records import Parity, read_record

Part = TypeVar("Part")
NET = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(1, 10, 28), nn.Flatten(), nn.LogSoftmax(dim=1))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_returns_what_it_wrote_and_prints_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "out").mkdir()
    (here / "out" / "notes.txt").write_text("mine")
    watched = []

    def watch(parts: Sequence[Part], what: str, /) -> Iterable[Part]:
        watched.append(what)
        return parts

    result = td.export("tiny-500", "hub", out=here / "out", data=td.load_dataset("optdigits"), watch=watch)
    assert result.parity.verdict == "passed"
    assert result.parity.digits.data == "optdigits-test"
    assert all(Path(file).is_file() for file in result.files)
    assert read_record(here / "out" / "parity.json", Parity, "") == result.parity
    assert (here / "out" / "notes.txt").read_text() == "mine"
    assert watched == ["PyTorch", "the exported files"]
    assert capsys.readouterr() == ("", "")


def test_the_directory_is_named_after_model_and_format(here: Path) -> None:
    result = td.export("tiny_500", "hub", data="optdigits")
    assert {Path(file).parent for file in result.files} == {Path("exports/tiny-500-hub")}


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_a_threshold_that_does_not_fit_the_export_is_a_warning(here: Path) -> None:
    (here / "net.py").write_text(NET)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 10, 28), nn.Flatten(), nn.LogSoftmax(dim=1))
    card = msgspec.structs.replace(td.load_model("tiny-10k")[1], model="net.py:net", data="optdigits")
    save_weights(here / "net.safetensors", model, card)
    result = td.export("net.safetensors", "c")
    assert result.parity.verdict == "passed", result.parity.faults
    assert "ends in log_softmax" in (result.parity.warning or "")
    assert result.parity.logits is not None
    assert result.parity.logits.rejected == 0
