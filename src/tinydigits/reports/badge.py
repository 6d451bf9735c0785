"""A verdict as a small picture for a project's page (SVG)."""

from html import escape

_COLOURS = {"met": "#1a7f37", "plausible": "#9a6700", "failed": "#b42318", "not judged": "#57606a"}
_CHARACTER = 6.6  # average width of a character of the font, in pixels
_MARGIN = 8


def badge(label: str, verdict: str, figure: str) -> str:
    """An SVG of two fields: `label`, and the verdict with its figure, coloured by the verdict."""
    value = f"{verdict} · {figure}"
    left, right = (round(len(text) * _CHARACTER) + 2 * _MARGIN for text in (label, value))
    texts = "".join(
        f'<text x="{x}" y="14" textLength="{width - 2 * _MARGIN}">{escape(text)}</text>'
        for x, width, text in ((_MARGIN, left, label), (left + _MARGIN, right, value))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" '
        f'aria-label="{escape(label)}: {escape(value)}">'
        f'<clipPath id="r"><rect width="{left + right}" height="20" rx="3"/></clipPath><g clip-path="url(#r)">'
        f'<rect width="{left}" height="20" fill="#24292f"/>'
        f'<rect x="{left}" width="{right}" height="20" fill="{_COLOURS[verdict]}"/></g>'
        f'<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">{texts}</g></svg>\n'
    )
