"""Designs to test with: one with every kind of block, and random ones."""

import random
from dataclasses import replace

from tinydigits.errors import ConfigError
from tinydigits.models.design import Block, Design

DESIGN = Design((Block(8), Block(12, pool="max"), Block(12, times=2), Block(16, separable=True)), dropout=0.05)


def random_design(draw: random.Random) -> Design:
    """Any design; drawn until its maps are large enough."""
    while True:
        blocks: list[Block] = []
        for _ in range(draw.randint(1, 6)):
            channels = draw.randint(1, 20)
            times = draw.choice([1, 1, 1, 2, 3]) if blocks else 1
            blocks.append(
                Block(
                    channels=blocks[-1].channels if times > 1 else channels,
                    kernel=draw.choice([1, 2, 3, 3, 3, 5, 7]),
                    separable=draw.random() < 0.3,
                    times=times,
                    pool=draw.choice(["none", "none", "max", "average"]),
                )
            )
            if blocks[-1].kernel % 2 and draw.random() < 0.3:
                blocks[-1] = replace(blocks[-1], padding=True)
        try:
            return Design(tuple(blocks), draw.choice(["global", "flatten"]), draw.choice([0.0, 0.1]))
        except ConfigError:
            continue
