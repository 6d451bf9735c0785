/* Pictures from standard input: width and height (int32_t), then the grey levels; for each, what the preprocessor returned
   (int32_t) and its 784 bytes to standard output. */
#include <stdio.h>
#include <stdlib.h>

#include "tinydigits_preprocess.h"

int main(void)
{
    static uint8_t out[784];
    int32_t size[2], status;
    while (fread(size, sizeof size[0], 2, stdin) == 2) {
        const size_t pixels = (size_t)size[0] * (size_t)size[1];
        uint8_t *gray = malloc(pixels);
        void *work = malloc((size_t)TINYDIGITS_WORK_BYTES(size[0], size[1]));
        if (!gray || !work || fread(gray, 1, pixels, stdin) != pixels)
            return 1;
        status = tinydigits_preprocess(gray, size[0], size[1], work, out);
        fwrite(&status, sizeof status, 1, stdout);
        fwrite(out, 1, sizeof out, stdout);
        free(work);
        free(gray);
    }
    return 0;
}
