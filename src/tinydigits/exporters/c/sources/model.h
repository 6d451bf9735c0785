/*
{{facts}}
*/
#ifndef {{MODEL}}_H
#define {{MODEL}}_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define {{MODEL}}_ARENA_BYTES {{arena}}{{scale}}

typedef {{logit}} {{model}}_logit;

/* What a prediction works in. Its content needs no preparation and no care between calls; one for each thread. */
typedef struct {
    {{type}} strips[{{elements}}];
    uint16_t rows[{{count}}];
} {{model}}_arena;

/* image: 28x28 as MNIST has it, light ink on black. Fills `logits` and returns the digit{{rejection}}.
   A blank picture gets a digit like any other; reject it when the picture is made, as tinydigits_preprocess
   does. */
int {{model}}_predict(const uint8_t image[784], {{model}}_arena *arena, {{model}}_logit logits[10]);

/* The first model that is included also has the common name. */
#ifndef tinydigits_predict
#define tinydigits_predict {{model}}_predict
#endif

#ifdef __cplusplus
}
#endif

#endif
