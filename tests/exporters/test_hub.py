"""The folder for the Hugging Face Hub, and hubconf.py for torch.hub."""

import importlib.util
import json
import os
import re
import site
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import tinydigits as td
from tests.support.networks import digits
from tinydigits.cli.main import main
from tinydigits.data.normalize import Normalization
from tinydigits.evaluation.predictions import predict_logits
from tinydigits.exporters.hub import load_hub, run_hub
from tinydigits.models.design import Block, Design, design_toml

ROOT = Path(__file__).parents[2]
EXPORT = ["export", "tiny-10k", "--data", "optdigits", "--to", "hub"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hub") / "tiny-10k"
    assert main([*EXPORT, "--out", str(path)]) == 0
    return path


def test_the_folder_holds_what_the_hub_wants(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "config.json", "model.json", "model.safetensors", "parity.json",
    }  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["tiny-10k"]
    assert config["num_parameters"] == 9_426 == sum(p.numel() for p in td.create_model("tiny-10k").parameters())
    assert (config["image_mean"], config["image_std"]) == ([0.1307], [0.3081])
    assert config["id2label"]["7"] == "7"
    assert 2 < config["threshold"] < 3
    shipped = load_file(ROOT / "src" / "tinydigits" / "weights" / "tiny-10k.safetensors")
    stored = load_file(folder / "model.safetensors")
    assert all(torch.equal(shipped[name], stored[name]) for name in shipped.keys() | stored.keys())


def test_the_parity_record_is_that_of_the_other_formats(folder: Path) -> None:
    parity = json.loads((folder / "parity.json").read_text())
    assert parity["verdict"] == "passed"
    assert parity["format"] == "hub"
    assert parity["logits"]["largest_difference"] == 0
    assert parity["logits"]["disagreements_with_pytorch"] == 0
    assert set(parity["files"]) == {"README.md", "config.json", "model.json", "model.safetensors"}


def test_the_folder_is_loaded_as_a_model(folder: Path) -> None:
    images = Normalization(0.1307, 0.3081).array(digits())
    wanted = predict_logits(td.create_model("tiny-10k", pretrained=True), images)
    for model, card in (td.load_model(str(folder)), load_hub(folder)):
        assert card.model == "tiny-10k"
        assert torch.equal(predict_logits(model, images), wanted)
    labels, logits = run_hub(folder, digits())
    assert (logits == wanted.numpy()).all()
    calibration = load_hub(folder)[1].calibration
    assert calibration is not None
    sure = logits.max(axis=1) >= calibration.threshold
    assert 0 < (~sure).sum() < 60  # of 300 digits that are not MNIST's
    assert (labels == np.where(sure, logits.argmax(axis=1), -1)).all()


def test_the_card_begins_with_yaml(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    assert text.startswith("---\nlicense: mit\nlibrary_name: tinydigits\npipeline_tag: image-classification\n")
    head, body = text.removeprefix("---\n").split("\n---\n")
    assert "# tiny-10k" in body
    assert "99.61 % of the test digits" in body
    assert "tinydigits train tiny-10k --recipe record-10k" in body
    yaml = pytest.importorskip("yaml", reason="needs PyYAML to read the head as the Hub does")
    values = yaml.safe_load(head)
    assert values["datasets"] == ["ylecun/mnist"]
    result = values["model-index"][0]["results"][0]
    assert result["dataset"]["split"] == "test"
    assert result["metrics"] == [{"type": "accuracy", "value": 0.9961}]


def test_the_code_in_the_card_runs(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from PIL import Image

    monkeypatch.chdir(folder)
    Image.fromarray(digits()[0]).resize((200, 200)).save(folder / "my-digit.jpg")
    code = re.search("```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert code
    exec(code[1], {})
    assert capsys.readouterr().out.strip() == str(td.load_dataset("optdigits").train.labels[0])


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (
            "net.py:Net",  # a sigmoid cannot be folded, which no one needs here
            "from torch import nn\n\nclass Net(nn.Sequential):\n    def __init__(self):\n"
            "        super().__init__(nn.Flatten(), nn.Linear(784, 16), nn.Sigmoid(), nn.Linear(16, 10))\n",
        ),
        ("net.toml", design_toml(Design((Block(4, pool="max"),)))),
    ],
)
def test_a_network_of_ones_own_takes_its_file_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    file = tmp_path / "mine" / model.partition(":")[0]
    file.write_text(text)
    data = ["--data", "optdigits"]
    assert main(["train", f"mine/{model}", *data, "--epochs", "1", "--quiet", "--out", "run"]) == 0
    assert main(["export", "run", "--to", "hub", *data, "--out", "hub"]) == 0
    file.unlink()
    parity = json.loads((tmp_path / "hub" / "parity.json").read_text())
    assert parity["verdict"] == "passed"
    network, card = load_hub(tmp_path / "hub")
    assert card.model == model
    assert network(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
    readme = (tmp_path / "hub" / "README.md").read_text()
    assert "license:" not in readme
    assert f"# {'Net' if model.endswith('Net') else 'net'}\n" in readme
    assert f"built from `{file.name}` here" in readme
    monkeypatch.chdir(tmp_path / "hub")
    assert td.load_model(".")[1].model == model


def test_int8_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*EXPORT, "--int8"]) == 2
    assert "float32" in capsys.readouterr().err


def test_torch_hub_loads_from_the_local_source() -> None:
    model = torch.hub.load(str(ROOT), "tiny_10k", source="local", pretrained=True)
    assert not model.training
    images = Normalization(0.1307, 0.3081).array(digits())
    assert torch.equal(model(images), td.create_model("tiny-10k", pretrained=True).eval()(images))
    wide = torch.hub.load(str(ROOT), "blocks_19k", source="local", n_channels=8)
    assert wide.training


def test_hubconf_has_an_entry_with_a_docstring_for_every_model() -> None:
    specification = importlib.util.spec_from_file_location("hubconf", ROOT / "hubconf.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    entries = {name for name, value in vars(module).items() if callable(value) and not name.startswith("_")}
    assert entries == {name.replace("-", "_") for name in td.list_models()}  # as torch.hub.list finds them
    assert all(getattr(module, name).__doc__ for name in entries)


def test_hubconf_works_where_tinydigits_is_not_installed(tmp_path: Path) -> None:
    """Without site's .pth files, packages are there and this editable install is not."""
    code = (
        f"import sys; sys.path += {site.getsitepackages()!r}\n"
        "import torch\n"
        f"model = torch.hub.load({str(ROOT)!r}, 'tiny_10k', source='local', pretrained=True)\n"
        "print(model(torch.zeros(1, 1, 28, 28)).shape)\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=dict(os.environ),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "[1, 10]" in done.stdout
