"""A folder for the Hugging Face Hub: `config.json`, `model.safetensors`, and a model card, `README.md`.

The weights are PyTorch's own, not folded, beside tinydigits' card (`model.json`), so that `tinydigits.load_model` and
every command accept the folder as a model. Nothing is uploaded; use `huggingface-cli upload`.
"""

import json
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import nn

from tinydigits.data.normalize import Normalization
from tinydigits.evaluation.predictions import predict_logits
from tinydigits.exporters.templates import fill_template
from tinydigits.models.factory import create_model
from tinydigits.models.user_model import is_user_model, user_file
from tinydigits.models.weights import WEIGHTS_FILE, load_card, load_weights, packaged_weights, save_weights
from tinydigits.records import SPLIT_NAMES, Card
from tinydigits.storage import write_bytes, write_json

_ON_THE_HUB = {"mnist": "ylecun/mnist"}  # the Hub's names of data sets


def write_hub(model: nn.Module, card: Card, directory: Path) -> list[Path]:
    """`Exporter.write`, the weights first. The file of a user's own network is copied too."""
    files = [directory / name for name in (WEIGHTS_FILE, "model.json", "config.json", "README.md")]
    if is_user_model(card.model):
        source = user_file(card.model)
        files.append(directory / source.name)
        write_bytes(files[-1], source.read_bytes())
        card = msgspec.structs.replace(card, model=Path(card.model).name)
    card = save_weights(files[0], model, card)
    write_json(files[2], config(card))
    write_bytes(files[3], model_card(card).encode())
    return files


def load_hub(directory: Path) -> tuple[nn.Module, Card]:
    """`load_model` of a folder, wherever it is: a user's own network is built from the file in it."""
    path = directory / WEIGHTS_FILE
    card = load_card(path)
    model = create_model(str(directory / card.model) if is_user_model(card.model) else card.model)
    load_weights(model, path)
    return model.eval(), card


def run_hub(directory: Path, images: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """`Exporter.run` of a folder, in PyTorch; errors as of `load_model`."""
    model, card = load_hub(directory)
    logits = predict_logits(model, Normalization(card.mean, card.std).array(images)).numpy()
    threshold = card.calibration.threshold if card.calibration else -np.inf
    return np.where(logits.max(axis=1) >= threshold, logits.argmax(axis=1), -1).astype(np.int32), logits


def config(card: Card) -> dict[str, object]:
    """`config.json`: what a program must know, under the Hub libraries' names if they have one."""
    calibration = card.calibration
    return {
        "model_type": "tinydigits",
        "architectures": [card.model],
        "library_name": "tinydigits",
        "torch_dtype": "float32",
        "num_parameters": card.parameters,
        "num_channels": 1,
        "image_size": 28,
        "image_mean": [card.mean],
        "image_std": [card.std],
        "rescale_factor": 1 / 255,
        "num_labels": 10,
        "id2label": {str(digit): str(digit) for digit in range(10)},
        "label2id": {str(digit): digit for digit in range(10)},
        "temperature": calibration.temperature if calibration else None,
        "threshold": calibration.threshold if calibration else None,
    }


def model_card(card: Card) -> str:
    """`README.md`: YAML for the Hub, then what a person must know."""
    own = is_user_model(card.model)
    title = card.model.partition(":")[2] or Path(card.model).stem if own else card.model
    figures = [
        ("parameters", f"{card.parameters:,}"),
        ("trained on", f"{card.data}, {card.epochs} epochs, recipe `{card.recipe_name}`, seed {card.seed}"),
        ("weights", f"{card.chosen}; SHA-256 `{card.weights_sha256[:12]}…`"),
    ]
    if card.accuracy is not None:
        figures.insert(1, ("accuracy", f"{100 * card.accuracy:.2f} % of the {SPLIT_NAMES[card.split]} digits, one run"))
    if card.study is not None:
        final, (low, high) = card.study.final, card.study.interval
        spread = f"{100 * final.mean:.3f} ± {100 * (final.sd or 0):.3f} % (n = {card.study.n})"
        figures.insert(2, ("mean of seeds", f"{spread}; on new digits of this kind {100 * low:.2f}–{100 * high:.2f} %"))
    return fill_template(
        "model_card.md",
        license="license: mit\n" if _shipped(card) else "",  # that of other weights is their owner's choice
        datasets=f"datasets:\n- {_ON_THE_HUB[card.data]}\n" if card.data in _ON_THE_HUB else "",
        results=_results(card, title),
        title=title,
        mean=str(card.mean),
        std=str(card.std),
        table="\n".join(f"| {name} | {value} |" for name, value in figures),
        note=f" The network is built from `{card.model.partition(':')[0]}` here." if own else "",
        command=card.command,
    )


def _results(card: Card, title: str) -> str:
    """The accuracy as the Hub's `model-index`, in YAML."""
    if card.accuracy is None:
        return ""
    return f"""\
metrics:
- accuracy
model-index:
- name: {json.dumps(title)}
  results:
  - task:
      type: image-classification
    dataset:
      name: {json.dumps(card.data)}
      type: {json.dumps(_ON_THE_HUB.get(card.data, card.data))}
      split: {SPLIT_NAMES[card.split]}
    metrics:
    - type: accuracy
      value: {card.accuracy}
"""


def _shipped(card: Card) -> bool:
    if is_user_model(card.model) or (path := packaged_weights(card.model)) is None:
        return False
    return load_card(path).weights_sha256 == card.weights_sha256
