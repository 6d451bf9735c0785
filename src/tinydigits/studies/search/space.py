"""What a search chooses from: networks described by a few settings, and the widest of a kind that a budget allows.

A *shape* gives each setting of `SPACE` a value, and so describes a network except for its width. `fit` calculates the
largest width that keeps all clauses of the budget that need no training. So only networks that fit are ever built.
"""

import contextlib
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from tinydigits.errors import BudgetError, ConfigError
from tinydigits.inspection.budget import Budget, Counted, structural_clauses
from tinydigits.inspection.design_cost import design_facts
from tinydigits.models.design import Block, Design, Pool
from tinydigits.records import Clause

Value = int | float | str
Head = Literal["global", "flatten"]


@dataclass(frozen=True)
class Real:
    """A setting that is a number from `low` to `high`."""

    low: float
    high: float


Setting = tuple[Value, ...] | range | Real  # one of some values, a whole number, a number
Space = Mapping[str, Setting]

STAGES = 4
HEADS: tuple[Head, ...] = ("global", "flatten")
SPACE: Space = {
    "stages": range(2, STAGES + 1),  # with a pool between two of them
    **{f"blocks_{stage}": range(1, 4) for stage in range(1, STAGES + 1)},
    "stem_kernel": (3, 5),  # side of the first convolution's kernel
    "kind": ("plain", "separable", "shared"),  # shared: a stage's second block is used repeatedly
    "kind_from": range(1, 4),  # the first stage whose blocks are of that kind; earlier ones are plain
    "kernel": (3, 5),  # of separable convolutions; the others have 3
    "padding": ("none", "later", "all"),  # later: from the second stage on
    "pool": ("max", "average"),
    "head": HEADS,
    "dropout": (0.02, 0.05, 0.1),  # only if the budget requires some
    "growth": Real(1.0, 1.7),  # how much wider a block is than the previous one
    "tail": Real(0.7, 1.6),  # how much wider still the last stage is
    "size": Real(0.4, 1.6),  # fraction of the largest width that fits; all of it from 1 on
}


@dataclass(frozen=True)
class Shape:
    """A member of `SPACE`: a value for each of its settings. The defaults are those of our pyramids."""

    stages: int = 3
    blocks_1: int = 2
    blocks_2: int = 2
    blocks_3: int = 1
    blocks_4: int = 1
    stem_kernel: int = 3
    kind: Literal["plain", "separable", "shared"] = "plain"
    kind_from: int = 3
    kernel: int = 3
    padding: Literal["none", "later", "all"] = "none"
    pool: Pool = "max"
    head: Head = "global"
    growth: float = 1.35
    tail: float = 1.1
    size: float = 1.6
    dropout: float = 0.0

    def settings(self, space: Space) -> dict[str, Value]:
        """The values of the settings that a space has."""
        return {name: getattr(self, name) for name in space}


START = Shape(dropout=0.02)  # where a search starts: as pyramid-9k and era-8k

_STEPS = 4  # widths that are tried lie 1/4 apart, in channels of the first block
_WIDEST = 64  # of the first block, in channels
_TRIED = 2_000  # shapes, before a budget is called impossible
_block = cache(Block)  # thousands of designs a second use the same few blocks
_SAMPLE = Design((Block(4, pool="max"), Block(4)))  # apart from head and dropout, all designs have these facts


@dataclass
class Tally:
    """How many candidates were costed and compared with the budget, and how many processor seconds that took."""

    costed: int = 0
    seconds: float = 0.0


def space_under(budget: Budget) -> Space:
    """The settings that are left to choose: heads that the budget allows; dropout only if it requires some."""
    for dropout in (0.0, 0.1):
        sample = replace(_SAMPLE, dropout=dropout)
        if heads := tuple(head for head in HEADS if not _breaks_facts(replace(sample, head=head), budget)):
            break
    space = {**SPACE, "head": heads or HEADS}
    if not (heads and dropout):
        del space["dropout"]
    return space


def start_shape(space: Space) -> Shape:
    """`START`, or what of it the space allows."""
    settings, heads = START.settings(space), space["head"]
    assert isinstance(heads, tuple)
    return build_shape(settings if settings["head"] in heads else {**settings, "head": heads[0]})


def build_shape(settings: Mapping[str, Value]) -> Shape:
    """The shape with these settings; without one for dropout, it has none."""
    return Shape(**settings)  # type: ignore[arg-type]  # names and types are those of `SPACE`


def random_shape(space: Space, rng: random.Random) -> Shape:
    """Any member of the space."""

    def value(setting: Setting) -> Value:
        return rng.uniform(setting.low, setting.high) if isinstance(setting, Real) else rng.choice(setting)

    return build_shape({name: value(setting) for name, setting in space.items()})


def design_of(shape: Shape, width: float) -> Design:
    """The network of a shape whose first block has about `width` channels.

    Raises:
        ConfigError: a map becomes too small for another block, or a block too wide.
    """
    blocks: list[Block] = []
    channels = width
    for stage in range(1, shape.stages + 1):
        separable, repeated = _kind(shape, stage)
        padding = shape.padding == "all" or (shape.padding == "later" and stage > 1)
        tail = shape.tail if stage == shape.stages else 1.0
        for number, times in enumerate(repeated, start=1):
            if times == 1:  # weights that are used again have as many outputs as inputs
                wide = max(1, round(channels * tail))
                channels *= shape.growth
            kernel = shape.kernel if separable else 3
            pool: Pool = shape.pool if number == len(repeated) and stage < shape.stages else "none"
            if blocks:
                blocks.append(_block(wide, kernel, padding, separable, times, pool))
            else:
                blocks.append(_block(wide, shape.stem_kernel, padding, False, 1, pool))
    design = Design(tuple(blocks), shape.head, shape.dropout)
    return _with_visible_dropout(design) if design.dropout else design


def _kind(shape: Shape, stage: int) -> tuple[bool, list[int]]:
    """Whether a stage's blocks are separable, and how often the weights of each are used."""
    count = (shape.blocks_1, shape.blocks_2, shape.blocks_3, shape.blocks_4)[stage - 1]
    kind = shape.kind if stage >= shape.kind_from else "plain"
    if kind == "shared" and count > 1:
        return False, [1, count]
    return kind == "separable", [1] * count


def _with_visible_dropout(design: Design) -> Design:
    """Enough dropout that on average one number before the head is dropped; with less, no inspection would find it."""
    *_, last = design.uses
    least = 1 / (last.block.channels * last.out_side**2)
    return design if design.dropout >= least else replace(design, dropout=min(0.5, round(least, 3)))


def fit(shape: Shape, budget: Budget, epochs: int, tally: Tally) -> Design | None:
    """The widest network of a shape that meets the budget, or a narrower one by its `size`; None: no width keeps it.

    Costs grow with the width, so bisection finds the widest: it costs about nine candidates.
    """
    started = time.process_time()

    def keeping(steps: int) -> Design | None:
        tally.costed += 1
        try:
            design = design_of(shape, steps / _STEPS)
        except ConfigError:
            return None
        return None if broken_clauses(budget, design_facts(design), epochs) else design

    low, high = _STEPS, _WIDEST * _STEPS + 1  # the widest lies in [low, high)
    found = keeping(low)
    while found is not None and high - low > 1:
        middle = (low + high) // 2
        if (wider := keeping(middle)) is None:
            high = middle
        else:
            low, found = middle, wider
    if found is not None and shape.size < 1:
        found = keeping(max(_STEPS, round(low * shape.size))) or found
    tally.seconds += time.process_time() - started
    return found


def reject_impossible(budget: Budget) -> None:
    """Check that some network of the space meets the budget.

    Raises:
        BudgetError: none does; it names the limits that are broken, and the nearest that can be met.
    """
    rng = random.Random(0)
    space = space_under(budget)
    shapes = [start_shape(space), *(random_shape(space, rng) for _ in range(_TRIED))]
    broken = []
    for shape in shapes:
        with contextlib.suppress(ConfigError):
            broken.append(broken_clauses(budget, design_facts(design_of(shape, 1.0))))
            if not broken[-1]:
                return
    nearest = min(broken, key=_distance)
    sentences = "".join(f"\n  {clause.sentence}" for clause in nearest)
    numbers = ", ".join(f"max_{each.clause} = {each.value:_}" for each in nearest if not isinstance(each.limit, str))
    facts = ", ".join(f"{each.clause} ({each.limit})" for each in nearest if isinstance(each.limit, str))
    hints = [f"The nearest that can be met: {numbers}."] if numbers else []
    if facts:
        hints.append(
            f"Every network of the search breaks this: drop {facts}, or train a net.py:Net of your own with "
            "`tinydigits prove`."
        )
    raise BudgetError(
        f"No network that the search can build meets the budget {budget.name}, so nothing was trained. "
        f"The nearest:{sentences}\n{' '.join(hints)}"
    )


def _distance(broken: list[Clause]) -> tuple[int, float]:
    """How far a network is from the budget: how many facts it breaks, then the largest factor over a limit."""
    facts = sum(isinstance(clause.limit, str) for clause in broken)
    times = [clause.value / clause.limit for clause in broken if not isinstance(clause.limit, str)]
    return facts, max(times, default=0.0)


def broken_clauses(budget: Budget, network: Counted, epochs: int | None = None) -> list[Clause]:
    """The clauses of a budget that need no training and that a network breaks."""
    return [clause for clause in structural_clauses(budget, network, epochs) if clause.verdict == "failed"]


def _breaks_facts(design: Design, budget: Budget) -> bool:
    return any(isinstance(clause.limit, str) for clause in broken_clauses(budget, design_facts(design)))
