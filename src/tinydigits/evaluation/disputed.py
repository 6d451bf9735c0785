"""The 15 MNIST test digits whose label human reviewers did not confirm.

Source: C. Northcutt, A. Athalye, J. Mueller (2021), "Pervasive Label Errors in Test Sets Destabilize Machine
Learning Benchmarks", NeurIPS Datasets and Benchmarks; the figures are those of its public review data.
Nothing is scored differently because of them: they are marked where mistakes are shown.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from tinydigits.data.dataset import DigitData, Protocol

Verdict = Literal["relabelled", "no majority", "not a digit"]


@dataclass(frozen=True)
class Dispute:
    """What most of five reviewers said of a test digit; `reviewers_say` is None where that is no digit."""

    label: int
    reviewers_say: int | None
    verdict: Verdict

    @property
    def words(self) -> str:
        """The verdict in a few words, to stand beside the digit."""
        if self.verdict == "relabelled":
            return f"reviewers say {self.reviewers_say}"
        return "reviewers: no digit" if self.verdict == "not a digit" else "reviewers disagree"


DISPUTED_MNIST_TEST: Mapping[int, Dispute] = MappingProxyType(
    {
        947: Dispute(8, 9, "relabelled"),
        1621: Dispute(0, 6, "relabelled"),
        1901: Dispute(9, 4, "relabelled"),
        2130: Dispute(4, None, "no majority"),
        2462: Dispute(2, 0, "relabelled"),
        2597: Dispute(5, 3, "relabelled"),
        2654: Dispute(6, None, "not a digit"),
        3520: Dispute(6, None, "not a digit"),
        3558: Dispute(5, 0, "relabelled"),
        5937: Dispute(5, 3, "relabelled"),
        6651: Dispute(0, 6, "relabelled"),
        6783: Dispute(1, 6, "relabelled"),
        8527: Dispute(4, None, "no majority"),
        9679: Dispute(6, None, "not a digit"),
        9729: Dispute(5, 6, "relabelled"),
    }
)


def disputed_labels(data: DigitData, protocol: Protocol) -> Mapping[int, Dispute]:
    """The disputed digits, by index, among those that `protocol` judges by: only MNIST's test set has any."""
    return DISPUTED_MNIST_TEST if data.name == "mnist" and protocol == "final" else {}
