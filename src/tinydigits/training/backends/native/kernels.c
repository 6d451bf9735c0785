/* The heavy part of a training step, for networks too small for general libraries.

   LANES pictures lie side by side: a map is [blocks][channels][height][width][LANES], so that every kernel works on
   whole vectors whatever the numbers of channels and the sizes of maps are, and no edge needs a special case. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __AVX512F__
#define LANES 16
#define REGISTERS 24 /* accumulators of a tile; the others hold operands */
#else
#define LANES 8
#define REGISTERS 10
#endif
#define WIDEST 8 /* columns, or output channels, of a tile */
#define MOST_TAPS 5

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint8_t bvec __attribute__((vector_size(LANES)));
typedef int16_t hvec __attribute__((vector_size(2 * LANES)));

int lanes(void) { return LANES; }

#define INLINE static inline __attribute__((always_inline))
#define SMALLER(a, b) ((a) < (b) ? (a) : (b))

INLINE vec all(float value) { return value - (vec){}; }

/* yes where the mask is -1, no where it is 0 */
INLINE vec pick(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }

/* ------------------------------------------------------------------------------------------ convolution, stride 1 */

typedef struct {
    int in, height, width;           /* of the input; it is padded to the left and right already */
    int out, out_height, out_width;
    int kernel_height, kernel_width;
    int top;                         /* rows of zeros above (and below), which are not there */
    int in_step, out_step;           /* channels from block to block: more than `in` and `out` where there are groups */
} shape;

/* `columns` neighbouring outputs of `channels` maps */
INLINE void tile(const int columns, const int channels, const shape *s, const vec *x, const float *weight,
                 const float *bias, int from, int to, vec *y)
{
    vec sum[WIDEST][WIDEST];
#pragma GCC unroll 8
    for (int c = 0; c < channels; c++)
#pragma GCC unroll 8
        for (int j = 0; j < columns; j++)
            sum[c][j] = all(bias ? bias[c] : 0);
    const int taps = s->kernel_width * channels;
    for (int i = 0; i < s->in; i++)
        for (int k = from; k < to; k++) {
            const vec *row = x + (ptrdiff_t)(i * s->height + k) * s->width;
            const float *w = weight + (i * s->kernel_height + k) * taps;
            for (int t = 0; t < s->kernel_width; t++, row++, w += channels)
#pragma GCC unroll 8
                for (int c = 0; c < channels; c++) {
                    const vec factor = all(w[c]);
#pragma GCC unroll 8
                    for (int j = 0; j < columns; j++)
                        sum[c][j] += row[j] * factor;
                }
        }
    const int map = s->out_height * s->out_width;
#pragma GCC unroll 8
    for (int c = 0; c < channels; c++)
#pragma GCC unroll 8
        for (int j = 0; j < columns; j++)
            y[c * map + j] = sum[c][j];
}

typedef void tile_function(const shape *, const vec *, const float *, const float *, int, int, vec *);

#define TILE(columns, channels) \
    static void tile_##columns##_##channels(const shape *s, const vec *x, const float *weight, const float *bias, \
                                            int from, int to, vec *y) \
    { tile(SMALLER(columns, WIDEST), SMALLER(channels, REGISTERS / columns), s, x, weight, bias, from, to, y); }
#define TILES(columns) TILE(columns, 1) TILE(columns, 2) TILE(columns, 3) TILE(columns, 4) TILE(columns, 5) \
    TILE(columns, 6) TILE(columns, 7) TILE(columns, 8)
#define NAMES(columns) { tile_##columns##_1, tile_##columns##_2, tile_##columns##_3, tile_##columns##_4, \
    tile_##columns##_5, tile_##columns##_6, tile_##columns##_7, tile_##columns##_8 }
TILES(1) TILES(2) TILES(3) TILES(4) TILES(5) TILES(6) TILES(7) TILES(8)
static tile_function *const tiles[WIDEST][WIDEST] = {
    NAMES(1), NAMES(2), NAMES(3), NAMES(4), NAMES(5), NAMES(6), NAMES(7), NAMES(8)
};

/* How many columns a tile has, so that few are calculated twice: the last tile of a row overlaps the one before. */
static int tile_columns(int width)
{
    int best = 1, least = 1 << 30;
    for (int columns = 1; columns <= SMALLER(SMALLER(WIDEST, REGISTERS), width); columns++) {
        const int channels = SMALLER(WIDEST, REGISTERS / columns);
        /* cost of a row and tap: operands loaded beside the multiplications, a channel */
        const int count = (width + columns - 1) / columns;
        const int cost = 1000 * count * (columns * channels + (columns + channels) / 3) / channels;
        if (cost <= least)
            least = cost, best = columns;
    }
    return best;
}

/* y = x * weight + bias. Weights are read with four strides (out, in, row, column). `packed`: room for all weights. */
void convolve(const float *x, const float *weight, const ptrdiff_t strides[4], const float *bias, float *y, int blocks,
              const shape *s, float *packed)
{
    const int columns = tile_columns(s->out_width), channels = SMALLER(WIDEST, REGISTERS / columns);
    const int area = s->in * s->kernel_height * s->kernel_width;
    float *p = packed;
    for (int first = 0; first < s->out; first += channels) {
        const int group = SMALLER(channels, s->out - first);
        for (int i = 0; i < s->in; i++)
            for (int k = 0; k < s->kernel_height; k++)
                for (int t = 0; t < s->kernel_width; t++)
                    for (int c = 0; c < group; c++)
                        *p++ = weight[(first + c) * strides[0] + i * strides[1] + k * strides[2] + t * strides[3]];
    }
    const int map = s->out_height * s->out_width;
    for (int block = 0; block < blocks; block++) {
        const vec *in = (const vec *)x + (ptrdiff_t)block * s->in_step * s->height * s->width;
        vec *out = (vec *)y + (ptrdiff_t)block * s->out_step * map;
        for (int row = 0; row < s->out_height; row++) {
            const int above = row - s->top;
            const int from = above < 0 ? -above : 0, to = SMALLER(s->kernel_height, s->height - above);
            for (int column = 0;; column += columns) {
                if (column > s->out_width - columns)
                    column = s->out_width - columns;
                for (int first = 0; first < s->out; first += channels) {
                    const int group = SMALLER(channels, s->out - first);
                    tiles[columns - 1][group - 1](s, in + (ptrdiff_t)above * s->width + column, packed + first * area,
                        bias ? bias + first : NULL, from, to, out + first * map + row * s->out_width + column);
                }
                if (column == s->out_width - columns)
                    break;
            }
        }
    }
}

/* ------------------------------------------------------------------------------------------ gradients of kernels */

INLINE void gradient_tile(const int channels, const int taps, const shape *s, const vec *x, const vec *dy, int blocks,
                          int k, vec *sums, ptrdiff_t next)
{
    vec sum[WIDEST][WIDEST];
#pragma GCC unroll 8
    for (int c = 0; c < channels; c++)
#pragma GCC unroll 8
        for (int t = 0; t < taps; t++)
            sum[c][t] = sums[c * next + t];
    const int map = s->out_height * s->out_width;
    const int from = k < s->top ? s->top - k : 0, to = SMALLER(s->out_height, s->height + s->top - k);
    for (int block = 0; block < blocks; block++)
        for (int row = from; row < to; row++) {
            const vec *in = x + (ptrdiff_t)block * s->in_step * s->height * s->width + (row + k - s->top) * s->width;
            const vec *out = dy + (ptrdiff_t)block * s->out_step * map + row * s->out_width;
            for (int column = 0; column < s->out_width; column++)
#pragma GCC unroll 8
                for (int c = 0; c < channels; c++)
#pragma GCC unroll 8
                    for (int t = 0; t < taps; t++)
                        sum[c][t] += out[c * map + column] * in[column + t];
        }
#pragma GCC unroll 8
    for (int c = 0; c < channels; c++)
#pragma GCC unroll 8
        for (int t = 0; t < taps; t++)
            sums[c * next + t] = sum[c][t];
}

typedef void gradient_function(const shape *, const vec *, const vec *, int, int, vec *, ptrdiff_t);

#define GRADIENT(taps, channels) \
    static void gradient_##taps##_##channels(const shape *s, const vec *x, const vec *dy, int blocks, int k, \
                                             vec *sums, ptrdiff_t next) \
    { gradient_tile(SMALLER(channels, REGISTERS / taps), taps, s, x, dy, blocks, k, sums, next); }
#define GRADIENTS(taps) GRADIENT(taps, 1) GRADIENT(taps, 2) GRADIENT(taps, 3) GRADIENT(taps, 4) GRADIENT(taps, 5) \
    GRADIENT(taps, 6) GRADIENT(taps, 7) GRADIENT(taps, 8)
#define GRADIENT_NAMES(taps) { gradient_##taps##_1, gradient_##taps##_2, gradient_##taps##_3, gradient_##taps##_4, \
    gradient_##taps##_5, gradient_##taps##_6, gradient_##taps##_7, gradient_##taps##_8 }
GRADIENTS(1) GRADIENTS(2) GRADIENTS(3) GRADIENTS(4) GRADIENTS(5)
static gradient_function *const gradients[MOST_TAPS][WIDEST] = {
    GRADIENT_NAMES(1), GRADIENT_NAMES(2), GRADIENT_NAMES(3), GRADIENT_NAMES(4), GRADIENT_NAMES(5)
};

/* The sum over lanes. */
static float total(vec v)
{
    float sum = 0;
    for (int lane = 0; lane < LANES; lane++)
        sum += v[lane];
    return sum;
}

/* d weight, written with four strides (out, in, row, column). `room`: as many vectors as weights. */
void convolve_weight_gradient(const float *x, const float *dy, float *result, const ptrdiff_t strides[4], int blocks,
                              const shape *s, float *room)
{
    const int area = s->in * s->kernel_height * s->kernel_width, map = s->out_height * s->out_width;
    const int plane = s->height * s->width;
    memset(room, 0, sizeof(vec) * area * s->out);
    vec *sums = (vec *)room;
    /* so many blocks at a time that their maps stay in the nearer caches while all tiles read them */
    const ptrdiff_t size = sizeof(vec) * ((ptrdiff_t)s->in * plane + (ptrdiff_t)s->out * map);
    const int few = size > (1 << 18) ? 1 : (int)((1 << 18) / size);
    for (int block = 0; block < blocks; block += few) {
        const vec *in = (const vec *)x + (ptrdiff_t)block * s->in_step * plane;
        const vec *out = (const vec *)dy + (ptrdiff_t)block * s->out_step * map;
        for (int i = 0; i < s->in; i++)
            for (int k = 0; k < s->kernel_height; k++)
                for (int tap = 0, taps; tap < s->kernel_width; tap += taps) {
                    taps = SMALLER(MOST_TAPS, s->kernel_width - tap);
                    const int channels = SMALLER(WIDEST, REGISTERS / taps);
                    for (int first = 0, group; first < s->out; first += group) {
                        group = SMALLER(channels, s->out - first);
                        gradients[taps - 1][group - 1](s, in + i * plane + tap, out + first * map,
                            SMALLER(few, blocks - block), k,
                            sums + (ptrdiff_t)first * area + (i * s->kernel_height + k) * s->kernel_width + tap, area);
                    }
                }
    }
    for (int o = 0; o < s->out; o++)
        for (int i = 0; i < s->in; i++)
            for (int k = 0; k < s->kernel_height; k++)
                for (int t = 0; t < s->kernel_width; t++)
                    result[o * strides[0] + i * strides[1] + k * strides[2] + t * strides[3]] = total(*sums++);
}

/* The sum over pictures and positions of each channel: d bias. */
void sum_positions(const float *x, float *result, int blocks, int channels, int map)
{
    for (int c = 0; c < channels; c++) {
        vec sum = {};
        for (int block = 0; block < blocks; block++) {
            const vec *in = (const vec *)x + ((ptrdiff_t)block * channels + c) * map;
            for (int i = 0; i < map; i++)
                sum += in[i];
        }
        result[c] = total(sum);
    }
}

/* A copy with `margin` columns of zeros to the left and right of each of the `rows`. */
void pad_columns(const float *x, float *y, int rows, int width, int margin)
{
    const vec *in = (const vec *)x;
    vec *out = (vec *)y;
    for (int row = 0; row < rows; row++) {
        for (int i = 0; i < margin; i++)
            *out++ = (vec){};
        for (int i = 0; i < width; i++)
            *out++ = *in++;
        for (int i = 0; i < margin; i++)
            *out++ = (vec){};
    }
}

/* ------------------------------------------------------------------------------------------ batch norm, with ReLU */

/* 1 in the lanes that hold pictures, 0 in the others: the last block may be filled in part. */
static vec filled(int pictures, int block)
{
    vec result = {};
    for (int lane = 0; lane < LANES; lane++)
        result[lane] = block * LANES + lane < pictures;
    return result;
}

/* Mean and mean square deviation of one channel, over pictures and positions (Chan et al. 1979, block by block). */
static void moments(const vec *x, double *mean, double *variance, int pictures, ptrdiff_t step, int map)
{
    double count = 0, squares = 0;
    *mean = 0;
    for (int block = 0; block * LANES < pictures; block++) {
        const vec *in = x + block * step;
        const vec mask = filled(pictures, block);
        const double n = (double)total(mask) * map;
        vec sum[4] = {};
        for (int i = 0; i < map; i++)
            sum[i % 4] += in[i];
        const double here = total((sum[0] + sum[1] + sum[2] + sum[3]) * mask) / n;
        const vec centre = all((float)here);
        vec square[4] = {};
        for (int i = 0; i < map; i++)
            square[i % 4] += (in[i] - centre) * (in[i] - centre);
        const double change = here - *mean;
        *mean += change * n / (count + n);
        squares += total((square[0] + square[1] + square[2] + square[3]) * mask) + change * change * count * n / (count + n);
        count += n;
    }
    *variance = squares / count;
}

/* Batch norm in training (Ioffe and Szegedy 2015), cut off below at `least` (0: a ReLU behind it; minus infinity: none).
   Gives mean and unbiased variance of each channel, which the running ones move to, and 1 / deviation. */
void batch_norm(const float *x, float *y, const float *weight, const float *bias, float *mean, float *unbiased,
                float *inverse, float epsilon, float least, int pictures, int channels, int map)
{
    const ptrdiff_t step = (ptrdiff_t)channels * map;
    const double count = (double)pictures * map;
    for (int c = 0; c < channels; c++) {
        const vec *in = (const vec *)x + (ptrdiff_t)c * map;
        vec *out = (vec *)y + (ptrdiff_t)c * map;
        double average, variance;
        moments(in, &average, &variance, pictures, step, map);
        mean[c] = (float)average;
        unbiased[c] = (float)(variance * count / (count > 1 ? count - 1 : 1));
        inverse[c] = (float)(1 / sqrt(variance + epsilon));
        const vec scale = all(weight[c] * inverse[c]), shift = all(bias[c] - mean[c] * weight[c] * inverse[c]), low = all(least);
        for (int block = 0; block * LANES < pictures; block++)
            for (int i = 0; i < map; i++) {
                const vec value = in[block * step + i] * scale + shift;
                out[block * step + i] = pick(value > low, value, low);
            }
    }
}

/* Backwards through batch norm, and through the ReLU behind it, whose output is y (NULL: there is none).
   Gives dx, and the gradients of scale and shift (Ioffe and Szegedy 2015). dx may be dy. */
void batch_norm_backward(const float *dy, const float *x, const float *y, const float *mean, const float *inverse,
                         const float *weight, float *dx, float *dweight, float *dbias, int pictures, int channels, int map)
{
    const int blocks = (pictures + LANES - 1) / LANES;
    const float n = (float)pictures * map;
    for (int c = 0; c < channels; c++) {
        const vec centre = all(mean[c]);
        vec sum[2] = {}, product[2] = {};
        for (int block = 0; block < blocks; block++) {
            const ptrdiff_t start = ((ptrdiff_t)block * channels + c) * map;
            const vec *d = (const vec *)dy + start, *in = (const vec *)x + start;
            const vec *out = y ? (const vec *)y + start : NULL;
            for (int i = 0; i < map; i++) {
                const vec g = out ? pick(out[i] > 0, d[i], (vec){}) : d[i];
                sum[i % 2] += g;
                product[i % 2] += g * (in[i] - centre);
            }
        }
        dbias[c] = total(sum[0] + sum[1]);
        dweight[c] = total(product[0] + product[1]) * inverse[c];
        const vec scale = all(weight[c] * inverse[c]), shift = all(dbias[c] / n);
        const vec slope = all(dweight[c] * inverse[c] / n);
        for (int block = 0; block < blocks; block++) {
            const ptrdiff_t start = ((ptrdiff_t)block * channels + c) * map;
            const vec *d = (const vec *)dy + start, *in = (const vec *)x + start;
            const vec *out = y ? (const vec *)y + start : NULL;
            vec *result = (vec *)dx + start;
            const vec factor = scale * filled(pictures, block);
            for (int i = 0; i < map; i++) {
                const vec g = out ? pick(out[i] > 0, d[i], (vec){}) : d[i];
                result[i] = factor * (g - shift - (in[i] - centre) * slope);
            }
        }
    }
}

/* y = x where it is positive, else 0. y may be x. */
void relu(const float *x, float *y, ptrdiff_t count)
{
    for (ptrdiff_t i = 0; i < count; i++) {
        const vec value = ((const vec *)x)[i];
        ((vec *)y)[i] = pick(value > 0, value, (vec){});
    }
}

/* Backwards through a ReLU whose output is y. dx may be dy. */
void relu_backward(const float *dy, const float *y, float *dx, ptrdiff_t count)
{
    for (ptrdiff_t i = 0; i < count; i++) {
        const vec d = ((const vec *)dy)[i];
        ((vec *)dx)[i] = pick(((const vec *)y)[i] > 0, d, (vec){});
    }
}

/* y = x * scale where the number drawn for it is at least `least`, else 0. y may be x. The way back is the same. */
void drop(const float *x, const int16_t *drawn, float *y, int least, float scale, ptrdiff_t count)
{
    const vec factor = all(scale);
    for (ptrdiff_t i = 0; i < count; i++) {
        const ivec kept = __builtin_convertvector(((const hvec *)drawn)[i], ivec) >= least;
        ((vec *)y)[i] = pick(kept, ((const vec *)x)[i] * factor, (vec){});
    }
}

/* ------------------------------------------------------------------------------------------ pooling, stride = side */

/* The largest of side × side, and which it was. */
void max_pool(const float *x, float *y, uint8_t *which, int maps, int height, int width, int side)
{
    const int out_height = height / side, out_width = width / side;
    for (int map = 0; map < maps; map++)
        for (int row = 0; row < out_height; row++)
            for (int column = 0; column < out_width; column++) {
                const vec *in = (const vec *)x + ((ptrdiff_t)map * height + row * side) * width + column * side;
                vec best = in[0];
                ivec index = {};
                for (int i = 0; i < side; i++)
                    for (int j = 0; j < side; j++) {
                        const vec value = in[i * width + j];
                        const ivec larger = value > best;
                        best = pick(larger, value, best);
                        index = (larger & (i * side + j)) | (~larger & index);
                    }
                const ptrdiff_t place = ((ptrdiff_t)map * out_height + row) * out_width + column;
                ((vec *)y)[place] = best;
                ((bvec *)which)[place] = __builtin_convertvector(index, bvec);
            }
}

void max_pool_backward(const float *dy, const uint8_t *which, float *dx, int maps, int height, int width, int side)
{
    const int out_height = height / side, out_width = width / side;
    for (int map = 0; map < maps; map++) {
        vec *plane = (vec *)dx + (ptrdiff_t)map * height * width;
        if (out_height * side < height || out_width * side < width)
            memset(plane, 0, sizeof(vec) * height * width);
        for (int row = 0; row < out_height; row++)
            for (int column = 0; column < out_width; column++) {
                const ptrdiff_t place = ((ptrdiff_t)map * out_height + row) * out_width + column;
                const vec d = ((const vec *)dy)[place];
                const ivec index = __builtin_convertvector(((const bvec *)which)[place], ivec);
                vec *out = plane + row * side * width + column * side;
                for (int i = 0; i < side; i++)
                    for (int j = 0; j < side; j++)
                        out[i * width + j] = pick(index == i * side + j, d, (vec){});
            }
    }
}

/* The mean of each rows × columns; what is left over at the right and below is not seen. */
void average_pool(const float *x, float *y, int maps, int height, int width, int rows, int columns)
{
    const int out_height = height / rows, out_width = width / columns;
    const vec share = all(1.0f / (float)(rows * columns));
    for (int map = 0; map < maps; map++)
        for (int row = 0; row < out_height; row++)
            for (int column = 0; column < out_width; column++) {
                const vec *in = (const vec *)x + ((ptrdiff_t)map * height + row * rows) * width + column * columns;
                vec sum = {};
                for (int i = 0; i < rows; i++)
                    for (int j = 0; j < columns; j++)
                        sum += in[i * width + j];
                ((vec *)y)[((ptrdiff_t)map * out_height + row) * out_width + column] = sum * share;
            }
}

void average_pool_backward(const float *dy, float *dx, int maps, int height, int width, int rows, int columns)
{
    const int out_height = height / rows, out_width = width / columns;
    const vec share = all(1.0f / (float)(rows * columns));
    for (int map = 0; map < maps; map++) {
        vec *plane = (vec *)dx + (ptrdiff_t)map * height * width;
        memset(plane, 0, sizeof(vec) * height * width);
        for (int row = 0; row < out_height; row++)
            for (int column = 0; column < out_width; column++) {
                const vec d = ((const vec *)dy)[((ptrdiff_t)map * out_height + row) * out_width + column] * share;
                for (int i = 0; i < rows; i++)
                    for (int j = 0; j < columns; j++)
                        plane[(row * rows + i) * width + column * columns + j] = d;
            }
    }
}

/* ------------------------------------------------------------------------------------------ pictures */

enum { SIDE = 28, PIXELS = SIDE * SIDE };

/* The pixel that a lane's picture has at (x, y), between its four neighbours; beyond the border it is repeated. */
INLINE vec sampled(const uint8_t *const picture[LANES], vec x, vec y)
{
    const vec last = all(SIDE - 1), none = {};
    x = pick(x < none, none, pick(x > last, last, x));
    y = pick(y < none, none, pick(y > last, last, y));
    const ivec left = __builtin_convertvector(x, ivec), top = __builtin_convertvector(y, ivec);
    const vec right = x - __builtin_convertvector(left, vec), below = y - __builtin_convertvector(top, vec);
    /* the last column and row have no neighbour, which then counts nothing */
    const ivec aside = (left < SIDE - 1) & 1, down = (top < SIDE - 1) & SIDE, place = top * SIDE + left;
    vec a, b, c, d;
    for (int lane = 0; lane < LANES; lane++) {
        const uint8_t *p = picture[lane] + place[lane];
        a[lane] = p[0];
        b[lane] = p[aside[lane]];
        c[lane] = p[down[lane]];
        d[lane] = p[down[lane] + aside[lane]];
    }
    a += (b - a) * right;
    c += (d - c) * right;
    return a + (c - a) * below;
}

/* Pictures [count][28][28] into blocks, (value - mean) / deviation of values from 0 to 1: as they are, or each resampled
   through a map from output to input (2 x 3 numbers; coordinates from -1 to 1), as augment.py says. */
void load_pictures(const uint8_t *pictures, const float *maps, float *y, int count, float mean, float deviation)
{
    const vec centre = all(255 * mean), scale = all(1 / (255 * deviation));
    for (int first = 0; first < count; first += LANES) {
        vec *out = (vec *)(y + (ptrdiff_t)first * PIXELS);
        const uint8_t *picture[LANES];
        vec m[6] = {};
        for (int lane = 0; lane < LANES; lane++) {
            const int i = SMALLER(first + lane, count - 1); /* what a block lacks is filled with its last picture */
            picture[lane] = pictures + (ptrdiff_t)i * PIXELS;
            for (int k = 0; maps && k < 6; k++)
                m[k][lane] = maps[i * 6 + k];
        }
        for (int row = 0; row < SIDE; row++)
            for (int column = 0; column < SIDE; column++, out++) {
                vec value = {};
                if (maps) {
                    const float u = (2 * column + 1) / (float)SIDE - 1, v = (2 * row + 1) / (float)SIDE - 1;
                    value = sampled(picture, ((m[0] * u + m[1] * v + m[2] + 1) * SIDE - 1) / 2,
                                    ((m[3] * u + m[4] * v + m[5] + 1) * SIDE - 1) / 2);
                } else
                    for (int lane = 0; lane < LANES; lane++)
                        value[lane] = picture[lane][row * SIDE + column];
                *out = (value - centre) * scale;
            }
    }
}
