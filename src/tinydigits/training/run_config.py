"""A run's config from names, a settings file and what is given by hand."""

from dataclasses import asdict, replace
from pathlib import Path

from tinydigits.models.registry import model_of_recipe, target_of
from tinydigits.models.reported import COMMON_RECIPE
from tinydigits.settings import DEFAULT_MODEL, read_settings
from tinydigits.training.config import Recipe, RunConfig, config_from_dict
from tinydigits.training.recipes import get_recipe


def own_recipe(model: str) -> str:
    """The name of the recipe that a model is trained with unless another is named.

    Raises:
        UnknownModelError: there is no such model.
    """
    target = target_of(model)
    return target.recipe if target else COMMON_RECIPE


def run_config(
    model: str | None = None,
    recipe: str | Recipe | None = None,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    file: Path | None = None,
    **settings: object,
) -> RunConfig:
    """A run's config: the defaults, then the settings file, then what is named here.

    Args:
        model: A zoo name or the user's own; None: the file's, else the one that the recipe is made for, else tiny-10k.
        recipe: A recipe, or its name; None: the file's, else the model's own.
        epochs: Instead of the recipe's.
        batch_size: Instead of the recipe's.
        learning_rate: Instead of the recipe's.
        file: Settings in a .toml or .json file, or the `config.json` that a run keeps.
        **settings: Other settings of `RunConfig`: data, data_dir, split, seed, device, threads, backend.

    Raises:
        ConfigError: a value or a key is wrong.
        UnknownModelError: there is no such model.
    """
    made_for = model_of_recipe(recipe) if isinstance(recipe, str) else None
    values: dict[str, object] = {"model": made_for or DEFAULT_MODEL}
    if file is not None:
        values |= read_settings(file)
        values.pop("schema", None)  # of a run's own config.json
    values |= {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
    if model is not None:
        values["model"] = model
    named = recipe or values.get("recipe")
    if not named:  # a model of another type is rejected with the whole config
        named = own_recipe(values["model"]) if isinstance(values["model"], str) else COMMON_RECIPE
    chosen = get_recipe(named) if isinstance(named, str) else named
    values["recipe"] = asdict(chosen) if isinstance(chosen, Recipe) else chosen
    config = config_from_dict(values, str(file or "settings"))
    adjusted = config.recipe
    adjusted = replace(adjusted, epochs=adjusted.epochs if epochs is None else epochs)
    adjusted = replace(adjusted, batch_size=adjusted.batch_size if batch_size is None else batch_size)
    if learning_rate is not None:
        adjusted = replace(adjusted, optimizer=replace(adjusted.optimizer, learning_rate=learning_rate))
    return replace(config, recipe=adjusted)
