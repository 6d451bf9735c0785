"""Arguments that several commands share, so that they mean and read the same everywhere; options left out are None."""

import argparse
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING

from tinydigits.errors import ConfigError
from tinydigits.settings import DEFAULT_MODEL

if TYPE_CHECKING:
    from tinydigits.studies.engines.jobs import Engine
    from tinydigits.training.config import RunConfig

OWN_MODEL = "a name from `tinydigits models`, or your own net.py:Net or net.toml"
ANY_MODEL = f"{OWN_MODEL}, a run directory, or a .safetensors file"


def add_model(parser: argparse.ArgumentParser, what: str = OWN_MODEL, default: str | None = DEFAULT_MODEL) -> None:
    """MODEL; a `default` of None leaves it to the settings file or the recipe."""
    parser.add_argument("model", nargs="?", metavar="MODEL", default=default, help=f"{what} (default: {DEFAULT_MODEL})")


def add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", metavar="D", help="auto, mnist, optdigits, or folder:PATH (default: auto)")
    parser.add_argument("--data-dir", metavar="DIR", type=Path, help="directory of the MNIST files")


def add_split(parser: argparse.ArgumentParser) -> None:
    words = "val: evaluate on validation digits, kept apart from training; test: on the test digits (default: test)"
    parser.add_argument("--split", choices=("val", "test"), help=words)


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), help="where to compute (default: auto)")
    parser.add_argument("--threads", metavar="N", type=int, help="threads on the CPU (default: 1)")


def add_backend(parser: argparse.ArgumentParser) -> None:
    words = (
        "what computes the training steps; native: C, faster for small networks (default: auto, native if supported)"
    )
    parser.add_argument("--backend", choices=("auto", "torch", "native"), help=words)


def add_budget(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    words = "era-s6, era-s7, document-<model>, mcu-tiny, or a .toml file of your own"
    words += "" if required else " (default: none)"
    parser.add_argument("--budget", metavar="B", required=required, help=words)


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else there")


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """--recipe with what may be changed in it, and --config."""
    words = "recipe name; pass an unknown one to list them (default: the model's own)"
    parser.add_argument("--recipe", metavar="R", help=words)
    parser.add_argument("--epochs", metavar="N", type=int, help="overrides the recipe's")
    parser.add_argument("--batch-size", metavar="N", type=int, help="overrides the recipe's")
    parser.add_argument("--learning-rate", metavar="X", type=float, help="overrides the recipe's")
    words = "run settings, .toml or .json, or a run's config.json; flags override it"
    parser.add_argument("--config", metavar="FILE", type=Path, help=words)


def add_engine(parser: argparse.ArgumentParser) -> None:
    """--engine with what belongs to it, and --workers; see `choose_engine`."""
    words = "local: processes of this machine; ray: a Ray cluster (default: local)"
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help=words)
    words = "Ray cluster to use: HOST:PORT, or auto for the one running here (default: start one here)"
    parser.add_argument("--address", metavar="A", help=words)
    words = "with Ray: train on GPUs; fraction of a GPU per run"
    parser.add_argument("--gpu-fraction", metavar="X", type=float, help=words)
    parser.add_argument("--workers", metavar="N", type=int, help="runs at once (default: one per core)")


def choose_engine(arguments: argparse.Namespace) -> "Engine":
    """What runs the jobs.

    Raises:
        ConfigError: something is out of range or does not fit together.
        ToolMissingError: the extra `ray` is not installed.
    """
    from tinydigits.studies.engines.jobs import Engine
    from tinydigits.studies.engines.local import run_local

    if arguments.workers is not None and arguments.workers < 1:
        raise ConfigError(f"--workers {arguments.workers}: must be at least 1.")
    if arguments.engine == "ray":
        from tinydigits.studies.engines.ray import ray_engine

        return ray_engine(arguments.address, arguments.gpu_fraction, arguments.workers)
    for option, value in (("--address", arguments.address), ("--gpu-fraction", arguments.gpu_fraction)):
        if value is not None:
            raise ConfigError(f"{option} {value}: it is for --engine ray. Add that, or leave {option} out.")
    return Engine(run_local, arguments.workers)


def given_options(arguments: argparse.Namespace, but: Container[str]) -> dict[str, object]:
    """What was given, by the names that users write (MODEL, --batch-size), but for these."""
    return {
        "MODEL" if key == "model" else "--" + key.replace("_", "-"): value
        for key, value in vars(arguments).items()
        if value is not None and value is not False and key not in but
    }


def config_from_arguments(arguments: argparse.Namespace) -> "RunConfig":
    """The run that the arguments describe.

    Raises:
        ConfigError: a value or a key is wrong.
    """
    from tinydigits.training.run_config import run_config

    names = ("data", "data_dir", "split", "seed", "device", "threads", "backend")
    given = {name: value for name in names if (value := getattr(arguments, name, None)) is not None}
    return run_config(
        arguments.model,
        arguments.recipe,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        file=arguments.config,
        **given,
    )
