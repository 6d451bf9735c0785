"""Every source of digits by the name that `--data` takes."""

from pathlib import Path

from tinydigits.data.dataset import DigitData
from tinydigits.data.folder import load_folder
from tinydigits.data.mnist import load_mnist
from tinydigits.data.optdigits import load_optdigits
from tinydigits.errors import ConfigError, DataNotFoundError

NAMES = "auto, mnist, optdigits or folder:PATH"


def load_dataset(name: str = "auto", data_dir: str | Path | None = None) -> DigitData:
    """Digits by name: `auto`, `mnist`, `optdigits` or `folder:PATH`.

    `auto` is MNIST if it can be had, found or downloaded, else optdigits with a `notice` that says why. Only
    absence falls back: damaged files are an error, and so is a `data_dir` that does not hold MNIST.

    Args:
        name: the source.
        data_dir: the directory of MNIST's files; the other sources have no use for it.

    Raises:
        ConfigError: no source has that name.
        DataNotFoundError: the digits are not there.
        DamagedDataError: the files of MNIST are broken or incomplete.
        DataError: a folder is not laid out as `folder:PATH` wants it.
        PictureError: a picture of the folder cannot be used.
    """
    data_dir = Path(data_dir) if data_dir else None
    if name == "auto":
        return _mnist_or_optdigits(data_dir)
    if name == "mnist":
        return load_mnist(data_dir)
    if name == "optdigits":
        return load_optdigits()
    kind, _, path = name.partition(":")
    if kind == "folder" and path:
        return load_folder(Path(path))
    raise ConfigError(f"data {name!r} is unknown. Choose {NAMES}.")


def _mnist_or_optdigits(data_dir: Path | None) -> DigitData:
    try:
        return load_mnist(data_dir)
    except DataNotFoundError as error:
        if data_dir is not None:  # who names a directory wants that one and nothing else
            raise
        return load_optdigits(notice=f"MNIST cannot be had, so these are the digits of optdigits. {error}")
