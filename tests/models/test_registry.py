"""Names, recipes, and networks of the user's own."""

import hashlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tinydigits.errors import ModelError, UnknownModelError, WeightsError
from tinydigits.models.factory import create_model
from tinydigits.models.registry import canonical_name, list_models, model_of_recipe, register, target_of
from tinydigits.models.user_model import code_sha256
from tinydigits.training.recipes import list_recipes

GOOD = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(784, 10)
    def forward(self, x):
        return torch.log_softmax(self.head(x.flatten(1)), 1)
def make():
    return Net()
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["plain-9k", "plain_9k"])
def test_dash_and_underscore_name_the_same_model(name: str) -> None:
    assert canonical_name(name) == "plain-9k"
    assert target_of(name) == target_of("plain-9k")
    assert sum(parameter.numel() for parameter in create_model(name).parameters()) == 9_032


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*-9k", ["bottleneck-9k", "plain-9k", "pyramid-9k"]),
        ("*_9k", ["bottleneck-9k", "plain-9k", "pyramid-9k"]),
        ("tiny-10k", ["tiny-10k"]),
        ("nothing*", []),
    ],
)
def test_patterns_choose_models(pattern: str, names: list[str]) -> None:
    assert list_models(pattern) == names


def test_the_documented_networks_come_first() -> None:
    assert list_models()[:5] == ["pooled-16k", "blocks-19k", "layered-19k", "bottleneck-9k", "plain-9k"]
    assert [target_of(name) is not None for name in list_models()] == [True] * len(list_models())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("tinny-10k", "tiny-10k"),
        ("plain9k", "plain-9k"),
        ("zzz", "pooled-16k"),
        ("", "plain-9k"),
        ("net.py", "net.py:Net"),
    ],
)
def test_an_unknown_name_is_answered_with_near_ones(wrong: str, said: str) -> None:
    with pytest.raises(UnknownModelError, match=said):
        create_model(wrong)


def test_an_unknown_option_is_named_with_those_there_are() -> None:
    with pytest.raises(ModelError, match=r"'width'.*in_channels, n_channels"):
        create_model("blocks-19k", width=3)
    with pytest.raises(ModelError, match="Its options: none"):
        create_model("tiny-10k", width=3)


def test_a_taken_name_is_refused() -> None:
    def plain_9k() -> nn.Module:
        return nn.Identity()

    list_models()
    with pytest.raises(ModelError, match="plain-9k"):
        register()(plain_9k)


def test_a_recipe_knows_its_model_and_a_model_its_recipes() -> None:
    for name in list_models():
        reported = target_of(name)
        assert reported is not None
        assert {reported.recipe, *reported.recipes} <= set(list_recipes())
    expected = {"sprint": "pyramid-9k", "dash": "pyramid-9k", "record-10k": "tiny-10k", "record_era": "era-record"}
    assert {recipe: model_of_recipe(recipe) for recipe in expected} == expected
    assert [recipe for recipe in list_recipes() if model_of_recipe(recipe) is None] == ["fast"]
    assert model_of_recipe("unheard-of") is None


@pytest.mark.parametrize("attribute", ["Net", "make"])
def test_a_users_class_or_function_is_a_model(here: Path, attribute: str) -> None:
    (here / "net.py").write_text(GOOD)
    name = f"net.py:{attribute}"
    model = create_model(name)
    assert model.training
    assert model(torch.zeros(3, 1, 28, 28)).shape == (3, 10)
    assert canonical_name(name) == name
    assert target_of(name) is None


def test_the_code_of_a_users_network_has_a_hash_and_the_zoo_has_none(here: Path) -> None:
    (here / "net.py").write_text(GOOD)
    assert code_sha256("net.py:Net") == hashlib.sha256((here / "net.py").read_bytes()).hexdigest()
    assert code_sha256("plain_9k") is None
    with pytest.raises(ModelError, match=r"there is no file absent\.py"):
        code_sha256("absent.py:Net")


def test_trying_a_users_network_leaves_it_and_the_random_numbers_alone(here: Path) -> None:
    (here / "net.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "  return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(784, 10), nn.BatchNorm1d(10))\n"
    )
    torch.manual_seed(0)
    model = create_model("net.py:make")
    after = torch.rand(1)
    torch.manual_seed(0)
    nn.Linear(784, 10)
    assert torch.equal(after, torch.rand(1))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert dict(model.named_buffers())["3.num_batches_tracked"] == 0


def test_a_users_file_may_import_what_stands_beside_it_and_has_a_name_of_its_own(here: Path) -> None:
    (here / "beside_it.py").write_text("WIDTH = 784\n")
    (here / "random.py").write_text(
        GOOD.replace("784", "WIDTH").replace("import torch\n", "import torch\nfrom beside_it import WIDTH\n", 1)
    )
    before = list(sys.path)
    import random

    create_model(f"{here / 'random.py'}:Net")
    assert sys.modules["random"] is random
    assert sys.path == before


def trainable(line: str) -> str:
    return GOOD.replace("    def forward(self, x):\n", f"    def forward(self, x):\n        {line}\n")


def net(forward: str) -> str:
    return f"import torch\nclass Net(torch.nn.Module):\n  def forward(self, x):\n    {forward}\n"


@pytest.mark.parametrize(
    ("source", "attribute", "said"),
    [
        (None, "Net", "there is no file net.py"),
        (
            "x = 1\ny = missing\n",
            "Net",
            r"net\.py does not import: NameError: name 'missing' is not defined \(line 2\)",
        ),
        ("def f(:\n", "Net", r"net\.py does not import: SyntaxError: .*\(line 1\)"),
        ("import no_such_module_anywhere\n", "Net", "ModuleNotFoundError"),
        ("import sys\nsys.exit(3)\n", "Net", r"SystemExit: 3 \(line 2\)"),
        (GOOD, "Nett", "no 'Nett'. Did you mean Net"),
        ("x = 1\n", "Net", "It defines no class or function"),
        ("Net = 7\n", "Net", "neither a class nor a function"),
        ("def Net():\n  return 7\n", "Net", "returns int"),
        ("def Net(width):\n  return width\n", "Net", "called without arguments"),
        (net("return x.flatten(1)"), "Net", r"gives \[2, 784\], not \[2, 10\]"),
        (net("return [x]"), "Net", "returns list"),
        (net("return x @ torch.zeros(3, 3)"), "Net", r"fails on an input \[2, 1, 28, 28\]: RuntimeError.*\(line 4\)"),
        (net("return x.flatten(1)[:, :10]"), "Net", "no trainable parameter"),
        (trainable("if self.training: return x, x"), "Net", "in training mode returns tuple"),
        (trainable("if self.training: return x.flatten(1)"), "Net", r"in training mode gives \[2, 784\]"),
        (trainable("if self.training: assert x.sum() > 0"), "Net", r"in training mode: AssertionError: .*\(line 9\)"),
        (trainable("if self.training: {}['rate']"), "Net", r"in training mode: KeyError: 'rate' \(line 9\)"),
        (trainable("return self.head(x.flatten(1)).detach()"), "Net", "its backward pass fails: RuntimeError"),
        (
            GOOD.replace("784, 10)", "784, 10)\n        self.twice = 2 * self.head.weight"),
            "Net",
            "cannot be copied: Runtime",
        ),
    ],
)
def test_what_is_wrong_with_a_users_file_is_said_in_one_sentence(
    here: Path, source: str | None, attribute: str, said: str
) -> None:
    if source is not None:
        (here / "net.py").write_text(source)
    with pytest.raises(ModelError, match=said) as caught:
        create_model(f"net.py:{attribute}")
    assert "\n" not in str(caught.value)


def test_a_users_network_takes_no_options_and_has_no_shipped_weights(here: Path) -> None:
    (here / "net.py").write_text(GOOD)
    with pytest.raises(ModelError, match="takes no options"):
        create_model("net.py:Net", width=3)
    with pytest.raises(ModelError, match="no shipped weights"):
        create_model("net.py:Net", pretrained=True)


def test_weights_that_are_not_shipped_are_named() -> None:
    with pytest.raises(WeightsError, match=r"plain-9k\+padding=1: no weights are shipped"):
        create_model("plain-9k+padding=1", pretrained=True)


def test_a_variant_has_one_name_however_it_is_written() -> None:
    assert canonical_name("plain_9k+padding=1+batch_norm") == "plain-9k+batch-norm+padding=1"
    assert canonical_name("plain-9k+batch-norm+padding=1") == "plain-9k+batch-norm+padding=1"
    assert canonical_name("plain-9k+dropout=0.0+padding=0") == "plain-9k"
    assert target_of("plain-9k+batch-norm") is None


def test_a_variant_is_built_with_its_options() -> None:
    kinds = [type(layer).__name__ for layer in create_model("plain-9k+batch-norm+dropout=0.25").children()]
    assert kinds.count("BatchNorm2d") == kinds.count("Dropout") == 5
    assert create_model("bottleneck-9k+hidden=32")(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("plain-9k+foo", "plain-9k has no option 'foo'. Its options: batch_norm, dropout, padding"),
        ("tiny-10k+foo", "tiny-10k has no option 'foo'. Its options: none"),
        ("plain-9k+padding=one", "must be a whole number, as in [+]padding=1"),
        ("plain-9k+dropout", "must be a number"),
        ("plain-9k+batch-norm=1", "batch_norm is a switch"),
        ("plain-9k+padding=1+padding=0", "padding is given twice"),
    ],
)
def test_a_variant_that_cannot_be_is_refused(name: str, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        canonical_name(name)
