"""The search's networks: what is known of them without building them, and that only what fits is ever built."""

import random
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Literal

import pytest
import torch

from tests.support.designs import random_design
from tinydigits.errors import BudgetError, ConfigError
from tinydigits.inspection.budget import Budget, list_budgets, load_budget, structural_clauses
from tinydigits.inspection.design_cost import design_facts
from tinydigits.inspection.inspect import inspect_model
from tinydigits.models.design import Block, Design, build_design
from tinydigits.studies.search.space import (
    SPACE,
    START,
    Real,
    Shape,
    Tally,
    design_of,
    fit,
    random_shape,
    reject_impossible,
    space_under,
    start_shape,
)

MEETABLE = [name for name in list_budgets() if "batch_norm" not in load_budget(name).forbid]


def broken(budget: Budget, design: Design, epochs: int) -> list[str]:
    clauses = structural_clauses(budget, inspect_model(build_design(design)), epochs)
    return [clause.sentence for clause in clauses if clause.verdict == "failed"]


def epochs_of(budget: Budget) -> int:
    return min(15, budget.max_epochs or 15)


def check_structure(design: Design) -> None:
    structure, found = design_facts(design).structure, []
    for seed in range(10):  # a network this narrow may begin with all its ReLUs dead, and then shows nothing
        torch.manual_seed(seed)
        found.append(inspect_model(build_design(design)).structure)
        if found[-1] == structure:
            return
    assert found == [structure]


@pytest.mark.parametrize("seed", range(40))
def test_the_structure_is_what_inspect_finds(seed: int) -> None:
    check_structure(random_design(random.Random(seed)))


@pytest.mark.slow
def test_the_structure_is_what_inspect_finds_a_thousand_times() -> None:
    rng = random.Random("structures")
    checked = 0
    while checked < 1000:
        design = random_design(rng)
        if min(block.channels for block in design.blocks) > 1:  # several blocks of one channel are dead from any seed
            check_structure(design)
            checked += 1


@pytest.mark.parametrize(
    "design",
    [
        Design((Block(4, kernel=28), Block(4, kernel=1))),  # the first convolution is fully connected already
        Design((Block(4, kernel=28), Block(4, padding=True)), dropout=0.3),
        Design((Block(4, kernel=27, pool="max"), Block(4, kernel=1)), head="flatten"),  # a pool that sees all of 2×2
        Design((Block(4, kernel=26, pool="average"),), head="flatten"),  # … and one that sees 4 positions of 9
        Design((Block(1, kernel=28, separable=True),)),
    ],
)
def test_the_structure_of_odd_designs(design: Design) -> None:
    check_structure(design)


@pytest.mark.parametrize("name", MEETABLE)
def test_whatever_fits_keeps_the_budget_when_it_is_counted(name: str) -> None:
    budget, rng, tally = load_budget(name), random.Random(name), Tally()
    space, found = space_under(budget), 0
    while found < 4:
        design = fit(random_shape(space, rng), budget, epochs_of(budget), tally)
        if design is not None:
            found += 1
            assert broken(budget, design, epochs_of(budget)) == []
    assert tally.costed > 8
    assert tally.seconds > 0


def test_no_network_is_built_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.Module, "__init__", lambda *_: pytest.fail("a network was built"))
    budget = load_budget("era-s7")
    reject_impossible(budget)
    assert fit(start_shape(space_under(budget)), budget, 15, Tally()) is not None


def test_the_widest_is_taken_and_smaller_ones_by_their_size() -> None:
    budget = Budget("b", max_parameters=5_000)
    space = space_under(budget)
    shape = start_shape(space)
    sizes = []
    for size in (0.5, 0.8, 1.0, 1.5):
        design = fit(replace(shape, size=size), budget, 15, Tally())
        assert design is not None
        sizes.append(design_facts(design).parameters)
    assert sizes[0] < sizes[1] < sizes[2] == sizes[3] <= 5_000
    widths = [steps / 4 for steps in range(4, 100)]
    all_sizes = [design_facts(design_of(shape, width)).parameters for width in widths]
    assert sizes[3] == max(count for count in all_sizes if count <= 5_000)


def test_a_shape_that_fits_in_no_width_is_none() -> None:
    assert fit(start_shape(space_under(Budget("b", max_macs=100))), Budget("b", max_macs=100), 15, Tally()) is None
    cramped = replace(START, stages=4, blocks_1=3, blocks_2=3)  # the maps become too small
    with pytest.raises(ConfigError, match="too small"):
        design_of(cramped, 4.0)
    assert fit(cramped, Budget("b", max_parameters=9_000), 15, Tally()) is None


def test_dropout_and_heads_follow_the_budget() -> None:
    free, demanding = space_under(load_budget("mcu-tiny")), space_under(load_budget("era-s7"))
    assert "dropout" not in free
    assert "dropout" in demanding
    assert free["head"] == ("global", "flatten")
    assert demanding["head"] == ("global",)
    flat = space_under(Budget("b", max_parameters=9_000, forbid=("global_pooling", "dropout")))
    assert flat["head"] == ("flatten",)
    assert start_shape(flat).head == "flatten"
    either = space_under(Budget("b", require=("dropout or global_pooling",)))
    assert "dropout" not in either


def test_dropout_is_enough_to_be_seen() -> None:
    shape = replace(START, stages=2, blocks_1=1, blocks_2=1, dropout=0.02)
    narrow = design_of(shape, 1.0)
    *_, last = narrow.uses
    assert narrow.dropout * last.block.channels * last.out_side**2 >= 0.99
    assert design_of(shape, 8.0).dropout == 0.02


@pytest.mark.parametrize("kind", ["plain", "separable", "shared"])
def test_kinds_of_blocks(kind: Literal["plain", "separable", "shared"]) -> None:
    shape = replace(START, kind=kind, kind_from=1, padding="all", kernel=5)
    blocks = design_of(shape, 6.0).blocks
    assert not blocks[0].separable  # the input has one channel
    assert [b.pool for b in blocks] == ["none", "max", "none", "max", "none"]
    if kind == "plain":
        assert all(b.kernel == 3 and b.times == 1 and not b.separable for b in blocks)
    elif kind == "separable":
        assert all(b.kernel == 5 and b.separable for b in blocks[1:])
    else:
        assert [b.times for b in blocks] == [1, 2, 1, 2, 1]
        assert blocks[0].channels == blocks[1].channels < blocks[2].channels == blocks[3].channels


def test_the_start_lies_in_the_space() -> None:
    assert {field.name for field in fields(Shape)} == SPACE.keys()
    for name, value in START.settings(SPACE).items():
        setting = SPACE[name]
        if isinstance(setting, Real):
            assert not isinstance(value, str)
            assert setting.low <= value <= setting.high
        else:
            assert value in setting
    assert isinstance(SPACE["stages"], range)


@pytest.mark.parametrize(
    ("limits", "sentences"),
    [
        ({"max_parameters": 30}, ["42 parameters, at most 30", "The nearest that can be met: max_parameters = 42."]),
        (
            {"max_activation_bytes": 700, "number_format": "int8"},
            ["bytes of activations (int8), at most 700", "max_activation_bytes = 1_"],
        ),
        (
            {"forbid": ("batch_norm",)},
            ["batch norm: forbidden, but found", "drop batch_norm (forbidden)", "net.py:Net"],
        ),
        (
            {"max_parameters": 30, "max_macs": 100, "require": ("hidden_linear",)},
            ["at most 30", "at most 100", "max_parameters = ", "max_macs = "],
        ),
    ],
)
def test_what_nothing_can_keep_is_named_with_the_nearest(limits: Mapping[str, Any], sentences: list[str]) -> None:
    with pytest.raises(BudgetError) as caught:
        reject_impossible(Budget("odd", **limits))
    assert "meets the budget odd, so nothing was trained" in str(caught.value)
    assert [part for part in sentences if part not in str(caught.value)] == []
    assert caught.value.exit_code == 1


def test_the_nearest_that_can_be_met_can_be_met() -> None:
    reject_impossible(Budget("odd", max_parameters=42))
    reject_impossible(replace(Budget("odd", max_activation_bytes=1_360), number_format="int8"))
