"""Exported C as firmware for a Cortex-M4, run by QEMU: its answers, its size, and its instructions counted."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinydigits.errors import ToolMissingError

HERE = Path(__file__).parent
FLAGS = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-mcpu=cortex-m4", "-mthumb", "-Os")
SECTIONS = ("-ffunction-sections", "-fdata-sections")
DIGITS_ADDRESS = "0x21000000"


@dataclass(frozen=True, eq=False)
class Firmware:
    """`flash_bytes`: code and constants of the network; `stack_bytes`, `instructions`: of one picture."""

    answers: NDArray[np.int32]
    logits: NDArray[np.int32]
    flash_bytes: int
    preprocessor_flash_bytes: int
    stack_bytes: int
    instructions: int


def run_firmware(directory: Path, model: str, images: NDArray[np.uint8]) -> Firmware:
    """Compile what `write_c` has put into `directory`, and run it on pictures uint8 [N, 28, 28].

    Raises:
        ToolMissingError: the compiler or the emulator is missing.
    """
    for tool in ("arm-none-eabi-gcc", "qemu-system-arm"):
        if not shutil.which(tool):
            raise ToolMissingError(
                f"{tool} is not on the PATH, and firmware is made and emulated with it. "
                "Install gcc-arm-none-eabi and qemu-system-arm (so called on Debian)."
            )
    network = _compiled(directory / f"{model}.c")
    preprocessor = _compiled(directory / "tinydigits_preprocess.c")
    program = directory / "firmware.elf"
    names = [f'-DMODEL_HEADER="{model}.h"', f"-DARENA={model}_arena", f"-I{directory}"]
    link = ["-nostartfiles", "-Wl,--gc-sections", "-T", str(HERE / "link.ld"), "-o", str(program)]
    subprocess.run(["arm-none-eabi-gcc", *FLAGS, *names, str(HERE / "board.c"), str(network), *link], check=True)
    digits = directory / "digits.bin"
    digits.write_bytes(np.uint32(len(images)).tobytes() + images.tobytes())
    lines = _emulate(program, digits).splitlines()
    values = np.array([[int(word, 16) for word in line.split()] for line in lines[:-1]], dtype=np.uint32)
    assert values.shape == (len(images), 11)
    signed = values.astype(np.int32)
    instructions, stack = (int(word, 16) for word in lines[-1].split())
    return Firmware(signed[:, 0], signed[:, 1:], _flash(network), _flash(preprocessor), stack, instructions)


def _compiled(source: Path) -> Path:
    target = source.with_suffix(".o")
    subprocess.run(["arm-none-eabi-gcc", *FLAGS, *SECTIONS, "-c", str(source), "-o", str(target)], check=True)
    return target


def _flash(target: Path) -> int:
    """Bytes of code and constants; there must be no variables."""
    sizes = subprocess.run(["arm-none-eabi-size", str(target)], capture_output=True, text=True, check=True).stdout
    text, data, bss = map(int, sizes.splitlines()[1].split()[:3])
    assert (data, bss) == (0, 0)
    return text


def _emulate(program: Path, digits: Path) -> str:
    quiet = ["-display", "none", "-monitor", "none", "-serial", "none"]
    command = ["qemu-system-arm", "-M", "mps2-an386", *quiet, "-icount", "shift=0", "-kernel", str(program)]
    command += ["-semihosting-config", "enable=on,target=native"]
    command += ["-device", f"loader,file={digits},addr={DIGITS_ADDRESS}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    return done.stdout + done.stderr
