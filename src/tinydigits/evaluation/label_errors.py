"""The 15 MNIST test digits whose label human reviewers did not confirm; they are marked, and scored as labelled.

Source: C. Northcutt, A. Athalye, J. Mueller (2021), "Pervasive Label Errors in Test Sets Destabilize Machine
Learning Benchmarks", NeurIPS Datasets and Benchmarks; the figures are those of its public review data.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from tinydigits.data.dataset import DigitData
from tinydigits.records import Split


class LabelError(NamedTuple):
    """What most of five reviewers said of a test digit; `reviewers_say`: the digit that they agree on, if any."""

    label: int
    reviewers_say: int | None
    review: Literal["relabelled", "no majority", "not a digit"]

    @property
    def words(self) -> str:
        """The review in a few words, to stand beside the digit."""
        if self.review == "relabelled":
            return f"reviewers say {self.reviewers_say}"
        return "reviewers: no digit" if self.review == "not a digit" else "reviewers disagree"


MNIST_TEST_LABEL_ERRORS: Mapping[int, LabelError] = {
    947: LabelError(8, 9, "relabelled"),
    1621: LabelError(0, 6, "relabelled"),
    1901: LabelError(9, 4, "relabelled"),
    2130: LabelError(4, None, "no majority"),
    2462: LabelError(2, 0, "relabelled"),
    2597: LabelError(5, 3, "relabelled"),
    2654: LabelError(6, None, "not a digit"),
    3520: LabelError(6, None, "not a digit"),
    3558: LabelError(5, 0, "relabelled"),
    5937: LabelError(5, 3, "relabelled"),
    6651: LabelError(0, 6, "relabelled"),
    6783: LabelError(1, 6, "relabelled"),
    8527: LabelError(4, None, "no majority"),
    9679: LabelError(6, None, "not a digit"),
    9729: LabelError(5, 6, "relabelled"),
}


def label_errors(data: DigitData, split: Split) -> Mapping[int, LabelError]:
    """The label errors, by index, among the digits that `split` evaluates on: only MNIST's test set has any."""
    return MNIST_TEST_LABEL_ERRORS if data.name == "mnist" and split == "test" else {}
