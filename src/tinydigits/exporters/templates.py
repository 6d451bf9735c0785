"""Templates that ship with the package, with placeholders `{{name}}` that an export fills in."""

import re
from importlib.resources import files

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_FUNCTION = re.compile(r"^(?:KERNEL|static) .*?(\w+\()", re.MULTILINE)


def template(path: str) -> str:
    """The text of a template, by its path in this package."""
    return (files("tinydigits.exporters") / path).read_text(encoding="utf-8")


def fill_template(path: str, /, **values: str) -> str:
    """A template with a value for each placeholder; placeholders inside values are left alone."""
    return _fill(template(path), values)


def fill_template_without_unused(path: str, callers: str, /, **values: str) -> str:
    """A C template, filled by `fill_template`, without the functions that nothing calls: compilers would warn.

    Blank lines part its functions, and each stands behind those that it calls. `callers`: the code that comes after it.
    """
    parts: list[str] = []
    for part in reversed(template(path).strip().split("\n\n")):
        function = _FUNCTION.search(part)
        if function is None or function[1] in "".join([*parts, callers]):
            parts.insert(0, f"\n{part}\n")
    return _fill("".join(parts), values)


def _fill(text: str, values: dict[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda match: values[match[1]], text)
