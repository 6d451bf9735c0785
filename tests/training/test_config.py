import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict
from pathlib import Path
from typing import Any

import pytest

from tinydigits.data.augment import Augmentation
from tinydigits.errors import ConfigError
from tinydigits.settings import read_settings
from tinydigits.training.config import Optimizer, Recipe, RunConfig, Schedule, config_from_dict
from tinydigits.training.recipes import get_recipe, list_recipes


@pytest.mark.parametrize("name", list_recipes())
def test_a_config_survives_json(name: str) -> None:
    config = RunConfig(model="plain-9k", recipe=get_recipe(name), seed=3, data_dir="elsewhere", threads=2)
    assert config_from_dict(json.loads(json.dumps(config.as_dict())), "test") == config


def test_a_config_is_immutable() -> None:
    with pytest.raises(FrozenInstanceError):
        get_recipe("fast").epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize("name", list_recipes())
def test_recipes_carry_their_own_name(name: str) -> None:
    assert get_recipe(name).name == name
    assert get_recipe(name.replace("-", "_")) == get_recipe(name)


def test_an_unknown_recipe_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'documented-plain' is unknown.*documented-plain-9k"):
        get_recipe("documented-plain")


def _recipe(**changes: Any) -> Recipe:
    return Recipe(**{"name": "x", "epochs": 1, "batch_size": 8, **changes})


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: _recipe(epochs=0), "epochs = 0: a run has at least 1"),
        (lambda: _recipe(batch_size=1), "batch_size = 1"),
        (lambda: _recipe(label_smoothing=1.0), "label_smoothing = 1.0"),
        (lambda: _recipe(ema_decay=-0.1), "ema_decay = -0.1"),
        (lambda: Optimizer(learning_rate=-0.1), "learning_rate = -0.1: must be greater than 0"),
        (lambda: Optimizer(learning_rate=float("nan")), "learning_rate = nan"),
        (lambda: Optimizer(name="lion"), "one of sgd, adamw"),
        (lambda: Optimizer(momentum=1.0), "below 1"),
        (lambda: Optimizer(momentum=0.0, nesterov=True), "nesterov needs"),
        (lambda: Schedule(name="linear"), "one of constant, step, cosine, one_cycle"),
        (lambda: Schedule(step_epochs=0), "step_epochs = 0"),
        (lambda: Augmentation(rotation_degrees=90), "rotation_degrees = 90: must be from 0"),
        (lambda: Augmentation(crop_size=4), "crop_size = 4"),
        (lambda: Augmentation(off_epochs=-1), "off_epochs = -1"),
        (lambda: RunConfig("plain-9k", _recipe(), split="best"), "one of val, test"),  # type: ignore[arg-type]
        (lambda: RunConfig("plain-9k", _recipe(), seed=-1), "seed = -1"),
        (lambda: RunConfig("plain-9k", _recipe(), threads=0), "threads = 0"),
        (lambda: RunConfig("plain-9k", _recipe(), device="tpu"), "one of auto, cpu, cuda, mps"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_rule(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make()


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (["lerning_rate"], 1, "lerning_rate is no setting"),
        (["recipe", "epocs"], 1, "recipe.epocs is no setting. Did you mean epochs?"),
        (["recipe", "augmentation", "horizontal_flip"], True, "mirrored 2, 5 or 7 is no digit"),
        (["recipe", "epochs"], "ten", "recipe.epochs = 'ten': must be a whole number"),
        (["recipe", "epochs"], True, "recipe.epochs = True: must be a whole number"),
        (["recipe", "epochs"], 2.5, "recipe.epochs = 2.5: must be a whole number"),
        (["recipe", "optimizer"], 0.1, "recipe.optimizer = 0.1: must be a table"),
        (["recipe", "optimizer", "learning_rate"], "fast", "must be a number"),
        (["threads"], "all", "threads = 'all': must be a whole number"),
    ],
)
def test_a_bad_config_key_or_type_is_named(path: list[str], value: object, sentence: str) -> None:
    values = RunConfig("plain-9k", get_recipe("fast")).as_dict()
    table: Any = values
    for key in path[:-1]:
        table = table[key]
    table[path[-1]] = value
    with pytest.raises(ConfigError, match=sentence):
        config_from_dict(values, "my.toml")


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match="recipe.batch_size is missing"):
        config_from_dict({"model": "plain-9k", "recipe": {"name": "mine", "epochs": 2}}, "my.toml")


def test_toml_and_json_files_read_alike(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('model = "plain-9k"\n[recipe]\nname = "mine"\nepochs = 2\nbatch_size = 32\n')
    (tmp_path / "a.json").write_text('{"model": "plain-9k", "recipe": {"name": "mine", "epochs": 2, "batch_size": 32}}')
    toml, from_json = read_settings(tmp_path / "a.toml"), read_settings(tmp_path / "a.json")
    assert toml == from_json
    assert asdict(config_from_dict(toml, "a"))["recipe"]["epochs"] == 2


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.toml", b"model = ", "is not valid TOML"),
        ("a.json", b"{", "is not valid JSON"),
        ("a.json", b"[1]", "holds a list"),
        ("a.json", b"\xff\xfe", "cannot be read: not a text file"),
        ("absent.toml", None, "cannot be read: no such file"),
    ],
)
def test_an_unreadable_config_file_is_a_sentence(
    tmp_path: Path, name: str, content: bytes | None, sentence: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=sentence):
        read_settings(tmp_path / name)
