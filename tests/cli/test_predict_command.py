import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from tinydigits.cli import predict as command
from tinydigits.cli.main import main
from tinydigits.data.dataset import DigitData

Run = Callable[..., tuple[int, str, str]]
DIGITS = (0, 1, 2, 3)  # of the test digits: 7, 2, 1, 0


@pytest.fixture
def here(mnist: DigitData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with seven.png, two.png, one.png and zero.png in it, which is the current one."""
    monkeypatch.chdir(tmp_path)
    for name, index in zip(("seven", "two", "one", "zero"), DIGITS, strict=True):
        Image.fromarray(255 - mnist.test.images[index]).resize((140, 140)).save(f"{name}.png")
    return tmp_path


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: str | Path) -> tuple[int, str, str]:
        code = main(["predict", *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def predictions(output: str) -> list[dict[str, Any]]:
    found = json.loads(output)
    assert isinstance(found, list)
    for entry in found:
        assert list(entry) == ["path", "rejected", "labels", "reason", "error", "warning"]
        assert all(list(label) == ["label", "score"] for label in entry["labels"])
    return found


def test_one_picture_is_one_line(here: Path, call: Run) -> None:
    code, out, err = call("tiny-10k", "seven.png")
    assert (code, err) == (0, "")
    assert out == "7  >99.99 %  seven.png\n"


@pytest.mark.parametrize("words", [["seven.png", "two.png"], ["tiny_10k", "seven.png", "two.png"]])
def test_the_model_may_be_left_out(here: Path, call: Run, words: list[str]) -> None:
    code, out, _ = call(*words)
    assert code == 0
    assert [line[0] for line in out.splitlines()] == ["7", "2"]


def test_another_model_gives_other_scores(here: Path, call: Run) -> None:
    tiny, era = (predictions(call(model, "two.png", "--json")[1])[0] for model in ("tiny-10k", "era-8k"))
    assert tiny["labels"][0]["label"] == era["labels"][0]["label"] == 2
    assert tiny["labels"] != era["labels"]


def test_json_holds_all_digits_best_first_in_the_order_of_the_pictures(here: Path, call: Run) -> None:
    code, out, err = call("zero.png", ".", "--json")
    assert (code, err) == (0, "")
    found = predictions(out)
    assert [entry["path"] for entry in found] == ["zero.png", "one.png", "seven.png", "two.png", "zero.png"]
    assert [entry["labels"][0]["label"] for entry in found] == [0, 1, 7, 2, 0]
    for entry in found:
        scores = [label["score"] for label in entry["labels"]]
        assert sorted(label["label"] for label in entry["labels"]) == list(range(10))
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1)
        assert (entry["rejected"], entry["reason"], entry["error"], entry["warning"]) == (False, None, None, None)


def test_top(here: Path, call: Run) -> None:
    assert len(predictions(call("one.png", "--json", "--top", "3")[1])[0]["labels"]) == 3
    ranked = predictions(call("one.png", "--json")[1])[0]["labels"]
    shown = call("one.png", "--top", "3")[1].replace(">", "").split()
    assert shown[::3][:3] == [str(label["label"]) for label in ranked[:3]]
    assert shown[-1] == "one.png"
    for count in ("0", "11"):
        code, out, err = call("one.png", "--top", count)
        assert (code, out) == (2, "")
        assert f"--top {count}: must be from 1 to 10." in err


def test_standard_input(here: Path, call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (["-"], ["tiny-10k", "-"]):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(Path("two.png").read_bytes())))
        code, out, _ = call(*words, "--json")
        (entry,) = predictions(out)
        assert (code, entry["path"], entry["labels"][0]["label"]) == (0, "-", 2)
    code, _, err = call("-")  # it is at its end
    assert code == 2
    assert "standard input: this is not a picture" in err


def test_no_digit_is_a_prediction(here: Path, call: Run) -> None:
    Image.new("L", (50, 50), 255).save("blank.png")
    stripes = np.zeros((100, 100), np.uint8)
    stripes[10:90:6] = 255
    Image.fromarray(stripes).save("stripes.png")
    code, out, err = call("blank.png", "stripes.png", "--json", "--top", "1")
    assert (code, err) == (0, "")
    blank, striped = predictions(out)
    assert (blank["rejected"], blank["labels"]) == (True, [])
    assert "no ink was found" in blank["reason"]
    assert striped["rejected"]
    assert len(striped["labels"]) == 1
    assert striped["reason"] == "the network finds too little that looks like a digit"
    code, out, _ = call("blank.png", "stripes.png")
    assert code == 0
    first, second = out.splitlines()
    assert first == "–  no digit  blank.png  (no ink)"
    assert second.startswith("–  no digit  stripes.png  (if one, then ")


def test_one_bad_picture_is_reported_and_the_others_are_read(here: Path, call: Run) -> None:
    Path("bad.png").write_text("no picture")
    Path("empty").mkdir()
    Path("link.png").symlink_to("gone.png")
    words = ["seven.png", "bad.png", "empty", "link.png", "absent.png", "two.png"]
    code, out, err = call(*words, "--json")
    assert code == 2
    found = predictions(out)
    assert [entry["path"] for entry in found] == words
    assert [entry["labels"][0]["label"] for entry in found if not entry["error"]] == [7, 2]
    bad = [entry for entry in found if entry["error"]]
    assert all(entry["rejected"] is None and entry["labels"] == [] for entry in bad)
    assert [line.removeprefix("tinydigits predict: ") for line in err.splitlines()] == [e["error"] for e in bad]
    for words_said, entry in zip(
        ("known format", "holds no pictures", "points to gone.png", "no such file"), bad, strict=True
    ):
        assert words_said in entry["error"]
    code, out, again = call(*words)
    assert (code, again) == (2, err)
    assert [line[0] for line in out.splitlines()] == ["7", "2"]


def test_an_animation_and_foreign_files_are_said(here: Path, call: Run) -> None:
    Path("scans").mkdir()
    pages = [Image.open(f"{name}.png") for name in ("zero", "one")]
    pages[0].save("scans/both.gif", save_all=True, append_images=pages[1:])
    for i in range(7):
        Path(f"scans/{i}.txt").touch()
    code, out, err = call("scans", "--json")
    (entry,) = predictions(out)
    assert (code, entry["labels"][0]["label"]) == (0, 0)
    assert entry["warning"] == "scans/both.gif has 2 frames; the first one was read."
    assert err.splitlines() == [
        "Warning: skipped 7 files that do not end like a picture: scans/0.txt, scans/1.txt, scans/2.txt, scans/3.txt, "
        "scans/4.txt, …",
        f"Warning: {entry['warning']}",
    ]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["tiny-10k"], "tiny-10k: there is no such picture, or it is the model and no picture is named after it."),
        (["plain-8k", "seven.png"], "Did you mean plain-9k"),
        (["plain-9k+padding=1", "seven.png"], "plain-9k+padding=1: no weights are shipped for it"),
        (["nan.safetensors", "seven.png"], "nan.safetensors"),
        (["unfinished", "seven.png"], "the run is not finished"),
        (["absent.png"], "absent.png: there is no such file"),
    ],
)
def test_bad_input_is_a_sentence(here: Path, call: Run, words: list[str], sentence: str) -> None:
    Path("nan.safetensors").write_bytes(b"nan")
    Path("unfinished").mkdir()
    Path("unfinished/config.json").touch()
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert sentence in err
    assert len(err.splitlines()) == 1


def test_no_picture_at_all_is_wrong_usage() -> None:
    with pytest.raises(SystemExit) as stop:
        main(["predict"])
    assert stop.value.code == 2


def test_a_damaged_shipped_graph_is_a_sentence(here: Path, call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = here / "damaged"
    damaged.write_bytes(b"graph")
    monkeypatch.setattr("tinydigits.inference.predict.packaged_graph", {"tiny-10k": damaged}.get)
    code, out, err = call("seven.png")
    assert (code, out) == (2, "")
    assert "damaged is not a folded graph that can be read" in err


GOLDEN = """\
██████████
  ▓▓    ██
      ▒▒██
    ░░██
    ██"""


def test_show_draws_every_pixel_in_five_shades() -> None:
    levels = [[255] * 5, [51, 204, 51, 0, 255], [50, 0, 40, 153, 255], [0, 0, 102, 255, 0], [0, 0, 206, 0, 0]]
    assert command.draw(np.array(levels, np.uint8), colour=False).plain == GOLDEN


def test_show_in_colour_is_half_blocks_with_the_pixels_greys() -> None:
    image = np.arange(28 * 28, dtype=np.int64).reshape(28, 28).astype(np.uint8)
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, color_system="truecolor", width=80)
    console.print(command.draw(image, colour=True), soft_wrap=True)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 14
    assert all(line.count("▀") == 28 for line in lines)
    assert lines[0].startswith("\x1b[38;2;0;0;0;48;2;28;28;28m▀\x1b[0m\x1b[38;2;1;1;1;48;2;29;29;29m▀")


def test_show_prints_what_the_network_saw(here: Path, call: Run, mnist: DigitData) -> None:
    code, out, _ = call("seven.png", "--show")
    lines = out.splitlines()
    assert code == 0
    assert len(lines) == 29
    assert lines[-1].endswith("seven.png")
    seen = np.array([[" ░▒▓█".index(c) for c in line.ljust(56)[::2]] for line in lines[:28]])
    assert np.abs(seen - mnist.test.images[0].astype(int) * 5 // 256).mean() < 0.2  # enlarged and reduced again


def test_show_leaves_json_alone(here: Path, call: Run) -> None:
    code, out, err = call("seven.png", "--show", "--json")
    assert (code, len(predictions(out))) == (0, 1)
    assert err.count("█") > 20


@pytest.mark.parametrize(
    ("terminal", "variable", "coloured"),
    [(True, "NO_COLOR", False), (True, "COLORTERM", True), (False, "COLORTERM", False)],
)
def test_colours_are_for_terminals_that_want_them(
    terminal: bool, variable: str, coloured: bool, here: Path, call: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv(variable, "truecolor")
    screen = Console(file=io.StringIO(), force_terminal=terminal)
    monkeypatch.setattr(command, "stdout_console", lambda: screen)
    assert call("seven.png", "--show")[0] == 0
    assert ("▀" in screen.file.getvalue()) is coloured  # type: ignore[attr-defined]
    assert ("█" in screen.file.getvalue()) is not coloured  # type: ignore[attr-defined]


def test_many_pictures_stream_and_use_several_processes(here: Path, call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("many").mkdir()
    for i in range(60):
        shutil.copy(("seven", "two", "one", "zero")[i % 4] + ".png", f"many/{i:02}.png")
    alone = call("many")
    monkeypatch.setattr(command, "_PICTURES_FOR_PROCESSES", 50)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert call("many") == alone
    assert alone[0] == 0
    assert [line[0] for line in alone[1].splitlines()] == ["7", "2", "1", "0"] * 15


def test_names_may_hold_any_bytes(here: Path) -> None:
    name = os.fsdecode(b"7\xff\x1b[31m.png")
    try:
        shutil.copy("seven.png", name)
    except OSError:
        pytest.skip("this file system takes no such names")
    for words in ([], ["--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "tinydigits", "predict", name, *words],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert "\x1b" not in done.stdout
        assert "7\\" in done.stdout


def test_ctrl_c_ends_it_without_a_traceback(here: Path) -> None:
    Path("many").mkdir()
    for i in range(3000):
        os.link("seven.png", f"many/{i:04}.png")
    process = subprocess.Popen(
        [sys.executable, "-m", "tinydigits", "predict", "many"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("7")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to all processes of the command
        rest, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == "Interrupted.\n"
    assert len(rest.splitlines()) < 2999
