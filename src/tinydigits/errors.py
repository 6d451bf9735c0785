"""Every error a user can cause. The message is a sentence: the value, the rule, the remedy."""

from typing import ClassVar


class TinydigitsError(Exception):
    """Base of all errors a user can cause; the command line prints its message and exits with `exit_code`."""

    exit_code: ClassVar[int] = 2


class ConfigError(TinydigitsError):
    """A setting is unknown, out of its range, or contradicts another."""


class DataError(TinydigitsError):
    """Digits cannot be had from where they were asked for."""


class DataNotFoundError(DataError):
    """The data set is nowhere to be found. The only data error after which `auto` falls back."""


class DamagedDataError(DataError):
    """A data file is there, but is not what it claims to be."""


class ArrayError(DataError, ValueError):
    """An array cannot be taken for digits. A ValueError too, as scikit-learn's users expect."""


class PictureError(TinydigitsError):
    """A picture cannot be turned into a 28×28 digit."""


class UnreadablePictureError(PictureError):
    """The file is no picture, is cut off, or is too large to decode safely."""


class BlankPictureError(PictureError):
    """The picture holds no ink."""


class ModelError(TinydigitsError):
    """A model cannot be found, imported or built."""


class UnknownModelError(ModelError):
    """No model of that name is in the zoo."""


class WeightsError(TinydigitsError):
    """Weights are missing, damaged, or do not belong to the model or the card."""


class BudgetError(TinydigitsError):
    """A network breaks a budget that it was asked to keep."""

    exit_code = 1


class RunError(TinydigitsError):
    """A run cannot start, go on or be read."""


class DivergedError(RunError):
    """The training loss is no longer a finite number."""


class ExportError(TinydigitsError):
    """A network cannot be exported."""


class ToolMissingError(TinydigitsError):
    """A program or package that is needed, such as a C compiler, is not on this machine."""


class ServeError(TinydigitsError):
    """The HTTP server cannot start."""


class StorageError(TinydigitsError):
    """Something cannot be written: the disk is full, the place is read-only or already taken."""


def one_line(error: BaseException) -> str:
    """What an error of any kind says, as a part of a sentence of ours."""
    return " ".join(str(error).split())
