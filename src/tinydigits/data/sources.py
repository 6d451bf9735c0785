"""Sources of digits by the names that `--data` takes."""

from pathlib import Path

from tinydigits.data.dataset import DigitData
from tinydigits.data.folder import load_folder
from tinydigits.data.mnist import load_mnist
from tinydigits.data.optdigits import load_optdigits
from tinydigits.errors import ConfigError, DataNotFoundError

NAMES = "auto, mnist, optdigits or folder:PATH"


def load_dataset(name: str = "auto", data_dir: str | Path | None = None) -> DigitData:
    """Digits by name: `auto`, `mnist`, `optdigits` or `folder:PATH`.

    `auto` is MNIST, found or downloaded; if MNIST is unavailable, optdigits with a `warning` that says why. Damaged
    files are an error even so, and so is a `data_dir` without MNIST; other sources ignore `data_dir`.

    Raises:
        ConfigError: no source has that name.
        DataNotFoundError: the digits were not found.
        DamagedDataError: the files of MNIST are damaged or incomplete.
        DataError: a folder does not have the layout of `folder:PATH`.
        PictureError: a picture of the folder cannot be used.
    """
    data_dir = Path(data_dir) if data_dir else None
    if name in ("auto", "mnist"):
        try:
            return load_mnist(data_dir)
        except DataNotFoundError as error:
            if name == "mnist" or data_dir is not None:  # a named directory is the only candidate
                raise
            return load_optdigits(warning=f"MNIST is unavailable, so these are the digits of optdigits. {error}")
    if name == "optdigits":
        return load_optdigits()
    kind, _, path = name.partition(":")
    if kind == "folder" and path:
        return load_folder(Path(path))
    raise ConfigError(f"data {name!r} is unknown. Choose {NAMES}.")
