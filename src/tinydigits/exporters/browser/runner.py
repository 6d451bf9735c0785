"""Run the scripts of an exported page in Node.js: the very page that the user gets is compared with Python."""

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

_RESULT = 1 + 28 * 28  # bytes per picture: whether ink was found, and the image


def run_javascript(page: Path, images: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """`Exporter.run` of a page; the logits are whole numbers if its network is int8."""
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:  # one process each
        outputs = pool.map(lambda part: _node(page, "read", list(part)), np.array_split(images, cores))
        rows = np.frombuffer(b"".join(outputs), dtype="<f8").reshape(-1, 11)
    return rows[:, 10].astype(np.int32), rows[:, :10]


def preprocess_javascript(page: Path, pictures: Sequence[NDArray[np.uint8]]) -> list[bytes | None]:
    """`PictureExporter.preprocess` of a page."""
    output = _node(page, "preprocess", pictures)
    parts = (output[start : start + _RESULT] for start in range(0, len(output), _RESULT))
    return [part[1:] if part[0] else None for part in parts]


def _node(page: Path, task: str, arrays: Sequence[NDArray[np.uint8]]) -> bytes:
    """One request to `assets/run_node.js`, which describes the format of both at its top."""
    if (node := shutil.which("node")) is None:
        raise ToolMissingError("Node.js is not on the PATH, and exported pages are checked with it. Install nodejs.")
    header = json.dumps({"task": task, "shapes": [array.shape for array in arrays]})
    request = b"".join([header.encode(), b"\n", *(array.tobytes() for array in arrays)])
    with as_file(files("tinydigits.exporters.browser") / "assets" / "run_node.js") as script:
        done = subprocess.run([node, str(script), str(page)], input=request, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").splitlines()
        reason = next((line.strip() for line in said if "Error" in line), "no reason")
        raise ExportError(f"{page}: Node.js cannot run this page ({reason}). Export it again.")
    return done.stdout
