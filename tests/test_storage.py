import errno
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tinydigits.errors import StorageError
from tinydigits.storage import append_line, make_directory, write_bytes, write_json

WRITE_FOR_EVER = """
import sys
from pathlib import Path
from tinydigits.storage import write_bytes
while True:
    for letter in b"ab":
        write_bytes(Path(sys.argv[1]), bytes([letter]) * 1_000_000)
"""


def test_written_bytes_replace_the_old_file_and_leave_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "any").touch()
    write_bytes(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_a_full_disk_is_a_sentence_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(StorageError, match=r"file could not be written: the disk is full\. Free some space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("parent", ["missing", "a file"])
def test_a_place_that_cannot_be_written_to_is_a_sentence(tmp_path: Path, parent: str) -> None:
    (tmp_path / "a file").touch()
    path = tmp_path / parent / "file"
    message = r"could not be written: .*\. Write elsewhere with --out"
    with pytest.raises(StorageError, match=message):
        write_bytes(path, b"")
    with pytest.raises(StorageError, match=message):
        append_line(path, "")


def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for pause_seconds in (0.0, 0.003, 0.011, 0.02):
        path.unlink(missing_ok=True)
        with subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, str(path)]) as writer:
            while not path.exists():
                assert writer.poll() is None, "the writer died by itself"
                time.sleep(0.001)
            time.sleep(pause_seconds)
            writer.kill()
        content = path.read_bytes()
        assert len(content) == 1_000_000
        assert len(set(content)) == 1


def test_json_is_written_readably_and_comes_back(tmp_path: Path) -> None:
    value = {"name": "größe", "list": [1, 2.5, None]}
    write_json(tmp_path / "value.json", value)
    text = (tmp_path / "value.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert "größe" in text
    assert text.endswith("\n")


def test_json_refuses_what_is_no_json_before_touching_the_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "value.json", {"loss": math.nan})
    assert not list(tmp_path.iterdir())


def test_lines_are_appended_in_order(tmp_path: Path) -> None:
    append_line(tmp_path / "log", "one")
    append_line(tmp_path / "log", "zwölf")
    assert (tmp_path / "log").read_text(encoding="utf-8") == "one\nzwölf\n"


def test_a_directory_is_made_with_its_parents(tmp_path: Path) -> None:
    make_directory(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_directory_that_exists_is_never_taken_over(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"exists already, and nothing is overwritten\. Name another"):
        make_directory(tmp_path)


def test_a_directory_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="could not be written: not a directory"):
        make_directory(tmp_path / "file" / "runs")
