"""The scripts of an exported page, run by Node.js: what is held against Python is the very page that ships."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinydigits.errors import ExportError, ToolMissingError

_ANSWER = 1 + 28 * 28  # bytes a picture: whether it holds ink, and the image


def run_javascript(page: Path, images: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """What a page makes of raw pictures uint8 [N, 28, 28].

    Returns:
        Answers int32 [N], -1 for “no digit”, and logits [N, 10]; whole numbers if the page's network is int8.

    Raises:
        ToolMissingError: Node.js is missing.
        ExportError: the page is none of ours.
    """
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:  # a process each
        answers = pool.map(lambda part: _node(page, "read", list(part)), np.array_split(images, cores))
        records = np.frombuffer(b"".join(answers), dtype="<f8").reshape(-1, 11)
    return records[:, 10].astype(np.int32), records[:, :10]


def preprocess_javascript(page: Path, pictures: Sequence[NDArray[np.uint8]]) -> list[bytes | None]:
    """Each picture, grey [H, W] or RGBA [H, W, 4], as the 784 bytes that the network sees; None: it holds no ink.

    Raises:
        ToolMissingError: Node.js is missing.
        ExportError: the page is none of ours.
    """
    answer = _node(page, "preprocess", pictures)
    parts = (answer[start : start + _ANSWER] for start in range(0, len(answer), _ANSWER))
    return [part[1:] if part[0] else None for part in parts]


def _node(page: Path, task: str, arrays: Sequence[NDArray[np.uint8]]) -> bytes:
    """One request to `page/run_node.js`, whose head tells the protocol."""
    if (node := shutil.which("node")) is None:
        raise ToolMissingError(
            "Node.js is not on the PATH, and a page's JavaScript is checked with it. Install nodejs."
        )
    header = json.dumps({"task": task, "shapes": [array.shape for array in arrays]})
    request = b"".join([header.encode(), b"\n", *(array.tobytes() for array in arrays)])
    with as_file(files("tinydigits.shipping") / "page" / "run_node.js") as script:
        done = subprocess.run([node, str(script), str(page)], input=request, capture_output=True, check=False)
    if done.returncode:
        reason = next(
            (line for line in done.stderr.decode(errors="replace").splitlines() if "Error" in line), "no reason"
        )
        raise ExportError(f"{page}: Node.js cannot run this page ({reason.strip()}). Export it anew.")
    return done.stdout
