"""`export`: a trained network in another format, compared with PyTorch."""

import os
import tempfile
from pathlib import Path

import msgspec

from tinydigits.data.dataset import DigitData
from tinydigits.data.normalize import Normalization
from tinydigits.data.sources import load_dataset
from tinydigits.errors import ConfigError, ExportError, reason_of
from tinydigits.evaluation.predictions import predict_logits
from tinydigits.exporters.fold import fold_network
from tinydigits.exporters.formats import EXPORTERS, Exporter, TrainedNetwork
from tinydigits.exporters.parity import PyTorchLogits, WatchParts, check_parity, unwatched
from tinydigits.exporters.quantize import shipped_or_quantized
from tinydigits.models.factory import load_model
from tinydigits.records import ExportResult, write_record

PARITY = "parity.json"
_NO_THRESHOLD = (
    "The network ends in log_softmax. The export gives the logits before it, to which the card's threshold does not "
    'apply, so nothing is rejected as "no digit". To keep the threshold, let the network return logits, and train it '
    "again."
)


def export(
    source: str | os.PathLike[str],
    to: str,
    *,
    int8: bool = False,
    out: str | os.PathLike[str] | None = None,
    data: DigitData | str | None = None,
    data_dir: str | Path | None = None,
    watch: WatchParts = unwatched,
) -> ExportResult:
    """Export a trained network, run the exported files on all test digits, and compare them with PyTorch.

    The record of the comparison is written beside the files as `parity.json`.

    Args:
        source: A zoo model with shipped weights, a run directory, or a .safetensors file with its card beside it.
        to: The format: `onnx`, `c`, `html` or `hub`.
        int8: Quantise weights and activations to 8-bit integers, with ranges taken from validation digits.
        out: The directory of the files; None: `exports/MODEL-FORMAT`.
        data: The digits, or what `--data` takes; None: those that the weights were trained on.
        data_dir: The directory of the MNIST files; None: where tinydigits keeps them.
        watch: Iterates over parts of the digits, and may show progress.

    Returns:
        The files and the comparison. Its verdict is `not run` if a tool to run the files is missing.

    Raises:
        ConfigError: there is no such format, or it has no int8.
        ExportError: the network does not fit the format, or the directory cannot be written to.
        ToolMissingError: the extra `onnx` is needed to write ONNX, and is not installed.
        UnknownModelError, WeightsError, ModelError: see `models.factory.load_model`.
        DataError: the digits are missing or damaged.
    """
    if to not in EXPORTERS:
        raise ConfigError(f"{to}: there is no such export format. Choose {', '.join(EXPORTERS)}.")
    exporter = EXPORTERS[to]
    if int8 and not exporter.needs_graph:
        raise ConfigError(f"int8: {to} keeps PyTorch's weights, in float32. Leave it out, or choose c.")
    model, card = load_model(source)
    graph = fold_network(model, card) if exporter.needs_graph else None
    if not isinstance(data, DigitData):
        data = load_dataset(data or ("auto" if card.data == "mnist" else card.data), data_dir)
    network = TrainedNetwork(model, card, shipped_or_quantized(graph, data) if int8 and graph else graph)
    directory = Path(out or Path("exports") / f"{network.name}-{to}{'-int8' if int8 else ''}")
    files = _write(exporter, network, directory)
    inputs = Normalization(card.mean, card.std).array(data.test.images)
    logits = predict_logits(model, inputs, watch=lambda batches: watch(batches, "PyTorch")).numpy()
    parity = check_parity(exporter, network, files, PyTorchLogits(data.test, logits), watch)
    dropped = graph is not None and graph.threshold is None and card.calibration is not None
    warning = " ".join(filter(None, [data.warning, _NO_THRESHOLD if dropped else None])) or None
    parity = msgspec.structs.replace(parity, warning=warning)
    write_record(directory / PARITY, parity)
    return ExportResult(files=tuple(map(str, files)), parity=parity)


def _write(exporter: Exporter, network: TrainedNetwork, directory: Path) -> list[Path]:
    """Write the files. An older `parity.json` beside them is removed before the first of them is replaced."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".") as staging:
            written = exporter.write(network, Path(staging))
            (directory / PARITY).unlink(missing_ok=True)
            return [path.replace(directory / path.name) for path in written]
    except OSError as error:
        raise ExportError(
            f"{directory} cannot be written to: {reason_of(error)}. Name another directory with --out."
        ) from error
