"""The site's pages: links lead somewhere, commands parse, code compiles, what is marked runs, MkDocs does not complain.

A block after `<!-- file: NAME -->` is written to a file, for the blocks of its page after `<!-- run -->`. Those run in
order: Python as it stands, commands with the flags that stand in the mark added, on a small data set.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import tinydigits
from docs import commands, readme
from tinydigits.cli.main import build_parser, main
from tinydigits.exporters.c.generate import write_c
from tinydigits.inference.store import load_graph, packaged_graph

pages = pytest.importorskip("docs.pages", reason="the site takes the extra `docs`")

ROOT = Path(__file__).parent.parent
SITE_PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md"))
WITH_BLOCKS = [*SITE_PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
MICROCONTROLLER = "docs/how-to/microcontroller.md"
NOT_OURS = ("python3", "pip", "curl", "cc", "./", "arm-", "docker", "cd", ".", "python", "make", "ray")
BLOCK = re.compile(r"(?:^<!-- (file|run)(?:: ([^>]*?))? -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A code block; `mark` is `file`, `run` or empty."""

    mark: str
    argument: str
    language: str
    code: str


def blocks(page: Path) -> list[Block]:
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(match[1] or "", match[2] or "", match[3], match[4]) for match in found]


def command_lines(code: str) -> Iterator[list[str]]:
    """The commands of a shell block as words, without assignments, redirections, and what they are piped into."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.match(r"\w+=", words[0]):
            words.pop(0)
        ends = [i for i, word in enumerate(words) if word in ("|", ">", "<", "&&", "&")]
        if words:
            yield words[: min(ends, default=len(words))]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_blocks_are_found() -> None:
    tutorial = blocks(ROOT / "docs" / "tutorial.md")
    assert {block.mark for block in tutorial} == {"", "file", "run"}
    assert len(tutorial) > 12
    assert any(block.argument for block in tutorial if block.mark == "run")


@pytest.mark.parametrize("page", [*WITH_BLOCKS, ROOT / "LOG.md"], ids=named)
def test_every_relative_link_resolves(page: Path) -> None:
    source = page.relative_to(ROOT).as_posix()
    missing = []

    def check(mark: str, text: str, path: str, fragment: str) -> str:
        if not (ROOT / path).exists():
            missing.append(path)
        elif fragment and path.endswith(".md"):
            headings = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            if fragment.removeprefix("#") not in anchors:
                missing.append(path + fragment)
        return ""

    pages.relink(page.read_text(encoding="utf-8"), source, check)
    assert not missing


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=named)
def test_every_command_parses(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = build_parser()
    for block in blocks(page):
        if block.language not in ("bash", "sh", "console"):
            continue
        for words in command_lines(block.code):
            if words[0] == "tinydigits":
                assert _exit_code(parser, words[1:]) == 0, f"{shlex.join(words)}: {capsys.readouterr().err}"
            else:
                assert words[0].startswith(NOT_OURS), words


def _exit_code(parser: argparse.ArgumentParser, words: Sequence[str]) -> int:
    try:
        parser.parse_args(words)
    except SystemExit as stop:  # --help and --version stop too, with 0
        return int(stop.code or 0)
    return 0


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=named)
def test_code_and_settings_are_well_formed(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python" and "..." not in block.code:
            compile(block.code, str(page), "exec")
        elif block.language == "toml":
            tomllib.loads(block.code)


RUNNABLE = [page for page in SITE_PAGES if any(block.mark == "run" for block in blocks(page))]


@pytest.mark.parametrize("page", [page for page in RUNNABLE if page.stem != "tutorial"], ids=named)
def test_marked_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run_all(page, tmp_path, monkeypatch)


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run_all(ROOT / "docs" / "tutorial.md", tmp_path, monkeypatch)
    for file in ("report.html", "model.safetensors", "verdict.json"):
        assert (tmp_path / "studies" / "net-py-Net-fast" / file).exists()
    assert len(list((tmp_path / "exports").rglob("parity.json"))) == 2


def _run_all(page: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    for block in blocks(page):
        if block.mark == "file":
            (place / block.argument).write_text(block.code)
        elif block.mark == "run" and block.language == "python":
            exec(compile(block.code, str(page), "exec"), {})
        elif block.mark == "run":
            for words in command_lines(block.code):
                _run(words, block.argument)


def _run(words: Sequence[str], argument: str) -> None:
    """Run one command; a verdict may be anything, for the digits are others."""
    if words[0] == "python":
        subprocess.run([sys.executable, *words[1:]], check=True)
        return
    if argument and not argument.startswith("--") and words[1] != argument:  # only that command of the block
        return
    added = shlex.split(argument) if argument.startswith("--") else []
    assert main([*words[1:], *added]) in (0, 1), shlex.join(words)


def test_the_page_of_commands_is_current() -> None:
    if sys.version_info[:2] != (3, 11):
        pytest.skip("argparse words its help differently from version to version; the page is made with Python 3.11")
    assert commands.PAGE.read_text(encoding="utf-8") == commands.page(), "run `make docs`"


def test_the_terminal_does_not_change_the_page_of_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = commands.page()
    monkeypatch.setenv("COLUMNS", "40")
    assert commands.page() == wide
    assert os.environ["COLUMNS"] == "40"


def test_every_command_and_every_public_name_has_its_place() -> None:
    (subparsers,) = (action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    text = commands.page()
    assert all(f"\n## tinydigits {name}\n" in text for name in subparsers.choices)
    reference = {
        name
        for page in (ROOT / "docs" / "reference").glob("*.md")
        for name in pages.REFERENCE.findall(page.read_text())
    }
    public = {f"tinydigits.{name}" for name in tinydigits.__all__} - {"tinydigits.TinydigitsError"}
    assert public <= reference
    assert "tinydigits.errors" in reference


def test_links_of_the_repository_become_links_of_the_site() -> None:
    assert pages.site_path("README.md") == "index.md"
    assert pages.site_path("LOG.md") == "log.md"
    assert pages.site_path("docs/documents") == "documents/README.md"
    assert pages.site_path("docs/pictures/page.png") == "pictures/page.png"
    assert pages.site_path("results/proofs") is None
    assert pages.site_path("results/loop.json") == "repository/results/loop.json"
    statistics = "src/tinydigits/evaluation/statistics.py"
    assert pages.site_path(statistics) == "reference/statistics.md#tinydigits.evaluation.statistics"


def test_the_readme_is_short_and_its_tables_are_those_that_are_made() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 180
    for page, parts in readme.tables().items():
        text = (ROOT / page).read_text(encoding="utf-8")
        for name, part in parts.items():
            block = f"<!-- {name}: made by `{readme.COMMAND}` -->\n{part}\n<!-- /{name} -->"
            assert block in text, f"{page} is old: run `python -m docs.readme --tables`"


def test_every_capture_has_its_marks() -> None:
    for page, name in (("README.md", "train"), ("docs/how-to/network.md", "inspect"), (MICROCONTROLLER, "export")):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert text.count(f"<!-- {name}: made by `{readme.COMMAND}` -->") == 1
        assert text.count(f"<!-- /{name} -->") == 1


def test_a_training_is_trimmed_to_its_first_and_last_epochs() -> None:
    epochs = "".join(f"epoch {n:>2}/10  loss 0.1\n" for n in range(1, 11))
    summary = " final epoch  99.61 %\n mean of the last three epochs  99.48 %\n parameters  9,426\n epochs  10\n"
    assert readme.trimmed(f"```text\n$ tinydigits train\n{epochs}\n{summary}\nWeights: runs/a\n```").splitlines() == [
        "```text", "$ tinydigits train", "epoch  1/10  loss 0.1", "epoch  2/10  loss 0.1", "…", "epoch 10/10  loss 0.1",
        " final epoch  99.61 %", "Weights: runs/a", "```",
    ]  # fmt: skip


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=named)
def test_pages_import_from_tinydigits_alone(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            assert not re.search(r"^\s*(from|import) tinydigits(?! as td$)", block.code, re.MULTILINE), block.code


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_c_of_the_readme_compiles_and_reads_a_picture(tmp_path: Path) -> None:
    path = packaged_graph("tiny-10k", int8=True)
    assert path is not None
    write_c(load_graph(path), tmp_path)
    (snippet,) = (block.code for block in blocks(ROOT / "README.md") if block.language == "c")
    picture = np.zeros((120, 160), np.uint8)
    picture[20:100, 76:84] = 255  # a 1
    values = ",".join(map(str, picture.ravel()))
    main = f"#include <stdio.h>\nstatic uint8_t gray[] = {{{values}}};\nstatic uint8_t black[sizeof gray];\n"
    main += 'int main(void) { printf("%d %d\\n", read_digit(gray), read_digit(black)); return 0; }\n'
    (tmp_path / "reader.c").write_text(snippet + main)
    sources = ["reader.c", "tiny_10k.c", "tinydigits_preprocess.c"]
    flags = ["-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror"]
    subprocess.run(["cc", *flags, "-o", "reader", *sources], cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "reader"], capture_output=True, text=True, check=True)
    assert done.stdout == "1 -1\n"


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    built = list((tmp_path / "site").rglob("*.html"))
    assert len(built) > 25
    for page in built:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"""<(?:script|link|img|iframe)[^>]+(?:src|href)=["']?(?:https?:)?//""", text), page
