"""A run for TensorBoard: graph, scalars of every batch and epoch, pictures. It requires the extra `tensorboard`.

What is shown comes from the run directory, so a resumed run is shown whole, and nothing twice.
"""

import copy
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import torch
from PIL import Image

from tinydigits.errors import ConfigError, one_line
from tinydigits.records import SPLIT_NAMES, BatchLog, Epoch
from tinydigits.training.loop import learning_rate
from tinydigits.training.run import Run

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

DIRECTORY = "tensorboard"  # in the run directory


def require_tensorboard() -> None:
    """See that TensorBoard is there, before anything is trained.

    Raises:
        ConfigError: the extra `tensorboard` is not installed.
    """
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "--tensorboard needs the package tensorboard, which is not installed. "
            "Install it: pip install 'tinydigits[tensorboard]'"
        ) from error


def open_board(run: Run) -> "SummaryWriter":
    """A writer into the run directory, with the graph and all epochs that the run has behind it."""
    from torch.utils.tensorboard import SummaryWriter

    directory = run.directory / DIRECTORY
    shutil.rmtree(directory, ignore_errors=True)
    board: SummaryWriter = SummaryWriter(str(directory))
    _add_graph(board, run)
    for epoch in run.state.epochs:
        note_epoch(board, run, epoch)
    return board


def note_epoch(board: "SummaryWriter", run: Run, epoch: Epoch) -> None:
    """Write the scalars of an epoch that is done, and of its batches, as the run has logged them."""
    steps, digits = run.task.steps_per_epoch, SPLIT_NAMES[run.config.split]
    lines = (run.directory / "batches.jsonl").read_bytes().splitlines()[(epoch.epoch - 1) * steps : epoch.epoch * steps]
    for batch in map(msgspec.json.Decoder(BatchLog).decode, lines):
        board.add_scalar("batch/loss", batch.loss, batch.step)
        board.add_scalar("batch/accuracy", batch.accuracy, batch.step)
        board.add_scalar("batch/learning rate", learning_rate(run.task, batch.step - 1), batch.step)
    scalars = {
        "epoch/train loss": epoch.train_loss,
        "epoch/train accuracy": epoch.train_accuracy,
        f"epoch/{digits} accuracy": epoch.accuracy,
        "epoch/images per second": epoch.images_per_second,
    }
    for tag, value in scalars.items():
        board.add_scalar(tag, value, epoch.epoch)
    board.flush()


def add_picture(board: "SummaryWriter", path: Path) -> None:
    """Show a PNG file under its name."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    board.add_image(path.stem, pixels, dataformats="HWC")


def _add_graph(board: "SummaryWriter", run: Run) -> None:
    """On a copy, so that the run itself stays as it is, to the bit."""
    network = copy.deepcopy(run.state.model).cpu().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.trace, which PyTorch's own writer calls, is deprecated
        try:
            board.add_graph(network, torch.zeros(1, 1, 28, 28))
        except Exception as error:  # whatever tracing makes of a user's forward()
            raise ConfigError(
                f"{run.config.model} cannot be traced for TensorBoard's graph: {one_line(error)[:200]}. "
                "Train it without --tensorboard."
            ) from error
