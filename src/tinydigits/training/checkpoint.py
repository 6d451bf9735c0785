"""The state of a run on disk: one safetensors file, replaced by one rename, so that no kill can tear it."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from tinydigits.errors import RunError
from tinydigits.records import Epoch
from tinydigits.storage import write_bytes
from tinydigits.training.loop import TrainingState

SCHEMA = 1


def save_state(state: TrainingState, path: Path, identity: Mapping[str, str | None]) -> None:
    """Write everything that `fit` needs to resume; numbers and records stand in the file's own header.

    `identity` is what has to be the same when it does.

    Raises:
        StorageError: it cannot be written; the older state is then as it was.
    """
    header = {
        "schema": SCHEMA,
        "identity": dict(identity),
        "step": state.steps_done,
        "epoch_seconds": state.epoch_seconds,
        "epochs": [epoch.as_dict() for epoch in state.epochs],
    }
    # clones, because weights that two layers share are rejected otherwise
    tensors = {name: tensor.contiguous().clone() for name, tensor in _tensors(state).items()}
    write_bytes(path, save(tensors, metadata={"tinydigits": json.dumps(header)}))


def load_state(state: TrainingState, path: Path, identity: Mapping[str, str | None]) -> None:
    """Put a saved state into `state`, freshly made for the same model, recipe and digits.

    Raises:
        RunError: the file is damaged, or belongs to another run, or something of its identity has changed.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["tinydigits"])
            saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        schema, known, step, seconds = (header[key] for key in ("schema", "identity", "step", "epoch_seconds"))
        changed = [what for what in identity if identity[what] != known[what]]
        epochs = [Epoch(**epoch) for epoch in header["epochs"]]
    except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise RunError(f"{path} is no saved state of a run: {error}. Train again with `tinydigits train`.") from error
    if schema != SCHEMA:
        raise RunError(f"{path} has schema {schema}, this version reads {SCHEMA}. Train again.")
    if changed:
        raise RunError(
            f"{path} was saved with other {changed[0]} than found now, so the run cannot resume. Restore the same "
            "(`tinydigits data` says which digits are found where), or train again."
        )
    state.steps_done, state.epoch_seconds, state.epochs = step, seconds, epochs
    _prime(state)
    wanted = _tensors(state)
    if wanted.keys() != saved.keys() or any(wanted[n].shape != saved[n].shape for n in wanted):
        raise RunError(f"{path} belongs to another run: its tensors do not fit the model and recipe in config.json.")
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(saved[name])


def _prime(state: TrainingState) -> None:
    """Let a first step make the optimiser's buffers; what it changes is overwritten by the saved tensors."""
    if state.steps_done:
        for parameter in state.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        state.optimizer.step()
        state.optimizer.zero_grad()


def _tensors(state: TrainingState) -> dict[str, Tensor]:
    """Every tensor of the state by name. They use the memory of the state, where they can."""
    tensors = {f"model.{name}": value for name, value in state.model.state_dict().items()}
    if state.ema is not None:
        tensors |= {f"average.{name}": value for name, value in state.ema.items()}
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    for index, parameter in enumerate(parameters):
        for name, value in state.optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
    return tensors | {"losses": state.losses, "correct": state.correct}
