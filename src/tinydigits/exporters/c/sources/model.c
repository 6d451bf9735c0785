/*
{{facts}}
*/
#include "{{model}}.h"

/* The picture passes through the layers row by row. Each layer keeps a strip: as many rows of its (padded) input as its
   kernel is high, column by column, all channels of a pixel together; so a window is one unbroken piece of memory. To
   give a row, a layer requests the rows that its strip lacks from the layer before it. */

typedef {{model}}_arena arena_t;
typedef char arena_is_no_larger_than_stated[sizeof(arena_t) <= {{MODEL}}_ARENA_BYTES ? 1 : -1];
{{kernels}}
{{tables}}
{{helpers}}{{layers}}

int {{model}}_predict(const uint8_t image[784], arena_t *arena, {{model}}_logit logits[10])
{
    int best = 0, i;
{{prepare}}    for (i = 0; i < {{count}}; i++)
        arena->rows[i] = 0;
    layer_{{count}}(arena, image, logits);
    for (i = 1; i < 10; i++)
        best = logits[i] > logits[best] ? i : best;
    return {{label}};
}
