"""What a network needs on a device: bytes of its weights, and of the activations that live at the same time."""

from collections.abc import Sequence

from tinydigits.inspection.trace import Buffer, Operation
from tinydigits.records import FormatBytes

_WORD_BYTES = 4  # float32, and the int32 of biases in int8 networks


def weight_bytes(operations: Sequence[Operation]) -> FormatBytes:
    """Bytes of the weights after batch norm has been folded into the convolutions and linear layers.

    These then hold a kernel or matrix, stored once however often it is used, and one bias for each output channel.
    float32: 4 bytes for each of these numbers. int8: 1 byte for each weight, 4 bytes (int32) for each bias. Learned
    numbers of other kinds (slopes of a PReLU, layer norm) cannot be folded and take 4 bytes each in both formats.
    """
    kernels = {operation.kernel for operation in operations if operation.kernel}
    weights = sum(kernel.weights for kernel in kernels)
    biases = sum(kernel.outputs for kernel in kernels)
    folded = {id(p) for x in operations if x.kernel or "batch_norm" in x.name for p in x.parameters}
    learned = {id(p): p.numel() for operation in operations for p in operation.parameters}
    words = biases + sum(count for key, count in learned.items() if key not in folded)
    return FormatBytes(float32=_WORD_BYTES * (weights + words), int8=weights + _WORD_BYTES * words)


def activation_bytes(operations: Sequence[Operation]) -> FormatBytes:
    """The largest sum of activations that live at the same time while one example passes layer by layer.

    The input counts as one of them: a picture of bytes in int8, of floats in float32. An operation's inputs and output
    live together; a buffer dies after its last use, so what a skip connection needs later stays. Elementwise operations
    (ReLU, batch norm, dropout, the sum of a skip connection) overwrite an input that is not needed any more. int8:
    1 byte an element; float32: 4 bytes.
    """
    last_use = {buffer: index for index, operation in enumerate(operations) for buffer in operation.inputs}
    live: set[Buffer] = {buffer for operation in operations[:1] for buffer in operation.inputs}
    peak = 0
    for index, operation in enumerate(operations):
        output = operation.output
        dying = [b for b in operation.inputs if last_use[b] == index and b.elements >= output.elements]
        if operation.elementwise and output not in live and dying:
            live.discard(max(dying, key=lambda buffer: buffer.elements))
        live.add(output)
        peak = max(peak, sum(buffer.elements for buffer in live))
        live = {buffer for buffer in live if last_use.get(buffer, index) > index}
    return FormatBytes(float32=_WORD_BYTES * peak, int8=peak)
