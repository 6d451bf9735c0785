"""Every error a user can cause. The message is a sentence: the value, the rule, the hint."""

from typing import ClassVar


class TinydigitsError(Exception):
    """Base of all errors a user can cause; the command line prints its message and exits with `exit_code`."""

    exit_code: ClassVar[int] = 2


class ConfigError(TinydigitsError):
    """A setting is unknown, out of its range, or contradicts another."""


class DataError(TinydigitsError):
    """Digits cannot be loaded from the named source."""


class DataNotFoundError(DataError):
    """The data set was not found. The only data error after which `auto` falls back."""


class DamagedDataError(DataError):
    """A data file exists, but its content is wrong."""


class ArrayError(DataError, ValueError):
    """An array does not hold digits. A ValueError too, as scikit-learn's users expect."""


class PictureError(TinydigitsError):
    """A picture cannot be turned into a 28×28 digit."""


class UnreadablePictureError(PictureError):
    """The file is not a picture, is cut off, or is too large to decode safely."""


class BlankPictureError(PictureError):
    """The picture holds no ink."""


class ModelError(TinydigitsError):
    """A model cannot be found, imported or built."""


class UnknownModelError(ModelError):
    """No model of that name is in the zoo."""


class WeightsError(TinydigitsError):
    """Weights are missing, damaged, or do not belong to the model or the card."""


class BudgetError(TinydigitsError):
    """A network breaks its budget."""

    exit_code = 1


class RunError(TinydigitsError):
    """A run cannot start, resume or be read."""


class DivergedError(RunError):
    """The training loss is no longer a finite number."""


class ExportError(TinydigitsError):
    """A network cannot be exported."""


class ToolMissingError(TinydigitsError):
    """A required program or package, such as a C compiler, is not on this machine."""


class ServeError(TinydigitsError):
    """The HTTP server cannot start."""


class StorageError(TinydigitsError):
    """Something cannot be written: the disk is full, or the path is read-only or exists already."""


def reason_of(error: OSError) -> str:
    """The system's reason, such as “permission denied”, to quote in a sentence."""
    return (error.strerror or str(error)).lower()


def one_line(error: BaseException) -> str:
    """An error's message on one line, to quote in a sentence."""
    return " ".join(str(error).split())
