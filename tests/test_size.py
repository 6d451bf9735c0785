"""`make size`: which lines are code, which packages there are, and the comparison with the last tag."""

import subprocess
from pathlib import Path

import pytest

from benchmarks.size import Lines, count, last_tag, part_of, sizes, table, tagged, working_tree

SOURCE = '''"""A module.

Two more lines of docstring.
"""

import sys  # a comment beside code is code


def shout(word: str) -> str:
    """One line."""
    # a comment alone
    text = """a string

    over lines is code, the empty one too"""
    return text + word
'''


def git(place: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, "-C", str(place), *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit of a package and its test."""
    for name, text in {"src/tinydigits/models/a.py": SOURCE, "tests/test_a.py": "x = 1\n"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    return tmp_path


def test_every_line_has_one_kind() -> None:
    lines = count(SOURCE)
    assert lines == Lines(code=6, docstrings=5, blank=4)
    assert lines.total == len(SOURCE.splitlines())
    assert count("") == Lines()


def test_a_string_that_is_no_docstring_is_code() -> None:
    assert count('x = 1\n"""A string in the middle."""\n') == Lines(code=2)


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("src/tinydigits/models/tiny.py", "models"),
        ("src/tinydigits/exporters/c/int8.py", "exporters"),
        ("src/tinydigits/records.py", "tinydigits"),
        ("tests/models/test_registry.py", "tests"),
        ("docs/readme.py", "docs"),
        ("src/tinydigits/exporters/c/sources/main.c", None),
        ("hubconf.py", None),
    ],
)
def test_a_file_counts_for_its_package(path: str, part: str | None) -> None:
    assert part_of(path) == part


def test_without_a_tag_there_is_nothing_to_compare_with(repository: Path) -> None:
    assert last_tag(repository) is None
    text = table(sizes(working_tree(repository)), None, None)
    assert text.endswith("There is no tag yet, so there is nothing to compare with.")
    assert "since" not in text


def test_the_last_tag_stands_beside(repository: Path) -> None:
    git(repository, "tag", "v1")
    (repository / "src/tinydigits/models/a.py").write_text("x = 1\n", encoding="utf-8")
    (repository / "src/tinydigits/new.py").write_text("y = 2\nz = 3\n", encoding="utf-8")  # not added yet
    assert last_tag(repository) == "v1"
    before = sizes(tagged("v1", repository))
    assert before == {"models": count(SOURCE), "tests": Lines(code=1)}
    lines = table(sizes(working_tree(repository)), before, "v1").splitlines()
    assert lines[0].endswith("since v1")
    rows = {words[0]: words[1:] for words in map(str.split, lines[1:])}
    assert rows["models"] == ["1", "0", "0", "1", "-14"]
    assert rows["tinydigits"] == ["2", "0", "0", "2", "+2"]
    assert rows["src"] == ["3", "0", "0", "3", "-12"]
    assert rows["tests"] == ["1", "0", "0", "1", "+0"]


def test_this_repository_is_counted() -> None:
    parts = sizes(working_tree())
    assert {"models", "training", "exporters", "cli", "tests", "benchmarks", "docs"} <= set(parts)
    assert all(lines.code > 0 for lines in parts.values())
