"""The texts that ship as files of the package, and the places in them that an export fills in: `{{name}}`."""

import re
from importlib.resources import files

_PLACE = re.compile(r"\{\{(\w+)\}\}")


def template(folder: str, file: str) -> str:
    """A text, as it is."""
    return (files("tinydigits.shipping") / folder / file).read_text(encoding="utf-8")


def filled(folder: str, file: str, /, **values: str) -> str:
    """A text with a value in each place; what a value holds is not looked into."""
    return _PLACE.sub(lambda match: values[match[1]], template(folder, file))
