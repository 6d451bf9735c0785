"""Designs: what they cost by calculation is what `inspect` counts, and a file of one stands where a model does."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tinydigits.cli.main import main
from tinydigits.errors import ConfigError, ModelError
from tinydigits.models.design import Block, Design, build_design, design_cost, design_toml, load_design
from tinydigits.models.inspect import inspect_model
from tinydigits.models.registry import code_sha256, create_model

DESIGN = Design((Block(8), Block(12, pool="max"), Block(12, times=2), Block(16, separable=True)), dropout=0.05)


def random_design(draw: random.Random) -> Design:
    """Any member of the space, in vain until its maps are large enough."""
    while True:
        blocks: list[Block] = []
        for _ in range(draw.randint(1, 6)):
            channels = draw.randint(1, 20)
            times = draw.choice([1, 1, 1, 2, 3]) if blocks else 1
            blocks.append(
                Block(
                    channels=blocks[-1].channels if times > 1 else channels,
                    kernel=draw.choice([1, 2, 3, 3, 3, 5, 7]),
                    separable=draw.random() < 0.3,
                    times=times,
                    pool=draw.choice(["none", "none", "max", "average"]),
                )
            )
            if blocks[-1].kernel % 2 and draw.random() < 0.3:
                blocks[-1] = replace(blocks[-1], padding=True)
        try:
            return Design(tuple(blocks), draw.choice(["global", "flatten"]), draw.choice([0.0, 0.1]))
        except ConfigError:
            continue


def check_cost(design: Design) -> None:
    counted, cost = inspect_model(build_design(design)), design_cost(design)
    assert cost.parameters == counted.parameters
    assert cost.macs == counted.macs
    assert cost.weight_bytes == counted.weight_bytes
    assert cost.activation_bytes == counted.activation_bytes


@pytest.mark.parametrize("seed", range(60))
def test_the_cost_is_what_inspect_counts(seed: int) -> None:
    check_cost(random_design(random.Random(seed)))


@pytest.mark.slow
def test_the_cost_is_what_inspect_counts_a_thousand_times() -> None:
    draw = random.Random("a thousand")
    for _ in range(1000):
        check_cost(random_design(draw))


def test_ten_thousand_costs_take_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.Conv2d, "__init__", lambda *_: pytest.fail("a network was built"))
    assert design_cost(DESIGN).parameters > 0


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
        ("blocks = 3", "it is a list of tables"),
        ("[[blocks]]\nchannels = 0", r"channels = 0: it is from 1 to 1024"),
        ("[[blocks]]\nchannels = 8\nkernal = 3", r"blocks\[0\].kernal is no setting. Did you mean kernel"),
        ("[[blocks]]\nchannels = 8\nkernel = 4\npadding = true", "only with an odd one does padding keep"),
        ('[[blocks]]\nchannels = 8\npool = "min"', "pool = 'min': it is one of none, max, average"),
        (
            "[[blocks]]\nchannels = 8\ntimes = 2",
            r"channels = 8 after 1, used 2 times.*Take 1, or times = 1",
        ),
        ("[[blocks]]\nchannels = 8\nkernel = 28\n[[blocks]]\nchannels = 8", r"blocks\[1\]: a map of 1×1 is too small"),
        ('head = "round"\n[[blocks]]\nchannels = 8', "head = 'round': it is one of global, flatten"),
        ("dropout = 1.0\n[[blocks]]\nchannels = 8", "dropout = 1.0: it is at least 0 and below 1"),
        ("channels = ", "is no valid TOML"),
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
    assert f"{design_cost(DESIGN).parameters:,}" in capsys.readouterr().out
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
