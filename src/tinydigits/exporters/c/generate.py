"""C99 from a folded graph: no allocation, no state, one small arena from the caller; float32 or int8.

`<model>.h` and `<model>.c` are the network, `tinydigits_preprocess.h` and `.c` prepare its pictures (firmware that has
28×28 digits leaves them out), and `main.c` shows their use. `layout.py` decides how the computation is laid out in
memory; `float32.py` and `int8.py` write what a layer computes.
"""

import re
from pathlib import Path

import numpy as np

from tinydigits.exporters.c.float32 import float_parts
from tinydigits.exporters.c.int8 import int8_parts
from tinydigits.exporters.c.layout import Layout, LayoutStage, lay_out
from tinydigits.exporters.c.text import Parts, indented
from tinydigits.exporters.templates import fill_template, fill_template_without_unused
from tinydigits.exporters.thresholds import clipped_threshold
from tinydigits.inference.graph import Conv, Graph, describe, output_shapes
from tinydigits.inference.int8 import Int8Conv, Int8Graph
from tinydigits.storage import write_bytes

PREPROCESSOR = "tinydigits_preprocess"
COMPILER = "cc -O3 -march=native"


def write_c(graph: Graph | Int8Graph, directory: Path) -> list[Path]:
    """`Exporter.write`: the sources named above, where <model> is `c_name`. The same graph gives the same bytes."""
    values = _values(graph)
    templates = {
        f"{values['model']}.h": "model.h",
        f"{values['model']}.c": "model.c",
        **{file: file for file in (f"{PREPROCESSOR}.h", f"{PREPROCESSOR}.c", "main.c")},
    }
    for file, source in templates.items():
        write_bytes(directory / file, fill_template(f"c/sources/{source}", **values).encode())
    return [directory / file for file in templates]


def c_name(model: str) -> str:
    """A model's name as an identifier: `tiny-10k` → `tiny_10k`."""
    name = re.sub(r"\W", "_", model, flags=re.ASCII)
    return f"model_{name}" if not name[:1].isalpha() or name in ("main", PREPROCESSOR) else name


def arena_bytes(graph: Graph | Int8Graph) -> int:
    """Bytes of working memory that the caller provides: the size of the structure in the header."""
    return _arena_bytes(*_generated(graph))


def _arena_bytes(layout: Layout, parts: Parts) -> int:
    unit = 4 if parts.type == "float" else 1
    alignment = max(unit, 2)  # the rows' counters have 2 bytes
    strips = -(-unit * (layout.size + parts.slack) // 2) * 2
    return -(-(strips + 2 * len(layout.stages)) // alignment) * alignment


def _generated(graph: Graph | Int8Graph) -> tuple[Layout, Parts]:
    layout = lay_out(graph.ops, output_shapes(graph.ops))
    return layout, int8_parts(layout) if isinstance(graph, Int8Graph) else float_parts(layout)


def _values(graph: Graph | Int8Graph) -> dict[str, str]:
    """What the templates' placeholders stand for."""
    layout, parts = _generated(graph)
    name, arena, count = c_name(graph.model), _arena_bytes(layout, parts), len(layout.stages)
    scale, label, rejection = "", "best", ""
    if isinstance(graph, Int8Graph):
        scale = f"\n#define {name.upper()}_LOGIT_SCALE {graph.logit_scale!r} /* a logit is this times its integer */"
    if (threshold := clipped_threshold(graph)) is not None:
        least = str(threshold) if isinstance(graph, Int8Graph) else f"{np.float32(threshold)!s}f"
        label = f"logits[best] < {least} ? -1 : best"
        rejection = f"; -1: it is none,\n   because the largest logit is below {least}"
    layers = "\n".join([_picture(layout, parts), *(_layer(layout, i, parts) for i in range(count))])
    return {
        "model": name,
        "MODEL": name.upper(),
        "compiler": COMPILER,
        "facts": _facts(graph, layout, arena),
        "type": parts.type,
        "logit": parts.logit,
        "scale": scale,
        "arena": str(arena),
        "elements": str(layout.size + parts.slack),
        "kernels": parts.kernels,
        "tables": parts.tables,
        "helpers": fill_template_without_unused("c/sources/strips.c", layers, type=parts.type),
        "layers": layers,
        "count": str(count),
        "prepare": indented(parts.prepare, 1),
        "label": label,
        "rejection": rejection,
    }


def _facts(graph: Graph | Int8Graph, layout: Layout, arena: int) -> str:
    """The comment at the top of both files."""
    name, kind = c_name(graph.model), "int8" if isinstance(graph, Int8Graph) else "float32"
    convolutions = [op for op in graph.ops if isinstance(op, Conv | Int8Conv)]
    weights, biases = sum(op.weight.size for op in convolutions), sum(op.bias.size for op in convolutions)
    shown = re.sub(r"/\*|\*/", "_", graph.model)  # a file's path may contain a comment's delimiters
    return f"""\
   {shown}, {kind}: reads one handwritten digit. Made by tinydigits.

   {weights:,} weights and {biases:,} biases, folded from those with SHA-256 {graph.weights_sha256[:16]}...
   {layout.macs:,} multiply-accumulates a picture; {arena:,} bytes of arena

   {COMPILER} -o {name} main.c {name}.c {PREPROCESSOR}.c
   For a microcontroller: -Os -ffunction-sections -Wl,--gc-sections"""


def _picture(layout: Layout, parts: Parts) -> str:
    """The function that reads the picture's next row."""
    first = layout.stages[0]
    top = first.op.padding[0]
    return f"""
/* the picture: gives a row of {first.inner_width} */
static void layer_0(arena_t *arena, const uint8_t *image, {parts.type} *out)
{{
    const uint8_t *row = image + 28 * {f"(arena->rows[0] - {top})" if top else "arena->rows[0]"};
    for (int x = 0; x < {first.inner_width}; x++) {{
{indented(parts.first, 2)}
    }}
}}"""


def _layer(layout: Layout, index: int, parts: Parts) -> str:
    """The function that computes a layer's next row."""
    stage, last = layout.stages[index], index + 1 == len(layout.stages)
    (height, _), (stride, _), (top, left) = stage.op.kernel, stage.op.stride, stage.op.padding
    lacking = str(stride) if stride == height else f"arena->rows[{index}] ? {stride} : {height}"
    newest = (
        f"make_room(strip, {stage.strip}, {stage.channels}, {height}, arena->rows[{index}])" if height > 1 else "strip"
    )
    take = f"layer_{index}(arena, image, newest{f' + {left * stage.cell}' if left else ''});"
    if (top, left) != (0, 0):
        take = _padded(stage, take, f"arena->rows[{index}]", parts.paddings[index])
    described = describe(stage.op).replace("×", "x").replace("→", "->")
    return f"""
/* {described}: gives a row of {stage.width} x {stage.out_channels} */
static void layer_{index + 1}(arena_t *arena, const uint8_t *image, {parts.logit if last else parts.type} *out)
{{
    {parts.type} *strip = arena->strips + {stage.offset};
    for (int lacking = {lacking}; lacking > 0; lacking--) {{
        {parts.type} *newest = {newest};
{indented(take, 2)}
        arena->rows[{index}]++;
    }}
{indented(parts.rows[index], 1)}
}}"""


def _padded(stage: LayoutStage, take: str, row: str, value: str) -> str:
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
{indented(chr(10).join(steps), 1)}
}}"""
