"""How fast this machine trains: the last run of each model on MNIST, kept in the user's cache."""

import json
import platform
from pathlib import Path
from typing import Any

from tinydigits.errors import StorageError
from tinydigits.storage import user_cache, write_json

DIGITS = 60_000  # an epoch of MNIST


def remember_speed(model: str, images_per_second: float) -> None:
    """Keep how many digits a second a model was trained with. A cache that cannot be written to is none."""
    machines = _read()
    machines.setdefault(platform.node(), {})[model] = images_per_second
    try:
        _file().parent.mkdir(parents=True, exist_ok=True)
        write_json(_file(), machines)
    except (OSError, StorageError):
        return


def epoch_seconds(model: str) -> float | None:
    """What an epoch of MNIST's 60,000 digits took in the last run on this machine; None if there was none."""
    try:
        return DIGITS / float(_read()[platform.node()][model])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def _read() -> dict[str, Any]:
    """By the machine's name, for homes that several share; a damaged file counts for nothing, and is replaced."""
    try:
        machines = json.loads(_file().read_bytes())
    except (OSError, ValueError):
        return {}
    sound = isinstance(machines, dict) and all(isinstance(models, dict) for models in machines.values())
    return machines if sound else {}


def _file() -> Path:
    return user_cache() / "speed.json"
