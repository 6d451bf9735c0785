/* Times a network on pictures of 784 bytes from stdin, one at a time, after one pass that is not timed.

   Compile it with -DADAPTER='"file.h"', which declares the network and defines CALL(picture) and LOGIT(i).
   Writes doubles: the bytes of stack that a call takes, the nanoseconds of every picture, ten logits of every picture. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include ADAPTER

#define STACK_BYTES (4u << 20)
#define PAINT 0xA5

static uint8_t *pictures;
static long count;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

static void *call_nothing(void *unused)
{
    return unused;
}

static void *call_once(void *unused)
{
    CALL(pictures);
    return unused;
}

/* How much of a painted stack a thread overwrites. */
static double stack_of(void *(*function)(void *))
{
    pthread_t thread;
    pthread_attr_t attributes;
    uint8_t *stack = aligned_alloc(4096, STACK_BYTES);
    size_t untouched = 0;
    if (!stack)
        exit(1);
    memset(stack, PAINT, STACK_BYTES);
    pthread_attr_init(&attributes);
    if (pthread_attr_setstack(&attributes, stack, STACK_BYTES) || pthread_create(&thread, &attributes, function, NULL))
        exit(1);
    pthread_join(thread, NULL);
    while (untouched < STACK_BYTES && stack[untouched] == PAINT)
        untouched++;
    free(stack);
    return (double)(STACK_BYTES - untouched);
}

static void write_double(double value)
{
    fwrite(&value, sizeof value, 1, stdout);
}

int main(int words, char **word)
{
    double *times, *answers, start;
    long i, j, pass;
    if (words != 2 || (count = atol(word[1])) < 1)
        return 2;
    pictures = malloc((size_t)count * 784);
    times = malloc((size_t)count * sizeof *times);
    answers = malloc((size_t)count * 10 * sizeof *answers);
    if (!pictures || !times || !answers || fread(pictures, 784, (size_t)count, stdin) != (size_t)count)
        return 1;
    for (pass = 0; pass < 2; pass++)
        for (i = 0; i < count; i++) {
            start = now();
            CALL(pictures + 784 * i);
            times[i] = now() - start;
            for (j = 0; j < 10; j++)
                answers[10 * i + j] = (double)LOGIT(j);
        }
    write_double(stack_of(call_once) - stack_of(call_nothing));
    fwrite(times, sizeof *times, (size_t)count, stdout);
    fwrite(answers, sizeof *answers, (size_t)count * 10, stdout);
    return 0;
}
