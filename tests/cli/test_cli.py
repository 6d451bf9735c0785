import argparse
import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.engines import inline
from tinydigits.cli import train
from tinydigits.cli.arguments import config_from_arguments
from tinydigits.cli.main import COMMANDS, main
from tinydigits.data.sources import load_dataset
from tinydigits.errors import DataNotFoundError
from tinydigits.studies.study import run_directory
from tinydigits.training.config import RunConfig, config_from_dict

SMALL = ["--data", "optdigits", "--epochs", "1", "--threads", "1"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"] if command else ["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert f"tinydigits {command}".strip() in text
    assert re.search(rf"^Example:\n  tinydigits {command}", text, re.MULTILINE), "no example"
    module = importlib.import_module(f"tinydigits.cli.{command or 'main'}")
    assert module.__doc__ is not None
    assert max(map(len, module.__doc__.splitlines())) <= 79


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert re.fullmatch(r"tinydigits \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_no_command_shows_the_help_and_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "commands" in capsys.readouterr().out


def test_train_json_is_one_document_with_the_agreed_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "plain_9k", *SMALL, "--recipe", "documented-bottleneck-9k", "--seed", "3", "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    keys = {
        "model", "data", "split", "seed", "epochs", "accuracy", "accuracy_last3", "accuracy_best", "parameters",
        "time_seconds", "run_dir", "verdict",
    }  # fmt: skip
    assert keys <= result.keys()
    assert result["model"] == "plain-9k"
    assert result["run_dir"] == "runs/plain-9k-001"
    assert re.search(r"^epoch 1/1  loss \d.*test.*images/s  0:00 left$", captured.err, re.MULTILINE)
    files = {path.name for path in (tmp_path / result["run_dir"]).iterdir()}
    assert {"curve.png", "augmentation.png", "config.json", "result.json", "model.safetensors"} <= files


LOUD = """
import torch
print("import")
class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__(784, 10)
    def forward(self, x):
        print("forward")
        return super().forward(x.flatten(1))
"""


def test_what_a_users_network_prints_stays_off_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(LOUD)
    for arguments in (
        ["inspect", "net.py:Net"],
        ["train", "net.py:Net", *SMALL, "--out", "run"],
        ["evaluate", "run", "--data", "optdigits"],
    ):
        assert main([*arguments, "--json"]) == 0
        captured = capsys.readouterr()
        assert json.loads(captured.out)["model"] == "net.py:Net"
        assert {"import", "forward"} <= set(captured.err.splitlines())


def test_the_python_api_takes_a_directory_as_text(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=re.escape(str(tmp_path))):
        load_dataset("mnist", str(tmp_path))


def test_a_setting_where_a_table_belongs_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "flat.toml").write_text('[recipe]\nname = "x"\nepochs = 1\nbatch_size = 8\noptimizer = "sgd"\n')
    assert main(["train", "--config", "flat.toml", "--learning-rate", "0.1"]) == 2
    assert "optimizer" in capsys.readouterr().err


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "plain-9k", *SMALL, "--quiet", "--json"]) == 0
    assert capsys.readouterr().err == ""


def test_without_json_a_table_sums_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "plain-9k", *SMALL, "--split", "val"]) == 0
    captured = capsys.readouterr()
    assert "runs/plain-9k-001" in captured.out
    assert "optimistic" in captured.out
    assert "validation" in captured.err


def test_a_config_file_is_taken_and_flags_go_before_it(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text(
        'model = "plain-9k"\nrecipe = "documented-plain-9k"\nseed = 7\ndata = "optdigits"\n'
    )
    assert (
        main(["train", "--config", "my.toml", "--seed", "8", "--learning-rate", "0.02", "--quiet", "--threads", "1"])
        == 0
    )
    values = json.loads((tmp_path / "runs/plain-9k-001/config.json").read_text())
    assert values.pop("schema") == 1
    config = config_from_dict(values, "test")
    assert isinstance(config, RunConfig)
    assert (config.seed, config.data, config.recipe.name) == (8, "optdigits", "documented-plain-9k")
    assert config.recipe.optimizer.learning_rate == 0.02
    assert config.recipe.batch_size == 64
    assert not (tmp_path / "runs/plain-9k-001/augmentation.png").exists()


def test_what_a_run_was_made_with_proves_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tinydigits.studies.engines.local.run_local", inline)
    Path("easy.toml").write_text('dataset = "optdigits"\nmin_accuracy = 0.05\n')
    assert main(["train", "plain-9k", *SMALL, "--learning-rate", "0.02", "--budget", "easy.toml"]) == 0
    command = capsys.readouterr().out.rpartition("with the same settings: tinydigits ")[2].splitlines()[0]
    assert main([*shlex.split(command), "--seeds", "1"]) == 1  # a proof takes three
    config = json.loads(Path("runs/plain-9k-001/config.json").read_text())
    (study,) = Path("studies").iterdir()
    assert json.loads(run_directory(study, 0).joinpath("config.json").read_text()) == config


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "plain-8k"], "Did you mean plain-9k"),
        (["train", "--recipe", "fsat"], "'fsat' is unknown. Did you mean fast"),
        (["train", "--epochs", "0"], "epochs = 0: a run has at least 1 epoch"),
        (["train", "--learning-rate", "-0.1"], "learning_rate = -0.1: must be greater than 0"),
        (["train", "--config", "flip.toml"], "mirrored 2, 5 or 7 is no digit"),
        (["train", "--config", "absent.toml"], "absent.toml cannot be read"),
        (["train", "--data", "cifar"], "cifar"),
        (["train", "--data", "folder:nowhere"], "nowhere"),
        (["train", "--data", "mnist", "--data-dir", "empty"], "empty"),
        (["train", "--out", "taken"], "taken exists already"),
        (["train", "absent.py:Net"], "there is no file absent.py"),
        (["train", "broken.py:Net"], "broken.py does not import: ZeroDivisionError"),
        (["train", "whole.py:Nett"], "has no 'Nett'. Did you mean Net"),
        (["train", "--resume", "taken"], "taken is no run directory"),
        (["train", "--resume", "taken", "--seed", "1"], "--seed cannot be changed"),
        (["evaluate", "foreign.safetensors"], "foreign"),
        (["evaluate", "absent.safetensors"], "absent"),
        (["inspect", "plain"], "Did you mean plain-9k"),
    ],
    ids=lambda a: " ".join(a) if isinstance(a, list) else "",
)
def test_bad_input_is_a_sentence_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "whole.py").write_text("from torch import nn\nclass Net(nn.Linear): pass\n")
    (tmp_path / "foreign.safetensors").write_bytes(b"no tensors here")
    recipe = 'model = "plain-9k"\n[recipe]\nname = "x"\nepochs = 1\nbatch_size = 8\n'
    (tmp_path / "flip.toml").write_text(recipe + "[recipe.augmentation]\nhorizontal_flip = true\n")
    before = sorted(tmp_path.rglob("*"))
    named = "--data" in arguments or "--resume" in arguments or arguments[0] != "train"
    data = [] if named else ["--data", "optdigits"]
    assert main([*arguments, *data]) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert sorted(p for p in tmp_path.rglob("*") if "__pycache__" not in p.parts) == before


@pytest.mark.parametrize(
    "arguments",
    [["train", "--epochs", "many"], ["fly"], ["train", "--split", "best"], ["train", "--hflip"]],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


@pytest.mark.skipif(
    os.geteuid() == 0 and not Path("/proc/self").exists(), reason="needs a place that nobody can write to"
)
def test_an_unwritable_out_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "plain-9k", *SMALL, "--out", "/proc/tinydigits/run"]) == 2
    assert "could not be written" in capsys.readouterr().err


def _train_until(sign: str, stop: signal.Signals, arguments: list[str], directory: Path) -> tuple[int, list[str]]:
    """Run `tinydigits train`, send `stop` when a line begins with `sign`; the exit code and all lines of stderr."""
    command = [sys.executable, "-m", "tinydigits", "train", *arguments]
    lines = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=directory) as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if line.startswith(sign):
                process.send_signal(stop)
        return process.wait(timeout=60), lines


def test_an_interrupted_run_saves_and_its_resume_command_resumes_it(few_digits: str, tmp_path: Path) -> None:
    arguments = ["plain-9k", "--data", few_digits, "--epochs", "900", "--threads", "1", "--backend", "torch"]
    code, lines = _train_until("epoch   2/", signal.SIGINT, arguments, tmp_path)
    assert code == 130
    match = re.search(r"Resume with: tinydigits train (--resume \S+)", lines[-1])
    assert match, lines
    assert not (tmp_path / "runs/plain-9k-001/result.json").exists()
    reached = int([line for line in lines if line.startswith("epoch")][-1].split()[1].split("/")[0])
    code, lines = _train_until(f"epoch {reached + 1:>3}/", signal.SIGTERM, match[1].split(), tmp_path)
    assert code == 130
    assert next(line for line in lines if line.startswith("epoch")).startswith(f"epoch {reached + 1:>3}/900")


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m tinydigits models | true",
        shell=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.stderr == ""


def test_help_is_quick_enough_to_be_asked_for(tmp_path: Path) -> None:
    """No timed assertion: what makes it quick is that nothing heavy is imported."""
    probe = "import sys; from tinydigits.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    probe += "heavy = {'torch', 'numpy', 'scipy', 'sklearn', 'matplotlib', 'PIL', 'pooch'} & set(sys.modules)\n"
    probe += "assert not heavy, heavy"
    subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("arguments", "recipe"),
    [
        ([], "fast"),
        (["era-8k"], "era"),
        (["era_8k", "--recipe", "fast"], "fast"),
        (["plain-9k"], "fast"),
        (["net.py:Net"], "fast"),
    ],
    ids=" ".join,
)
def test_a_model_is_trained_with_its_own_recipe_unless_another_is_named(arguments: list[str], recipe: str) -> None:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    assert config_from_arguments(parser.parse_args(arguments)).recipe.name == recipe
