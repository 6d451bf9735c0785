/* Any picture of one digit -> 28x28 bytes the way MNIST has them: light ink on black, in a box of 20x20, the centre of
   mass in the middle. Dark ink on light paper or light ink on dark, evenly lit or not. The bytes are those of the Python
   function tinydigits.preprocess. Integer arithmetic, no allocation, no state. */
#ifndef TINYDIGITS_PREPROCESS_H
#define TINYDIGITS_PREPROCESS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TINYDIGITS_MAX_PIXELS 64000000

/* What tinydigits_preprocess returns. */
#define TINYDIGITS_DONE 0
#define TINYDIGITS_BLANK 1    /* the picture holds no ink; `out` is black */
#define TINYDIGITS_BAD_SIZE 2 /* a side is below 1, or the picture has more than TINYDIGITS_MAX_PIXELS pixels */

/* Bytes of working memory for a picture of width x height pixels: at most 512x512 of them, and 7,372 for tables. */
#define TINYDIGITS_SHRINK(width, height) ((((width) > (height) ? (width) : (height)) + 511L) / 512)
#define TINYDIGITS_SHRUNK(side, shrink) (((side) + (shrink)-1) / (shrink))
#define TINYDIGITS_WORK_BYTES(width, height)                                \
    (7372 + TINYDIGITS_SHRUNK(width, TINYDIGITS_SHRINK(width, height)) *     \
                TINYDIGITS_SHRUNK(height, TINYDIGITS_SHRINK(width, height)))

/* gray: width x height grey levels, row by row, 0 is black. work: TINYDIGITS_WORK_BYTES(width, height) bytes, aligned
   as int32_t is. out: 28x28. */
int tinydigits_preprocess(const uint8_t *gray, int32_t width, int32_t height, void *work, uint8_t out[784]);

#ifdef __cplusplus
}
#endif

#endif
