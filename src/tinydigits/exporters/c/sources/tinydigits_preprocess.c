/* The steps are those of preprocess_gray in tinydigits/pictures/preprocess.py, whose docstring specifies each of them. */
#include "tinydigits_preprocess.h"

#define SIZE 28  /* of the result */
#define BOX 20   /* the digit's longer side in it */
#define SIDE 512 /* of a picture that need not be reduced */
#define GRID 24  /* cells on the longer side of the grid on which the light is estimated */
#define RELAXATIONS 32
#define NEARLY_FULL 240 /* an ink level that need not be stretched to 255 */

struct work {
    int32_t histogram[511];        /* of -255 .. 255 */
    int32_t inside[256];           /* of 0 .. 255, within paper cells */
    uint16_t cells[GRID * GRID];   /* 1/256 grey levels */
    uint16_t relaxed[GRID * GRID]; /* the same, a round later; also space to sort in */
    uint16_t counts[SIDE];         /* of inked pixels, by row or by column */
    uint8_t known[GRID * GRID];    /* 1: paper; more: has a value since that round */
    uint8_t digit[BOX * BOX];
    uint8_t pixels[];              /* height x width: grey levels, later ink */
};

struct picture {
    struct work *work;
    const uint8_t *gray;
    int32_t height, width;
    int32_t grid_height, grid_width; /* 0: step 2 has found the paper */
    int32_t level;                   /* of the paper; -1: uneven light */
    int dark;                        /* ink is darker than paper */
};

struct range {
    int32_t start, end; /* empty: none was found */
};

static int32_t least(int32_t a, int32_t b) { return a < b ? a : b; }
static int32_t most(int32_t a, int32_t b) { return a > b ? a : b; }
static int32_t clamp(int32_t value, int32_t low, int32_t high) { return most(low, least(value, high)); }
static int32_t distance(int32_t a, int32_t b) { return a < b ? b - a : a - b; }

/* Rounded towards minus infinity; count > 0. */
static int32_t divide(int32_t total, int32_t count)
{
    return total / count - (total % count < 0);
}

/* Rounded to the nearest; count > 0. */
static int32_t average(int32_t total, int32_t count)
{
    return divide(total + count / 2, count);
}

static int32_t block_sum(const uint8_t *gray, int32_t width, int32_t top, int32_t bottom, int32_t left, int32_t right)
{
    int32_t sum = 0, y, x;
    for (y = top; y < bottom; y++)
        for (x = left; x < right; x++)
            sum += gray[y * width + x];
    return sum;
}

/* Step 1. */
static void reduce(struct picture *p)
{
    const int32_t k = (most(p->height, p->width) + SIDE - 1) / SIDE, height = p->height, width = p->width;
    uint8_t *next = p->work->pixels;
    int32_t y, x;
    if (k == 1)
        return;
    for (y = 0; y < height; y += k)
        for (x = 0; x < width; x += k) {
            const int32_t bottom = y + least(k, height - y), right = x + least(k, width - x);
            *next++ = (uint8_t)average(block_sum(p->gray, width, y, bottom, x, right), (bottom - y) * (right - x));
        }
    p->gray = p->work->pixels;
    p->height = (height + k - 1) / k;
    p->width = (width + k - 1) / k;
}

/* Step 2: the level of an evenly lit paper, -1 if the border does not show one. */
static int32_t border_level(const struct picture *p)
{
    int32_t *counts = p->work->inside, border = 0, level = 0, near = 0, everywhere = 0, y, x;
    for (x = 0; x < 256; x++)
        counts[x] = 0;
    for (y = 0; y < p->height; y++)
        for (x = 0; x < p->width; x++)
            if (y == 0 || y == p->height - 1 || x == 0 || x == p->width - 1) {
                counts[p->gray[y * p->width + x]]++;
                border++;
            }
    for (x = 1; x < 256; x++)
        if (counts[x] > counts[level])
            level = x;
    for (x = most(0, level - 2); x <= least(255, level + 2); x++)
        near += counts[x];
    if (8 * near < 7 * border)
        return -1;
    for (x = 0; x < p->height * p->width; x++)
        everywhere += distance(p->gray[x], level) <= 2;
    return 4 * everywhere < p->height * p->width ? -1 : level;
}

static int32_t lower_median(uint16_t *values, int32_t count)
{
    int32_t i, j;
    for (i = 1; i < count; i++) {
        const uint16_t value = values[i];
        for (j = i; j > 0 && values[j - 1] > value; j--)
            values[j] = values[j - 1];
        values[j] = value;
    }
    return values[(count - 1) / 2];
}

/* The cells beside one: their number, and their positions. */
static int neighbours(const struct picture *p, int32_t cell, int32_t found[4])
{
    const int32_t i = cell / p->grid_width, j = cell % p->grid_width;
    int count = 0;
    if (i > 0)
        found[count++] = cell - p->grid_width;
    if (i < p->grid_height - 1)
        found[count++] = cell + p->grid_width;
    if (j > 0)
        found[count++] = cell - 1;
    if (j < p->grid_width - 1)
        found[count++] = cell + 1;
    return count;
}

static void average_cells(const struct picture *p)
{
    const int32_t height = p->height, width = p->width, gh = p->grid_height, gw = p->grid_width;
    int32_t i, j;
    for (i = 0; i < gh; i++)
        for (j = 0; j < gw; j++) {
            const int32_t top = i * height / gh, bottom = (i + 1) * height / gh;
            const int32_t left = j * width / gw, right = (j + 1) * width / gw;
            const int32_t sum = block_sum(p->gray, width, top, bottom, left, right);
            p->work->cells[i * gw + j] = (uint16_t)average(256 * sum, (bottom - top) * (right - left));
        }
}

/* Step 3: marks which cells are paper; returns the step S. */
static int32_t mark_paper(const struct picture *p)
{
    const int32_t gh = p->grid_height, gw = p->grid_width, count = gh * gw;
    const uint16_t *cells = p->work->cells;
    uint8_t *known = p->work->known;
    int32_t largest = 0, step, median, border = 0, cell, beside[4];
    int added = 1, n;
    for (cell = 0; cell < count; cell++) {
        const int32_t i = cell / gw, j = cell % gw;
        for (n = neighbours(p, cell, beside); n-- > 0;)
            largest = most(largest, distance(cells[cell], cells[beside[n]]));
        if (i == 0 || i == gh - 1 || j == 0 || j == gw - 1)
            p->work->relaxed[border++] = cells[cell];
    }
    step = clamp(largest / 8, 2 * 256, 12 * 256);
    median = lower_median(p->work->relaxed, border);
    for (cell = 0; cell < count; cell++) {
        const int32_t i = cell / gw, j = cell % gw;
        const int outer = i == 0 || i == gh - 1 || j == 0 || j == gw - 1;
        known[cell] = (uint8_t)(outer && distance(cells[cell], median) <= step);
    }
    while (added) {
        added = 0;
        for (cell = 0; cell < count; cell++)
            for (n = known[cell] ? 0 : neighbours(p, cell, beside); n-- > 0;)
                if (known[beside[n]] && distance(cells[cell], cells[beside[n]]) <= step) {
                    known[cell] = 1;
                    added = 1;
                }
    }
    return step;
}

/* Step 4: the level of the paper if it is even, else -1. */
static int32_t even_level(const struct picture *p, int32_t step)
{
    const int32_t count = p->grid_height * p->grid_width;
    int32_t number = 0, close = 0, level, cell;
    for (cell = 0; cell < count; cell++)
        if (p->work->known[cell])
            p->work->relaxed[number++] = p->work->cells[cell];
    level = lower_median(p->work->relaxed, number);
    for (cell = 0; cell < number; cell++)
        close += 2 * distance(p->work->relaxed[cell], level) <= step;
    return 8 * close >= 7 * number ? (level + 128) / 256 : -1;
}

/* The mean of a cell's neighbours that have a value (`known` from 1 to `round`), -1 if none has. */
static int32_t mean_beside(const struct picture *p, int32_t cell, uint8_t round)
{
    int32_t sum = 0, count = 0, beside[4];
    int n = neighbours(p, cell, beside);
    while (n-- > 0)
        if (p->work->known[beside[n]] && p->work->known[beside[n]] <= round) {
            sum += p->work->cells[beside[n]];
            count++;
        }
    return count ? average(sum, count) : -1;
}

/* Step 5, first half. `known` is 1 in paper cells; others get the number of the round that filled them, plus 1. */
static void fill(const struct picture *p)
{
    const int32_t count = p->grid_height * p->grid_width;
    uint16_t *cells = p->work->cells;
    uint8_t *known = p->work->known, round;
    int32_t cell, mean;
    int empty = 1, i;
    for (round = 1; empty; round++) {
        empty = 0;
        for (cell = 0; cell < count; cell++)
            if (!known[cell]) {
                mean = mean_beside(p, cell, round);
                empty |= mean < 0;
                if (mean >= 0) {
                    cells[cell] = (uint16_t)mean;
                    known[cell] = (uint8_t)(round + 1);
                }
            }
    }
    for (i = 0; i < RELAXATIONS; i++) {
        for (cell = 0; cell < count; cell++) {
            mean = known[cell] == 1 ? -1 : mean_beside(p, cell, round);
            p->work->relaxed[cell] = mean < 0 ? cells[cell] : (uint16_t)mean;
        }
        for (cell = 0; cell < count; cell++)
            cells[cell] = p->work->relaxed[cell];
    }
}

/* Steps 3 to 5. */
static void find_paper(struct picture *p)
{
    const int32_t side = (most(p->height, p->width) + GRID - 1) / GRID;
    p->grid_height = (p->height + side - 1) / side;
    p->grid_width = (p->width + side - 1) / side;
    average_cells(p);
    p->level = even_level(p, mark_paper(p));
    if (p->level < 0)
        fill(p);
}

/* A position between cell centres: `first` of two cells, and the weight of the other in 1/(2 length). */
static int32_t between(int32_t position, int32_t number, int32_t length, int32_t *first)
{
    const int32_t u = (2 * position + 1) * number - length;
    *first = clamp(divide(u, 2 * length), 0, number - 2);
    return u - 2 * length * *first;
}

/* Step 5, second half: row y of the cells, interpolated downwards. */
static void light_of_row(const struct picture *p, int32_t y, int32_t light[GRID])
{
    const uint16_t *cells = p->work->cells;
    int32_t first, weight, j;
    if (p->level >= 0)
        return;
    if (p->grid_height == 1) {
        for (j = 0; j < p->grid_width; j++)
            light[j] = cells[j];
        return;
    }
    weight = between(y, p->grid_height, p->height, &first);
    cells += first * p->grid_width;
    for (j = 0; j < p->grid_width; j++)
        light[j] = average(cells[j] * (2 * p->height - weight) + cells[p->grid_width + j] * weight, 2 * p->height);
}

static int32_t paper_level(const struct picture *p, const int32_t light[GRID], int32_t x)
{
    int32_t first, weight, value;
    if (p->level >= 0)
        return p->level;
    if (p->grid_width == 1)
        value = light[0];
    else {
        weight = between(x, p->grid_width, p->width, &first);
        value = average(light[first] * (2 * p->width - weight) + light[first + 1] * weight, 2 * p->width);
    }
    return clamp(divide(value + 128, 256), 0, 255);
}

/* e of steps 6 to 8; the polarity counts once it is known. */
static int32_t difference(const struct picture *p, const int32_t light[GRID], int32_t y, int32_t x)
{
    const int32_t paper = paper_level(p, light, x), e = p->gray[y * p->width + x] - paper;
    int32_t relative;
    if (!p->dark)
        return e;
    if (p->level >= 0)
        return -e;
    relative = average(255 * distance(e, 0), most(paper, 1));
    return e < 0 ? least(255, relative) : -least(255, relative);
}

static int in_paper_cell(const struct picture *p, int32_t y, int32_t x)
{
    /* the last cell that begins at or before the position */
    const int32_t i = ((y + 1) * p->grid_height - 1) / p->height, j = ((x + 1) * p->grid_width - 1) / p->width;
    return p->work->known[i * p->grid_width + j] == 1;
}

static void count_differences(const struct picture *p)
{
    int32_t *histogram = p->work->histogram + 255, *inside = p->work->inside, light[GRID] = {0}, e, y, x;
    for (e = -255; e <= 255; e++)
        histogram[e] = 0;
    for (e = 0; e < 256; e++)
        inside[e] = 0;
    for (y = 0; y < p->height; y++) {
        light_of_row(p, y, light);
        for (x = 0; x < p->width; x++) {
            e = difference(p, light, y, x);
            histogram[e]++;
            if (p->grid_height && in_paper_cell(p, y, x))
                inside[distance(e, 0)]++;
        }
    }
}

/* Step 6. */
static void find_polarity(struct picture *p)
{
    const int32_t *histogram = p->work->histogram + 255;
    int64_t light = 0, dark = 0;
    int32_t e;
    count_differences(p);
    for (e = 1; e <= 255; e++) {
        light += (int64_t)e * e * histogram[e];
        dark += (int64_t)e * e * histogram[-e];
    }
    p->dark = light <= dark;
    if (p->dark)
        count_differences(p);
}

/* Step 7. */
static int32_t noise_level(const struct picture *p)
{
    const int32_t *histogram = p->work->histogram + 255, *inside = p->work->inside;
    int32_t noise = 255, rough = 255, beyond = 0, total = 0, e;
    while (noise > 0 && beyond + histogram[-noise] <= p->height * p->width / 512)
        beyond += histogram[-noise--];
    if (!p->grid_height)
        return noise;
    for (e = 0; e < 256; e++)
        total += inside[e];
    beyond = 0;
    while (rough > 0 && beyond + inside[rough] <= total / 8)
        beyond += inside[rough--];
    return most(noise, least(255, 2 * rough));
}

/* The largest level from 0 on that `count` pixels reach, -1 if none. */
static int32_t reached_level(const int32_t *histogram, int32_t count)
{
    int32_t level = 256, pixels = 0;
    while (level > 0 && pixels < count)
        pixels += histogram[255 + --level];
    return pixels < count ? -1 : level;
}

/* Steps 7 and 8: grey levels become ink. Returns the T of step 9, -1 if there is no ink. */
static int32_t find_ink(const struct picture *p)
{
    const int32_t *histogram = p->work->histogram, pixels = p->height * p->width, noise = noise_level(p);
    const int32_t peak = reached_level(histogram, most(1, pixels / 2048));
    int32_t strong = 0, light[GRID] = {0}, span, e, y, x;
    if (2 * (peak - noise) < most(32, 3 * noise))
        return -1;
    for (e = 0; e <= 255; e++)
        if (2 * (e - noise) > peak - noise)
            strong += histogram[255 + e];
    span = reached_level(histogram, (strong + 3) / 4) - noise;
    for (y = 0; y < p->height; y++) {
        light_of_row(p, y, light);
        for (x = 0; x < p->width; x++) {
            e = most(0, difference(p, light, y, x) - noise);
            e = span >= NEARLY_FULL ? e : least(255, average(255 * e, span));
            p->work->pixels[y * p->width + x] = (uint8_t)e;
        }
    }
    return most(most(p->height, p->width) <= 56 ? 8 : 48, least(127, 128 * noise / span));
}

/* Step 9: from the first to the last run of counts that is no speck. */
static struct range extent(const uint16_t *counts, int32_t length, int32_t threshold)
{
    struct range every = {0, 0}, heavy = {0, 0};
    int32_t total = 0, sum, start, i;
    for (i = 0; i < length; i++)
        total += counts[i] >= threshold ? counts[i] : 0;
    for (i = 0; i < length; i++) {
        start = i;
        for (sum = 0; i < length && counts[i] >= threshold; i++)
            sum += counts[i];
        if (i == start)
            continue;
        if (every.end == 0)
            every.start = start;
        every.end = i;
        if (32 * sum < total)
            continue;
        if (heavy.end == 0)
            heavy.start = start;
        heavy.end = i;
    }
    return heavy.end ? heavy : every;
}

static struct range inked_rows(const struct picture *p, struct range columns, int32_t ink)
{
    int32_t y, x;
    for (y = 0; y < p->height; y++) {
        p->work->counts[y] = 0;
        for (x = columns.start; x < columns.end; x++)
            p->work->counts[y] = (uint16_t)(p->work->counts[y] + (p->work->pixels[y * p->width + x] > ink));
    }
    return extent(p->work->counts, p->height, 1 + most(p->height, p->width) / 128);
}

static struct range inked_columns(const struct picture *p, struct range rows, int32_t ink)
{
    int32_t y, x;
    for (x = 0; x < p->width; x++) {
        p->work->counts[x] = 0;
        for (y = rows.start; y < rows.end; y++)
            p->work->counts[x] = (uint16_t)(p->work->counts[x] + (p->work->pixels[y * p->width + x] > ink));
    }
    return extent(p->work->counts, p->width, 1 + most(p->height, p->width) / 128);
}

/* Step 10, one axis: output `index` of `size` depends on these of `length` inputs. */
static struct range sources(int32_t index, int32_t size, int32_t length, int enlarge)
{
    struct range r;
    if (enlarge) {
        r.start = divide((2 * index + 1) * length - size, 2 * size);
        r.end = r.start + 2;
    } else {
        r.start = index * length / size;
        r.end = ((index + 1) * length + size - 1) / size;
    }
    return r;
}

/* The weight of input i in it; both weights of an input beyond the edge fall on the edge. */
static int32_t weight(int32_t i, int32_t index, int32_t size, int32_t length, int enlarge)
{
    if (enlarge)
        return 2 * size - distance((2 * index + 1) * length - size, 2 * size * i);
    return least((index + 1) * length, (i + 1) * size) - most(index * length, i * size);
}

/* Step 10: the box -> digit, size_y x size_x. Returns its largest value. */
static int32_t fit(const struct picture *p, struct range rows, struct range columns, int32_t size_y, int32_t size_x)
{
    const int32_t height = rows.end - rows.start, width = columns.end - columns.start;
    const int enlarge = most(height, width) < BOX;
    const int32_t total = enlarge ? 4 * size_y * size_x : height * width;
    int32_t largest = 0, i, j, y, x;
    for (i = 0; i < size_y; i++)
        for (j = 0; j < size_x; j++) {
            const struct range down = sources(i, size_y, height, enlarge), across = sources(j, size_x, width, enlarge);
            int32_t sum = 0;
            for (y = down.start; y < down.end; y++) {
                const uint8_t *row = p->work->pixels + (rows.start + clamp(y, 0, height - 1)) * p->width + columns.start;
                int32_t strip = 0;
                for (x = across.start; x < across.end; x++)
                    strip += row[clamp(x, 0, width - 1)] * weight(x, j, size_x, width, enlarge);
                sum += strip * weight(y, i, size_y, height, enlarge);
            }
            sum = average(sum, total);
            largest = most(largest, sum);
            p->work->digit[i * size_x + j] = (uint8_t)sum;
        }
    return largest;
}

/* Step 11. */
static int32_t corner(int32_t moment, int32_t total, int32_t size)
{
    return clamp(-divide(2 * moment - (SIZE - 1) * total, 2 * total), 0, SIZE - size);
}

static void centre(const uint8_t *digit, int32_t size_y, int32_t size_x, uint8_t *out)
{
    int32_t total = 0, down = 0, across = 0, top, left, y, x;
    for (y = 0; y < size_y; y++)
        for (x = 0; x < size_x; x++) {
            const int32_t value = digit[y * size_x + x];
            total += value;
            down += value * y;
            across += value * x;
        }
    top = corner(down, total, size_y);
    left = corner(across, total, size_x);
    for (y = 0; y < size_y; y++)
        for (x = 0; x < size_x; x++)
            out[(top + y) * SIZE + left + x] = digit[y * size_x + x];
}

/* Steps 9 to 11. */
static int cut_out(const struct picture *p, int32_t ink, uint8_t *out)
{
    const struct range whole = {0, p->width};
    struct range rows = inked_rows(p, whole, ink), columns;
    int32_t height, width, longer, largest, i;
    if (rows.end == 0)
        return TINYDIGITS_BLANK;
    columns = inked_columns(p, rows, ink);
    if (columns.end == 0)
        return TINYDIGITS_BLANK;
    rows = inked_rows(p, columns, ink);
    if (rows.end == 0)
        return TINYDIGITS_BLANK;
    height = rows.end - rows.start;
    width = columns.end - columns.start;
    longer = most(height, width);
    height = most(1, (2 * BOX * height + longer) / (2 * longer));
    width = most(1, (2 * BOX * width + longer) / (2 * longer));
    largest = fit(p, rows, columns, height, width);
    if (largest == 0)
        return TINYDIGITS_BLANK;
    for (i = 0; i < height * width && largest < NEARLY_FULL; i++)
        p->work->digit[i] = (uint8_t)average(255 * p->work->digit[i], largest);
    centre(p->work->digit, height, width, out);
    return TINYDIGITS_DONE;
}

int tinydigits_preprocess(const uint8_t *gray, int32_t width, int32_t height, void *work, uint8_t out[784])
{
    struct picture p = {(struct work *)work, gray, height, width, 0, 0, 0, 0};
    int32_t i, ink;
    if (width < 1 || height < 1 || width > TINYDIGITS_MAX_PIXELS / height)
        return TINYDIGITS_BAD_SIZE;
    for (i = 0; i < SIZE * SIZE; i++)
        out[i] = 0;
    reduce(&p);
    p.level = border_level(&p);
    if (p.level < 0)
        find_paper(&p);
    find_polarity(&p);
    ink = find_ink(&p);
    return ink < 0 ? TINYDIGITS_BLANK : cut_out(&p, ink, out);
}
