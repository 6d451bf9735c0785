"""Designs: the networks that they describe, their files, and a file of one in place of a model."""

import random
from pathlib import Path

import pytest
import torch

from tests.support.designs import DESIGN, random_design
from tinydigits.cli.main import main
from tinydigits.errors import ConfigError, ModelError
from tinydigits.inspection.design_cost import design_facts
from tinydigits.models.design import build_design, design_toml, load_design
from tinydigits.models.factory import create_model
from tinydigits.models.user_model import code_sha256


def test_a_design_is_the_network_it_describes() -> None:
    names = [type(layer).__name__ for layer in build_design(DESIGN)]
    assert names == [
        "Conv2d", "BatchNorm2d", "ReLU",
        "Conv2d", "MaxPool2d", "BatchNorm2d", "ReLU",
        "Conv2d", "BatchNorm2d", "ReLU", "Conv2d", "BatchNorm2d", "ReLU",
        "Conv2d", "Conv2d", "BatchNorm2d", "ReLU",
        "Dropout", "AdaptiveAvgPool2d", "Flatten", "Linear",
    ]  # fmt: skip
    network = build_design(DESIGN)
    assert network[7] is network[10]
    assert network[8] is not network[11]
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_a_design_written_is_the_design_read(tmp_path: Path) -> None:
    file = tmp_path / "net.toml"
    for seed in range(20):
        design = random_design(random.Random(seed))
        file.write_text(design_toml(design), encoding="utf-8")
        assert load_design(file) == design


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "blocks is missing"),
        ("blocks = []", "at least one block"),
        ("blocks = 3", "must be a list of tables"),
        ("[[blocks]]\nchannels = 0", r"channels = 0: must be from 1 to 1024"),
        ("[[blocks]]\nchannels = 8\nkernal = 3", r"blocks\[0\].kernal is no setting. Did you mean kernel"),
        (
            "[[blocks]]\nchannels = 8\nkernel = 4\npadding = true",
            "padding keeps a map's size only if the kernel is odd",
        ),
        ('[[blocks]]\nchannels = 8\npool = "min"', "pool = 'min': must be one of none, max, average"),
        (
            "[[blocks]]\nchannels = 8\ntimes = 2",
            r"channels = 8 after 1, used 2 times.*Use 1, or times = 1",
        ),
        ("[[blocks]]\nchannels = 8\nkernel = 28\n[[blocks]]\nchannels = 8", r"blocks\[1\]: a map of 1×1 is too small"),
        ('head = "round"\n[[blocks]]\nchannels = 8', "head = 'round': must be one of global, flatten"),
        ("dropout = 1.0\n[[blocks]]\nchannels = 8", "dropout = 1.0: must be at least 0 and below 1"),
        ("channels = ", "is not valid TOML"),
    ],
)
def test_bad_designs_are_named(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "net.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_design(file)
    assert str(caught.value).count("net.toml") == 1


def test_a_design_stands_where_a_model_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.toml").write_text(design_toml(DESIGN), encoding="utf-8")
    assert main(["inspect", "net.toml"]) == 0
    assert f"{design_facts(DESIGN).parameters:,}" in capsys.readouterr().out
    assert main(["train", "net.toml", "--data", "optdigits", "--epochs", "1", "--out", "run", "--quiet"]) == 0
    assert main(["evaluate", "run", "--data", "optdigits"]) == 0
    first = code_sha256("net.toml")
    Path("net.toml").write_text("# another\n" + design_toml(DESIGN), encoding="utf-8")
    assert code_sha256("net.toml") != first
    assert main(["train", "absent.toml"]) == 2
    assert "there is no file absent.toml" in capsys.readouterr().err


def test_a_design_has_no_options_and_no_shipped_weights(tmp_path: Path) -> None:
    file = tmp_path / "net.toml"
    file.write_text(design_toml(DESIGN), encoding="utf-8")
    with pytest.raises(ModelError, match="has no shipped weights"):
        create_model(str(file), pretrained=True)
