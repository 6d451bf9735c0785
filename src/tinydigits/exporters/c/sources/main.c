/* Reads one handwritten digit:  ./{{model}} picture.pgm
   The picture is a binary PGM (P5) of any size, or a file of 784 bytes, 28x28 as MNIST has them.

   {{compiler}} -o {{model}} main.c {{model}}.c tinydigits_preprocess.c */
#include <stdio.h>

#include "tinydigits_preprocess.h"
#include "{{model}}.h"

#define MOST_PIXELS (1024L * 1024L) /* of a picture; raise it if yours are larger */

static uint8_t gray[MOST_PIXELS];
static int32_t work[TINYDIGITS_WORK_BYTES(512, 512) / 4 + 1]; /* enough for every size */
static uint8_t image[784];
static {{model}}_arena arena;

/* The next number of a PGM's header, after blanks and comments; -1 if there is none. */
static long next_number(FILE *file)
{
    int c = getc(file);
    long number = 0;
    while (c == '#' || c == ' ' || c == '\t' || c == '\r' || c == '\n') {
        while (c == '#' && (c = getc(file)) != '\n' && c != EOF)
            c = '#';
        c = getc(file);
    }
    if (c < '0' || c > '9')
        return -1;
    for (; c >= '0' && c <= '9' && number < 100000000L; c = getc(file))
        number = 10 * number + c - '0';
    return number;
}

/* Fills `image`; returns 0, or 1 after a message. */
static int read_image(FILE *file, const char *name)
{
    const int first = getc(file), second = getc(file);
    long width, height, largest;
    if (first != 'P' || second != '5') {
        rewind(file);
        if (fread(image, 1, 784, file) == 784 && getc(file) == EOF)
            return 0;
        fprintf(stderr, "%s is neither a binary PGM (P5) nor 784 bytes. Convert it to PGM.\n", name);
        return 1;
    }
    width = next_number(file);
    height = next_number(file);
    largest = next_number(file);
    if (width < 1 || height < 1 || largest != 255 || width > MOST_PIXELS / height ||
        fread(gray, 1, (size_t)(width * height), file) != (size_t)(width * height)) {
        fprintf(stderr,
                "%s is cut off, larger than %ld pixels, or its maxval is not 255. Make a smaller PGM of 8 bits.\n", name,
                MOST_PIXELS);
        return 1;
    }
    if (tinydigits_preprocess(gray, (int32_t)width, (int32_t)height, work, image) == TINYDIGITS_BLANK) {
        fprintf(stderr, "%s holds no ink. Use a picture with one digit, written clearly.\n", name);
        return 1;
    }
    return 0;
}

int main(int count, char **words)
{
    {{model}}_logit logits[10];
    FILE *file;
    int digit, failed;
    if (count != 2) {
        fprintf(stderr, "Name one picture: %s picture.pgm\n", words[0]);
        return 2;
    }
    file = fopen(words[1], "rb");
    if (!file) {
        fprintf(stderr, "%s cannot be opened. Check the path.\n", words[1]);
        return 2;
    }
    failed = read_image(file, words[1]);
    fclose(file);
    if (failed)
        return 2;
    digit = {{model}}_predict(image, &arena, logits);
    if (digit < 0)
        printf("no digit\n");
    else
        printf("%d\n", digit);
    return 0;
}
