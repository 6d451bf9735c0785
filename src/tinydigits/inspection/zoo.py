"""The networks of the zoo at a glance: size, cost, what is reported of them, and proven accuracy."""

from msgspec.structs import asdict

from tinydigits.errors import UnknownModelError
from tinydigits.inspection.inspect import inspect_model
from tinydigits.models.factory import create_model
from tinydigits.models.registry import list_models
from tinydigits.models.reported import Target
from tinydigits.models.weights import load_card, packaged_weights
from tinydigits.records import Fraction, Interval, Record, Summary


class ShippedWeights(Record, frozen=True):
    """The weights that ship with tinydigits for a model."""

    accuracy: Fraction | None
    data: str
    recipe: str
    epochs: int


class ProvenAccuracy(Summary, frozen=True):
    """The study behind shipped weights; `interval` is for the accuracy on new digits of the same kind."""

    n: int
    interval: Interval


class ZooModel(Record, frozen=True):
    """One network of the zoo. `int8_bytes`: of its weights, batch norm folded. None: there is none.

    `proven` is None too if the shipped weights come from a single run.
    """

    model: str
    parameters: int
    macs: int
    int8_bytes: int
    reported: Target | None
    goal: Target | None
    weights: ShippedWeights | None
    proven: ProvenAccuracy | None


def describe_models(pattern: str = "*") -> list[ZooModel]:
    """The networks whose names match a shell-style pattern, built and counted.

    Raises:
        UnknownModelError: no name matches.
    """
    names = list_models(pattern)
    if not names:
        raise UnknownModelError(f"no model's name matches {pattern!r}. The models: {', '.join(list_models())}.")
    return [_describe(name) for name in names]


def _describe(name: str) -> ZooModel:
    inspection = inspect_model(create_model(name), name=name)
    path = packaged_weights(name)
    card = load_card(path) if path else None
    study = card.study if card else None
    return ZooModel(
        model=name,
        parameters=inspection.parameters,
        macs=inspection.macs,
        int8_bytes=inspection.weight_bytes.int8,
        reported=inspection.reported.target() if inspection.reported else None,
        goal=inspection.goal,
        weights=ShippedWeights(card.accuracy, card.data, card.recipe_name, card.epochs) if card else None,
        proven=ProvenAccuracy(**asdict(study.final), n=study.n, interval=study.interval) if study else None,
    )
