"""`DigitClassifier`: the networks and recipes of tinydigits as a scikit-learn classifier."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from tinydigits.data.dataset import Dataset, DigitData
from tinydigits.data.optdigits import enlarge
from tinydigits.errors import ArrayError, BlankPictureError
from tinydigits.evaluation.predictions import predict_logits
from tinydigits.pictures.preprocess import preprocess_gray
from tinydigits.records import Epoch
from tinydigits.settings import DEFAULT_MODEL, check_one_of
from tinydigits.training.config import DEVICES
from tinydigits.training.loop import fit, start_state
from tinydigits.training.prepare import build_network, prepare_task
from tinydigits.training.run_config import run_config

CLASSES = 10
_RANGES = ((0.0, 1.0), (0.0, 16.0), (0.0, 255.0))  # of pixels: fractions of ink, optdigits, bytes
_EVALUATED = 1000  # training digits on which the loop evaluates its epochs; nothing here depends on that

Images = NDArray[np.uint8]


class DigitClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A network that is trained by a recipe, for pipelines, cross-validation and grid searches.

    It takes pictures of light ink on black, one a row: 28×28 as [N, 784] or [N, 28, 28]; 8×8 as [N, 64] or [N, 8, 8],
    redrawn as optdigits are; any other square of at most 28×28, enlarged by a whole number and centred; and whatever
    other rows of at most 784 numbers as such a square with empty pixels at its end. The range of the pixels is the
    smallest of 0 to 1, 0 to 16 and 0 to 255 that holds the training digits, else their own; what lies outside of it
    later is clipped.

    Args:
        model: a model of the zoo, or a user's own `net.py:Net`.
        recipe: the name of a recipe; None: the model's own.
        epochs: instead of the recipe's, and so are batch_size and learning_rate.
        batch_size: digits a step.
        learning_rate: the peak of the schedule.
        random_state: a whole number gives the same weights every time on the same machine; a RandomState, or None for
            NumPy's own, is drawn from.
        device: auto, cpu, cuda or mps.

    Attributes:
        classes_: the labels, at most ten, sorted.
        network_: the trained network, from normalized [N, 1, 28, 28] to [N, 10]; its first outputs are the classes.
        history_: `{epoch, train_loss, train_accuracy, learning_rate, time_seconds}` of each epoch.
        n_features_in_: numbers a picture.
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        recipe: str | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        random_state: int | np.random.RandomState | None = 0,
        device: str = "cpu",
    ) -> None:
        self.model = model
        self.recipe = recipe
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.random_state = random_state
        self.device = device

    def fit(self, X: ArrayLike, y: ArrayLike) -> "DigitClassifier":
        """Train a new network on pictures X [N, …] and labels y [N].

        Raises:
            ArrayError: X is no array of pictures, or y has more than ten classes.
            ConfigError: a setting is wrong.
            ModelError: the model cannot be built.
            DivergedError: the loss is no longer a finite number.
        """
        rows, labels = validate_data(self, _as_rows(X), y, ensure_min_samples=2)
        check_classification_targets(labels)
        self.classes_, targets = np.unique(labels, return_inverse=True)
        if len(self.classes_) > CLASSES:
            raise ArrayError(
                f"y has {len(self.classes_)} classes, and the networks tell ten apart. Choose ten of them."
            )
        self.range_ = _value_range(rows)
        check_one_of("device", self.device, DEVICES)
        digits = Dataset(_as_images(rows, self.range_), targets.astype(np.uint8), "X")
        evaluation = digits.take(np.arange(min(_EVALUATED, len(digits))), "X")
        data = DigitData("X", digits, evaluation, np.arange(0))
        config = run_config(
            self.model,
            self.recipe,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            seed=self._seed(),
            device=self.device,
            threads=torch.get_num_threads(),
            backend="torch",
        )
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
            built = build_network(config)
            task, _ = prepare_task(built, data)
            network = built.model
            state = start_state(network, task)
            records = list(fit(task, state))
        self.normalization_ = task.normalization
        if state.ema is not None:
            network.load_state_dict(state.ema)
        self.network_ = network.eval()
        kept = ("epoch", "train_loss", "train_accuracy", "learning_rate", "time_seconds")
        self.history_ = [{key: getattr(r, key) for key in kept} for r in records if isinstance(r, Epoch)]
        return self

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable class of each picture, [N]."""
        probabilities = self.predict_proba(X)  # first: it tells whether there is anything to predict with
        labels: NDArray[Any] = self.classes_[probabilities.argmax(axis=1)]
        return labels

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probabilities of the classes, in the order of `classes_`: float64 [N, classes], each row of sum 1."""
        check_is_fitted(self)
        rows = validate_data(self, _as_rows(X), reset=False)
        device = next(self.network_.parameters()).device
        inputs = self.normalization_.array(_as_images(rows, self.range_), device)
        logits = predict_logits(self.network_, inputs)[:, : len(self.classes_)].double()
        probabilities: NDArray[np.float64] = logits.softmax(dim=1).cpu().numpy()
        return probabilities

    def _seed(self) -> int:
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))


def _as_rows(X: ArrayLike) -> ArrayLike:
    """Square pictures [N, S, S] as rows [N, S · S]; anything else as it is, for scikit-learn's own checks."""
    shape = X.shape if hasattr(X, "shape") else np.asarray(X).shape
    if len(shape) != 3:
        return X
    if shape[1] != shape[2]:
        raise ArrayError(f"X has the shape {list(shape)}: pictures are squares, [N, 28, 28] or [N, 8, 8].")
    return np.asarray(X).reshape(shape[0], -1)


def _value_range(rows: NDArray[Any]) -> tuple[float, float]:
    """The range in which the pixels of the training digits lie."""
    low, high = float(rows.min()), float(rows.max())
    own = (low, high if high > low else low + 1)
    return next((known for known in _RANGES if known[0] <= low and high <= known[1]), own)


def _as_images(rows: NDArray[Any], value_range: tuple[float, float]) -> Images:
    """Rows [N, F] as uint8 [N, 28, 28]."""
    count = rows.shape[1]
    side = math.isqrt(count - 1) + 1  # of the smallest square that holds a row
    if side > 28:
        raise ArrayError(f"X has {count} numbers a row: a picture has at most 28×28 = 784. Make the pictures smaller.")
    low, high = value_range
    steps = 16 if count == 64 else 255
    levels = np.empty(rows.shape, np.uint8)
    for part in range(0, len(rows), 1000):  # a few at a time: they are eight times as large as numbers
        fraction = (rows[part : part + 1000].astype(np.float64) - low) / (high - low)
        levels[part : part + 1000] = np.rint(np.clip(fraction, 0, 1) * steps)
    squares = np.pad(levels, ((0, 0), (0, side**2 - count))).reshape(-1, side, side)
    if count == 64:
        return np.stack([_redrawn(picture) for picture in enlarge(squares.astype(np.int32))])
    enlarged = squares.repeat(28 // side, axis=1).repeat(28 // side, axis=2)
    before = (28 - enlarged.shape[1]) // 2
    after = 28 - enlarged.shape[1] - before
    return np.pad(enlarged, ((0, 0), (before, after), (before, after)))


def _redrawn(picture: Images) -> Images:
    try:
        return preprocess_gray(picture)
    except BlankPictureError:
        return np.zeros((28, 28), np.uint8)
