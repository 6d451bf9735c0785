"""One word for one thing: the words that have gone stay away from code, help texts and documentation."""

import re
from pathlib import Path

import pytest

from tinydigits.cli.main import COMMANDS, main

ROOT = Path(__file__).parent.parent
GONE = {
    r"(?<!not )judg(e|es|ed|ing|ements?)": "evaluate, evaluated on",
    r"protocols?": "split",
    r"held[- ]out": "validation digits",
    r"deviations?": "std",
    r"keyed": "derive_seed",
    r"arranged": "to_memory_format",
    r"hits?": "correct",
    r"misread(s|ings?)?": "misclassified",
    r"answers": "predictions",
    r"exhibits?": "report data",
    r"disput(e|es|ed)": "label errors",
    r"twins?": "calibration run",
    r"claim(s|ed|ing)?": "reported",
    r"recount(s|ed|ing)?": "measured",
    r"shipping": "inference, exporters, server",
    r"shares?": "fraction",
    r"places?": "index or path",
    r"notices?": "warning",
    r"remed(y|ies)": "hint",
    r"refus(e|es|ed|ing|als?)": "reject",
    r"(go|goes|gone|going) on": "resume",
    r"anew": "again",
    r"mend(s|ed|ing)?": "fix",
    r"asked": "goal",
    r"hoped for": "stretch goal",
    r"reach(ed)? for": "stretch goal",
    r"rooms?": "package",
}
ALLOWED = (
    r"Inference Protocol|inference protocol|uvicorn\.protocols|HTTPProtocol|protocol_class|HTTP/",  # names of others
    r"\(Protocol\)|import .*\bProtocol\b|\bProtocol\[",  # typing.Protocol
    r"[Ss]tandard deviations?",  # a term of statistics
    r"decimal places?|in place\b",
    r"(they|runs|layers|commands|that|processes|seeds|may|all|to) share\b",  # the verb
    r"\.local/share/",  # a directory of the XDG standard
)
PATTERN = re.compile(rf"(?<![\w-])({'|'.join(GONE)})(?![\w-])")
EXCEPTIONS = re.compile("|".join(ALLOWED))
FILES = [
    path
    for pattern in (
        "src/tinydigits/**/*.py",
        "src/tinydigits/**/*.js",
        "src/tinydigits/**/*.html",
        "docs/**/*.md",
        "docs/**/*.py",
    )
    for path in sorted(ROOT.glob(pattern))
] + [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def found_in(text: str) -> list[str]:
    return [match[0] for match in PATTERN.finditer(EXCEPTIONS.sub("", text))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_use_the_words_of_the_field(path: Path) -> None:
    assert found_in(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_help_uses_the_words_of_the_field(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert found_in(capsys.readouterr().out) == []


def test_the_words_are_found() -> None:
    text = "The digits judged by the twin are held out; an Open Inference Protocol, a standard deviation, not judged."
    assert found_in(text) == ["judged", "twin", "held out"]
