"""What a design costs and how it is built, calculated without building the network."""

from dataclasses import dataclass

from tinydigits.inspection.result import Structure
from tinydigits.models.design import CLASSES, SIDE, Design
from tinydigits.records import FormatBytes

_POOLED = 2  # side of a map that one 2×2 pool sees whole
_WORD_BYTES = 4


@dataclass(frozen=True)
class DesignFacts:
    """What `inspect` would find in the built network: its cost and its structure; all MACs of a design are counted."""

    parameters: int
    macs: int
    weight_bytes: FormatBytes
    activation_bytes: FormatBytes
    structure: Structure
    macs_complete: bool = True


def design_facts(design: Design) -> DesignFacts:
    """The cost (see inspect.py for parameters and MACs, footprint.py for the bytes) and the structure of a design."""
    parameters = macs = weights = biases = peak = 0
    dense = pooled = False
    channels, side = 1, SIDE
    for use in design.uses:
        into, out, positions = use.in_channels, use.block.channels, use.convolved_side**2
        spatial = use.block.kernel**2 * into * (1 if use.block.separable else out)
        mixing = into * out if use.block.separable else 0
        macs += (spatial + mixing) * positions
        parameters += 2 * out  # batch norm
        if use.first:
            parameters += spatial + mixing
            weights += spatial + mixing
            biases += out + (into if use.block.separable else 0)
        if use.block.separable:
            peak = max(peak, into * (use.side**2 + positions), (into + out) * positions)
        else:
            peak = max(peak, into * use.side**2 + out * positions)
        if use.out_side != use.convolved_side:
            peak = max(peak, out * (positions + use.out_side**2))
        # the 1×1 convolution that ends a separable block, or a window as large as its map: a fully connected layer
        dense = dense or use.convolved_side == 1
        pooled = pooled or (use.convolved_side == _POOLED and use.out_side == 1)
        channels, side = out, use.out_side
    features = channels * side * side
    if design.head == "global":
        peak = max(peak, features + channels)
        features = channels
    head = features * CLASSES
    peak = max(peak, features + CLASSES)
    numbers = weights + head + biases + CLASSES
    return DesignFacts(
        parameters=parameters + head + CLASSES,
        macs=macs + head,
        weight_bytes=FormatBytes(float32=_WORD_BYTES * numbers, int8=weights + head + _WORD_BYTES * (biases + CLASSES)),
        activation_bytes=FormatBytes(float32=_WORD_BYTES * peak, int8=peak),
        structure=Structure(
            batch_norm=True,
            dropout=design.dropout > 0,
            global_pooling=pooled or (design.head == "global" and side > 1),
            single_linear_head=not dense,
            hidden_linear=dense,
        ),
    )
