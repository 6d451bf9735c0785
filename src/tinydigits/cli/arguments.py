"""Arguments that several commands share, so that they mean and read the same everywhere."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinydigits.studies.runners import Engine
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
    parser.add_argument(
        "--config", metavar="FILE", type=Path, help="run settings, .toml or .json, or a run's config.json"
    )


def add_engine(parser: argparse.ArgumentParser, *, stacked: bool = False) -> None:
    """--engine with what belongs to it, and --workers; see `choose_engine`. `stacked`: whether that one is offered."""
    at_once = "stacked: all seeds as one training, on a GPU if there is one; " if stacked else ""
    parser.add_argument(
        "--engine",
        choices=("local", "stacked", "ray") if stacked else ("local", "ray"),
        default="local",
        help=f"local: processes of this machine; {at_once}ray: a Ray cluster (default: local)",
    )
    parser.add_argument(
        "--address",
        metavar="A",
        help="of the Ray cluster, HOST:PORT, or auto for that of this machine (default: one on this machine alone)",
    )
    parser.add_argument(
        "--gpu-share", metavar="X", type=float, help="with Ray: train on GPUs, with such a share of one for each run"
    )
    parser.add_argument("--workers", metavar="N", type=int, help="runs at once (default: one per core)")


def choose_engine(arguments: argparse.Namespace) -> "Engine":
    """What runs the jobs.

    Raises:
        ConfigError: something is out of range or does not fit together.
        ToolMissingError: the extra `ray` is not installed.
    """
    from tinydigits.errors import ConfigError
    from tinydigits.studies.runners import run_local

    if arguments.workers is not None and arguments.workers < 1:
        raise ConfigError(f"--workers {arguments.workers}: it is at least 1.")
    if arguments.engine == "ray":
        from tinydigits.studies.ray_engine import ray_engine

        return ray_engine(arguments.address, arguments.gpu_share)
    for option, value in (("--address", arguments.address), ("--gpu-share", arguments.gpu_share)):
        if value is not None:
            raise ConfigError(f"{option} {value}: it is for --engine ray. Add that, or leave {option} out.")
    if arguments.engine == "stacked":
        from tinydigits.studies.stacked_engine import run_stacked

        return run_stacked
    return run_local


def run_config(arguments: argparse.Namespace) -> "RunConfig":
    """The run that the arguments ask for: the defaults, then the config file, then what was named.

    Raises:
        ConfigError: a value or a key is wrong.
    """
    from dataclasses import asdict

    from tinydigits.training.config import config_from_dict
    from tinydigits.training.recipes import MADE_FOR, get_recipe, own_recipe

    values: dict[str, Any] = {"model": MADE_FOR.get(arguments.recipe, DEFAULT_MODEL)}
    if arguments.config:
        values |= _read_config(arguments.config)
    for key in ("model", "data", "data_dir", "protocol", "seed", "device", "threads", "kernels"):
        if (given := getattr(arguments, key, None)) is not None:
            values[key] = str(given) if isinstance(given, Path) else given
    recipe = arguments.recipe or values.get("recipe")
    if not recipe:  # a model of another type is refused with the whole config
        recipe = own_recipe(values["model"]) if isinstance(values["model"], str) else "fast"
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


def _read_config(path: Path) -> dict[str, Any]:
    """Settings of a run that somebody wrote, or the `config.json` that a run keeps."""
    from tinydigits.settings import read_settings
    from tinydigits.training.rundir import SCHEMA

    values = read_settings(path)
    if values.get("schema") == SCHEMA:
        del values["schema"]
    return values
