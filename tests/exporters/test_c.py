"""Exported C: the logits of the reference, under every compiler and sanitizer, in a small arena, on a Cortex-M too."""

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.cortex_m.emulator import Firmware, run_firmware
from tests.support.networks import digits, odd_graphs, odd_int8_graph, zoo_cases, zoo_graph
from tinydigits.compiler import find_compiler
from tinydigits.data.dataset import DigitData
from tinydigits.errors import ExportError, ToolMissingError
from tinydigits.exporters.c.generate import arena_bytes, c_name, write_c
from tinydigits.exporters.c.runner import run_c
from tinydigits.exporters.quantize import quantize
from tinydigits.inference import graph as float32
from tinydigits.inference import int8
from tinydigits.inference.graph import Graph
from tinydigits.inference.int8 import Int8Graph
from tinydigits.inference.store import load_graph, packaged_graph
from tinydigits.models.registry import list_models
from tinydigits.pictures.preprocess import preprocess

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
SANITIZERS = "-fsanitize=address,undefined"  # what they find is on stderr, and fails the run
SANITIZED = {"gcc": (*STRICT, "-O1", SANITIZERS), "clang": (*STRICT, "-O0", SANITIZERS)}
KINDS = ("float32", "int8")


@pytest.fixture(params=SANITIZED, scope="module")
def compiler(request: pytest.FixtureRequest) -> str:
    """Each compiler that is here."""
    return installed(str(request.param))


def installed(compiler: str) -> str:
    """The compiler itself; one without sanitizers counts as missing."""
    if not _links(compiler):
        pytest.skip(f"needs {compiler} with its sanitizers (Debian: gcc, clang and libclang-rt-dev)")
    return compiler


@cache
def _links(compiler: str) -> bool:
    if not shutil.which(compiler):
        return False
    command = [compiler, SANITIZERS, "-x", "c", "-", "-o", "/dev/null"]
    return subprocess.run(command, input=b"int main(void){return 0;}", capture_output=True, check=False).returncode == 0


def shipped(kind: str, name: str = "tiny-10k") -> Graph | Int8Graph:
    path = packaged_graph(name, int8=kind == "int8")
    assert path is not None
    return load_graph(path)


def of_kind(graph: Graph, kind: str) -> Graph | Int8Graph:
    return quantize(graph, digits()[:100]) if kind == "int8" else graph


def reference(graph: Graph | Int8Graph, images: NDArray[np.uint8]) -> NDArray[np.float32] | NDArray[np.int32]:
    return int8.run(graph, images) if isinstance(graph, Int8Graph) else float32.run(graph, images)


def assert_same(
    graph: Graph | Int8Graph, directory: Path, images: NDArray[np.uint8], flags: Sequence[str], compiler: str
) -> NDArray[np.int32]:
    """That the exported C gives the reference's logits, and labels that follow from them; returns the labels."""
    write_c(graph, directory)
    labels, logits = run_c(directory, images, flags, compiler)
    wanted = reference(graph, images)
    if isinstance(graph, Int8Graph):
        assert np.array_equal(logits, wanted)
    else:
        assert np.abs(logits - wanted).max() < 1e-4
    threshold = graph.integer_threshold if isinstance(graph, Int8Graph) else graph.threshold
    rejected = logits.max(axis=1) < (-np.inf if threshold is None else threshold)
    assert np.array_equal(labels, np.where(rejected, -1, logits.argmax(axis=1)))
    return labels


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", odd_graphs())
def test_any_network_gives_the_logits_of_the_reference(name: str, kind: str, tmp_path: Path, compiler: str) -> None:
    graph = of_kind(replace(odd_graphs()[name], model="nets/*/a.py:Net"), kind)
    assert_same(graph, tmp_path, digits()[:20], SANITIZED[compiler], compiler)


def test_odd_integers_give_the_logits_of_the_reference(tmp_path: Path, compiler: str) -> None:
    assert_same(odd_int8_graph(), tmp_path, digits()[:20], SANITIZED[compiler], compiler)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", zoo_cases())
def test_every_network_of_the_zoo_gives_the_logits_of_the_reference(name: str, kind: str, tmp_path: Path) -> None:
    assert_same(of_kind(zoo_graph(name), kind), tmp_path, digits()[:30], SANITIZED["gcc"], installed("gcc"))


@pytest.mark.slow
@pytest.mark.parametrize("flags", [("-O3", "-march=native"), ("-Os",), ("-O0",)], ids=lambda flags: flags[0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list_models())
def test_every_network_of_the_zoo_under_every_compiler(
    name: str, kind: str, flags: tuple[str, ...], tmp_path: Path, compiler: str
) -> None:
    assert_same(of_kind(zoo_graph(name), kind), tmp_path, digits(), (*STRICT, *flags), compiler)


@pytest.mark.parametrize("kind", KINDS)
def test_the_shipped_network_reads_real_digits(kind: str, tmp_path: Path, compiler: str, mnist: DigitData) -> None:
    assert_same(shipped(kind), tmp_path, mnist.test.images[:100], SANITIZED[compiler], compiler)


@pytest.mark.parametrize("kind", KINDS)
def test_the_shipped_network_gives_the_same_at_full_speed(kind: str, tmp_path: Path, mnist: DigitData) -> None:
    graph = shipped(kind)
    images = mnist.test.images[:1500]
    write_c(graph, tmp_path)
    difference = run_c(tmp_path, images)[1] - reference(graph, images).astype(np.float64)
    assert np.abs(difference).max() <= (0 if kind == "int8" else 1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_below_the_threshold_it_is_no_digit(kind: str, tmp_path: Path, compiler: str) -> None:
    graph = shipped(kind, "era-8k")  # it compiles fastest
    images = np.concatenate([digits()[:40], np.random.default_rng(0).integers(0, 256, (10, 28, 28)).astype(np.uint8)])
    middle = float(np.median(reference(graph, images).max(axis=1)))
    if isinstance(graph, Int8Graph):
        graph = replace(graph, integer_threshold=int(middle))
    else:
        graph = replace(graph, threshold=middle)
    labels = assert_same(graph, tmp_path, images, SANITIZED[compiler], compiler)
    assert 10 < (labels == -1).sum() < 40


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("beyond", "rejected"), [(1e39, True), (-1e39, False)])
def test_a_threshold_beyond_the_number_format_is_clipped(
    beyond: float, rejected: bool, kind: str, tmp_path: Path, compiler: str
) -> None:
    graph = of_kind(odd_graphs()["linear"], kind)
    if isinstance(graph, Int8Graph):
        graph = replace(graph, integer_threshold=int(beyond))
    else:
        graph = replace(graph, threshold=beyond)
    write_c(graph, tmp_path)
    labels, logits = run_c(tmp_path, digits()[:5], SANITIZED[compiler], compiler)
    assert np.array_equal(labels, np.full(5, -1) if rejected else logits.argmax(axis=1))


@pytest.mark.parametrize("alignment", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_structures_may_be_aligned_less(kind: str, alignment: int, tmp_path: Path, compiler: str) -> None:
    """As on AVR and MSP430, where the arena has a byte or two less than is stated."""
    graph = of_kind(odd_graphs()["strides"], kind)
    assert_same(graph, tmp_path, digits()[:20], (*STRICT, "-O1", f"-fpack-struct={alignment}"), compiler)


@pytest.mark.parametrize("target", ["msp430", "avr"])
@pytest.mark.parametrize("kind", KINDS)
def test_compilers_with_integers_of_16_bits_accept_it(kind: str, target: str, tmp_path: Path) -> None:
    if not shutil.which("clang"):
        pytest.skip("needs clang")
    flags = [*STRICT, f"--target={target}", "-ffreestanding", "-fsyntax-only", "-Wno-avr-rtlib-linking-quirks"]
    known = subprocess.run(["clang", *flags, "-xc", "-"], input=b"int a;\n", capture_output=True, check=False)
    if known.returncode:
        pytest.skip(f"needs a clang that knows {target}")
    (tmp_path / "size.c").write_text(
        '#include "tinydigits_preprocess.h"\n'
        "typedef char work_bytes[TINYDIGITS_WORK_BYTES(512, 512) == 269516 ? 1 : -1];\n"
    )
    sources = [path for path in write_c(shipped(kind), tmp_path) if path.suffix == ".c" and path.name != "main.c"]
    for source in (*sources, tmp_path / "size.c"):
        subprocess.run(["clang", *flags, str(source)], check=True)


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    sources = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        files = write_c(shipped("int8"), tmp_path / name)
        sources.append({path.name: path.read_bytes() for path in files})
    assert sources[0] == sources[1]
    assert list(sources[0]) == [
        "tiny_10k.h",
        "tiny_10k.c",
        "tinydigits_preprocess.h",
        "tinydigits_preprocess.c",
        "main.c",
    ]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("tiny-10k", "tiny_10k"),
        ("net.py:Net", "net_py_Net"),
        ("9k", "model_9k"),
        ("1.5x.py", "model_1_5x_py"),
        ("main", "model_main"),
        ("é", "model__"),
        ("*/x.py:Net", "model___x_py_Net"),
    ],
)
def test_every_model_has_a_name_in_c(model: str, name: str) -> None:
    assert c_name(model) == name


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[..., Path]:
    """A network, compiled as it is documented: object or library."""
    if not shutil.which("gcc"):
        pytest.skip("needs gcc")

    def build(kind: str, *flags: str, compiler: str = "gcc", name: str = "tiny-10k") -> Path:
        source = write_c(shipped(kind, name), tmp_path)[1]
        target = tmp_path / "out.o"
        subprocess.run([compiler, *STRICT, *flags, str(source), "-o", str(target)], check=True)
        return target

    return build


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_kept_between_calls_and_nothing_is_called(kind: str, compiled: Callable[..., Path]) -> None:
    """No symbol lies in writable memory; what is undefined is what compilers themselves may ask for."""
    listed = subprocess.run(
        ["nm", str(compiled(kind, "-O2", "-fno-pie", "-c"))], capture_output=True, text=True, check=True
    ).stdout
    symbols = [line.split()[-2:] for line in listed.splitlines()]
    assert {kind for kind, _ in symbols} <= {"T", "t", "r", "R", "U"}
    assert {name for kind, name in symbols if kind == "U"} <= {"memcpy", "memmove", "memset"}
    assert [name for kind, name in symbols if kind == "T"] == ["tiny_10k_predict"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_arena_may_hold_anything_and_nothing_beside_it_is_touched(kind: str, compiled: Callable[..., Path]) -> None:
    predict = ctypes.CDLL(str(compiled(kind, "-O2", "-shared", "-fPIC"))).tiny_10k_predict
    graph = shipped(kind)
    size, guard = arena_bytes(graph), 64
    rng = np.random.default_rng(0)
    images = digits()[:10]
    wanted = reference(graph, images)
    for image, expected in zip(images, wanted, strict=True):
        memory = rng.integers(0, 256, size + 2 * guard).astype(np.uint8)
        before, logits = memory.copy(), np.zeros(10, wanted.dtype)
        predict(image.ctypes.data_as(ctypes.c_void_p), ctypes.c_void_p(memory.ctypes.data + guard),
                logits.ctypes.data_as(ctypes.c_void_p))  # fmt: skip
        assert np.abs(logits - expected.astype(np.float64)).max() <= (0 if kind == "int8" else 1e-4)
        assert np.array_equal(memory[:guard], before[:guard])
        assert np.array_equal(memory[-guard:], before[-guard:])


@pytest.mark.parametrize("tool", ["gcc", "clang"])
def test_kernels_are_shared_for_size_and_specialised_for_speed(tool: str, compiled: Callable[..., Path]) -> None:
    if not shutil.which(tool):
        pytest.skip(f"needs {tool}")

    def functions(flag: str) -> str:
        target = compiled("int8", flag, "-c", compiler=tool, name="pyramid-9k")  # no two of its layers are alike
        return subprocess.run(["nm", str(target)], capture_output=True, text=True, check=True).stdout

    assert re.search(r" t (convolve|multiply)\b", functions("-Os"))
    assert not re.search(r" t (convolve|multiply)\b", functions("-O3"))


def test_two_models_live_in_one_program(tmp_path: Path, compiler: str) -> None:
    first, second = shipped("int8"), quantize(replace(odd_graphs()["strides"], model="other"), digits())
    write_c(first, tmp_path)
    write_c(second, tmp_path)
    image = digits()[0]
    (tmp_path / "both.c").write_text(
        '#include <stdio.h>\n#include "tiny_10k.h"\n#include "other.h"\n'
        f"static const uint8_t image[784] = {{{', '.join(map(str, image.ravel()))}}};\n"
        "int main(void) {\n    static tiny_10k_arena a;\n    static other_arena b;\n    int32_t logits[10];\n"
        '    printf("%d ", tinydigits_predict(image, &a, logits));\n'
        '    printf("%d\\n", other_predict(image, &b, logits));\n    return 0;\n}\n'
    )
    sources = [str(tmp_path / file) for file in ("both.c", "tiny_10k.c", "other.c")]
    subprocess.run([compiler, *SANITIZED[compiler], *sources, "-o", str(tmp_path / "both")], check=True)
    done = subprocess.run([str(tmp_path / "both")], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert isinstance(first, Int8Graph)
    wanted = int8.run(first, image[None])
    rejected = first.integer_threshold is not None and wanted.max() < first.integer_threshold
    other = int8.run(second, image[None]).argmax()
    assert done.stdout.split() == [str(-1 if rejected else wanted.argmax()), str(other)]


# The documentation


@pytest.mark.parametrize("page", ["README.md", "docs/how-to/microcontroller.md"])
def test_the_documented_c_reads_a_digit(tmp_path: Path, page: str, compiler: str) -> None:
    """A frame of 160×120 as a camera gives it, wider than high; without a preprocessor, MNIST's own form."""
    text = (Path(__file__).parent.parent.parent / page).read_text(encoding="utf-8")
    (snippet,) = re.findall(r"^```c\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (name,) = set(re.findall(r'"(\w+)\.h"', snippet)) - {"tinydigits_preprocess"}
    write_c(shipped("int8", name.replace("_", "-")), tmp_path)
    frames = images = digits()[:20]
    if "160" in snippet:  # dark ink on light paper, on the right of it
        ink = np.zeros((20, 120, 160), np.uint8)
        ink[:, 20:104, 70:154] = images.repeat(3, axis=1).repeat(3, axis=2) * 0.8
        frames = 230 - ink
        images = np.stack([preprocess(frame) for frame in frames])
    rows = ",\n".join(f"{{{', '.join(map(str, frame.ravel()))}}}" for frame in frames)
    (tmp_path / "firmware.c").write_text(
        f"{snippet}\n#include <stdio.h>\nstatic const uint8_t frames[][{frames[0].size}] = {{\n{rows}}};\n"
        'int main(void) {\n    for (int i = 0; i < 20; i++)\n        printf("%d ", read_digit(frames[i]));\n'
        "    return 0;\n}\n"
    )
    sources = [str(path) for path in tmp_path.glob("*.c") if path.name != "main.c"]
    subprocess.run([compiler, *SANITIZED[compiler], *sources, "-o", str(tmp_path / "firmware")], check=True)
    done = subprocess.run([str(tmp_path / "firmware")], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    labels = [int(label) for label in done.stdout.split()]
    assert len(set(labels)) > 5
    assert labels == run_c(tmp_path, images, compiler=compiler)[0].tolist()


# As C++: a firmware's sketch, and the sources themselves

CPLUSPLUS = {
    "strict": ("-std=c++17", "-Wall", "-Wextra", "-Werror", "-O1"),
    "Arduino": ("-std=gnu++11", "-fpermissive", "-fno-exceptions", "-ffunction-sections", "-flto", "-Os", "-w"),
}


@pytest.mark.parametrize("flags", CPLUSPLUS.values(), ids=CPLUSPLUS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("language", ["c", "c++"])
def test_a_sketch_in_cplusplus_reads_a_digit(tmp_path: Path, kind: str, language: str, flags: tuple[str, ...]) -> None:
    """The sketch is C++ always; the exported sources are compiled as what Arduino takes `.c` for, and as C++ too."""
    if not shutil.which("g++"):
        pytest.skip("needs g++")
    graph, image = shipped(kind), digits()[0]
    files = [path for path in write_c(graph, tmp_path) if path.suffix == ".c" and path.name != "main.c"]
    sketch = tmp_path / "sketch.cpp"
    sketch.write_text(
        '#include <cstdio>\n#include "tiny_10k.h"\n#include "tinydigits_preprocess.h"\n'
        f"static const uint8_t image[784] = {{{', '.join(map(str, image.ravel()))}}};\n"
        "static int32_t work[TINYDIGITS_WORK_BYTES(28, 28) / 4 + 1];\n"
        "int main() {\n    static tiny_10k_arena arena;\n    tiny_10k_logit logits[10];\n    uint8_t again[784];\n"
        "    int done = tinydigits_preprocess(image, 28, 28, work, again);\n"
        '    std::printf("%d %d", done, tiny_10k_predict(image, &arena, logits));\n}\n'
    )
    objects = []
    for path in (*files, sketch):
        compiler = ["gcc", "-x", "c"] if path != sketch and language == "c" else ["g++", "-x", "c++", *flags]
        objects.append(str(path.with_suffix(".o")))
        subprocess.run([*compiler, "-c", str(path), "-o", objects[-1]], check=True)
    subprocess.run(["g++", *objects, "-o", str(tmp_path / "sketch")], check=True)
    done = subprocess.run([str(tmp_path / "sketch")], capture_output=True, text=True, check=True)
    assert done.stdout == f"0 {reference(graph, image[None])[0].argmax()}"


# The example


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, compiler: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    directory = tmp_path_factory.mktemp("reader")
    sources = [str(path) for path in write_c(shipped("int8"), directory) if path.suffix == ".c"]
    subprocess.run([compiler, *SANITIZED[compiler], *sources, "-o", str(directory / "reader")], check=True)

    def read(content: bytes) -> subprocess.CompletedProcess[str]:
        (directory / "picture").write_bytes(content)
        command = [str(directory / "reader"), str(directory / "picture")]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return read


def test_the_example_reads_pictures(reader: Callable[..., subprocess.CompletedProcess[str]], mnist: DigitData) -> None:
    for digit, label in zip(mnist.test.images[:5], mnist.test.labels[:5], strict=True):
        large = 255 - np.kron(digit, np.ones((7, 5), np.uint8))
        for content in (digit.tobytes(), b"P5\n# a comment\n140 196\n255\n" + large.tobytes()):
            done = reader(content)
            assert (done.stdout, done.stderr) == (f"{label}\n", "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"P5 10 10 255\n" + bytes(100), "holds no ink"),
        (b"P5 10 10 255\n" + bytes(99), "cut off"),
        (b"P5 10 10 65535\n" + bytes(200), "maxval is not 255"),
        (b"P5 5000 5000 255\n", "larger than"),
        (b"P5", "cut off"),
        (b"", "neither"),
        (bytes(783), "neither"),
        (bytes(785), "neither"),
    ],
)
def test_the_example_says_what_is_wrong_with_a_picture(
    content: bytes, message: str, reader: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = reader(content)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


# What a user can do wrong


def test_without_a_compiler_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_c(shipped("int8"), tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(ToolMissingError, match=r"No C compiler.*Install gcc"):
        run_c(tmp_path, digits()[:1])


@pytest.mark.parametrize("named", ["nonexistent-cc", "nonexistent-cc -m32", "'gcc"])
def test_a_compiler_that_is_named_must_be_there(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_c(shipped("int8"), tmp_path)
    monkeypatch.setenv("CC", named)
    with pytest.raises(ToolMissingError, match=r"^CC is set to .*nonexistent-cc|'gcc.*Name a C compiler in CC"):
        run_c(tmp_path, digits()[:1])


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_compiler_may_be_named_in_several_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_c(shipped("int8"), tmp_path)
    real = find_compiler("exported C is checked")[0]
    cache = script(tmp_path / "cache", f'echo "$1" > {tmp_path}/called; exec "$@"')
    monkeypatch.setenv("CC", f"{cache} {real} -O1")
    assert np.array_equal(run_c(tmp_path, digits()[:5])[1], reference(shipped("int8"), digits()[:5]))
    assert (tmp_path / "called").read_text().strip() == real


def test_a_compiler_need_not_know_this_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_c(shipped("int8"), tmp_path)
    real = find_compiler("exported C is checked")[0]
    rejection = 'for word; do [ "$word" = -march=native ] && { echo "unknown -march" >&2; exit 1; }; done'
    monkeypatch.setenv("CC", script(tmp_path / "old", f'{rejection}\nexec {real} "$@"'))
    assert np.array_equal(run_c(tmp_path, digits()[:5])[1], reference(shipped("int8"), digits()[:5]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("exit 1", r"cannot be compiled: .*silent ended with status 1 and said nothing\.\nExport it again"),
        ("echo no licence; exit 3", r"cannot be compiled: no licence\nExport"),
        (
            'while [ "$1" != -o ]; do shift; done; echo nothing > "$2"; chmod +x "$2"',
            r"program cannot be run: .* in CC",
        ),
    ],
)
def test_a_compiler_that_fails_is_a_sentence(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_c(shipped("int8"), tmp_path)
    monkeypatch.setenv("CC", script(tmp_path / "silent", text))
    with pytest.raises(ExportError, match=message):
        run_c(tmp_path, digits()[:1])


def test_a_directory_without_an_export_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"main\.c is missing.*again"):
        run_c(tmp_path, digits()[:1])


def test_damaged_sources_are_an_error(tmp_path: Path) -> None:
    if not any(map(shutil.which, ("cc", "gcc", "clang", os.environ.get("CC", "cc")))):
        pytest.skip("needs a C compiler")
    source = write_c(shipped("int8"), tmp_path)[1]
    source.write_text(source.read_text()[:3000])
    with pytest.raises(ExportError, match=r"(?s)tiny_10k\.c cannot be compiled.*error"):
        run_c(tmp_path, digits()[:1])


# A microcontroller


def firmware(tmp_path: Path, images: NDArray[np.uint8], name: str = "tiny-10k") -> Firmware:
    write_c(shipped("int8", name), tmp_path)
    try:
        return run_firmware(tmp_path, c_name(name), images)
    except ToolMissingError as error:
        pytest.skip(str(error))


def test_firmware_without_its_compiler_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissingError, match=r"^arm-none-eabi-gcc is not on the PATH.* Install"):
        run_firmware(tmp_path, "tiny_10k", digits()[:1])


@pytest.mark.parametrize(
    ("name", "flash", "memory", "instructions"),
    [("pyramid-9k", 16_000, 4_000, 5_000_000), ("tiny-10k", 16_500, 9_500, 6_000_000)],
)
def test_ten_thousand_parameters_fit_a_small_microcontroller(
    name: str, flash: int, memory: int, instructions: int, tmp_path: Path
) -> None:
    """The limits: weights and code 24 KB, arena and stack 16 KB, and rather 8."""
    done = firmware(tmp_path, digits()[:3], name)
    graph = shipped("int8", name)
    assert np.array_equal(done.logits, int8.run(graph, digits()[:3]))  # type: ignore[arg-type]
    assert done.flash_bytes <= flash
    assert arena_bytes(graph) + done.stack_bytes <= memory
    assert done.instructions < instructions
    assert done.preprocessor_flash_bytes <= 6_000


@pytest.mark.slow
def test_an_emulated_cortex_m_gives_the_same_answers_to_1000_digits(tmp_path: Path, mnist: DigitData) -> None:
    images = mnist.test.images[:1000]
    graph = shipped("int8")
    assert isinstance(graph, Int8Graph)
    done = firmware(tmp_path, images)
    wanted = int8.run(graph, images)
    assert np.array_equal(done.logits, wanted)
    rejected = wanted.max(axis=1) < (-np.inf if graph.integer_threshold is None else graph.integer_threshold)
    assert np.array_equal(done.answers, np.where(rejected, -1, wanted.argmax(axis=1)))
