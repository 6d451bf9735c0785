"""“What we would change”: hand-written, a function a document; every figure is measured or comes from results."""

from itertools import pairwise

from torch import nn

from docs.evidence import Document, changes_in_words
from tinydigits.inspection.inspect import inspect_model
from tinydigits.inspection.result import Layer
from tinydigits.models.factory import create_model
from tinydigits.reports.tables import percent


def advice(document: Document) -> list[str]:
    """The document's own sentences first, then what holds for all five."""
    own = {
        "pooled-16k": _pooled_16k,
        "blocks-19k": _blocks_19k,
        "layered-19k": _layered_19k,
        "bottleneck-9k": _bottleneck_9k,
        "plain-9k": _plain_9k,
    }[document.name]
    return [*own(document), *_from_its_list(document), *_recipe(document), *_method(document)]


def _pooled_16k(document: Document) -> list[str]:
    layers, total = document.inspection.layers, document.inspection.parameters
    pool = next(finding for finding in document.inspection.findings if "not a global pool" in finding)
    largest = max(layers, key=lambda layer: layer.parameters)
    return [
        f"Let the last pool see its whole map: `nn.AdaptiveAvgPool2d(1)`. As documented, it does not. {pool}",
        "Leave out the padding of the 1×1 convolutions. It lays a frame around the map that holds nothing but the bias, "
        f"and every later layer pays for it: {document.inspection.macs:,} MACs per image, {_unpadded_macs():,} without it "
        "and with a global pool. Parameters stay the same. No study here tells what it does to the accuracy.",
        f"Spend less on the largest layer, {_place(document, largest)}: it holds {largest.parameters:,} of {total:,} parameters, "
        "and it is the one 3×3 convolution without batch norm.",
        _relu_before_norm(padded=True),
        "Report a figure. Without one there is nothing to prove.",
    ]


def _unpadded_macs() -> int:
    """The MACs of pooled-16k if its 1×1 convolutions did not pad and its last pool were global."""
    network = create_model("pooled-16k")
    assert isinstance(network, nn.Sequential)
    for index, layer in enumerate(network):
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
            layer.padding = (0, 0)
        elif isinstance(layer, nn.AvgPool2d):
            network[index] = nn.AdaptiveAvgPool2d(1)
    return inspect_model(network).macs


def _blocks_19k(document: Document) -> list[str]:
    layers = document.inspection.layers
    pool = next(index for index, layer in enumerate(layers) if layer.kind == "MaxPool2d")
    before = sum(layer.macs for layer in layers[:pool])
    biases = sum(
        layer.output_shape[0] for layer, following in pairwise(layers) if layer.macs and following.kind == "BatchNorm2d"
    )
    return [
        f"Pool earlier. {percent(before / document.inspection.macs, 0)} of all MACs are spent before the only max pool, on maps "
        "of the full 28×28 positions.",
        f"Drop the biases of the convolutions in its ConvBlocks: batch norm cancels them. {biases} of "
        f"{document.inspection.parameters:,} parameters do nothing.",
        "Write the dropout rates down. “Slightly increased” cannot be reproduced; the rates here are ours.",
        "Keep conv → batch norm → ReLU: in this order batch norm folds into its own convolution, and the exported network "
        "needs no operation for it.",
    ]


def _layered_19k(document: Document) -> list[str]:
    last = next(layer for layer in reversed(document.inspection.layers) if layer.macs)
    channels = last.input_shape[0]
    return [
        f"End in a global average pool rather than in a max pool and a 1×1 convolution on {channels} numbers. That layer is "
        f"a fully connected one from {channels} to {last.output_shape[0]}, and the dropout before it removes whole features, of "
        "which there are few. Not measured here.",
        _relu_before_norm(padded=True),
    ]


def _bottleneck_9k(document: Document) -> list[str]:
    costly = max(document.inspection.layers, key=lambda layer: layer.macs)
    fraction = costly.macs / document.inspection.macs
    return [
        "Let a program make the layer table. Worked out by hand, it contradicts its own total (above).",
        f"Pool before the channels grow: {_place(document, costly)} takes {percent(fraction, 0)} of all MACs, because it makes "
        f"{costly.output_shape[0]} channels on nearly the full map.",
        "Count the fully connected layers: the two 1×1 convolutions behind the average pool are fully connected.",
        _relu_before_norm(padded=False),
    ]


def _plain_9k(document: Document) -> list[str]:
    compared = zip(document.reported.figures, document.checked, strict=False)  # then their sum
    prose = [line.agrees for figure, line in compared if figure.words]
    return [
        f"Take the prose's map sizes from the layer summary: {prose.count(False)} of {len(prose)} that it gives are wrong, "
        "and the table below them is right.",
        "Do not evaluate an architecture after its first epoch: seeds of the same network differ widely there.",
    ]


def _relu_before_norm(padded: bool) -> str:
    text = (
        "Put batch norm before ReLU. After ReLU, it cannot be folded into its own convolution when the network is exported, "
        "only into the next one"
    )
    if padded:
        text += "; where that one pads with zeros, its shift remains an operation of its own, and int8 needs a limit for each channel"
    return f"{text}."


def _from_its_list(document: Document) -> list[str]:
    """What the ablations say of the document's own proposals."""
    if not document.ablations:
        return []
    helping: list[str] = []
    harming: list[str] = []
    unclear: list[str] = []
    for row in document.ablations[1:]:
        low, high = row["difference_interval"]
        text = f"{row['what']} ({100 * row['difference']:+.2f} points)"
        (helping if low > 0 else harming if high < 0 else unclear).append(text)
    headed = {
        "From its own list we would take": helping,
        "We would leave out": harming,
        f"No effect shown with {document.ablations[0]['n']} seeds:": unclear,
    }
    sentence = " ".join(f"{heading} {', '.join(texts)}." for heading, texts in headed.items() if texts)
    return [sentence] if sentence else []


def _recipe(document: Document) -> list[str]:
    """What another recipe brought, where both are proved; else what we would expect of one."""
    sentences = []
    first = document.proofs.get(document.documented_recipe or "")
    for recipe, proof in document.proofs.items():
        if first is None or document.base is None or proof is first:
            continue
        old, new = first["study"]["final"], proof["study"]["final"]
        if new["mean"] <= old["mean"]:
            continue
        changes = changes_in_words(proof["study"]["config"]["recipe"], document.base)
        sentences.append(
            f"Train as `{recipe}` does: {changes}. That gives {_spread(new)} in place of {_spread(old)}, and the verdict on the "
            f"reported accuracy is **{proof['verdicts'][0]['verdict']}**."
        )
    if not sentences and document.base and document.base["schedule"]["name"] == "constant":
        sentences.append(
            "Let the learning rate fall to zero at the end. The documented one is constant, so the accuracy of the last epoch is "
            "partly chance."
        )
    return sentences


def _method(document: Document) -> list[str]:
    """Validation digits, several seeds; with what the documented recipe's study shows of both."""
    validation = "Set validation digits aside, make every choice on them, and report the last epoch on the test digits."
    seeds = "Report several seeds."
    for recipe, proof in document.proofs.items():
        study = proof["study"]
        ends = [run["accuracy"] for run in study["runs"]]
        gap = sum(run["accuracy_best"] for run in study["runs"]) / len(ends) - study["final"]["mean"]
        if study["epochs"] > 1:
            validation += (
                f" Over the seeds of `{recipe}` the best epoch on the test digits lies {100 * gap:.2f} points above the "
                "last: choosing on the test digits alone gains that much."
            )
        seeds += f" Single runs of `{recipe}` end between {percent(min(ends))} and {percent(max(ends))}."
        break
    return [validation, seeds]


def _spread(final: dict[str, float]) -> str:
    return f"{100 * final['mean']:.2f} ± {100 * final['sd']:.2f} %"


def _place(document: Document, layer: Layer) -> str:
    number = document.inspection.layers.index(layer) + 1
    return f"layer {number} ({layer.input_shape[0]} → {layer.output_shape[0]} channels)"
