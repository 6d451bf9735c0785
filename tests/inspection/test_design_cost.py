"""A design's cost by calculation is what `inspect` counts in the built network."""

import random

import pytest
import torch

from tests.support.designs import DESIGN, random_design
from tinydigits.inspection.design_cost import design_facts
from tinydigits.inspection.inspect import inspect_model
from tinydigits.models.design import Design, build_design


def check_cost(design: Design) -> None:
    counted, facts = inspect_model(build_design(design)), design_facts(design)
    assert facts.parameters == counted.parameters
    assert facts.macs == counted.macs
    assert facts.weight_bytes == counted.weight_bytes
    assert facts.activation_bytes == counted.activation_bytes


@pytest.mark.parametrize("seed", range(60))
def test_the_cost_is_what_inspect_counts(seed: int) -> None:
    check_cost(random_design(random.Random(seed)))


@pytest.mark.slow
def test_the_cost_is_what_inspect_counts_a_thousand_times() -> None:
    draw = random.Random("a thousand")
    for _ in range(1000):
        check_cost(random_design(draw))


def test_ten_thousand_costs_take_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.Conv2d, "__init__", lambda *_: pytest.fail("a network was built"))
    assert design_facts(DESIGN).parameters > 0
