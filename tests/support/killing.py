"""Kill trainings at random moments and resume them: a program of its own, run by test_run.py.

usage: killing.py DIRECTORY KILLS SEED

Each training runs in a forked child (so that imports and digits are paid once), which is killed with SIGKILL: half of
the time at a random moment, half of the time while a save is under way. Prints a JSON report.
"""

import json
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from tinydigits import storage
from tinydigits.data.sources import load_dataset
from tinydigits.records import Epoch
from tinydigits.training import checkpoint
from tinydigits.training.config import RunConfig
from tinydigits.training.recipes import get_recipe
from tinydigits.training.run import finish_run, resume_run, run_epochs, start_run

RECIPE = replace(get_recipe("fast"), epochs=8, batch_size=359, ema_decay=0.9)
CONFIG = RunConfig("plain-9k", RECIPE, data="optdigits", threads=1)


def child(path: Path, pipe: int, save_mark: int | None) -> None:
    """Start or resume, and tell the parent of every epoch that is finished and every save that begins."""
    own = storage.write_bytes

    def marked(file: Path, content: bytes) -> None:
        if save_mark is not None and file.name == "state.safetensors":
            os.write(save_mark, b"s")
        own(file, content)

    vars(checkpoint)["write_bytes"] = marked  # only tells when; the saving is the real one
    run = resume_run(path) if (path / "config.json").exists() else start_run(CONFIG, path)
    for record in run_epochs(run):
        if isinstance(record, Epoch):
            os.write(pipe, bytes([record.epoch]))
    finish_run(run)


def launch(path: Path) -> tuple[int, int, int]:
    """Fork a child; returns its process id and the pipes that tell of epochs and of saves."""
    epochs, tell_epochs = os.pipe()
    saves, tell_saves = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(epochs)
        os.close(saves)
        child(path, tell_epochs, tell_saves)
        os._exit(0)
    os.close(tell_epochs)
    os.close(tell_saves)
    return process, epochs, saves


def drain(pipe: int) -> list[int]:
    """All that was written to a pipe whose writer is gone."""
    content = b""
    while chunk := os.read(pipe, 4096):
        content += chunk
    os.close(pipe)
    return list(content)


def saved_epochs(path: Path) -> int:
    """Finished epochs in the state on disk, read as a resume reads it."""
    state = path / "state.safetensors"
    return len(resume_run(path).state.epochs) if state.exists() else 0


def main() -> None:
    """Kill, look, go on; a run that ends is followed by the next."""
    parent, kills, chance = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    reference = parent / "undisturbed"
    load_dataset(CONFIG.data)
    start = time.perf_counter()
    process, epochs, saves = launch(reference)
    assert os.waitpid(process, 0)[1] == 0
    duration = time.perf_counter() - start
    wanted = load_file(reference / "model.safetensors")

    done = lost = during_save = number = 0
    finished = 0
    same = True
    path = parent / "run-0"
    while done < kills or not (path / "result.json").exists():
        process, epochs, saves = launch(path)
        if done < kills:
            if chance.random() < 0.5:
                time.sleep(chance.uniform(0, duration / 2))
            else:
                os.read(saves, 1)
                time.sleep(chance.uniform(0, 0.004))
                during_save += 1
            os.kill(process, signal.SIGKILL)
        status = os.waitpid(process, 0)[1]
        finished = max([finished, *drain(epochs)])
        os.close(saves)
        if os.WIFSIGNALED(status):
            done += 1
            if (path / "config.json").exists() and not (path / "result.json").exists():
                lost += max(0, finished - saved_epochs(path))
        else:
            assert status == 0, f"a resumed run ended with {status}"
        if (path / "result.json").exists():
            weights = load_file(path / "model.safetensors")
            same = same and all(torch.equal(weights[name], wanted[name]) for name in wanted)
            if done < kills:
                number, finished = number + 1, 0
                path = parent / f"run-{number}"
    report = {
        "kills": done,
        "epochs_lost": lost,
        "kills_during_save": during_save,
        "runs": number + 1,
        "same_bits": same,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
