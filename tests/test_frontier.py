"""results/frontier.json against what it was made from: the studies, the networks, the shipped weights."""

import json
from pathlib import Path
from typing import Any

import pytest

from tinydigits.inspection.inspect import inspect_model
from tinydigits.models.factory import create_model
from tinydigits.models.registry import model_of_recipe
from tinydigits.models.weights import load_card, packaged_weights
from tinydigits.training.recipes import get_recipe

ROOT = Path(__file__).parent.parent
ROWS = json.loads((ROOT / "results" / "frontier.json").read_text(encoding="utf-8"))["rows"]

every_row = pytest.mark.parametrize("row", ROWS, ids=[row["model"] for row in ROWS])


@every_row
def test_a_row_is_what_its_study_says(row: dict[str, Any]) -> None:
    proof = json.loads((ROOT / row["evidence"]).read_text(encoding="utf-8"))
    study = proof["study"]
    assert (study["model"], study["recipe"], study["split"]) == (row["model"], row["recipe"], "test")
    assert study["seeds"] == list(range(row["n"]))
    assert [row[key] for key in ("mean", "sd", "lower_bound")] == [
        study[row["accuracy_of"]][key] for key in ("mean", "sd", "lower_bound")
    ]
    assert row["reached"]["goal"] == (row["mean"] >= row["goal"])
    assert row["command"] == proof["command"]
    assert row["recipe"] in row["command"]


@every_row
def test_a_row_is_of_the_network_in_the_zoo(row: dict[str, Any]) -> None:
    inspection = inspect_model(create_model(row["model"]))
    assert (inspection.parameters, inspection.macs) == (row["parameters"], row["macs"])
    assert get_recipe(row["recipe"]).epochs == row["epochs"]
    assert model_of_recipe(row["recipe"]) == row["model"]


@every_row
def test_seed_0_is_what_is_shipped_and_its_card_tells_of_the_study(row: dict[str, Any]) -> None:
    path = packaged_weights(row["model"])
    assert path is not None
    card = load_card(path)
    assert card.study is not None
    assert card.int8 is not None
    assert (card.recipe_name, card.seed, card.macs) == (row["recipe"], 0, row["macs"])
    assert card.int8.as_dict() == row["int8"]
    assert getattr(card.study, row["accuracy_of"]).mean == row["mean"]
    assert card.calibration is not None
