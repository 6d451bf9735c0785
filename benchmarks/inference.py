"""Every export of every shipped network, one picture at a time on one thread: `make benchmark-inference`.

Writes results/inference.json. Needs MNIST, the extra `onnx`, the package emx-onnx-cgen (a general generator of C from
ONNX, to compare with), a C compiler, Node.js, arm-none-eabi-gcc and qemu-system-arm. Takes half an hour to an hour.
`--section NAME`, which may be repeated, measures only `cortex-m`, `predict` or the network of that name, a few minutes
each, and keeps the other figures of such a machine. `--quick` tries all with one network, in few rounds, and writes
nothing.

Contenders get the same digits, as raw bytes, in turns, and their logits are compared with the reference. C is timed
inside a compiled loop. onnxruntime is called from Python in the fastest way, with input and output bound beforehand;
the time of such a call for a network that only copies its input is reported beside it. The other generator gets the
int8 network as QDQ, as it is exported, and with QLinearConv wherever possible; the faster one counts.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime import OrtValue
from PIL import Image
from torch import nn

from benchmarks.cortex_m.emulator import run_firmware
from benchmarks.measure import alternate, figure, ratio, with_section, write_evidence
from tinydigits.compiler import find_compiler
from tinydigits.data.dataset import DigitData
from tinydigits.data.normalize import Normalization
from tinydigits.data.sources import load_dataset
from tinydigits.exporters.c.generate import arena_bytes, c_name, write_c
from tinydigits.exporters.c.runner import FLAGS
from tinydigits.exporters.fold import fold_network
from tinydigits.exporters.formats import EXPORTERS
from tinydigits.exporters.onnx import onnx_model, open_session
from tinydigits.exporters.quantize import shipped_or_quantized
from tinydigits.inference import graph as reference
from tinydigits.inference import int8
from tinydigits.inference.graph import Graph
from tinydigits.inference.int8 import Int8Graph
from tinydigits.inference.predict import classify
from tinydigits.inference.store import load_graph, packaged_graph
from tinydigits.inspection.inspect import inspect_model
from tinydigits.models.factory import load_model
from tinydigits.models.registry import list_models
from tinydigits.models.weights import packaged_weights
from tinydigits.records import Card

TINYDIGITS = [sys.executable, "-m", "tinydigits"]
PREDICTOR = SMALLEST = "tiny-10k"
TIMER = Path(__file__).with_name("inference_timer.c")
SMALL = 200_000  # MACs below which C has to be three times as fast as onnxruntime
CAST = "onnxruntime, conversion of the input alone"
TIE = 1e-4  # between the two largest logits: less is a matter of the order of sums
BATCH = 100  # pictures at a time where throughput is measured, for those who can

Pictures = NDArray[np.uint8]
Figures = list[dict[str, Any]]


@dataclass(frozen=True)
class Setting:
    """How much is measured: digits a round, rounds, PNG files."""

    digits: int
    rounds: int
    files: int


@dataclass(frozen=True)
class Network:
    """A shipped network, in the formats that are compared."""

    model: nn.Module
    card: Card
    graph: Graph
    int8: Int8Graph


@dataclass(frozen=True, eq=False)
class Timed:
    """Seconds [N] and logits [N, 10] of N pictures, and the `stack_bytes` of a call, if known."""

    seconds: NDArray[np.float64]
    logits: NDArray[Any]
    stack_bytes: int | None = None


@dataclass(frozen=True)
class Contender:
    """`singly` runs one picture after the other; `batch`, if possible, runs them all at once."""

    singly: Callable[[Pictures], Timed]
    batch: Callable[[Pictures], Any] | None = None


@dataclass(frozen=True)
class Program:
    """C, compiled together with the timer; and the object file of the network alone."""

    executable: Path
    object: Path


def main() -> None:
    """Measure section by section, and write the results after each."""
    names = [name for name in list_models() if packaged_weights(name)]
    sections = ["cortex-m", "predict", *names]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--section", action="append", choices=sections, help="only this (default: all)")
    parser.add_argument("--quick", action="store_true", help="the last network, few rounds; nothing is written")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = load_dataset("mnist")
    setting = Setting(digits=300, rounds=11, files=2_000)
    chosen = arguments.section or sections
    if arguments.quick:
        chosen, setting = ["cortex-m", "predict", names[-1]], Setting(digits=50, rounds=2, files=600)
    for section in chosen:
        figures = section_figures(section, data, setting)
        if not arguments.quick:
            known = with_section("inference", section, figures)
            known.sort(key=lambda f: sections.index(f["section"]))
            write_evidence("inference", "make benchmark-inference", known)


def section_figures(section: str, data: DigitData, setting: Setting) -> Figures:
    """What one section measures; but for the first two it is a network in all formats."""
    digits = data.test.images
    if section == "cortex-m":
        return cortex_m_figures(load_network(SMALLEST, data), digits[:1_000])
    if section == "predict":
        return predict_figures(digits, setting)
    with tempfile.TemporaryDirectory() as directory:
        measured = network_figures(load_network(section, data), digits, setting, Path(directory))
    return [*export_figures(section), *measured]


def cortex_m_figures(network: Network, digits: Pictures) -> Figures:
    """The int8 C on an emulated Cortex-M4: what it costs there, and whether it gives the bits of the reference."""
    with tempfile.TemporaryDirectory() as directory:
        write_c(network.int8, Path(directory))
        firmware = run_firmware(Path(directory), c_name(network.card.model), digits)
    same = int((firmware.logits == int8.run(network.int8, digits)).all(axis=1).sum())
    arena = arena_bytes(network.int8)
    flash, memory = firmware.flash_bytes, arena + firmware.stack_bytes
    small = "<= 16384, stretch goal 8192"
    title = f"{network.card.model}, C int8 on Cortex-M4 (-Os):"
    apart = {"preprocessor_flash_bytes": firmware.preprocessor_flash_bytes}
    parts = {"arena_bytes": arena, "stack_bytes": firmware.stack_bytes, "picture_bytes_of_the_caller": 28 * 28}
    return [
        figure(f"{title} code and weights", flash, "bytes", "<= 24576", flash <= 24 * 1024, **apart),
        figure(f"{title} arena and stack", memory, "bytes", small, memory <= 16 * 1024, **parts),
        figure(f"{title} same bits as the reference", same, "digits", f"{len(digits)}", same == len(digits)),
        figure(f"{title} counted for one picture", firmware.instructions, "instructions", None, None),
    ]


def predict_figures(digits: Pictures, setting: Setting) -> Figures:
    """`tinydigits predict`: from memory, from files, and one picture from process start to end."""
    path = packaged_graph(PREDICTOR)
    assert path is not None
    graph = load_graph(path)
    assert isinstance(graph, Graph)
    with tempfile.TemporaryDirectory() as directory:
        for i in range(setting.files):
            picture = Image.fromarray(255 - digits[i]).resize((400, 400), Image.Resampling.BICUBIC)
            picture.save(Path(directory) / f"{i:05}.png")
        turns = {
            "memory": lambda: seconds_of(lambda: classify(graph, digits)),
            "files": lambda: command_seconds("predict", PREDICTOR, directory, "--json"),
            "start": lambda: command_seconds("predict", PREDICTOR, str(Path(directory) / "00000.png")),
        }
        seconds = {key: float(np.median(values)) for key, values in alternate(turns, setting.rounds).items()}
    memory, files = round(len(digits) / seconds["memory"]), round(setting.files / seconds["files"])
    start = round(seconds["start"], 3)
    count = f"median of {setting.rounds}"
    return [
        figure(f"predict from memory, 28×28, {count}", memory, "pictures/s", ">= 5000", memory >= 5_000),
        figure(f"predict {setting.files:,} PNG files of 400×400, {count}", files, "files/s", ">= 300", files >= 300),
        figure(f"predict one PNG file, process start to end, {count}", start, "s", "< 1", start < 1),
    ]


def export_figures(name: str) -> Figures:
    """Each export of a network, parity included, from process start to end."""
    figures = []
    for exporter in EXPORTERS.values():
        for options in ([], ["--int8"]) if exporter.needs_graph else ():
            with tempfile.TemporaryDirectory() as directory:
                out = ["--out", str(Path(directory) / "out")]
                seconds = round(command_seconds("export", name, "--to", exporter.name, *options, *out), 1)
            title = f"{name}: export to {' '.join([exporter.name, *options])}, parity included"
            figures.append(figure(title, seconds, "s", "< 60", seconds < 60))
    return figures


def command_seconds(*words: str) -> float:
    """A whole command of tinydigits."""
    return seconds_of(lambda: subprocess.run([*TINYDIGITS, *words], stdout=subprocess.DEVNULL, check=True))


def seconds_of(work: Callable[[], Any]) -> float:
    """Wall-clock."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def load_network(name: str, data: DigitData) -> Network:
    """A network with the weights that ship, folded, and in int8."""
    model, card = load_model(name)
    graph = fold_network(model, card)
    return Network(model, card, graph, shipped_or_quantized(graph, data))


def network_figures(network: Network, digits: Pictures, setting: Setting, directory: Path) -> Figures:
    """Speed and size of a network in all formats; files go to `directory`."""
    name, pictures = network.card.model, digits[: setting.digits]
    whole, quantised = logits_only(network.graph), logits_only(network.int8)
    programs = {
        "C float": own_program(network.graph, directory / "c_float"),
        "C int8": own_program(network.int8, directory / "c_int8"),
        "emx-onnx-cgen float": emx_program(whole, directory / "emx_float"),
        "emx-onnx-cgen int8, QDQ": emx_program(quantised, directory / "emx_qdq"),
        "emx-onnx-cgen int8, QLinearConv": emx_program(with_integer_convolutions(quantised), directory / "emx_integer"),
    }
    contenders = {
        **{key: Contender(partial(run_program, program)) for key, program in programs.items()},
        "onnxruntime float": onnx_contender(whole, directory / "float.onnx"),
        "onnxruntime int8": onnx_contender(quantised, directory / "int8.onnx"),
        "PyTorch eager": Contender(partial(run_torch, network), partial(torch_logits, network)),
    }
    figures = [
        *speed_figures(name, network, contenders, pictures, setting),
        *throughput_figures(name, contenders, digits, setting),
    ]
    for key, program in programs.items():
        figures.append(size_figure(name, key, program, run_program(program, pictures[:1])))
    for key, graph in (("C float", network.graph), ("C int8", network.int8)):
        figures.append(figure(f"{name}, {key}: arena", arena_bytes(graph), "bytes", None, None))
    return figures


def speed_figures(
    name: str, network: Network, contenders: Mapping[str, Contender], pictures: Pictures, setting: Setting
) -> Figures:
    """One picture on one thread: p50 and p99 of each contender, and the ratios that have goals."""
    seen: dict[str, list[Timed]] = {key: [] for key in (*contenders, CAST)}

    def median(key: str, contender: Callable[[Pictures], Timed]) -> float:
        """µs in this round."""
        seen[key].append(contender(pictures))
        return 1e6 * float(np.median(seen[key][-1].seconds))

    turns = {key: partial(median, key, contender.singly) for key, contender in contenders.items()}
    with tempfile.TemporaryDirectory() as directory:
        turns[CAST] = partial(median, CAST, partial(run_session, cast_session(Path(directory) / "cast.onnx")))
        rounds = alternate(turns, setting.rounds)
    expected = {"float": reference.run(network.graph, pictures), "int8": int8.run(network.int8, pictures)}
    figures = []
    for key, runs in seen.items():
        seconds = 1e6 * np.concatenate([run.seconds for run in runs])
        details: dict[str, Any] = {"p99": round(float(np.quantile(seconds, 0.99)), 2), "n": len(seconds)}
        if key != CAST:
            wanted = expected["int8" if "int8" in key else "float"]
            same = check_predictions(f"{name}, {key}", runs[0].logits, wanted)
            details["read_as_reference"] = same
        median_of_all = round(float(np.median(seconds)), 2)
        figures.append(figure(f"{name}, {key}: one picture, p50", median_of_all, "µs", None, None, **details))
    return figures + ratio_figures(name, inspect_model(network.model, name=name).macs, rounds)


def check_predictions(title: str, logits: NDArray[Any], wanted: NDArray[Any]) -> float:
    """The fraction of digits predicted as by the reference; too small a fraction ends the benchmark.

    Other int8 implementations round in their own ways. All else may differ in ties alone, and our own int8 in nothing.
    """
    odd = logits.argmax(axis=1) != wanted.argmax(axis=1)
    same = 1 - float(odd.mean())
    if "int8" in title and "C int8" not in title:
        assert same > 0.98, f"{title} predicts only {same:.1%} of the digits as the reference does"
        return same
    second, first = np.partition(wanted, -2, axis=1)[:, -2:].T
    ties = first - second < (TIE if "int8" not in title else 0)
    assert not (odd & ~ties).any(), (
        f"{title} does not predict digits {np.flatnonzero(odd & ~ties)} as the reference does"
    )
    return same


def ratio_figures(name: str, macs: int, rounds: Mapping[str, list[float]]) -> Figures:
    """How many times as long the others take, by the medians of rounds."""
    rival = min((key for key in rounds if key.startswith("emx-onnx-cgen int8")), key=lambda key: np.median(rounds[key]))
    least = 3 if macs < SMALL else 1
    comparisons = (
        ("onnxruntime float", "C float", least),
        ("PyTorch eager", "C float", None),
        ("emx-onnx-cgen float", "C float", None),
        ("onnxruntime int8", "C int8", None),
        (rival, "C int8", 5),
    )
    figures = []
    for slow, fast, goal in comparisons:
        value, interval = ratio(rounds[slow], rounds[fast])
        wanted, reached = (f">= {goal}", value >= goal) if goal else (None, None)
        title = f"{name}: one picture, {slow} / {fast}"
        details = {"n": len(rounds[slow]), "interval": interval, "macs": macs}
        figures.append(figure(title, value, "times", wanted, reached, **details))
    return figures


def throughput_figures(name: str, contenders: Mapping[str, Contender], digits: Pictures, setting: Setting) -> Figures:
    """Pictures a second on one thread, one by one or in batches, whichever is faster."""
    pictures = digits[: max(BATCH, setting.digits)]
    turns: dict[tuple[str, str], Callable[[], float]] = {}
    for key, contender in contenders.items():
        turns[key, "one by one"] = partial(singles_a_second, contender.singly, pictures)
        if contender.batch:
            turns[key, f"batches of {BATCH}"] = partial(batches_a_second, contender.batch, pictures)
    rounds = alternate({f"{key}, {way}": turn for (key, way), turn in turns.items()}, max(2, setting.rounds // 3))
    figures = []
    for key in contenders:
        medians = {way: float(np.median(rounds[f"{key}, {way}"])) for other, way in turns if other == key}
        best = max(medians, key=lambda way: medians[way])
        title = f"{name}, {key}: throughput on one thread"
        figures.append(figure(title, round(medians[best]), "pictures/s", None, None, way=best))
    return figures


def singles_a_second(singly: Callable[[Pictures], Timed], pictures: Pictures) -> float:
    """Pictures a second, one by one."""
    return float(1 / singly(pictures).seconds.mean())


def batches_a_second(batch: Callable[[Pictures], Any], pictures: Pictures) -> float:
    """Pictures a second, in batches; the first one, untimed, warms up."""
    batch(pictures[:BATCH])
    firsts = range(0, len(pictures), BATCH)
    return len(pictures) / seconds_of(lambda: [batch(pictures[first : first + BATCH]) for first in firsts])


def size_figure(name: str, key: str, program: Program, timed: Timed) -> dict[str, Any]:
    """Code and constants, by `size`; and the stack of a call."""
    done = subprocess.run(["size", str(program.object)], capture_output=True, text=True, check=True)
    text, data, bss = map(int, done.stdout.splitlines()[1].split()[:3])
    details = {
        "data_bytes": data,
        "bss_bytes": bss,
        "stack_bytes": timed.stack_bytes,
        "compiled_with": " ".join(FLAGS),
    }
    return figure(f"{name}, {key}: code and constants", text, "bytes", None, None, **details)


def own_program(graph: Graph | Int8Graph, directory: Path) -> Program:
    """The C that tinydigits writes."""
    directory.mkdir()
    write_c(graph, directory)
    model = c_name(graph.model)
    adapter = (
        f'#include "{model}.h"\n'
        f"static {model}_arena arena;\n"
        f"static {model}_logit logits[10];\n"
        f"#define CALL(picture) {model}_predict(picture, &arena, logits)\n"
        "#define LOGIT(i) logits[i]\n"
    )
    return compiled(directory, f"{model}.c", adapter)


def emx_program(model: onnx.ModelProto, directory: Path) -> Program:
    """The C that emx-onnx-cgen makes of a model, with all its weights and buffers in the code and on the stack."""
    directory.mkdir()
    onnx.save(model, directory / "network.onnx")
    command = [sys.executable, "-m", "emx_onnx_cgen", "compile", "network.onnx", "network.c", "--model-name", "network"]
    options = ["--input-dim", "N=1", "--large-temp-threshold", "0", "--large-weight-threshold", "0"]
    subprocess.run([*command, *options], cwd=directory, stdout=subprocess.DEVNULL, check=True)
    adapter = (
        "static float logits[1][10];\n"
        "void network(const uint8_t images[1][28][28], float logits[1][10]);\n"
        "#define CALL(picture) network((const uint8_t(*)[28][28])(picture), logits)\n"
        "#define LOGIT(i) logits[0][i]\n"
    )
    return compiled(directory, "network.c", adapter)


def compiled(directory: Path, source: str, adapter: str) -> Program:
    """`source`, in `directory`, with the timer around it."""
    (directory / "adapter.h").write_text(adapter, encoding="utf-8")
    program = Program(directory / "timer", directory / "network.o")
    timer = ['-DADAPTER="adapter.h"', "-I.", str(TIMER), program.object.name, "-o", program.executable.name]
    for arguments in (["-c", source, "-o", program.object.name], [*timer, "-lm", "-lpthread"]):
        subprocess.run([*find_compiler("exported C is measured"), *FLAGS, *arguments], cwd=directory, check=True)
    return program


def run_program(program: Program, pictures: Pictures) -> Timed:
    """See the head of the timer for what it writes."""
    command = [str(program.executable), str(len(pictures))]
    done = subprocess.run(command, input=pictures.tobytes(), stdout=subprocess.PIPE, check=True)
    stack, *values = np.frombuffer(done.stdout)
    count = len(pictures)
    return Timed(np.array(values[:count]) / 1e9, np.reshape(values[count:], (count, 10)), int(stack))


def logits_only(graph: Graph | Int8Graph) -> onnx.ModelProto:
    """Without what stands behind the logits, for those who would calculate it whether wanted or not."""
    model = onnx_model(graph, {})
    end = next(i for i, node in enumerate(model.graph.node) if "logits" in node.output) + 1
    del model.graph.node[end:], model.graph.output[1:]
    return without_unused(model)


def with_integer_convolutions(model: onnx.ModelProto) -> onnx.ModelProto:
    """A QDQ model in which each convolution that is quantised at once is a QLinearConv."""
    makers = {output: node for node in model.graph.node for output in node.output}
    quantisers = {node.input[0]: node for node in model.graph.node if node.op_type == "QuantizeLinear"}
    nodes = []
    for node in model.graph.node:
        quantiser = quantisers.get(node.output[0])
        if node.op_type == "Conv" and quantiser is not None:
            picture, weight, bias = (makers[name].input for name in node.input)
            inputs = [*picture, *weight, *quantiser.input[1:], bias[0]]
            fused = onnx.helper.make_node("QLinearConv", inputs, quantiser.output, node.name)
            fused.attribute.extend(node.attribute)
            nodes.append(fused)
        elif node.op_type != "QuantizeLinear" or makers[node.input[0]].op_type != "Conv":
            nodes.append(node)
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    return without_unused(changed)


def without_unused(model: onnx.ModelProto) -> onnx.ModelProto:
    """Nodes and constants that nothing depends on are taken out."""
    used = {output.name for output in model.graph.output}
    nodes = []
    for node in reversed(model.graph.node):
        if used.intersection(node.output):
            nodes.append(node)
            used.update(node.input)
    constants = [item for item in model.graph.initializer if item.name in used]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(reversed(nodes))
    model.graph.initializer.extend(constants)
    onnx.checker.check_model(model, full_check=True)
    return model


def onnx_contender(model: onnx.ModelProto, path: Path) -> Contender:
    """A model in onnxruntime, on one thread."""
    onnx.save(model, path)
    session = open_session(path)
    return Contender(partial(run_session, session), lambda batch: session.run(["logits"], {"images": batch}))


def run_session(session: Any, pictures: Pictures) -> Timed:
    """One picture after the other, from a buffer that is bound to the network's input."""
    picture = np.zeros((1, 28, 28), np.uint8)
    output = np.zeros((1, *session.get_outputs()[0].shape[1:]), np.float32)
    binding = session.io_binding()
    binding.bind_ortvalue_input("images", OrtValue.ortvalue_from_numpy(picture))
    binding.bind_ortvalue_output("logits", OrtValue.ortvalue_from_numpy(output))

    def call(_: None) -> NDArray[Any]:
        session.run_with_iobinding(binding)
        return output

    return one_by_one(pictures, lambda given: picture.__setitem__(0, given), call)


def cast_session(path: Path) -> Any:
    """In onnxruntime, a network that only converts its input: what a call takes in any case."""
    tensor = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Cast", ["images"], ["logits"], to=onnx.TensorProto.FLOAT)
    pictures = tensor("images", onnx.TensorProto.UINT8, [1, 28, 28])
    graph = onnx.helper.make_graph([node], "cast", [pictures], [tensor("logits", onnx.TensorProto.FLOAT, [1, 28, 28])])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    return open_session(path)


def run_torch(network: Network, pictures: Pictures) -> Timed:
    """One picture after the other."""
    return one_by_one(pictures, lambda given: given[None], partial(torch_logits, network))


@torch.inference_mode()
def torch_logits(network: Network, pictures: Pictures) -> NDArray[np.float32]:
    """Eagerly, normalization included, as it is for the others."""
    logits: NDArray[np.float32] = network.model(
        Normalization(network.card.mean, network.card.std).array(pictures)
    ).numpy()
    return logits


def one_by_one(pictures: Pictures, prepare: Callable[[Pictures], Any], call: Callable[[Any], Any]) -> Timed:
    """Every picture twice: the first pass is not timed, nor is `prepare`."""
    seconds, logits = [], []
    for picture in (*pictures, *pictures):
        given = prepare(picture)
        start = time.perf_counter()
        output = call(given)
        seconds.append(time.perf_counter() - start)
        logits.append(np.array(output[0]))
    return Timed(np.array(seconds[len(pictures) :]), np.array(logits[len(pictures) :]))


if __name__ == "__main__":
    main()
