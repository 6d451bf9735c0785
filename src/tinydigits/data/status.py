"""Where the digits are on this machine, every file verified."""

from pathlib import Path
from typing import Literal

from tinydigits.data.mnist import Location, locations, read_verified
from tinydigits.data.optdigits import load_optdigits
from tinydigits.errors import DamagedDataError
from tinydigits.records import Count, Record


class LocationStatus(Record, frozen=True):
    """A directory where MNIST may be; `incomplete`: an interrupted download. `reason`: why it has this state."""

    origin: str
    directory: str
    state: Literal["found", "absent", "incomplete", "damaged"]
    reason: str


class MnistStatus(Record, frozen=True):
    """The directories where MNIST is looked for; `used`: the one that `--data auto` and `mnist` read, if any."""

    locations: tuple[LocationStatus, ...]
    used: str | None

    @property
    def damage(self) -> str | None:
        """What is wrong, if files are damaged or missing."""
        return next((location.reason for location in self.locations if location.state == "damaged"), None)


class OptdigitsStatus(Record, frozen=True):
    """The digits that come with scikit-learn."""

    state: Literal["embedded"]
    digits: Count


class DataStatus(Record, frozen=True):
    """All that `tinydigits data` shows."""

    mnist: MnistStatus
    optdigits: OptdigitsStatus


def data_status(data_dir: Path | None = None) -> DataStatus:
    """Look for MNIST, only in `data_dir` if it is given, and verify what is found; nothing is downloaded.

    Raises:
        DamagedDataError: a directory cannot be read.
    """
    found = tuple(_location_status(location) for location in locations(data_dir))
    good = [location.directory for location in found if location.state == "found"]
    damaged = any(location.state == "damaged" for location in found)  # never skipped
    optdigits = load_optdigits()
    count = len(optdigits.train) + len(optdigits.test)
    return DataStatus(
        mnist=MnistStatus(found, used=good[0] if good and not damaged else None),
        optdigits=OptdigitsStatus("embedded", count),
    )


def _location_status(location: Location) -> LocationStatus:
    directory = str(location.directory)
    try:
        read_verified(location)
    except DamagedDataError as error:
        return LocationStatus(location.origin, directory, "damaged", str(error))
    if location.complete:
        return LocationStatus(location.origin, directory, "found", "holds MNIST's four files, verified")
    return LocationStatus(location.origin, directory, "incomplete" if location.files else "absent", location.contents)
