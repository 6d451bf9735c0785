"""Weights and cards: saved atomically, loaded strictly, and refused in sentences with nothing loaded."""

import copy
import hashlib
import importlib.resources
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from tinydigits.errors import StorageError, UnknownModelError, WeightsError
from tinydigits.models.factory import create_model, load_model
from tinydigits.models.registry import list_models
from tinydigits.models.weights import card_path, load_weights, packaged_weights, save_weights
from tinydigits.records import Calibration, Card, Environment

CARD = Card(
    model="plain-9k",
    mean=0.1307,
    std=0.3081,
    data="mnist",
    data_sha256="ab" * 32,
    split="test",
    recipe_name="fast",
    recipe={"epochs": 10, "augmentation": {"rotation": 10.0}},
    seed=0,
    epochs=10,
    accuracy=0.9747,
    chosen="Seed 0, fixed beforehand.",
    command="tinydigits train plain-9k",
    environment=Environment(
        python="3.11", packages={"torch": "2"}, platform="Linux", processor="one", cores=1, threads=1
    ),
)
CALIBRATION = Calibration(temperature=0.94, threshold=2.7, coverage=0.995, rejected={"letters": 0.4})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    path = tmp_path / "model.safetensors"
    save_weights(path, create_model("plain-9k"), CARD)
    return path


def state(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(dict(model.state_dict()))


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", list_models())
def test_what_was_saved_is_loaded_bit_for_bit(tmp_path: Path, name: str) -> None:
    model = create_model(name)
    model(torch.randn(4, 1, 28, 28))  # running statistics are no longer what a new network has
    saved = save_weights(tmp_path / "x.safetensors", model, replace(CARD, model=name))
    other = create_model(name)
    assert load_weights(other, tmp_path / "x.safetensors", name) == saved
    assert same(state(other), state(model))
    assert saved.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_the_card_is_readable_and_carries_the_hash(path: Path) -> None:
    document = json.loads(card_path(path).read_text())
    assert document["weights_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (document["schema"], document["parameters"], document["mean"]) == (1, 9_032, 0.1307)
    assert document["recipe"]["augmentation"] == {"rotation": 10.0}
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["model.json", "model.safetensors"]


def test_an_unscored_model_has_no_accuracy(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_weights(path, create_model("plain-9k"), replace(CARD, accuracy=None))
    assert load_weights(create_model("plain-9k"), path).accuracy is None


def test_the_calibration_is_carried_in_the_card(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    card = replace(CARD, calibration=CALIBRATION)
    save_weights(path, create_model("plain-9k"), card)
    assert load_weights(create_model("plain-9k"), path).calibration == CALIBRATION


def test_weights_that_two_layers_share_are_kept(tmp_path: Path) -> None:
    shared = nn.Linear(3, 3)
    save_weights(tmp_path / "x.safetensors", nn.Sequential(shared, shared), CARD)
    other = nn.Linear(3, 3)
    load_weights(nn.Sequential(other, other), tmp_path / "x.safetensors")
    assert torch.equal(other.weight, shared.weight)


def rewrite(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    """Change tensors and let the card know the new hash, so that only the tensors are at fault."""

    def spoil(path: Path) -> None:
        tensors = safetensors.torch.load(path.read_bytes())
        change(tensors)
        content = safetensors.torch.save(tensors)
        path.write_bytes(content)
        set_card("weights_sha256", hashlib.sha256(content).hexdigest())(path)

    return spoil


def set_card(key: str, value: Any) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        document = json.loads(card_path(path).read_text())
        document[key] = value
        card_path(path).write_text(json.dumps(document))

    return spoil


def drop_from_card(key: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        document = json.loads(card_path(path).read_text())
        del document[key]
        card_path(path).write_text(json.dumps(document))

    return spoil


def flip(position: int) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[position] ^= 1
        path.write_bytes(content)

    return spoil


def other_weights(path: Path) -> None:
    torch.manual_seed(2)
    save_weights(path.with_name("other.safetensors"), create_model("plain-9k"), CARD)
    path.with_name("other.safetensors").replace(path)


SPOILED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no file": (lambda p: p.unlink(), "there is no such file"),
    "no card": (lambda p: card_path(p).unlink(), "its card model.json is missing"),
    "empty": (lambda p: p.write_bytes(b""), "not an intact safetensors file"),
    "text": (lambda p: p.write_text("these are no weights " * 99), "not an intact safetensors file"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-100]), "not an intact safetensors file"),
    "bit flipped in the weights": (flip(-5), "do not belong together: SHA-256"),
    "bit flipped in the header": (flip(0), "model.safetensors"),
    "weights of another run": (other_weights, "do not belong together"),
    "card is no JSON": (lambda p: card_path(p).write_text("{"), "model.json is damaged, no valid JSON"),
    "card is bytes": (lambda p: card_path(p).write_bytes(b"\xff\x00"), "model.json is damaged, no valid JSON"),
    "card is nested deeply": (
        lambda p: card_path(p).write_text("[" * 99_999),
        "model.json: expected `object`, got `array`",
    ),
    "card is foreign": (
        lambda p: card_path(p).write_text('{"name": "x"}'),
        "model.json: object contains unknown field `name`",
    ),
    "card is a list": (lambda p: card_path(p).write_text("[1]"), "model.json: expected `object`, got `array`"),
    "newer schema": (set_card("schema", 2), "its schema is 2, and this version reads 1"),
    "unknown key": (set_card("colour", "red"), "model.json: object contains unknown field `colour`"),
    "missing key": (drop_from_card("mean"), "model.json: object missing required field `mean`"),
    "wrong type": (set_card("mean", "0.13"), "model.json: mean: expected `float`, got `str`"),
    "truth is no number": (set_card("seed", True), "model.json: seed: expected `int`, got `bool`"),
    "not finite": (set_card("mean", float("nan")), "model.json is damaged, no valid JSON"),
    "std zero": (set_card("std", 0), "model.json: std: expected `float` > 0.0"),
    "calibration is no table": (
        set_card("calibration", [1.0, 2.7]),
        "model.json: calibration: expected `object | null`, got `array`",
    ),
    "no threshold": (
        set_card("calibration", {"temperature": 1}),
        "model.json: calibration: object missing required field `threshold`",
    ),
    "threshold not finite": (
        set_card("calibration", {**CALIBRATION.as_dict(), "threshold": float("inf")}),
        "model.json is damaged, no valid JSON",
    ),
    "temperature is text": (
        set_card("calibration", {**CALIBRATION.as_dict(), "temperature": "1"}),
        "model.json: calibration.temperature: expected `float`, got `str`",
    ),
    "temperature zero": (
        set_card("calibration", {**CALIBRATION.as_dict(), "temperature": 0}),
        "model.json: calibration.temperature: expected `float` > 0.0",
    ),
    "another model": (set_card("model", "tiny-10k"), "holds weights of tiny-10k, not of plain-9k"),
    "wrong count": (set_card("parameters", 9_033), "counts 9,033 parameters, but the network .* has 9,032"),
    "missing tensor": (rewrite(lambda t: t.pop("0.weight")), "tensor 0.weight is missing"),
    "foreign tensor": (rewrite(lambda t: t.update(z=torch.zeros(1))), "tensor z does not belong"),
    "wrong shape": (
        rewrite(lambda t: t.update({"0.weight": torch.zeros(8, 1, 9, 1)})),
        r"float32 \[8, 1, 9, 1\], but the network needs float32 \[8, 1, 3, 3\]",
    ),
    "wrong type of number": (
        rewrite(lambda t: t.update({"0.weight": t["0.weight"].half()})),
        r"float16 \[8, 1, 3, 3\]",
    ),
    "not a number": (rewrite(lambda t: t["12.weight"].view(-1)[3].fill_(torch.nan)), "tensor 12.weight .* not finite"),
    "infinite": (rewrite(lambda t: t["12.weight"].view(-1)[3].fill_(torch.inf)), "tensor 12.weight .* not finite"),
}


@pytest.mark.parametrize("what", SPOILED)
def test_what_does_not_fit_is_refused_and_nothing_is_loaded(path: Path, what: str) -> None:
    spoil, said = SPOILED[what]
    spoil(path)
    model = create_model("plain-9k")
    before = state(model)
    with pytest.raises(WeightsError, match=said):
        load_weights(model, path, "plain-9k")
    assert same(state(model), before)


def test_a_failed_save_leaves_the_old_weights_usable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full_disk(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(StorageError, match="disk is full"):
        save_weights(path, create_model("plain-9k"), CARD)
    assert path.read_bytes() == before
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["model.json", "model.safetensors"]
    load_weights(create_model("plain-9k"), path)


@pytest.mark.parametrize("as_directory", [True, False])
def test_a_run_directory_or_a_file_is_a_model(path: Path, as_directory: bool) -> None:
    model, card = load_model(path.parent if as_directory else str(path))
    assert card.model == "plain-9k"
    assert not model.training
    torch.manual_seed(1)
    assert same(state(model), state(create_model("plain-9k")))


def test_a_users_network_is_built_from_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(
        "from torch import nn\nclass Net(nn.Sequential):\n  def __init__(self):\n"
        "    super().__init__(nn.Flatten(), nn.Linear(784, 10))\n"
    )
    model = create_model("net.py:Net")
    save_weights(Path("run.safetensors"), model, replace(CARD, model="net.py:Net"))
    loaded, card = load_model("run.safetensors")
    assert card.model == "net.py:Net"
    assert same(state(loaded), state(model))


def test_a_directory_without_weights_is_said(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds no model\.safetensors"):
        load_model(str(tmp_path))


def test_a_source_that_is_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownModelError, match="plain-9k.* Nor is there a run directory"):
        load_model("plane-9k")
    with pytest.raises(WeightsError, match="there is no such file"):
        load_model("gone.safetensors")
    with pytest.raises(WeightsError, match="a network without weights"):
        load_model("net.py:Net")


@pytest.fixture
def shipped(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that ships weights for plain-9k and for nothing else."""
    directory = path.parent / "package" / "weights"
    directory.mkdir(parents=True)
    for file in (path, card_path(path)):
        file.replace(directory / f"plain-9k{file.suffix}")
    monkeypatch.setattr(importlib.resources, "files", lambda _: directory.parent)
    return directory / "plain-9k.safetensors"


def test_shipped_weights_are_found_by_either_name(shipped: Path) -> None:
    assert packaged_weights("plain_9k") == shipped
    assert packaged_weights("layered-19k") is None
    model, card = load_model("plain_9k")
    assert card.accuracy == 0.9747
    assert same(state(create_model("plain-9k", pretrained=True)), state(model))


def test_weights_that_are_not_shipped_are_said_with_those_that_are(shipped: Path) -> None:
    with pytest.raises(WeightsError, match=r"layered-19k: no weights are shipped for it \(shipped: plain-9k\)"):
        create_model("layered-19k", pretrained=True)


def test_weights_in_this_package_fit_their_models() -> None:
    for name in filter(packaged_weights, list_models()):
        assert load_model(name)[1].model == name
