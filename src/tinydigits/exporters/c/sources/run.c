/* Pictures of 784 bytes from standard input; for each, ten logits and the label (int32_t) to standard output. */
#include <stdio.h>

#include MODEL_HEADER

int main(void)
{
    static uint8_t image[784];
    static ARENA arena;
    LOGIT logits[10];
    while (fread(image, 1, sizeof image, stdin) == sizeof image) {
        const int32_t label = tinydigits_predict(image, &arena, logits);
        fwrite(logits, sizeof logits[0], 10, stdout);
        fwrite(&label, sizeof label, 1, stdout);
    }
    return 0;
}
