"""What a search chooses from: networks described by a few settings, and the widest of a kind that a budget allows.

A *shape* gives each setting of `SPACE` a value. It fixes a network but for its width, and that is the budget's to say:
`fit` takes the largest width at which all clauses that need no training are kept, by calculation. So only what fits is
ever built.
"""

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

from tinydigits.errors import BudgetError, ConfigError
from tinydigits.models.budget import Budget, Clause, structural_clauses
from tinydigits.models.design import Block, Design, Pool
from tinydigits.models.design_facts import DesignFacts, design_facts

Shape = Mapping[str, Any]


@dataclass(frozen=True)
class OneOf:
    """A setting that takes one of these values."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Whole:
    """A setting that is a whole number from `low` to `high`."""

    low: int
    high: int


@dataclass(frozen=True)
class Real:
    """A setting that is a number from `low` to `high`."""

    low: float
    high: float


Setting = OneOf | Whole | Real
Space = Mapping[str, Setting]

STAGES = 4
HEADS: tuple[Literal["global", "flatten"], ...] = ("global", "flatten")
SPACE: Space = {
    "stages": Whole(2, STAGES),  # a pool stands between two of them
    **{f"blocks_{stage}": Whole(1, 3) for stage in range(1, STAGES + 1)},
    "stem_kernel": OneOf((3, 5)),  # side of the first convolution's
    "kind": OneOf(("plain", "separable", "shared")),  # shared: weights that are used again, all but the stage's first
    "kind_from": Whole(1, 3),  # the stage from which on blocks are of that kind; before it they are plain
    "kernel": OneOf((3, 5)),  # of separable convolutions; that of the others is 3
    "padding": OneOf(("none", "later", "all")),  # later: from the second stage on
    "pool": OneOf(("max", "average")),
    "head": OneOf(HEADS),
    "dropout": OneOf((0.02, 0.05, 0.1)),  # only where the budget demands some
    "growth": Real(1.0, 1.7),  # how much wider a block is than the one before
    "tail": Real(0.7, 1.6),  # how much wider the last stage is, besides
    "size": Real(0.4, 1.6),  # share of the largest width that fits; from 1 on all of it
}

# The shape of our own pyramids, pyramid-9k and era-8k: where a search starts.
START: Shape = {
    "stages": 3,
    **{f"blocks_{stage}": blocks for stage, blocks in enumerate((2, 2, 1, 1), start=1)},
    "stem_kernel": 3,
    "kind": "plain",
    "kind_from": 3,
    "kernel": 3,
    "padding": "none",
    "pool": "max",
    "head": "global",
    "dropout": 0.02,
    "growth": 1.35,
    "tail": 1.1,
    "size": 1.6,
}

_STEPS = 4  # widths that are tried lie 1/4 apart, in channels of the first block
_WIDEST = 64  # of the first block, in channels
_TRIED = 2_000  # shapes, before a budget is said to be impossible
_block = cache(Block)  # thousands of designs a second share their blocks
_SAMPLE = Design((Block(4, pool="max"), Block(4)))  # what does not hang on head or dropout is the same in all designs


@dataclass(frozen=True)
class Candidate:
    """A network that keeps the budget, as far as that can be said without training."""

    design: Design
    facts: DesignFacts


@dataclass
class Tally:
    """How many candidates were costed and held against the budget, and the processor seconds that took."""

    costed: int = 0
    seconds: float = 0.0


def space_under(budget: Budget) -> Space:
    """The settings that are left to choose: no head that the budget forbids, and dropout only where it demands some."""
    heads = tuple(head for head in HEADS if not _breaks_facts(replace(_SAMPLE, head=head), budget))
    demanded = len(heads) == 0
    if demanded:
        heads = tuple(head for head in HEADS if not _breaks_facts(replace(_SAMPLE, head=head, dropout=0.1), budget))
    space = {**SPACE, "head": OneOf(heads or HEADS)}
    if not (demanded and heads):
        del space["dropout"]
    return space


def start_shape(space: Space) -> Shape:
    """`START`, as far as the space allows it."""
    shape = {name: START[name] for name in space}
    head = space["head"]
    assert isinstance(head, OneOf)
    return shape if shape["head"] in head.values else {**shape, "head": head.values[0]}


def random_shape(space: Space, draws: random.Random) -> Shape:
    """Any member of the space."""
    return {name: _draw(setting, draws) for name, setting in space.items()}


def _draw(setting: Setting, draws: random.Random) -> Any:
    if isinstance(setting, OneOf):
        return draws.choice(setting.values)
    if isinstance(setting, Whole):
        return draws.randint(setting.low, setting.high)
    return draws.uniform(setting.low, setting.high)


def design_of(shape: Shape, width: float) -> Design:
    """The network of a shape whose first block has about `width` channels.

    Raises:
        ConfigError: a map becomes too small for such a stack, or a block too wide.
    """
    blocks: list[Block] = []
    channels = width
    for stage in range(1, shape["stages"] + 1):
        separable, repeated = _kind(shape, stage)
        padding = shape["padding"] == "all" or (shape["padding"] == "later" and stage > 1)
        tail = shape["tail"] if stage == shape["stages"] else 1.0
        for place, times in enumerate(repeated, start=1):
            if times == 1:  # weights that are used again take as many channels as they give
                wide = max(1, round(channels * tail))
                channels *= shape["growth"]
            kernel = shape["kernel"] if separable else 3
            ends = place == len(repeated) and stage < shape["stages"]
            pool: Pool = shape["pool"] if ends else "none"
            if not blocks:
                blocks.append(_block(wide, shape["stem_kernel"], padding, False, 1, pool))
            else:
                blocks.append(_block(wide, kernel, padding, separable, times, pool))
    design = Design(tuple(blocks), shape["head"], shape.get("dropout", 0.0))
    return _seen(design) if design.dropout else design


def _kind(shape: Shape, stage: int) -> tuple[bool, list[int]]:
    """Whether a stage's blocks are separable, and how often the weights of each are used."""
    count = shape[f"blocks_{stage}"]
    kind = shape["kind"] if stage >= shape["kind_from"] else "plain"
    if kind == "shared" and count > 1:
        return False, [1, count]
    return kind == "separable", [1] * count


def _seen(design: Design) -> Design:
    """At least one of the numbers before the head is to be dropped on average, or nobody sees that there is dropout."""
    *_, last = design.uses
    least = 1 / (last.block.channels * last.out_side**2)
    return design if design.dropout >= least else replace(design, dropout=min(0.5, round(least, 3)))


def fit(shape: Shape, budget: Budget, epochs: int, tally: Tally) -> Candidate | None:
    """The widest network of a shape that keeps the budget, or narrower by its `size`; None: none of that shape does.

    Costs grow with the width, so the widest is found by halving: about nine candidates are costed.
    """
    started = time.process_time()

    def keeping(steps: int) -> Candidate | None:
        tally.costed += 1
        try:
            design = design_of(shape, steps / _STEPS)
        except ConfigError:
            return None
        facts = design_facts(design)
        broken = any(clause.verdict == "failed" for clause in structural_clauses(budget, facts, epochs))
        return None if broken else Candidate(design, facts)

    low, high = _STEPS, _WIDEST * _STEPS + 1  # the widest lies in [low, high)
    found = keeping(low)
    while found is not None and high - low > 1:
        middle = (low + high) // 2
        wider = keeping(middle)
        if wider is None:
            high = middle
        else:
            low, found = middle, wider
    if found is not None and shape["size"] < 1:
        found = keeping(max(_STEPS, round(low * shape["size"]))) or found
    tally.seconds += time.process_time() - started
    return found


def refuse_impossible(budget: Budget) -> None:
    """Stop before any training if nothing that can be built keeps the budget.

    Raises:
        BudgetError: naming the limits in the way, and the nearest that can be met.
    """
    draws = random.Random(0)
    space = space_under(budget)
    shapes = [start_shape(space), *(random_shape(space, draws) for _ in range(_TRIED))]
    nearest: tuple[tuple[int, float], list[Clause]] | None = None
    for shape in shapes:
        try:
            facts = design_facts(design_of(shape, 1.0))
        except ConfigError:
            continue
        broken = [clause for clause in structural_clauses(budget, facts, None) if clause.verdict == "failed"]
        if not broken:
            return
        distance = _distance(broken)
        if nearest is None or distance < nearest[0]:
            nearest = distance, broken
    assert nearest is not None
    raise BudgetError(_impossible(budget, nearest[1]))


def _distance(broken: list[Clause]) -> tuple[int, float]:
    """How far from being kept: broken facts first, then how many times the limits are exceeded."""
    facts = sum(isinstance(clause.limit, str) for clause in broken)
    times = [clause.value / clause.limit for clause in broken if not isinstance(clause.limit, str)]
    return facts, max(times, default=0.0)


def _impossible(budget: Budget, broken: list[Clause]) -> str:
    sentences = "".join(f"\n  {clause.sentence}" for clause in broken)
    numbers = [clause for clause in broken if not isinstance(clause.limit, str)]
    facts = [clause for clause in broken if isinstance(clause.limit, str)]
    remedies = []
    if numbers:
        limits = ", ".join(f"max_{clause.clause} = {clause.value:_}" for clause in numbers)
        remedies.append(f"The nearest that can be met: {limits}.")
    if facts:
        lines = ", ".join(f"{clause.clause} ({clause.limit})" for clause in facts)
        remedies.append(
            f"No network of the search is otherwise: drop {lines}, or train a net.py:Net of your own with "
            "`tinydigits prove`."
        )
    return (
        f"No network that the search can build keeps the budget {budget.name}, so nothing was trained. "
        f"The nearest:{sentences}\n{' '.join(remedies)}"
    )


def _breaks_facts(design: Design, budget: Budget) -> bool:
    clauses = structural_clauses(budget, design_facts(design), None)
    return any(clause.verdict == "failed" for clause in clauses if isinstance(clause.limit, str))
