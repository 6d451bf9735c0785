"""What a document reports of its network, or our goal for ours: the schema of `documents/`."""

from tinydigits.records import Count, Fraction, Record

COMMON_RECIPE = "fast"  # made for every network, and what those without a recipe of their own are trained with


class Figure(Record, frozen=True):
    """A figure that a document states, for one layer (counted from 1) or, with None, for the whole network.

    Quantities: `parameters`; `macs`; `output` of a layer, `stated` as its shape, (C, H, W), or as (H, W) alone;
    `receptive_field`, without a layer that of the last, and `jump`, in input pixels; `input_mb`,
    `forward_backward_mb`, `parameters_mb` and `total_mb` (the memory lines of a layer summary, rounded to two
    decimals). `words`: how the document puts it, if not in a table.
    """

    quantity: str
    stated: int | float | tuple[int, ...]
    layer: int | None = None
    words: str | None = None


class Statement(Record, frozen=True):
    """What a document says of the structure in words, as far as a machine can check it.

    `subject`: a fact of `inspection.result.Structure`, or `fully_connected` (there are such layers); `stated`: whether
    it is so. With `layers` (counted from 1) it is about each of them: `batch_norm_after`, `dropout_after` (before the
    next convolution), `size_kept` (the map's). `words`: how the document puts it.
    """

    subject: str
    stated: bool = True
    layers: tuple[int, ...] = ()
    words: str | None = None


class Target(Record, frozen=True):
    """What a document reports of its network, or, without a `source`, our goal for ours. None: nothing is said.

    `parameters` and `epochs` are upper bounds, `accuracy` is a lower one, to be exceeded if `strict`; `wording` is how
    the document puts it.
    """

    parameters: Count | None = None
    accuracy: Fraction | None = None
    epochs: Count | None = None
    strict: bool = False
    source: str | None = None
    wording: str | None = None

    @property
    def documented(self) -> bool:
        """Whether a document reports it; else it is our goal."""
        return self.source is not None

    def target(self) -> "Target":
        """The target alone, without what a subclass adds."""
        return Target(*(getattr(self, name) for name in Target.__struct_fields__))


class Reported(Target, frozen=True, kw_only=True):
    """A target with all that can be checked beside it, and the recipes made for it.

    `recipe` is what the network is trained with unless another is named; `recipes` are others that are made for it.
    `figures` and `statements` are measured by `inspect` and `audit`; `notes` say how the document was read.
    """

    recipe: str = COMMON_RECIPE
    recipes: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    statements: tuple[Statement, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def documented_recipe(self) -> str | None:
        """The document's own recipe, if one is known."""
        return next((recipe for recipe in self.recipes if recipe.startswith("documented-")), None)
