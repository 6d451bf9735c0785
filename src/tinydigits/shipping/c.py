"""C99 from a folded graph: no allocation, no state, one small arena from the caller; float32 or int8.

The sources say what they need: `<model>.h` and `<model>.c` are the network, `tinydigits_preprocess.h` and `.c` make its
pictures (firmware that has 28×28 digits leaves them out), and `main.c` shows their use. How the computation is laid out
is said in `c_plan.py`; what a layer computes is in `c_float.py` and `c_int8.py`.
"""

import re
from pathlib import Path

import numpy as np

from tinydigits.shipping.c_float import float_parts
from tinydigits.shipping.c_int8 import int8_parts
from tinydigits.shipping.c_plan import Plan, Stage, plan
from tinydigits.shipping.c_text import Parts, block
from tinydigits.shipping.graph import Conv, Graph, describe, output_shapes
from tinydigits.shipping.int8 import Int8Conv, Int8Graph
from tinydigits.shipping.templates import filled, template
from tinydigits.shipping.thresholds import float_threshold, integer_threshold
from tinydigits.storage import write_bytes

PREPROCESSOR = "tinydigits_preprocess"
COMPILER = "cc -O3 -march=native"
_FOLDER = "c_sources"

_MAKE_ROOM = """
/* Where the next row of a strip belongs. If the strip is full, a shift makes each column lose its oldest pixel. */
static TYPE *make_room(TYPE *strip, int size, int channels, int height, int row)
{
    if (row < height)
        return strip + row * channels;
    for (int i = channels; i < size; i++)
        strip[i - channels] = strip[i];
    return strip + (height - 1) * channels;
}
"""

_PAD_ROW = """
/* Fills columns of a row with what the border consists of. */
static void pad_row(TYPE *row, int columns, int cell, int channels, TYPE value)
{
    for (; columns > 0; columns--, row += cell)
        for (int i = 0; i < channels; i++)
            row[i] = value;
}
"""


def write_c(graph: Graph | Int8Graph, directory: Path) -> list[Path]:
    """Write a network's C sources into `directory`; the same graph gives the same bytes.

    Returns:
        `<model>.h`, `<model>.c`, `tinydigits_preprocess.h`, `tinydigits_preprocess.c` and `main.c`, where <model> is
        `c_name` of the model's.

    Raises:
        StorageError: a file cannot be written.
    """
    name = c_name(graph.model)
    whole, parts = _generated(graph)
    facts = _facts(graph, whole, parts)
    sources = {
        f"{name}.h": _header(graph, whole, parts, facts),
        f"{name}.c": _source(graph, whole, parts, facts),
        f"{PREPROCESSOR}.h": template(_FOLDER, f"{PREPROCESSOR}.h"),
        f"{PREPROCESSOR}.c": template(_FOLDER, f"{PREPROCESSOR}.c"),
        "main.c": filled(_FOLDER, "main.c", model=name, compiler=COMPILER),
    }
    for file, text in sources.items():
        write_bytes(directory / file, text.encode())
    return [directory / file for file in sources]


def c_name(model: str) -> str:
    """A model's name as an identifier: `tiny-10k` → `tiny_10k`."""
    name = re.sub(r"\W", "_", model, flags=re.ASCII)
    return f"model_{name}" if not name[:1].isalpha() or name in ("main", PREPROCESSOR) else name


def arena_bytes(graph: Graph | Int8Graph) -> int:
    """What the caller gives the network to work in: the size of the header's structure."""
    return _arena_bytes(*_generated(graph))


def _arena_bytes(whole: Plan, parts: Parts) -> int:
    unit = 4 if parts.type == "float" else 1
    alignment = max(unit, 2)  # the rows' counters have 2 bytes
    strips = -(-unit * (whole.size + parts.slack) // 2) * 2
    return -(-(strips + 2 * len(whole.stages)) // alignment) * alignment


def _generated(graph: Graph | Int8Graph) -> tuple[Plan, Parts]:
    whole = plan(graph.ops, output_shapes(graph.ops))
    return whole, int8_parts(whole) if isinstance(graph, Int8Graph) else float_parts(whole)


def _facts(graph: Graph | Int8Graph, whole: Plan, parts: Parts) -> str:
    """What stands at the head of both files."""
    name, kind = c_name(graph.model), "int8" if isinstance(graph, Int8Graph) else "float32"
    convolutions = [op for op in graph.ops if isinstance(op, Conv | Int8Conv)]
    weights, biases = sum(op.weight.size for op in convolutions), sum(op.bias.size for op in convolutions)
    shown = re.sub(r"/\*|\*/", "_", graph.model)  # a file's path may hold what begins or ends a comment
    return f"""\
   {shown}, {kind}: reads one handwritten digit. Made by tinydigits.

   {weights:,} weights and {biases:,} biases, folded from those with SHA-256 {graph.weights_sha256[:16]}...
   {whole.macs:,} multiply-accumulates a picture; {_arena_bytes(whole, parts):,} bytes of arena

   {COMPILER} -o {name} main.c {name}.c {PREPROCESSOR}.c
   For a microcontroller: -Os -ffunction-sections -Wl,--gc-sections"""


def _header(graph: Graph | Int8Graph, whole: Plan, parts: Parts, facts: str) -> str:
    name, threshold = c_name(graph.model), _threshold(graph)
    scale = ""
    if isinstance(graph, Int8Graph):
        scale = f"\n#define {name.upper()}_LOGIT_SCALE {graph.logit_scale!r} /* a logit is this times its integer */"
    return filled(
        _FOLDER,
        "model.h",
        facts=facts,
        model=name,
        MODEL=name.upper(),
        arena=str(_arena_bytes(whole, parts)),
        scale=scale,
        logit=parts.logit,
        type=parts.type,
        elements=str(whole.size + parts.slack),
        layers=str(len(whole.stages)),
        answer="" if threshold is None else f"; -1: it is none,\n   because the largest logit is below {threshold}",
    )


def _threshold(graph: Graph | Int8Graph) -> str | None:
    """The least logit of a digit, as a C constant."""
    if isinstance(graph, Int8Graph):
        threshold = integer_threshold(graph)
        return None if threshold is None else str(threshold)
    real = float_threshold(graph)
    return None if real is None else f"{np.float32(real)!s}f"


def _source(graph: Graph | Int8Graph, whole: Plan, parts: Parts, facts: str) -> str:
    threshold = _threshold(graph)
    ops = [stage.op for stage in whole.stages]
    helpers = [_MAKE_ROOM] if any(op.kernel[0] > 1 for op in ops) else []
    if any(op.padding != (0, 0) for op in ops):
        helpers.append(_PAD_ROW)
    layers = [_picture(whole, parts), *(_layer(whole, i, parts) for i in range(len(ops)))]
    return filled(
        _FOLDER,
        "model.c",
        facts=facts,
        model=c_name(graph.model),
        MODEL=c_name(graph.model).upper(),
        tables=parts.tables,
        kernels=parts.kernels,
        helpers="".join(helpers).replace("TYPE", parts.type),
        layers="\n".join(layers),
        prepare=block(parts.prepare, 1),
        count=str(len(whole.stages)),
        answer="best" if threshold is None else f"logits[best] < {threshold} ? -1 : best",
    )


def _picture(whole: Plan, parts: Parts) -> str:
    """The function that gives the picture's next row."""
    first = whole.stages[0]
    top = first.op.padding[0]
    return f"""
/* the picture: gives a row of {first.inner_width} */
static void layer_0(arena_t *arena, const uint8_t *image, {parts.type} *out)
{{
    const uint8_t *row = image + 28 * {f"(arena->rows[0] - {top})" if top else "arena->rows[0]"};
    for (int x = 0; x < {first.inner_width}; x++) {{
{block(parts.first, 2)}
    }}
}}"""


def _layer(whole: Plan, place: int, parts: Parts) -> str:
    """The function that gives a layer's next row."""
    stage, last = whole.stages[place], place + 1 == len(whole.stages)
    (height, _), (stride, _), (top, left) = stage.op.kernel, stage.op.stride, stage.op.padding
    lacking = str(stride) if stride == height else f"arena->rows[{place}] ? {stride} : {height}"
    newest = (
        f"make_room(strip, {stage.strip}, {stage.channels}, {height}, arena->rows[{place}])" if height > 1 else "strip"
    )
    take = f"layer_{place}(arena, image, newest{f' + {left * stage.cell}' if left else ''});"
    if (top, left) != (0, 0):
        take = _padded(stage, take, f"arena->rows[{place}]", parts.paddings[place])
    described = describe(stage.op).replace("×", "x").replace("→", "->")
    return f"""
/* {described}: gives a row of {stage.width} x {stage.out_channels} */
static void layer_{place + 1}(arena_t *arena, const uint8_t *image, {parts.logit if last else parts.type} *out)
{{
    {parts.type} *strip = arena->strips + {stage.offset};
    for (int lacking = {lacking}; lacking > 0; lacking--) {{
        {parts.type} *newest = {newest};
{block(take, 2)}
        arena->rows[{place}]++;
    }}
{block(parts.rows[place], 1)}
}}"""


def _padded(stage: Stage, take: str, row: str, value: str) -> str:
    """Statements that take a row and its border."""
    top, left = stage.op.padding
    inner, right = stage.inner_width, stage.padded_width - left - stage.inner_width
    steps = [take]
    for start, columns in ((0, left), (left + inner, right)):
        if columns:
            steps.append(f"pad_row(newest + {start * stage.cell}, {columns}, {stage.cell}, {stage.channels}, {value});")
    if not top:
        return "\n".join(steps)
    return f"""\
if ({row} < {top} || {row} >= {top + stage.inner_height})
    pad_row(newest, {stage.padded_width}, {stage.cell}, {stage.channels}, {value});
else {{
{block(chr(10).join(steps), 1)}
}}"""
