"""How large the house is: lines of Python by package, beside those of the last git tag. `make size`.

A line is code, docstring, comment or blank; src/, tests/, benchmarks/ and docs/ are counted, src/ package by package.
It needs Python and git only, and is a mirror, not a gate.
"""

import ast
import io
import subprocess
import sys
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parent.parent
PACKAGE = "src/tinydigits"
OTHERS = ("tests", "benchmarks", "docs")
_LAYOUT = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


@dataclass(frozen=True)
class Lines:
    """How many lines there are of each kind; `blank` counts lines without anything but white space or a comment."""

    code: int = 0
    docstrings: int = 0
    blank: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.code + self.docstrings + self.blank

    def __add__(self, other: "Lines") -> "Lines":
        return Lines(self.code + other.code, self.docstrings + other.docstrings, self.blank + other.blank)


def count(source: str) -> Lines:
    """The lines of one Python file.

    Raises:
        SyntaxError: it is not valid Python.
    """
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                docstrings |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    written: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _LAYOUT:
            written |= set(range(token.start[0], token.end[0] + 1))
    code = len(written - docstrings)
    return Lines(code, len(docstrings), len(source.splitlines()) - code - len(docstrings))


def part_of(path: str) -> str | None:
    """The part of the house that a file counts for, by its path from the root; None: it is not counted."""
    parts = PurePosixPath(path).parts
    if not path.endswith(".py"):
        return None
    if path.startswith(f"{PACKAGE}/"):
        return parts[2] if len(parts) > 3 else "tinydigits"
    return parts[0] if parts[0] in OTHERS else None


def sizes(files: Iterable[tuple[str, str]]) -> dict[str, Lines]:
    """The lines of each part; `files` are paths from the root with their content."""
    found: dict[str, Lines] = {}
    for path, source in files:
        if (part := part_of(path)) is not None:
            found[part] = found.get(part, Lines()) + count(source)
    return found


def working_tree(root: Path = ROOT) -> Iterator[tuple[str, str]]:
    """Every Python file that git knows or would add."""
    listed = _git(root, "ls-files", "--cached", "--others", "--exclude-standard", "*.py")
    for path in (listed or "").splitlines():
        if (root / path).exists():
            yield path, (root / path).read_text(encoding="utf-8")


def last_tag(root: Path = ROOT) -> str | None:
    """The last tag before the current commit; None: there is none."""
    tag = _git(root, "describe", "--tags", "--abbrev=0")
    return tag.strip() if tag else None


def tagged(tag: str, root: Path = ROOT) -> Iterator[tuple[str, str]]:
    """Every Python file of a commit."""
    for path in (_git(root, "ls-tree", "-r", "--name-only", tag) or "").splitlines():
        if part_of(path) is not None:
            yield path, _git(root, "show", f"{tag}:{path}") or ""


def table(now: Mapping[str, Lines], before: Mapping[str, Lines] | None, tag: str | None) -> str:
    """One line for each part, the package's parts first; their sum stands under `src`."""
    inside = sorted({*now, *(before or {})} - {*OTHERS}, key=lambda part: -now.get(part, Lines()).total)
    rows = [(part, now.get(part, Lines()), (before or {}).get(part, Lines())) for part in inside]
    rows.append(("src", _sum(now, inside), _sum(before or {}, inside)))
    rows += [(part, now.get(part, Lines()), (before or {}).get(part, Lines())) for part in OTHERS]
    since = f"{'since ' + tag:>16}" if tag else ""
    lines = [f"{'':<12}{'code':>8}{'docstrings':>12}{'blank, comments':>17}{'all':>8}{since}"]
    for part, here, there in rows:
        change = f"{here.total - there.total:>+16,}" if before is not None else ""
        name = part if part in (*OTHERS, "src") else f"  {part}"
        lines.append(f"{name:<12}{here.code:>8,}{here.docstrings:>12,}{here.blank:>17,}{here.total:>8,}{change}")
    if tag is None:
        lines.append("There is no tag yet, so there is nothing to compare with.")
    return "\n".join(lines)


def _sum(parts: Mapping[str, Lines], names: Iterable[str]) -> Lines:
    return sum((parts.get(name, Lines()) for name in names), Lines())


def _git(root: Path, *arguments: str) -> str | None:
    """What git prints; None if it fails."""
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None


def main() -> None:
    """Print the table."""
    tag = last_tag()
    sys.stdout.write(table(sizes(working_tree()), sizes(tagged(tag)) if tag else None, tag) + "\n")


if __name__ == "__main__":
    main()
