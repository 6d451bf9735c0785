"""Arguments that several commands share, so that they mean and read the same everywhere."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinydigits.training.config import RunConfig

DEFAULT_MODEL = "tiny-10k"


def add_model(
    parser: argparse.ArgumentParser, what: str = "a name from `tinydigits models`, or your own net.py:Net"
) -> None:
    """MODEL, in most commands a zoo name or the user's own network; None when it is left out."""
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help=f"{what} (default: {DEFAULT_MODEL})",
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    """--data and --data-dir; None when they are left out."""
    parser.add_argument("--data", metavar="D", help="auto, mnist, optdigits, or folder:PATH (default: auto)")
    parser.add_argument("--data-dir", metavar="DIR", type=Path, help="where the MNIST files lie")


def add_protocol(parser: argparse.ArgumentParser) -> None:
    """--protocol; None when it is left out."""
    parser.add_argument(
        "--protocol",
        choices=("tune", "final"),
        help="tune: judge by held-out training digits; final: by the test digits (default: final)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device and --threads; None when they are left out."""
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), help="where to compute (default: auto)")
    parser.add_argument("--threads", metavar="N", type=int, help="threads on the CPU (default: 1)")


def add_kernels(parser: argparse.ArgumentParser) -> None:
    """--kernels; None when it is left out."""
    parser.add_argument(
        "--kernels",
        choices=("torch", "native"),
        help="native: steps of small networks in C, faster; needs a C compiler (default: torch)",
    )


def add_budget(parser: argparse.ArgumentParser) -> None:
    """--budget; None when it is left out."""
    parser.add_argument(
        "--budget",
        metavar="B",
        help="era-s6, era-s7, document-<model>, mcu-tiny, or a .toml file of your own (default: none)",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else there")


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """--recipe with what may be changed in it, and --config; None when they are left out."""
    parser.add_argument(
        "--recipe",
        metavar="R",
        help="a recipe's name; an unknown one is answered with those there are (default: the model's own)",
    )
    parser.add_argument("--epochs", metavar="N", type=int, help="instead of the recipe's")
    parser.add_argument("--batch-size", metavar="N", type=int, help="instead of the recipe's")
    parser.add_argument("--learning-rate", metavar="X", type=float, help="instead of the recipe's")
    parser.add_argument("--config", metavar="FILE", type=Path, help=".toml or .json with a whole or partial run config")


def run_config(arguments: argparse.Namespace) -> "RunConfig":
    """The run that the arguments ask for: the defaults, then the config file, then what was named.

    Raises:
        ConfigError: a value or a key is wrong.
    """
    from dataclasses import asdict

    from tinydigits.settings import read_settings
    from tinydigits.training.config import config_from_dict
    from tinydigits.training.recipes import get_recipe

    values: dict[str, Any] = {"model": DEFAULT_MODEL}
    if arguments.config:
        values |= read_settings(arguments.config)
    for key in ("model", "data", "data_dir", "protocol", "seed", "device", "threads", "kernels"):
        if (given := getattr(arguments, key, None)) is not None:
            values[key] = str(given) if isinstance(given, Path) else given
    recipe = arguments.recipe or values.get("recipe") or _own_recipe(values["model"])
    if isinstance(recipe, str):
        recipe = asdict(get_recipe(recipe))
    values["recipe"] = recipe
    if isinstance(recipe, dict):
        for key in ("epochs", "batch_size"):
            if getattr(arguments, key) is not None:
                recipe[key] = getattr(arguments, key)
        optimizer = recipe.get("optimizer", {})
        if arguments.learning_rate is not None and isinstance(optimizer, dict):
            recipe["optimizer"] = {**optimizer, "learning_rate": arguments.learning_rate}
    return config_from_dict(values, str(arguments.config or "command line"))


def _own_recipe(model: Any) -> str:
    from tinydigits.models.registry import model_claim

    claim = model_claim(model) if isinstance(model, str) else None  # another type is refused with the whole config
    return claim.recipe if claim else "fast"
