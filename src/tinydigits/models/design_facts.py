"""What a budget limits of a design, known without building the network: its cost and its structure."""

from dataclasses import dataclass

from tinydigits.models.design import Design, design_cost
from tinydigits.models.footprint import FormatBytes
from tinydigits.models.inspect import Structure

_POOLED = 2  # side of a map that one 2×2 pool sees whole


@dataclass(frozen=True)
class DesignFacts:
    """As `inspect` counts and finds them in the built network; what is in a design has MACs that are all counted."""

    parameters: int
    macs: int
    weight_bytes: FormatBytes
    activation_bytes: FormatBytes
    structure: Structure
    macs_complete: bool = True


def design_facts(design: Design) -> DesignFacts:
    """The facts of a design."""
    cost = design_cost(design)
    return DesignFacts(
        cost.parameters, cost.macs, cost.weight_bytes, cost.activation_bytes, structure=design_structure(design)
    )


def design_structure(design: Design) -> Structure:
    """The structural facts: see `models.inspect.Structure`."""
    pooled = dense = False
    side = 0
    for use in design.uses:
        # the 1×1 convolution that ends a separable block, or a window as large as its map: a fully connected layer
        dense = dense or use.convolved_side == 1
        pooled = pooled or (use.convolved_side == _POOLED and use.out_side == 1)
        side = use.out_side
    return Structure(
        batch_norm=True,
        dropout=design.dropout > 0,
        global_pooling=pooled or (design.head == "global" and side > 1),
        single_linear_head=not dense,
        hidden_linear=dense,
    )
