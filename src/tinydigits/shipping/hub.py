"""A folder as the Hugging Face Hub keeps models: `config.json`, `model.safetensors`, and a model card, `README.md`.

The weights are PyTorch's own, not folded, beside tinydigits' card (`model.json`), so that `tinydigits.load_model` and
every command take the folder for a model. Nothing is uploaded: `huggingface-cli upload` does that.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tinydigits.data.normalise import normalise
from tinydigits.evaluation.predictions import predict_logits
from tinydigits.models.registry import create_model, is_users_own, users_file
from tinydigits.models.weights import FILE_NAME, Card, load_card, load_weights, packaged_weights, save_weights
from tinydigits.shipping.export import Form
from tinydigits.shipping.graph import Graph
from tinydigits.storage import write_bytes, write_json
from tinydigits.training.rundir import file_stem

_ON_THE_HUB = {"mnist": "ylecun/mnist"}  # data sets that have a name there


def hub_form(model: nn.Module, card: Card) -> tuple[Form, Graph]:
    """The folder as a form of export, and what its parity record says of the network; nothing is folded for it."""
    calibration = card.calibration or {}
    graph = Graph(
        file_stem(card.model),
        ops=(),
        weights_sha256=card.weights_sha256,
        temperature=calibration.get("temperature"),
        threshold=calibration.get("threshold"),
    )
    form = Form(
        "hub",
        write=lambda _graph, directory, _facts: write_hub(model, card, directory),
        run=lambda files, images: run_hub(files[0].parent, images),
        preprocess=None,
    )
    return form, graph


def write_hub(model: nn.Module, card: Card, directory: Path) -> list[Path]:
    """Write the folder; a network of the user's own goes into it as the file that it stands in.

    Returns:
        The files, the weights first.

    Raises:
        StorageError: one of them cannot be written.
    """
    files = [directory / name for name in (FILE_NAME, "model.json", "config.json", "README.md")]
    if is_users_own(card.model):
        source = users_file(card.model)
        files.append(directory / source.name)
        write_bytes(files[-1], source.read_bytes())
        card = replace(card, model=Path(card.model).name)
    card = save_weights(files[0], model, card)
    write_json(files[2], config(card))
    write_bytes(files[3], model_card(card).encode())
    return files


def load_hub(directory: Path) -> tuple[nn.Module, Card]:
    """The network of a folder, in evaluation mode, with its card; a user's own is built from the file in the folder.

    Raises:
        WeightsError: weights or card are missing, damaged, or do not fit.
        ModelError: the network cannot be built.
    """
    path = directory / FILE_NAME
    card = load_card(path)
    model = create_model(str(directory / card.model) if is_users_own(card.model) else card.model)
    load_weights(model, path)
    return model.eval(), card


def run_hub(directory: Path, images: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """What the network of a folder makes of raw pictures uint8 [N, 28, 28].

    Returns:
        Answers int32 [N], -1 for “no digit”, and logits [N, 10].

    Raises:
        WeightsError: weights or card are missing, damaged, or do not fit.
        ModelError: the network cannot be built.
    """
    model, card = load_hub(directory)
    logits = predict_logits(model, normalise(images, card.mean, card.deviation)).numpy()
    answers = logits.argmax(axis=1)
    if card.calibration is not None:
        answers = np.where(logits.max(axis=1) >= card.calibration["threshold"], answers, -1)
    return answers.astype(np.int32), logits


def config(card: Card) -> dict[str, Any]:
    """`config.json`: what a program has to know, in the names that the Hub's libraries use where they have one."""
    calibration = card.calibration or {}
    return {
        "model_type": "tinydigits",
        "architectures": [card.model],
        "library_name": "tinydigits",
        "torch_dtype": "float32",
        "num_parameters": card.parameters,
        "num_channels": 1,
        "image_size": 28,
        "image_mean": [card.mean],
        "image_std": [card.deviation],
        "rescale_factor": 1 / 255,
        "num_labels": 10,
        "id2label": {str(digit): str(digit) for digit in range(10)},
        "label2id": {str(digit): digit for digit in range(10)},
        "temperature": calibration.get("temperature"),
        "threshold": calibration.get("threshold"),
    }


def model_card(card: Card) -> str:
    """`README.md`: a head of YAML for the Hub, then what a person has to know."""
    own = is_users_own(card.model)
    title = card.model.partition(":")[2] or Path(card.model).stem if own else card.model
    return f"{_head(card, title)}\n# {title}\n\n{_body(card, own)}"


def _head(card: Card, title: str) -> str:
    lines = ["---", "library_name: tinydigits", "pipeline_tag: image-classification"]
    if _shipped(card):  # whose else these weights are, nobody here can know
        lines.insert(1, "license: mit")
    lines += ["tags:", *(f"- {tag}" for tag in ("pytorch", "safetensors", "digits", "mnist", "tinyml"))]
    if card.data in _ON_THE_HUB:
        lines += ["datasets:", f"- {_ON_THE_HUB[card.data]}"]
    if card.accuracy is not None:
        split = "test" if card.protocol == "final" else "held-out"
        lines += [
            "metrics:",
            "- accuracy",
            "model-index:",
            f"- name: {json.dumps(title)}",
            "  results:",
            "  - task:",
            "      type: image-classification",
            "    dataset:",
            f"      name: {json.dumps(card.data)}",
            f"      type: {json.dumps(_ON_THE_HUB.get(card.data, card.data))}",
            f"      split: {split}",
            "    metrics:",
            "    - type: accuracy",
            f"      value: {card.accuracy}",
        ]
    return "\n".join([*lines, "---", ""])


def _shipped(card: Card) -> bool:
    if is_users_own(card.model) or (path := packaged_weights(card.model)) is None:
        return False
    return load_card(path).weights_sha256 == card.weights_sha256


def _body(card: Card, own: bool) -> str:
    digits = "test digits" if card.protocol == "final" else "held-out training digits"
    figures = [
        ("parameters", f"{card.parameters:,}"),
        ("trained on", f"{card.data}, {card.epochs} epochs, recipe `{card.recipe_name}`, seed {card.seed}"),
        ("weights", f"{card.chosen}; SHA-256 `{card.weights_sha256[:12]}…`"),
    ]
    if card.accuracy is not None:
        figures.insert(1, ("accuracy", f"{100 * card.accuracy:.2f} % of the {digits}, one run"))
    if card.study is not None:
        final, (low, high) = card.study["final"], card.study["interval"]
        spread = f"{100 * final['mean']:.3f} ± {100 * final['sd']:.3f} % (n = {card.study['n']})"
        figures.insert(2, ("mean of seeds", f"{spread}; on new digits of this kind {100 * low:.2f}–{100 * high:.2f} %"))
    table = "\n".join(f"| {name} | {value} |" for name, value in figures)
    place = f" The network is built from `{card.model.partition(':')[0]}` here." if own else ""
    return f"""A small network that reads one handwritten digit: [N, 1, 28, 28] → [N, 10] logits, light ink on black,
pixels as (x / 255 − {card.mean}) / {card.deviation}.

| | |
|---|---|
{table}

## Use

```sh
pip install tinydigits
```

Run this in the folder that holds this file.{place}

```python
import tinydigits as td
import torch

model, card = td.load_model(".")
image = td.preprocess("my-digit.jpg")  # any picture → uint8 [28, 28], the way MNIST was made
pixels = (torch.from_numpy(image) / 255 - card.mean) / card.deviation
print(int(model(pixels[None, None]).argmax()))
```

## Made by

```sh
{card.command}
```

`model.json` holds the whole recipe, the hash of the training digits and the environment; `parity.json` says how the
files in this folder compared with the network that was exported.

## Limits

It knows single digits, 0 to 9, and nothing else. Below the `threshold` in `config.json` the largest logit is no
digit's; that catches blanks and noise, and few letters.
"""
