"""Training from Python with a network, loss, optimiser or augmentation of one's own."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tinydigits as td

CONFIG = td.run_config("plain-9k", epochs=2, batch_size=128, data="optdigits", backend="torch")


class Net(nn.Sequential):
    """A linear classifier."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(784, 10))


@pytest.mark.parametrize("model", [Net, Net(), lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10))])
def test_a_class_an_instance_and_a_function_are_trained(tmp_path: Path, model: td.Model) -> None:
    result = td.train(CONFIG, tmp_path / "run", model=model)
    assert result.parameters == 7_850
    assert result.custom == ("model",)
    assert result.verdict is None
    assert json.loads((tmp_path / "run" / "config.json").read_text())["custom"] == ["model"]
    trained, card = td.load_model(tmp_path / "run", model=model)
    assert card.custom == ("model",)
    assert trained(torch.zeros(1, 1, 28, 28)).shape == (1, 10)


def test_an_instance_is_left_as_it_was(tmp_path: Path) -> None:
    model = Net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    td.train(CONFIG, tmp_path / "run", model=model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_of_a_custom_network_need_it_again(tmp_path: Path) -> None:
    td.train(CONFIG, tmp_path / "run", model=Net)
    with pytest.raises(td.TinydigitsError, match="a network of your own.*load_model"):
        td.load_model(tmp_path / "run")


def test_loss_optimizer_and_augmentation_are_used(tmp_path: Path) -> None:
    calls: list[str] = []

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        calls.append("loss")
        return F.multi_margin_loss(logits, labels)

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        calls.append("optimizer")
        return torch.optim.RMSprop(model.parameters())

    def augment(images: Tensor) -> Tensor:
        calls.append("augment")
        assert images.shape[1:] == (1, 28, 28)
        return images + 0.01 * torch.randn_like(images)

    custom = td.Custom(loss=loss, optimizer=optimizer, augment=augment)
    first = td.train(CONFIG, tmp_path / "first", custom=custom)
    assert calls.count("optimizer") == 1
    assert calls.count("loss") == calls.count("augment") == 2 * 12  # 1,438 digits in batches of 128
    again = td.train(CONFIG, tmp_path / "again", custom=custom)
    assert first.accuracy == again.accuracy  # the generator is seeded before each step
    assert (tmp_path / "first" / "metrics.jsonl").exists()


def test_a_custom_run_resumes_with_the_same_parts_only(tmp_path: Path) -> None:
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels) * 2

    custom = td.Custom(loss=loss)
    whole = td.train(CONFIG, tmp_path / "whole", custom=custom)

    class Stopped(Exception):  # noqa: N818
        pass

    def stop(run: object, record: object) -> None:
        if type(record).__name__ == "Epoch":
            raise Stopped

    with pytest.raises(Stopped):
        td.train(CONFIG, tmp_path / "run", custom=custom, on_record=stop)
    with pytest.raises(td.TinydigitsError, match="begun with a loss of your own. Resume it from Python"):
        td.resume(tmp_path / "run")
    with pytest.raises(td.TinydigitsError, match="begun without a model of your own"):
        td.resume(tmp_path / "run", custom=td.Custom(loss=loss, model=Net))
    resumed = td.resume(tmp_path / "run", custom=custom)
    assert resumed.accuracy == whole.accuracy


def test_what_is_no_network_is_a_sentence(tmp_path: Path) -> None:
    for model, sentence in (
        (lambda: 3, "returns int, not a torch.nn.Module"),
        (lambda: nn.Linear(3, 3), "fails on an input"),
    ):
        with pytest.raises(td.TinydigitsError, match=sentence):
            td.train(CONFIG, tmp_path / "run", model=model)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_native_and_custom_parts_exclude_each_other(tmp_path: Path) -> None:
    config = td.run_config("plain-9k", epochs=1, data="optdigits", backend="native")
    with pytest.raises(td.TinydigitsError, match="backend = 'native'.*custom"):
        td.train(config, tmp_path / "run", custom=td.Custom(augment=lambda images: images))
