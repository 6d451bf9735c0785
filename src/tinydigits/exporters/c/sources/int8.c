#ifdef __cplusplus
#define RESTRICT /* C++ has none */
#else
#define RESTRICT restrict
#endif

#ifdef __OPTIMIZE_SIZE__
#define KERNEL static /* one for all layers */
#else
#define KERNEL static inline /* one for each layer, compiled for its sizes */
#endif

/* Where there are vector registers, zeros behind a row of weights, and behind the scales of channels, fill them up. */
#if defined(__SSE2__) && !defined(__OPTIMIZE_SIZE__)
#define FILLED(count, lanes) (((count) + (lanes) - 1) / (lanes) * (lanes))
#else
#define FILLED(count, lanes) (count)
#endif
#define PADDED(weights) FILLED(weights, 32)
#define CHANNELS(count) FILLED(count, 8)
#define MOST_CHANNELS PADDED({{most_channels}})

/* Integer sums -> the next map's scale: (sum * multiplier + offset) / 2^shift, rounded down, for each channel. */
struct scale {
    const int32_t *multiplier;
    const int64_t *offset;
    const uint8_t *low, *high; /* clamps; 0: those of a byte */
    int channels, shift;
};

KERNEL void requantise(const struct scale *s, const int32_t *sums, uint8_t *RESTRICT out)
{
    uint8_t bytes[MOST_CHANNELS]; /* those that fill up the last vector are dropped */
    for (int o = 0; o < CHANNELS(s->channels); o++) {
        int64_t value = sums[o] * (int64_t)s->multiplier[o] + s->offset[o];
        value = (value < 0 ? 0 : value) >> s->shift;
        bytes[o] = (uint8_t)(value > 255 ? 255 : value);
    }
    for (int o = 0; o < s->channels; o++) {
        uint8_t byte = bytes[o];
        if (s->low) {
            byte = byte < s->low[o] ? s->low[o] : byte;
            byte = byte > s->high[o] ? s->high[o] : byte;
        }
        out[o] = byte;
    }
}

static void scale_logits(const struct scale *s, const int32_t *sums, int32_t *logits)
{
    for (int o = 0; o < s->channels; o++) {
        const int64_t value = sums[o] * (int64_t)s->multiplier[o] + s->offset[o];
        logits[o] = (int32_t)(value < 0 ? -1 - ((-1 - value) >> s->shift) : value >> s->shift);
    }
}

/* Sums of products of one window, two channels at a time; `sums` has space for one more if the channels are odd. */
KERNEL void multiply(const uint8_t *window, const int8_t *weight, int taps, int channels, int32_t *sums)
{
    for (int o = 0; o < channels; o += 2, weight += 2 * taps) {
        const int8_t *next = weight + (o + 1 < channels ? taps : 0);
        int32_t first = 0, second = 0;
        for (int k = 0; k < taps; k++) {
            first += window[k] * weight[k];
            second += window[k] * next[k];
        }
        sums[o] = first;
        sums[o + 1] = second;
    }
}

/* `width` windows, `step` apart -> pixels, `pitch` apart. */
KERNEL void convolve(const uint8_t *strip, int width, int step, const int8_t *weight, int taps, const struct scale *s,
                     uint8_t *out, int pitch)
{
    int32_t sums[MOST_CHANNELS + 1] = {0};
    for (; width > 0; width--, strip += step, out += pitch) {
        multiply(strip, weight, taps, s->channels, sums);
        requantise(s, sums, out);
    }
}

/* The same of each channel by itself; `sums` has space for the channels that fill up the last vector. */
KERNEL void multiply_depthwise(const uint8_t *window, const int8_t *weight, int pixels, int channels,
                               int32_t *RESTRICT sums)
{
    for (int o = 0; o < PADDED(channels); o++) {
        int32_t sum = 0;
        for (int k = 0; k < pixels; k++)
            sum += window[k * channels + o] * weight[k * PADDED(channels) + o];
        sums[o] = sum;
    }
}

KERNEL void convolve_depthwise(const uint8_t *strip, int width, int step, const int8_t *weight, int pixels,
                               const struct scale *s, uint8_t *out, int pitch)
{
    int32_t sums[MOST_CHANNELS + 1] = {0};
    for (; width > 0; width--, strip += step, out += pitch) {
        multiply_depthwise(strip, weight, pixels, s->channels, sums);
        requantise(s, sums, out);
    }
}

KERNEL void add_up(const uint8_t *window, int pixels, int channels, int32_t *sums)
{
    for (int o = 0; o < channels; o++) {
        sums[o] = 0;
        for (int k = 0; k < pixels; k++)
            sums[o] += window[k * channels + o];
    }
}

KERNEL void average(const uint8_t *strip, int width, int step, int pixels, const struct scale *s, uint8_t *out,
                    int pitch)
{
    int32_t sums[MOST_CHANNELS + 1] = {0};
    for (; width > 0; width--, strip += step, out += pitch) {
        add_up(strip, pixels, s->channels, sums);
        requantise(s, sums, out);
    }
}

KERNEL void maximum(const uint8_t *strip, int width, int step, int pixels, int channels, uint8_t *RESTRICT out,
                    int pitch)
{
    for (; width > 0; width--, strip += step, out += pitch)
        for (int o = 0; o < channels; o++) {
            uint8_t value = strip[o];
            for (int k = 1; k < pixels; k++)
                value = strip[k * channels + o] > value ? strip[k * channels + o] : value;
            out[o] = value;
        }
}
