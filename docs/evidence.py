"""What is known of each of the five documents: the network inspected, what is reported, its studies, its ablations."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from benchmarks.ablations import trials
from benchmarks.proofs import PROOFS
from tinydigits.inspection.inspect import inspect_model
from tinydigits.inspection.result import FigureCheck, Inspection
from tinydigits.models.factory import create_model
from tinydigits.models.registry import list_models, target_of
from tinydigits.models.reported import Reported
from tinydigits.training import recipes

NO_AUGMENTATION = "no augmentation"


@dataclass(frozen=True)
class Document:
    """A documented network. `proofs`: results/proofs by recipe, the documented one first, as far as they exist."""

    name: str
    reported: Reported
    inspection: Inspection
    proofs: Mapping[str, dict[str, Any]]
    ablations: tuple[dict[str, Any], ...]

    @property
    def checked(self) -> tuple[FigureCheck, ...]:
        """Its figures beside the measured ones, and at the end the sum of its rows."""
        return self.inspection.reported.figures if self.inspection.reported else ()

    @property
    def documented_recipe(self) -> str | None:
        """The recipe's name, if any is known for this document."""
        return documented_recipe(self.name)

    @property
    def expected(self) -> list[str]:
        """The recipes that `make proofs` studies, whether it has by now or not."""
        return expected_recipes(self.name)

    @property
    def has_list(self) -> bool:
        """Whether the document ends in a list of improvements that `make ablations` measures."""
        return any(trial.network == self.name for trial in trials())

    @cached_property
    def base(self) -> dict[str, Any] | None:
        """The documented recipe's settings."""
        return asdict(recipes.get_recipe(self.documented_recipe)) if self.documented_recipe else None


def documented_names() -> list[str]:
    """The networks of the zoo that a document describes."""
    return [name for name in list_models() if (reported := target_of(name)) and reported.documented]


def documented_recipe(name: str) -> str | None:
    """The recipe of that document's network, if any is known."""
    return next(iter(recipes.list_recipes(f"documented-{name}")), None)


def expected_recipes(name: str) -> list[str]:
    """The recipes that `make proofs` studies, whether it has by now or not."""
    return [proof.recipe for proof in PROOFS if proof.model == name]


def load_document(name: str, results: Path) -> Document:
    """Inspect the network and read what the directory `results` holds of it."""
    reported = target_of(name)
    assert reported is not None
    proofs = {}
    for path in sorted((results / "proofs").glob(f"{name}-*.json")):
        proof = json.loads(path.read_text(encoding="utf-8"))
        proofs[proof["study"]["recipe"]] = {**proof, "evidence": f"results/proofs/{path.name}"}
    order = sorted(proofs, key=lambda recipe: (not recipe.startswith("documented-"), recipe))
    ablations = results / "ablations.json"
    rows = json.loads(ablations.read_text(encoding="utf-8"))["rows"] if ablations.exists() else []
    return Document(
        name,
        reported,
        _inspected(name),
        {recipe: proofs[recipe] for recipe in order},
        tuple(row for row in rows if row["network"] == name),
    )


@cache
def _inspected(name: str) -> Inspection:
    return inspect_model(create_model(name), name=name)


def recipe_in_words(recipe: Mapping[str, Any]) -> str:
    """All settings of a recipe (as plain data) that matter, on one line."""
    return ", ".join(text for text in _aspects(recipe).values() if text)


def changes_in_words(recipe: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """What a recipe does that its base does not, as `learning rate 0.05 instead of 0.01; …`."""
    return "; ".join(
        f"{new} instead of {old.removeprefix('learning rate ')}"
        if new and old and old != NO_AUGMENTATION
        else _alone(new, old)
        for new, old in _changes(recipe, base)
    )


def changes_in_short(recipe: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """The same without what was there before: `learning rate 0.05, …`."""
    return ", ".join(_alone(new, old) for new, old in _changes(recipe, base))


def _changes(recipe: Mapping[str, Any], base: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs = zip(_aspects(recipe).values(), _aspects(base).values(), strict=True)
    return [(new, old) for new, old in pairs if new != old]


def _alone(new: str, old: str) -> str:
    return new or f"without {old}"


def _aspects(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Each setting in words; empty where it is off."""
    optimizer = recipe["optimizer"]
    name = "AdamW" if optimizer["name"] == "adamw" else f"SGD with momentum {optimizer['momentum']:g}"
    decay, smoothing, ema = optimizer["weight_decay"], recipe["label_smoothing"], recipe["ema_decay"]
    return {
        "optimizer": name + (" (Nesterov)" if optimizer["nesterov"] else ""),
        "rate": f"learning rate {optimizer['learning_rate']:g}",
        "schedule": _schedule(recipe["schedule"]),
        "decay": f"weight decay {decay:g}" if decay else "",
        "batch": f"batches of {recipe['batch_size']}",
        "augmentation": _augmentation(recipe["augmentation"]),
        "smoothing": f"label smoothing {smoothing:g}" if smoothing else "",
        "ema": f"moving average of the weights ({ema:g})" if ema else "",
        "epochs": f"{recipe['epochs']} epoch{'' if recipe['epochs'] == 1 else 's'}",
    }


def _schedule(schedule: Mapping[str, Any]) -> str:
    if schedule["name"] == "step":
        return f"a step schedule (× {schedule['factor']:g} every {schedule['step_epochs']} epochs)"
    return {"constant": "a constant rate", "cosine": "a cosine schedule", "one_cycle": "a one-cycle schedule"}[
        schedule["name"]
    ]


def _augmentation(augmentation: Mapping[str, Any]) -> str:
    parts = []
    for key, text in (
        ("rotation_degrees", "rotation ±{:g}°"),
        ("shift_pixels", "shift ±{:g} px"),
        ("scale", "scale ±{:g}"),
        ("shear_degrees", "shear ±{:g}°"),
        ("crop_probability", "crops (probability {:g})"),
    ):
        if augmentation[key]:
            parts.append(text.format(augmentation[key]))
    if not parts:
        return NO_AUGMENTATION
    off = augmentation["off_epochs"]
    return ", ".join(parts) + (f" (not in the last {off} epochs)" if off else "")
