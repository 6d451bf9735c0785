"""The machine and the versions that a figure was measured with."""

import os
import platform
import re
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from tinydigits.records import Environment
from tinydigits.training.backends.native.library import compiler_version


def _processor() -> str:
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else platform.processor() or platform.machine()


def environment(backend: str = "torch") -> Environment:
    """Versions, processor and threads: what a figure has to be read with; for the native backend the compiler too."""
    packages = ("tinydigits", "torch", "numpy", "pillow", "safetensors", "scikit-learn", "scipy")
    return Environment(
        python=platform.python_version(),
        packages={name: version(name) for name in packages},
        platform=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        compiler=compiler_version() if backend == "native" else None,
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        command=" ".join(["tinydigits", *sys.argv[1:]]) if sys.argv[0].endswith("tinydigits") else None,
    )
